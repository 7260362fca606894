"""Sinks in a worker of the last segment: where packets go in the end."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from supervisor.lowlevel import load_reference
from tuncer.client.device import Device
from tuncer.client.packet_writer import written_before
from tuncer.pipeline.attached import device_of
from tuncer.pipeline.capture_files import CaptureFiles, Limits
from tuncer.pipeline.once_a_second import OnceASecond
from tuncer.protocol import pcapng
from tuncer.protocol.packet import DeviceError, Packet

log = logging.getLogger("tuncer")

_AWAY = 1.0  # seconds in which a device that is away may come back
_LOOK = 0.01  # seconds between two looks whether it is there again


class Sink(ABC):
    """Where packets go."""

    is_numbered = False
    """Whether its receivers leave out packets of which they have had the numbers."""

    def __init__(self) -> None:
        self.position = 0
        """Committed with what was delivered: a successor goes on there."""

    def offer(self, packets: Sequence[Packet]) -> bool:
        """Tell whether packets can be delivered now: all of them are offered, or none, until so."""
        del packets
        return True

    def delay(self) -> float | None:
        """Return the seconds after which to offer them again; None: the sink wakes its worker."""
        return None

    @abstractmethod
    def deliver(self, packets: Sequence[Packet]) -> int:
        """Deliver packets; return how many could not be, which is logged."""

    def given_up(self) -> None:
        """Take note that packets which were offered, perhaps, are given up after a kill."""
        return

    def close(self) -> None:
        """Close what is open."""
        return


class PortSink(Sink):
    """A device. After a crash a batch may be written again."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self._options, self._name = options, options["name"]
        self._device: Device | None = None
        self._failures = OnceASecond(log)

    def deliver(self, packets: Sequence[Packet]) -> int:
        """Write packets to the device."""
        datas = [packet.data for packet in packets]
        failed = 0
        deadline = time.monotonic() + _AWAY
        while datas:
            try:
                if self._device is None:
                    self._device = device_of(self._options)
                if self._device.queues == 1:
                    self._device.send(*datas)
                    break
                # Of several queues nothing tells how many were written before an error.
                self._device.send(datas[0])
                datas = datas[1:]
            except DeviceError as error:
                self._device = None
                datas = datas[written_before(error) :]
                if time.monotonic() < deadline:  # it is being restarted, or made again
                    time.sleep(_LOOK)
                    continue
                self._failures.tell(f"{self._name}: {len(datas)} packets were not written", error)
                return failed + len(datas)
            except (OSError, ValueError) as error:
                self._failures.tell(f"{self._name}: a packet was not written", error)
                failed += 1
                datas = datas[written_before(error) + 1 :]
        return failed


class FunctionSink(Sink):
    """A function of a packet. After a crash it may be called again for a batch."""

    def __init__(self, name: str, start: str) -> None:
        super().__init__()
        self._name = name
        self._call = load_reference(start)
        self._failures = OnceASecond(log)

    def deliver(self, packets: Sequence[Packet]) -> int:
        """Call the function for each packet."""
        failed = 0
        for packet in packets:
            try:
                self._call(packet)
            except Exception as error:  # noqa: BLE001 - whatever the user's function raises
                self._failures.tell(
                    f"sink {self._name!r} has failed for packet {packet.seq}", error
                )
                failed += 1
        return failed


class PcapSink(Sink):
    """A capture file. After a crash it is cut to what was committed: each packet stands there once.

    The position is the one of its ``CaptureFiles``.
    """

    def __init__(self, position: int, path: str, limits: Limits) -> None:
        """Go on with the file where a predecessor has committed, or begin.

        Raises:
            OSError: it cannot be written, at the first start.
        """
        super().__init__()
        self._files = CaptureFiles(Path(path), limits, position)
        self.position = self._files.position

    def deliver(self, packets: Sequence[Packet]) -> int:
        """Write packets, all of them or none."""
        try:
            self._files.write(packets)
        except OSError as error:
            log.error("%s: %d packets were not written: %s", self._files.name, len(packets), error)
            return len(packets)
        finally:
            self.position = self._files.position
        return 0

    def close(self) -> None:
        """Write what was counted of each interface, and close the file.

        A successor that goes on with the file cuts that off again: it was not committed.
        """
        self._files.close()


def quarantine(path: str, packet: Packet, reason: str) -> None:
    """Append a packet, with the reason as its comment, to a capture file.

    Several workers append to it, one after the other: each packet is a section of its own.

    Raises:
        OSError: it is not written: the file is as it was.
    """
    link = pcapng.link_of(packet.framing)
    data = packet.data[packet.framing.start :]
    section = pcapng.section() + pcapng.interface(packet.device, link)
    section += pcapng.packet(0, packet.timestamp, data, reason)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        before = os.fstat(fd).st_size
        if os.write(fd, section) < len(section):  # a part of it would make the rest unreadable
            os.ftruncate(fd, before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(fd)


def check_quarantine(path: str) -> None:
    """Check, without making it, that a quarantine file can be written.

    Raises:
        OSError: it cannot.
    """
    looked_at = path if os.path.exists(path) else os.path.dirname(path)
    if not os.access(looked_at, os.W_OK):
        number = errno.EACCES if os.path.exists(looked_at) else errno.ENOENT
        raise OSError(number, f"the quarantine file cannot be written: {os.strerror(number)}", path)
