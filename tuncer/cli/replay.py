"""``tuncer replay``: sends the packets of a capture, at the distances of their times."""

from __future__ import annotations

import argparse
import itertools
import math
import select
import sys
import time
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from tuncer.cli.finding import device_called
from tuncer.cli.interruption import Interruption
from tuncer.client.device import Device
from tuncer.client.packet_writer import written_before
from tuncer.protocol import pcapng
from tuncer.protocol.packet import DeviceError
from tuncer.protocol.pcapng import Captured, CaptureError
from tuncer.tunctl import Flag, Protocol, TunPi

_HOUR = 3600.0  # seconds: poll(2) takes no longer times than some weeks
_AT_ONCE = 64  # packets of a system call's batch
_HELP = """\
The packets come out of the device, as if they had been received there. All times are reckoned from
one beginning: what is late once is not late for ever. Examples:

  tuncer replay day.pcapng tap0               as it was
  tuncer replay day.pcapng tap0 --speed 0.5   half as fast
  tuncer replay day.pcapng tap0 --loop 0      again and again, until Ctrl-C
"""


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "replay",
        help="send the packets of a capture",
        description=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("file", metavar="FILE", help="pcap or pcapng; - is the standard input")
    add("device", metavar="DEV", nargs="?", help="the device; not needed if there is only one")
    add(
        "--speed", metavar="X", type=_speed, default=1.0, help="so many times as fast; max: at once"
    )
    add("--loop", metavar="N", type=int, default=1, help="how often; 0: until Ctrl-C")
    parser.set_defaults(run=run)


def _speed(text: str) -> float:
    speed = math.inf if text == "max" else float(text)
    if not speed > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return speed


class Due(NamedTuple):
    """A packet, and when it is due."""

    after: float
    """Seconds after the beginning."""
    packet: Captured


def schedule(packets: Iterator[Captured], speed: float, began: float = 0.0) -> Iterator[Due]:
    """Yield packets with their times, all reckoned from the first one. Pure.

    Args:
        packets: in their order, which stays: one whose time is before another's is due with it.
        speed: how many times as fast as they came.
        began: seconds, when the first one is due.
    """
    first = None
    due = began
    for packet in packets:
        first = packet.timestamp if first is None else first
        due = max(due, began + (packet.timestamp - first) / 1e9 / speed)
        yield Due(due, packet)


def run(options: argparse.Namespace) -> int:
    """Send packets until they have ended, or a signal comes; 1 if some were not sent."""
    if options.loop < 0:
        print("tuncer: --loop is 0 or above", file=sys.stderr)
        return 2
    if options.file == "-" and options.loop != 1:
        print("tuncer: the standard input can be sent once: --loop needs a file", file=sys.stderr)
        return 2
    device = device_called(options.device)
    opened = sys.stdin.buffer if options.file == "-" else open(options.file, "rb")  # noqa: SIM115
    with opened as file, Interruption() as interruption:
        sending = _Sending(device, interruption)
        try:
            sending.send(_rounds(file, options.file, options.speed, options.loop))
        except CaptureError as error:
            print(f"tuncer: {error}", file=sys.stderr)
            sending.failed += 1
    seconds = time.monotonic() - sending.began
    print(f"{sending.sent} packets sent in {seconds:.1f} s, {sending.failed} not", file=sys.stderr)
    return 1 if sending.failed else 0


def _rounds(file: IO[bytes], name: str, speed: float, loops: int) -> Iterator[Due]:
    """Yield the packets of a file, again and again: a round begins when the last one has ended."""
    began = 0.0
    for number in itertools.count(1):
        if number > 1:
            file.seek(0)
        found = False
        for due in schedule(pcapng.read(file, name), speed, began):
            found = True
            yield due
            last = due.after
        if not found or number == loops:
            return
        began = last


class _Sending:
    """Sends packets when they are due."""

    def __init__(self, device: Device, interruption: Interruption) -> None:
        self._device = device
        flags = device.flags()
        self._is_tap, self._has_information = Flag.TAP in flags, Flag.NO_PI not in flags
        self._poller = select.poll()
        self._poller.register(interruption.fileno(), select.POLLIN)
        self.began = time.monotonic()
        self.sent = self.failed = 0
        self._waiting: list[bytes] = []

    def send(self, packets: Iterator[Due]) -> None:
        """Send packets, until there are none, or a signal comes.

        Raises:
            CaptureError: the capture is damaged, or its packets are not such as the device takes.
            DeviceError: the device has ended.
        """
        try:
            for due in packets:
                if due.packet.missing:
                    self._refuse(f"the capture has left out {due.packet.missing} bytes of it")
                    continue
                data = self._framed(due.packet)
                left = self.began + due.after - time.monotonic()
                if left > 0 or len(self._waiting) == _AT_ONCE:
                    self._flush()
                    if self._is_interrupted_before(self.began + due.after):
                        return
                self._waiting.append(data)
        finally:
            self._flush()  # also what came before a place where the capture is damaged

    def _is_interrupted_before(self, due: float) -> bool:
        """Wait until a packet is due; tell whether a signal came before."""
        while True:
            left = max(0.0, due - time.monotonic())
            if self._poller.poll(min(left, _HOUR) * 1000):
                return True
            if left <= _HOUR:
                return False

    def _framed(self, packet: Captured) -> bytes:
        """Return what the device takes."""
        if packet.framing.is_frame != self._is_tap:
            has = "Ethernet frames" if packet.framing.is_frame else "IP packets"
            takes = (
                "Ethernet frames, as it is a TAP" if self._is_tap else "IP packets, as it is a TUN"
            )
            raise CaptureError(f"the capture has {has}, and {self._device.name} takes {takes}")
        if not self._has_information:
            return packet.data
        is_ipv6 = packet.data[:1] >= b"\x60"
        return TunPi(0, Protocol.IPV6 if is_ipv6 else Protocol.IPV4, packet.data).pack()

    def _refuse(self, why: object) -> None:
        """Count a packet that is not sent, and tell of the first one."""
        if not self.failed:
            print(f"tuncer: a packet was not sent: {why}", file=sys.stderr)
        self.failed += 1

    def _flush(self) -> None:
        """Send what waits; a packet that is refused is counted, and the first one told of."""
        waiting, self._waiting = self._waiting, []
        while waiting:
            try:
                self.sent += self._device.send(*waiting)
                waiting = []
            except DeviceError:
                raise
            except (OSError, ValueError) as error:
                before = written_before(error)
                self.sent += before
                self._refuse(error)
                waiting = waiting[before + 1 :]
