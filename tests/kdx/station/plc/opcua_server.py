"""A PLC for tests: asyncua's own server on a loopback port, and a PLC's program behind it.

The program runs when a client has written, as a PLC's scan may do. To make a server takes seconds
of computing: tests share one.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from tests.kdx.station.plc.modbus_server import Taken, free_port

NAMESPACE = "urn:plc:program"
USER, PASSWORD = "kdx", "a password"
TYPES = {
    "heartbeat": "Int16", "status": "UInt16", "sequence": "Int16", "acknowledge": "Int16", "score": "Float",
    "decision": "UInt16", "part_id_length": "Int16", "part_id": "String",
}  # fmt: skip
# Other blocks of the same PLC, in which something is wrong.
WRONG = {
    "wrong_type": TYPES | {"score": "Double"},
    "missing": {name: kind for name, kind in TYPES.items() if name != "acknowledge"},
    "read_only": TYPES,
}


class Plc:
    """The program of a PLC, and the values that it sees."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {name: "" if kind == "String" else 0 for name, kind in TYPES.items()}
        self.taken: list[Taken] = []
        self.beats: list[tuple[int, int]] = []
        self.takes = True
        self._changed = threading.Condition()

    def wait_for(self, is_so: Callable[[], bool]) -> None:
        """Wait until something is the case; a test that waits in vain ends after a while."""
        with self._changed:
            assert self._changed.wait_for(is_so, 60)

    def written(self, values: dict[str, Any]) -> int | None:
        """Take values that a client wrote, and run the program once; return its acknowledgement."""
        with self._changed:
            self.values |= values
            if "heartbeat" in values:
                self.beats.append((values["heartbeat"], values["status"]))
            found = self.scan()
            self._changed.notify_all()
            return found

    def scan(self) -> int | None:
        """Run the program once."""
        sequence = self.values["sequence"]
        if not self.takes or sequence in {0, self.values["acknowledge"]}:
            return None
        self.taken.append(Taken(*(self.values[each] for each in ("sequence", "decision", "score", "part_id"))))
        self.values["acknowledge"] = sequence
        return int(sequence)


class Server:
    """The server of a PLC, in a thread of its own. A context manager.

    It takes everybody without security, and the user of the tests with the right password.

    Args:
        certificate: The server's certificate and its key, or None.
    """

    def __init__(self, certificate: tuple[Path, Path] | None = None) -> None:
        self.port, self.plc = free_port(), Plc()
        self._certificate = certificate
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, block: str = "kdx", user: str = "") -> str:
        return f"opc.tcp://{user}{self.name}/?node=nsu={NAMESPACE};s={block}"

    def __enter__(self) -> Server:
        self._thread.start()
        self._do(self._make())
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def start(self) -> None:
        """Listen."""
        self._do(self._server.start())

    def stop(self) -> None:
        """End all connections, and listen no more."""
        self._do(self._server.stop())

    def reset(self) -> Plc:
        """Clear the PLC's memory, and return its new program."""
        self.plc = Plc()
        self.set(**self.plc.values)
        return self.plc

    def set(self, **values: Any) -> None:
        """Let the PLC's program write variables."""
        self.plc.values |= values
        for name, value in values.items():
            self._do(self._write(name, value))

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _make(self) -> None:
        from asyncua import Server as UaServer
        from asyncua import ua
        from asyncua.common.callback import CallbackType
        from asyncua.crypto.permission_rules import User, UserRole
        from asyncua.server.user_managers import UserManager

        class Users(UserManager):
            def get_user(
                self, iserver: Any, username: Any = None, password: Any = None, certificate: Any = None
            ) -> Any:
                return User(role=UserRole.User) if (username, password) in {(None, None), (USER, PASSWORD)} else None

        logging.getLogger("asyncua").addHandler(logging.NullHandler())
        self._server = server = UaServer(user_manager=Users())
        await server.init()
        server.set_endpoint(f"opc.tcp://{self.name}")
        policies = [ua.SecurityPolicyType.NoSecurity]
        if self._certificate is not None:
            await server.load_certificate(str(self._certificate[0]))
            await server.load_private_key(str(self._certificate[1]))
            policies.append(ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt)
        server.set_security_policy(policies)
        space = await server.register_namespace(NAMESPACE)
        for name, types in {"kdx": TYPES, **WRONG}.items():
            nodes = await self._block(name, types, space)
            self._nodes = nodes if name == "kdx" else self._nodes
        names = {node.nodeid: name for name, node in self._nodes.items()}

        async def written(event: Any, _service: Any) -> None:
            if event.is_external:
                values = {names[one.NodeId]: one.Value.Value.Value for one in event.request_params.NodesToWrite}
                acknowledge = self.plc.written(values)
                if acknowledge is not None:
                    await self._write("acknowledge", acknowledge)

        server.subscribe_server_callback(CallbackType.PostWrite, written)

    async def _block(self, name: str, types: dict[str, str], space: int) -> dict[str, Any]:
        """Make the variables below a node."""
        from asyncua import ua

        block = await self._server.nodes.objects.add_object(ua.NodeId(name, space), f"{space}:{name}")
        nodes = {}
        for each, kind in types.items():
            value = ua.Variant("" if kind == "String" else 0, ua.VariantType[kind])
            nodes[each] = await block.add_variable(ua.NodeId(f"{name}.{each}", space), f"{space}:{each}", value)
            if name != "read_only":
                await nodes[each].set_writable()
        return nodes

    async def _write(self, name: str, value: Any) -> None:
        from asyncua import ua

        data = ua.DataValue(ua.Variant(value, ua.VariantType[TYPES[name]]))
        await self._server.write_attribute_value(self._nodes[name].nodeid, data)
