"""A training run on disk: what was decided at its start, and its checkpoints.

``run.json`` is written once. ``last.json`` and ``best.json`` each name a file of tensors and its hash; the tensors are
written first under a name that holds their hash, and the JSON is replaced in one step, so a kill leaves the previous
checkpoint whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from kd_export.graph import PairSpec
from kd_train.recipes import Recipe
from kdx.errors import CheckpointError, DataError, OptionError
from kdx.files import new_folder, sha256_bytes, sha256_file, write_atomic
from kdx.images import ChannelOrder, InputSpec
from kdx.manifest import Provenance
from kdx.records import RUN_INDEX, R, encode_record, now, read_record

SCHEMA = 2


class RunConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided at the start of a run.

    Attributes:
        schema: Version of this layout.
        method: The method's name.
        weights: Where the teacher's weights came from, in words.
        pair_spec: The pair's declaration.
        recipe: The hyper-parameters.
        input: What the detector accepts, or the tiles that were cut from larger images.
        tile: Side of those tiles; None: whole images.
        frame: Height and width of those larger images; None for none, or for several sizes.
        mean: The teacher's input mean.
        std: Likewise.
        seed: Of everything random.
        data: The data folder as it was given.
        dataset: Which published data set it is, or None.
        category: Which of its categories, or None.
        train_images: Content hash by file name of the images trained on.
        validation_images: Likewise, held out.
        data_sha256: One hash over the training images.
        golden: Names of the images kept in ``golden/``.
        versions: Versions of the packages that trained.
        created: UTC time, ISO 8601.
    """

    schema: int
    method: str
    weights: str
    pair_spec: PairSpec
    recipe: Recipe
    input: InputSpec
    tile: int | None = None
    frame: tuple[int, int] | None = None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    seed: int
    data: str
    dataset: str | None = None
    category: str | None = None
    train_images: dict[str, str]
    validation_images: dict[str, str]
    data_sha256: str
    golden: list[str]
    versions: dict[str, str]
    created: str

    @property
    def backbone(self) -> str:
        """The teacher's networks in words."""
        return " and ".join(dict.fromkeys(self.recipe.backbones))


