"""The papers' tables are complete, as printed, and what kdx is to train for them can be trained."""

from __future__ import annotations

import itertools
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from kd_train.methods import find_method, methods
from kd_train.models import squeezenet
from kd_train.recipes import Recipe, load_recipe
from kd_train.reproduction import papers as module
from kd_train.reproduction.choice import choose
from kd_train.reproduction.papers import EVERY, MEAN, PAPERS, SHARE_METRICS, Paper, Table, data_sets, papers
from kd_train.training.from_options import overrides
from kd_train.training.options import TrainOptions
from kdx.errors import DataError, OptionError
from kdx.imaging.images import InputSpec
from tests.images import solar_cells
from tests.pairs import fuse_pair, make_pair

ROOT = Path(__file__).parents[3]
TABLES = {"stpm": 9, "mixed_teacher": 6, "dual_model": 8, "dskd": 9}

# Printed means that are not the mean of the printed rows, even allowing for rounding: the figures
# stand as printed.
WRONG_MEANS = {
    ("stpm", 2, "pixel_auroc", "SPADE"),  # 0.965; the rows give 0.960
    ("stpm", 3, "pro", "AnoGAN"),  # 0.443; 0.447
    ("stpm", 3, "pro", "Ours"),  # 0.921; 0.924
    ("dual_model", 3, "image_auroc", "PatchCore"),  # 99.3; 99.2
    ("dual_model", 4, "image_auroc", "CFA"),  # 80.9; 82.0
    ("dskd", 1, "image_auroc", "AE-SSIM"),  # 63.0; 63.5
    ("dskd", 1, "image_auroc", "AnoGAN"),  # 55.0; 55.8
    ("dskd", 2, "pixel_auroc", "AE-SSIM"),  # 87.0; 86.9
    ("dskd", 2, "pixel_auroc", "Spade"),  # 96.5; 96.0
    ("dskd", 2, "pixel_auroc", "Ours"),  # 97.6; 97.5
    ("dskd", 2, "pro", "AnoGAN"),  # 44.3; 44.7
    ("dskd", 2, "pro", "STPM"),  # 92.1; 92.4
    ("dskd", 2, "pro", "Ours"),  # 93.5; 93.3
}

# Read off the texts again: paper, table, metric, row, column, percent.
PRINTED = [
    ("stpm", 1, "image_auroc", "mean", "Ours", 95.5),
    ("stpm", 2, "pixel_auroc", "transistor", "Ours", 82.5),
    ("stpm", 3, "pro", "zipper", "STAD", 93.3),
    ("stpm", 4, "pixel_auroc", "mean", "Ours", 91.3),
    ("stpm", 5, "image_auroc", "mean", "Ours", 83.2),
    ("stpm", 6, "pro", "mean", "5", 50.4),
    ("stpm", 7, "image_auroc", "mean", "ResNet-50", 89.7),
    ("stpm", 8, "pixel_auroc", "mean", "SVHN", 90.2),
    ("stpm", 9, "image_auroc", "mean", "Ours, 5 %", 87.1),
    ("mixed_teacher", 1, "image_auroc", "mean_textures", "Layer 1 and 2", 99.0),
    ("mixed_teacher", 2, "image_auroc", "mean", "Ours", 99.5),
    ("mixed_teacher", 5, "pixel_auroc", "wood", "PatchCore", 95.0),
    ("mixed_teacher", 6, "image_auroc", "01", "Ours", 97.0),
    ("dual_model", 2, "pixel_auroc", "mean", "Ours", 98.1),
    ("dual_model", 3, "image_auroc", "toothbrush", "FastFlow", 83.6),
    ("dual_model", 3, "pixel_auroc", "mean", "Ours", 95.7),
    ("dual_model", 4, "image_auroc", "tilda8", "Ours", 74.5),
    ("dual_model", 7, "image_auroc", "grid", "AE", 96.7),
    ("dual_model", 8, "image_auroc", "mean", "MSE + add", 99.84),
    ("dskd", 1, "image_auroc", "toothbrush", "MB-PFM", 88.6),
    ("dskd", 2, "pixel_auroc", "transistor", "FAVAE", 98.4),
    ("dskd", 2, "pro", "carpet", "FAVAE", None),
    ("dskd", 3, "image_auroc", "cookie", "Ours", 65.4),
    ("dskd", 4, "pro", "foam", "Ours", 85.8),
    ("dskd", 5, "pro", "all", "Ours", 70.3),
    ("dskd", 7, "image_auroc", "mean", "E-D", 93.2),
    ("dskd", 8, "image_auroc", "mean", "without DFE", 75.6),
    ("dskd", 9, "pixel_auroc", "mean", "M1-3", 97.5),
]


