"""A device by its name, for commands."""

from __future__ import annotations

import difflib
import errno

from supervisor import ActorError
from tuncer.client.device import Device, known
from tuncer.protocol import paths
from tuncer.protocol.packet import DeviceError


def device_called(name: str | None) -> Device:
    """Return a device of this user, in any network namespace; without a name the only one.

    Raises:
        DeviceError: ENODEV, there is none, and which there are; ENOTUNIQ, there are several; or its
            worker does not answer.
    """
    found = {path: paths.name_of(path) for path in paths.control_paths()}
    if name is not None and name not in found.values():
        # It may be in another namespace, where its worker alone knows how it is called.
        found |= {path: _name_now(known(path, told)) for path, told in found.items()}
    chosen = [path for path, told in found.items() if name in {None, told}]
    if len(chosen) == 1:
        return known(chosen[0], found[chosen[0]])
    names = sorted(found.values())
    if not names:
        raise DeviceError(errno.ENODEV, "this user has no devices", name)
    listed = f"there are {', '.join(names)}" if len(names) > 1 else f"there is {names[0]}"
    if name is None:
        raise DeviceError(errno.ENOTUNIQ, f"which device? {listed}")
    if chosen:
        text = "several network namespaces have a device so called: go into one of them"
        raise DeviceError(errno.ENOTUNIQ, text, name)
    close = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {close[0]}?" if close else listed
    raise DeviceError(errno.ENODEV, f"there is no such device: {hint}", name)


def _name_now(device: Device) -> str:
    try:
        return device.devname()
    except (OSError, ActorError):  # it is going, or hangs
        return device.name
