"""The robustness benchmark as a table, and what is on record."""

from __future__ import annotations

import pytest

from benchmarks.results import Result, result_file
from benchmarks.robustness.table import robustness_table


@pytest.fixture
def record():
    threads = {"threads": 16, "calls": 3200, "differing": 1, "errors": ["x"]}
    openvino = {"backend": "openvino", "precision": "int8"}
    soaked = {**openvino, "frames": 200_000, "hours": 0.25, "crashes": 1, "differing": 2, "leaks": 0, "growth_mb": 1.25}
    found = {
        "soak": [soaked],
        "fuzz": [
            {"target": "image", "tried": 500, "faults": ["x", "y"]},
            {"target": "graph", "tried": 100, "faults": []},
        ],
        "kill": {
            "kills": [{"name": "calibrate", "kills": 40, "old": 30, "new": 9, "lost": ["a"]}],
            "races": [{"name": "two", "rounds": 5, "lost": ["b", "c"]}],
        },
        "threads": [
            {**openvino, "one detector": threads, "closed meanwhile": [threads], "loaded and closed": threads},
            {**openvino, "error": "signal 11"},
        ],
    }
    versions = {"onnxruntime": "1", "openvino": "2", "pillow": "3"}
    return {"machine": {"cpu": "A CPU", "threads": 2, "system": "Linux 6", "versions": versions}, "found": found}


def test_the_table_says_what_was_tried_and_what_went_wrong(record) -> None:
    text = "\n".join(robustness_table(record))
    assert "200,000 in 0.2 h | 1 crashes, 0 leaks (memory grew by at most 1.2 MB), 2 answers that differ" in text
    assert "some while it was loaded and closed | 9,600 | 4 failures, 3 answers" in text
    assert "| damaged files: image, graph | 600 | 2 that were neither refused nor judged as before |" in text
    assert "calibrate | 40 | 1 bundles lost: 30 times the old one, 9 times the new one, whole |" in text
    assert "| commands on one bundle at once: two | 5 | 2 bundles lost |" in text
    assert "OpenVINO INT8" in text
    assert text.endswith("2 threads of A CPU (onnxruntime 1, openvino 2, pillow 3), Linux.")


def test_the_record_is_of_a_long_soak_without_a_fault() -> None:
    result = Result.load(result_file("robustness"))
    found = result.found
    assert sum(row["frames"] for row in found["soak"]) >= 200_000
    lines = [line for line in robustness_table(result.record) if line.startswith("| ")][1:]
    outcomes = [line.split(" | ")[2] for line in lines]
    assert [outcome.split()[0] for outcome in outcomes] == ["0"] * 5
    assert "0 leaks" in outcomes[0]
    assert all(row["differing"] == 0 for row in found["soak"])
