"""A broker of amqtt in a process of its own: ``python mqtt_broker.py PORT`` prints when it is
ready."""

from __future__ import annotations

import asyncio
import sys

from amqtt.broker import Broker


async def serve(port: int) -> None:
    plugins = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
    listeners = {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}}
    await Broker({"listeners": listeners, "plugins": plugins}).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(serve(int(sys.argv[1])))
