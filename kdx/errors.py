"""User errors, each with a message and, where it helps, what was expected, received, and a fix."""

from __future__ import annotations

from kdx.text import visible, without_passwords


class KdxError(Exception):
    """The base of every error that kdx raises for its users.

    Attributes:
        exit_status: The exit status of the command line: 1 for a failed gate, 2 for a user error.
    """

    exit_status = 2

    def __init__(self, message: str, *, expected: str = "", received: str = "", fix: str = "") -> None:
        # The texts quote names and contents of files and what users wrote; terminals show them, and
        # records and logs keep them.
        self.message, self.expected, self.received, self.fix = (
            visible(without_passwords(text)) for text in (message, expected, received, fix)
        )
        lines = [self.message]
        lines += [f"  {label}: {text}" for label, text in self._details() if text]
        super().__init__("\n".join(lines))

    def _details(self) -> tuple[tuple[str, str], ...]:
        return (("expected", self.expected), ("received", self.received), ("fix", self.fix))

    def as_dict(self) -> dict[str, str]:
        """Return the error as a record for JSON: its type, its message, and its details."""
        details = {label: text for label, text in self._details() if text}
        return {"type": type(self).__name__, "message": self.message, **details}


def in_one_line(error: KdxError) -> str:
    """Return what an error says, with what was expected and received, for a table or a list."""
    details = (("expected", error.expected), ("received", error.received))
    return "; ".join([error.message, *(f"{label} {text}" for label, text in details if text)])


class DataError(KdxError):
    """A folder, its layout, or the number of its images is not suitable."""


class ImageError(DataError):
    """An image or mask file cannot be used."""


class InputError(KdxError):
    """An array that was passed to a detector has the wrong type, shape or channel count."""


class OptionError(KdxError):
    """The value of an option is invalid, or the name of a method or backbone is unknown."""


class WeightsError(KdxError):
    """The weights of a teacher were not found, or do not fit its networks."""


class CheckpointError(KdxError):
    """A run folder is incomplete, altered, or does not fit the request."""


class BundleError(KdxError):
    """A bundle is incomplete, altered, too new, or names files outside its folder."""


class BackendError(KdxError):
    """A backend is missing on this machine, or failed while running."""


class ForkError(BackendError):
    """A runtime was used before this process was forked, and does not work in it."""


class OutputError(KdxError):
    """An output exists already, or cannot be written."""


class TrainingError(KdxError):
    """Training cannot continue: the loss is not finite, or too many images are bad."""


class GateError(KdxError):
    """A check of an artefact failed, so the artefact was not written."""

    exit_status = 1
