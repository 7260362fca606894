"""A pipeline's devices, as its plan names them, in a worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tuncer.client.create import attach
from tuncer.client.device import Device


def device_of(options: dict[str, Any]) -> Device:
    """Return a device.

    Args:
        options: of a source or sink: its ``name`` and ``namespace`` if the pipeline makes it, or
            what ``Device`` is made of.

    Raises:
        DeviceError: it is not there, or its worker does not answer.
    """
    if options["device"] is not None:
        path, name, queues, has_offload = options["device"]
        return Device(Path(path), name, queues, has_offload)
    return attach(options["name"], options["namespace"])
