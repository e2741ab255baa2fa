"""Shards in processes of this machine: a process that exits keeps no other one waiting."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from kdx.archive import local
from kdx.archive.plan import Shard
from kdx.archive.score_records import ShardResult
from tests.kdx.archive.slow_exit import answer_after_another, exit_slowly, wait_for_file, write


def serve_two(connection, work):
    """The process with shard 0 exits slowly; the other one answers only when it does."""
    folder = Path(work.output)
    connection.send(None)
    number = connection.recv().number
    result = ShardResult(shard=number, frames=1, decisions={}, bad=0, seconds=0.0, worker="")
    if number == 0:
        wait_for_file(folder / "has shard 1")  # for otherwise this process might be given it too
        connection.send(result)
        exit_slowly(connection, folder)
    else:
        write(folder / "has shard 1")
        answer_after_another(connection, folder, result)


def test_a_process_that_exits_slowly_keeps_no_result_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "serve_shards", serve_two)
    engine = local.LocalEngine(SimpleNamespace(output=str(tmp_path), threads=1), 2, 1, print)
    plan = SimpleNamespace(shard=lambda number: Shard(number, ("a.png",)))
    finished = []
    for result in engine.run(plan, [0, 1]):
        finished.append(result.shard)
        if result.shard == 1:
            write(tmp_path / "may exit")
    assert finished == [0, 1]
    assert (tmp_path / "exited").exists()  # it was not killed
