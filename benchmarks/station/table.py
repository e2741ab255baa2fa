"""What the station did, as a table."""

from __future__ import annotations

from typing import Any

from benchmarks.markdown import machine_text, table


def station_table(record: dict[str, Any]) -> list[str]:
    """Return what became of the parts, and of the requests."""
    budget, found = record["budget"], record["found"]
    watch, serve, load = found["watch"], found["serve"], found["load"]
    rows = [
        ("`kdx watch`: parts with exactly one record", f"{watch['with_one_record']:,} of {watch['parts']:,}"),
        ("verdicts that each of two MQTT subscribers received", " and ".join(f"{n:,}" for n in watch["received"])),
        ("repeats among them, by their `verdict_id`", " and ".join(f"{n:,}" for n in watch["repeats"])),
        ("`kdx serve`: parts with exactly one record", f"{serve['with_one_record']:,} of {serve['parts']:,}"),
        ("parts that the live page showed", f"{serve['shown']:,}"),
        ("an operator's reviews in the report", f"{serve['in_report']} of {serve['reviews']}"),
        ("load: answers that differ from the detector's own", f"{load['differing']:,} of {load['answers']:,}"),
        ("wrong requests, all refused", f"{load['wrong_refused']:,}"),
        ("memory of the server after a tenth, and at the end", "{0:.0f} and {9:.0f} MB".format(*load["memory_mb"])),
        *(
            (f"p50 and p99 of {clients} client(s), over the detector's own call", f"{p50:.1f}× and {p99:.1f}×")
            for clients, (p50, p99) in load["times_the_call"].items()
        ),
    ]
    return [
        *table(("what", "found"), rows, right=(1,)),
        "",
        f"{budget['parts']:,} parts at {budget['rate']} a second, through two kills and a full disk; "
        f"{budget['requests']:,} requests of {budget['clients']} clients on the server's machine. "
        f"{machine_text(record, 'onnxruntime', 'uvicorn')}, whose load average was {record['load_average']} before.",
    ]
