"""Commands that change one bundle at the same time: the result is that of one of their orders.

Run as a script with a file of such races and of kills (``kill.py``) as JSON; prints what came of
them.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.robustness.tools.children import Child, in_child, prepare_process, run_command
from tests.robustness.tools.kill import Job, copied, explore, facts_of
from tests.robustness.tools.setups import call_setup

# A calibration that lost against an export is refused, and says so.
_REFUSED = "was replaced while it was"


@dataclass(frozen=True)
class Race:
    """Commands that are started together.

    Attributes:
        name: For the record.
        commands: Of ``kdx``; ``{bundle}`` stands for the bundle.
        bundle: The bundle before; it is copied for every round.
        work: A folder for the copies.
        rounds: How many times.
        setup: What to change in each child before its command, see ``setups.py``.
    """

    name: str
    commands: list[list[str]]
    bundle: str
    work: str
    rounds: int
    setup: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """What came of a race.

    Attributes:
        name: Its name.
        rounds: How many times.
        refused: How many commands gave way to another, with status 2 and a message that says so.
        lost: Everything that went wrong, in words.
    """

    name: str
    rounds: int
    refused: int
    lost: list[str]


def run_race(race: Race) -> Outcome:
    """Start the commands together, round after round."""
    allowed = [_after(race, order) for order in itertools.permutations(race.commands)]
    refused, lost = 0, []
    for index in range(race.rounds):
        with copied(race.bundle, race.work) as bundle:
            children = [Child(lambda command=command: _run(race, command, bundle)) for command in race.commands]  # type: ignore[misc]
            for command, child in zip(race.commands, children, strict=True):
                ended = child.result()
                text = ended.error or str(ended.value)
                if ended.error or ended.signal or ended.value["status"] not in {0, 2}:
                    lost.append(f"round {index}, {command[0]}: {text}")
                elif ended.value["status"] == 2:
                    refused += 1
                    lost += [] if _REFUSED in text else [f"round {index}, {command[0]}: {text}"]
            ended = Child(lambda: facts_of(bundle)).result()
            if ended.error or ended.signal:
                lost.append(f"round {index}: {ended.error or ended.signal}")
            elif ended.value not in allowed:
                lost.append(f"round {index}: no order of the commands gives {ended.value}")
            lost += [f"round {index}: left behind: {path.name}" for path in bundle.parent.rglob(".*")]
    return Outcome(race.name, race.rounds, refused, lost)


def _after(race: Race, order: Sequence[Sequence[str]]) -> Any:
    with copied(race.bundle, race.work) as bundle:
        for command in order:
            done = in_child(lambda command=command: _run(race, command, bundle))  # type: ignore[misc]
            if done["status"]:
                raise RuntimeError(f"{command[0]} alone fails: {done}")
        return in_child(lambda: facts_of(bundle))


def _run(race: Race, command: Sequence[str], bundle: Path) -> dict[str, Any]:
    for setup in race.setup:
        call_setup(setup)
    return run_command([each.format(bundle=bundle) for each in command])


def main(arguments: Sequence[str]) -> None:
    """Carry out the kills and races of a file."""
    jobs = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    commands = [job["command"] for job in jobs.get("kills", [])]
    commands += [command for race in jobs.get("races", []) for command in race["commands"]]
    prepare_process({command[0] for command in commands})
    kills = [asdict(explore(Job(**job))) for job in jobs.get("kills", [])]
    print(json.dumps({"kills": kills, "races": [asdict(run_race(Race(**job))) for job in jobs.get("races", [])]}))


if __name__ == "__main__":
    main(sys.argv[1:])
