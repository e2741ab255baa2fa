"""Which images show the same part: a regular expression on their names, or a table of file names and parts."""

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
        number: Its number in the file, from 1.
        name: The image as it is written there.
        part: The part that the image shows.
    """

    number: int
    name: str
    part: str

    @property
    def components(self) -> list[str]:
        """The image's path from its end: file name, folder, folder of that."""
        return [word for word in reversed(_SEPARATORS.split(self.name)) if word not in ("", ".")]


@dataclass(frozen=True)
class Parts:
    """Which part each image shows.

    Attributes:
        of: The part by image; an image that is not there is a part of its own.
        remarks: Lines of the table that name no image, and images without a line.
    """

    of: Mapping[Path, str] = field(default_factory=dict)
    remarks: tuple[Remark, ...] = ()


def parts_of(folder: ImageFolder, images: Sequence[Path], *, group_by: str | None, table: Path | None) -> Parts:
    """Say which part each image shows.

    Args:
        folder: The data folder, which may know its parts itself.
        images: The images to divide.
        group_by: Regular expression searched in each file's name; images with the same match (of its first group, if it
            has one) show the same part.
        table: CSV file of file names and parts.

    Raises:
        OptionError: Both were given, or the expression is invalid.
        DataError: A name without a match; or a table that is invalid, matches nothing, or is ambiguous.
    """
    require_one_source(group_by, table)
    if group_by is not None:
        found = {path: _group(path, group_by) for path in images}
        return Parts(found, tuple(_without_effect(found, "--group-by")))
    if table is not None:
        others = [image.path for image in folder.test]
        matched = match_parts(read_parts(table), images, others=others, table=table)
        return Parts(matched.of, (*matched.remarks, *_without_effect(matched.of, "--parts"), *_alike(matched.of)))
    return Parts({path: folder.parts[path.name] for path in images if path.name in folder.parts})


def require_one_source(group_by: str | None, table: Path | None) -> None:
    """Raise ``OptionError`` where both say which images show one part, or the expression is invalid."""
    if group_by is not None and table is not None:
        raise OptionError("--group-by and --parts both say which images show one part", fix="give one of them")
    try:
        re.compile(group_by or "")
    except re.error as error:
        raise OptionError(f"--group-by is not a regular expression: {error}", received=str(group_by)) from error


def _without_effect(parts: Mapping[Path, str], option: str) -> list[Remark]:
    if len(set(parts.values())) < len(parts):
        return []
    return remark("parts_of_one_image", f"images are each a part of their own, so {option} changes nothing", parts)


def _alike(parts: Mapping[Path, str]) -> list[Remark]:
    """Name parts that count as different and may be one: ``001`` and ``1``, ``a`` and ``A``."""
    by_name: dict[str, set[str]] = {}
    for part in parts.values():
        by_name.setdefault(re.sub(r"(?<!\d)0+(?=\d)", "", _folded(part)), set()).add(part)
    names = [" and ".join(sorted(each)) for each in by_name.values() if len(each) > 1]
    return remark("parts_alike", "names of parts differ only in case or leading zeros, and count as different", names)


def _group(path: Path, group_by: str) -> str:
    match = re.search(group_by, path.name)
    found = match and (match[1] if match.re.groups else match[0])
    if not found:  # an expression that matches nothing, or the empty text, says nothing about this image
        raise DataError(
            f"'{path.name}' belongs to no group",
            expected=f"a name that matches {group_by!r}",
            received="no match" if match is None else "a match of no characters",
            fix="correct --group-by",
        )
    return found


def read_parts(file: Path) -> list[Line]:
    """Read a table of two columns, file name and part, as text editors and spreadsheets write it.

    Columns are separated by commas, semicolons or tabs; text is UTF-8, UTF-16 with a byte order mark, or Windows-1252.

    Raises:
        DataError: It cannot be read, or a line does not have two columns.
    """
    try:
        text = _decode(file.read_bytes())
        rows = _rows(text)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"'{file}' cannot be read: {error}", expected="a CSV file: file name, part") from error
    wrong = [(number, row) for number, row in rows if len(row) != 2 or not all(row)]
    if wrong or not rows:
        raise DataError(
            f"'{file}' does not say which part each image shows",
            expected="two columns, file name and part, e.g. 0001.png,part 17",
            received=f"line {wrong[0][0]}: {','.join(wrong[0][1])}" if wrong else "an empty file",
        )
    return [Line(number, *row) for number, row in rows]


