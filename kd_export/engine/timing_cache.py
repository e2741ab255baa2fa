"""The file of kernel timings that builds share: TensorRT times no kernel twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdx.errors import OptionError
from kdx.loading.load import require_outside_bundles
from kdx.remarks import Remark, remark
from kdx.storage.files import require_writable, write_atomic

_NOT_WRITTEN = "timing [cache was|caches were] not written, and later builds time all kernels again"


def require_place(file: Path) -> None:
    """Check before a build that its timing cache can be written.

    Raises:
        OptionError: A folder has that name, or the folder of the file is missing.
        OutputError: Files cannot be created in that folder, or it lies in a bundle or a run.
    """
    if file.is_dir():
        raise OptionError(f"`timing_cache` '{file}' is a folder", fix="name a file in it, which will be created")
    if not file.parent.is_dir():
        raise OptionError(f"'{file.parent}', the folder of `timing_cache`, is missing", fix="create it")
    require_outside_bundles(file.parent, "timing_cache", file)
    require_writable(file.parent)


def use_timing_cache(config: Any, file: Path | None) -> Any:
    """Give a configuration the timings of a file, and return its cache; None without a file.

    Raises:
        OptionError: The file is no timing cache of this TensorRT and GPU.
    """
    if file is None:
        return None
    cache = config.create_timing_cache(file.read_bytes() if file.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise OptionError(
            f"'{file}' is not a timing cache of this TensorRT and GPU", fix="name another file, which will be created"
        )
    return cache


def keep_timings(file: Path, timings: bytes) -> list[Remark]:
    """Write the content of a timing cache; return a remark if that fails, which loses no engine."""
    try:
        write_atomic(file, timings)
    except OSError as error:
        return remark("timing_cache", _NOT_WRITTEN, [f"{file}: {error.strerror or error}"])
    return []
