"""The part that each image shows, from a regular expression on file names or from a table."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from kdx.errors import DataError, OptionError
from kdx.folders.data_folder import ImageFolder
from kdx.folders.image_search import is_image_name
from kdx.remarks import Remark, remark, shorten

_SEPARATORS = re.compile(r"[/\\]")
_DELIMITERS = (",", ";", "\t")


@dataclass(frozen=True)
class Line:
    """A line of a table of parts.

    Attributes:
        number: The line's number in the file, from 1.
        name: The image's name as the file writes it.
        part: The part that the image shows.
    """

    number: int
    name: str
    part: str

    @property
    def components(self) -> list[str]:
        """The components of the image's path from its end: the file name, then the folders."""
        return [word for word in reversed(_SEPARATORS.split(self.name)) if word not in ("", ".")]


@dataclass(frozen=True)
class Parts:
    """The part that each image shows.

    Attributes:
        by_image: The part of each image; an image without an entry is a part of its own.
        remarks: The remarks on lines of the table that name no image and on images without a line.
    """

    by_image: Mapping[Path, str] = field(default_factory=dict)
    remarks: tuple[Remark, ...] = ()


def parts_of(folder: ImageFolder, images: Sequence[Path], *, group_by: str | None, table: Path | None) -> Parts:
    """Return the part that each image shows.

    Args:
        folder: The data folder; a published data set may know its parts.
        images: The images to divide.
        group_by: A regular expression that is searched in each file's name. Images with the same
            match (of the first group, if the expression has one) show the same part.
        table: A CSV file of file names and parts.

    Raises:
        OptionError: Both were given, or the expression is invalid.
        DataError: A name has no match; or the table is invalid, matches nothing, or is ambiguous.
    """
    require_one_source(group_by, table)
    if group_by is not None:
        by_image = {path: _group(path, group_by) for path in images}
        return Parts(by_image, tuple(_without_effect(by_image, "`group_by`")))
    if table is not None:
        others = [image.path for image in folder.test]
        matched = match_parts(read_parts(table), images, others=others, table=table)
        by_image = dict(matched.by_image)
        return Parts(by_image, (*matched.remarks, *_without_effect(by_image, "`parts`"), *_alike(by_image)))
    return Parts({path: folder.parts[path.name] for path in images if path.name in folder.parts})


def require_one_source(group_by: str | None, table: Path | None) -> None:
    """Check that at most one of the two is given, and that the expression is valid.

    Raises:
        OptionError: Both were given, or the expression is invalid.
    """
    if group_by is not None and table is not None:
        raise OptionError("`group_by` and `parts` both define which images show one part", fix="give one of them")
    try:
        re.compile(group_by or "")
    except re.error as error:
        raise OptionError(f"`group_by` is not a regular expression: {error}", received=str(group_by)) from error


def _without_effect(parts: Mapping[Path, str], option: str) -> list[Remark]:
    if len(set(parts.values())) < len(parts):
        return []
    return remark(
        "parts_of_one_image", f"[image is|images are] each a part of their own, so {option} has no effect", parts
    )


def _alike(parts: Mapping[Path, str]) -> list[Remark]:
    """Name parts that count as different and may be one: ``001`` and ``1``, ``a`` and ``A``."""
    by_name: dict[str, set[str]] = {}
    for part in parts.values():
        by_name.setdefault(re.sub(r"(?<!\d)0+(?=\d)", "", _folded(part)), set()).add(part)
    names = [" and ".join(sorted(each)) for each in by_name.values() if len(each) > 1]
    return remark(
        "parts_alike",
        "[group|groups] of names of parts that differ only in case or leading zeros, and count as different",
        names,
    )


def _group(path: Path, group_by: str) -> str:
    match = re.search(group_by, path.name)
    group = match and (match[1] if match.re.groups else match[0])
    if not group:  # no match, or a match of the empty text
        raise DataError(
            f"'{path.name}' belongs to no group",
            expected=f"a name that matches {group_by!r}",
            received="no match" if match is None else "a match of no characters",
            fix="correct `group_by`",
        )
    return group


def read_parts(file: Path) -> list[Line]:
    """Read a table of two columns, file name and part, as text editors and spreadsheets write it.

    The columns are separated by commas, semicolons or tabs. The text is UTF-8, UTF-16 with a byte
    order mark, or Windows-1252.

    Raises:
        DataError: The file cannot be read, or a line does not have two columns.
    """
    try:
        text = _decode(file.read_bytes())
        rows = _rows(text)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"'{file}' cannot be read: {reason}", expected="a CSV file: file name, part") from error
    wrong = [(number, row) for number, row in rows if len(row) != 2 or not all(row)]
    if wrong or not rows:
        raise DataError(
            f"'{file}' is not a table of images and parts",
            expected="two columns, file name and part, e.g. 0001.png,part 17",
            received=f"line {wrong[0][0]}: {','.join(wrong[0][1])}" if wrong else "an empty file",
        )
    return [Line(number, *row) for number, row in rows]


