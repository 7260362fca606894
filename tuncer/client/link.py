"""What can be asked and set of a device's link, addresses and routes.

Each method has the worker do tunctl's function of the same name, in the network namespace where
the device is; arguments are checked here, before they travel.
"""

from __future__ import annotations

import ipaddress
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from tuncer.protocol import codec_types
from tuncer.tunctl import Address, Flag, Namespace, Offload, Route, first_address, with_peer
from tuncer.tunctl import address as addresses

codec_types.register()


class Link(ABC):
    """The link of a device, its addresses and its routes.

    Every method raises OSError with errno, a sentence on how to mend it and the device's name;
    TypeError and ValueError for what makes no sense; DeviceError ENODEV when the device has gone.
    Wrong arguments change nothing.
    """

    @abstractmethod
    def _call(self, operation: str, *arguments: Any, **options: Any) -> Any:
        """Have the worker carry out an operation of ``tuncer.protocol.operations``."""

    # -- up, down, addresses -----------------------------------------------------------------------

    def up(
        self,
        address: addresses.AddressLike | None = None,
        prefix: int | str | None = None,
        *,
        peer: addresses.AddressLike | None = None,
        broadcast: addresses.AddressLike | None = None,
        scope: str | int | None = None,
        nodad: bool = False,
        link_local: bool | None = None,
    ) -> None:
        """Bring the device up, with an address if one is given. See ``tunctl.up``.

        Args:
            address: ``"10.0.0.1"``, ``"10.0.0.1/24"``, ``"fd00::1/64"``, an ``ipaddress`` object.
            prefix: bits or a netmask; without any 24 (IPv4) or 64 (IPv6).
            peer: the other end's address of a point-to-point link.
            broadcast: of IPv4; by default the network's.
            scope: of IPv4: "global", "site", "link", "host" or a number.
            nodad: use an IPv6 address at once, without looking whether somebody else has it.
            link_local: False: the device gets no IPv6 link-local address by itself.
        """
        options: dict[str, Any] = {
            "peer": _text(peer),
            "broadcast": _text(broadcast),
            "scope": scope,
            "nodad": nodad,
            "link_local": link_local,
        }
        self._call("up", _text(address), prefix, **options)

    def down(self) -> None:
        """Take the device down: IPv4 addresses stay, IPv6 ones and routes go."""
        self._call("down")

    def is_up(self) -> bool:
        """Tell whether the device is administratively up."""
        return bool(self._call("is_up"))

    def add_address(
        self,
        address: addresses.AddressLike,
        prefix: int | str | None = None,
        *,
        peer: addresses.AddressLike | None = None,
        broadcast: addresses.AddressLike | None = None,
        scope: str | int | None = None,
        nodad: bool = False,
    ) -> None:
        """Add an address; one that is there is changed. See ``tunctl.add_address``.

        Args:
            address: as for ``up``, and so are the others.
            prefix: bits or a netmask.
            peer: the other end's address.
            broadcast: of IPv4.
            scope: where it is valid.
            nodad: use it at once.
        """
        options: dict[str, Any] = {
            "peer": _text(peer),
            "broadcast": _text(broadcast),
            "scope": scope,
            "nodad": nodad,
        }
        self._call("add_address", _text(address), prefix, **options)

    def remove_address(
        self, address: addresses.AddressLike, prefix: int | str | None = None
    ) -> None:
        """Remove an address; without a prefix, whatever its prefix is."""
        self._call("remove_address", _text(address), prefix)

    def list_addresses(self) -> list[Address]:
        """Return the device's addresses, IPv4 first."""
        return cast("list[Address]", self._call("list_addresses"))

    def dstaddr(self, peer: addresses.AddressLike) -> None:
        """Set the other end's address of a point-to-point link. See ``tunctl.dstaddr``."""
        other = addresses.host(peer)
        old = first_address(self.list_addresses(), other.version, self.devname())
        # In full, not "the first": this can be done twice, if the worker is killed in between.
        self._call("change_address", old, with_peer(old, other))

    def broadcast(self, address: addresses.AddressLike) -> None:
        """Set the broadcast address of the first IPv4 address."""
        wanted = ipaddress.IPv4Address(str(addresses.host(address, version=4)))
        old = first_address(self.list_addresses(), 4, self.devname())
        self._call("change_address", old, old._replace(broadcast=wanted))

    def link_local(self, on: bool | None = None) -> bool:
        """Tell, or set, whether the device gets an IPv6 link-local address when it comes up."""
        return bool(self._call("link_local", on))

    # -- routes ------------------------------------------------------------------------------------

    def add_route(
        self,
        destination: addresses.NetworkLike,
        gateway: addresses.AddressLike | None = None,
        *,
        source: addresses.AddressLike | None = None,
        metric: int | None = None,
        table: int | None = None,
    ) -> None:
        """Send what goes to a network through the device. See ``tunctl.add_route``.

        Args:
            destination: ``"10.1.0.0/16"``, ``"fd01::/48"``, ``"default"``, an ``ipaddress`` object.
            gateway: who passes it on.
            source: the address that packets of this host get.
            metric: among routes to the same network the lowest counts.
            table: a routing table's number; by default the main one.
        """
        options: dict[str, Any] = {"source": _text(source), "metric": metric, "table": table}
        self._call("add_route", _text(destination), _text(gateway), **options)

    def remove_route(
        self,
        destination: addresses.NetworkLike,
        gateway: addresses.AddressLike | None = None,
        *,
        metric: int | None = None,
        table: int | None = None,
    ) -> None:
        """Remove a route; what is not said may be anything, but the table is the main one."""
        request = ("remove_route", _text(destination), _text(gateway))
        self._call(*request, metric=metric, table=table)

    def list_routes(self) -> list[Route]:
        """Return the routes through the device."""
        return cast("list[Route]", self._call("list_routes"))

    # -- the link ----------------------------------------------------------------------------------

    def mtu(self, size: int | None = None) -> int:
        """Return the MTU in bytes, after setting it if given."""
        return cast("int", self._call("mtu", size))

    def mac(self, address: str | None = None) -> str:
        """Return a TAP's MAC address, after setting it if given; a TUN has none: ""."""
        return cast("str", self._call("mac", address))

    def txqueuelen(self, packets: int | None = None) -> int:
        """Return how many packets the kernel queues for the worker, after setting it if given."""
        return cast("int", self._call("txqueuelen", packets))

    def alias(self, text: str | None = None) -> str:
        """Return the note that ``ip link`` shows, after setting it if given."""
        return cast("str", self._call("alias", text))

    def carrier(self, on: bool | None = None) -> bool:
        """Return whether the link has a carrier, after setting it if given."""
        return bool(self._call("carrier", on))

    def link_type(self, kind: int | None = None) -> int:
        """Return the link's type (``ARPHRD_*``), after setting it if given."""
        return cast("int", self._call("link_type", kind))

    def master(self, bridge: str | None = None) -> str:
        """Return the bridge that a TAP is a port of, after setting it if given; "" is none."""
        return cast("str", self._call("master", bridge))

    def rename(self, name: str) -> None:
        """Give the interface another name; ``name`` stays what it was at its creation."""
        self._call("rename", name)

    def move(self, namespace: Namespace) -> None:
        """Move the device to another network namespace; its worker stays where it is.

        It arrives down, without addresses and routes. A number is a pid.
        """
        self._call("move", absolute(namespace))

    def devname(self) -> str:
        """Return the device's name as the kernel has it now."""
        return cast("str", self._call("devname"))

    def flags(self) -> Flag:
        """Return the device's flags as the kernel has them."""
        return Flag(self._call("flags"))

    def place(self) -> tuple[int, int]:
        """Return where the device is: its network namespace's inode, and its number there."""
        inode, index = self._call("place")
        return inode, index

    def ifindex(self) -> int:
        """Return the kernel's number of the device, in its network namespace."""
        return cast("int", self._call("ifindex"))

    # -- who may attach, framing, buffers ----------------------------------------------------------

    def persist(self, on: bool = True) -> None:
        """Let the device stay, or no longer stay, when its owner and worker have ended."""
        self._call("persist", on)

    def owner(self, user: int | str | None = None) -> int | None:
        """Return the user who may attach without CAP_NET_ADMIN, or None; set it if given."""
        return cast("int | None", self._call("owner", user))

    def group(self, group: int | str | None = None) -> int | None:
        """Return the group that may attach without CAP_NET_ADMIN, or None; set it if given."""
        return cast("int | None", self._call("group", group))

    def sndbuf(self, size: int | None = None) -> int:
        """Return the bytes of sent packets that may be under way, after setting it if given."""
        return cast("int", self._call("sndbuf", size))

    def offload(self, what: int | None = None) -> Offload:
        """Return what the kernel was told that the subscribers can handle; tell it, if given.

        Args:
            what: of ``Offload``, of a device with VNET_HDR; 0 turns it off. A device that was
                created with ``offload=True`` has what the kernel has granted.
        """
        return Offload(self._call("offload", what))

    def receive_filter(self, macs: Iterable[str] = (), *, all_multicast: bool = False) -> None:
        """Get only frames for these addresses, of a TAP. See ``tunctl.receive_filter``."""
        if isinstance(macs, (str, bytes)) or not isinstance(macs, Iterable):
            raise TypeError(f"a receive filter takes a list of MAC addresses, not {macs!r}")
        self._call("receive_filter", list(macs), all_multicast=all_multicast)


def _text(value: Any) -> str | None:
    """Return an address or a network as the text that travels."""
    if value is None:
        return None
    if isinstance(value, (bytes, int)):
        raise TypeError(f"an address is text or an ipaddress object, not {value!r}")
    return str(value)


def absolute(namespace: Namespace) -> Namespace:
    """Return a namespace as the worker, which may have another directory, understands it."""
    if isinstance(namespace, Path) or (isinstance(namespace, str) and "/" in namespace):
        return os.path.abspath(namespace)
    return namespace
