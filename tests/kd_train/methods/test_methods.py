"""Every method: compared with its paper's equations, trained, exported, and verified."""

from __future__ import annotations

import functools
import itertools
import json

import numpy as np
import onnx
import pytest
import torch

from kd_train.methods import methods
from kd_train.recipes import load_recipe, paper_recipe
from kd_train.training.losses import FeatureMatching
from kdx.bundle.manifest import GRAPH
from kdx.imaging.images import InputSpec
from kdx.imaging.resampling import antialias_matrix
from tests import conftest, reference
from tests.images import solar_cells
from tests.pairs import fuse_pair, make_pair

# Folding reorders float32 products; relative to the map's range, and to the score.
TOLERANCE = 1e-4
METHODS = sorted(methods())
SIZE = 64
BACKBONE = "test_resnet"
COMPACT = "compact-s"
# A product of cosine distances that are all near 1 says little of a wrong factor; so does a map
# that is flat.
SIGMA = 1.5


def by_hand(method: str, features: list, size: tuple[int, int], sigma: float, counts: tuple[int, int]):
    """Return map and score as the method's paper has them."""
    first, second = features[: counts[0]], features[counts[0] :]
    if method == "mixed-teacher":
        return reference.mixed_teacher(first, second, size, sigma)
    if second and method == "stpm":
        deepest = reference.anomaly_map(first[-1:], size, product=False, sigma=0.0)
        return reference.stpm(first, size, sigma)[0], deepest.max() if len(second) == 1 else (deepest**2).sum()
    if method == "dual":
        return reference.summed(first, size, sigma)[0], reference.dual_det(second, size, 0.0)[1]
    single = {
        "stpm": reference.stpm,
        "reduced-student": reference.summed,
        "dual-loc": reference.summed,
        "dual-det": reference.dual_det,
        "dskd": reference.dskd,
        "reverse-distillation": reference.reverse_distillation,
    }[method]
    return single(features, size, sigma)


