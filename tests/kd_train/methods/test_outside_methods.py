"""A method of another package: one module, one recipe, one entry point."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

MODULE = '''
"""A toy: the teacher's feature against its own average over the neighbourhood. Nothing but a scale is trained."""

from pathlib import Path

import torch
from torch import nn

from kd_export.graph import Combine, Distance, PairSpec
from kd_train.models.pair import Method, Pair, declare_map
from kd_train.models.teacher import build_teacher


class Smooth(Pair):
    def __init__(self, teacher, spec, channels):
        super().__init__(teacher, spec, channels, sees_image=False)
        self.scales = nn.ParameterList(torch.ones(1, count, 1, 1) for count in channels)

    def compare(self, x, teacher):
        return [
            (feature, scale * nn.functional.avg_pool2d(feature, 3, 1, 1))
            for feature, scale in zip(teacher, self.scales)
        ]


def build(options):
    teacher, source = build_teacher(options.teacher, groups=1)
    names = [feature.name for feature in teacher.features]
    maps = declare_map(names, options, distance=Distance.COSINE, combine=Combine.SUM)
    return Smooth(teacher, PairSpec((maps,)), tuple(f.channels for f in teacher.features)), source


METHOD = Method(name="toy", paper="none", build=build, recipe=Path(__file__).with_name("toy.toml"))
'''
RECIPE = """
backbones = ["test_resnet"]
image_size = 64
epochs = 2
batch_size = 4
optimiser = "adam"
learning_rate = 0.01
strides = [[4, 8]]
blur_sigma = 2
"""


def install(folder: Path, *, module: str = MODULE, recipe: str = RECIPE, points_at: str = "METHOD") -> None:
    """Lay a package out as pip does: the module, its data, and the entry point in its metadata."""
    package = folder / "outside"
    package.mkdir()
    (package / "__init__.py").write_text(module, encoding="utf-8")
    (package / "toy.toml").write_text(recipe, encoding="utf-8")
    metadata = folder / "outside-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text(f"[kdx.methods]\ntoy = outside:{points_at}\n", encoding="utf-8")


@pytest.fixture
def outside(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    yield folder
    sys.modules.pop("outside", None)


@pytest.mark.slow
def test_a_method_from_outside_trains_exports_and_is_verified(outside, tmp_path, dataset, cli, tiny_options) -> None:
    install(outside)
    assert "toy" in {method["name"] for method in cli("methods", "--json").json}
    run, bundle = tmp_path / "run", tmp_path / "toy.kdx"
    cli("train", dataset, "-o", run, "--method", "toy", *tiny_options)
    cli("export", run, "-o", bundle, "--max-batch", 1)
    assert cli("verify", bundle, "--json").json["passed"]
    assert "toy: sum over layer1, layer2" in cli("inspect", bundle).stdout
    bench = cli("bench", bundle, "--baseline", run, "--runs", 20, "--warm-up", 1, "--batch", 1, "--json").json
    assert bench["method"] == "toy"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"points_at": "build"}, "is not a method"),
        ({"module": MODULE.replace('name="toy"', 'name="stpm"')}, "'stpm', which exists"),
        ({"recipe": RECIPE.replace("epochs", "epoch")}, "the recipe of 'toy' is not valid"),
    ],
    ids=["not a method", "a name that exists", "a recipe that is not one"],
)
def test_a_method_that_is_none_is_refused(outside, tmp_path, dataset, cli, tiny_options, changes, said) -> None:
    install(outside, **changes)
    assert said in cli("train", dataset, "-o", tmp_path / "run", "--method", "toy", *tiny_options, code=2).stderr
