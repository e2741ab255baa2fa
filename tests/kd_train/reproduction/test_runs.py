"""Runs for a paper's table: training, results that are kept, differences, and figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from kd_train.reproduction import runs as module
from kd_train.reproduction.choice import choose
from kd_train.reproduction.differences import expected_recipe
from kd_train.reproduction.paper_comparison import compare_with_paper
from kd_train.reproduction.result_folder import SCHEMA, JobResult, ResultFolder
from kd_train.reproduction.runs import ReproduceOptions, Reproduction, reproduce
from kd_train.training.options import TrainOptions
from kdx.errors import CheckpointError, DataError, OptionError, OutputError
from tests.tiny_training import TINY


@pytest.fixture(scope="module")
def mvtec(tmp_path_factory, make_dataset) -> Path:
    """Two categories that are called as MVTec AD's are."""
    root = tmp_path_factory.mktemp("mvtec") / "images"
    for name in ("carpet", "cable"):
        make_dataset(root / name, train=8, good=3, scratch=3)
    return root


@pytest.fixture
def fake_runs(monkeypatch):
    """Replace training by results that are computed at once; return the jobs made."""
    made: list[tuple[str, str, int]] = []

    def make(job, choice, options, results, progress):
        made.append((job.variant.slug, job.part.row, job.seed))
        asked = module.training_options(choice, job.variant, options.training)
        recipe = msgspec.structs.replace(
            expected_recipe(choice, job.variant), epochs=asked.epochs or 100, validation_fraction=0.2
        )
        result = result_of(
            variant=job.variant.slug,
            category=job.part.row,
            seed=job.seed,
            dataset=job.part.folder.dataset,
            images=job.part.counts(),
            recipe=recipe,
            settings_sha256=results.settings_sha256,
            files_sha256=job.part.files_sha256(),
        )
        job.folder.mkdir(parents=True)
        results.write(job, result)
        return result

    monkeypatch.setattr(module, "_make", make)
    return made


def result_of(**changes) -> JobResult:
    choice = choose("stpm", "mvtec_ad")
    fields = {
        "schema": SCHEMA,
        "variant": "as-proposed",
        "category": "carpet",
        "seed": 0,
        "image_auroc": 0.9,
        "pixel_auroc": 0.95,
        "pro": 0.8,
        "dataset": "mvtec_ad",
        "images": {"train": 280, "test_good": 28, "test_defective": 89},
        "bad_images": 0,
        "recipe": expected_recipe(choice, choice.variants[0]),
        "weights": "hub timm/resnet18.tv_in1k",
        "train_images": 280,
        "seconds": 1.0,
        "settings_sha256": "",
        "files_sha256": "",
        "versions": {},
        "created": "",
    }
    return JobResult(**{**fields, **changes})


def made_of(choice, *results: JobResult, seeds: int = 1) -> Reproduction:
    categories = tuple(dict.fromkeys(result.category for result in results))
    return Reproduction(choice, categories, seeds, results)


def options_of(data: Path, out: Path, **changes) -> ReproduceOptions:
    return replace(ReproduceOptions("stpm", data, out, seeds=2, training=TINY), **changes)


def row_of(comparison, name: str, variant: str = ""):
    return next(row for row in comparison.rows if (row.name, row.variant) == (name, variant))


# The runs themselves.


