"""User errors: each says what went wrong and, where it helps, what was expected, received, and how to mend it."""

from __future__ import annotations

from kdx.text import visible


class KdxError(Exception):
    """Base of every error that kdx raises on purpose.

    Attributes:
        exit_status: What the command line returns for it: 1 for a failed gate, 2 for a user error.
    """

    exit_status = 2

    def __init__(self, message: str, *, expected: str = "", received: str = "", fix: str = "") -> None:
        # Names and contents of files are quoted here, and end in terminals.
        self.message = visible(message)
        self.expected = visible(expected)
        self.received = visible(received)
        self.fix = visible(fix)
        lines = [self.message]
        lines += [f"  {label}: {text}" for label, text in self._details() if text]
        super().__init__("\n".join(lines))

    def _details(self) -> tuple[tuple[str, str], ...]:
        return (("expected", self.expected), ("received", self.received), ("fix", self.fix))

    def as_dict(self) -> dict[str, str]:
        """Return the error for ``--json``: its type, message and whichever details it carries."""
        details = {label: text for label, text in self._details() if text}
        return {"type": type(self).__name__, "message": self.message, **details}


class DataError(KdxError):
    """A folder, its layout, or the number of images in it cannot serve."""


class ImageError(DataError):
    """One image (or mask) file cannot be used."""


class InputError(KdxError):
    """An array handed to a detector has the wrong type, shape or channel count."""


class OptionError(KdxError):
    """An option's value, a method's or a backbone's name is not known or not possible."""


class WeightsError(KdxError):
    """A teacher's weights could not be found or do not fit."""


class CheckpointError(KdxError):
    """A run folder is incomplete, altered, or does not fit what was asked."""


class BundleError(KdxError):
    """A bundle is incomplete, altered, too new, or reaches outside its own folder."""


class BackendError(KdxError):
    """A backend is missing on this machine or failed while running."""


class OutputError(KdxError):
    """An output exists already or cannot be written."""


class TrainingError(KdxError):
    """Training cannot go on (a loss that is not finite, too many bad images)."""


class GateError(KdxError):
    """A check that guards an artefact failed; the artefact was not written."""

    exit_status = 1
