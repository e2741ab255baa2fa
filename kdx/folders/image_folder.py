"""The images of a data folder, and what a user may specify about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kdx.remarks import Remark

GOOD = "good"


@dataclass(frozen=True)
class FolderOptions:
    """What a user specifies about the folders of their images.

    Attributes:
        subfolders: Whether images in subfolders belong to the folder around them.
        good_folders: The names of folders of good images, in addition to the usual ones
            (:mod:`kdx.folders.good_names`).
    """

    subfolders: bool = False
    good_folders: tuple[str, ...] = ()

    @property
    def are_given(self) -> bool:
        """Whether the user specified anything."""
        return self != FolderOptions()


@dataclass(frozen=True)
class TestImage:
    """An image for evaluation.

    Attributes:
        path: The image file.
        defect_type: ``good``, or the name of its folder under ``test/``.
        mask: The mask of the image, or None without one.
    """

    __test__ = False  # pytest would take the class for a test case by its name

    path: Path
    defect_type: str
    mask: Path | None

    @property
    def is_defective(self) -> bool:
        """Whether the image shows a defect."""
        return self.defect_type != GOOD


@dataclass(frozen=True)
class ImageFolder:
    """The images of a data folder.

    Attributes:
        root: The folder.
        layout: ``mvtec``, ``plain``, or the key of the published data set that has this layout.
        good: The good images for training and calibration, sorted by name.
        test: The images for evaluation (none in a plain folder).
        dataset: The key of the published data set (``kd_train.datasets``), or None for another
            folder.
        category: The category, if the data set has several, else None.
        parts: The part that a good image shows, by file name, if the data set tells it.
        unused_masks: The masks that belong to no test image.
        remarks: Remarks on files that were left out.
    """

    root: Path
    layout: str
    good: tuple[Path, ...]
    test: tuple[TestImage, ...]
    dataset: str | None = None
    category: str | None = None
    parts: Mapping[str, str] = field(default_factory=dict)
    unused_masks: tuple[Path, ...] = ()
    remarks: tuple[Remark, ...] = ()