def every_table() -> list[tuple[Paper, Table]]:
    return [(paper, table) for paper in papers() for table in paper.table]


def table_of(key: str, number: int) -> Table:
    return next(table for paper, table in every_table() if (paper.key, table.number) == (key, number))


def own_systems() -> list[tuple[str, object]]:
    return [
        pytest.param(method, system, id=f"{paper.key}-{table.number}-{name}-{method}")
        for paper, table in every_table()
        for name, system in table.own.items()
        for method in system.methods
        if not system.cannot
    ]


def test_every_table_is_there():
    assert {paper.key: [table.number for table in paper.table] for paper in papers()} == {
        key: list(range(1, count + 1)) for key, count in TABLES.items()
    }


@pytest.mark.parametrize(("key", "number", "metric", "row", "system", "figure"), PRINTED)
def test_a_figure_is_as_printed(key, number, metric, row, system, figure):
    assert table_of(key, number).figure(metric, row, system) == figure


def test_speed_is_as_printed():
    assert table_of("mixed_teacher", 3).figures["fps"]["all"][-1] == 108.1
    assert table_of("dual_model", 5).figures["latency_ms"]["all"][-2:] == (12, 6)
    assert table_of("dskd", 6).figures["gflop"]["all"][-1] == 6.17
    assert not table_of("dskd", 6).is_measured


def test_printed_means_are_means_of_the_rows_with_known_exceptions():
    wrong = set()
    checked = 0
    for paper, table in every_table():
        for metric in SHARE_METRICS:
            rows = dict(table.figures.get(metric, {}))
            if MEAN not in rows or len(rows) == 1:
                continue
            printed = rows.pop(MEAN)
            assert set(rows) == set(data_sets()[table.data].members(table.group))
            for column, system in enumerate(table.systems):
                values = [row[column] for row in rows.values()]
                if "-" in values:
                    assert set(values) == {printed[column]} == {"-"}
                    continue
                decimals = max(len(str(value).partition(".")[2]) for value in values)
                checked += 1
                # Half a unit for the rows' own rounding, half for the mean's.
                if abs(sum(values) / len(values) - printed[column]) > 10**-decimals + 1e-9:
                    wrong.add((paper.key, table.number, metric, system))
    assert checked > 70
    assert wrong == WRONG_MEANS
    for key, number, _, system in wrong:
        assert any(f"of {system} " in note for note in table_of(key, number).notes)


def test_the_papers_agree_on_their_own_systems_where_they_print_them_twice():
    """MixedTeacher prints its reduced student twice; DSKD prints its full model in four tables."""
    two, four = table_of("mixed_teacher", 2), table_of("mixed_teacher", 4)
    assert all(
        two.figure("image_auroc", row, "Ours") == four.figure("image_auroc", row, "ReducedStudent")
        for row in two.rows()
    )
    full = [(7, "DS"), (8, "with DFE"), (9, "M1-3")]
    pixel = [table_of("dskd", number).figure("pixel_auroc", MEAN, name) for number, name in full]
    assert pixel == [97.6, 97.6, 97.5]
    assert any("97.5" in note for note in table_of("dskd", 9).notes)


@pytest.mark.parametrize(("method", "system"), own_systems())
def test_what_is_to_be_trained_can_be_asked_for(method, system):
    settings = system.settings()
    assert set(settings) <= set(TrainOptions.__dataclass_fields__)
    found = find_method(method)
    recipe = load_recipe(found, overrides(TrainOptions(method=method, **settings)))
    # A column that names an option differs by it from the method as proposed.
    assert recipe.options == settings.get("method_options", {})
    assert settings or recipe == load_recipe(found, {})


def test_what_the_papers_say_of_training_is_about_recipes():
    fields = set(Recipe.__struct_fields__)
    for paper in papers():
        for method, facts in paper.method.items():
            recipe = load_recipe(find_method(method), {})
            assert set(facts.printed) | set(facts.silent) <= fields
            assert {name for on in facts.on.values() for name in on} <= set(TrainOptions.__dataclass_fields__)
            assert set(facts.on) <= set(data_sets())
            assert tuple(name.partition(".")[0] for name in facts.backbone.split(",")) == recipe.backbones