def reference_features(pair, x: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    with torch.no_grad():
        found = pair(torch.tensor(x.transpose(2, 0, 1)[None], dtype=torch.float32))
    return [(t[0].double().numpy(), s[0].double().numpy()) for t, s in found]


# Two networks whose recipes are the papers': a ResNet, and an EfficientNet, whose features are not
# rectified. And a compact network.
@pytest.mark.slow
@pytest.mark.parametrize("backbone", [BACKBONE, "efficientnet_b0", COMPACT])
@pytest.mark.parametrize(
    ("method", "choices"),
    [*((method, {}) for method in METHODS), *(("stpm", {"scored_by": by}) for by in ("deepest", "deepest-squared"))],
)
def test_map_and_score_are_the_papers(method, choices, backbone) -> None:
    taps = EFFICIENTNET_TAPS.get(method, "") if backbone == "efficientnet_b0" else ""
    pair = make_pair(method, backbone, taps, SIGMA, **choices)
    size = (SIZE, 2 * SIZE)
    images = solar_cells(2, size)
    detector = fuse_pair(pair, InputSpec(height=size[0], width=size[1]), size)
    maps, scores = (output.numpy() for output in detector(torch.from_numpy(images)))
    counts = tuple(len(part.taps) for part in pair.spec.maps)
    for image, ours, score in zip(images, maps, scores, strict=True):
        x = (image.astype(np.float64) / 255 - np.array(pair.mean)) / np.array(pair.std)
        theirs, expected = by_hand(method, reference_features(pair, x), size, SIGMA, counts)
        assert np.abs(ours - theirs).max() <= TOLERANCE * np.ptp(theirs)
        assert score[0] == pytest.approx(expected, rel=TOLERANCE)
    assert np.ptp(maps, axis=(1, 2)).min() > 0


# Shallow and deep enough for 64 pixels.
EFFICIENTNET_TAPS = {
    "mixed-teacher": "bn1,blocks.1,blocks.2/blocks.3,blocks.4",
    "dual": "blocks.1,blocks.2/blocks.3,blocks.5",
    "dskd": "blocks.1,blocks.2,blocks.4",
}


CHOICES = [
    *(("dual-det", {"part": part}) for part in ("kd", "ae")),
    *(("dual", {"scored_by": by}) for by in ("loc", "both")),
    *(
        ("dskd", {"structure": structure, "dfe": dfe})
        for structure, dfe in itertools.product(("ds", "t-e", "t-d", "e-d"), ("yes", "no"))
    ),
    *(("dskd", {"maps": number}) for number in ("1", "2", "3")),
    ("stpm", {"combine": "sum", "score": "sum"}),
    *(("stpm", {"scored_by": by}) for by in ("deepest", "deepest-squared")),
    ("mixed-teacher", {"score": "max"}),
    ("dual-det", {"combine": "sum"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "choices"),
    CHOICES,
    ids=lambda value: value if isinstance(value, str) else "-".join(value.values()),
)
def test_every_option_makes_another_detector_that_can_be_trained(method, choices) -> None:
    default, chosen = scores_of_trainable(method), scores_of_trainable(method, **choices)
    assert not np.allclose(default, chosen, rtol=1e-3) or choices == {"structure": "ds", "dfe": "yes"}


@functools.cache
def scores_of_trainable(method: str, **choices: str) -> np.ndarray:
    """Return the scores of a pair whose students all learn, and whose teacher does not."""
    pair = make_pair(method, BACKBONE, "", SIGMA, **choices)
    images = torch.from_numpy(solar_cells(2, (SIZE, SIZE)))
    _, scores = fuse_pair(pair, InputSpec(height=SIZE, width=SIZE), SIZE)(images)
    pair.train()
    x = torch.randn(2, 3, SIZE, SIZE)
    FeatureMatching(pair.spec, pair.channels)(pair.compare_training(x, pair.teacher_features(x))).backward()
    learning = {name for name, p in pair.named_parameters() if p.grad is not None}
    assert learning == {name for name, _ in pair.named_parameters() if not name.startswith("teacher.")}
    return scores.numpy()


@pytest.mark.parametrize("backbone", [BACKBONE, COMPACT])
@pytest.mark.parametrize(
    ("method", "choices"),
    [*((method, {}) for method in METHODS), ("dual-det", {"part": "ae"}), ("dskd", {"structure": "t-d"})],
)
def test_students_of_damaged_images_are_compared_with_the_undamaged_ones(method, choices, backbone) -> None:
    pair = make_pair(method, backbone, "", SIGMA, **choices)
    good, damaged = torch.randn(2, 2, 3, SIZE, SIZE)
    targets = pair.teacher_features(good)
    expected = [target for target, _ in pair.compare_training(good, targets)]
    compared = pair.compare_damaged(damaged, targets)
    seen = pair.compare_training(damaged, pair.teacher_features(damaged))
    for target, (ours, student), (_, same_input) in zip(expected, compared, seen, strict=True):
        assert torch.equal(ours, target)
        assert torch.equal(student, same_input)  # the student's answer depends on what it sees alone
    FeatureMatching(pair.spec, pair.channels)(pair.train().compare_damaged(damaged, targets)).backward()
    assert all(p.grad is not None for name, p in pair.named_parameters() if not name.startswith("teacher."))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "choices"), [("dual-det", ("--part", "ae")), ("dskd", ("--structure=e-d", "--score", "sum"))]
)
def test_the_command_line_takes_a_methods_own_options(method, choices, tmp_path, dataset, cli, tiny_options) -> None:
    run, bundle = tmp_path / "run", tmp_path / "tile.kdx"
    cli("train", dataset, "-o", run, "--method", method, "--epochs", 1, *tiny_options, *choices)
    assert cli("export", run, "-o", bundle, "--max-batch", 1, "--json").json["certificate"]["passed"]
    recipe = json.loads((run / "run.json").read_text(encoding="utf-8"))["recipe"]
    assert recipe["options"] == ({"part": "ae"} if method == "dual-det" else {"structure": "e-d"})
    assert recipe["score"] == (None if method == "dual-det" else "sum")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--method", "dual-det", "--part", "both"),
            ("invalid --part for the method", "kd+ae, kd, ae", "both"),
        ),
        (("--method", "stpm", "--part", "ae"), ("stpm has no option --part", "--method dual or --method dual-det")),
        (("--method", "dskd", "--strcture", "ds"), ("dskd has no option --strcture", "--structure")),
        (("--epohcs", "3"), ("stpm has no option --epohcs", "--epochs")),
        (("--size", "64"), ("stpm has no option --size", "expected: --batch-size or --image-size\n")),
        (("--method", "dskd", "--structure"), ("--structure needs a value",)),
        (("surplus",), ("'surplus' was not expected",)),
        (("--combine", "mean"), ("invalid --combine", "sum, product")),
        (("--distance", "cosine"), ("--distance is no longer an option", "leave it out: half the squared distance")),
        (("--taps", "layer1/layer2"), ("--taps does not fit the method", "one list of taps")),
        (("--method", "dual", "--taps", "layer1"), ("--taps does not fit the method", "2 groups")),
        (("--method", "dual", "--backbone", "a,b,c"), ("--backbone does not fit the method", "one, or 2")),
        (("--crop-from", "32"), ("--crop-from is out of range", "64 to 4096")),
        (
            ("--method", "dskd", "--taps", "layer1,layer2", "--maps", "3"),
            ("invalid --maps for the method", "1 to 2"),
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments, said, tmp_path, dataset, cli, tiny_options) -> None:
    message = cli("train", dataset, "-o", tmp_path / "run", "--epochs", 1, *tiny_options, *arguments, code=2).stderr
    assert all(part in message for part in said), message
    assert not (tmp_path / "run").exists()


