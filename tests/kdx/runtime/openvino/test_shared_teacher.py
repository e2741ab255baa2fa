"""One teacher, several students: what is cut is what is the same, and each student judges as in a
graph of its own."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from kdx.bundle.checked_files import Graph
from kdx.errors import BackendError, BundleError
from kdx.verification.tolerances import FP32, TOLERANCES
from tests.conftest import BLUR, CAMERA
from tests.images import solar_cells
from tests.students import other_student, other_teacher

pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'kdx[openvino]'")
kdx_openvino = pytest.importorskip("kdx.runtime.openvino.backend")
shared = pytest.importorskip("kdx.runtime.openvino.shared_teacher")
OpenVino, SharedTeacher, plan_of = kdx_openvino.OpenVino, shared.SharedTeacher, shared.plan_of
# With these, the fixture ``exported`` has exported the same structures.
SIZE, BATCH = CAMERA, 8


def require_same(ours, theirs, tolerances=FP32) -> None:
    scale = np.abs(theirs.scores).clip(1e-30)
    assert (np.abs(ours.scores - theirs.scores) <= tolerances.score * scale).all()
    extent = np.ptp(theirs.maps, axis=(1, 2))
    assert (np.abs(ours.maps - theirs.maps).max(axis=(1, 2)) <= tolerances.map * extent).all()


def shared_by(graphs: dict[str, Path], precision: str = "fp32", cache: Path | None = None):
    plans = {name: plan_of(Graph.of(graph), precision) for name, graph in graphs.items()}
    return SharedTeacher(plans, 1, cache=cache)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory) -> dict[str, Path]:
    """STPM with three students."""
    from kd_export.onnx.onnx_export import export_onnx
    from kdx.imaging.images import InputSpec
    from tests.pairs import fuse_pair, make_pair

    folder = tmp_path_factory.mktemp("stpm")
    spec = InputSpec(height=SIZE[0], width=SIZE[1])
    detector = fuse_pair(make_pair("stpm", "test_resnet", sigma=BLUR), spec, 64)
    export_onnx(detector, folder / "a.onnx", max_batch=BATCH, metadata={})
    return {"a": folder / "a.onnx"} | {
        name: other_student(folder / "a.onnx", folder / f"{name}.onnx", seed) for seed, name in enumerate("bc")
    }


@pytest.fixture(scope="module")
def teacher(graphs):
    with shared_by(graphs) as opened:
        yield opened


@pytest.fixture(scope="module")
def alone(graphs):
    """Each student's outputs for eight images, in a graph of its own."""
    found = {}
    for name, graph in graphs.items():
        with OpenVino(Graph.of(graph), 1) as backend:
            found[name] = backend.run(solar_cells(8, SIZE))
    return found


@pytest.mark.slow
def test_every_methods_students_judge_as_alone(exported, tmp_path) -> None:
    images = solar_cells(3, (72, 80))
    graphs = {"first": exported.fp32, "second": other_student(exported.fp32, tmp_path / "second.onnx", 0)}
    with shared_by(graphs) as teacher:
        together = teacher.run(images)
        assert list(together) == ["first", "second"]
        for name, graph in graphs.items():
            with OpenVino(Graph.of(graph), 1) as backend:
                require_same(together[name], backend.run(images))
    assert np.abs(together["first"].maps - together["second"].maps).max() > 0, "the students are the same"


@pytest.mark.slow
def test_the_weights_of_the_teacher_are_in_its_part_alone(exported, tmp_path) -> None:
    second = other_student(exported.fp32, tmp_path / "second.onnx", 0)
    with shared_by({"first": exported.fp32, "second": second}) as teacher:
        parts = teacher._compiled.get(1)

        def names(model) -> set[str]:
            notes = [op.get_rt_info()["originalLayersNames"].value for op in model.get_runtime_model().get_ops()]
            return {name for note in notes for name in note.split(",")}

        teachers = {node.name for node in onnx.load(exported.fp32).graph.node if node.name.startswith("pair.teacher")}
        convolutions = {name for name in teachers if name.endswith("/Conv")}
        assert convolutions <= names(parts.teacher)
        for student in parts.students.made().values():
            assert not teachers & names(student)