class EpochRecord(msgspec.Struct, frozen=True):
    """One epoch: losses (means over images) and seconds."""

    epoch: int
    train_loss: float
    validation_loss: float
    seconds: float


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``last.json`` or ``best.json``.

    Attributes:
        file: The file of tensors, the pair's by name; those of networks from timm keep timm's names.
        sha256: Its hash.
        optimiser: The file of the optimiser's state, or empty.
        optimiser_sha256: Its hash.
        epoch: Epochs completed.
        history: Every epoch so far.
        spec: The pair's declaration.
        recipe: The hyper-parameters.
        data_sha256: One hash over the training images.
        versions: Versions of the packages that trained.
    """

    file: str
    sha256: str
    optimiser: str
    optimiser_sha256: str
    epoch: int
    history: list[EpochRecord]
    spec: PairSpec
    recipe: Recipe
    data_sha256: str
    versions: dict[str, str]


class Run:
    """A run folder.

    Args:
        path: The folder; it holds ``run.json``.

    Raises:
        CheckpointError: It does not, or it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_dir():
            raise CheckpointError(f"there is no run folder '{path}'", fix="make one with kdx train")
        self.config = _read(path / RUN_INDEX, RunConfig, "kdx train", SCHEMA)

    @staticmethod
    def create(path: Path, config: RunConfig, golden: Mapping[str, bytes], *, force: bool) -> Run:
        """Begin a run: golden images and ``run.json`` appear together; ``force`` replaces an earlier run."""
        with new_folder(path, force=force) as folder:
            (folder / "golden").mkdir()
            for name, data in golden.items():
                (folder / "golden" / name).write_bytes(data)
            (folder / RUN_INDEX).write_bytes(encode_record(config))
        return Run(path)

    def checkpoint(self, which: str) -> Checkpoint:
        """Return the ``last`` or ``best`` checkpoint's record."""
        return _read(self.path / f"{which}.json", Checkpoint, "kdx train --resume")

    def tensors(self, checkpoint: Checkpoint) -> dict[str, Tensor]:
        """Read a checkpoint's tensors and check their hash."""
        return self._read(checkpoint.file, checkpoint.sha256)

    def optimiser_tensors(self, checkpoint: Checkpoint) -> dict[str, Tensor]:
        """Read the optimiser's state at a checkpoint and check its hash."""
        return self._read(checkpoint.optimiser, checkpoint.optimiser_sha256) if checkpoint.optimiser else {}

    def save(
        self, tensors: dict[str, Tensor], optimiser: dict[str, Tensor], history: list[EpochRecord], *, best: bool
    ) -> None:
        """Write the checkpoint of an epoch as ``last``, and as ``best`` if it is; then drop files nobody names."""
        epoch = history[-1].epoch
        model_bytes, optimiser_bytes = save_tensors(tensors), save_tensors(optimiser) if optimiser else b""
        model_hash, optimiser_hash = sha256_bytes(model_bytes), sha256_bytes(optimiser_bytes) if optimiser else ""
        record = Checkpoint(
            file=f"epoch-{epoch:05d}-{model_hash[:12]}.safetensors",
            sha256=model_hash,
            optimiser=f"epoch-{epoch:05d}-{optimiser_hash[:12]}.optimiser.safetensors" if optimiser else "",
            optimiser_sha256=optimiser_hash,
            epoch=epoch,
            history=history,
            spec=self.config.pair_spec,
            recipe=self.config.recipe,
            data_sha256=self.config.data_sha256,
            versions=self.config.versions,
        )
        write_atomic(self.path / record.file, model_bytes)
        if optimiser:
            write_atomic(self.path / record.optimiser, optimiser_bytes)
        # The best one first: killed in between, the epoch is trained again and found best again.
        if best:
            # Nobody resumes from the best one.
            plain = msgspec.structs.replace(record, optimiser="", optimiser_sha256="")
            write_atomic(self.path / "best.json", encode_record(plain))
        write_atomic(self.path / "last.json", encode_record(record))
        named = {record.file, record.optimiser, self.checkpoint("best").file}
        # What a kill left half written has a name that begins with a dot.
        for file in (*self.path.glob("epoch-*.safetensors"), *self.path.glob(".epoch-*")):
            if file.name not in named:
                file.unlink()

    def input_for(self, camera: tuple[int, int] | None, channel_order: ChannelOrder = "rgb") -> InputSpec:
        """Return the input for a camera's channel order and its height and width, or the run's own size for None."""
        spec = msgspec.structs.replace(self.config.input, channel_order=channel_order)
        if camera is None:
            return spec
        return msgspec.structs.replace(spec, height=camera[0], width=camera[1], fixed_size=True)

    def provenance(self, checkpoint: Checkpoint) -> Provenance:
        """Say in a bundle where a checkpoint comes from."""
        return Provenance(
            created=now(),
            checkpoint_sha256=checkpoint.sha256,
            epoch=checkpoint.epoch,
            backbone=self.config.backbone,
            weights=self.config.weights,
            data_sha256=self.config.data_sha256,
            trained_with=self.config.versions,
            exported_with=package_versions(),
        )

    def golden_files(self) -> list[Path]:
        """Return the golden images' paths.

        Raises:
            CheckpointError: ``run.json`` names a file outside the run.
        """
        outside = [name for name in self.config.golden if Path(name).name != name]
        if outside:
            raise CheckpointError(f"'{self.path}' names a file outside the run: '{outside[0]}'")
        return [self.path / "golden" / name for name in self.config.golden]

    def training_files(self, data: Path | None = None, most: int = 64) -> list[Path]:
        """Return some of the images trained on, spread over all of them and known by their content.

        Args:
            data: Where the data set is now; None for where it was at training.
            most: How many.

        Raises:
            DataError: The data set is not there, or holds none of them.
        """
        from kd_train.datasets import open_data

        folder = open_data(data or Path(self.config.data), self.config.category)
        trained = set(self.config.train_images.values())
        good = sorted(folder.good)
        step = max(1, len(good) // (2 * most))
        # Strides first, then what lies between, until there are enough.
        ordered = [path for start in range(step) for path in good[start::step]]
        found: list[Path] = []
        for path in ordered:
            if len(found) == most:
                break
            if sha256_file(path) in trained:
                found.append(path)
        if not found:
            raise DataError(
                f"'{data or self.config.data}' holds none of the images trained on",
                fix="name the training data with --calibration-data",
            )
        return found

    def _read(self, name: str, expected: str) -> dict[str, Tensor]:
        path = self.path / name
        if Path(name).name != name:
            raise CheckpointError(f"'{self.path}' names a file outside the run: '{name}'")
        if not path.is_file():
            raise CheckpointError(f"'{name}' is missing from '{self.path}'", fix="train again")
        data = path.read_bytes()
        received = sha256_bytes(data)
        if received != expected:
            raise CheckpointError(
                f"'{name}' in '{self.path}' was altered",
                expected=f"sha256 {expected}",
                received=f"sha256 {received}",
                fix="copy the run again, or train again",
            )
        try:
            return load_tensors(data)
        except SafetensorError as error:
            raise CheckpointError(f"'{path}' is not a safetensors file: {error}") from error


def package_versions() -> dict[str, str]:
    """Return the versions of what trains and exports."""
    found = {}
    for name in ("kdx", "torch", "timm", "onnx", "onnxscript", "onnxruntime", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def check_device(name: str) -> torch.device:
    """Return a device that exists.

    Raises:
        OptionError: Unknown, or not present on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise OptionError(
            f"the device '{name}' cannot be used: {str(error).splitlines()[0]}", expected="auto, cpu, cuda or cuda:N"
        ) from error
    return device


def _read(path: Path, kind: type[R], made_by: str, supported: int | None = None) -> R:
    """Read a JSON record of a run."""
    if not path.is_file():
        raise CheckpointError(f"'{path.name}' is missing from '{path.parent}'", fix=f"make it with {made_by}")
    return read_record(path, kind, error=CheckpointError, fix="train again", supported=supported)
