"""Columns of Parquet files, made of Python values without pandas.

``pyarrow.array`` and ``pyarrow.table`` import pandas wherever it is installed, which takes longer
than everything else that a process of ``kdx score`` imports.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np


def column(kind: Any, values: Sequence[Any]) -> Any:
    """Return values as a ``pyarrow.Array``.

    Args:
        kind: The Arrow type: ``string``, ``binary`` or one of floating-point numbers.
        values: Text, bytes or numbers; None for a null.

    Raises:
        ArrowInvalid: A value does not fit.
    """
    import pyarrow

    is_known = np.fromiter((value is not None for value in values), bool, len(values))
    buffers = [np.packbits(is_known, bitorder="little")]
    if pyarrow.types.is_floating(kind):
        numbers = [0.0 if value is None else value for value in values]
        buffers.append(np.array(numbers, kind.to_pandas_dtype()))
    else:
        contents = [value.encode() if isinstance(value, str) else value or b"" for value in values]
        buffers.append(np.fromiter(accumulate(map(len, contents), initial=0), np.int32, len(contents) + 1))
        buffers.append(np.frombuffer(b"".join(contents), np.uint8))
    made = pyarrow.Array.from_buffers(kind, len(values), [pyarrow.py_buffer(each) for each in buffers])
    made.validate()
    return made
