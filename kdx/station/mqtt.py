"""Verdicts to an MQTT broker, by paho-mqtt with quality of service 1 (the extra ``mqtt``)."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from kdx.station.broker import Broker

# How long an acknowledgement is waited for; then the message is still on its way.
_PATIENCE_SECONDS = 5.0
_STEP_SECONDS = 0.1


def client_of(broker: Broker) -> Client:
    """Return a client with the broker's user and encryption, which is not connected yet."""
    client = Client(CallbackAPIVersion.VERSION2, client_id=f"kdx-{uuid.uuid4().hex[:12]}")
    client.reconnect_delay_set(1, 30)
    if broker.user is not None:
        client.username_pw_set(broker.user, broker.password)
    if broker.is_secure:
        client.tls_set()
    return client


class MqttReceiver:
    """Publishes verdicts; the broker's acknowledgement (PUBACK) says that it has one.

    Args:
        broker: The broker and the topic.
    """

    name = "mqtt"
    at_once = 20

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._refused = ""
        self._sent: dict[int, int] = {}  # the client's number of each message that was published
        self._acknowledged: set[int] = set()
        self._news = threading.Condition()
        client = client_of(broker)
        client.max_inflight_messages_set(self.at_once)
        client.on_connect = self._on_connect
        client.on_publish = self._on_publish
        client.connect_async(broker.host, broker.port)
        client.loop_start()
        self._client = client

    def send(self, messages: Sequence[tuple[int, bytes]], stop: threading.Event) -> tuple[list[int], str]:
        """Publish messages and wait for their acknowledgements.

        When the connection is lost, the client keeps what it published, and sends it once more
        after the next connection.
        """
        if not self._wait(self._client.is_connected, stop):
            return [], self._refused or f"no connection to {self._broker.host}:{self._broker.port}"
        for number, line in messages:
            if number not in self._sent:
                self._sent[number] = self._client.publish(self._broker.topic, line.rstrip(b"\n"), qos=1).mid
        done: list[int] = []
        for number, _ in messages:
            if not self._wait(lambda: self._sent[number] in self._acknowledged, stop):  # noqa: B023  # at once
                break
            self._acknowledged.discard(self._sent.pop(number))
            done.append(number)
        is_late = len(done) < len(messages) and not stop.is_set()
        return done, "no acknowledgement" if is_late else ""

    def close(self) -> None:
        """End the connection."""
        self._client.disconnect()
        self._client.loop_stop()

    def _wait(self, is_so: Callable[[], bool], stop: threading.Event) -> bool:
        """Wait for something that the client's thread brings; return whether it came."""
        with self._news:
            for _ in range(round(_PATIENCE_SECONDS / _STEP_SECONDS)):
                if self._news.wait_for(is_so, _STEP_SECONDS) or stop.is_set():
                    break
            return is_so()

    def _on_connect(self, _client: Client, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        with self._news:
            self._refused = f"{self._broker.host} refuses the connection: {code}" if code.is_failure else ""
            self._news.notify_all()

    def _on_publish(self, _client: Client, _data: Any, number: int, _code: Any, _properties: Any) -> None:
        with self._news:
            self._acknowledged.add(number)
            self._news.notify_all()
