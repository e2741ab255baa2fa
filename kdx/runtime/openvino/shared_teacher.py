"""One teacher and several students in OpenVINO: its weights exist once, one pass serves all.

Each student is compiled together with its own part of the tail, and reads the teacher's features
without a copy.
"""

from __future__ import annotations

import hashlib
import queue
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdx.bundle.checked_files import Graph
from kdx.bundle.graph_contract import OUTPUTS
from kdx.errors import BackendError, KdxError
from kdx.runtime.backend import ClosesOnExit, Outputs
from kdx.runtime.openvino.batch_cache import BatchCache
from kdx.runtime.openvino.blob_cache import BlobCache
from kdx.runtime.openvino.compilation import (
    KEPT_BATCH_SIZES,
    blob_folder,
    configuration,
    image_tensor,
    load_compiled,
    read_graph,
    require_bf16,
)
from kdx.runtime.openvino.split import Outline, TensorId, own_part, shared_part

_CLOSED = ("the detector is closed", "load the bundles again")


@dataclass(frozen=True)
class Plan:
    """A graph that will be compiled, and an outline of its operations.

    Attributes:
        graph: The graph, whose content was checked.
        precision: ``fp32``, ``int8``, or ``bf16``, for the FP32 graph computed in BF16.
        outline: The outline of the graph.
        image_shape: The height, width and channels of its images.
    """

    graph: Graph
    precision: str
    outline: Outline
    image_shape: tuple[int, ...]

    @property
    def teacher(self) -> str:
        """A digest of the teacher and the preprocessing before it; empty without a teacher."""
        return hashlib.sha256(b"".join(sorted(self.outline.teacher))).hexdigest() if self.outline.teacher else ""


def plan_of(graph: Graph, precision: str) -> Plan:
    """Read a graph and outline it.

    Raises:
        BackendError: OpenVINO cannot read the graph, or the CPU does not support the precision.
        BundleError: The graph's file was replaced or altered since the bundle was opened.
    """
    if precision == "bf16":
        require_bf16()
    try:
        model = read_graph(graph.read(), 1)
        return Plan(graph, precision, Outline(model), tuple(model.input(0).shape)[1:])
    except KdxError:
        raise
    except Exception as error:  # OpenVINO's exceptions have no common base but Exception
        raise BackendError(f"OpenVINO cannot load '{graph.path}': {error}") from error


def first_difference(plan: Plan, other: Plan) -> str:
    """Return the teacher's first operation that the other graph lacks; empty for none."""
    return next((name for digest, name in plan.outline.teacher.items() if digest not in other.outline.digests), "")


class SharedTeacher(ClosesOnExit):
    """A teacher and its students, compiled separately.

    Calls from several threads at once are safe. Each batch size is compiled at its first call, and
    the last few are kept, as in :class:`kdx.runtime.openvino.backend.OpenVino`; a student is
    compiled for a batch size at its first call.

    Args:
        plans: The plans by student, all of one precision and with one teacher.
        threads: Threads of one inference; None leaves it to OpenVINO (one per physical core).
        cache: The folder in which compiled models are kept; None keeps none.

    Attributes:
        names: The names of the students.

    Raises:
        BackendError: The teachers differ, or OpenVINO cannot compile a graph.
    """

    def __init__(self, plans: Mapping[str, Plan], threads: int | None = None, *, cache: Path | None = None) -> None:
        self.names = tuple(plans)
        first = plans[self.names[0]]
        if not first.teacher or len({(plan.teacher, plan.precision) for plan in plans.values()}) > 1:
            raise BackendError("these graphs have no teacher in common", fix="load each bundle by itself")
        self._image_shape = first.image_shape
        config = configuration("bf16" if first.precision == "bf16" else "f32", threads)
        self._parts = _Parts(plans, config, BlobCache(cache, private=first.graph.seal is not None))
        # It must not refer to this object, so that a teacher that is dropped without closing is
        # freed at once.
        self._compiled: BatchCache[int, _CompiledGroup] = BatchCache(self._parts.compile, KEPT_BATCH_SIZES)
        self.keep([1])  # as in kdx.runtime.openvino.backend.OpenVino
        try:
            # So that an invalid graph fails here.
            compiled = self._compiled.get(1)
            for name in self.names:
                compiled.students.get(name)
        except KdxError:
            raise
        except Exception as error:
            raise BackendError(f"OpenVINO cannot load '{first.graph.path}' in parts: {error}") from error

    def run(self, images: NDArray[np.uint8], names: Sequence[str] | None = None) -> dict[str, Outputs]:
        """Run the teacher once, and then some students on its features.

        Args:
            images: uint8 ``(N, H, W, C)``, C-contiguous.
            names: The names of the students; None for all.

        Raises:
            BackendError: The batch does not fit the graphs, or OpenVINO failed. The next call may
                succeed.
        """
        if images.dtype != np.uint8 or images.shape[1:] != self._image_shape or not len(images):
            raise BackendError(
                "the batch does not fit the graphs",
                expected=f"uint8 (N, {', '.join(map(str, self._image_shape))})",
                received=f"{images.dtype} {images.shape}",
            )
        wanted = self.names if names is None else tuple(dict.fromkeys(names))
        try:
            return self._compiled.get(len(images)).run(images, wanted)
        except BackendError:
            raise
        except Exception as error:
            raise BackendError(f"OpenVINO failed on a batch of shape {images.shape}: {error}") from error

    def student(self, name: str) -> Student:
        """Return one student as a separate backend."""
        return Student(self, name)

    def close(self) -> None:
        """Free the compiled models. Calls that are running finish as usual."""
        self._compiled.close()
        self._parts.close()

    def keep(self, batches: Sequence[int]) -> None:
        """Keep the models of these batch sizes, however many others are used."""
        self._compiled.keep(batches)