def test_a_run_is_made_interrupted_resumed_and_kept(mvtec, tmp_path, monkeypatch):
    options = options_of(mvtec, tmp_path / "out", categories=("carpet",), seeds=1)
    evaluate = module.evaluate

    def interrupt(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "evaluate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        reproduce(options)
    run = tmp_path / "out/as-proposed/carpet/seed-0"
    assert (run / "last.json").is_file()
    assert not (run / "result.json").exists()
    trained = (run / "last.json").read_bytes()

    monkeypatch.setattr(module, "evaluate", evaluate)
    seen = []
    (result,) = reproduce(options, report=lambda result, is_new: seen.append((result.category, is_new))).results
    assert (run / "last.json").read_bytes() == trained  # resumed, not trained again
    assert seen == [("carpet", True)]
    assert 0 <= result.image_auroc <= 1
    assert 0 <= result.pixel_auroc <= 1
    assert (result.dataset, result.images["train"], result.train_images) == ("mvtec_ad", 8, 4)
    assert result.recipe.backbones == ("test_resnet",)
    assert json.loads((run / "result.json").read_text(encoding="utf-8"))["weights"] == "random"

    monkeypatch.setattr(module, "_make", interrupt)
    assert reproduce(options).results == (result,)


def test_a_variant_is_trained_with_its_options(mvtec, tmp_path):
    options = options_of(mvtec, tmp_path / "out", categories=("carpet",), seeds=1, table=9, variants=("Ours, 10 %",))
    (result,) = reproduce(options).results
    assert result.variant == "train_fraction-0.1"
    assert result.train_images == 2  # never fewer


def test_every_category_and_seed_is_made_once(mvtec, tmp_path, fake_runs):
    reproduce(options_of(mvtec, tmp_path / "out"))
    once = [("as-proposed", category, seed) for seed in (0, 1) for category in ("cable", "carpet")]
    assert fake_runs == once
    reproduce(options_of(mvtec, tmp_path / "out", seeds=3))
    assert fake_runs == [*once, ("as-proposed", "cable", 2), ("as-proposed", "carpet", 2)]


def test_categories_are_those_of_the_tables(mvtec, tmp_path, fake_runs):
    """The dual model's detection part prints textures only."""
    training = replace(TINY, backbone=None)
    reproduce(options_of(mvtec, tmp_path / "out", method="dual-det", seeds=1, training=training))
    assert [category for _, category, _ in fake_runs] == ["carpet"]
    reproduce(options_of(mvtec, tmp_path / "two", method="dual", seeds=1, training=training))
    assert set(fake_runs[1:]) == {("as-proposed", "carpet", 0), ("scored-by-both", "cable", 0)}
    named = options_of(mvtec, tmp_path / "out", method="dual-det", seeds=1, training=training, categories=("cable",))
    reproduce(named)
    assert fake_runs[-1] == ("as-proposed", "cable", 0)


def test_changed_settings_are_refused_until_forced(mvtec, tmp_path, fake_runs):
    out = tmp_path / "out"
    reproduce(options_of(mvtec, out, seeds=1))
    changed = options_of(mvtec, out, seeds=1, training=replace(TINY, epochs=7, taps="layer1"))
    with pytest.raises(OutputError, match="epochs, taps changed") as caught:
        reproduce(changed)
    assert caught.value.expected == "epochs 1, taps as the paper"
    assert "`force=True`" in caught.value.fix
    # What decides no result may change.
    reproduce(options_of(mvtec, out, seeds=1, training=replace(TINY, workers=1, memory_mib=64)))
    assert len(fake_runs) == 2


def test_settings_with_which_nothing_was_made_do_not_bind(mvtec, tmp_path, fake_runs):
    mistyped = options_of(mvtec, tmp_path / "out", seeds=1, training=replace(TINY, epochs=7))
    ResultFolder(tmp_path / "out", {"epochs": 7}).begin(force=False)
    reproduce(options_of(mvtec, tmp_path / "out", seeds=1))
    with pytest.raises(OutputError, match="epochs changed"):
        reproduce(mistyped)


def test_force_discards_what_was_made_and_nothing_else(dataset_copy, tmp_path):
    out = tmp_path / "out"
    reproduce(options_of(dataset_copy, out, seeds=1))
    (out / "notes.txt").write_text("mine", encoding="utf-8")
    result = out / "as-proposed/cells/seed-0/result.json"
    before = json.loads(result.read_text(encoding="utf-8"))
    reproduce(options_of(dataset_copy, out, seeds=1, force=True, training=replace(TINY, batch_size=2)))
    assert json.loads(result.read_text(encoding="utf-8"))["recipe"]["batch_size"] == 2 != before["recipe"]["batch_size"]
    assert (out / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_changed_images_are_noticed(dataset_copy, tmp_path, fake_runs):
    options = options_of(dataset_copy, tmp_path / "out", seeds=1)
    reproduce(options)
    next((dataset_copy / "test/good").glob("*.png")).unlink()
    with pytest.raises(CheckpointError, match="the images of 'cells' changed"):
        reproduce(options)


def test_a_damaged_result_is_named(dataset_copy, tmp_path, fake_runs):
    options = options_of(dataset_copy, tmp_path / "out", seeds=1)
    reproduce(options)
    result = tmp_path / "out/as-proposed/cells/seed-0/result.json"
    result.write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"result\.json' is not valid") as caught:
        reproduce(options)
    assert caught.value.fix.startswith(f"remove '{result.parent}'")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"seeds": 0}, OptionError, "`seeds` is out of range"),
        ({"method": "moon"}, OptionError, "no detection figures of 'moon'"),
        ({"table": 12}, OptionError, "has no table 12"),
        ({"categories": ("zebra",)}, OptionError, "no category 'zebra'"),
        (
            {"table": 7, "variants": ("ResNet-34",)},
            OptionError,
            "`backbone` is what column 'ResNet-34' of table 7 sets",
        ),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_written(mvtec, tmp_path, changes, error, message):
    with pytest.raises(error, match=message) as caught:
        reproduce(options_of(mvtec, tmp_path / "out", **changes))
    assert caught.value.expected or caught.value.fix
    assert not (tmp_path / "out").exists()


