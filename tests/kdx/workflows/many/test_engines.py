"""Products in processes of this machine: a process that exits keeps no other one waiting."""

from __future__ import annotations

from pathlib import Path

from kdx.workflows.many import engines
from kdx.workflows.many.catalog import Product
from kdx.workflows.many.product import failed
from kdx.workflows.many.product_records import ProductOrder
from tests.kdx.archive.slow_exit import answer_after_another, exit_slowly, write


def serve_two(connection, order):
    """The process of "a" exits slowly; the other one answers only when it does."""
    result = failed(order, {})
    if order.name == "a":
        connection.send(result)
        exit_slowly(connection, Path(order.out))
    else:
        answer_after_another(connection, Path(order.out), result)


def test_a_process_that_exits_slowly_keeps_no_result_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "serve_order", serve_two)
    product = Product(data=str(tmp_path))
    orders = [ProductOrder(name=name, product=product, out=str(tmp_path), threads=1) for name in "ab"]
    finished = []
    for result in engines.run_local(orders, 2, 0, print):
        finished.append(result.name)
        if result.name == "b":
            write(tmp_path / "may exit")
    assert finished == ["a", "b"]
    assert (tmp_path / "exited").exists()  # it was not killed
