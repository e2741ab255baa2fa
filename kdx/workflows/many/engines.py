"""Where products are made: in processes of this machine, or in tasks of a Ray cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

import msgspec

from kdx.archive.processes import KILLED, Child, LeavingChildren, wait_for
from kdx.workflows.many.product import failed, keep, make, serve_product
from kdx.workflows.many.product_records import ProductOrder, ProductResult

Say = Callable[[str], None]

_MEMORY = "run the same command again to continue; fewer `workers` need less memory"
# A process begins with the script that started this one, and fails in it if it calls kdx unguarded.
_MESSAGES = (
    "read what it wrote above, and run the same command again to continue; a script of your own that calls kdx must do "
    "so under: if __name__ == '__main__'"
)


def run_local(orders: Sequence[ProductOrder], workers: int, max_retries: int, say: Say) -> Iterator[ProductResult]:
    """Make products, each in a process of its own, so many at a time; yield each one's result.

    A process that is killed is started again, and its training continues, ``max_retries`` times.
    """
    todo = deque((order, 0) for order in orders)
    running: dict[int, tuple[Child, ProductOrder, int]] = {}
    leaving = LeavingChildren()
    try:
        while todo or running:
            while todo and len(running) < workers:
                order, deaths = todo.popleft()
                child = Child(serve_product, order, threads=order.threads)
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
    orders: Sequence[ProductOrder], workers: int | None, max_retries: int, address: str | None, gpus: float
) -> Iterator[ProductResult]:
    """Make products, each a task on a Ray cluster in a process of its own; yield each one's result.

    Args:
        orders: The products.
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
        running: dict[ray.ObjectRef[bytes], ProductOrder] = {}
        while todo or running:
            while todo and (workers is None or len(running) < workers):
                order = todo.popleft()
                running[task.remote(msgspec.json.encode(order))] = order
            for done in ray.wait(list(running))[0]:
                order = running.pop(done)
                try:
                    yield msgspec.json.decode(ray.get(done), type=ProductResult)
                except RayError as error:
                    yield _died(order, str(error).strip().splitlines()[0], _MEMORY)


def make_encoded(order: bytes) -> bytes:
    """Make a product's bundle; order and result as JSON."""
    return msgspec.json.encode(make(msgspec.json.decode(order, type=ProductOrder)))


def _received(child: Child) -> ProductResult | None:
    """Take a process's result; None where it died without one."""
    try:
        if child.connection.poll():
            result: ProductResult = child.connection.recv()
            return result
    except (EOFError, OSError):
        pass
    return None


def _died(order: ProductOrder, how: str, fix: str) -> ProductResult:
    error = {"type": "ProcessDied", "message": f"its process died: {how}", "fix": fix}
    result = failed(order, error)
    keep(order, result)
    return result
