"""What the operating system refuses, in words for the user of a command."""

from __future__ import annotations

import errno

from kdx.storage.files import is_disk_full


class DiskFullError(OSError):
    """A full disk in a command whose work can be continued, or written again.

    Args:
        error: What the system raised.
        fix: What the user does, with the command.
    """

    def __init__(self, error: OSError, fix: str) -> None:
        super().__init__(error.errno, error.strerror, error.filename)
        self.fix = fix


def describe_os_error(error: OSError, usage: str) -> str:
    """Return the message of an error of the operating system, with what the user does about it.

    Args:
        error: What the system raised.
        usage: What prints the options of the command.
    """
    where = f" at '{error.filename}'" if error.filename else ""
    if isinstance(error, DiskFullError):
        return f"the disk is full{where}; what is complete was kept\n  fix: {error.fix}"
    if is_disk_full(error):
        return f"the disk is full{where}; nothing was left half written\n  fix: free space and run the command again"
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return f"no permission{where}: {error.strerror}\n  fix: allow it, or choose a folder that you may write to"
    if error.filename and error.errno in {errno.ENOTDIR, errno.EEXIST}:
        return (
            f"{error.strerror}: '{error.filename}'\n  fix: choose another path: a file stands where a folder is needed"
        )
    what = f": '{error.filename}'" if error.filename else ""
    return f"{error.strerror or error}{what}\n  help: {usage}"
