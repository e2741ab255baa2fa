"""A compact teacher learns its source: reproducible, resumable, without the source afterwards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from kd_export.graph.preprocess import Preprocess
from kd_train.data.gate_images import DrawnDefects
from kd_train.data.image_records import BadImages, scan_images
from kd_train.data.image_set import ImageSet
from kd_train.methods import find_method, methods
from kd_train.models.backbones import create_backbone
from kd_train.recipes import load_recipe
from kd_train.training.checkpoints import read_run_record
from kd_train.training.distillation import open_source
from kd_train.training.distilled_teacher import TEACHER_FOLDER
from kd_train.training.from_options import recipe_of
from kd_train.training.run_folder import Run
from kd_train.training.run_images import held_out_files, training_files
from kd_train.training.train import train
from kd_train.training.trained_pair import load_pair
from kdx.errors import CheckpointError, DataError, OptionError, WeightsError
from kdx.imaging.images import read_image
from kdx.workflows.export import training_remarks
from tests.conftest import write_dataset
from tests.images import solar_cells
from tests.kd_train.training.test_trainer import Interrupting, assert_same, tensors
from tests.reference import upsample
from tests.tiny_training import TINY

COMPACT = replace(
    TINY,
    backbone="compact-s",
    teacher_from="test_resnet",
    taps="layer2,layer3",
    epochs=3,
    teacher_epochs=2,
    learning_rate=0.01,
)


class InterruptingTask(Interrupting):
    """Presses Ctrl-C after so many steps of one task."""

    def __init__(self, name: str, steps: int) -> None:
        super().__init__(steps)
        self.name = name

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Interrupting]:
        self.training = description == self.name
        yield self


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory) -> Path:
    """A run that nothing interrupted."""
    return train(dataset, tmp_path_factory.mktemp("compact") / "run", COMPACT).run.path


def assert_same_run(one: Path, other: Path) -> None:
    assert_same(one, other)
    assert_same(one / TEACHER_FOLDER, other / TEACHER_FOLDER)
    ours, theirs = (json.loads((run / "run.json").read_text(encoding="utf-8")) for run in (one, other))
    assert ours["teacher_sha256"] == theirs["teacher_sha256"]
    for name in ("residuals", "comparisons"):
        assert ours["distilled"][name] == theirs["distilled"][name]


def test_the_teacher_learns_its_source_and_the_run_says_how(whole):
    config = Run(whole).config
    distilled = config.distilled
    assert distilled is not None
    assert (distilled.epochs, distilled.variants, distilled.extra_images) == (2, 10, 0)
    assert distilled.images == len(config.train_images)
    history = json.loads((whole / TEACHER_FOLDER / "last.json").read_text(encoding="utf-8"))["history"]
    assert history[1]["train_loss"] < history[0]["train_loss"]
    assert distilled.loss == history[1]["train_loss"]
    assert set(distilled.residuals) == {"layer2", "layer3"}
    # Between equal directions and those of unrelated random vectors.
    assert all(0 < residual.good < 1 and 0 < residual.defects < 1 for residual in distilled.residuals.values())
    assert config.weights == "distilled from test_resnet, random"
    assert config.backbone == "compact-s"
    assert [head.tap for group in config.recipe.heads for head in group] == ["layer2", "layer3"]


def held_out_set(run: Run, data: Path) -> ImageSet:
    bad = BadImages(0)
    return ImageSet(scan_images(held_out_files(run, data), bad), run.config.input, bad, memory_mib=64, workers=0)


def both_networks(run: Run) -> list[Callable[[NDArray[np.uint8]], list[Tensor]]]:
    """Return the source and the compact teacher, from an image to unit vectors at each tap."""
    pair, _ = load_pair(run)
    torch.manual_seed(0)
    source = open_source(run.config.recipe, ("random",))

    def features(network, image):
        config = run.config
        preprocess = Preprocess(config.input, config.recipe.size, network.mean, network.std, scale_is_folded=False)
        with torch.no_grad():
            found = network(preprocess(torch.from_numpy(image.copy())[None]))
        return [torch.nn.functional.normalize(each, dim=1) for each in found]

    return [partial(features, network) for network in (source.teacher, pair.teacher)]


def test_the_residuals_are_the_distance_between_both_networks(whole, dataset):
    """By hand, on the held-out images: half the squared distance of unit vectors."""
    run = Run(whole)
    networks, images = both_networks(run), held_out_set(run, dataset)
    sums = [0.0, 0.0]
    for index in range(len(images)):
        features = [network(images[index]) for network in networks]
        for tap, (one, other) in enumerate(zip(*features, strict=True)):
            sums[tap] += float(0.5 * (one - other).square().sum(1).mean()) / len(images)
    recorded = [residual.good for residual in run.config.distilled.residuals.values()]
    assert recorded == pytest.approx(sums, rel=1e-3)


def test_the_teacher_is_compared_with_its_source_by_nearest_good_features(whole, dataset):
    """By hand, over all positions of all training images, with scikit-learn."""
    from sklearn.metrics import roc_auc_score
    from sklearn.neighbors import NearestNeighbors

    run = Run(whole)
    networks, good = both_networks(run), held_out_set(run, dataset)
    known = [read_image(path, run.config.input) for path in sorted(training_files(run, dataset))]
    defects = list(DrawnDefects(good, run.config.seed))
    assert len(defects) == 3 * len(good)

    def vectors(feature):
        return feature[0].flatten(1).T.numpy()

    found = []
    for network in networks:
        banks = [np.concatenate([vectors(f) for f in each]) for each in zip(*map(network, known), strict=True)]
        searches = [NearestNeighbors(n_neighbors=1).fit(bank) for bank in banks]

        def score(image, network=network, searches=searches):
            maps = []
            for feature, search in zip(network(image), searches, strict=True):
                distance = search.kneighbors(vectors(feature))[0].reshape(feature.shape[2:])
                maps.append(0.5 * distance**2)
            size = maps[0].shape
            return max(map(max, sum(upsample(each, *size) for each in maps)))

        scores = [score(image) for image in [*(good[index] for index in range(len(good))), *defects]]
        found.append(roc_auc_score([0] * len(good) + [1] * len(defects), scores))
    recorded = run.config.distilled.comparisons
    assert [(each.source, each.taps) for each in recorded] == [("test_resnet", ("layer2", "layer3"))]
    assert (recorded[0].images, recorded[0].good, recorded[0].defects) == (len(good), len(good), len(defects))
    assert (recorded[0].auroc_source, recorded[0].auroc) == pytest.approx(found, abs=1e-6)
    assert recorded[0].outcome == "undecided"  # of six images


def test_the_source_is_in_no_file(whole):
    shapes = {tuple(value.shape) for value in create_backbone("test_resnet").state_dict().values() if value.ndim == 4}
    files = sorted(whole.rglob("*.safetensors"))
    assert {file.parent.name for file in files} == {"run", TEACHER_FOLDER}
    for file in files:
        names = load_file(file)
        assert not [name for name in names if "layer2" in name and "heads" not in name], file
    own = {tuple(value.shape) for value in tensors(whole).values() if value.ndim == 4}
    assert shapes - own  # otherwise the names alone would say so
    assert not (whole / TEACHER_FOLDER / "teacher.safetensors").exists()


def test_the_teacher_of_the_students_is_what_was_distilled(whole):
    distilled, run = tensors(whole / TEACHER_FOLDER), tensors(whole)
    names = [name for name in run if name.startswith("teacher.")]
    assert len(names) == len(distilled)
    for name in names:
        assert torch.equal(run[name], distilled[name.replace("teacher.", "compact.", 1)])
    assert any(name.startswith("student.") for name in run)


def test_a_seed_decides_everything(whole, dataset, tmp_path):
    torch.manual_seed(99)
    again = train(dataset, tmp_path / "again", COMPACT).run.path
    assert_same_run(again, whole)
    other = train(dataset, tmp_path / "other", replace(COMPACT, seed=1)).run.path
    assert Run(other).config.teacher_sha256 != Run(whole).config.teacher_sha256


# An epoch of the teacher has two steps, as one of the students has.
@pytest.mark.parametrize(("task", "steps"), [("compact teacher", 1), ("compact teacher", 3), ("training", 3)])
def test_a_run_that_is_interrupted_in_either_stage_resumes_to_the_same_bytes(whole, dataset, tmp_path, task, steps):
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(dataset, run, COMPACT, InterruptingTask(task, steps))
    assert bool(Run(run).config.teacher) is (task == "training")
    train(dataset, run, replace(COMPACT, resume=True))
    assert_same_run(run, whole)


def test_a_run_with_a_finished_teacher_resumes_without_its_source(dataset, tmp_path, monkeypatch):
    """Neither the source's weights nor the further images are opened, and they may be gone."""
    further = tmp_path / "further"
    shutil.copytree(dataset / "train", further)
    options = replace(COMPACT, teacher_epochs=1, extra_images=(str(further),))
    run, whole = tmp_path / "run", tmp_path / "whole"
    expected = train(dataset, whole, options)
    with pytest.raises(KeyboardInterrupt):
        train(dataset, run, options, InterruptingTask("training", 3))
    shutil.rmtree(further)
    for name in ("train.distil", "from_options.open_source"):
        monkeypatch.setattr(f"kd_train.training.{name}", None)
    resumed = train(dataset, run, replace(options, resume=True))
    assert_same_run(run, whole)
    assert resumed.remarks == expected.remarks
    assert "held_out_known_to_teacher" in {each.kind for each in resumed.remarks}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weights": "other"}, "weights changed"),
        ({"weights": "imagenet"}, "weights changed"),
        ({"teacher_from": "resnet18"}, "teacher_from"),
        ({"teacher_epochs": 3}, "teacher_epochs changed"),
        ({"damage": 0.25}, "damage changed"),
        ({"backbone": "compact-m"}, "backbone changed"),
        ({"extra_images": "further"}, "extra_images changed"),
    ],
)
def test_a_run_is_not_resumed_with_another_teacher(whole, dataset, tmp_path, change, said):
    if "weights" in change:
        torch.save(create_backbone("test_resnet").state_dict(), tmp_path / "other.pth")
        change = {"weights": str(tmp_path / "other.pth")}
    if "teacher_from" in change:
        change = {**change, "taps": "layer2,layer3"}
    if "extra_images" in change:
        change = {"extra_images": (str(dataset / "train"),)}
    with pytest.raises(CheckpointError, match=said):
        train(dataset, whole, replace(COMPACT, resume=True, **change))


