"""The methods that are timed on GPUs: papers' sizes, papers' teachers, random weights.

Latency does not depend on weights. Batch normalisation is scaled on real images, so that
activations are neither so small nor so large that FP16 would fail or excel by that alone. Parity
then says that a backend computes these networks; what it does to a trained one's verdicts, ``kdx
verify`` says.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kd_export.graph import FusedDetector
from kd_train.datasets import open_data
from kd_train.datasets.elpv_package import write_mvtec_layout
from kd_train.methods import find_method
from kd_train.models.pair import Pair
from kd_train.recipes import load_recipe, paper_recipe
from kdx import __version__
from kdx.bundle.bundle import Bundle, Golden
from kdx.bundle.manifest import GOLDEN_MAPS, GOLDEN_SCORES, GRAPH, SCHEMA, TRAINING_IMAGES, Manifest, Provenance
from kdx.bundle.open import open_bundle
from kdx.bundle.pair_spec import encode_pair_spec
from kdx.bundle.store import write_files, write_manifest
from kdx.bundle.variants import Variant
from kdx.errors import KdxError
from kdx.folders.data_folder import require_good
from kdx.imaging.images import InputSpec, encode_png, read_image
from kdx.storage.files import new_folder
from kdx.storage.json_records import now
from kdx.storage.npy import encode_array

SEED = 0
IMAGES = 8
LARGEST_BATCH = 32
_WEIGHTS = "random weights"


@dataclass(frozen=True)
class ReferenceModel:
    """A method: its FP32 reference on the CPU, real images with its answers, and its bundle."""

    method: str
    backbones: tuple[str, ...]
    detector: FusedDetector
    golden: Golden
    folder: Path

    def bundle(self) -> Bundle:
        """Return the bundle with graphs in FP32 and FP16, made now where it is not there yet."""
        if not self.folder.exists():
            write_bundle(self)
        return open_bundle(self.folder)

    def bundle_for_engine(self, batch: int) -> Bundle:
        """Return a bundle of its own for the engines of one batch size."""
        bundle = self.bundle()
        folder = self.folder.with_name(f"{self.method}-batch{batch}.kdx")
        if not folder.exists():
            shutil.copytree(bundle.path, folder)
        return Bundle(folder, bundle.manifest)


def make_model(method: str, files: Sequence[Path], work: Path, backbone: str = "", size: int = 0) -> ReferenceModel:
    """Build a method, with another teacher or another side in pixels than the paper's if given."""
    found = find_method(method)
    recipe = paper_recipe(found)
    if backbone or size:
        other = {"backbones": (backbone,) if backbone else None, "image_size": size or None}
        recipe = load_recipe(found, other)
    side = recipe.crop_from or recipe.image_size
    spec = InputSpec(height=side, width=side, channels=3)
    any_size = msgspec.structs.replace(spec, fixed_size=False)
    images = np.stack([read_image(file, any_size) for file in files])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        pair, _ = found.build(recipe.pair_options(found, ("random",)))
        set_statistics(pair, images)
    detector = FusedDetector(pair, pair.spec, spec, recipe.size, pair.mean, pair.std, recipe.resize_to)
    golden = with_reference_answers(detector, images)
    return ReferenceModel(method, tuple(recipe.backbones), detector, golden, work / f"{method}.kdx")


def set_statistics(pair: Pair, images: NDArray[np.uint8]) -> None:
    """Let batch normalisation scale real images' activations to a mean square of 1 in each layer.

    A full normalisation of random networks makes them chaotic, layer by layer: no two roundings
    would agree after it.
    """

    def measure(norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        nn.init.uniform_(norm.running_mean, -0.1, 0.1)
        norm.running_var.fill_(float(inputs[0].square().mean()))

    pair.eval()
    hooks = []
    for norm in pair.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.0)  # timm's zero at the end of a residual branch would leave it out
            nn.init.uniform_(norm.bias, -0.1, 0.1)
            hooks.append(norm.register_forward_pre_hook(measure))  # type: ignore[arg-type]
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (pair.mean, pair.std))
    with torch.no_grad():
        pair((x - mean) / std)
    for hook in hooks:
        hook.remove()


def with_reference_answers(detector: FusedDetector, images: NDArray[np.uint8]) -> Golden:
    """Return images with the reference's answers, one image at a time."""
    with torch.inference_mode():
        outputs = [detector(torch.from_numpy(image[None])) for image in images]
    maps, scores = (torch.cat([output[i] for output in outputs]).numpy() for i in (0, 1))
    return Golden([f"{index:03d}.png" for index in range(len(images))], images, maps, scores)


def write_bundle(model: ReferenceModel) -> None:
    """Write a method's graphs as a bundle, without verification: each candidate is compared later.

    Where the FP16 graph fails, the bundle holds the FP32 graph alone.
    """
    from kd_export.onnx.onnx_export import export_onnx, metadata_of

    detector, golden = model.detector, model.golden
    with new_folder(model.folder) as folder:
        metadata = metadata_of(
            detector, method=model.method, kdx_version=__version__, bundle_schema=SCHEMA, max_batch=LARGEST_BATCH
        )
        export_onnx(detector, folder / GRAPH, max_batch=LARGEST_BATCH, metadata=metadata)
        variants = _half(folder, model)
        images = {f"golden/{n}": encode_png(image) for n, image in zip(golden.names, golden.images, strict=True)}
        answers = {GOLDEN_MAPS: encode_array(golden.maps), GOLDEN_SCORES: encode_array(golden.scores)}
        write_files(folder, {**images, **answers, TRAINING_IMAGES: b"[]"})
        manifest = Manifest(
            schema=SCHEMA,
            kdx_version=__version__,
            method=model.method,
            pair_spec=encode_pair_spec(detector.spec),
            input=detector.input_spec,
            map_size=detector.size,
            field_of_view=detector.field_of_view,
            max_batch=LARGEST_BATCH,
            golden=golden.names,
            files={},
            provenance=_provenance(model),
            variants=variants,
        )
        write_manifest(folder, manifest)


def _half(folder: Path, model: ReferenceModel) -> dict[str, Variant]:
    try:
        from kd_export.precision.precision_graphs import write_half  # needs ONNX Runtime, of any kind

        return {"fp16": write_half(folder, model.detector.spec, model.golden.images)}
    except (ImportError, KdxError) as error:
        print(f"{model.method}: no FP16 graph: {error}", flush=True)
        return {}


def write_method_bundle(method: str, files: Sequence[Path], work: Path, backbone: str, size: int, threads: int) -> None:
    """Write a method's bundle in a process of its own."""
    torch.set_num_threads(threads)
    make_model(method, files, work, backbone, size).bundle()


def real_images(data: Path | None, work: Path) -> list[Path]:
    """Return the files of a few real images: of ``data``, or solar cells out of a package."""
    if data is None:
        data = work / "cells"
        if not data.exists():
            write_mvtec_layout(data, max_train=IMAGES, max_test=0)
    return list(require_good(open_data(data))[:IMAGES])


def _provenance(model: ReferenceModel) -> Provenance:
    return Provenance(
        created=now(),
        checkpoint_sha256="",
        epoch=0,
        backbone=", ".join(model.backbones),
        weights=_WEIGHTS,
        data_sha256="",
        trained_with={},
        exported_with={"torch": str(torch.__version__)},
    )
