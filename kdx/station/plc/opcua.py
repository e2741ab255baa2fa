"""A PLC that is an OPC UA server, by asyncua as the client.

Values are written without a status and without times, which the servers of some PLCs refuse.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from asyncua import ua
from asyncua.client.client import Client
from asyncua.crypto import security_policies, uacrypto
from asyncua.sync import ThreadLoop
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaError, UaStatusCodeError
from cryptography import x509

from kdx.station.plc.address import OpcUaAddress, Security
from kdx.station.plc.plc import Numbers, PlcAwayError, PlcRefusesError
from kdx.station.plc.result import Result

_T = TypeVar("_T")
_SECONDS = 2.0
_INTEGERS = (ua.VariantType.Int16, ua.VariantType.UInt16)
# The variables of the PLC, and the types that they may have.
_FIELDS: Mapping[str, tuple[ua.VariantType, ...]] = {
    "heartbeat": _INTEGERS,
    "status": _INTEGERS,
    "sequence": _INTEGERS,
    "acknowledge": _INTEGERS,
    "score": (ua.VariantType.Float,),
    "decision": _INTEGERS,
    "part_id_length": _INTEGERS,
    "part_id": (ua.VariantType.String,),
}
# What a server says where another attempt would be answered the same.
_REFUSALS = frozenset(
    {
        StatusCodes.BadIdentityTokenInvalid,
        StatusCodes.BadIdentityTokenRejected,
        StatusCodes.BadNodeIdInvalid,
        StatusCodes.BadNodeIdUnknown,
        StatusCodes.BadNotReadable,
        StatusCodes.BadNotWritable,
        StatusCodes.BadOutOfRange,
        StatusCodes.BadSecurityChecksFailed,
        StatusCodes.BadSecurityModeRejected,
        StatusCodes.BadSecurityPolicyRejected,
        StatusCodes.BadTypeMismatch,
        StatusCodes.BadUserAccessDenied,
        StatusCodes.BadWriteNotSupported,
    }
)
_CERTIFICATE = "BadCertificate"  # how the names of all that is wrong with a certificate begin
_FIX_CERTIFICATE = "renew what has expired, let both sides trust the certificates, and compare the clocks"
_FIX = "correct `plc`, or the PLC's program and its rights"


class OpcUaPlc:
    """The variables of an OPC UA server.

    Args:
        address: The server, and the node below which the variables are.
        seconds: After how many seconds a request that was not answered has failed.
    """

    def __init__(self, address: OpcUaAddress, seconds: float = _SECONDS) -> None:
        logging.getLogger("asyncua").addHandler(logging.NullHandler())  # what happens is said by kdx
        self._address, self._seconds = address, seconds
        self._loop: ThreadLoop | None = None
        self._client: Client | None = None
        self._nodes: dict[str, ua.NodeId] = {}
        self._types: dict[str, ua.VariantType] = {}

    @property
    def name(self) -> str:
        """The host and the port."""
        return self._address.name

    @property
    def part_id_bytes(self) -> int:
        """As in the address."""
        return self._address.part_id_bytes

    @property
    def acknowledges(self) -> bool:
        """As in the address."""
        return self._address.acknowledges

    @property
    def max_age(self) -> float | None:
        """As in the address."""
        return self._address.max_age

    def open(self) -> None:
        """Connect, and look at every variable."""
        if self._loop is None:
            self._loop = ThreadLoop(None)
            self._loop.daemon = True
            self._loop.start()
        self._do(self._open())

    def read(self) -> Numbers:
        """Read the numbers, in one request."""
        names = ("sequence", "acknowledge") if self.acknowledges else ("sequence",)
        found = self._do(self._read(*names))
        return Numbers(*(int(value.Value) for value in found), *(() if self.acknowledges else (0,)))

    def write_back(self) -> None:
        """Write the variables of the result as they were read, and the number last."""
        numbers = self.read()
        if not (self.acknowledges and numbers.is_pending):
            names = ("score", "decision", "part_id_length", "part_id")
            values = self._do(self._read(*names))
            self._do(self._write(**{name: each.Value for name, each in zip(names, values, strict=True)}))
            self.write_sequence(numbers.sequence)

    def write_life(self, heartbeat: int, status: int) -> None:
        """Write two variables in one request."""
        self._do(self._write(heartbeat=heartbeat, status=int(status)))

    def write_result(self, result: Result) -> None:
        """Write four variables in one request."""
        self._do(
            self._write(
                score=result.score,
                decision=result.decision,
                part_id_length=result.part_id_length,
                part_id=result.part_id,
            )
        )

    def write_sequence(self, sequence: int) -> None:
        """Write one variable."""
        self._do(self._write(sequence=sequence))

    def close(self) -> None:
        """End the session, the connection, and the thread in which they are kept."""
        if self._loop is None:
            return
        if self._client is not None:
            with contextlib.suppress(Exception):
                self._loop.post(asyncio.wait_for(self._client.disconnect(), self._seconds))
        self._loop.stop()
        self._loop = self._client = None

    def _do(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Do work in the thread of the connection.

        Raises:
            PlcAwayError: The server does not answer, or says that it may later.
            PlcRefusesError: It refuses.
        """
        if self._loop is None:
            work.close()
            raise PlcAwayError(f"no connection to {self.name}")
        try:
            return self._loop.post(work)
        except UaStatusCodeError as error:
            raise self._refused(error, "") from error
        except (UaError, OSError, asyncio.TimeoutError) as error:
            reason = str(error) or "no answer"
            doubt = "" if self._address.security is None else "; is its certificate the one in `plc`?"
            raise PlcAwayError(f"no connection to {self.name}: {reason}{doubt}") from error

    def _refused(self, error: UaStatusCodeError, what: str) -> PlcAwayError | PlcRefusesError:
        """Return what a status of the server means."""
        name = type(error).__name__
        text = f"{self.name} answers{what} with {name}: {str(error).partition('(')[0].strip()}"
        if name.startswith(_CERTIFICATE):
            return PlcRefusesError(text, fix=_FIX_CERTIFICATE)
        return PlcRefusesError(text, fix=_FIX) if error.code in _REFUSALS else PlcAwayError(text)

    async def _open(self) -> None:
        self._client = client = Client(self._address.url, timeout=self._seconds)
        if self._address.security is not None:
            await self._secure(client, self._address.security)
        if self._address.user is not None:
            client.set_user(self._address.user)
            client.set_password(self._address.password or "")
        await asyncio.wait_for(client.connect(), 3 * self._seconds)
        await self._find(client)

    async def _secure(self, client: Client, security: Security) -> None:
        """Sign and encrypt. The name in the certificate is that by which the server knows kdx."""
        try:
            certificate = await uacrypto.load_certificate(security.certificate)
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            client.application_uri = names.get_values_for_type(x509.UniformResourceIdentifier)[0]
            await client.set_security(
                getattr(security_policies, f"SecurityPolicy{security.policy}"),
                security.certificate,
                security.key,
                server_certificate=str(security.server_certificate),
                mode=ua.MessageSecurityMode[security.mode],
            )
        except (x509.ExtensionNotFound, IndexError) as error:
            raise PlcRefusesError(
                f"the certificate '{security.certificate}' names no application",
                expected="a URI among its alternative names, which OPC UA asks for",
                fix="make it with -addext subjectAltName=URI:urn:kdx",
            ) from error
        except (OSError, ValueError, TypeError) as error:
            raise PlcRefusesError(
                f"the certificates and the key in `plc` cannot be used: {error}",
                expected="files in PEM or DER, and a key without a password",
            ) from error

    async def _find(self, client: Client) -> None:
        """Find the variables by their names, and check their types and that they can be written.

        Raises:
            PlcRefusesError: One is missing, has another type, or cannot be written.
        """
        parent = client.get_node(await self._node_id(client))
        try:
            await parent.read_browse_name()
        except UaStatusCodeError as error:
            raise self._refused(error, f" to reading the node '{self._address.node}'") from error
        found = {one.BrowseName.Name: one.NodeId for one in await parent.get_children_descriptions()}
        needed = [name for name in _FIELDS if name != "acknowledge" or self.acknowledges]
        missing = [name for name in needed if name not in found]
        if missing:
            raise PlcRefusesError(
                f"the node '{self._address.node}' of {self.name} has no variables {', '.join(missing)}",
                received=", ".join(sorted(found)) or "no variables",
                fix=_FIX,
            )
        self._nodes = {name: ua.NodeId(found[name].Identifier, found[name].NamespaceIndex) for name in needed}
        values = await self._read(*needed)
        rights = await client.uaclient.read_attributes(list(self._nodes.values()), AttributeIds.UserAccessLevel)
        for name, value, right in zip(needed, values, rights, strict=True):
            if value.VariantType not in _FIELDS[name]:
                raise PlcRefusesError(
                    f"the variable '{name}' of {self.name} has another type",
                    expected=" or ".join(each.name for each in _FIELDS[name]),
                    received=value.VariantType.name,
                    fix=_FIX,
                )
            may_write = right.Value is not None and right.Value.Value & ua.AccessLevel.CurrentWrite.mask
            if name != "acknowledge" and not may_write:
                raise PlcRefusesError(f"the variable '{name}' of {self.name} cannot be written", fix=_FIX)
        self._types = {name: value.VariantType for name, value in zip(needed, values, strict=True)}

    async def _node_id(self, client: Client) -> ua.NodeId:
        """Return the node below which the variables are; its namespace may be given as a URI."""
        text = self._address.node
        if text.startswith("nsu="):
            uri, _, rest = text.removeprefix("nsu=").partition(";")
            try:
                text = f"ns={await client.get_namespace_index(uri)};{rest}"
            except ValueError as error:
                raise PlcRefusesError(f"{self.name} has no namespace '{uri}'", fix=_FIX) from error
        try:
            return ua.NodeId.from_string(text)
        except UaError as error:
            raise PlcRefusesError(f"`plc` names no node: {error}", expected="such as node=ns=3;s=...") from error

    async def _read(self, *names: str) -> list[ua.Variant]:
        found = await self._connected.uaclient.read_attributes(
            [self._nodes[name] for name in names], AttributeIds.Value
        )
        for name, value in zip(names, found, strict=True):
            self._check(value.StatusCode, f" to reading '{name}'")
        return [value.Value or ua.Variant() for value in found]

    async def _write(self, **values: float | str) -> None:
        data = [ua.DataValue(ua.Variant(value, self._types[name]), StatusCode=None) for name, value in values.items()]
        codes = await self._connected.uaclient.write_attributes([self._nodes[name] for name in values], data)
        for name, code in zip(values, codes, strict=True):
            self._check(code, f" to writing '{name}'")

    def _check(self, code: ua.StatusCode | None, what: str) -> None:
        if code is not None:
            try:
                code.check()
            except UaStatusCodeError as error:
                raise self._refused(error, what) from error

    @property
    def _connected(self) -> Client:
        assert self._client is not None
        return self._client
