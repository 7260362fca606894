"""TUN/TAP interfaces by system calls alone: no process stands behind these functions.

They take a device's descriptor or its name, and serve without the rest of tuncer. There is
a module per platform; this one passes on the running platform's.
"""

import sys

from tuncer.tunctl.flags import Flag
from tuncer.tunctl.header import TunPi, header

if sys.platform == "linux":
    from tuncer.tunctl.linux import (
        Target,
        attached,
        broadcast,
        create,
        delete,
        devname,
        down,
        dstaddr,
        flags,
        group,
        ifindex,
        is_up,
        mtu,
        owner,
        persist,
        transmitted,
        txqueuelen,
        up,
    )
else:
    raise ImportError(f"tuncer runs on Linux for now, not on {sys.platform}")

__all__ = [
    "Flag",
    "Target",
    "TunPi",
    "attached",
    "broadcast",
    "create",
    "delete",
    "devname",
    "down",
    "dstaddr",
    "flags",
    "group",
    "header",
    "ifindex",
    "is_up",
    "mtu",
    "owner",
    "persist",
    "transmitted",
    "txqueuelen",
    "up",
]