@pytest.mark.slow
def test_named_teachers_exist():
    from kd_train.models.torch_vision import import_timm

    timm = import_timm()
    named = {facts.backbone for paper in papers() for facts in paper.method.values()}
    named |= {s.backbone for _, t in every_table() for s in t.own.values() if s.backbone}
    for name in {part for text in named for part in text.split(",")}:
        known = timm.list_models(pretrained=True) if "." in name else [*timm.list_models(), *squeezenet.SQUEEZENETS]
        assert name in known


def test_methods_of_the_tables_exist():
    named = {m for _, t in every_table() for s in t.own.values() for m in s.methods}
    named |= {m for _, t in every_table() for m in t.also.values()}
    assert named <= set(methods())
    assert {m for paper in papers() for m in paper.method} == set(methods()) - {"reverse-distillation"}


def test_published_counts_add_up():
    """Totals of the data sets' own papers."""
    mvtec = data_sets()["mvtec_ad"].published.values()
    assert sum(c.train for c in mvtec) == 3629
    assert sum(c.test_good for c in mvtec) == 467
    assert sum(c.test_defective for c in mvtec) == 1258
    three_d = data_sets()["mvtec_3d_ad"].published.values()
    assert (sum(c.train for c in three_d), sum(c.test_good + c.test_defective for c in three_d)) == (2656, 1197)
    assert sum(c.train + c.test for c in data_sets()["btad"].published.values()) == 2540
    tile = data_sets()["magnetic_tile"].published[EVERY]
    assert tile.good + tile.test_defective == 1344


def test_groups_are_the_categories():
    mvtec = data_sets()["mvtec_ad"]
    assert (len(mvtec.categories), len(mvtec.groups["textures"]), len(mvtec.groups["objects"])) == (15, 5, 10)
    assert set(mvtec.categories) == set(mvtec.groups["textures"] + mvtec.groups["objects"]) == set(mvtec.published)


DAMAGED = [
    ({"colour": 1}, "unknown field"),
    ({"systems": ["A"]}, "2 figures for 1 columns"),
    ({"data": "imagenet"}, "its data set 'imagenet' is not known"),
    ({"group": "fruits"}, "no group 'fruits'"),
    ({"own": {"C": {"methods": ["stpm"]}}}, "unknown column 'C'"),
    ({"figures": {"image_auroc": {"apple": [1, 2]}}}, "unknown row 'apple'"),
    ({"figures": {"beauty": {"mean": [1, 2]}}}, "Invalid enum value"),
    ({"figures": {"image_auroc": {"mean": ["?", 2]}}}, "Invalid enum value"),
]


@pytest.mark.parametrize(("change", "message"), DAMAGED)
def test_a_damaged_table_is_refused(change, message):
    fields = {
        "number": 1,
        "caption": "",
        "data": "mvtec_ad",
        "systems": ["A", "B"],
        "figures": {"image_auroc": {"mean": [1, 2]}},
    }

    def read(fields: dict) -> None:
        table = module._convert("x.toml", fields, Table)
        module._check(table, data_sets().get(table.data), "x.toml")

    read(fields)
    with pytest.raises(DataError, match=message):
        read({**fields, **change})


def test_a_missing_file_is_named():
    with pytest.raises(DataError, match=r"the papers' tables are missing: 'moon\.toml'"):
        module._read("moon.toml")


def test_a_wheel_carries_them(tmp_path):
    """Where the module looks for them first; a checkout has them under benchmarks alone."""
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="the build backend is not installed")
    (path,) = wheel.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(path) as archive:
        names = {name for name in archive.namelist() if name.startswith("kd_train/paper_tables/")}
        assert names == {f"kd_train/paper_tables/{key}.toml" for key in (*PAPERS, "data_sets")}
        kept = (ROOT / "benchmarks/papers/stpm.toml").read_bytes()
        assert archive.read("kd_train/paper_tables/stpm.toml") == kept
    assert not (ROOT / "kd_train/paper_tables").exists()