def test_every_method_is_trained_in_these_tests() -> None:
    assert list(conftest.METHODS) == METHODS


@pytest.mark.slow
def test_two_epochs_lower_the_loss(trained) -> None:
    assert trained.result["epochs"] == 2
    history = json.loads((trained.folder / "run/last.json").read_text(encoding="utf-8"))["history"]
    assert history[1]["train_loss"] < history[0]["train_loss"], trained.name


def test_the_bundle_is_verified_at_two_batch_sizes(trained, cli) -> None:
    certificate = cli("verify", trained.folder / "tile.kdx", "--json").json
    assert certificate["passed"]
    compared = {(comparison["precision"], comparison["batch"]) for comparison in certificate["comparisons"]}
    assert {precision for precision, _ in compared} == {"fp32", "fp16"}
    assert len(compared) >= 4


def test_the_graph_has_one_input_one_normalisation_and_nothing_left_over(trained) -> None:
    graph = onnx.load(trained.folder / "tile.kdx" / GRAPH).graph
    assert [value.name for value in graph.input] == ["image"]
    wanted = {"anomaly_map", "anomaly_score"}
    for node in reversed(graph.node):
        assert wanted & set(node.output), f"{node.op_type} leads to no output"
        wanted.update(node.input)
    used = {name for node in graph.node for name in node.input}
    assert all(tensor.name in used for tensor in graph.initializer)
    assert sum(node.op_type == "Cast" for node in graph.node) == 1
    # From the input to the first convolutions there is one path: cast, separation of the channels,
    # subtraction of the mean.
    consumers: dict[str, list] = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    name, path = "image", []
    while len(consumers[name]) == 1 and consumers[name][0].op_type != "Conv":
        path.append(consumers[name][0].op_type)
        name = consumers[name][0].output[0]
    assert path.count("Sub") == 1
    # The recipe resizes: windows of an axis are selected and multiplied.
    assert set(path) <= {"Cast", "Reshape", "Transpose", "Sub", "MatMul", "Gather"}
    assert {node.op_type for node in consumers[name]} == {"Conv"}


@pytest.mark.slow
@pytest.mark.parametrize("trained", ["dskd"], indirect=True)
def test_only_the_method_that_is_not_deployed_is_missing_from_the_graph(
    trained, tmp_path, dataset, cli, tiny_options
) -> None:
    # DSKD with its decoder alone uses no layer of the first student; with it, the teacher's size
    # comes on top.
    decoder, bundle = tmp_path / "run", tmp_path / "tile.kdx"
    cli("train", dataset, "-o", decoder, "--method", "dskd", "--structure", "t-d", "--epochs", 1, *tiny_options)
    cli("export", decoder, "-o", bundle, "--max-batch", 1)
    sizes = {}
    for structure, folder in (("t-d", bundle), ("ds", trained.folder / "tile.kdx")):
        graph = onnx.load(folder / GRAPH).graph
        sizes[structure] = sum(node.op_type == "Conv" for node in graph.node)
        taps = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))["pair_spec"]
        assert len(taps["maps"][0]["taps"]) == 3
        assert len(taps["trained"]) == (3 if structure == "ds" else 0)
    teacher = make_pair("stpm", BACKBONE).teacher
    convolutions = sum(isinstance(module, torch.nn.Conv2d) for module in teacher.modules())
    assert sizes["ds"] - sizes["t-d"] == convolutions


