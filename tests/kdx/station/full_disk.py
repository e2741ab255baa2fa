"""Runs a station whose output lies on a disk that fills up, and has room again once that is said.

Run as a script with a folder to mount the disk on, in a namespace that ends with this process;
prints what was said and recorded as JSON. Needs root, or user namespaces.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from kdx.station import arrivals, troubles
from tests.kdx.station.stations import NoNotices, drop, lines, options_for, outbox, run, sorted_files
from tests.robustness.small_disk import fill, mount

COUNT = 40


def main(root: Path) -> None:
    arrivals.observer_of = lambda *_: NoNotices()
    troubles._AGAIN_SECONDS = 0.0
    disk = root / "out"
    disk.mkdir(parents=True)
    try:
        mount(disk)
    except OSError as error:
        print(json.dumps({"unable": str(error)}))
        return
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text.partition(":")[0].replace(str(disk), "OUT"))
        if "is full" in text:
            (disk / "filler").unlink()

    drop(root, **{f"{index:02d}": "good" for index in range(COUNT)})
    options = options_for(root, csv="comma", heat_maps=True, files="link", backlog=COUNT)
    for index, _ in enumerate(run(options, say)):
        if index == 2:
            fill(disk / "filler", 0)
    records = lines(disk)
    print(
        json.dumps(
            {
                "said": said,
                "images": [record["image"] for record in records],
                "messages": [each["verdict_id"] for each in outbox(disk)] == [each["verdict_id"] for each in records],
                "files": len(sorted_files(disk)),
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
