"""The two layouts of a user's own folder: MVTec AD's (``train``, ``test``, ``ground_truth``), and plain images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from kdx.errors import DataError
from kdx.folders.good_names import Named, by_name, is_bad, is_good
from kdx.folders.image_folder import GOOD, FolderOptions, ImageFolder, TestImage
from kdx.folders.image_search import (
    LeftOut,
    entries,
    folders,
    holds_images,
    image_files,
    is_hidden,
    is_image_name,
    listing,
    walk,
)
from kdx.imaging.masks import masks_beside, pair_by_name

_PARTS = ("train", "test", "groundtruth")


class FolderReader:
    """Reads one data folder.

    Args:
        root: The folder.
        options: What the user says about the folders in it.

    Raises:
        DataError: Two of its folders have names that differ only in case (``train`` and ``Train``).
    """

    def __init__(self, root: Path, options: FolderOptions) -> None:
        self.root = root
        self.own = Path(os.path.abspath(root))  # noqa: PTH100  # '.' has a name, a link keeps its own
        self.options = options
        self.left_out = LeftOut()
        self.parts: dict[str, Path] = {}
        for folder in folders(root):
            name = "".join(filter(str.isalnum, folder.name.casefold()))
            if name not in _PARTS:
                continue
            if name in self.parts:
                raise DataError(
                    f"'{root}' holds two folders that could be '{name}'",
                    expected="one of them",
                    received=f"{self.parts[name].name}/ and {folder.name}/",
                    fix="bring their images into one folder",
                )
            self.parts[name] = folder

    @property
    def is_mvtec(self) -> bool:
        """Whether the folder has a ``train`` or a ``test`` folder."""
        return "train" in self.parts or "test" in self.parts

    def mvtec(self) -> ImageFolder:
        """Read the layout of MVTec AD.

        Raises:
            DataError: A folder looks good by its name and is none of the usual ones, or images lie in its subfolders;
                or masks belong to nothing.
        """
        good: list[Path] = []
        by_type: dict[str, list[Path]] = {}
        for folder, named in self._sorted("train"):
            if named is Named.GOOD:
                good += self._images(folder)
            else:
                self.left_out.add("unused_folder", self._name(folder))
        for folder, named in self._sorted("test"):
            images = self._images(folder)
            kind = GOOD if named is Named.GOOD else folder.name
            by_type.setdefault(kind, []).extend(images)
        self._require_good_folders()
        test, unused = self._with_masks(by_type)
        for path in image_files(self.root):
            self.left_out.add("unused_image", self._name(path))
        self._pass_over(self.root, beside=set(self.parts.values()))
        return ImageFolder(
            self.root, "mvtec", tuple(good), tuple(test), unused_masks=unused, remarks=tuple(self.left_out.remarks)
        )

    def plain(self) -> ImageFolder:
        """Read a folder of good images.

        Raises:
            DataError: It has subfolders with images, and nothing says which of them are good; or its own name or place
                says that its images are defective.
        """
        inside = [folder for folder in folders(self.root) if holds_images(folder)]
        direct = image_files(self.root)
        # The folder itself may be the one that the user calls good.
        wanted = [name for name in self.options.good_folders if name != self.own.name or (self.root / name).is_dir()]
        if not wanted and (direct or self.options.subfolders):
            self._require_no_defects()
        if wanted:
            good = self._named(wanted, direct)
        elif self.options.subfolders:
            good = self._everything()
        elif not inside:
            good = self._images(self.root)
        elif len(inside) == 1 and not direct and is_good(inside[0].name):
            good = self._images(inside[0])
            self._note_files(self.root)
        else:
            raise _which_are_good(self.root, inside, len(direct))
        return ImageFolder(self.root, "plain", tuple(good), (), remarks=tuple(self.left_out.remarks))

    def defects(self) -> tuple[Path, ...]:
        """Return all images of a folder that holds nothing but defective ones, in subfolders by type or not.

        Raises:
            DataError: The folder's own name, or that of one in it, says that its images are good, or looks like it.
        """
        images = list(walk(self.root, self.left_out))
        named = [self.own.name, *sorted({part for name in images for part in name.split("/")[:-1]})]
        good = [name for name in named if by_name(name, self.options.good_folders) is not Named.OTHER]
        if good:
            raise DataError(
                f"'{self.root}' is not a folder of nothing but defective images, by the names of folders",
                expected="test/DEFECT_TYPE with images, or a folder of nothing but defective images",
                received=", ".join(f"{name}/" for name in good),
                fix="name the folder of the defective images; if these are defective, rename the folder",
            )
        return tuple(self.root / name for name in images)

    def _require_no_defects(self) -> None:
        """Raise ``DataError`` where the folder's name, or its place beside test/good, says that it holds defects."""
        name, around = self.own.name, self.own.parent
        is_type = (
            not is_good(name) and around.name.casefold() == "test" and any(is_good(f.name) for f in folders(around))
        )
        if name not in self.options.good_folders and (is_bad(name) or is_type):
            raise DataError(
                f"'{self.root}' holds defective images by its name" + ("" if is_bad(name) else " and place"),
                expected="a folder of good images",
                received=f"{name}/" if is_bad(name) else f"test/{name}/, which lies beside a folder of good images",
                fix=f'name a folder of good images; if these are good, add --good-folder "{name}"',
            )

    def _sorted(self, part: str) -> list[tuple[Path, Named]]:
        """Return the folders of a part with what their names say; note what else is in it."""
        if part not in self.parts:
            return []
        found = []
        for folder in folders(self.parts[part]):
            if not holds_images(folder):
                self.left_out.add("empty_folder", self._name(folder))
                continue
            found.append((folder, by_name(folder.name, self.options.good_folders)))
        for path in image_files(self.parts[part]):
            self.left_out.add("unused_image", self._name(path))
        self._note_files(self.parts[part])
        unclear = [folder for folder, named in found if named is Named.UNCLEAR]
        if unclear:
            name = unclear[0].name
            raise DataError(
                f"'{unclear[0]}' looks like a folder of good images by its name, but is none of the usual ones",
                expected="good, ok, pass, normal or another usual name (in any case) for good images",
                received=", ".join(folder.name for folder in unclear),
                fix=f'add --good-folder "{name}" if its images are good; if they are not, rename it, or name another '
                "folder with --good-folder: every other one is then a type of defect",
            )
        return found

    def _require_good_folders(self) -> None:
        """Raise ``DataError`` for a name of ``--good-folder`` that is nowhere."""
        there = {
            folder.name for part in ("train", "test") if part in self.parts for folder in folders(self.parts[part])
        }
        missing = [name for name in self.options.good_folders if name not in there]
        if missing:
            raise DataError(
                f"there is no folder '{missing[0]}' under train or test of '{self.root}'",
                expected=", ".join(sorted(there)) or "folders of images",
                received=f"--good-folder {missing[0]}",
            )

    def _with_masks(self, by_type: dict[str, list[Path]]) -> tuple[list[TestImage], tuple[Path, ...]]:
        """Return the test images with their masks, and the masks that belong to none."""
        truth = self.parts.get("groundtruth")
        masks = {folder.name: self._images(folder) for folder in folders(truth)} if truth else {}
        test: list[TestImage] = []
        unused: list[Path] = []
        for kind, files in by_type.items():
            beside = masks_beside(files)
            images = [path for path in files if path not in beside]
            paired = pair_by_name(images, [*self._masks_of(kind, masks), *beside])
            test += [TestImage(path, kind, mask) for path, mask in paired.masks.items()]
            unused += paired.unused
        unused += [path for paths in masks.values() for path in paths]
        if truth:  # what lies directly in it is of no type of defect
            unused += image_files(truth)
            self._note_files(truth)
        if unused and any(image.is_defective for image in test) and not any(image.mask for image in test):
            raise DataError(
                f"none of the masks in '{self.parts.get('groundtruth', self.root)}' belongs to a test image",
                expected="ground_truth/DEFECT_TYPE/NAME.png or NAME_mask.png for test/DEFECT_TYPE/NAME.png",
                received=f"{len(unused)} masks, for example '{unused[0]}'",
                fix="name masks like their images, or remove all of them to evaluate image scores only",
            )
        return test, tuple(unused)

    def _masks_of(self, kind: str, masks: dict[str, list[Path]]) -> list[Path]:
        """Take a type's masks: of the folder of its name, or else of the only one whose name differs in case."""
        if kind == GOOD:
            named = [name for name in masks if by_name(name, self.options.good_folders) is Named.GOOD]
        else:
            alike = [name for name in masks if name.casefold() == kind.casefold()]
            named = [kind] if kind in masks else alike if len(alike) == 1 else []
        return [path for name in named for path in masks.pop(name)]

    def _images(self, folder: Path) -> list[Path]:
        """Return the images of a folder, with those of its subfolders where the user asked for them.

        Raises:
            DataError: There are images in subfolders, and the user did not.
        """
        if self.options.subfolders:
            found = LeftOut()
            images = [folder / name for name in walk(folder, found)]
            self.left_out.add_all(found, "" if folder == self.root else f"{self._name(folder)}/")
            return images
        inside = [each for each in folders(folder) if holds_images(each)]
        if inside:
            raise DataError(
                f"'{folder}' has subfolders with images",
                expected="images directly in it",
                received=_counted(inside, len(image_files(folder))),
                fix=("" if _are_links(inside) else "add --subfolders to take all of them as one folder, or ")
                + "name the folder that holds the images",
            )
        self._note_files(folder)
        return list(image_files(folder))

    def _everything(self) -> list[Path]:
        """Return all images at any depth; refuse names that can only mean defective ones."""
        images = self._images(self.root)
        bad = sorted({part for path in images for part in path.relative_to(self.root).parts[:-1] if is_bad(part)})
        if bad:
            raise DataError(
                f"'{self.root}' holds defective images by the names of its folders",
                expected="folders of nothing but good images with --subfolders",
                received=", ".join(f"{name}/" for name in bad),
                fix="give the folders of good images instead: --good-folder NAME",
            )
        return images

    def _named(self, wanted: Sequence[str], direct: Sequence[Path]) -> list[Path]:
        """Return the images of the folders that the user calls good; everything else is left out."""
        chosen = [self.root / name for name in wanted]
        missing = [name for name, folder in zip(wanted, chosen, strict=True) if not folder.is_dir()]
        if missing:
            raise DataError(
                f"there is no folder '{missing[0]}' in '{self.root}'",
                expected=", ".join(folder.name for folder in folders(self.root)) or "subfolders with images",
                received=f"--good-folder {missing[0]}",
            )
        images = [path for folder in chosen for path in self._images(folder)]
        for path in direct:
            self.left_out.add("unused_image", self._name(path))
        self._pass_over(self.root, beside={self.root / Path(name).parts[0] for name in wanted})
        return list(dict.fromkeys(images))

    def _pass_over(self, folder: Path, *, beside: set[Path]) -> None:
        """Note the folders of images that are not part of the layout, and files that are no images."""
        for other in folders(folder):
            if other not in beside and holds_images(other):
                self.left_out.add("unused_folder", self._name(other))
        self._note_files(folder)

    def _note_files(self, folder: Path) -> None:
        """Note what is directly in a folder and is neither an image nor a folder."""
        for path in entries(folder):
            if is_hidden(path.name):
                self.left_out.add("hidden", self._name(path))
            elif not is_image_name(path.name) and not path.is_dir():
                self.left_out.add("not_an_image", self._name(path))

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def nothing_found(root: Path, looked_for: Sequence[str]) -> DataError:
    """Return the error for a folder without images in any layout."""
    own = "train/good/*.png (and test/good, test/DEFECT_TYPE), or good images directly in the folder"
    return DataError(
        f"no images were found in '{root}'",
        expected="; or ".join([own, *looked_for]),
        received=listing(root),
        fix="name the folder that holds the images, or bring them into one of these layouts",
    )


def _counted(inside: Sequence[Path], direct: int) -> str:
    links = {folder for folder in inside if folder.is_symlink()}
    counts = [
        f"{folder.name}/ ({sum(1 for _ in walk(folder))} images"
        + (", a symbolic link, which --subfolders does not follow)" if folder in links else ")")
        for folder in inside[:8]
    ]
    more = [f"{len(inside) - 8} more folders"] if len(inside) > 8 else []
    return ", ".join([*counts, *more, *([f"{direct} images beside them"] if direct else [])])


def _which_are_good(root: Path, inside: Sequence[Path], direct: int) -> DataError:
    good = next((folder.name for folder in inside if is_good(folder.name)), "NAME")
    return DataError(
        f"'{root}' has subfolders with images, and nothing says which of them are good",
        expected="good images directly in the folder; or train/good (and test/good, test/DEFECT_TYPE)",
        received=_counted(inside, direct),
        fix=f"add --good-folder {good} for each folder of good images"
        + ("" if _are_links(inside) else ", or --subfolders if all of them are good"),
    )


def _are_links(inside: Sequence[Path]) -> bool:
    """Whether all folders are symbolic links, so that nothing is found in them with ``--subfolders``."""
    return all(folder.is_symlink() for folder in inside)
