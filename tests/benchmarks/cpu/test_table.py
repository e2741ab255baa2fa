"""The CPU benchmark as a table and in words."""

from __future__ import annotations

from benchmarks.cpu.table import cpu_table, scaling_table, scaling_text


def test_the_fastest_is_marked_and_compared_with_its_own_loop(record) -> None:
    lines = cpu_table(record)
    assert lines[2] == (
        "| `stpm` | resnet18 | 256² | 5.6 M | 14.70 | 22.5 MB | 151 MB | 40.0 | 20.0 | 18.0 | 10.0 | **8.0** | 5.00× "
        "| 10 (RTX 2080 Ti); 12 (anomalib) |"
    )
    assert lines[3] == "| `dskd` | resnet18 | – | – | – | – | – | 60.0 | 30.0 | **25.0** | – | – | 2.40× |  |"
    assert "200 calls of each" in lines[-1]


def test_batches_and_taps_have_the_time_of_an_image(record) -> None:
    lines = scaling_table(record)
    assert "| images a call | 8 | 2.5 | 2.2 | 1.2 | 1.0 |" in lines
    assert "| taps of the teacher | `layer1,layer2` | 20.0 | 18.0 | – | – |" in lines
    assert "| threads | 2 | 20.0 | 18.0 | 10.0 | 8.0 |" in lines


def test_the_text_gives_shares_percentiles_and_growth(record) -> None:
    text = "\n".join(scaling_text(record))
    assert "ONNX Runtime FP32 1.0 and 4.0 %; OpenVINO INT8 1.0 and 4.0 %" in text
    assert "p50 8.00 ms, p99 9.60 (1.20 times)" in text
    assert "200 MB after 2,000 calls, 200 MB after 20,000" in text
    assert "OpenVINO INT8 1.50 s, then 0.40" in text
    assert "500 MB loaded apart, 400 MB with the teacher held once; 2 students 40.0 ms apart, 30.0 together" in text