def test_dskd_trains_each_student_by_itself() -> None:
    pair = make_pair("dskd", BACKBONE).train()
    x = torch.randn(2, 3, SIZE, SIZE)
    teacher = pair.teacher_features(x)
    compared = pair.compare_training(x, teacher)
    decoded = FeatureMatching(pair.spec, pair.channels)(compared[:3] + [(t, t) for t, _ in compared[3:]])
    decoded.backward()
    assert all(parameter.grad is None for parameter in pair.encoder.parameters())
    assert all(parameter.grad is not None for parameter in pair.decoder.parameters())


def test_the_loss_of_dskd_is_equation_7() -> None:
    pair = make_pair("dskd", BACKBONE).train()
    x = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        compared = pair.compare_training(x, pair.teacher_features(x))
        ours = FeatureMatching(pair.spec, pair.channels)(compared)
    losses = []
    for part in (compared[3:], compared[:3]):  # the two students
        levels = [
            np.mean([
                0.1 * reference.half_squared_l2(t[i].double().numpy(), s[i].double().numpy())
                + reference.cosine(t[i].double().numpy(), s[i].double().numpy())
                for i in range(2)
            ])
            for t, s in part
        ]  # fmt: skip
        losses.append(sum(levels) / 3)
    assert float(ours) == pytest.approx(sum(losses), rel=1e-5)


def test_mixed_teacher_weighs_the_second_teacher_by_alpha_in_the_loss_only() -> None:
    spec = make_pair("mixed-teacher", BACKBONE).spec
    assert [tap.loss_weight for tap in spec.taps] == [1.0, 1.0, 1.0, 0.1, 0.1]
    assert {tap.weight for tap in spec.taps} == {1.0}


def test_reduced_student_compares_at_half_the_size_after_the_stem() -> None:
    pair = make_pair("reduced-student", "resnet18")
    x = torch.randn(1, 3, SIZE, SIZE)
    assert [tuple(t.shape[1:]) for t, _ in pair(x)] == [(64, 32, 32), (64, 8, 8), (128, 4, 4)]
    whole = pair.teacher(x)
    torch.testing.assert_close(pair.teacher_features(x)[0], whole[0])
    pooled = torch.nn.functional.adaptive_avg_pool2d(whole[1], (8, 8))  # Eq. 1
    torch.testing.assert_close(pair.teacher_features(x)[1], pooled)
    # Stem, and per stage one block where the teacher has two.
    blocks = [module for module in pair.student.modules() if type(module).__name__ == "ResidualBlock"]
    assert len(blocks) == 2


def test_the_embedding_and_decoder_of_resnet18_are_those_of_reverse_distillation() -> None:
    pair = make_pair("reverse-distillation", "resnet18")
    features = [torch.randn(1, c, s, s) for c, s in ((64, 16), (128, 8), (256, 4))]
    assert pair.embedding(features).shape == (1, 512, 2, 2)  # ResNet-18's layer4, at stride 32
    shapes = [tuple(feature.shape) for feature in pair.decoder(pair.embedding(features), features)]
    assert shapes == [tuple(feature.shape) for feature in features]
    # 3 x 3: two of F1, one of F2; then 768 -> 512 with stride 2 and its 1 x 1 shortcut, and 512 ->
    # 512 three times.
    convolutions = 9 * (64 * 128 + 128 * 256 + 128 * 256 + 768 * 512 + 3 * 512 * 512) + 768 * 512
    found = sum(p.numel() for name, p in pair.embedding.named_parameters() if p.ndim == 4)
    assert found == convolutions


def test_odd_sizes_come_back_as_they_were() -> None:
    pair = make_pair("reverse-distillation", "tf_efficientnet_lite0", "blocks.2,blocks.4,blocks.6")
    x = torch.randn(1, 3, 160, 160)
    assert [(t.shape, s.shape) for t, s in pair(x)] == [(t.shape, t.shape) for t in pair.teacher_features(x)]
    assert pair.teacher_features(x)[2].shape[2] == 5


def test_students_are_linear_where_the_teacher_is_and_rectified_where_it_is() -> None:
    x = torch.randn(1, 3, SIZE, SIZE)
    for backbone, rectified in (("resnet18", True), ("tf_efficientnet_lite0", False)):
        for method in ("dual-det", "reverse-distillation"):
            students = [s for _, s in make_pair(method, backbone)(x)]
            assert all(bool((s >= 0).all()) is rectified for s in students), (backbone, method)