def test_further_images_are_learnt_too(whole, dataset, tmp_path):
    options = replace(COMPACT, epochs=1, teacher_epochs=1, extra_images=(str(dataset / "test"),))
    config = train(dataset, tmp_path / "run", options).run.config
    assert config.distilled.extra_images == sum(1 for path in (dataset / "test").rglob("*.png"))
    assert config.teacher_sha256 != Run(whole).config.teacher_sha256


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"backbone": "test_resnet"}, OptionError, "`teacher_from` is an option of compact teachers"),
        (
            {"backbone": None, "teacher_from": None, "taps": None, "teacher_epochs": 3},
            OptionError,
            "`teacher_epochs` is an option of compact teachers",
        ),
        (
            {"backbone": "test_resnet", "teacher_from": None, "teacher_epochs": None, "extra_images": (".",)},
            OptionError,
            "`extra_images` is an option of compact teachers",
        ),
        ({"backbone": "compact-x"}, OptionError, "there is no compact network 'compact-x'"),
        ({"backbone": "compact-s,test_resnet"}, OptionError, "cannot be teachers together"),
        (
            {"teacher_from": "nothing"},
            OptionError,
            "timm has no backbone 'nothing', and there is no run folder 'nothing'",
        ),
        ({"teacher_from": "resnet19", "backbone": None}, OptionError, "expected: for example resnet18"),
        ({"teacher_from": "compact-m"}, OptionError, "cannot learn from another compact network"),
        ({"teacher_from": "test_resnet,test_resnet"}, OptionError, "`teacher_from` does not fit the method"),
        ({"taps": "layer9"}, OptionError, "there is no tap 'layer9'"),
        ({"teacher_epochs": 0}, OptionError, "`teacher_epochs` is out of range"),
        ({"damage": 1.5}, OptionError, "`damage` is out of range"),
        ({"damage": float("nan")}, OptionError, "`damage` is out of range"),
        ({"extra_images": ("missing",)}, DataError, "there is no folder 'missing'"),
        ({"weights": "missing.pth"}, WeightsError, "there is no weights file"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(dataset, tmp_path, change, error, said):
    with pytest.raises(error, match=said):
        train(dataset, tmp_path / "run", replace(COMPACT, **change))
    assert not (tmp_path / "run").exists()


def test_an_empty_folder_of_further_images_is_refused_before_images_are_read(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("kd_train.training.train.read_training_images", None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        train(dataset, tmp_path / "run", replace(COMPACT, extra_images=(str(tmp_path / "empty"),)))


def test_recipes_of_compact_networks_follow_those_of_their_source():
    method = find_method("stpm")
    lite0 = load_recipe(method, {"backbones": ("tf_efficientnet_lite0",)})
    compact = load_recipe(method, {"backbones": ("compact-m",)})
    assert compact.teacher_from == ("tf_efficientnet_lite0",)
    assert (compact.image_size, compact.optimiser) == (lite0.image_size, lite0.optimiser)
    assert compact.taps == (("blocks.2", *lite0.taps[0]),)
    other = load_recipe(method, {"backbones": ("compact-m",), "teacher_from": ("resnet18",)})
    assert (other.taps, other.strides) == ((), ((4, 8, 16),))
    assert load_recipe(method, {"backbones": ("compact-m",), "taps": lite0.taps}).taps == lite0.taps
    assert (lite0.damage, compact.damage, compact.teacher_epochs) == (0, 0.5, 12)
    assert load_recipe(method, {"backbones": ("compact-m",), "damage": 0.0}).damage == 0


def test_two_teachers_become_two_compact_networks_or_one(dataset, tmp_path):
    common = replace(COMPACT, method="mixed-teacher", epochs=1, teacher_epochs=1)
    for backbone, source, taps, count in (
        ("compact-s,compact-s", "test_resnet,test_resnet", "layer1/layer1,layer2", 2),
        ("compact-s", "test_resnet,efficientnet_b0", "layer1,layer2/blocks.3,blocks.4", 1),
    ):
        run = tmp_path / str(count)
        options = replace(common, backbone=backbone, teacher_from=source, taps=taps)
        trained = train(dataset, run, options).run
        pair, _ = load_pair(trained)
        assert len(pair.teacher.networks) == count
        assert len(trained.config.distilled.residuals) == len(pair.teacher.features)
        compared = [(each.source, ",".join(each.taps)) for each in trained.config.distilled.comparisons]
        assert compared == list(zip(source.split(","), taps.split("/"), strict=True))
    with pytest.raises(OptionError, match="two taps with the same name"):
        train(
            dataset,
            tmp_path / "same",
            replace(common, backbone="compact-s", teacher_from="resnet18,resnet34", taps="layer1/layer1"),
        )


def test_known_parts_reach_the_comparison_with_the_source(tmp_path):
    data = write_dataset(tmp_path / "cells")
    for path in sorted((data / "train/good").iterdir()):
        index = int(path.stem)
        path.rename(path.with_name(f"part{index // 2}-{index % 2}.png"))
    options = replace(COMPACT, teacher_epochs=1, group_by=r"part\d")
    (compared,) = train(data, tmp_path / "run", options, teacher_only=True).run.config.distilled.comparisons
    assert compared.images == 2 * compared.parts > 2


@pytest.mark.slow
def test_a_compact_detector_is_exported_verified_and_evaluated(whole, dataset, tmp_path, cli):
    bundle = tmp_path / "part.kdx"
    exported = cli("export", whole, "-o", bundle, "--json").json
    assert exported["certificate"]["passed"]
    assert cli("verify", bundle, "--json").json["passed"]
    provenance = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))["provenance"]
    assert (provenance["backbone"], provenance["weights"]) == ("compact-s", "distilled from test_resnet, random")
    compared = json.loads((whole / "run.json").read_text(encoding="utf-8"))["distilled"]["comparisons"]
    assert provenance["teacher_comparisons"] == exported["certificate"]["teacher_comparisons"] == compared
    text = Run(whole).config.distilled.comparisons[0].describe()
    assert f"the compact teacher's features, when it was made: {text}" in cli("verify", bundle).stdout
    assert text in " ".join(cli("inspect", bundle).stdout.split())


# A teacher that exists


@pytest.fixture(scope="module")
def teacher(dataset, tmp_path_factory) -> Path:
    """What ``kdx distil`` makes: the first stage of ``whole``, with a tap more."""
    options = replace(COMPACT, taps="layer2,layer3,layer4", epochs=None, batch_size=None, learning_rate=None)
    out = tmp_path_factory.mktemp("distil") / "teacher"
    result = train(dataset, out, options, teacher_only=True)
    assert result.history == []
    assert not (out / "last.json").exists()
    return out


# Only the options of the students: the rest is the teacher's own.
KEPT = replace(COMPACT, backbone=None, weights="imagenet", taps=None, teacher_epochs=None)


def test_a_teacher_alone_is_the_first_stage_of_a_training(whole, dataset, tmp_path):
    out = train(dataset, tmp_path / "teacher", COMPACT, teacher_only=True).run.path
    assert Run(out).config.teacher_sha256 == Run(whole).config.teacher_sha256
    assert (Run(out).config.command, Run(out).config.options["epochs"]) == ("distil", COMPACT.epochs)
    later = replace(COMPACT, resume=True, group_by="(.*)")
    train(dataset, out, later)  # the second stage, later
    assert (Run(out).config.command, Run(out).config.options["group_by"]) == ("train", "(.*)")
    assert_same_run(out, whole)


@pytest.mark.parametrize("taps", [None, "layer2,layer3"])
def test_another_run_uses_a_teacher_that_exists(teacher, dataset, tmp_path, monkeypatch, taps):
    monkeypatch.setattr("kd_train.training.train.distil", None)
    monkeypatch.setattr("kd_train.training.from_options.open_source", None)
    config = train(dataset, tmp_path / "run", replace(KEPT, teacher_from=str(teacher), taps=taps)).run.config
    theirs = Run(teacher).config
    assert config.backbone == "compact-s"
    assert (config.weights, config.distilled) == (theirs.weights, theirs.distilled.used_elsewhere())
    assert [each.of_other_run for each in config.distilled.comparisons] == [True]
    assert [each.of_other_run for each in theirs.distilled.comparisons] == [False]
    assert config.recipe.teacher_from == ("test_resnet",)
    pair, _ = load_pair(Run(tmp_path / "run"))
    assert pair.teacher.networks[0].taps == ("layer2", "layer3", *(() if taps else ("layer4",)))
    # The same tensors, so that runtimes recognise the teacher as one; or some of them.
    assert (config.teacher_sha256 == theirs.teacher_sha256) is (taps is None)
    kept, whole_teacher = (Run(run) for run in (tmp_path / "run", teacher))
    ours = kept.checkpoints.read(kept.config.teacher, kept.config.teacher_sha256)
    known = whole_teacher.checkpoints.read(theirs.teacher, theirs.teacher_sha256)
    assert all(torch.equal(value, known[name]) for name, value in ours.items())


def test_the_teacher_of_any_compact_run_can_be_used(whole, dataset, tmp_path):
    options = replace(KEPT, teacher_from=str(whole), epochs=1, seed=4)
    assert train(dataset, tmp_path / "run", options).run.config.teacher_sha256 == Run(whole).config.teacher_sha256


def test_a_teacher_that_learnt_at_another_size_is_named(teacher, dataset, tmp_path):
    options = replace(KEPT, teacher_from=str(teacher), epochs=1)
    assert "teacher_of_other_images" not in {each.kind for each in train(dataset, tmp_path / "same", options).remarks}
    found = train(dataset, tmp_path / "run", replace(options, image_size=32, channels="3")).remarks
    (said,) = [each for each in found if each.kind == "teacher_of_other_images"]
    assert said.first == ("`image_size` 64, here 32", "`channels` 1, here 3")


def test_a_run_that_copied_a_teacher_resumes_without_the_run_that_made_it(teacher, dataset, tmp_path):
    made = Path(shutil.copytree(teacher, tmp_path / "made"))
    options, run = replace(KEPT, teacher_from=str(made), taps="layer2,layer3"), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(dataset, run, options, InterruptingTask("training", 3))
    shutil.rmtree(made)
    with pytest.raises(CheckpointError, match="there is no run folder"):
        train(dataset, run, replace(options, teacher_from=str(tmp_path / "other"), resume=True))
    resumed = train(dataset, run, replace(options, resume=True))
    assert resumed.resumed_after == 1
    assert_same(run, train(dataset, tmp_path / "whole", replace(options, teacher_from=str(teacher))).run.path)


def test_a_run_is_not_resumed_with_another_teacher_that_exists(teacher, whole, dataset, tmp_path):
    run = tmp_path / "run"
    options = replace(KEPT, teacher_from=str(teacher), taps="layer2,layer3")
    with pytest.raises(KeyboardInterrupt):
        train(dataset, run, options, InterruptingTask("training", 1))
    with pytest.raises(CheckpointError, match="the teacher of `teacher_from` changed since it began") as refused:
        train(dataset, run, replace(options, teacher_from=str(whole), resume=True))
    began, now = (Run(each).config.teacher_sha256[:12] for each in (teacher, whole))
    assert refused.value.expected == f"the teacher of `teacher_from` {began}"
    assert refused.value.received == f"the teacher of `teacher_from` {now}"
    train(dataset, run, replace(options, resume=True))
    uninterrupted = train(dataset, tmp_path / "again", options).run.path
    assert_same(run, uninterrupted)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"taps": "layer1"}, OptionError, "has no tap 'layer1'"),
        ({"taps": "layer2/layer3"}, OptionError, "`taps` does not fit the teacher of"),
        ({"backbone": "compact-m"}, OptionError, "is another network"),
        ({"teacher_epochs": 3}, OptionError, "has learnt already"),
        ({"extra_images": (".",)}, OptionError, "has learnt already"),
        ({"teacher_epochs": 0}, OptionError, "has learnt already"),
        ({"weights": "random"}, OptionError, "has learnt already"),
        ({"method": "mixed-teacher"}, OptionError, "do not fit the method"),
    ],
)
def test_options_that_do_not_fit_a_teacher_that_exists(teacher, dataset, tmp_path, change, error, said):
    with pytest.raises(error, match=said):
        train(dataset, tmp_path / "run", replace(KEPT, teacher_from=str(teacher), **change))
    assert not (tmp_path / "run").exists()


