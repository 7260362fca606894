"""TUN/TAP interfaces by system calls alone: no process stands behind these functions.

They take a device's descriptor or its name, and serve without the rest of tuncer. There is
a package per platform; this one passes on the running platform's.
"""

import sys

from tuncer.tunctl.flags import Flag, Offload
from tuncer.tunctl.header import GsoType, Protocol, TunPi, VnetHdr, header
from tuncer.tunctl.pcap import Program, compile_filter

if sys.platform == "linux":
    from tuncer.tunctl.linux.addresses import (
        Address,
        add_address,
        broadcast,
        change_address,
        dstaddr,
        first_address,
        list_addresses,
        remove_address,
        up,
        with_peer,
    )
    from tuncer.tunctl.linux.device import (
        attached,
        check,
        create,
        devname,
        features,
        flags,
        queues,
    )
    from tuncer.tunctl.linux.filter import attach_filter, detach_filter
    from tuncer.tunctl.linux.link import (
        alias,
        delete,
        down,
        ifindex,
        is_up,
        link_local,
        mac,
        master,
        move,
        mtu,
        rename,
        statistics,
        txqueuelen,
    )
    from tuncer.tunctl.linux.netlink import Target, place
    from tuncer.tunctl.linux.netns import Namespace
    from tuncer.tunctl.linux.queue import (
        attach_queue,
        detach_queue,
        is_attached,
        offload,
        sndbuf,
        vnet_hdr_size,
    )
    from tuncer.tunctl.linux.routes import Route, add_route, list_routes, remove_route
    from tuncer.tunctl.linux.settings import (
        carrier,
        group,
        group_id,
        link_type,
        owner,
        persist,
        receive_filter,
        user_id,
    )
else:
    raise ImportError(f"tuncer runs on Linux for now, not on {sys.platform}")

__all__ = [
    "Address",
    "Flag",
    "GsoType",
    "Namespace",
    "Offload",
    "Program",
    "Protocol",
    "Route",
    "Target",
    "TunPi",
    "VnetHdr",
    "add_address",
    "add_route",
    "alias",
    "attach_filter",
    "attach_queue",
    "attached",
    "broadcast",
    "carrier",
    "change_address",
    "check",
    "compile_filter",
    "create",
    "delete",
    "detach_filter",
    "detach_queue",
    "devname",
    "down",
    "dstaddr",
    "features",
    "first_address",
    "flags",
    "group",
    "group_id",
    "header",
    "ifindex",
    "is_attached",
    "is_up",
    "link_local",
    "link_type",
    "list_addresses",
    "list_routes",
    "mac",
    "master",
    "move",
    "mtu",
    "offload",
    "owner",
    "persist",
    "place",
    "queues",
    "receive_filter",
    "remove_address",
    "remove_route",
    "rename",
    "sndbuf",
    "statistics",
    "txqueuelen",
    "up",
    "user_id",
    "vnet_hdr_size",
    "with_peer",
]