@pytest.mark.slow
def test_methods_of_one_teacher_share_it(graphs, alone, tmp_path) -> None:
    from kd_export.onnx.onnx_export import export_onnx
    from kdx.imaging.images import InputSpec
    from tests.pairs import fuse_pair, make_pair

    pair = make_pair("reverse-distillation", "test_resnet", sigma=BLUR)
    pair.teacher.load_state_dict(make_pair("stpm", "test_resnet", sigma=BLUR).teacher.state_dict())
    other = tmp_path / "reverse.onnx"
    spec = InputSpec(height=SIZE[0], width=SIZE[1])
    export_onnx(fuse_pair(pair, spec, 64), other, max_batch=BATCH, metadata={})
    images = solar_cells(8, SIZE)
    with shared_by({"a": graphs["a"], "other": other}) as teacher, OpenVino(Graph.of(other), 1) as backend:
        together = teacher.run(images)
        require_same(together["a"], alone["a"])
        require_same(together["other"], backend.run(images))


@pytest.mark.slow
def test_a_student_is_a_backend_of_its_own(teacher, alone) -> None:
    images = solar_cells(8, SIZE)
    with teacher.student("b") as student:
        assert student.name == "openvino"
        for batch in (1, 3, 8):
            ours = student.run(images[:batch])
            np.testing.assert_allclose(ours.scores, alone["b"].scores[:batch], rtol=FP32.score)
        # At a batch size, only students that were asked for are compiled.
        assert set(teacher._compiled.get(3).students.made()) == {"b"}
    with pytest.raises(BackendError, match="closed"):
        student.run(images)
    assert set(teacher.run(images[:1], ["c", "a", "c"])) == {"a", "c"}


def test_outputs_are_the_callers_own(teacher) -> None:
    images = solar_cells(2, SIZE)
    first = teacher.run(images[:1])["a"]
    kept = first.maps.copy()
    first.maps[...] = 0  # writable
    second = teacher.run(images[1:])["a"]
    again = teacher.run(images[:1])["a"]
    assert not np.shares_memory(first.maps, again.maps)
    np.testing.assert_array_equal(again.maps, kept)
    assert not np.array_equal(second.maps, kept)


def test_threads_get_their_own_answers(teacher) -> None:
    images = solar_cells(8, SIZE)
    expected = [teacher.run(images[i : i + 1]) for i in range(8)]
    together = threading.Barrier(4)

    def judge(start: int) -> None:
        together.wait()
        for step in range(24):
            index = (start + step) % 8
            names = ["abc"[start % 3]] if start else None
            for name, ours in teacher.run(images[index : index + 1], names).items():
                np.testing.assert_array_equal(ours.maps, expected[index][name].maps)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(judge, start) for start in range(4)]:
            done.result()


def test_wrong_batches_are_refused_and_the_next_one_runs(teacher) -> None:
    images = solar_cells(2, SIZE)
    image = images[:1].copy()
    image.flags.writeable = False
    for wrong in (images[:, :32], images.astype(np.float32), images[:0], images[0]):
        with pytest.raises(BackendError, match="does not fit the graphs"):
            teacher.run(wrong)
    assert teacher.run(image)["a"].scores.shape == (1, 1)


@pytest.mark.slow
def test_closing(graphs) -> None:
    teacher = shared_by(graphs)
    student = teacher.student("a")
    teacher.close()
    teacher.close()
    for run in (teacher.run, student.run):
        with pytest.raises(BackendError, match="closed"):
            run(solar_cells(1, SIZE))


