"""``kdx reproduce`` as a user calls it."""

from __future__ import annotations

from pathlib import Path

import pytest

OPTIONS = (
    *("--backbone", "test_resnet", "--weights", "random", "--image-size", "64", "--batch-size", "4", "--epochs", "1"),
    *("--validation-fraction", "0.5", "--workers", "0", "--device", "cpu", "--learning-rate", "0.05"),
)


@pytest.fixture(scope="module")
def mvtec(tmp_path_factory, make_dataset) -> Path:
    root = tmp_path_factory.mktemp("mvtec") / "images"
    for name in ("carpet", "tile"):
        make_dataset(root / name, train=8, good=3, scratch=3)
    return root


@pytest.fixture(scope="module")
def made(cli, mvtec, tmp_path_factory):
    """A reproduction of two categories and two seeds that no test may change."""
    out = tmp_path_factory.mktemp("made") / "out"
    return out, cli("reproduce", "stpm", "--data", mvtec, "--seeds", 2, "--out", out, "--all-systems", *OPTIONS)


@pytest.mark.slow
def test_the_table_says_what_it_is(made):
    _, result = made
    first = result.stdout.splitlines()[0]
    assert first.startswith("stpm on MVTec AD: not a reproduction, 11 things differ from Wang")
    for line in (
        "the teacher: test_resnet; the paper's resnet18.tv_in1k",
        "the teacher's weights: random; the paper's ImageNet, PyTorch's own (torchvision)",
        "epochs: 1; the paper's 100",
        "validation fraction: 0.5; the paper's 0",
        "the mean is over 2 of 15 categories: carpet, tile",
        "the images of carpet: 8 train (published: 280), 3 test good (published: 28)",
        "checkpoint; here last",
    ):
        assert line in result.stdout


@pytest.mark.slow
def test_the_table_has_the_papers_figures_and_ours(made):
    _, result = made
    lines = result.stdout.splitlines()
    row = next(line for line in lines if "│tile" in line)
    assert "97.4" in row  # pixel AUROC of STPM's table 2
    assert "95.5*" in row  # image AUROC, which DSKD quotes
    assert row.count("±") == 3
    assert "mean ± standard deviation of 2 seeds" in result.stdout
    assert "* not printed by the method's own paper; as quoted by dskd, table 1" in result.stdout
    # The compared systems, ours in the last column.
    assert "CNN-Dict" in result.stdout
    assert sum("kdx" in line for line in lines) == 7
    assert all(len({len(line) for line in lines if line.startswith("│" + name)}) <= 7 for name in ("carpet", "tile"))


def test_what_is_made_is_reported_on_standard_error(made):
    _, result = made
    assert "tile, seed 1: image AUROC" in result.stderr
    assert "seed 1" not in result.stdout


def test_a_second_call_makes_nothing_and_prints_the_same(cli, made, mvtec):
    out, first = made
    runs = sorted(out.glob("*/*/seed-*/result.json"))
    assert len(runs) == 4
    before = [run.stat().st_mtime_ns for run in runs]
    again = cli("reproduce", "stpm", "--data", mvtec, "--seeds", 2, "--out", out, "--all-systems", *OPTIONS)
    assert [run.stat().st_mtime_ns for run in runs] == before
    assert again.stdout == first.stdout
    assert again.stderr.count("finished earlier") == 4


def test_json_has_everything_and_nothing_else(cli, made, mvtec):
    out, _ = made
    command = ("reproduce", "stpm", "--data", mvtec, "--category", "tile", "--seeds", 1, "--out", out, *OPTIONS)
    found = cli(*command, "--json").json
    assert found["is_reproduction"] is False
    assert found["out"] == str(out)
    (result,) = found["results"]
    assert (result["category"], result["seed"], result["recipe"]["epochs"]) == ("tile", 0, 1)
    row = next(row for row in found["rows"] if row["name"] == "tile")
    assert row["cells"]["pro"]["paper"] == 92.1
    assert row["cells"]["pro"]["seeds"] == [pytest.approx(100 * result["pro"])]
    assert row["cells"]["pro"]["spread"] is None
    spade = next(table for table in found["printed"] if table["place"] == "stpm, table 2")
    assert spade["rows"]["tile"][spade["systems"].index("SPADE")] == 87.4


def test_one_seed_says_so(cli, made, mvtec):
    out, _ = made
    result = cli("reproduce", "stpm", "--data", mvtec, "--category", "tile", "--seeds", 1, "--out", out, *OPTIONS)
    assert "one seed, no spread" in result.stdout
    assert "±" not in result.stdout


def test_an_ablation_names_its_columns(cli, mvtec, tmp_path):
    """The columns of this table are called [2, 3] and the like, which must not be taken for
    markup."""
    options = ("--table", 6, "--variant", "[2, 3]", "--variant", "2", "--out", tmp_path / "out", *OPTIONS)
    command = ("reproduce", "stpm", "--data", mvtec, "--category", "tile", "--seeds", 1, *options)
    result = cli(*command)
    assert "│[2, 3]: tile" in result.stdout
    assert "│2: mean" in result.stdout
    assert "80.8" in next(line for line in result.stdout.splitlines() if "│2: mean" in line)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "reproduce.json",
        "taps-layer1",
        "taps-layer1-layer2",
    }


def test_what_a_table_has_that_cannot_be_trained_is_said(cli, mvtec, tmp_path):
    options = ("--table", 8, "--category", "tile", "--seeds", 1, "--out", tmp_path / "out", *OPTIONS)
    result = cli("reproduce", "stpm", "--data", mvtec, *options)
    assert "SVHN: there is no teacher trained on SVHN" in result.stdout


def test_ctrl_c_says_how_to_continue(cli, mvtec, tmp_path, monkeypatch):
    from kd_train.reproduction import runs as module

    def interrupt(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "train", interrupt)
    result = cli("reproduce", "stpm", "--data", mvtec, "--out", tmp_path / "out", *OPTIONS, code=130)
    assert f"what is finished is in '{tmp_path / 'out'}': run the same command again to continue" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("moon",), "no detection figures of 'moon'"),
        (("reverse-distillation",), "only dual_model, table 5"),
        (("stpm", "--table", "11"), "has no table 11"),
        (("dskd", "--table", "6"), "is about cost"),
        (("stpm", "--category", "zebra"), "there is no category 'zebra'"),
        (("stpm", "--seeds", "0"), "--seeds is out of range"),
        (("stpm", "--variant", "2"), "--variant needs a table"),
    ],
)
def test_a_bad_request_is_refused_with_what_is_possible(cli, mvtec, tmp_path, options, message):
    result = cli("reproduce", *options, "--data", mvtec, "--out", tmp_path / "out", code=2)
    assert message in result.stderr
    assert "expected:" in result.stderr or "fix:" in result.stderr
    assert not (tmp_path / "out").exists()


def test_data_that_is_not_there(cli, tmp_path):
    result = cli("reproduce", "stpm", "--data", tmp_path / "no", "--out", tmp_path / "out", code=2)
    assert "does not exist" in result.stderr


def test_another_setting_needs_another_folder(cli, made, mvtec):
    out, _ = made
    result = cli("reproduce", "stpm", "--data", mvtec, "--out", out, *OPTIONS, "--sigma", 2, "--json", code=2)
    error = result.json["error"]
    assert error["type"] == "OutputError"
    assert "blur_sigma" in error["message"]
    assert "--force" in error["fix"]
