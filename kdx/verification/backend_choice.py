"""Chooses the backend and the precision of a bundle: the named ones, or the fastest that pass.

Every candidate is compared with the golden images first, as ``kdx verify`` does it; one that fails
is never chosen, however fast it is. The others are timed in turns. That takes seconds, so the
choice is remembered for this bundle, machine and software.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdx.bundle.bundle import Bundle
from kdx.bundle.signature import require_signed_engines
from kdx.bundle.variants import OWN_THRESHOLD
from kdx.errors import BackendError, ForkError, InputError
from kdx.remarks import Remark, remark
from kdx.runtime.backend import Backend, ClosesOnExit, Outputs, largest_batch
from kdx.runtime.backend_table import BACKENDS, BackendInfo, find_backend, require_backends
from kdx.runtime.latency import Latency, time_backends
from kdx.storage.json_records import now
from kdx.verification.comparison import describe_difference
from kdx.verification.golden import GoldenCheck
from kdx.verification.remembered_choice import BackendCandidate, BackendChoice, ChoiceFile, images_at_once

_RUNS, _WARM_UP = 60, 5
# Of calls with several tiles, each of which takes longer.
_TILED_RUNS = 20


def other_precisions(bundle: Bundle, measured: str) -> list[Remark]:
    """Return a remark on a bundle's precisions that were not measured and may decide on the line.

    FP16 is left out, which has the threshold of FP32.
    """
    others = [each for each in bundle.manifest.precisions if each != measured and {each, measured} & OWN_THRESHOLD]
    return remark(
        "unmeasured_precision",
        f"[precision was|precisions were] not measured, only {measured}, and kdx.load or kdx predict may decide in "
        "[it|them]: name another `precision`",
        others,
    )


@dataclass(frozen=True)
class BackendChooser:
    """Chooses the backend and the precision that run a bundle.

    Attributes:
        bundle: The bundle.
        backend: A backend's name, or ``auto`` for the fastest that decides what was trained.
        threads: Threads within an operation, as the detector will have them.
        precision: The only precision to consider; None takes the first of the backend's precisions
            that the bundle holds, and with ``auto`` considers all.
    """

    bundle: Bundle
    backend: str = "auto"
    threads: int | None = None
    precision: str | None = None

    def choose(self) -> tuple[BackendInfo, str]:
        """Return the backend and the precision.

        Raises:
            BackendError: The backend is unknown, or does not run that precision; or no backend
                passes.
            BundleError: The bundle holds no graph of that precision; or a signature was required,
                and it does not cover an engine that could be run.
        """
        bundle, precision = self.bundle, self.precision
        considered = BACKENDS.values() if self.backend == "auto" else [find_backend(self.backend)]
        if bundle.seal is not None and any(info.engine and info.is_usable() for info in considered):
            require_signed_engines(bundle)
        if self.backend == "auto":
            choice = self.fastest()
            return find_backend(choice.backend), choice.precision
        info = find_backend(self.backend)
        if precision is None:
            manifest = bundle.manifest
            alike = [each for each in manifest.precisions if manifest.decides_alike(each, info.runtime)]
            precision = info.choose_precision({each: bundle.graph_of(each) for each in alike})
        info.require_precision(precision)
        return info, precision

    def fastest(self) -> BackendChoice:
        """Return the fastest backend and precision that pass, measured here once and remembered.

        Warns with ``RuntimeWarning`` if a backend failed on a GPU; nothing is remembered then.

        Raises:
            BackendError: No backend is installed, or none decides what was trained.
            BundleError: The bundle holds no graph of the precision.
        """
        bundle, precision = self.bundle, self.precision
        if precision is not None:
            bundle.graph_of(precision)
        pairs = self._calibrated_pairs()
        if not pairs:
            pairs = [(self._not_calibrated(), precision or "fp32")]
        if len(pairs) == 1:
            info, only = pairs[0]
            candidates = [BackendCandidate(backend=info.name, precision=only)]
            return BackendChoice(backend=info.name, precision=only, candidates=candidates, created=now())
        file = ChoiceFile(bundle, pairs, self.threads)
        remembered = file.read()
        names = {(info.name, each) for info, each in pairs}
        if remembered is not None and (remembered.backend, remembered.precision) in names:
            return remembered
        choice, broken = _measure(bundle, pairs, self.threads)
        if broken:  # another program may have held its memory: that is not remembered for good
            warnings.warn(
                f"a GPU was left out of the choice of a backend, which is measured again at the next load: "
                f"{'; '.join(broken)}",
                RuntimeWarning,
                stacklevel=2,
            )
        else:
            file.write(choice)
        return choice

    def forget(self) -> bool:
        """Forget what :meth:`fastest` remembers, and return whether there was anything."""
        return self.backend == "auto" and ChoiceFile(self.bundle, self._calibrated_pairs(), self.threads).remove()

    def _not_calibrated(self) -> BackendInfo:
        """Return what runs the precision where no pair can decide wherever FP32 can.

        The user named the precision, so it is used without a threshold too. Or the bundle holds
        engines, but none for this machine: opening the backend says so, and how to build one.
        """
        precision = self.precision or "fp32"
        usable, graph = require_backends(self.bundle.path), self.bundle.graph_of(precision)
        found = [info for info in usable if info.offers(precision, graph)]
        found += [info for info in usable if info.engine and precision in info.precisions]
        if not found:
            raise BackendError(
                f"no backend on this machine runs {precision} graphs", fix="kdx doctor says what can be run"
            )
        return found[0]

    def _calibrated_pairs(self) -> list[tuple[BackendInfo, str]]:
        """Return the pairs that can decide wherever FP32 can."""
        return [
            (info, precision)
            for info, precision in backend_precision_pairs(self.bundle)
            if self.precision in {None, precision} and self.bundle.manifest.decides_alike(precision, info.runtime)
        ]


def backend_precision_pairs(bundle: Bundle) -> list[tuple[BackendInfo, str]]:
    """Return every backend of this machine with every precision of the bundle that may be worth it.

    CPUs compute FP16 graphs in FP32, which is never faster: FP16 is left to GPUs.
    """
    pairs = []
    for info in require_backends(bundle.path):
        for precision in bundle.manifest.precisions:
            with suppress(BackendError):  # its package does not load, which is said of its FP32
                if info.offers(precision, bundle.graph_of(precision)) and (precision != "fp16" or info.needs_gpu):
                    pairs.append((info, precision))
    return pairs


class _InBatches(ClosesOnExit):
    """Runs the tiles of a call in batches of the largest size that the backend takes."""

    def __init__(self, backend: Backend, batch: int) -> None:
        self.name = backend.name
        self._backend, self._batch = backend, largest_batch(backend, batch)

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        parts = [self._backend.run(images[i : i + self._batch]) for i in range(0, len(images), self._batch)]
        maps, scores = zip(*parts, strict=True)
        return Outputs(np.concatenate(maps), np.concatenate(scores))

    def close(self) -> None:
        self._backend.close()


def _latencies(opened: Sequence[Backend], images: NDArray[np.uint8], at_once: int) -> list[Latency]:
    """Time backends on as many images a call as the line puts through the graph at once."""
    if at_once == 1:
        return time_backends(opened, images, batches=(1,), runs=_RUNS, warm_up=_WARM_UP)
    tiled = [_InBatches(each, at_once) for each in opened]
    return time_backends(tiled, images, batches=(at_once,), runs=_TILED_RUNS, warm_up=_WARM_UP)


def _measure(
    bundle: Bundle, pairs: Sequence[tuple[BackendInfo, str]], threads: int | None
) -> tuple[BackendChoice, list[str]]:
    """Compare every candidate with the golden images, and time those that pass.

    Returns:
        The choice, and why candidates on GPUs could not be compared.
    """
    check, at_once = GoldenCheck(bundle), images_at_once(bundle.manifest)
    _ = check.golden  # read before any engine is opened; raises if it cannot be
    failed: list[BackendCandidate] = []
    broken: list[str] = []
    passed: list[tuple[str, str]] = []
    with ExitStack() as held:
        opened: list[Backend] = []
        for info, precision in pairs:
            try:
                backend = held.enter_context(info.open(bundle.graph_of(precision), threads, precision))
                batches = {*check.certificate_batches(backend), largest_batch(backend, at_once)}
                compared = check.compare(backend, precision, sorted(batches), runtime=info.runtime)
            except ForkError:
                raise  # it says nothing about the machine, whose choice is remembered
            except (BackendError, InputError) as error:  # the latter: an engine that does not take the golden images
                failed.append(BackendCandidate(backend=info.name, precision=precision, reason=error.message))
                if info.needs_gpu and isinstance(error, BackendError):
                    broken.append(f"{info.name} {precision}: {error.message}")
                continue
            wrong = next((each for each in compared if not each.passed), None)
            if wrong is None:
                opened.append(backend)
                passed.append((info.name, precision))
                continue
            reason = describe_difference(wrong)
            failed.append(BackendCandidate(backend=info.name, precision=precision, reason=reason))
        if not opened:
            raise BackendError(
                "no backend on this machine decides what was trained",
                received="; ".join(f"{each.backend} {each.precision}: {each.reason}" for each in failed),
                fix="kdx verify shows the certificate; do not deploy this bundle here",
            )
        times = _latencies(opened, check.golden.images, at_once)
    timed = [
        BackendCandidate(backend=name, precision=precision, p50_ms=latency.p50_ms)
        for (name, precision), latency in zip(passed, times, strict=True)
    ]
    best = min(timed, key=lambda candidate: candidate.p50_ms or 0.0)
    candidates = [*timed, *failed]
    return BackendChoice(backend=best.backend, precision=best.precision, candidates=candidates, created=now()), broken
