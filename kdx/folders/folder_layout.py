"""The layouts of a user's own folder: that of MVTec AD, or plain images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kdx.errors import DataError
from kdx.folders.apart import outputs_in, refuse_outputs
from kdx.folders.good_names import Named, by_name, is_bad, is_good
from kdx.folders.image_folder import GOOD, FolderOptions, ImageFolder, TestImage
from kdx.folders.image_search import (
    LeftOut,
    bare,
    checked_is_dir,
    entries,
    folders,
    holds_images,
    image_files,
    is_hidden,
    is_image_name,
    is_part,
    leads_up,
    own_kind,
    walk,
    walk_parts,
)
from kdx.folders.layout_errors import subfolders_with_images, unclear_which_are_good
from kdx.imaging.masks import masks_beside, pair_by_name


class FolderReader:
    """Reads one data folder.

    Args:
        root: The folder.
        options: What the user specified about its folders.

    Raises:
        DataError: The names of two of its folders differ only in case (``train`` and ``Train``).
    """

    def __init__(self, root: Path, options: FolderOptions) -> None:
        self.root = root
        self.own = Path(os.path.abspath(root))  # noqa: PTH100  # gives '.' a name, and does not follow links
        good = tuple(str(self._inside(name) or name) for name in options.good_folders)
        self.options = replace(options, good_folders=good)
        self.left_out = LeftOut()
        self.parts: dict[str, Path] = {}
        for folder in folders(root):
            name = bare(folder.name)
            if not is_part(name):
                continue
            if name in self.parts:
                raise DataError(
                    f"'{root}' holds two folders that could be '{name}'",
                    expected="one of them",
                    received=f"{self.parts[name].name}/ and {folder.name}/",
                    fix="move their images into one folder",
                )
            self.parts[name] = folder

    @property
    def is_mvtec(self) -> bool:
        """Whether the folder has a ``train`` or a ``test`` folder."""
        return "train" in self.parts or "test" in self.parts

    def mvtec(self) -> ImageFolder:
        """Read the layout of MVTec AD.

        Raises:
            DataError: A folder's name resembles a usual name for good images, a folder has
                subfolders with images, or no mask belongs to a test image.
        """
        good: list[Path] = []
        by_type: dict[str, list[Path]] = {}
        for folder, named in self._sorted("train"):
            if named is Named.GOOD:
                good += self._without_masks(self._images(folder))
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
        self._note_folders(self.root, beside=set(self.parts.values()))
        return ImageFolder(
            self.root, "mvtec", tuple(good), tuple(test), unused_masks=unused, remarks=tuple(self.left_out.remarks)
        )

    def plain(self) -> ImageFolder:
        """Read a folder of good images.

        Raises:
            DataError: It has subfolders with images, and it is unclear which of them are good; or
                its own name or place says that its images are defective.
        """
        inside = [folder for folder in folders(self.root) if holds_images(folder) and not leads_up(folder)]
        direct = image_files(self.root)
        # The folder itself may be the one that the user declared good.
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
            self._note_folders(self.root, beside=set(inside))
        else:
            refuse_outputs(self.root, outputs_in(self.root))
            raise unclear_which_are_good(self.root, inside, len(direct))
        good = self._without_masks(good)
        return ImageFolder(self.root, "plain", tuple(good), (), remarks=tuple(self.left_out.remarks))

    def defects(self) -> tuple[Path, ...]:
        """Return all images of a folder that holds only defective images, also in subfolders.

        Raises:
            DataError: The name of the folder, or of one in it, is or resembles one for good images.
        """
        images = list(walk_parts(self.root, self.left_out))
        named = [self.own.name, *sorted({part for name in images for part in name.split("/")[:-1]})]
        good = [name for name in named if by_name(name, self.options.good_folders) is not Named.OTHER]
        if good:
            raise DataError(
                f"'{self.root}' is not a folder of only defective images: the names of folders say otherwise",
                expected="test/DEFECT_TYPE with images, or a folder of only defective images",
                received=", ".join(f"{name}/" for name in good),
                fix="name the folder of the defective images; if these are defective, rename the folder",
            )
        return tuple(self.root / name for name in images)

    def _require_no_defects(self) -> None:
        """Raise ``DataError`` if the folder's name or place says that it holds defects."""
        name, around = self.own.name, self.own.parent
        is_type = (
            not is_good(name) and around.name.casefold() == "test" and any(is_good(f.name) for f in folders(around))
        )
        if name not in self.options.good_folders and (is_bad(name) or is_type):
            raise DataError(
                f"'{self.root}' holds defective images by its name" + ("" if is_bad(name) else " and place"),
                expected="a folder of good images",
                received=f"{name}/" if is_bad(name) else f"test/{name}/, beside a folder of good images",
                fix=f'name a folder of good images; if these are good, add "{name}" to `good_folders`',
            )

    def _sorted(self, part: str) -> list[tuple[Path, Named]]:
        """Return the folders of a part with what their names say; note what else the part holds."""
        if part not in self.parts:
            return []
        found = []
        for folder in folders(self.parts[part]):
            if own_kind(folder):
                if not self.options.subfolders:
                    refuse_outputs(self.parts[part], [folder])
                self.left_out.add("own_output", self._name(folder))
                continue
            if leads_up(folder) or not holds_images(folder):
                self.left_out.add("linked_folder" if leads_up(folder) else "empty_folder", self._name(folder))
                continue
            found.append((folder, by_name(folder.name, self.options.good_folders)))
        for path in image_files(self.parts[part]):
            self.left_out.add("unused_image", self._name(path))
        self._note_files(self.parts[part])
        unclear = [folder for folder, named in found if named is Named.UNCLEAR]
        if unclear:
            name = unclear[0].name
            raise DataError(
                f"'{unclear[0]}' resembles a usual name for a folder of good images, but is not one",
                expected="good, ok, pass, normal or another usual name (in any case) for good images",
                received=", ".join(folder.name for folder in unclear),
                fix=f'add "{name}" to `good_folders` if its images are good; otherwise rename it, or add another '
                "folder to `good_folders`: every other one is then a type of defect",
            )
        return found

    def _require_good_folders(self) -> None:
        """Raise ``DataError`` for a folder that the user declared good and that does not exist."""
        there = {
            folder.name for part in ("train", "test") if part in self.parts for folder in folders(self.parts[part])
        }
        missing = [name for name in self.options.good_folders if name not in there]
        if missing:
            raise DataError(
                f"there is no folder '{missing[0]}' under train or test of '{self.root}'",
                expected=", ".join(sorted(there)) or "folders of images",
                received=f'"{missing[0]}" in `good_folders`',
            )

    def _with_masks(self, by_type: dict[str, list[Path]]) -> tuple[list[TestImage], tuple[Path, ...]]:
        """Return the test images with their masks, and the masks that belong to no test image."""
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
        if truth:  # masks directly in it belong to no type of defect
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
        """Take the masks of a type: those in the folder of its name, ignoring case if needed."""
        if kind == GOOD:
            named = [name for name in masks if by_name(name, self.options.good_folders) is Named.GOOD]
        else:
            alike = [name for name in masks if name.casefold() == kind.casefold()]
            named = [kind] if kind in masks else alike if len(alike) == 1 else []
        return [path for name in named for path in masks.pop(name)]

    def _images(self, folder: Path) -> list[Path]:
        """Return the images of a folder, with those of its subfolders if the user asked for them.

        Raises:
            DataError: Subfolders hold images, and the user did not ask for them.
        """
        if self.options.subfolders:
            found = LeftOut()
            images = [folder / name for name in walk(folder, found)]
            self.left_out.add_all(found, "" if folder == self.root else f"{self._name(folder)}/")
            return images
        inside = []
        for each in folders(folder):
            if leads_up(each):
                self.left_out.add("linked_folder", self._name(each))
            elif holds_images(each):
                inside.append(each)
        refuse_outputs(folder, outputs_in(folder))
        if inside:
            raise subfolders_with_images(folder, inside, len(image_files(folder)))
        self._note_files(folder)
        return list(image_files(folder))

    def _without_masks(self, images: Sequence[Path]) -> list[Path]:
        """Return the images that are not masks beside others; count the masks."""
        by_folder: dict[Path, list[Path]] = {}
        for path in images:
            by_folder.setdefault(path.parent, []).append(path)
        masks = {mask for files in by_folder.values() for mask in masks_beside(files)}
        for path in images:
            if path in masks:
                self.left_out.add("mask", self._name(path))
        return [path for path in images if path not in masks]

    def _everything(self) -> list[Path]:
        """Return all images at any depth; raise ``DataError`` for a name that means defects."""
        images = self._images(self.root)
        bad = sorted({part for path in images for part in path.relative_to(self.root).parts[:-1] if is_bad(part)})
        if bad:
            raise DataError(
                f"the names of folders in '{self.root}' say that it holds defective images",
                expected="only folders of good images with `subfolders=True`",
                received=", ".join(f"{name}/" for name in bad),
                fix="name the folders of good images instead: `good_folders`",
            )
        return images

    def _inside(self, name: str) -> Path | None:
        """Return the path from the root to a folder that the user named; None for one elsewhere."""
        path = Path(os.path.normpath(self.own / name))
        return path.relative_to(self.own) if self.own in path.parents else None

    def _named(self, wanted: Sequence[str], direct: Sequence[Path]) -> list[Path]:
        """Return the images of the folders that the user declared good; all others are left out."""
        chosen = [self.root / name for name in wanted]
        missing = [name for name in wanted if self._inside(name) is None or not (self.root / name).is_dir()]
        if missing:
            raise DataError(
                f"there is no folder '{missing[0]}' in '{self.root}'",
                expected=", ".join(folder.name for folder in folders(self.root)) or "subfolders with images",
                received=f'"{missing[0]}" in `good_folders`',
            )
        images = [path for folder in chosen for path in self._images(folder)]
        for path in direct:
            self.left_out.add("unused_image", self._name(path))
        self._note_folders(self.root, beside={self.root / Path(name).parts[0] for name in wanted})
        return list(dict.fromkeys(images))

    def _note_folders(self, folder: Path, *, beside: set[Path]) -> None:
        """Note folders of images outside the layout, and files that are not images."""
        for other in folders(folder):
            if other in beside:
                continue
            for written in outputs_in(other, itself=True):
                self.left_out.add("own_output", self._name(written))
            if holds_images(other):
                self.left_out.add("unused_folder", self._name(other))
        self._note_files(folder)

    def _note_files(self, folder: Path) -> None:
        """Note the files directly in a folder that are not images."""
        for path in entries(folder):
            if is_hidden(path.name):
                self.left_out.add("hidden", self._name(path))
            elif not is_image_name(path.name) and not checked_is_dir(path):
                self.left_out.add("not_an_image", self._name(path))

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()