def test_data_without_test_images_is_refused(tmp_path, make_images):
    good = tmp_path / "parts/train/good"
    good.mkdir(parents=True)
    for index, image in enumerate(make_images(4)):
        image.save(good / f"{index}.png")
    with pytest.raises(DataError, match="does not hold both good and defective"):
        reproduce(options_of(tmp_path / "parts", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else_is_left_alone(mvtec, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("years of work", encoding="utf-8")
    for force in (False, True):
        with pytest.raises(OutputError, match="holds no reproduction"):
            reproduce(options_of(mvtec, tmp_path / "out", force=force))


# What the paper prints is asked for, where the user does not say otherwise.


def test_the_papers_teacher_and_the_data_sets_own_size_are_taken():
    choice = choose("dskd", "magnetic_tile")
    asked = module.training_options(choice, choice.variants[0], TrainOptions())
    assert (asked.method, asked.backbone, asked.image_size) == ("dskd", "resnet18", 128)
    asked = module.training_options(choice, choice.variants[0], TrainOptions(image_size=64, backbone="resnet34"))
    assert (asked.backbone, asked.image_size) == ("resnet34", 64)
    stpm = choose("stpm", "mvtec_ad")
    assert module.training_options(stpm, stpm.variants[0], TrainOptions()).backbone == "resnet18.tv_in1k"


# Against the paper.


def test_means_spreads_and_differences():
    choice = choose("stpm", "mvtec_ad")
    made = made_of(
        choice,
        *(result_of(seed=seed, pixel_auroc=value) for seed, value in enumerate((0.98, 0.99, 1.0))),
        seeds=3,
    )
    cell = row_of(compare_with_paper(made), "carpet").cells["pixel_auroc"]
    assert cell.paper == 98.8
    assert cell.quoted == ""
    assert cell.mean == pytest.approx(99.0)
    assert cell.spread == pytest.approx(1.0)  # sample standard deviation
    assert cell.difference == pytest.approx(0.2)


def test_one_seed_has_no_spread():
    comparison = compare_with_paper(made_of(choose("stpm", "mvtec_ad"), result_of()))
    assert row_of(comparison, "carpet").cells["pro"].spread is None


def test_a_figure_that_others_quote_says_so():
    cell = row_of(compare_with_paper(made_of(choose("stpm", "mvtec_ad"), result_of())), "carpet").cells["image_auroc"]
    assert (cell.paper, cell.quoted) == (98.9, "dskd, table 1")


def test_a_mean_over_other_categories_is_not_compared():
    results = [result_of(category=name) for name in ("carpet", "grid")]
    comparison = compare_with_paper(made_of(choose("stpm", "mvtec_ad"), *results))
    cell = row_of(comparison, "mean").cells["pro"]
    assert (cell.paper, cell.difference) == (92.1, None)
    assert cell.mean == pytest.approx(80)
    assert "the mean is over 2 of 15 categories: carpet, grid" in comparison.differs


def everything(choice, **changes) -> list[JobResult]:
    """Results of every category with the images published."""
    data = choice.data_set
    return [
        result_of(
            category=name,
            variant=variant.slug,
            dataset=choice.data,
            images={
                "train": data.published[name].train,
                "test_good": data.published[name].test_good,
                "test_defective": data.published[name].test_defective,
            },
            recipe=expected_recipe(choice, variant),
            **changes,
        )
        for variant in choice.variants
        for name in data.categories
    ]


def test_where_nothing_differs_it_is_a_reproduction_as_far_as_the_text_goes():
    choice = choose("dskd", "mvtec_ad")
    comparison = compare_with_paper(made_of(choice, *everything(choice)))
    assert comparison.differs == ()
    assert comparison.is_reproduction
    assert comparison.title.endswith("a reproduction of Yao, 2024, as far as its text goes")
    assert "batch size; here 16" in comparison.unknown
    cell = row_of(comparison, "mean").cells["image_auroc"]
    assert (cell.paper, cell.difference) == (98.5, pytest.approx(90 - 98.5))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"dataset": None}, "the data: not recognised as MVTec AD as published"),
        ({"dataset": "btad"}, "the data: btad; the paper's MVTec AD"),
        ({"weights": "random"}, "the teacher's weights: random; the paper's ImageNet"),
        ({"weights": "hub timm/resnet18.a1_in1k and file mine.pth"}, "the teacher's weights: hub"),
        ({"bad_images": 2}, "the images of carpet: 2 could not be used"),
        ({"images": {"train": 100, "test_good": 28, "test_defective": 89}}, "100 train (published: 280)"),
    ],
)
def test_a_difference_is_said(changes, line):
    choice = choose("dskd", "mvtec_ad")
    results = [msgspec.structs.replace(result, **changes) for result in everything(choice)]
    comparison = compare_with_paper(made_of(choice, *results))
    assert not comparison.is_reproduction
    assert "not a reproduction" in comparison.title
    assert any(line in found for found in comparison.differs)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"epochs": 3}, "epochs: 3; the paper's 200"),
        ({"image_size": 128}, "image size: 128; the paper's 256"),
        ({"optimiser": "sgd"}, "optimiser: sgd; the paper's adam"),
        ({"learning_rate": 0.1}, "learning rate: 0.1; the paper's 0.001"),
        ({"blur_sigma": 0.0}, "blur sigma: 0; the paper's 4"),
        ({"backbones": ("tf_efficientnet_lite0",)}, "the teacher: tf_efficientnet_lite0; the paper's resnet18"),
        ({"taps": (("layer1", "layer2"),), "strides": ()}, "the taps: layer1,layer2; the paper's strides 4,8,16"),
        ({"options": {"structure": "t-e"}}, "options: structure t-e; the paper's as the method declares"),
    ],
)
def test_another_setting_is_said(changes, line):
    choice = choose("dskd", "mvtec_ad")
    results = [
        msgspec.structs.replace(result, recipe=msgspec.structs.replace(result.recipe, **changes))
        for result in everything(choice)
    ]
    assert compare_with_paper(made_of(choice, *results)).differs == (line,)


