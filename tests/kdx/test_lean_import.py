"""What is heavy is imported only where it is used, and what runs bundles runs without the training
packages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "torchvision", "timm", "onnxruntime", "onnx", "onnxscript", "pydantic", "sklearn", "kd_train")
# What `kdx --help` may load: the command line's own packages, what they bring, and what declares
# kdx's types.
FOR_HELP = {
    *("PIL", "kd_train", "kdx", "msgspec", "numpy", "rich", "typer", "typing_extensions"),
    *("annotated_doc", "attr", "click", "colorama", "markdown_it", "mdurl", "pydantic", "pygments", "shellingham"),
}
TRAINING = ("torch", "torchvision", "timm", "onnx", "onnxscript", "safetensors")


def python(code: str, *arguments: object) -> str:
    """Run code in a fresh interpreter and return what it printed last."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().rpartition("\n")[2]


def loaded_after(code: str, *arguments: object) -> list[str]:
    """Return which heavy packages a fresh interpreter holds after running code."""
    told = python(f"{code}\nimport sys; print('loaded', *(m for m in {HEAVY} if m in sys.modules))", *arguments)
    word, *names = told.split()
    assert word == "loaded"
    return names


def packages_after(code: str) -> set[str]:
    """Return the top-level packages outside the standard library that a fresh interpreter loads for
    code."""
    listed = (
        "import sys\nbefore = set(sys.modules)\n"
        f"{code}\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)\n"
        "print('loaded', *sorted(name for name in new if not name.startswith('_')))"
    )
    word, *names = python(listed).split()
    assert word == "loaded"
    return set(names)


def test_importing_kdx_loads_nothing_heavy():
    assert loaded_after("import kdx") == []


def test_the_probe_sees_what_is_loaded():
    assert loaded_after("import onnxruntime") == ["onnxruntime"]


def test_importing_kdx_loads_no_other_package():
    assert packages_after("import kdx") == {"kdx"}


def test_help_loads_only_what_a_command_line_needs():
    code = "sys.argv = ['kdx', '--help']\nfrom kdx.__main__ import main\ntry: main()\nexcept SystemExit: pass"
    assert packages_after(code) <= FOR_HELP


def test_help_loads_nothing_heavy():
    code = (
        "from kdx.cli.app import app\n"
        "for command in ([], ['train'], ['export'], ['predict'], ['demo']):\n"
        "    try: app([*command, '--help'])\n"
        "    except SystemExit as done: assert done.code == 0, command"
    )
    # Typer itself brings pydantic in from 0.29 on; kd_train declares the options of training.
    assert set(loaded_after(code)) <= {"pydantic", "kd_train"}


def test_every_public_name_can_be_had():
    assert python("import kdx; print(all(getattr(kdx, name) is not None for name in kdx.__all__))") == "True"


def test_an_unknown_name_is_an_attribute_error():
    import kdx

    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = kdx.nonsense


def test_a_detector_needs_no_torch(tiny_bundle, dataset):
    code = (
        "import sys, kdx\n"
        "detector = kdx.load(sys.argv[1], 'onnxruntime-cpu')\n"
        "assert detector(kdx.read_image(sys.argv[2], detector.input)).score > 0"
    )
    assert loaded_after(code, tiny_bundle, dataset / "test/good/012.png") == ["onnxruntime"]


def test_a_load_needs_nothing_of_gate_calibration_or_report(tiny_bundle):
    """They need SciPy's statistics, whose import takes longer than a load."""
    unneeded = (
        *("scipy", "matplotlib", "kd_export", "kd_train", "kdx.cli", "kdx.workflows", "kdx.decision.regions"),
        *(f"kdx.verification.{name}" for name in ("judge", "held_out", "certificate")),
        *(f"kdx.calibration.{name}" for name in ("threshold", "rates", "scored_images", "frame_limits", "level_fit")),
        *(f"kdx.monitoring.{name}" for name in ("prometheus", "verdict_log", "drift")),
    )
    code = "import sys, kdx\nkdx.load(sys.argv[1], backend='onnxruntime-cpu', threads=1).close()\n"
    listed = f"print('loaded', *(name for name in {unneeded} if name in sys.modules))"
    assert python(code + listed, tiny_bundle) == "loaded"


@pytest.mark.slow
def test_bundles_are_served_where_no_training_package_is_installed(bundle_copy, dataset, tmp_path):
    """Inspecting and judging load neither scikit-learn nor SciPy's statistics, whose imports take
    longer than they do."""
    commands = [
        ["inspect", bundle_copy],
        ["doctor"],
        ["predict", bundle_copy, dataset / "test/good"],
        ["verify", bundle_copy],
        ["bench", bundle_copy, "--runs", "20", "--batch", "1", "--warm-up", "1"],
        ["calibrate", bundle_copy, dataset, "--false-reject-rate", "0.3"],
        ["report", bundle_copy, dataset, "-o", tmp_path / "page.html", "--no-latency"],
    ]
    code = (
        "import importlib.util, json, sys\n"
        "real = importlib.util.find_spec\n"
        "class Missing:\n"
        "    def find_spec(self, name, *rest):\n"
        f"        if name.split('.')[0] in {TRAINING}: raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        f"importlib.util.find_spec = lambda name, *rest: None if name in {TRAINING} else real(name, *rest)\n"
        "from kdx.cli.app import app\n"
        "statuses = {}\n"
        "for arguments in json.loads(sys.argv[1]):\n"
        "    try: app(arguments)\n"
        "    except SystemExit as done: statuses[arguments[0]] = done.code\n"
        "    loaded = [name for name in ('scipy.stats', 'sklearn') if name in sys.modules]\n"
        "    assert arguments[0] in {'calibrate', 'report'} or not loaded, (arguments, loaded)\n"
        "print(json.dumps(statuses))"
    )
    statuses = json.loads(python(code, json.dumps(commands, default=str)))
    assert statuses == {command[0]: 0 for command in commands}


def test_the_base_install_holds_nothing_heavy():
    with (ROOT / "pyproject.toml").open("rb") as file:
        dependencies = " ".join(tomllib.load(file)["project"]["dependencies"])
    assert not [name for name in (*TRAINING, "onnxruntime", "pydantic") if name in dependencies]


def test_an_int8_engine_is_built_without_the_training_packages():
    """As on the line PC: onnx alone rewrites its graph."""
    code = "import kd_export.engine.build\nfrom kd_export.precision.activations import signed_activations"
    assert set(loaded_after(code)) == {"onnx"}
