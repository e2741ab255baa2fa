"""Shards in processes of this machine: one detector a process, one shard a process at a time.

A process that dies is replaced, and its shard is tried again. If more than ``max_retries``
processes die with a shard, one of its images is to blame. Then the images are scored one by one,
and each row is sent before the next image is read, so that the image at which a process dies is
known. An image at which two processes in a row die is recorded, and skipped.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from kdx.archive.error_transport import RemoteError, remote_error
from kdx.archive.plan import Shard, ShardPlan
from kdx.archive.processes import KILLED, Child, LeavingChildren, wait_for
from kdx.archive.score_records import ScoreRow, ScoreWork, ShardResult
from kdx.archive.scorer import ShardScorer, printable
from kdx.archive.shard_table import count, write_shard
from kdx.errors import BackendError

# An image is blamed if this many processes in a row died while they scored it: a single one may
# have been killed for another reason.
_TO_BLAME = 2


@dataclass
class Order:
    """A shard that is not finished yet.

    Attributes:
        shard: The shard.
        deaths: Number of processes that died with it.
        rows: Rows of its first images, once they are scored one by one; None before.
        blamed: Number of processes in a row that died at the next image.
        seconds: Time spent on ``rows``.
    """

    shard: Shard
    deaths: int = 0
    rows: list[ScoreRow] | None = None
    blamed: int = 0
    seconds: float = 0.0

    @property
    def remaining(self) -> tuple[str, ...]:
        """The images that have no row yet."""
        return self.shard.paths[len(self.rows or ()) :]


@dataclass
class _Worker:
    child: Child
    order: Order | None = None
    is_ready: bool = False


@dataclass
class LocalEngine:
    """Processes of this machine.

    Attributes:
        work: The run.
        workers: Number of processes.
        max_retries: How many processes may die with a shard before its images are tried one by one;
            and how many may die in a row while they load the bundle.
        say: Takes lines on what went wrong.
        deaths: Number of processes that died so far.
    """

    work: ScoreWork
    workers: int
    max_retries: int
    say: Callable[[str], None]
    deaths: int = 0
    _failed_starts: int = field(default=0, init=False)

    def run(self, plan: ShardPlan, numbers: Sequence[int], *, singly: bool = False) -> Iterator[ShardResult]:
        """Score shards; yield each one's result when its file is written.

        Args:
            plan: The run's shards.
            numbers: The numbers of the shards to score.
            singly: Score their images one by one from the start.

        Raises:
            KdxError: An error that ended the work of a process; or processes die while they load
                the bundle.
        """
        todo = (Order(plan.shard(number), rows=[] if singly else None) for number in numbers)
        again: deque[Order] = deque()
        workers: list[_Worker] = []
        leaving = LeavingChildren()
        try:
            workers += [self._start() for _ in range(min(self.workers, len(numbers)))]
            while workers:
                awake = {id(child) for child in wait_for([worker.child for worker in workers])}
                for worker in [worker for worker in workers if id(worker.child) in awake]:
                    try:
                        result = self._listen(worker)
                    except (EOFError, OSError):
                        result = self._handle_death(worker, again)
                        workers[workers.index(worker)] = self._start()
                    if result is not None:
                        yield result
                    if not worker.is_ready or worker.order is not None:
                        continue
                    order = again.popleft() if again else next(todo, None)
                    if order is None:
                        leaving.add(worker.child)
                        workers.remove(worker)
                    else:
                        self._give(worker, order)
                leaving.collect()
            leaving.wait()
        finally:
            leaving.close()
            for worker in workers:
                worker.child.close()

    def _start(self) -> _Worker:
        return _Worker(Child(serve_shards, self.work, threads=self.work.threads))

    def _give(self, worker: _Worker, order: Order) -> None:
        worker.order = order
        with contextlib.suppress(OSError):  # it has just died, which the next wait notices
            worker.child.connection.send(order.shard if order.rows is None else order.remaining)

    def _listen(self, worker: _Worker) -> ShardResult | None:
        """Receive one message of a process; return the result of a shard that it finishes.

        Raises:
            EOFError: The process is dead.
        """
        if not worker.child.connection.poll():
            raise EOFError
        message = worker.child.connection.recv()
        order = worker.order
        if isinstance(message, RemoteError):
            raise message.error()
        if isinstance(message, ScoreRow) and order is not None and order.rows is not None:
            order.rows.append(message)
            order.blamed = 0
            order.seconds += message.milliseconds / 1e3
            if order.remaining:
                return None
            worker.order = None
            return self._finish(order)
        if isinstance(message, ShardResult):
            worker.order = None
            return message
        worker.is_ready = True
        self._failed_starts = 0
        return None

    def _finish(self, order: Order) -> ShardResult:
        """Write the file of a shard whose images were scored one by one."""
        rows = order.rows or []
        result = count(order.shard.number, rows, seconds=order.seconds, worker=f"{socket.gethostname()}, one by one")
        write_shard(self.work, result, rows)
        return result

    def _handle_death(self, worker: _Worker, again: deque[Order]) -> ShardResult | None:
        """Queue the shard of a dead process again, or return its result if no image is left.

        Raises:
            BackendError: Processes die before they score anything.
        """
        how = worker.child.end()
        worker.child.close()
        self.deaths += 1
        order, worker.order = worker.order, None
        if not worker.is_ready:
            self._failed_starts += 1
            if self._failed_starts > self.max_retries:
                raise BackendError(
                    f"processes die while they load '{self.work.bundle}': {how}",
                    received=f"{self._failed_starts} in a row",
                    fix="kdx verify runs the bundle in this process"
                    + ("; fewer `workers` need less memory" if how == KILLED else ""),
                )
        worker.is_ready = False
        if order is None:
            return None
        order.deaths += 1
        self.say(f"a process died with shard {order.shard.number} ({how}); it is replaced")
        if order.rows is None and order.deaths > self.max_retries:
            order.rows = []
            self.say(
                f"shard {order.shard.number}: {order.deaths} processes died with it; its images are scored one by one"
            )
        elif order.rows is not None:
            self._blame(order, how)
            if not order.remaining:
                return self._finish(order)
        again.appendleft(order)
        return None

    def _blame(self, order: Order, how: str) -> None:
        """Count a death for the image that was being scored, and skip it when it is to blame."""
        assert order.rows is not None
        order.blamed += 1
        if order.blamed == _TO_BLAME:
            path = printable(order.remaining[0])
            order.rows.append(ScoreRow(path=path, error=f"killed the worker ({how}), {_TO_BLAME} times in a row"))
            order.blamed = 0
            self.say(f"skipped: '{path}' {order.rows[-1].error}")


def serve_shards(connection: Connection, work: ScoreWork) -> None:
    """Score shards, or paths one by one, from a pipe until it is closed."""
    try:
        with ShardScorer(work) as scorer:
            connection.send(None)  # ready
            while True:
                order = connection.recv()
                if isinstance(order, Shard):
                    connection.send(scorer.score(order))
                    continue
                for row in scorer.score_singly(order):
                    connection.send(row)
    except (EOFError, ConnectionError):  # the parent needs no more
        return
    except Exception as error:
        connection.send(remote_error(error))