def match_parts(
    lines: Sequence[Line], images: Sequence[Path], *, others: Iterable[Path] = (), table: Path | None = None
) -> Parts:
    """Match the lines of a table to images.

    The file name, after the last slash or backslash, is compared without regard to case. A name
    without a suffix, or with the suffix of another image format, matches too if nothing matches
    better. Of several images with that name, a line matches the one whose path agrees with the
    line's in most components from the end; of several lines, an image takes the one that agrees in
    most components.

    Args:
        lines: The lines of the table. A first line that looks like a heading and names no image is
            skipped.
        images: The images to divide.
        others: The images of the same folder that are not divided (its test images); lines may
            name them.
        table: The table's file, for messages.

    Raises:
        DataError: No line names an image; a line names several images equally well; or an image
            has two parts.
    """
    where = f"'{table}'" if table else "the table of parts"
    index = _ImageIndex(images, others)
    chosen: dict[Path, list[tuple[int, Line]]] = {}
    unmatched: list[Line] = []
    for line in lines:
        agreement, paths = index.best_matches(line)
        if len(paths) > 1:
            raise DataError(
                f"line {line.number} of {where} names {len(paths)} images",
                expected="enough of the path to distinguish them",
                received=f"{line.name}: {shorten(map(str, paths))}",
                fix=f"write the folder too, e.g. {paths[0].parent.name}/{paths[0].name}",
            )
        if paths:
            chosen.setdefault(paths[0], []).append((agreement, line))
        else:
            unmatched.append(line)
    if unmatched and unmatched[0] is lines[0] and not is_image_name(lines[0].name) and chosen:
        unmatched.pop(0)  # the heading
    by_image: dict[Path, str] = {}
    for path, candidates in chosen.items():
        best = max(agreement for agreement, _ in candidates)
        taken = [line for agreement, line in candidates if agreement == best]
        unmatched += [line for agreement, line in candidates if agreement < best]
        if len({line.part for line in taken}) > 1:
            raise DataError(
                f"{where} gives two parts to '{path}'",
                expected="one line for each image",
                received="; ".join(f"line {line.number}: {line.name}, {line.part}" for line in taken[:2]),
                fix="remove one of the lines, or write more of the path",
            )
        if index.is_divided(path):
            by_image[path] = taken[0].part
    if not by_image:
        raise DataError(
            f"no line of {where} names one of the {len(images)} images",
            expected=f"file names such as {images[0].name}" if images else "images",
            received=shorten([line.name for line in lines]),
            fix="write the images' file names into the first column",
        )
    unmatched.sort(key=lambda line: line.number)
    return Parts(
        by_image,
        (
            *remark(
                "parts_without_image",
                f"[line of {where} names|lines of {where} name] no image",
                [line.name for line in unmatched],
            ),
            *remark(
                "images_without_part",
                f"[image has|images have] no line in {where}, and each of them counts as a part of its own",
                [path for path in images if path not in by_image],
            ),
        ),
    )


class _ImageIndex:
    """Images by file name.

    Args:
        images: The images to divide.
        others: Further images that a line may name.
    """

    def __init__(self, images: Sequence[Path], others: Iterable[Path]) -> None:
        self._divided = frozenset(images)
        self._names: dict[str, list[Path]] = {}
        self._stems: dict[str, list[Path]] = {}
        for path in dict.fromkeys([*images, *others]):
            self._names.setdefault(_folded(path.name), []).append(path)
            self._stems.setdefault(_folded(path.stem), []).append(path)

    def is_divided(self, path: Path) -> bool:
        """Whether an image is to be divided."""
        return path in self._divided

    def best_matches(self, line: Line) -> tuple[int, list[Path]]:
        """Return the number of components that agree, from the file's name backwards."""
        words = line.components
        if not words:
            return 0, []
        name = _folded(words[0])
        stem = PurePath(name).stem if is_image_name(name) else name
        candidates = self._names.get(name) or self._stems.get(name) or self._stems.get(stem) or []
        agreements = {path: _agreement(words, path) for path in candidates}
        best = max(agreements.values(), default=0)
        paths = [path for path, agreement in agreements.items() if agreement == best]
        # Many data sets number images from 000 in every folder: a bare number means an image that
        # is divided.
        paths = [path for path in paths if path in self._divided] or paths
        exact = [path for path in paths if words[0] in (path.name, path.stem)]
        return best, exact if len(exact) == 1 else paths


def _agreement(words: Sequence[str], path: Path) -> int:
    """Return the number of components that agree from the end, including the file's name."""
    folders = zip(words[1:], reversed(path.absolute().parent.parts), strict=False)
    agreement = 1
    for written, there in folders:
        if _folded(written) != _folded(there):
            break
        agreement += 1
    return agreement


def _folded(name: str) -> str:
    """Return a name in which case, and the Unicode form of accents, make no difference."""
    return unicodedata.normalize("NFC", name).casefold()


def _decode(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252")  # the encoding of CSV files from spreadsheets on Windows


def _rows(text: str) -> list[tuple[int, list[str]]]:
    """Return each line that is not empty, with its number, split at the likeliest separator."""
    separator = re.match(r"sep=(.)\r?\n", text)  # a first line for spreadsheets, which do not show it
    if separator:
        return _split_columns(text, separator[1])[1:]
    by_delimiter = [_split_columns(text, delimiter) for delimiter in _DELIMITERS]
    # Parts ("1,5") and names may contain commas: the right separator leaves images' names in the
    # first column.
    return max(by_delimiter, key=lambda rows: [sum(len(r) == 2 for _, r in rows), sum(map(_names_image, rows))])


def _names_image(row: tuple[int, list[str]]) -> bool:
    return is_image_name(row[1][0])


def _split_columns(text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    rows = []
    for row in reader:
        cells = [cell.strip().strip("\ufeff") for cell in row]
        while len(cells) > 2 and not cells[-1]:  # columns that a spreadsheet left empty
            cells.pop()
        if any(cells):
            rows.append((reader.line_num, cells))
    return rows