def match_parts(
    lines: Sequence[Line], images: Sequence[Path], *, others: Iterable[Path] = (), table: Path | None = None
) -> Parts:
    """Find the image that each line names.

    Names are compared after the last slash or backslash, without regard to case; a name without the image's suffix, or
    with that of another image format, names it too where nothing fits better. Of several images of that name, a line
    names the one with which the end of its path agrees furthest; of several lines, an image takes the one that agrees
    furthest.

    Args:
        lines: Of the table. A first line that looks like a heading and names no image is one.
        images: The images to divide.
        others: Images of the same folder that are not to be divided (its test images); a line may name them.
        table: The table's file, for messages.

    Raises:
        DataError: No line names an image; or a line names several images equally well; or an image is given two parts.
    """
    where = f"'{table}'" if table else "the table of parts"
    named = _Named(images, others)
    chosen: dict[Path, list[tuple[int, Line]]] = {}
    unmatched: list[Line] = []
    for line in lines:
        agreement, paths = named.by(line)
        if len(paths) > 1:
            raise DataError(
                f"line {line.number} of {where} names {len(paths)} images",
                expected="as much of the path as it takes to distinguish them",
                received=f"{line.name}: {shorten(map(str, paths))}",
                fix=f"write the folder too, e.g. {paths[0].parent.name}/{paths[0].name}",
            )
        if paths:
            chosen.setdefault(paths[0], []).append((agreement, line))
        else:
            unmatched.append(line)
    if unmatched and unmatched[0] is lines[0] and not is_image_name(lines[0].name) and chosen:
        unmatched.pop(0)  # the heading
    found: dict[Path, str] = {}
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
        if named.is_divided(path):
            found[path] = taken[0].part
    if not found:
        raise DataError(
            f"no line of {where} names one of the {len(images)} images",
            expected=f"file names such as {images[0].name}" if images else "images",
            received=shorten([line.name for line in lines]),
            fix="write the images' file names into the first column",
        )
    unmatched.sort(key=lambda line: line.number)
    return Parts(
        found,
        (
            *remark("parts_without_image", f"lines of {where} name no image", [line.name for line in unmatched]),
            *remark(
                "images_without_part",
                f"images have no line in {where}, and each of them counts as a part of its own",
                [path for path in images if path not in found],
            ),
        ),
    )


class _Named:
    """Images by name.

    Args:
        images: Those to divide.
        others: Further ones that a line may mean.
    """

    def __init__(self, images: Sequence[Path], others: Iterable[Path]) -> None:
        self._divided = frozenset(images)
        self._names: dict[str, list[Path]] = {}
        self._stems: dict[str, list[Path]] = {}
        for path in dict.fromkeys([*images, *others]):
            self._names.setdefault(_folded(path.name), []).append(path)
            self._stems.setdefault(_folded(path.stem), []).append(path)

    def is_divided(self, path: Path) -> bool:
        """Whether an image is one of those to divide."""
        return path in self._divided

    def by(self, line: Line) -> tuple[int, list[Path]]:
        """Return how many components of its path a line agrees in, and the images with which it does."""
        words = line.components
        if not words:
            return 0, []
        name = _folded(words[0])
        stem = PurePath(name).stem if is_image_name(name) else name
        candidates = self._names.get(name) or self._stems.get(name) or self._stems.get(stem) or []
        agreements = {path: _agreement(words, path) for path in candidates}
        best = max(agreements.values(), default=0)
        paths = [path for path, agreement in agreements.items() if agreement == best]
        # Numbers begin at 000 in every folder of a data set: a bare one means the images that are divided.
        paths = [path for path in paths if path in self._divided] or paths
        exact = [path for path in paths if words[0] in (path.name, path.stem)]
        return best, exact if len(exact) == 1 else paths


def _agreement(words: Sequence[str], path: Path) -> int:
    """Return how many components agree from the end, the file's name being one."""
    folders = zip(words[1:], reversed(path.absolute().parent.parts), strict=False)
    agreement = 1
    for written, there in folders:
        if _folded(written) != _folded(there):
            break
        agreement += 1
    return agreement


def _folded(name: str) -> str:
    """Return a name without regard to case, and to how file systems compose letters and accents."""
    return unicodedata.normalize("NFC", name).casefold()


def _decode(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252")  # what spreadsheets on Windows call CSV


def _rows(text: str) -> list[tuple[int, list[str]]]:
    """Return each line that is not empty with its number, cut by the separator that gives most of them two columns."""
    separator = re.match(r"sep=(.)\r?\n", text)  # for spreadsheets, which hide it
    if separator:
        return _cut(text, separator[1])[1:]
    by_delimiter = [_cut(text, delimiter) for delimiter in _DELIMITERS]
    # Parts may hold commas ("1,5"), and so may names: the separator is what leaves images' names in the first column.
    return max(by_delimiter, key=lambda rows: [sum(len(r) == 2 for _, r in rows), sum(map(_names_image, rows))])


def _names_image(row: tuple[int, list[str]]) -> bool:
    return is_image_name(row[1][0])


def _cut(text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    rows = []
    for row in reader:
        cells = [cell.strip().strip("\ufeff") for cell in row]
        while len(cells) > 2 and not cells[-1]:  # columns that were cleared
            cells.pop()
        if any(cells):
            rows.append((reader.line_num, cells))
    return rows
