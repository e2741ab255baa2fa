"""Joins a Ray cluster, or starts one on this machine for as long as it is needed."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from kdx.errors import BackendError

_PATIENCE_S = 5.0


@contextmanager
def joined(address: str | None, cores: int | None = None) -> Iterator[None]:
    """Connect to a Ray cluster inside the block; an existing connection of this process stays.

    Args:
        address: Address of a running cluster (``auto`` finds one on this machine); None starts one,
            which ends with the block.
        cores: Number of cores of a cluster that is started; None for all of this machine's.

    Raises:
        BackendError: The cluster cannot be reached.
    """
    import ray

    # Threads of Ray print to the standard output, which is for results.
    with redirect_stdout(sys.stderr):
        if ray.is_initialized():
            yield
            return
        _connect(address, cores)
        try:
            yield
        finally:
            ray.shutdown()


def _connect(address: str | None, cores: int | None) -> None:
    import ray

    if address is not None:
        require_reachable(address)
    # A machine of a production line reports no usage unless somebody asks for it.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        if address is None:
            ray.init(
                address="local",
                num_cpus=cores,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        else:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise BackendError(
            f"the Ray cluster '{address or 'local'}' cannot be joined: {error}",
            fix="start one with ray start --head and give its `address`, or leave `address` out",
        ) from error


def require_reachable(address: str) -> None:
    """Raise ``BackendError`` if nothing listens there: Ray would end the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():  # auto, or a name of Ray's own
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE_S).close()
    except OSError as error:
        raise BackendError(
            f"no Ray cluster answers at '{address}': {error}",
            expected="HOST:PORT of the head, as ray start --head prints it, or auto on one of its machines",
            fix="start it, or leave `address` out for a cluster of this machine alone",
        ) from error


def fitting(cores: int) -> int:
    """Return how many workers with this many cores the cluster has room for now.

    Raises:
        BackendError: No machine has as many cores: the call would wait for a worker forever.
    """
    import ray

    machines = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    if max(machines, default=0) < cores:
        raise BackendError(
            "no machine of the Ray cluster has the cores that a worker needs",
            expected=f"{cores} on one machine",
            received=", ".join(map(str, machines)) or "no machines",
            fix="ask for fewer threads a worker, or add machines to the cluster first",
        )
    return max(1, int(ray.available_resources().get("CPU", 0) // cores))
