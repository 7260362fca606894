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
    from tuncer.device import Device, attach, child_spec, create, devices
    from tuncer.fd import read, write
    from tuncer.packet import DeviceError, DeviceEvent, Packet
    from tuncer.subscription import Subscription
    from tuncer.tunctl import Flag, TunPi, header

__version__ = "0.1.0"

_HOMES = {
    "Device": "device",
    "DeviceError": "packet",
    "DeviceEvent": "packet",
    "Flag": "tunctl",
    "Packet": "packet",
    "Subscription": "subscription",
    "TunPi": "tunctl",
    "attach": "device",
    "child_spec": "device",
    "create": "device",
    "devices": "device",
    "header": "tunctl",
    "read": "fd",
    "write": "fd",
}


def _check_supervisor() -> None:
    found = importlib.util.find_spec("supervisor")
    if found and found.origin and not Path(found.origin).with_name("gen_server.py").exists():
        raise ImportError(
            "the module 'supervisor' that is installed here is supervisord's, not tuncer's: the two"
            " cannot share one environment, install tuncer in one of its own"
        )


_check_supervisor()


def __getattr__(name: str) -> Any:
    """Import what is asked for: ``tuncer.tunctl`` serves without the rest being loaded."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tuncer' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"tuncer.{_HOMES[name]}"), name)
    return value


__all__ = [
    "Device",
    "DeviceError",
    "DeviceEvent",
    "Flag",
    "Packet",
    "Subscription",
    "TunPi",
    "attach",
    "child_spec",
    "create",
    "devices",
    "header",
    "read",
    "write",
]