def test_two_teachers_that_are_one_network_share_its_pass() -> None:
    pair = make_pair("dual", BACKBONE)
    assert len(pair.teacher.networks) == 1
    two = make_pair("dual", f"{BACKBONE},resnet18")
    assert len(two.teacher.networks) == 2


def test_teachers_of_other_statistics_get_their_own_normalisation() -> None:
    pair = make_pair("mixed-teacher", "resnet18,tf_efficientnet_lite0")
    image = solar_cells(1, (SIZE, SIZE))[0]
    scaled = image.astype(np.float64).transpose(2, 0, 1)[None] / 255

    def normalised(network) -> torch.Tensor:
        mean, std = (np.array(values).reshape(1, 3, 1, 1) for values in (network.mean, network.std))
        return torch.tensor((scaled - mean) / std, dtype=torch.float32)

    first, second = pair.teacher.networks
    assert first.mean != second.mean
    with torch.no_grad():
        expected = [*first(normalised(first)), *second(normalised(second))]
        ours = pair.teacher(normalised(first))
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_crop_is_the_centre_of_the_resized_image(tmp_path) -> None:
    pair = make_pair("dual-loc", BACKBONE, sigma=SIGMA)
    camera = solar_cells(2, (90, 100))
    cropped = fuse_pair(pair, InputSpec(height=90, width=100), 64, (72, 72))
    assert cropped.field_of_view == pytest.approx(64 / 72)
    resized = np.einsum("yh,nhwc,xw->nyxc", antialias_matrix(90, 72), camera / 1.0, antialias_matrix(100, 72))
    x = cropped.preprocess(torch.from_numpy(camera)).numpy()
    mean = 255 * np.array(pair.mean)
    np.testing.assert_allclose(x.transpose(0, 2, 3, 1) + mean, resized[:, 4:68, 4:68], atol=1e-3)
    same_size = fuse_pair(pair, InputSpec(height=72, width=72), 64, (72, 72))
    frame = solar_cells(1, (72, 72))
    whole = fuse_pair(pair, InputSpec(height=64, width=64), 64)
    for ours, theirs in zip(
        same_size(torch.from_numpy(frame)), whole(torch.from_numpy(frame[:, 4:68, 4:68])), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("method", METHODS)
def test_recipes_are_complete_and_name_their_source(method) -> None:
    found = methods()[method]
    paper = paper_recipe(found)
    assert paper.backbones
    assert paper.taps or paper.strides
    ours = load_recipe(found, {"backbones": ("tf_efficientnet_lite0",)})
    assert set(ours.backbones) == {"tf_efficientnet_lite0"}


@pytest.mark.slow
@pytest.mark.parametrize("size", [72, 100, 108])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_at_sizes_that_strides_do_not_divide(method, size) -> None:
    pair = make_pair(method, BACKBONE)
    detector = fuse_pair(pair, InputSpec(height=size, width=size), size)
    maps, scores = detector(torch.from_numpy(solar_cells(1, (size, size))))
    assert maps.shape == (1, size, size)
    assert torch.isfinite(scores).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "channels"),
    [
        ("resnet34", (64, 128, 256)),
        ("resnet50", (256, 512, 1024)),
        ("wide_resnet50_2", (256, 512, 1024)),
        ("squeezenet1_1", (128, 256, 512)),
        ("densenet121", (256, 512, 1024)),
    ],
)
def test_stpm_takes_the_backbones_of_its_table_7(backbone, channels) -> None:
    pair = make_pair("stpm", backbone)
    compared = pair(torch.randn(1, 3, SIZE, SIZE))
    assert [t.shape for t, _ in compared] == [s.shape for _, s in compared]
    assert tuple(t.shape[1] for t, _ in compared) == channels
    assert [feature.stride for feature in pair.teacher.features] == [4, 8, 16]


@pytest.mark.parametrize("method", METHODS)
def test_squeezenet_stands_in_for_any_teacher(method) -> None:
    taps = {"dual-det": "features.7,features.12"}
    taps |= dict.fromkeys(("dual", "mixed-teacher"), "features.1,features.4/features.7,features.12")
    compared = make_pair(method, "squeezenet1_1", taps.get(method, ""))(torch.randn(1, 3, 96, 96))
    assert [t.shape for t, _ in compared] == [s.shape for _, s in compared]
