"""Errors on their way from one process to another, with their details."""

from __future__ import annotations

import traceback

import msgspec

from kdx import errors
from kdx.errors import KdxError, OutputError

_BUG = "Bug"


class Fault(msgspec.Struct, frozen=True):
    """What a process could not go on with.

    Attributes:
        record: Type, message, expected, received and fix; of a bug the traceback.
    """

    record: dict[str, str]

    def error(self) -> KdxError | RuntimeError:
        """Return the error, of its own type where it is one of kdx's; a bug stays one."""
        if self.record["type"] == _BUG:
            return RuntimeError(f"in another process: {self.record['message']}\n{self.record['traceback']}")
        kind = getattr(errors, self.record["type"], KdxError)
        details = {name: self.record.get(name, "") for name in ("expected", "received", "fix")}
        error: KdxError = kind(self.record["message"], **details)
        return error


def fault_of(error: Exception) -> Fault:
    """Return an error as it can be sent."""
    if isinstance(error, OSError):
        where = f" '{error.filename}'" if error.filename else ""
        error = OutputError(
            f"{error.strerror or error}{where}", fix="mend it, and call again: the same command goes on"
        )
    if isinstance(error, KdxError):
        return Fault(error.as_dict())
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    return Fault({"type": _BUG, "message": f"{type(error).__name__}: {error}", "traceback": "".join(lines)})
