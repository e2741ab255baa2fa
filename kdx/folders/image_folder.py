"""What was found in a data folder, and what a user may say about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kdx.remarks import Remark

GOOD = "good"


@dataclass(frozen=True)
class FolderOptions:
    """What a user says about the folders that their images are in.

    Attributes:
        subfolders: Images in subfolders belong to the folder around them: of a folder of good images, all are good.
        good_folders: Names of the folders whose images are good, beside the usual ones (:mod:`kdx.folders.good_names`).
    """

    subfolders: bool = False
    good_folders: tuple[str, ...] = ()

    @property
    def are_given(self) -> bool:
        """Whether anything was said."""
        return self != FolderOptions()


@dataclass(frozen=True)
class TestImage:
    """An image to evaluate on.

    Attributes:
        path: The image file.
        defect_type: ``good``, or the name of its folder under ``test/``.
        mask: Its mask, or None where it has none.
    """

    __test__ = False  # not a test case, whatever pytest thinks of the name

    path: Path
    defect_type: str
    mask: Path | None

    @property
    def is_defective(self) -> bool:
        """Whether the image shows a defect."""
        return self.defect_type != GOOD


@dataclass(frozen=True)
class ImageFolder:
    """What was found in a data folder.

    Attributes:
        root: The folder.
        layout: ``mvtec``, ``plain``, or the key of the published data set in whose layout it is.
        good: Good images to train and calibrate on, sorted by name.
        test: Images to evaluate on (none in a plain folder).
        dataset: Key of the published data set (``kd_train.datasets``), or None for anything else.
        category: Which category of a data set that has several, or None.
        parts: Which part a good image shows, by file name, where the data set says so.
        unused_masks: Masks that belong to no test image.
        remarks: What was left out.
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