def test_other_teachers_are_refused(graphs, tmp_path) -> None:
    plans = {"a": plan_of(Graph.of(graphs["a"]), "fp32")}
    plans["b"] = plan_of(Graph.of(other_teacher(graphs["b"], tmp_path / "b.onnx")), "fp32")
    with pytest.raises(BackendError, match="no teacher in common"):
        SharedTeacher(plans, 1)
    # The altered weight is the last convolution's: everything before it is the same.
    assert "layer" in shared.first_difference(plans["a"], plans["b"])
    assert shared.first_difference(plans["a"], plan_of(Graph.of(graphs["c"]), "fp32")) == ""


def test_one_graph_twice_is_computed_once(graphs, alone) -> None:
    images = solar_cells(8, SIZE)[:1]
    with shared_by({"a": graphs["a"], "again": graphs["a"]}) as teacher:
        together = teacher.run(images)
    np.testing.assert_array_equal(together["a"].maps, together["again"].maps)
    np.testing.assert_allclose(together["a"].scores, alone["a"].scores[:1], rtol=FP32.score)


def test_graphs_that_are_none_are_refused(tmp_path) -> None:
    (tmp_path / "torn.onnx").write_bytes(b"\x08\x0a\x12")
    with pytest.raises(BackendError, match=r"torn\.onnx"):
        plan_of(Graph.of(tmp_path / "torn.onnx"), "fp32")
    with pytest.raises(BundleError, match=r"missing\.onnx"):
        plan_of(Graph(tmp_path / "missing.onnx", "0" * 64), "fp32")


def test_a_graph_without_a_teacher_is_no_partner(graphs, tmp_path) -> None:
    model = onnx.load(graphs["a"])
    for node in model.graph.node:
        node.name = node.name.replace("pair.teacher", "pair.other")
        for names in (node.input, node.output):
            names[:] = [name.replace("pair.teacher", "pair.other") for name in names]
    for tensor in model.graph.initializer:
        tensor.name = tensor.name.replace("pair.teacher", "pair.other")
    onnx.save(model, tmp_path / "own.onnx")
    plan = plan_of(Graph.of(tmp_path / "own.onnx"), "fp32")
    assert plan.teacher == ""
    with pytest.raises(BackendError, match="no teacher in common"):
        SharedTeacher({"one": plan, "two": plan}, 1)


def test_what_was_compiled_is_loaded_the_next_time(graphs, tmp_path, monkeypatch) -> None:
    images = solar_cells(2, SIZE)
    with shared_by(graphs, cache=tmp_path) as first:
        expected = first.run(images[:1])
    assert len(list(tmp_path.iterdir())) == 4  # the teacher and three students
    for part in ("shared_part", "own_part"):
        monkeypatch.setattr(shared, part, lambda *_: pytest.fail("compiled again"))
    with shared_by(graphs, cache=tmp_path) as second:
        for name, ours in second.run(images[:1]).items():
            np.testing.assert_array_equal(ours.maps, expected[name].maps)


# INT8 and BF16