def test_folders_without_a_finished_compact_teacher(dataset, tmp_path):
    for backbone, made in ((None, "compact-m"), ("compact-l", "compact-l")):
        with pytest.raises(CheckpointError, match="there is no run folder") as caught:
            train(dataset, tmp_path / "run", replace(KEPT, backbone=backbone, teacher_from=str(tmp_path / "missing")))
        assert f"kdx distil DATA --backbone {made} --out {tmp_path / 'missing'}" in str(caught.value)
    for several in (f"{tmp_path / 'a'},{tmp_path / 'b'}", f"test_resnet,{tmp_path / 'b'}"):
        with pytest.raises(OptionError, match="several runs cannot be combined"):
            train(dataset, tmp_path / "run", replace(KEPT, teacher_from=several))
    ordinary = replace(COMPACT, backbone="test_resnet", teacher_from=None, teacher_epochs=None, epochs=1)
    train(dataset, tmp_path / "ordinary", ordinary)
    with pytest.raises(OptionError, match="is not a compact one"):
        train(dataset, tmp_path / "run", replace(KEPT, teacher_from=str(tmp_path / "ordinary")))
    with pytest.raises(KeyboardInterrupt):
        train(dataset, tmp_path / "begun", COMPACT, InterruptingTask("compact teacher", 1), teacher_only=True)
    with pytest.raises(CheckpointError, match="is not finished") as unfinished:
        train(dataset, tmp_path / "run", replace(KEPT, teacher_from=str(tmp_path / "begun")))
    assert f"kdx distil {dataset} --out {tmp_path / 'begun'} " in unfinished.value.fix


