"""Several bundles in one process, whose shared teachers are held once and run once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdx.bundle.bundle import Bundle
from kdx.bundle.keys import absolute_keys
from kdx.bundle.open import open_bundle
from kdx.calibration.validity import warn_of_calibration
from kdx.decision.verdict import Verdict
from kdx.errors import BackendError, BundleError, OptionError
from kdx.loading.bundle_detector import (
    compile_and_check,
    detector_on,
    require_batch_sizes,
    retry_without_memory,
)
from kdx.loading.load import is_run
from kdx.loading.origin import Origin
from kdx.loading.sharing import SHARING, one_teacher, shared_teacher_groups
from kdx.runtime.backend import ClosesOnExit, require_threads
from kdx.runtime.backend_table import find_backend, runtime_of
from kdx.runtime.detector import Detector
from kdx.runtime.loading_process import LoadingProcess
from kdx.storage.path_arguments import folder_name, require_path
from kdx.verification.backend_choice import BackendChooser

if TYPE_CHECKING:
    from kdx.bundle.keys import PublicKeys
    from kdx.runtime.openvino.shared_teacher import Plan, SharedTeacher


_WHAT = "a bundle's folder"


class DetectorGroup(ClosesOnExit):
    """Detectors by name, which share teachers. A context manager, as thread-safe as its backends.

    ``group[name](image)`` judges by one bundle: a pass of its teacher, and one of its student.
    ``group(image)`` judges by several: one pass of each teacher, however many students it has.
    Iterating gives the names.

    Like a detector, a group belongs to the process that loaded it, and can be pickled: a process
    that unpickles it loads the same bundles, which share the same teachers.

    Args:
        detectors: The detectors by name.
        teachers: The teachers that are shared; their students are named like the detectors.

    Attributes:
        teachers: The names that share a teacher, for each teacher that is shared.
    """

    def __init__(self, detectors: Mapping[str, Detector], teachers: Sequence[SharedTeacher] = ()) -> None:
        self._detectors = dict(detectors)
        self._shared = tuple(teachers)
        self.teachers = tuple(teacher.names for teacher in self._shared)
        self._process = LoadingProcess()

    def __reduce__(self) -> tuple[Callable[..., DetectorGroup], tuple[Any, ...]]:
        if not self._shared:
            return DetectorGroup, (self._detectors,)
        return _restore, ({name: detector.pickled() for name, detector in self._detectors.items()},)

    def __getitem__(self, name: str) -> Detector:
        try:
            return self._detectors[name]
        except KeyError:
            raise OptionError(f"no bundle is named '{name}' here", expected=", ".join(self._detectors)) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._detectors)

    def __len__(self) -> int:
        return len(self._detectors)

    def __call__(self, image: NDArray[np.uint8], names: Sequence[str] | None = None) -> dict[str, Verdict]:
        """Judge one image by several bundles.

        Args:
            image: uint8 ``(H, W, C)``, or ``(H, W)`` for mono detectors; exactly the size of each
                one's ``input``.
            names: The bundles to judge by, in this order; None for all.

        Raises:
            OptionError: A name that the group does not hold.
            InputError: Another type, size or channel count.
            BackendError: The runtime failed, and the next call may succeed; or the process was
                forked after the group was loaded.
        """
        self._process.require_current()
        wanted = {name: self[name] for name in (self if names is None else names)}
        found: dict[str, Verdict] = {}
        for teacher in self._shared:
            served = [name for name in wanted if name in teacher.names]
            if served:
                batch = np.ascontiguousarray(wanted[served[0]].input.check(image)[None])
                for name, outputs in teacher.run(batch, served).items():
                    found[name] = wanted[name].verdict(outputs.maps[0], outputs.scores[0], batch[0])
        return {name: found[name] if name in found else detector(image) for name, detector in wanted.items()}

    def close(self) -> None:
        """Free every backend; in a process that was forked later, nothing happens."""
        if not self._process.is_current:
            return
        for held in (*self._detectors.values(), *self._shared):
            held.close()


def load_many(
    bundles: Mapping[str, str | Path] | Sequence[str | Path],
    backend: str = "auto",
    threads: int | None = None,
    precision: str | None = None,
    *,
    shared_teacher: bool | None = None,
    require_signature: PublicKeys | None = None,
    batch_sizes: Sequence[int] | None = None,
) -> DetectorGroup:
    """Load several bundles into one process.

    A teacher can be shared by the bundles that were exported with the same one: the same weights,
    taps, input and preprocessing, in the same precision. That is decided by the graphs, not by
    names. An INT8 teacher holds scales of its own bundle's images, so two INT8 teachers hardly ever
    agree. Methods, students and thresholds may differ.

    Args:
        bundles: Bundle folders by name; those of a sequence are named after their folders, without
            ``.kdx``.
        backend: A backend's name or ``auto``, see :func:`kdx.load`. Teachers are shared in
            ``openvino``.
        threads: Threads within an operation; None leaves it to the backend.
        precision: As for :func:`kdx.load`. With ``shared_teacher=True``, None takes the first of
            INT8, BF16 and FP32 that every bundle holds and in which the teacher is the same.
        shared_teacher: True: all share one teacher, or the call fails and names what differs;
            ``auto`` is ``openvino`` then. None: each bundle runs as :func:`kdx.load` runs it, and
            those that can share a teacher do. False: nothing is shared.
        require_signature: As for :func:`kdx.load`, of every bundle.
        batch_sizes: As for :func:`kdx.load`, of every bundle.

    Raises:
        BundleError: A bundle is incomplete, altered, too new, or not signed as required; or no
            bundle.
        BackendError: The backend is missing, cannot load a graph, or cannot share the teacher that
            was to be shared; or a bundle's golden images are not decided as the reference did.
        OptionError: No bundles, or two of one name; a batch size below 1.
    """
    sizes = require_batch_sizes(batch_sizes)
    threads = require_threads(threads)
    opened = {name: _open(path, require_signature) for name, path in _by_name(bundles).items()}
    choosers = {name: BackendChooser(bundle, backend, threads, precision) for name, bundle in opened.items()}

    def prepared() -> DetectorGroup:
        if shared_teacher:
            group = _share(opened, backend, threads, precision)
        else:
            group = _load(opened, choosers, threads, may_share=shared_teacher is None)
        return _checked(group, opened, sizes)

    group = retry_without_memory(prepared, [] if shared_teacher else choosers.values())
    for name, bundle in opened.items():
        origin = Origin(
            path=bundle.path.absolute(),
            sha256=bundle.index_sha256,
            threads=threads,
            require_signature=absolute_keys(require_signature),
            batch_sizes=sizes,
        )
        group[name].origin = origin.chosen(group[name])
    return _warned(group, opened)


def _checked(group: DetectorGroup, opened: Mapping[str, Bundle], sizes: Sequence[int] | None) -> DetectorGroup:
    """Return a group after its golden images were compared; close it if that fails."""
    try:
        for name, bundle in opened.items():
            compile_and_check(bundle, group[name], sizes)
            bundle.require_present("loaded", fix="load it again")
    except BaseException:
        group.close()
        raise
    return group


def _warned(group: DetectorGroup, opened: Mapping[str, Bundle]) -> DetectorGroup:
    """Return a group after warnings of its calibrations; close it if a warning is an error."""
    try:
        for name, bundle in opened.items():
            warn_of_calibration(bundle, group[name].precision, runtime_of(group[name].backend.name))
    except BaseException:
        group.close()
        raise
    return group


def _restore(pickled: Mapping[str, tuple[Origin, Mapping[str, Any]]]) -> DetectorGroup:
    """Load a group again that shared teachers: its backends and precisions share the same ones.

    Raises:
        KdxError: A bundle was changed; or as for :func:`load_many`.
    """
    origins = {name: origin for name, (origin, _) in pickled.items()}
    opened = {name: origin.reopen() for name, origin in origins.items()}
    choosers = {
        name: BackendChooser(opened[name], origin.backend, origin.threads, origin.precision)
        for name, origin in origins.items()
    }
    first = next(iter(origins.values()))  # threads and batch sizes are those of all
    group = _checked(_load(opened, choosers, first.threads, may_share=True), opened, first.batch_sizes)
    for name, (origin, changed) in pickled.items():
        group[name].origin = origin
        group[name].rule = replace(group[name].rule, **changed)
    return _warned(group, opened)


def _load(
    opened: Mapping[str, Bundle], choosers: Mapping[str, BackendChooser], threads: int | None, *, may_share: bool
) -> DetectorGroup:
    """Load each bundle on its own backend; those that can share a teacher do, if they may."""
    chosen = {name: chooser.choose() for name, chooser in choosers.items()}
    detectors: dict[str, Detector] = {}
    teachers: list[SharedTeacher] = []
    try:
        # A frame's tiles go through one bundle at a time.
        shareable = {
            name: (opened[name], used)
            for name, (info, used) in chosen.items()
            if info.name == SHARING and opened[name].manifest.tiling is None
        }
        for plans, used in shared_teacher_groups(shareable) if may_share else ():
            teacher = _teacher(plans, threads)
            teachers.append(teacher)
            detectors.update((name, detector_on(opened[name], teacher.student(name), used)) for name in plans)
        for name, (info, used) in chosen.items():
            if name not in detectors:
                held = info.open(opened[name].graph_of(used), threads, used)
                detectors[name] = detector_on(opened[name], held, used)
    except BaseException:
        DetectorGroup(detectors, teachers).close()
        raise
    return DetectorGroup({name: detectors[name] for name in opened}, teachers)


def _by_name(bundles: Mapping[str, str | Path] | Sequence[str | Path]) -> dict[str, Path]:
    if isinstance(bundles, (str, os.PathLike)):
        raise OptionError(
            "`bundles` is one path",
            expected="a list of folders, or folders by name",
            fix="pass [PATH]; or kdx.load",
        )
    if isinstance(bundles, Mapping):
        named = [(name, require_path(path, "bundles", _WHAT)) for name, path in bundles.items()]
    else:
        paths = [require_path(path, "bundles", _WHAT) for path in bundles]
        named = [(folder_name(path).removesuffix(".kdx"), path) for path in paths]
    if not named:
        raise OptionError("there are no bundles to load", expected="a list of folders, or folders by name")
    found = dict(named)
    if len(found) < len(named):
        names = [name for name, _ in named]
        twice = next(name for name in names if names.count(name) > 1)
        raise OptionError(f"two bundles are named '{twice}'", fix="name them: load_many({'NAME': PATH, ...})")
    return found


def _open(path: Path, require_signature: PublicKeys | None) -> Bundle:
    if is_run(path):
        raise BundleError(f"'{path}' is a run, not a bundle", fix="export it: kdx export RUN -o NAME.kdx")
    return open_bundle(path, require_signature=require_signature)


def _share(bundles: Mapping[str, Bundle], backend: str, threads: int | None, precision: str | None) -> DetectorGroup:
    """Load bundles that must have one teacher."""
    if backend not in {"auto", SHARING}:
        find_backend(backend)  # refuses a name that is none
        raise BackendError(
            f"the backend '{backend}' cannot share a teacher",
            expected=f"auto or {SHARING}",
            fix="load them without a shared teacher: each bundle has a session of its own then",
        )
    tiled = next((name for name, bundle in bundles.items() if bundle.manifest.tiling is not None), None)
    if tiled is not None:
        raise BackendError(
            f"'{tiled}' cuts frames into tiles, which go through one bundle at a time",
            fix="load them without a shared teacher",
        )
    plans, used = one_teacher(bundles, precision)
    teacher = _teacher(plans, threads)
    return DetectorGroup(
        {name: detector_on(bundle, teacher.student(name), used) for name, bundle in bundles.items()}, [teacher]
    )


def _teacher(plans: Mapping[str, Plan], threads: int | None) -> SharedTeacher:
    from kdx.runtime.openvino.shared_teacher import shared_teacher

    return shared_teacher(plans, threads)