def test_a_setting_that_the_text_leaves_open_is_no_difference():
    choice = choose("dskd", "mvtec_ad")
    results = [
        msgspec.structs.replace(result, recipe=msgspec.structs.replace(result.recipe, batch_size=8))
        for result in everything(choice)
    ]
    comparison = compare_with_paper(made_of(choice, *results))
    assert comparison.is_reproduction
    assert "batch size; here 8" in comparison.unknown


def test_stpm_holds_images_out_and_its_paper_does_not():
    """STPM with kdx's recipe, which holds images out for the threshold, is never a reproduction."""
    choice = choose("stpm", "mvtec_ad")
    results = [
        msgspec.structs.replace(result, recipe=msgspec.structs.replace(result.recipe, validation_fraction=0.2))
        for result in everything(choice)
    ]
    assert compare_with_paper(made_of(choice, *results)).differs == ("validation fraction: 0.2; the paper's 0",)


def test_timms_own_resnet18_is_not_the_papers():
    choice = choose("stpm", "mvtec_ad")
    results = [
        msgspec.structs.replace(result, recipe=msgspec.structs.replace(result.recipe, backbones=("resnet18",)))
        for result in everything(choice)
    ]
    assert compare_with_paper(made_of(choice, *results)).differs == (
        "the teacher: resnet18; the paper's resnet18.tv_in1k",
    )


