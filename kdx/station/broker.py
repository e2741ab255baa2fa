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
        password: The user's password, or None.
    """

    host: str
    port: int
    topic: str
    is_secure: bool = False
    user: str | None = None
    password: str | None = field(default=None, repr=False)


def parse_brokers(**urls: str | None) -> dict[str, Broker | None]:
    """Return the brokers that options name, as :func:`parse_broker` does; None for those not given.

    Args:
        urls: The text of each option, or None.

    Raises:
        OptionError: One is another text; or there is a password, and none of them names a user.
    """
    brokers = {option: None if url is None else parse_broker(url, option) for option, url in urls.items()}
    given = {option: broker for option, broker in brokers.items() if broker is not None}
    if given and os.environ.get(PASSWORD) and not any(broker.user is not None for broker in given.values()):
        options = " and ".join(f"`{option}`" for option in given)
        raise OptionError(
            f"the password in {PASSWORD} has no effect: no user is named by {options}",
            received=", ".join(str(urls[option]) for option in given),
            fix=f"name the user, mqtts://USER@HOST/TOPIC, or unset {PASSWORD}",
        )
    return brokers


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
    password = None if user is None else os.environ.get(PASSWORD)
    return Broker(parts.hostname, port or _PORTS[parts.scheme], topic, parts.scheme == "mqtts", user, password)