@pytest.fixture(scope="module")
def int8(graphs, tmp_path_factory) -> dict[str, Path]:
    """Two students and their teacher quantised on the same images, and on others."""
    from kd_export.precision.quantize import quantize

    folder, images = tmp_path_factory.mktemp("int8"), solar_cells(4, SIZE)
    found = {}
    for name, graph, used in (("a", "a", images), ("b", "b", images), ("elsewhere", "b", images[:1] // 2)):
        found[name] = folder / f"{name}.onnx"
        onnx.save(quantize(onnx.load(graphs[graph]), used), found[name])
    return found


@pytest.mark.slow
def test_int8_teachers_of_the_same_scales_are_shared(int8) -> None:
    images = solar_cells(4, SIZE)
    graphs = {name: int8[name] for name in ("a", "b")}
    with shared_by(graphs, "int8") as teacher:
        together = teacher.run(images)
    for name, graph in graphs.items():
        with OpenVino(Graph.of(graph), 1) as backend:
            apart = backend.run(images)
        # A sum that is rounded otherwise can fall to the next of 127 steps: rarely, and then by
        # little.
        require_same(together[name], apart, TOLERANCES["int8"])
        assert np.median(np.abs(together[name].maps - apart.maps)) < 1e-5 * np.ptp(apart.maps)


def test_int8_teachers_of_other_scales_are_other_teachers(int8) -> None:
    plans = {name: plan_of(Graph.of(graph), "int8") for name, graph in int8.items()}
    assert plans["a"].teacher == plans["b"].teacher != plans["elsewhere"].teacher
    with pytest.raises(BackendError, match="no teacher in common"):
        SharedTeacher({name: plans[name] for name in ("a", "elsewhere")}, 1)


def test_quantised_features_are_not_handed_over(int8) -> None:
    plans = {name: plan_of(Graph.of(int8[name]), "int8") for name in ("a", "b")}
    with SharedTeacher(plans, 1) as teacher:
        models = [teacher._compiled.get(1).teacher]
        assert {str(port.element_type) for port in models[0].outputs} == {"<Type: 'float32'>"}
        for student in teacher._compiled.get(1).students.made().values():
            assert {str(port.element_type) for port in student.inputs} == {"<Type: 'float32'>"}
            layers = [op.get_rt_info() for op in student.get_runtime_model().get_ops()]
            kinds = {note["runtimePrecision"].value for note in layers if note["layerType"].value == "Convolution"}
            assert kinds <= {"i8", "u8"}, "the students are not INT8 any more"


@pytest.mark.slow
def test_bf16_is_shared_without_scales(graphs) -> None:
    from kdx.runtime.openvino.compilation import offers_bf16

    if not offers_bf16():
        with pytest.raises(BackendError, match="does not support BF16"):
            plan_of(Graph.of(graphs["a"]), "bf16")
        return
    images = solar_cells(2, SIZE)
    with shared_by(graphs, "bf16") as teacher, shared_by(graphs) as exact:
        half, full = teacher.run(images), exact.run(images)
    with OpenVino(Graph.of(graphs["b"]), 1, precision="bf16") as backend:
        alone = backend.run(images)
    moved = np.abs(half["b"].scores / full["b"].scores - 1).max()
    assert 0 < moved < 0.05
    assert np.abs(half["b"].scores / alone.scores - 1).max() < 0.05


def test_precisions_do_not_mix(graphs, int8) -> None:
    plans = {"a": plan_of(Graph.of(graphs["a"]), "fp32"), "b": plan_of(Graph.of(int8["b"]), "int8")}
    with pytest.raises(BackendError, match="no teacher in common"):
        SharedTeacher(plans, 1)


def test_what_a_digest_proves(graphs, tmp_path) -> None:
    """One number in a constant, or one attribute, is another teacher; names are nothing."""
    plan = plan_of(Graph.of(graphs["a"]), "fp32")
    renamed = onnx.load(graphs["a"])
    for tensor in renamed.graph.initializer:
        for node in renamed.graph.node:
            node.input[:] = [f"{name}!" if name == tensor.name else name for name in node.input]
        tensor.name += "!"
    onnx.save(renamed, tmp_path / "renamed.onnx")
    assert plan_of(Graph.of(tmp_path / "renamed.onnx"), "fp32").teacher == plan.teacher
    wide = onnx.load(graphs["a"])
    mean = next(tensor for tensor in wide.graph.initializer if tensor.name == "preprocess.mean")
    mean.CopyFrom(numpy_helper.from_array(np.nextafter(numpy_helper.to_array(mean), np.float32(999)), mean.name))
    onnx.save(wide, tmp_path / "mean.onnx")
    assert plan_of(Graph.of(tmp_path / "mean.onnx"), "fp32").teacher != plan.teacher