def test_an_ablation_has_a_row_for_each_column():
    choice = choose("dskd", "mvtec_ad", 7)
    comparison = compare_with_paper(made_of(choice, *everything(choice)))
    assert comparison.is_reproduction
    means = {row.variant: row.cells["image_auroc"].paper for row in comparison.rows if row.is_mean}
    assert means == {"DS": 98.5, "T-E": 95.3, "T-D": 97.8, "E-D": 93.2}
    assert row_of(comparison, "carpet", "T-E").cells["image_auroc"].paper is None


def test_what_differs_in_one_column_of_an_ablation_names_it():
    choice = choose("dskd", "mvtec_ad", 7)

    def trained(result: JobResult) -> JobResult:
        epochs = 100 if result.variant == "structure-t-e" else 200
        return msgspec.structs.replace(
            result, recipe=msgspec.structs.replace(result.recipe, epochs=epochs, image_size=128)
        )

    comparison = compare_with_paper(made_of(choice, *map(trained, everything(choice))))
    assert set(comparison.differs) == {"epochs: 100; the paper's 200 (T-E)", "image size: 128; the paper's 256"}


def test_other_data_is_in_no_mean_of_the_paper():
    choice = choose("stpm", None)
    comparison = compare_with_paper(made_of(choice, result_of(category="bolts", dataset=None)))
    assert row_of(comparison, "bolts").cells["image_auroc"].paper is None
    cell = row_of(comparison, "mean").cells["image_auroc"]
    assert (cell.paper, cell.mean, cell.difference) == (95.5, None, None)


def test_categories_that_a_table_only_numbers_are_compared_by_their_mean():
    choice = choose("dual-det", "tilda")
    recipe = expected_recipe(choice, choice.variants[0])
    names = ("c1r1", "c1r3", "c2r2", "c2r3", "c3r1", "c3r3", "c4r1", "c4r3")
    results = [result_of(category=name, dataset="tilda", recipe=recipe) for name in names]
    cell = row_of(compare_with_paper(made_of(choice, *results)), "mean").cells["image_auroc"]
    assert (cell.paper, cell.difference) == (88.1, pytest.approx(1.9))
    few = row_of(compare_with_paper(made_of(choice, *results[:4])), "mean").cells["image_auroc"]
    assert few.difference is None


def test_a_category_without_masks_has_no_pixel_figures():
    results = [result_of(category="carpet"), result_of(category="grid", pixel_auroc=None, pro=None)]
    comparison = compare_with_paper(made_of(choose("stpm", "mvtec_ad"), *results))
    assert row_of(comparison, "grid").cells["pro"].mean is None
    assert row_of(comparison, "mean").cells["pro"].mean is None
    assert row_of(comparison, "mean").cells["image_auroc"].mean == pytest.approx(90)


def test_the_compared_systems_are_there():
    comparison = compare_with_paper(made_of(choose("dskd", "magnetic_tile"), result_of(category="all", dataset=None)))
    table = next(table for table in comparison.printed if table.metric == "pixel_auroc")
    assert dict(zip(table.systems, table.rows["all"], strict=True))["DSN"] == 98.0
