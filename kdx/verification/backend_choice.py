"""What ``backend="auto"`` means: of the ways to run a bundle here that decide what was trained, the fastest.

Every candidate is held against the golden images first, as ``kdx verify`` does it; what fails is never chosen, however
fast. Then they are timed in turns. That takes seconds, so the result is kept, for this bundle, machine and software.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from kdx import __version__
from kdx.bundle.bundle import Bundle
from kdx.bundle.engine_record import engines_of
from kdx.decision.level_map import golden_behind
from kdx.errors import BackendError
from kdx.runtime.backend import Backend, BackendInfo, require_backends
from kdx.runtime.gpu import gpus
from kdx.runtime.latency import describe_machine, time_backends, usable_cores
from kdx.storage.cache import cache_folder
from kdx.storage.files import sha256_bytes, write_atomic
from kdx.storage.json_records import UNREADABLE, encode_record, now
from kdx.storage.private_folder import private_cache
from kdx.verification.golden import difference_said

_PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx-cu13")
_RUNS, _WARM_UP = 60, 5


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run a bundle.

    Attributes:
        backend: Its name.
        precision: Of the graph.
        p50_ms: Median latency at batch 1; None for one that was not timed.
        reason: Why it may not be chosen, or empty.
    """

    backend: str
    precision: str
    p50_ms: float | None = None
    reason: str = ""


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What was chosen, and from what.

    Attributes:
        backend: Its name.
        precision: Of the graph.
        candidates: All of them.
        created: UTC time, ISO 8601.
    """

    backend: str
    precision: str
    candidates: list[Candidate]
    created: str


def choose(bundle: Bundle, threads: int | None = None, precision: str | None = None) -> Choice:
    """Return the fastest backend and precision that passes, measured here once and remembered.

    Args:
        bundle: The bundle.
        threads: Threads within an operation, as the detector will have them.
        precision: Take no other.

    Raises:
        BackendError: No backend is installed, or none decides what was trained.
        BundleError: The bundle holds no graph of that precision.
    """
    if precision is not None:
        bundle.graph_of(precision)
    ways = _deciding(bundle, precision)
    if not ways and precision is not None:
        # Asked for by name, however slow.
        ways = [(info, precision) for info in require_backends(bundle.path) if info.offers(precision)][:1]
    if not ways:
        raise BackendError(f"no backend on this machine runs {precision} graphs", fix="kdx doctor says what can be run")
    if len(ways) == 1:
        info, only = ways[0]
        candidates = [Candidate(backend=info.name, precision=only)]
        return Choice(backend=info.name, precision=only, candidates=candidates, created=now())
    file = _remembered_in(bundle, ways, threads)
    if file is None:
        return _measure(bundle, ways, threads)
    remembered = _read(file)
    if remembered is not None and any((remembered.backend, remembered.precision) == (i.name, p) for i, p in ways):
        return remembered
    choice = _measure(bundle, ways, threads)
    with contextlib.suppress(OSError):  # a machine without a writable cache measures again next time
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, encode_record(choice), private=bundle.seal is not None)
    return choice


def forget(bundle: Bundle, threads: int | None = None, precision: str | None = None) -> bool:
    """Forget what :func:`choose` remembers, so that it measures again; return whether there was anything."""
    file = _remembered_in(bundle, _deciding(bundle, precision), threads)
    if file is None:
        return False
    try:
        file.unlink()
    except OSError:
        return False
    return True


def _deciding(bundle: Bundle, precision: str | None) -> list[tuple[BackendInfo, str]]:
    """Return the ways to run a bundle, of which none could only say undecided."""
    decides = bundle.manifest.decides_alike
    return [(info, one) for info, one in ways_of(bundle) if precision in {None, one} and decides(one, info.runtime)]


def _remembered_in(bundle: Bundle, ways: Sequence[tuple[BackendInfo, str]], threads: int | None) -> Path | None:
    """Return where a choice is remembered; where a signature was required, in a private folder or nowhere (None)."""
    if bundle.seal is not None:
        folder = private_cache("choices")
    else:
        cache = cache_folder()
        folder = cache / "choices" if cache else None
    return folder / f"{_key(bundle, ways, threads)}.json" if folder else None


def ways_of(bundle: Bundle) -> list[tuple[BackendInfo, str]]:
    """Return every backend of this machine with every precision that it is worth running in."""
    return [
        (info, precision)
        for info in require_backends(bundle.path)
        for precision in bundle.manifest.precisions
        if _is_worth_it(info, precision)
    ]


def _is_worth_it(info: BackendInfo, precision: str) -> bool:
    """FP16 graphs are computed in FP32 on CPUs: never faster."""
    return info.offers(precision) and (precision != "fp16" or info.needs_gpu)


def _measure(bundle: Bundle, ways: Sequence[tuple[BackendInfo, str]], threads: int | None) -> Choice:
    from kdx.verification.certificate import compare_backend, thresholds_of

    golden, manifest, behind = bundle.golden(), bundle.manifest, golden_behind(bundle)
    failed: list[Candidate] = []
    passed: list[tuple[str, str]] = []
    with ExitStack() as held:
        opened: list[Backend] = []
        for info, precision in ways:
            try:
                backend = held.enter_context(info.open(bundle.graph_of(precision), threads, precision))
                thresholds = thresholds_of(manifest, precision, info.runtime)
                compared = compare_backend(backend, golden, manifest.max_batch, thresholds, precision, behind)
            except BackendError as error:
                failed.append(Candidate(backend=info.name, precision=precision, reason=error.message))
                continue
            wrong = next((c for c in compared if not c.passed), None)
            if wrong is None:
                opened.append(backend)
                passed.append((info.name, precision))
                continue
            failed.append(Candidate(backend=info.name, precision=precision, reason=difference_said(wrong)))
        if not opened:
            raise BackendError(
                "no backend on this machine decides what was trained",
                received="; ".join(f"{c.backend} {c.precision}: {c.reason}" for c in failed),
                fix="kdx verify shows the certificate; do not deploy this bundle here",
            )
        times = time_backends(opened, golden.images, batches=(1,), runs=_RUNS, warm_up=_WARM_UP)
    timed = [
        Candidate(backend=name, precision=precision, p50_ms=latency.p50_ms)
        for (name, precision), latency in zip(passed, times, strict=True)
    ]
    best = min(timed, key=lambda candidate: candidate.p50_ms or 0.0)
    return Choice(backend=best.backend, precision=best.precision, candidates=[*timed, *failed], created=now())


def _key(bundle: Bundle, ways: Sequence[tuple[BackendInfo, str]], threads: int | None) -> str:
    """Return a hash of everything that could change the choice: bundle, candidates, machine, software."""
    versions = {"kdx": __version__}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    machine = describe_machine(threads or usable_cores(), versions)
    parts = {
        "files": bundle.manifest.files,
        "thresholds": [bundle.manifest.threshold, bundle.manifest.runtime_thresholds, bundle.manifest.thresholds],
        "ways": [(info.name, precision) for info, precision in ways],
        "engines": [engine.record.plan_sha256 for engine in engines_of(bundle.path)],
        "machine": machine,
        "threads": threads,
        "gpus": [(gpu.name, gpu.driver) for gpu in gpus()],
    }
    return sha256_bytes(msgspec.json.encode(parts))[:32]


def _read(file: Path) -> Choice | None:
    """Return what is remembered; None for nothing, and for a file that cannot be read: it is measured again."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Choice)
    except (OSError, *UNREADABLE):
        return None
