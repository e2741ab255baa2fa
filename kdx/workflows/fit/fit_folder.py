"""The output folder of ``kdx fit``: runs, bundles and results; a second call continues it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from kdx.bundle.bundle import Bundle
from kdx.bundle.open import open_bundle
from kdx.errors import BundleError, CheckpointError, OutputError
from kdx.storage.files import write_atomic
from kdx.storage.json_output import write_json
from kdx.storage.json_records import encode_record, read_record
from kdx.storage.locks import locked_output
from kdx.workflows.fit.trial_records import SCHEMA, MethodSize, Report, Screened, Trial

# The setting that follows from all others, and from the content of the file of `parts`.
HELD_OUT = "held_out_images"
# What the settings for the content of a file begin with.
CONTENT = "content of "
_INDEX = "fit-settings.json"
_SCREENING = "screening.json"
_RESULTS = "results"
_FOLDERS = ("runs", "bundles", "synthetic", "best.kdx")
_COUNTED = ("runs", "bundles")
_FILES = (_SCREENING, "fit.json", "frontier.png", "frontier.svg")


class _FitSettings(msgspec.Struct, frozen=True, kw_only=True):
    schema: int
    settings: dict[str, Any]


class _Screening(msgspec.Struct, frozen=True, kw_only=True):
    key: str
    screened: list[Screened]


class FitFolder:
    """The output folder.

    Args:
        path: The folder.
        settings: What decides its runs, beside method and size.
        rate_decides: Whether ``validation_fraction`` follows from the false-reject rate.
    """

    def __init__(self, path: Path, settings: dict[str, Any], *, rate_decides: bool = False) -> None:
        self.path = path
        self.settings = settings
        self.rate_decides = rate_decides
        self.report = path / "fit.json"
        self.plots = (path / "frontier.png", path / "frontier.svg")
        self.best = path / "best.kdx"
        self.synthetic = path / "synthetic"

    @contextlib.contextmanager
    def held(self, *, force: bool) -> Iterator[list[str]]:
        """Make the folder, or check that it has the same settings, and keep other searches out.

        Args:
            force: Discard what earlier calls left.

        Yields:
            What was discarded.

        Raises:
            OutputError: It holds something else, or runs of other settings; or another search works
                in it.
        """
        index = self.path / _INDEX
        if not index.is_file() and self.path.exists() and not self._is_empty():
            raise OutputError(f"'{self.path}' exists and is not of kdx fit", fix="choose another `out`")
        # This folder stays where it is: what is in the others takes locks of theirs for moments.
        (self.path / _RESULTS).mkdir(parents=True, exist_ok=True)
        with locked_output(self.path / _RESULTS, "kdx fit", self.path):
            discarded = self._discard() if force and index.is_file() else []
            self._begin(index)
            yield discarded

    def _is_empty(self) -> bool:
        """Whether the folder holds nothing, or what a call left that could write nothing more."""
        return self.path.is_dir() and all(
            each.name == _RESULTS and each.is_dir() and not any(each.iterdir()) for each in self.path.iterdir()
        )

    def _discard(self) -> list[str]:
        """Discard what this command made, and nothing else; return what that was."""
        discarded = []
        for name in (*_FOLDERS, *_FILES):
            path = self.path / name
            if path.exists() or path.is_symlink():
                inside = f" ({len(list(path.iterdir()))})" if name in _COUNTED and path.is_dir() else ""
                discarded.append(name + inside)
                discard(path)
        for result in (self.path / _RESULTS).glob("*.json"):
            result.unlink()
        return discarded

    def _begin(self, index: Path) -> None:
        if index.is_file() and any((self.path / name).exists() for name in _FOLDERS):
            self._require_same(
                read_record(index, _FitSettings, error=CheckpointError, fix="choose another `out`", supported=SCHEMA)
            )
        # Also where they are the same: earlier versions recorded fewer.
        write_atomic(index, encode_record(_FitSettings(schema=SCHEMA, settings=self.settings)))

    def run(self, candidate: MethodSize) -> Path:
        """Return where a candidate's run stands."""
        return self.path / "runs" / candidate.name

    def bundle(self, candidate: MethodSize) -> Path:
        """Return where a candidate's bundle stands."""
        return self.path / "bundles" / f"{candidate.name}.kdx"

    def trial(self, candidate: MethodSize, key: str) -> Trial | None:
        """Return a candidate's result, or None where there is none of that key."""
        path = self._result(candidate)
        if not path.is_file():
            return None
        with contextlib.suppress(CheckpointError):  # a damaged one is made again
            trial = read_record(path, Trial, error=CheckpointError, fix="")
            return trial if trial.key == key else None
        return None

    def measured_bundle(self, candidate: MethodSize, sha256: str) -> Bundle:
        """Open a candidate's bundle, which must have the index that was measured.

        Raises:
            BundleError: It is missing or damaged, or was exported or calibrated since.
        """
        bundle = open_bundle(self.bundle(candidate))
        if bundle.index_sha256 != sha256:
            fix = "run the command again: it exports and measures this one again"
            raise BundleError(f"'{bundle.path}' was changed after it was measured", fix=fix)
        return bundle

    def write_trial(self, trial: Trial) -> None:
        """Keep a candidate's result."""
        write_atomic(self._result(trial.candidate), encode_record(trial))

    def screened(self, key: str) -> dict[MethodSize, Screened]:
        """Return what was screened under this key; nothing of any other."""
        path = self.path / _SCREENING
        if path.is_file():
            with contextlib.suppress(CheckpointError):
                kept = read_record(path, _Screening, error=CheckpointError, fix="")
                if kept.key == key:
                    return {one.candidate: one for one in kept.screened}
        return {}

    def write_screened(self, key: str, screened: list[Screened]) -> None:
        """Keep the screening so far."""
        write_atomic(self.path / _SCREENING, encode_record(_Screening(key=key, screened=screened)))

    def discard_report(self) -> None:
        """Remove what an earlier call reported, which need not be true of the next best bundle."""
        for path in (self.report, *self.plots):
            discard(path)

    def write_report(self, report: Report) -> None:
        """Write ``fit.json``."""
        write_json(self.report, report)

    def _result(self, candidate: MethodSize) -> Path:
        return self.path / _RESULTS / f"{candidate.name}.json"

    def _require_same(self, kept: _FitSettings) -> None:
        began, asked = kept.settings, self.settings
        # Earlier versions recorded neither the held-out images nor what files held.
        unknown = {name: each for name, each in asked.items() if name == HELD_OUT or name.startswith(CONTENT)}
        began = {**unknown, **began}
        changed = [name for name in {**began, **asked} if began.get(name) != asked.get(name)]
        if not changed:
            return
        if len(changed) > 1:
            changed = [name for name in changed if name != HELD_OUT]
        cause, fix = "", "give the options of the first call"
        if changed == [HELD_OUT]:
            decides = "the file of `parts`" if "parts" in asked else "the names and places of the images"
            raise OutputError(
                f"'{self.path}' holds runs with other held-out images: {decides} changed",
                fix="undo that, choose another `out`, or begin again with `force=True`",
            )
        if "validation_fraction" in changed and self.rate_decides:
            share = began["validation_fraction"]
            cause = ": where it is not given, it follows from `false_reject_rate`"
            # A larger share than the rate needs will do.
            fix = f"give `validation_fraction={share:g}`" if share > asked["validation_fraction"] else fix
        raise OutputError(
            f"'{self.path}' holds runs of other settings: {', '.join(changed)} changed{cause}",
            expected=", ".join(f"{name} {began.get(name, 'by default')}" for name in changed),
            received=", ".join(f"{name} {asked.get(name, 'by default')}" for name in changed),
            fix=f"{fix}, choose another `out`, or begin again with `force=True`",
        )


def discard(path: Path) -> None:
    """Remove a file, a folder or a link, but not what a link leads to; do nothing without one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
