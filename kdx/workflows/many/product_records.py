"""Records that ``kdx train-many`` keeps and reports."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from kdx.errors import KdxError, OutputError
from kdx.remarks import Remark
from kdx.storage.json_records import read_record
from kdx.workflows.many.catalog import Product

SCHEMA = 1
# The folders of results in an output folder.
RESULTS, TEACHERS = "results", "teachers"

R = TypeVar("R", bound=msgspec.Struct)


class ProductOrder(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Everything that a process needs to make the bundle of one product.

    Attributes:
        name: Name of the product.
        product: The table of the catalogue.
        out: The output folder, absolute.
        threads: Threads of training and of the backends.
    """

    name: str
    product: Product
    out: str
    threads: int

    @property
    def run(self) -> Path:
        """The training run."""
        return Path(self.out) / "runs" / self.name

    @property
    def result(self) -> Path:
        """File of the product's result."""
        return Path(self.out) / RESULTS / f"{self.name}.json"

    @property
    def staged(self) -> Path:
        """The bundle until it is verified."""
        return Path(self.out) / "staged" / f"{self.name}.kdx"

    @property
    def bundle(self) -> Path:
        """The bundle."""
        return Path(self.out) / f"{self.name}.kdx"


class ProductResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a product: shares from 0 to 1; None for what was not measured.

    Attributes:
        name: Name of the product.
        method: The method that it is trained with.
        state: ``trained`` now; ``unchanged`` since it was; ``begun`` and not finished; or
            ``failed``.
        fingerprint: Hash of its options in the catalogue and of its images.
        replaces: Hash of ``run.json`` of the earlier run that this product's own run replaces,
            until the product is finished; empty for none.
        backbone: The teacher's networks.
        epochs: Epochs trained.
        train_images: Images trained on.
        held_out_images: Images held out for the threshold.
        image_auroc: Image AUROC on the labelled test images.
        pixel_auroc: Pixel AUROC on the same images; None without masks.
        asked_false_reject_rate: The rate for which the threshold was calibrated.
        false_reject_rate: Share of the good test images that are rejected.
        detection_rate: Share of the defective test images that are rejected.
        threshold: The threshold of FP32.
        refused: Why other precisions are not in the bundle, or have no threshold.
        remarks: What was left out or could not be used.
        checkpoint_sha256: Hash of the trained student in the bundle.
        seconds: Duration until the bundle, or the failure, in the last call that worked on it.
        error: Type, message, expected, received and fix of a failure.
    """

    name: str
    method: str
    state: Literal["trained", "unchanged", "begun", "failed"]
    fingerprint: str = ""
    replaces: str = ""
    backbone: str = ""
    epochs: int | None = None
    train_images: int | None = None
    held_out_images: int | None = None
    image_auroc: float | None = None
    pixel_auroc: float | None = None
    asked_false_reject_rate: float | None = None
    false_reject_rate: float | None = None
    detection_rate: float | None = None
    threshold: float | None = None
    refused: dict[str, str] = {}
    remarks: list[Remark] = []
    checkpoint_sha256: str = ""
    seconds: float = 0.0
    error: dict[str, str] | None = None


class TeacherOrder(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Everything that a process needs to make the teacher that products share.

    Attributes:
        name: Name of the teacher.
        products: The tables of the products that share it, by name.
        settings: What decides the teacher beside images: the keys in which the products agree.
        out: The output folder, absolute.
        threads: Threads of training.
    """

    name: str
    products: dict[str, Product]
    settings: dict[str, Any]
    out: str
    threads: int

    @property
    def run(self) -> Path:
        """The run folder in which the teacher learns, and from which students take it."""
        return Path(self.out) / TEACHERS / self.name

    @property
    def result(self) -> Path:
        """File of the teacher's result."""
        return Path(self.out) / TEACHERS / f"{self.name}.json"


class TeacherResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a shared teacher.

    Attributes:
        name: Name of the teacher.
        state: As in :class:`ProductResult`; an ``unchanged`` teacher may serve products from whose
            images it did not learn.
        fingerprint: Hash of its settings and of its images.
        replaces: As in :class:`ProductResult`.
        settings: What decided the teacher beside images, by the catalogue's keys.
        weights: A text that says which networks it learnt from, and where their weights came from.
        products: The number of images from which it learnt, for each product.
        held_out_images: Images that were held out from it.
        teacher_sha256: Hash of its tensors.
        remarks: What was left out or could not be used.
        seconds: Duration of the last call that worked on it.
        error: Type, message, expected, received and fix of a failure.
    """

    name: str
    state: Literal["trained", "unchanged", "begun", "failed"]
    fingerprint: str = ""
    replaces: str = ""
    settings: dict[str, Any] = {}
    weights: str = ""
    products: dict[str, int] = {}
    held_out_images: int = 0
    teacher_sha256: str = ""
    remarks: list[Remark] = []
    seconds: float = 0.0
    error: dict[str, str] | None = None


class CatalogSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``summary.json``.

    Attributes:
        schema: Version of this layout.
        catalog: The catalogue.
        engine: ``local`` or ``ray``.
        trained: Products trained by this call.
        unchanged: Products that were finished already.
        failed: Products that failed.
        seconds: Duration of the call.
        created: UTC time, ISO 8601.
        products: Every product, in the catalogue's order.
        teachers: Every teacher that products share.
    """

    schema: int
    catalog: str
    engine: str
    trained: int
    unchanged: int
    failed: int
    seconds: float
    created: str
    products: list[ProductResult]
    teachers: list[TeacherResult] = []


def read_kept(path: Path, kind: type[R]) -> R | None:
    """Return the record that an earlier call kept; None without one, or if it is not readable."""
    with contextlib.suppress(OSError, KdxError):
        return read_record(path, kind, error=OutputError, fix="")
    return None
