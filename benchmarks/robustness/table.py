"""What the robustness benchmark tried, and what went wrong, as a table."""

from __future__ import annotations

from typing import Any

from benchmarks.markdown import machine_text, runtime_name, table

Row = dict[str, Any]


def robustness_table(record: Row) -> list[str]:
    """Return what was tried, how often, and what of it went wrong."""
    found = record["found"]
    soaked, fuzzed, threads = found["soak"], found["fuzz"], found["threads"]
    kills, races = found["kill"]["kills"], found["kill"]["races"]
    threaded = [
        part
        for row in threads
        if "error" not in row
        for part in (row["one detector"], *row["closed meanwhile"], row["loaded and closed"])
    ]
    backends = ", ".join(runtime_name(row["backend"], row["precision"]) for row in soaked)
    growth = max(0.0, *(row["growth_mb"] for row in soaked))
    failures = _total(threaded, "errors") + sum("error" in row for row in threads)
    rows = [
        (
            f"frames on one detector, in {backends}; wrong frames among them, loaded again now and then",
            f"{_total(soaked, 'frames'):,} in {_total(soaked, 'hours'):.1f} h",
            f"{_total(soaked, 'crashes')} crashes, {_total(soaked, 'leaks')} leaks (memory grew by at most "
            f"{growth:.1f} MB), {_total(soaked, 'differing')} answers that differ",
        ),
        (
            f"calls of {threads[0]['one detector']['threads']} threads on one detector, some while it was loaded and "
            "closed",
            f"{_total(threaded, 'calls'):,}",
            f"{failures} failures, {_total(threaded, 'differing')} answers that differ from one thread's",
        ),
        (
            f"damaged files: {_names(fuzzed, 'target')}",
            f"{_total(fuzzed, 'tried'):,}",
            f"{_total(fuzzed, 'faults')} that were neither refused nor judged as before",
        ),
        (
            f"SIGKILL at every change of a file, and at random: {_names(kills)}",
            f"{_total(kills, 'kills'):,}",
            f"{_total(kills, 'lost')} bundles lost: {_total(kills, 'old')} times the old one, "
            f"{_total(kills, 'new')} times the new one, whole",
        ),
        (
            f"commands on one bundle at once: {_names(races)}",
            f"{_total(races, 'rounds'):,}",
            f"{_total(races, 'lost')} bundles lost",
        ),
    ]
    return [
        *table(("what was done to it", "how often", "what went wrong"), rows, right=(1,)),
        "",
        f"{machine_text(record, 'onnxruntime', 'openvino', 'pillow')}, {record['machine']['system'].split()[0]}.",
    ]


def _total(rows: list[Row], name: str) -> Any:
    """Return the sum of a figure over rows; of a list, the sum of lengths."""
    return sum(len(row[name]) if isinstance(row[name], list) else row[name] for row in rows)


def _names(rows: list[Row], key: str = "name") -> str:
    return ", ".join(row[key] for row in rows)
