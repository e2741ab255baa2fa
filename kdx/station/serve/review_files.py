"""The image files of parts to review: named by their verdict, heat maps beside them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from kdx.storage.files import write_atomic

IMAGES = "images"
_SUFFIXES = {
    b"\x89PNG": ".png",
    b"\xff\xd8\xff": ".jpg",
    b"BM": ".bmp",
    b"II*\0": ".tiff",
    b"MM\0*": ".tiff",
    b"RIFF": ".webp",
    b"GIF8": ".gif",
    b"P2": ".pgm",
    b"P5": ".pgm",
    b"P3": ".ppm",
    b"P6": ".ppm",
}


def suffix_of(data: bytes, other: str = ".png") -> str:
    """Return the suffix for the content of an image file; ``other`` for what is no known one."""
    return next((each for head, each in _SUFFIXES.items() if data.startswith(head)), other)


def heat_file(image: Path) -> Path:
    """Return where the heat map of an image is."""
    return image.with_name(f"{image.stem}.heat.png")


def write_image(image: Path, data: bytes, heat: bytes | None) -> None:
    """Write an image, and its heat map if there is one.

    Raises:
        OSError: A file cannot be written.
    """
    image.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(image, data)
    if heat is not None:
        write_atomic(heat_file(image), heat)


def remove_image(image: Path) -> None:
    """Remove an image and its heat map."""
    image.unlink(missing_ok=True)
    heat_file(image).unlink(missing_ok=True)


def remove_orphans(folder: Path, known: Collection[str]) -> None:
    """Remove image files of which the database knows nothing.

    Args:
        folder: The folder of the server.
        known: The images in the database, relative to ``folder``, with ``/``.
    """
    kept = {folder / file for file in known}
    kept |= {heat_file(image) for image in kept}
    for file in (folder / IMAGES).glob("*/*"):
        if file not in kept and file.is_file():
            file.unlink(missing_ok=True)
