"""Verdicts to an MQTT broker, by paho-mqtt with quality of service 1 (the extra ``mqtt``)."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from kdx.errors import OptionError

if TYPE_CHECKING:
    from paho.mqtt.client import Client

# The variable of the environment that holds the password: the command line is seen by all users.
PASSWORD = "KDX_MQTT_PASSWORD"  # noqa: S105
_PORTS = {"mqtt": 1883, "mqtts": 8883}
# How long an acknowledgement is waited for; then the message is still on its way.
_PATIENCE_SECONDS = 5.0
_STEP_SECONDS = 0.1


@dataclass(frozen=True)
class Broker:
    """Where verdicts are published.

    Attributes:
        host: The broker's host.
        port: Its port.
        topic: The topic.
        is_secure: Whether the connection is encrypted (TLS), with the certificates of the system.
        user: The user, or None.
        password: The password, or None.
    """

    host: str
    port: int
    topic: str
    is_secure: bool = False
    user: str | None = None
    password: str | None = field(default=None, repr=False)


def parse_broker(url: str) -> Broker:
    """Return the broker of ``mqtt://[user@]host[:port]/topic``, or ``mqtts://...``.

    Raises:
        OptionError: It is another text.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    topic = unquote(parts.path.removeprefix("/"))
    if parts.scheme not in _PORTS or not parts.hostname or not topic or set("+#") & set(topic):
        raise OptionError(
            "`mqtt` does not name a broker and a topic",
            expected="mqtt://HOST/TOPIC or mqtts://USER@HOST:PORT/TOPIC, with a topic without + and #",
            received=url,
        )
    if parts.password is not None:
        raise OptionError(
            "`mqtt` holds a password, which every user of this machine could see",
            fix=f"leave it out, and set the variable {PASSWORD} of the environment",
        )
    user = None if parts.username is None else unquote(parts.username)
    is_secure = parts.scheme == "mqtts"
    return Broker(parts.hostname, port or _PORTS[parts.scheme], topic, is_secure, user, os.environ.get(PASSWORD))


class MqttReceiver:
    """Publishes verdicts; the broker's acknowledgement (PUBACK) says that it has one.

    Args:
        broker: The broker and the topic.
    """

    name = "mqtt"
    at_once = 20

    def __init__(self, broker: Broker) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        self._broker = broker
        self._refused = ""
        self._sent: dict[int, int] = {}  # the client's number of each message that was published
        self._acknowledged: set[int] = set()
        self._news = threading.Condition()
        client = Client(CallbackAPIVersion.VERSION2, client_id=f"kdx-{uuid.uuid4().hex[:12]}")
        client.max_inflight_messages_set(self.at_once)
        client.reconnect_delay_set(1, 30)
        client.on_connect = self._on_connect
        client.on_publish = self._on_publish
        if broker.user is not None:
            client.username_pw_set(broker.user, broker.password)
        if broker.is_secure:
            client.tls_set()
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
