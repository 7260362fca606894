"""TUN/TAP interfaces for Python, run the Erlang way.

Every interface lives in a worker process of its own, which owns the file descriptor and
forwards packets to any number of subscribers. A supervisor restarts what crashes, and takes
down what nobody owns any more.

    with tuncer.create("lab0", tuncer.Flag.TUN | tuncer.Flag.NO_PI) as dev:
        dev.up("10.9.0.1/24")
        for packet in dev.subscribe():
            print(packet.seq, packet.data.hex())
"""

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuncer.client.create import adopt, attach, child_spec, create, devices
    from tuncer.client.device import Device
    from tuncer.client.follower import Follower
    from tuncer.client.raw_fd import read, write
    from tuncer.client.subscription import Subscription
    from tuncer.protocol.batch import Batch
    from tuncer.protocol.packet import DeviceError, DeviceEvent, Packet
    from tuncer.tunctl import (
        Address,
        Flag,
        GsoType,
        Offload,
        Protocol,
        Route,
        TunPi,
        VnetHdr,
        header,
    )

__version__ = "0.1.0"

_HOMES = {
    "Address": "tunctl",
    "Batch": "protocol.batch",
    "Device": "client.device",
    "DeviceError": "protocol.packet",
    "DeviceEvent": "protocol.packet",
    "Flag": "tunctl",
    "Follower": "client.follower",
    "GsoType": "tunctl",
    "Offload": "tunctl",
    "Packet": "protocol.packet",
    "Protocol": "tunctl",
    "Route": "tunctl",
    "Subscription": "client.subscription",
    "TunPi": "tunctl",
    "VnetHdr": "tunctl",
    "acreate": "client.create",
    "adopt": "client.create",
    "attach": "client.create",
    "child_spec": "client.create",
    "create": "client.create",
    "devices": "client.create",
    "header": "tunctl",
    "read": "client.raw_fd",
    "write": "client.raw_fd",
}


def _check_supervisor() -> None:
    found = importlib.util.find_spec("supervisor")
    if found and found.origin and not Path(found.origin).with_name("gen_server.py").exists():
        if Path(found.origin).name == "__init__.py":
            raise ImportError(
                f"the package 'supervisor' in {Path(found.origin).parent} is not tuncer's but"
                " supervisord's, most likely: the two cannot share one environment, install tuncer"
                " in one of its own"
            )
        raise ImportError(
            f"{found.origin} hides tuncer's package 'supervisor': give that file another name"
        )


_check_supervisor()


def __getattr__(name: str) -> Any:
    """Import what is asked for: ``tuncer.tunctl`` serves without the rest being loaded."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tuncer' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"tuncer.{_HOMES[name]}"), name)
    return value


__all__ = [
    "Address",
    "Batch",
    "Device",
    "DeviceError",
    "DeviceEvent",
    "Flag",
    "Follower",
    "GsoType",
    "Offload",
    "Packet",
    "Protocol",
    "Route",
    "Subscription",
    "TunPi",
    "VnetHdr",
    "acreate",
    "adopt",
    "attach",
    "child_spec",
    "create",
    "devices",
    "header",
    "read",
    "write",
]
