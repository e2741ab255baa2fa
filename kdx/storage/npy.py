"""Arrays in ``.npy`` files, which NumPy and a few lines of C++ can read.

``np.load`` trusts the header: it allocates memory for values that the file does not hold or, if it
maps the file, ends the process with a division by zero for a type of no bytes (NumPy 2.4). This
module accepts only float32 arrays of the size that the file has.
"""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from kdx.errors import BundleError


def encode_array(array: NDArray[np.float32]) -> bytes:
    """Encode an array as a ``.npy`` file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def decode_array(data: bytes, path: Path) -> NDArray[np.float32]:
    """Decode the content of a file that :func:`encode_array` wrote.

    Args:
        data: The file's content.
        path: The file, for messages.

    Raises:
        BundleError: The content is not a ``.npy`` file, not float32, or of another size than
            declared.
    """
    try:
        file = io.BytesIO(data)
        npy.read_magic(file)
        shape, is_fortran, dtype = npy.read_array_header_1_0(file)
    except Exception as error:  # damaged headers raise nearly anything
        raise BundleError(f"'{path}' cannot be read: {error}", fix="export the bundle again") from error
    held = len(data) - file.tell()
    if dtype != np.float32 or is_fortran or min(shape, default=0) < 0 or 4 * math.prod(shape) != held:
        raise BundleError(
            f"'{path}' cannot be read: it is not a float32 array of the declared size",
            received=f"{dtype} {shape} in {held} bytes",
            fix="export the bundle again",
        )
    array: NDArray[np.float32] = np.frombuffer(data, np.float32, offset=file.tell()).reshape(shape).copy()
    return array