class Student(ClosesOnExit):
    """One student of a shared teacher as a backend: a call runs the teacher and the student.

    Args:
        teacher: The shared teacher.
        student: The student's name.
    """

    name = "openvino"

    def __init__(self, teacher: SharedTeacher, student: str) -> None:
        self._teacher: SharedTeacher | None = teacher
        self._student = student

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Run a batch; see :class:`kdx.runtime.backend.Backend`."""
        teacher = self._teacher
        if teacher is None:
            raise BackendError(_CLOSED[0], fix=_CLOSED[1])
        return teacher.run(images, [self._student])[self._student]

    def keep(self, batches: Sequence[int]) -> None:
        """Keep the models of these batch sizes, however many others are used."""
        if self._teacher is not None:
            self._teacher.keep(batches)

    def close(self) -> None:
        """Release the teacher, which continues to serve the other students."""
        self._teacher = None


class _Parts:
    """Compiles a teacher and its students as parts of their graphs.

    Args:
        plans: The plans by student.
        config: The configuration with which to compile.
        cache: The cache of compiled models.
    """

    def __init__(self, plans: Mapping[str, Plan], config: dict[str, Any], cache: BlobCache) -> None:
        self._plans = dict(plans)
        self._config = config
        self._cache = cache
        self._shared = frozenset[bytes].intersection(*(plan.outline.digests for plan in plans.values()))
        self._cuts = {name: plan.outline.cuts(self._shared) for name, plan in plans.items()}
        self._features = list(dict.fromkeys(tensor for cuts in self._cuts.values() for tensor in cuts))
        self._contents = {name: plan.graph.hold() for name, plan in plans.items()}

    def compile(self, batch: int) -> _CompiledGroup:
        """Compile the teacher for a batch size; each student is compiled at its first call."""
        return _CompiledGroup(self._load_teacher(batch), lambda name: self._load_student(name, batch), self._cuts)

    def close(self) -> None:
        """Close the graphs."""
        for content in self._contents.values():
            content.close()

    def _load_teacher(self, batch: int) -> Any:
        # The digests of the features identify what the teacher computes, including its weights, in
        # whichever graph.
        content = next(iter(self._contents.values()))
        return self._load(lambda: shared_part(read_graph(content.read(), batch), self._features), batch, self._features)

    def _load_student(self, name: str, batch: int) -> Any:
        content = (self._plans[name].graph.sha256, *self._cuts[name])
        return self._load(
            lambda: own_part(read_graph(self._contents[name].read(), batch), self._shared), batch, content
        )

    def _load(self, part: Callable[[], Any], batch: int, content: Sequence[object]) -> Any:
        return load_compiled(self._cache, self._config, ("part", *content, batch), part)


class _CompiledGroup:
    """The compiled models of a batch size, and inference requests that share tensors."""

    def __init__(self, teacher: Any, load_student: Callable[[str], Any], cuts: Mapping[str, list[TensorId]]) -> None:
        self.teacher = teacher
        self.students = BatchCache(load_student)
        self._cuts = cuts
        self._idle: queue.SimpleQueue[_Lane] = queue.SimpleQueue()

    def run(self, images: NDArray[np.uint8], names: Sequence[str]) -> dict[str, Outputs]:
        try:
            lane = self._idle.get_nowait()
        except queue.Empty:
            lane = _Lane(self.teacher.create_infer_request(), {})
        # The image and the features are not copied; the outputs are copies.
        lane.teacher.infer(image_tensor(images), share_inputs=True, share_outputs=True)
        outputs = {name: self._run_student(lane, name) for name in names}
        self._idle.put(lane)
        return outputs

    def _run_student(self, lane: _Lane, name: str) -> Outputs:
        if name not in lane.students:
            request = self.students.get(name).create_infer_request()
            for tensor in self._cuts[name]:
                request.set_tensor(tensor.name, lane.teacher.get_tensor(tensor.name))
            lane.students[name] = request
        results = lane.students[name].infer()
        return Outputs(*(results[output] for output in OUTPUTS))


@dataclass(frozen=True)
class _Lane:
    """A request of the teacher, and requests of students that read its outputs, for one thread."""

    teacher: Any
    students: dict[str, Any]


def shared_teacher(plans: Mapping[str, Plan], threads: int | None = None) -> SharedTeacher:
    """Return a shared teacher that keeps compiled models where the backend ``openvino`` does."""
    folders = [blob_folder(plan.graph) for plan in plans.values()]
    return SharedTeacher(plans, threads, cache=None if None in folders else folders[0])
