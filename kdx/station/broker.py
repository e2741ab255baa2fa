"""Which MQTT broker verdicts are published to, as users name it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from kdx.errors import OptionError

# The variable of the environment that holds the password: the command line is seen by all users.
PASSWORD = "KDX_MQTT_PASSWORD"  # noqa: S105
_PORTS = {"mqtt": 1883, "mqtts": 8883}


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


def parse_broker(url: str, option: str = "mqtt") -> Broker:
    """Return the broker of ``mqtt://[user@]host[:port]/topic``, or ``mqtts://...``.

    Args:
        url: The text.
        option: The option that it is given by.

    Raises:
        OptionError: It is another text.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    topic = unquote(parts.path.removeprefix("/"))
    if parts.scheme not in _PORTS or not parts.hostname or not topic or set("+#?") & set(url):
        raise OptionError(
            f"`{option}` does not name a broker and a topic",
            expected="mqtt://HOST/TOPIC or mqtts://USER@HOST:PORT/TOPIC, with a topic without +, # and ?",
            received=url,
        )
    if parts.password is not None:
        raise OptionError(
            f"`{option}` holds a password, which every user of this machine could see",
            fix=f"leave it out, and set the variable {PASSWORD} of the environment",
        )
    user = None if parts.username is None else unquote(parts.username)
    if user is None and os.environ.get(PASSWORD):
        raise OptionError(
            f"the password in {PASSWORD} has no effect: `{option}` names no user",
            received=url,
            fix=f"name the user, {parts.scheme}://USER@{parts.hostname}/..., or unset {PASSWORD}",
        )
    is_secure = parts.scheme == "mqtts"
    return Broker(parts.hostname, port or _PORTS[parts.scheme], topic, is_secure, user, os.environ.get(PASSWORD))
