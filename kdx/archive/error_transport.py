"""Errors sent from one process to another, with their details."""

from __future__ import annotations

import traceback

import msgspec

from kdx import errors
from kdx.errors import KdxError, OutputError
from kdx.storage.files import is_disk_full

_BUG = "Bug"


class RemoteError(msgspec.Struct, frozen=True):
    """An error that ended the work of a process.

    Attributes:
        record: Type, message, expected, received and fix; of an unexpected error the traceback.
    """

    record: dict[str, str]

    def error(self) -> KdxError | RuntimeError:
        """Return the error: a KdxError of its own type, or a RuntimeError for an unexpected one."""
        if self.record["type"] == _BUG:
            return RuntimeError(f"in another process: {self.record['message']}\n{self.record['traceback']}")
        kind = getattr(errors, self.record["type"], KdxError)
        details = {name: self.record.get(name, "") for name in ("expected", "received", "fix")}
        error: KdxError = kind(self.record["message"], **details)
        return error


def remote_error(error: Exception) -> RemoteError:
    """Return a record of an error that can be sent."""
    if isinstance(error, OSError):
        where = f" '{error.filename}'" if error.filename else ""
        fix = "free some space" if is_disk_full(error) else "remove the cause"
        error = OutputError(
            f"{error.strerror or error}{where}", fix=f"{fix}, and run the same command again to continue"
        )
    if isinstance(error, KdxError):
        return RemoteError(error.as_dict())
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    return RemoteError({"type": _BUG, "message": f"{type(error).__name__}: {error}", "traceback": "".join(lines)})
