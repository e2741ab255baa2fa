"""What ``cpu.py`` found, as table, words and pictures; what it times, from a bundle."""

from __future__ import annotations

import json
import struct

import pytest

WAYS = ("onnxruntime-cpu fp32", "openvino fp32", "openvino bf16", "openvino int8")


def row(name: str, p50: float, **more):
    return {"name": name, "calls": 200, "p50_ms": p50, "p99_ms": 1.2 * p50, "max_ms": 2 * p50, "error": "", **more}


def rows(*times: float, eager: float | None = None):
    found = [row(name, time) for name, time in zip(WAYS, times, strict=False)]
    return found if eager is None else [row("eager", eager), *found]


@pytest.fixture
def record(tmp_path):
    stage = {"input_ms": 0.1, "networks_ms": 9.4, "tail_ms": 0.4, "layout_ms": 0.1}
    found = {
        "machine": {"cpu": "A CPU", "threads": 2, "versions": {"onnxruntime": "1", "openvino": "2", "torch": "3"}},
        "matrix_product_gflops": 190.0,
        "methods": [
            {"method": "stpm", "backbone": "resnet18", "rows": rows(20, 18, 10, 8, eager=40)},
            # INT8 was refused; BF16 could not run.
            {
                "method": "dskd",
                "backbone": "resnet18",
                "rows": [*rows(30, 25, eager=60), {**row("openvino bf16", 0.0), "p50_ms": None, "error": "no BF16"}],
            },
        ],
        "stages": {"stages": [{"backend": "onnxruntime-cpu", **stage}, {"backend": "openvino int8", **stage}]},
        "sizes": [{"side": side, "rows": rows(20, 18, 10, 8)} for side in (128, 256)],
        "batches": [{"batch": batch, "rows": rows(20, 18, 10, 8)} for batch in (1, 8)],
        "threads": [{"threads": threads, "rows": rows(20, 18, 10, 8, eager=40)} for threads in (1, 2)],
        "taps": [{"taps": taps, "rows": rows(20, 18)} for taps in ("layer1", "layer1,layer2")],
        "steady": {**row("openvino int8", 8.0), "growth_calls": [2000, 20000], "peak_memory_mb_after": [200.0, 200.5]},
        "cold": [
            {
                "name": "openvino int8",
                "first_ms": 1500.0,
                "cached_ms": 400.0,
                "golden_images": 8,
                "golden_ms": 120.0,
            }
        ],
        "shared": {
            "bundles": 8,
            "memory": {"separate": {"pss_mb": 500.0}, "shared": {"pss_mb": 400.0}},
            "latency": [{"students": 2, "separate": {"p50_ms": 40.0}, "shared": {"p50_ms": 30.0}, "speed_up": 1.33}],
        },
    }
    file = tmp_path / "cpu.json"
    file.write_text(json.dumps(found))
    return file


def test_the_fastest_is_marked_and_held_against_its_own_loop(record) -> None:
    from benchmarks.cpu.table import cpu_table

    lines = cpu_table(record).splitlines()
    assert lines[2] == "| `stpm` | resnet18 | 40.0 | 20.0 | 18.0 | 10.0 | **8.0** | 5.00× |"
    assert lines[3] == "| `dskd` | resnet18 | 60.0 | 30.0 | **25.0** | – | – | 2.40× |"
    assert "200 calls of each" in lines[-1]
    assert "190 GFLOP/s" in lines[-1]


def test_parts_of_another_machine_are_not_kept(record) -> None:
    from benchmarks.cpu.run import keep_parts

    found = json.loads(record.read_text())
    assert keep_parts(found, found["machine"]) == found
    other = {**found["machine"], "cpu": "Another CPU"}
    assert keep_parts(found, other) == {"machine": other}
    assert keep_parts({}, other) == {"machine": other}


def test_the_text_gives_shares_percentiles_and_growth(record) -> None:
    from benchmarks.cpu.table import scaling_text

    text = scaling_text(record)
    assert "ONNX Runtime FP32 1.0 and 4.0 %; OpenVINO INT8 1.0 and 4.0 %" in text
    assert "p50 8.00 ms, p99 9.60 (1.20 times)" in text
    assert "200 MB after 2,000 calls, 200 MB after 20,000" in text
    assert "OpenVINO INT8 1.50 s, then 0.40" in text
    assert "500 MB loaded apart, 400 MB with the teacher held once; 2 students 40.0 ms apart, 30.0 together" in text


def test_pictures_are_written(record, tmp_path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'kdx[fit]'")
    from benchmarks.cpu.plot import plot_methods, plot_scaling

    found = json.loads(record.read_text())
    for draw in (plot_methods, plot_scaling):
        draw(found, tmp_path / draw.__name__)
        png = (tmp_path / f"{draw.__name__}.png").read_bytes()
        width, height = struct.unpack(">II", png[16:24])
        assert png.startswith(b"\x89PNG")
        assert min(width, height) > 150
        assert (tmp_path / f"{draw.__name__}.svg").read_text().rstrip().endswith("</svg>")


def test_every_way_of_a_bundle_is_a_candidate(tiny_run, tiny_bundle) -> None:
    from benchmarks.cpu.models import Prepared, candidates, fastest_way, stpm

    prepared = Prepared(stpm(), tiny_run, tiny_bundle, {})
    found = candidates(prepared, eager=True)
    assert found[0].name == "eager"
    assert {candidate.name for candidate in found[1:]} >= {"onnxruntime-cpu fp32"}
    only = candidates(prepared, only=(("onnxruntime-cpu", "fp32"),))
    assert [candidate.arguments["precision"] for candidate in only] == ["fp32"]
    measured = [row("eager", 1.0), row("openvino int8", 3.0), row("openvino fp32", 4.0)]
    assert fastest_way(measured) == ("openvino", "int8")


def test_a_loaded_bundle_judges_single_images_and_batches(tiny_bundle, tmp_path, monkeypatch) -> None:
    from benchmarks.cpu.loaders import bundle
    from kdx.bundle.open import open_bundle

    monkeypatch.setenv("KDX_CACHE_DIR", "")
    arguments = {"bundle": str(tiny_bundle), "backend": "onnxruntime-cpu", "threads": 1, "precision": None}
    golden = open_bundle(tiny_bundle).golden()
    predict = bundle({**arguments, "cache": str(tmp_path)})
    assert predict(golden.images[:1]) == pytest.approx(golden.scores[0, 0], rel=1e-4)
    assert predict(golden.images[:3]) == pytest.approx(golden.scores[:3, 0].tolist(), rel=1e-4)
