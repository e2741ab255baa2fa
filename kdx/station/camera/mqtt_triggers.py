"""Triggers by MQTT: each message on a topic asks for one frame (the extra ``mqtt``)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import msgspec
from paho.mqtt.client import Client

from kdx.station.broker import Broker
from kdx.station.camera.triggers import Triggers
from kdx.station.mqtt import client_of
from kdx.storage.json_records import UNREADABLE

_LONGEST = 200


class _Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a message says, in JSON."""

    part_id: str | None = None
    product: str | None = None


def asked_by(message: bytes) -> tuple[str | None, str | None]:
    """Return part and product of a message: nothing, a part's identifier, or an object in JSON.

    Raises:
        ValueError: It is something else.
    """
    if message.lstrip().startswith(b"{"):
        try:
            asked = msgspec.json.decode(message, type=_Asked)
        except UNREADABLE as error:
            raise ValueError(str(error)) from error
    else:
        asked = _Asked(message.decode().strip() or None)  # UnicodeDecodeError is a ValueError
    for text in (asked.part_id, asked.product):
        if text is not None and not (0 < len(text) <= _LONGEST and text.isprintable()):
            raise ValueError(f"a part or a product has 1 to {_LONGEST} printable characters")
    return asked.part_id, asked.product


class MqttTriggers:
    """Listens to a topic of an MQTT broker, each of whose messages is a trigger.

    A message that the broker has kept ("retained") is none: the part is gone that it was sent for.
    The same is true of messages of the time when there was no connection, which the broker drops.

    Args:
        broker: The broker and the topic.
        triggers: Where triggers go.
        say: Is given what users should know. It is called in the client's thread.
    """

    def __init__(self, broker: Broker, triggers: Triggers, say: Callable[[str], None]) -> None:
        self._broker, self._triggers, self._say = broker, triggers, say
        self._is_ending = threading.Event()
        self._is_away = self._is_crowded = False
        client = client_of(broker)
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.connect_async(broker.host, broker.port)
        client.loop_start()
        self._client = client

    def close(self) -> None:
        """End the connection."""
        self._is_ending.set()
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, client: Client, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if code.is_failure:
            self._miss(f"it refuses the connection: {code}")
        else:
            # The broker delivers with the lower QoS of sender and subscriber: the sender's counts.
            client.subscribe(self._broker.topic, qos=2)

    def _on_connect_fail(self, _client: Client, _data: Any) -> None:
        self._miss("no connection")

    def _on_subscribe(self, _client: Client, _data: Any, _number: int, codes: Any, _properties: Any) -> None:
        if codes[0].is_failure:
            self._miss(f"it refuses the topic '{self._broker.topic}': {codes[0]}")
            return
        self._is_away = False
        self._say(f"triggers come from {self._broker.host}:{self._broker.port}, topic '{self._broker.topic}'")

    def _on_disconnect(self, _client: Client, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if not self._is_ending.is_set():
            self._miss(f"the connection is lost: {code}")

    def _miss(self, reason: str) -> None:
        if not self._is_away:
            self._is_away = True
            self._say(f"no triggers come from {self._broker.host}:{self._broker.port} ({reason}): it is tried again")

    def _on_message(self, _client: Client, _data: Any, message: Any) -> None:
        if message.retain:
            self._say(f"a message that the broker has kept on '{self._broker.topic}' is no trigger")
            return
        part_id, product, problem = None, None, ""
        try:
            part_id, product = asked_by(message.payload)
        except ValueError as error:
            problem = f"the trigger's message cannot be read: {error}"
        is_added = self._triggers.add(part_id, product, problem)
        if not is_added and not self._is_crowded:
            self._say("too many triggers wait: further ones are counted in one record, which is undecided")
        self._is_crowded = not is_added
