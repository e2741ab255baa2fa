"""Shards on a Ray cluster: Ray Data sends them to a pool of actors, one detector for each actor.

**A row of the dataset is a shard, not an image.** The usual pipeline (read images, map, write
Parquet) cannot be resumed after a kill: which images a file of its output holds is decided while it
runs, and nothing is finished before everything is. Here a row is a shard's number, and a block is
one row, so that Ray's unit of work, of retry and of back-pressure is a shard: an actor reads the
shard's paths from the run's list, scores them, writes the shard's file in one step, and returns a
small result. Pixels never enter the object store. A shard is finished if it has a file, whatever
happens to Ray: a resumed call sends only the other numbers, and a task that Ray repeats, though its
shard was finished just before its actor died, finds the file and returns its result.

**Back-pressure** is Ray Data's: an actor receives its next shard while it works on one, and the
rest wait as numbers.

**Retries.** Ray replaces dead actors and repeats their tasks, by default without end, so that an
image which kills its process would keep a cluster busy forever. Therefore an actor records each try
of a shard in a file before it starts. After ``max_retries`` repeats, the next actor scores the
shard's images one by one in a process of its own (:mod:`kdx.archive.local`), which the image may
kill without harming the actor.

Archive, bundle and output must be on storage that every machine sees under the same path.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from kdx.archive.error_transport import RemoteError, remote_error
from kdx.archive.local import LocalEngine
from kdx.archive.plan import ShardPlan
from kdx.archive.ray_cluster import fitting, joined
from kdx.archive.score_records import ScoreWork, ShardResult
from kdx.archive.scorer import ShardScorer
from kdx.archive.shard_table import read_result, shard_file
from kdx.errors import BackendError
from kdx.runtime.machine import usable_cores
from kdx.storage.files import write_atomic

TRIES = "tries"
# One in progress, one waiting: an actor is never idle between shards, and little is lost if it
# dies.
_IN_FLIGHT = 2
# They log when a dataset is finished, and that there are no progress bars.
_VERBOSE_LOGGERS = ("ray.data._internal.execution.streaming_executor", "ray.data._internal.progress")


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What an actor returns for a shard.

    Attributes:
        result: The shard's result, or None after an error.
        error: The record of the error that ends the run, or None.
        messages: Lines on what went wrong.
        deaths: Number of processes that died with the shard.
    """

    result: ShardResult | None = None
    error: dict[str, str] | None = None
    messages: list[str] = []
    deaths: int = 0


class ShardActor:
    """Scores shards in an actor of Ray Data.

    Args:
        work: The run, as JSON.
        max_retries: How often a shard is tried again before its images are tried one by one.
    """

    def __init__(self, work: bytes, max_retries: int) -> None:
        self._work = msgspec.json.decode(work, type=ScoreWork)
        self._max_retries = max_retries
        self._plan = ShardPlan(Path(self._work.output), self._work.listed)
        # Loaded with the first shard: an actor that died here would be replaced without end,
        # uncounted.
        self._scorer: ShardScorer | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Score the shards whose numbers are in ``shard``; ``answer`` receives their results."""
        return {"answer": [msgspec.json.encode(self._answer(int(number))).decode() for number in batch["shard"]]}

    def _answer(self, number: int) -> _Answer:
        try:
            return self._score(number)
        except Exception as error:
            return _Answer(error=remote_error(error).record)

    def _score(self, number: int) -> _Answer:
        output = Path(self._work.output)
        file, tries = shard_file(output, number), output / TRIES / f"{number:06d}"
        if file.exists():  # finished just before its actor died
            return _Answer(result=read_result(file))
        before = int(tries.read_text(encoding="ascii")) if tries.exists() else 0
        if before > self._max_retries:
            answer = self._score_singly(number, before)
        else:
            write_atomic(tries, str(before + 1).encode())
            if self._scorer is None:
                self._scorer = ShardScorer(self._work)
            answer = _Answer(result=self._scorer.score(self._plan.shard(number)), deaths=before)
        with contextlib.suppress(OSError):
            tries.unlink()
        return answer

    def _score_singly(self, number: int, before: int) -> _Answer:
        messages = [f"shard {number}: {before} processes died with it; now its images go one by one"]
        engine = LocalEngine(self._work, 1, self._max_retries, messages.append)
        (result,) = engine.run(self._plan, [number], singly=True)
        return _Answer(result=result, messages=messages, deaths=before + engine.deaths)


@dataclass
class RayEngine:
    """A Ray cluster.

    Attributes:
        work: The run.
        workers: Largest number of actors; None for as many as the cluster's cores take.
        max_retries: How often a shard is tried again before its images are tried one by one.
        say: Takes lines on what went wrong.
        address: Address of a running cluster (``auto`` finds one on this machine); None starts one
            here, for this run.
        deaths: Number of actors and processes that died so far.
    """

    work: ScoreWork
    workers: int | None
    max_retries: int
    say: Callable[[str], None]
    address: str | None = None
    deaths: int = 0

    def run(self, plan: ShardPlan, numbers: Sequence[int]) -> Iterator[ShardResult]:
        """Score shards; yield each one's result when its file is written.

        Raises:
            KdxError: An error that ended the work of an actor.
            BackendError: The cluster cannot be reached, or Ray failed.
        """
        from ray.exceptions import RayError

        tries = Path(self.work.output) / TRIES
        tries.mkdir(exist_ok=True)
        for old in tries.iterdir():  # of a run that was killed, for which the images are not to blame
            old.unlink(missing_ok=True)
        threads = self.work.threads
        with joined(self.address, threads * (self.workers or max(1, usable_cores() // threads))):
            try:
                for row in self._dataset(numbers).iter_rows():
                    yield self.read(row["answer"])
            except RayError as error:
                raise BackendError(
                    f"Ray failed: {str(error).strip().splitlines()[0]}",
                    fix="run the same command again to continue",
                ) from error
        with contextlib.suppress(OSError):
            tries.rmdir()

    def read(self, text: str) -> ShardResult:
        """Return the result in an actor's answer; raise the error that ended its work."""
        answer = msgspec.json.decode(text, type=_Answer)
        for line in answer.messages:
            self.say(line)
        self.deaths += answer.deaths
        if answer.error is not None:
            raise RemoteError(answer.error).error()
        assert answer.result is not None
        return answer.result

    def _dataset(self, numbers: Sequence[int]) -> Any:
        import ray.data
        from ray.data import ActorPoolStrategy, DataContext

        for name in _VERBOSE_LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        context = DataContext.get_current()
        context.enable_progress_bars = False  # kdx shows its own, which counts images
        context.print_on_execution_start = False
        now = fitting(self.work.threads)
        self.workers = self.workers or now
        most = min(self.workers, len(numbers))
        # As many as fit now, so that all cores work at once; where a cluster grows, so does the
        # pool.
        pool = ActorPoolStrategy(min_size=min(most, now), max_size=most, max_tasks_in_flight_per_actor=_IN_FLIGHT)
        shards = ray.data.from_items([{"shard": number} for number in numbers], override_num_blocks=len(numbers))
        return shards.map_batches(
            ShardActor,
            batch_size=1,
            compute=pool,
            fn_constructor_args=(msgspec.json.encode(self.work), self.max_retries),
            num_cpus=self.work.threads,
            # Ray Data restarts actors and repeats their tasks without end (max_restarts and
            # max_task_retries are -1 unless given): tries are counted by shard, where they mean
            # something.
        )
