"""Where products and teachers are made: in processes of this machine, or in tasks of Ray."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection

import msgspec

from kdx.archive.processes import KILLED, Child, LeavingChildren, wait_for
from kdx.workflows.many.product import failed, keep, make
from kdx.workflows.many.product_records import ProductOrder, ProductResult, TeacherOrder, TeacherResult
from kdx.workflows.many.shared_teacher import failed_teacher, make_teacher

Order = ProductOrder | TeacherOrder
Result = ProductResult | TeacherResult
Say = Callable[[str], None]

_MEMORY = "run the same command again to continue; fewer `workers` need less memory"
# A process begins with the script that started this one, and fails in it if it calls kdx unguarded.
_MESSAGES = (
    "read what it wrote above, and run the same command again to continue; a script of your own that calls kdx must do "
    "so under: if __name__ == '__main__'"
)


def run_local(orders: Sequence[Order], workers: int, max_retries: int, say: Say) -> Iterator[Result]:
    """Make what was ordered, each in a process of its own, and yield each result.

    So many are made at a time. A process that is killed is started again, and its training
    continues, ``max_retries`` times.
    """
    todo = deque((order, 0) for order in orders)
    running: dict[int, tuple[Child, Order, int]] = {}
    leaving = LeavingChildren()
    try:
        while todo or running:
            while todo and len(running) < workers:
                order, deaths = todo.popleft()
                child = Child(serve_order, order, threads=order.threads)
                running[id(child)] = (child, order, deaths)
            for child in wait_for([child for child, _, _ in running.values()]):
                _, order, deaths = running[id(child)]
                result = _received(child)
                how = ""
                if result is None:
                    how = child.end()
                    child.close()  # before its product is started again
                else:
                    leaving.add(child)
                del running[id(child)]  # only now: an interruption must still close it
                if result is not None:
                    yield result
                elif deaths < max_retries:
                    say(f"{order.name}: its process died ({how}) and is started again")
                    todo.appendleft((order, deaths + 1))
                else:
                    yield _died(order, how, _MEMORY if how == KILLED else _MESSAGES)
            leaving.collect()
        leaving.wait()
    finally:
        leaving.close()
        for child, _, _ in running.values():
            child.close()


def run_ray(
    orders: Sequence[Order], workers: int | None, max_retries: int, address: str | None, gpus: float
) -> Iterator[Result]:
    """Make what was ordered, each as a task on a Ray cluster, and yield each result.

    A task has a process of its own.

    Args:
        orders: The products or teachers.
        workers: Tasks at a time; None leaves it to the cluster's cores.
        max_retries: How often Ray repeats a task whose process or machine died; its training
            continues.
        address: Address of a running cluster; None starts one on this machine.
        gpus: Share of a GPU, or number of them, that each task is given: without one, Ray shows a
            task no GPU.
    """
    import ray
    from ray.exceptions import RayError

    from kdx.archive.ray_cluster import fitting, joined

    threads = orders[0].threads
    with joined(address, threads * workers if workers else None):
        fitting(threads)
        # A process a product: what one leaves in memory or breaks is gone with it.
        task = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=max_retries, max_calls=1)(make_encoded)
        todo = deque(orders)
        running: dict[ray.ObjectRef[bytes], Order] = {}
        while todo or running:
            while todo and (workers is None or len(running) < workers):
                order = todo.popleft()
                running[task.remote(msgspec.json.encode(order))] = order
            for done in ray.wait(list(running))[0]:
                order = running.pop(done)
                try:
                    yield _decoded(order, ray.get(done))
                except RayError as error:
                    yield _died(order, str(error).strip().splitlines()[0], _MEMORY)


def serve_order(connection: Connection, order: Order) -> None:
    """Make what was ordered and send what became of it."""
    connection.send(_make(order))


def make_encoded(order: bytes) -> bytes:
    """Make what was ordered; order and result as JSON."""
    return msgspec.json.encode(_make(msgspec.json.decode(order, type=Order)))


def _decoded(order: Order, result: bytes) -> Result:
    if isinstance(order, TeacherOrder):
        return msgspec.json.decode(result, type=TeacherResult)
    return msgspec.json.decode(result, type=ProductResult)


def _make(order: Order) -> Result:
    return make_teacher(order) if isinstance(order, TeacherOrder) else make(order)


def _received(child: Child) -> Result | None:
    """Take a process's result; None where it died without one."""
    try:
        if child.connection.poll():
            result: Result = child.connection.recv()
            return result
    except (EOFError, OSError):
        pass
    return None


def _died(order: Order, how: str, fix: str) -> Result:
    error = {"type": "ProcessDied", "message": f"its process died: {how}", "fix": fix}
    result = failed_teacher(order, error) if isinstance(order, TeacherOrder) else failed(order, error)
    keep(order, result)
    return result