def test_choosing_without_a_table_takes_the_method_as_proposed():
    choice = choose("stpm", "mvtec_ad")
    (variant,) = choice.variants
    assert (variant.name, variant.settings, variant.slug) == ("", {}, "as-proposed")
    places = [column.place for column in variant.columns]
    # Its own paper first; then who quotes it, most rows first.
    own = ["stpm, table 1", "stpm, table 2", "stpm, table 3"]
    assert places == [*own, "dskd, table 1", "dskd, table 2", "mixed_teacher, table 2"]
    assert variant.categories == data_sets()["mvtec_ad"].categories


def test_data_that_is_not_recognised_gets_the_first_tables():
    assert choose("dual-det", None).data == "mvtec_ad"


def test_data_that_the_paper_does_not_use_has_no_figures():
    choice = choose("stpm", "magnetic_tile")
    assert choice.tables == ()
    assert [variant.settings for variant in choice.variants] == [{}]


def test_the_dual_model_scores_objects_by_both_parts():
    choice = choose("dual", "mvtec_ad")
    by_settings = {variant.slug: variant.categories for variant in choice.variants}
    groups = data_sets()["mvtec_ad"].groups
    assert by_settings == {"as-proposed": groups["textures"], "scored-by-both": groups["objects"]}
    assert [v.slug for v in choice.variants_for("cable")] == ["scored-by-both"]
    assert [v.slug for v in choice.variants_for("parts")] == ["as-proposed"]


def test_choosing_an_ablation():
    choice = choose("dskd", "mvtec_ad", 7)
    assert [(v.name, v.slug) for v in choice.variants] == [
        ("DS", "as-proposed"),
        ("T-E", "structure-t-e"),
        ("T-D", "structure-t-d"),
        ("E-D", "structure-e-d"),
    ]
    assert [v.name for v in choose("dskd", "mvtec_ad", 7, ["T-D"]).variants] == ["T-D"]
    assert choose("stpm", None, 8).cannot["SVHN"] == "there is no teacher trained on SVHN"


def test_folders_of_one_table_are_distinct():
    for paper, table in every_table():
        for method in paper.method:
            if table.is_measured and any(method in s.methods and not s.cannot for s in table.own.values()):
                slugs = [variant.slug for variant in choose(method, None, table.number).variants]
                assert len(slugs) == len(set(slugs))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("moon", None), "no detection figures of 'moon'"),
        (("reverse-distillation", "mvtec_ad"), "only dual_model, table 5"),
        (("dskd", None, 10), "has no table 10"),
        (("dskd", None, 6), "is about cost"),
        (("mixed-teacher", None, 2), "has no column of 'mixed-teacher'"),
        (("dual-det", None, 6), "cannot be trained: mirror student"),
        (("dskd", None, 7, ["X"]), "has no column 'X'"),
        (("dskd", None, None, ["T-E"]), "`variants` needs a table"),
    ],
)
def test_what_cannot_be_chosen_is_said(arguments, message):
    with pytest.raises(OptionError, match=message) as caught:
        choose(*arguments)
    assert caught.value.expected or caught.value.fix or "cannot" in message


def test_a_paper_is_data_alone():
    """Frozen structs: nobody changes a printed figure."""
    with pytest.raises(AttributeError):
        papers()[0].table[0].number = 2
    assert msgspec.json.encode(papers())


def variants() -> list[tuple[str, list[dict[str, object]]]]:
    """Each table's columns that differ in how one method's features become map and score."""
    found = []
    for paper, table in every_table():
        columns: dict[str, list[dict[str, object]]] = {}
        for system in table.own.values():
            settings = system.settings()
            choices = settings.pop("method_options", {})
            if not system.cannot and not settings.keys() - {"combine", "score"}:
                for method in system.methods:
                    columns.setdefault(method, []).append({**settings, **choices})
        found += [
            pytest.param(method, choices, id=f"{paper.key}-{table.number}-{method}")
            for method, choices in columns.items()
            if len(choices) > 1
        ]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("method", "columns"), variants())
def test_no_two_columns_of_a_table_are_the_same_detector(method, columns):
    images = torch.from_numpy(solar_cells(2, (64, 64)))
    outputs = []
    for choices in columns:
        pair = make_pair(method, "test_resnet", "", 0.0, **choices)
        outputs.append([output.numpy() for output in fuse_pair(pair, InputSpec(height=64, width=64), 64)(images)])
    for one, other in itertools.combinations(outputs, 2):
        assert not all(np.allclose(a, b, rtol=1e-3) for a, b in zip(one, other, strict=True))
