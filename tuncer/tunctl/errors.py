"""What went wrong with which device, and how to mend it: the text of every OSError of tunctl."""

import errno
import os

CLONE_DEVICE = "/dev/net/tun"

_CAPABILITY = (
    "CAP_NET_ADMIN in the network namespace is needed: run as root, try in a namespace of your own"
    " ('unshare --user --map-root-user --net'), or grant the capability to a service"
    " (systemd: AmbientCapabilities=CAP_NET_ADMIN)"
)

_MENDING = {
    "open": {
        errno.ENOENT: f"{CLONE_DEVICE} is missing: load the driver with 'modprobe tun';"
        " in a container pass the device in ('--device /dev/net/tun'), or make the node there"
        f" ('mkdir -p /dev/net && mknod {CLONE_DEVICE} c 10 200')",
        errno.ENODEV: "the kernel has no TUN/TAP driver: load it with 'modprobe tun',"
        " from the package of the running kernel",
        errno.EACCES: f"{CLONE_DEVICE} may not be opened by this user: run as root, or let users"
        f" open it ('sudo chmod 0666 {CLONE_DEVICE}', the default of Debian and Ubuntu)",
        errno.EPERM: f"{CLONE_DEVICE} may not be opened here: in a container allow the device"
        " ('--device /dev/net/tun')",
    },
    "attach": {
        errno.EPERM: f"not allowed to create or attach: {_CAPABILITY}; a persistent device may"
        " also be attached by its owner (TUNSETOWNER, 'ip tuntap add ... user NAME')",
        errno.EBUSY: "the device is in use by another process (or exists already and TUN_EXCL was"
        " asked for); several processes may share it only by MULTI_QUEUE",
        errno.EINVAL: "the kernel refuses these flags for this device: an existing device keeps"
        " its kind (TUN or TAP) and MULTI_QUEUE as it was created, and another sort of interface"
        " may have the name",
    },
    "address": {
        errno.EADDRNOTAVAIL: "there is no such address on the device",
    },
    "add an address": {
        errno.EEXIST: "the address is there already",
        errno.EACCES: "IPv6 is disabled on the device: enable it with"
        " 'sysctl net.ipv6.conf.DEVICE.disable_ipv6=0'",
        errno.EINVAL: "the kernel refuses the address; an IPv6 one needs an MTU of 1280 or more",
        errno.EOPNOTSUPP: "the kernel does not take such an address: it may have no IPv6",
        errno.EADDRNOTAVAIL: "this is an address that no device can have: loopback, multicast, ...",
    },
    "send": {
        errno.EINVAL: "it is no packet for this kind of device: an IP packet for a TUN, an"
        " Ethernet frame for a TAP, behind the headers that its flags ask for (packet information"
        " without NO_PI, a virtio_net_hdr with VNET_HDR)",
    },
    "txqueuelen": {
        errno.EINVAL: "a queue's length is a number of 32 bits, not below 0",
        errno.ERANGE: "a queue's length is a number of 32 bits, not below 0",
    },
    "mtu": {
        errno.EINVAL: "the MTU is out of range: 68 to 65535 for a TUN, 68 to 65521 for a TAP",
    },
    "mac": {
        errno.EOPNOTSUPP: "a TUN has no MAC address",
        errno.EADDRNOTAVAIL: "a device's own address is not multicast, and not all zeros",
        errno.EINVAL: "the kernel refuses the address",
    },
    "carrier": {
        errno.ENOTTY: "the kernel cannot set a carrier: Linux 5.0 is needed",
    },
    "link type": {
        errno.EBUSY: "the type of a link is set while the device is down",
    },
    "vnet_hdr_size": {
        errno.EINVAL: "a virtio_net_hdr has 10 bytes or more",
    },
    "sndbuf": {
        errno.EINVAL: "a send buffer has 1 byte or more",
    },
    "offload": {
        errno.EINVAL: "the kernel does not take this offload: all need CSUM, USO4 and USO6 go"
        " together (Linux 6.2), TSO_ECN wants TSO4 or TSO6, and UFO has gone",
    },
    "attach the queue": {
        errno.EINVAL: "the queue is attached already, or the device was created without"
        " MULTI_QUEUE",
    },
    "detach the queue": {
        errno.EINVAL: "the queue is detached already, or the device was created without"
        " MULTI_QUEUE",
    },
    "receive filter": {
        errno.EINVAL: "a receive filter is for a TAP",
    },
    "rename": {
        errno.EEXIST: "another interface has this name",
        errno.EBUSY: "before Linux 6.2 a device is renamed while it is down",
    },
    "move": {
        errno.EEXIST: "the namespace has an interface of this name",
    },
    "master": {
        errno.EOPNOTSUPP: "this interface has no ports",
        errno.EINVAL: "this interface does not take such a port: a bridge takes a TAP, not a TUN",
        errno.ELOOP: "a bridge is no port of a bridge",
    },
    "link-local address": {
        errno.EAFNOSUPPORT: "the device has no IPv6: it needs an MTU of 1280 or more",
    },
    "route": {
        errno.ENETDOWN: "the device is down: bring it up first",
        errno.ENETUNREACH: "the gateway is not reached through this device: add a route to it, or"
        " an address of its network",
        errno.EEXIST: "there is another route to this network: give a metric",
        errno.ESRCH: "there is no such route through the device",
        errno.EINVAL: "the kernel refuses the route: the source must be an address of this host",
    },
}