def test_a_teacher_alone_is_compact_without_a_backbone(dataset, tmp_path):
    made = train(dataset, tmp_path / "made", replace(COMPACT, backbone=None, teacher_epochs=1), teacher_only=True).run
    assert made.config.recipe.backbones == ("compact-m",)
    taught = Run(made.path / TEACHER_FOLDER).config.recipe
    assert taught.validation_fraction == made.config.recipe.validation_fraction != 0.2


def test_an_altered_teacher_is_not_used(teacher, dataset, tmp_path):
    copied = Path(shutil.copytree(teacher, tmp_path / "copied"))
    content = bytearray((copied / "teacher.safetensors").read_bytes())
    content[-1] ^= 1
    (copied / "teacher.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"teacher\.safetensors"):
        train(dataset, tmp_path / "run", replace(KEPT, teacher_from=str(copied)))


@pytest.mark.parametrize(
    "options", [replace(COMPACT, backbone="test_resnet", teacher_from=None, teacher_epochs=None), KEPT]
)
def test_there_must_be_a_teacher_to_make(teacher, dataset, tmp_path, options):
    options = options if options is not KEPT else replace(KEPT, teacher_from=str(teacher))
    with pytest.raises(OptionError, match="there is no compact teacher to make"):
        train(dataset, tmp_path / "run", options, teacher_only=True)


def test_the_command_line_makes_a_teacher_and_uses_it(dataset, tmp_path, cli):
    made, run = tmp_path / "made", tmp_path / "run"
    common = ("--image-size", 64, "--workers", 0, "--device", "cpu", "--validation-fraction", 0.5)
    given = (
        "--backbone",
        "compact-s",
        "--teacher-from",
        "test_resnet",
        "--weights",
        "random",
        "--taps",
        "layer2,layer3",
    )
    report = cli("distil", dataset, "-o", made, *common, *given, "--teacher-epochs", 1, "--json").json
    assert report["compact_teacher"]["variants"] == 10
    assert report["weights"] == "distilled from test_resnet, random"
    said = cli("distil", dataset, "-o", made, *common, *given, "--teacher-epochs", 1, "--resume").stdout
    assert "its distance from its source on held-out good images" in said
    assert "as a detector without a student: image AUROC" in said
    assert f"kdx train DATA --teacher-from {made}" in " ".join(said.split())
    trained = cli("train", dataset, "-o", run, "--teacher-from", made, "--epochs", 1, *common, "--json").json
    compared, of_other_run = (each["compact_teacher"].pop("comparisons") for each in (report, trained))
    assert of_other_run == [{**each, "of_other_run": True} for each in compared]
    assert trained["compact_teacher"] == report["compact_teacher"]
    # It is a run without students: whoever takes it for one is told.
    assert "no epoch" in cli("export", made, "-o", tmp_path / "bundle.kdx", code=2).stderr


def test_a_run_can_be_replaced_by_one_that_uses_its_teacher(whole, dataset, tmp_path):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    options = replace(KEPT, teacher_from=str(run), force=True, epochs=1)
    assert train(dataset, run, options).run.config.teacher_sha256 == Run(whole).config.teacher_sha256


def test_an_altered_teacher_is_found_before_a_run_is_replaced(teacher, whole, dataset, tmp_path):
    run, altered = (Path(shutil.copytree(source, tmp_path / source.name)) for source in (whole, teacher))
    (altered / "teacher.safetensors").unlink()
    with pytest.raises(CheckpointError):
        train(dataset, run, replace(KEPT, teacher_from=str(altered), force=True))
    assert_same_run(run, whole)


@pytest.mark.parametrize("damage", [0.0, 0.5])
def test_memory_decides_nothing(tmp_path, damage):
    """Seven images in batches of three: the last batch in order would be a single image."""
    folder = tmp_path / "good"
    folder.mkdir()
    for index, pixels in enumerate(solar_cells(10, (64, 64))):
        Image.fromarray(pixels).save(folder / f"{index}.png")
    options = replace(COMPACT, epochs=1, teacher_epochs=1, batch_size=3, validation_fraction=0.3, damage=damage)
    runs = [train(folder, tmp_path / str(memory), replace(options, memory_mib=memory)).run.path for memory in (0, 64)]
    assert len(Run(runs[0]).config.train_images) == 7
    assert_same_run(*runs)


def test_the_names_of_further_images_decide_nothing(dataset, tmp_path):
    runs = []
    for order in (1, -1):
        folder = tmp_path / f"further{order}"
        folder.mkdir()
        for index, path in enumerate(sorted((dataset / "test").rglob("*.png"))[::order]):
            shutil.copy(path, folder / f"{index}.png")
        options = replace(COMPACT, epochs=1, teacher_epochs=1, extra_images=(str(folder),))
        runs.append(train(dataset, tmp_path / f"run{order}", options).run.path)
    assert_same_run(*runs)


def test_held_out_images_that_a_teacher_knows_are_named(teacher, dataset, tmp_path):
    options = replace(KEPT, teacher_from=str(teacher), epochs=1, seed=5)
    result = train(dataset, tmp_path / "other", options)
    learnt, held_out = (
        set(config) for config in (Run(teacher).config.train_images, result.run.config.validation_images)
    )
    assert learnt & held_out  # the seed divides them otherwise
    counts = {remark.kind: remark.count for remark in result.remarks}
    assert counts["held_out_known_to_teacher"] == len(learnt & held_out)
    same = train(dataset, tmp_path / "same", replace(options, seed=0))
    assert "held_out_known_to_teacher" not in {remark.kind for remark in same.remarks}
    further = replace(COMPACT, epochs=1, teacher_epochs=1, extra_images=(str(dataset / "train"),))
    counts = {each.kind: each.count for each in train(dataset, tmp_path / "further", further).remarks}
    assert counts["held_out_known_to_teacher"] == len(same.run.config.validation_images)


def test_further_images_of_a_teacher_are_known_wherever_it_is_used(dataset, tmp_path):
    """Also in a run that uses the teacher of a run that used it."""
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    further = tmp_path / "further"
    shutil.copytree(dataset / "train", further)
    train(dataset, first, replace(COMPACT, teacher_epochs=1, extra_images=(str(further),)), teacher_only=True)
    train(dataset, second, replace(KEPT, teacher_from=str(first), epochs=1))
    result = train(dataset, third, replace(KEPT, teacher_from=str(second), epochs=1))
    counts = {each.kind: each.count for each in result.remarks}
    assert counts["held_out_known_to_teacher"] == len(result.run.config.validation_images)


def test_the_record_of_a_teacher_that_exists_is_read_once(teacher, dataset, tmp_path, monkeypatch):
    from kd_train.training import run_folder

    read = []

    def counted(path, *args, **options):
        read.append(path)
        return read_run_record(path, *args, **options)

    monkeypatch.setattr(run_folder, "read_run_record", counted)
    train(dataset, tmp_path / "run", replace(KEPT, teacher_from=str(teacher), epochs=1))
    assert read.count(teacher / "run.json") == 1


def test_a_clearly_worse_teacher_is_named_wherever_it_goes(teacher, whole, dataset, tmp_path):
    worse = Path(shutil.copytree(teacher, tmp_path / "worse"))
    record = json.loads((worse / "run.json").read_text(encoding="utf-8"))
    record["distilled"]["comparisons"][0].update(auroc=0.6, auroc_source=0.9, outcome="worse")
    (worse / "run.json").write_text(json.dumps(record), encoding="utf-8")
    result = train(dataset, tmp_path / "run", replace(KEPT, teacher_from=str(worse), epochs=1))
    assert "compact_teacher_worse" in {each.kind for each in result.remarks}
    assert "compact_teacher_worse" in {each.kind for each in training_remarks(result.run.path)}
    provenance = result.run.provenance(result.run.checkpoint("last"))
    assert [each.kind for each in provenance.remarks()] == ["compact_teacher_worse"]
    assert training_remarks(whole) == []


@pytest.mark.parametrize("method", sorted(methods()))
def test_students_of_every_compact_method_see_damage_and_others_do_not(method):
    found = find_method(method)
    count = len(load_recipe(found, {}).strides)
    compact = load_recipe(found, {"backbones": ("compact-m",), "teacher_from": ("resnet18",) * count})
    assert (compact.damage, load_recipe(found, {}).damage) == (0.5, 0)
    if method == "stpm":  # its schedule is kdx's, whatever the source is
        assert (compact.epochs, compact.optimiser, compact.learning_rate, compact.batch_size) == (60, "adam", 0.01, 8)


def test_damage_without_effect_is_refused(dataset, tmp_path, monkeypatch):
    """A method of another package may not say what damage means for students that see no image."""
    from kd_train.methods.reverse_distillation import ReversePair

    monkeypatch.delattr(ReversePair, "compare_damaged")
    ordinary = replace(COMPACT, backbone="test_resnet", teacher_from=None, teacher_epochs=None, taps=None)
    for options in (replace(ordinary, damage=0.5), COMPACT):  # the recipe of a compact teacher has damage
        with pytest.raises(OptionError, match="`damage` has no effect on the method") as refused:
            train(dataset, tmp_path / "run", replace(options, method="reverse-distillation"))
        assert "`damage=0`" in refused.value.fix
        assert not (tmp_path / "run").exists()


def test_a_finished_candidate_of_fit_is_recognised(whole):
    from types import SimpleNamespace

    from kdx.workflows.fit.trial import Workshop

    asked = recipe_of(COMPACT)
    fit = SimpleNamespace(
        folder=SimpleNamespace(run=lambda _: whole), request=SimpleNamespace(recipe_of=lambda _: asked)
    )
    assert Workshop.is_trained(fit, SimpleNamespace(candidate=None))
    asked = msgspec.structs.replace(asked, damage=0.1)
    assert not Workshop.is_trained(fit, SimpleNamespace(candidate=None))


def test_seconds_of_a_teacher_count_where_it_was_made(whole, teacher, dataset, tmp_path):
    assert Run(whole).distillation_seconds == Run(whole).config.distilled.seconds > 0
    used = train(dataset, tmp_path / "run", replace(KEPT, teacher_from=str(teacher), epochs=1)).run
    assert (used.config.distilled.seconds > 0, used.distillation_seconds) == (True, 0)


def test_who_takes_a_teacher_for_a_detector_is_told(teacher, whole):
    with pytest.raises(CheckpointError, match="was completed") as error:
        load_pair(Run(teacher))
    assert error.value.fix == f"use its compact teacher: kdx train DATA --teacher-from {teacher}"
    with pytest.raises(CheckpointError, match="training of a compact teacher, and holds no detector"):
        load_pair(Run(whole / TEACHER_FOLDER))


def test_a_finished_run_is_not_extended_where_only_its_teacher_is_asked_for(dataset, whole, tmp_path):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    with pytest.raises(CheckpointError, match="epochs changed since it began"):
        train(dataset, run, replace(COMPACT, epochs=COMPACT.epochs + 3, resume=True), teacher_only=True)
    Run(run).require_finished()