_GENERAL = {
    errno.EPERM: f"not allowed: {_CAPABILITY}",
    errno.ENODEV: "there is no such device in this network namespace",
    errno.EBADFD: "the device was deleted, or the descriptor was never attached to one",
    errno.EIO: "the device is down: bring it up first",
    errno.ENOTTY: "the kernel's TUN driver does not know this operation",
    errno.EBADF: "the descriptor is not open",
    errno.EOPNOTSUPP: "the kernel does not know this operation for such a device",
}


def explain(code: int, operation: str, device: str = "") -> OSError:
    """Make the OSError of a failed operation: errno, a sentence on how to mend it, the device.

    Args:
        code: an errno.
        operation: ``open``, ``attach``, ``address``, ``mtu`` or any other word for what was tried.
        device: the device's name, as ``filename`` of the error; empty: there is none.
    """
    mending = _MENDING.get(operation, {}).get(code) or _GENERAL.get(code)
    if code == errno.ENOTTY and not device:
        mending = "the descriptor is no TUN/TAP device's"
    text = os.strerror(code) + (f" ({operation}): {mending}" if mending else f" ({operation})")
    return OSError(code, text, device or None)


def check_bool(value: object, what: str) -> None:
    """Refuse what is neither True nor False: "no" would be taken for yes.

    Raises:
        TypeError: it is neither.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{what} is True or False, not {value!r}")


def check_name(name: str) -> str:
    """Return a device name that the kernel will take; empty means that the kernel chooses.

    Source: ``dev_valid_name`` in the kernel's ``net/core/dev.c``, IFNAMSIZ of ``linux/if.h``.

    Raises:
        TypeError: not text.
        OSError: ENAMETOOLONG over 15 bytes, EINVAL for what no device can be called.
    """
    if not isinstance(name, str):
        raise TypeError(f"a device name is text, not {name!r}")
    if len(name.encode("utf-8", "surrogatepass")) > 15:  # IFNAMSIZ less the final NUL
        raise OSError(errno.ENAMETOOLONG, "a device name is at most 15 bytes long", name)
    if not name.isascii() or any(c in "/:" or c.isspace() or not c.isprintable() for c in name):
        problem = "a device name is printable ASCII without spaces, '/' and ':'"
        raise OSError(errno.EINVAL, problem, name)
    if name in {".", "..", "all", "default"}:  # the last two: directories of /proc/sys/net
        raise OSError(errno.EINVAL, "no device can be called so", name)
    if "%" in name and (name.count("%") != 1 or "%d" not in name):
        raise OSError(errno.EINVAL, "'%' is for one '%d', which the kernel makes a number of", name)
    return name
