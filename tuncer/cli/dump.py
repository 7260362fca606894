"""``tuncer dump``: a device's packets, as lines of text or as a capture, much as tcpdump has it."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import select
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuncer.cli import packet_text, sentence
from tuncer.cli.finding import device_called
from tuncer.cli.interruption import Interruption
from tuncer.client.device import Device
from tuncer.pipeline.capture_files import CaptureFiles, Limits
from tuncer.protocol import pcapng
from tuncer.protocol.packet import Packet
from tuncer.tunctl.pcap import Program, compile_filter

SCHEMA = 1
"""Of the lines of JSON. Keys may be added to it."""

_MILLION = 1_000_000
_HELP = """\
A packet is a line of text; with -w a record of a capture, in pcapng. The capture tells the
interface, the times in nanoseconds, and how many packets were lost where. Examples:

  tuncer dump tap0                       what comes, until Ctrl-C
  tuncer dump tap0 -c 10 udp port 53     ten packets of a filter, see pcap-filter(7)
  tuncer dump tap0 -w day.pcapng -G 3600 a file for each hour: day-00000.pcapng, ...
  tuncer dump tap0 -w - | tshark -r -    live, into another program
"""


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "dump",
        help="show or record a device's packets",
        description=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("device", metavar="DEV", nargs="?", help="the device; not needed if there is only one")
    add("filter", metavar="FILTER", nargs="*", help="which packets, see pcap-filter(7)")
    add("-w", metavar="FILE", dest="file", help="write a capture; - is the standard output")
    add("-c", metavar="N", dest="count", type=_positive, help="end after N packets")
    add("-s", metavar="N", dest="snaplen", type=_snaplen, default=0, help="cut packets to N bytes")
    add("-C", metavar="N", dest="megabytes", type=_positive, help="a file has N million bytes")
    add("-G", metavar="N", dest="seconds", type=_positive, help="a file is of N seconds")
    add("--comment", default="", help="of the capture")
    add("-e", dest="macs", action="store_true", help="show Ethernet headers")
    add("-x", dest="hex", action="store_true", help="show the bytes, too")
    add("-t", dest="time", action="count", default=0, help="no time; -tt: seconds; -ttt: distance")
    add("-n", action="store_true", help="as always: names are not looked up")
    add("--json", action="store_true", help="a line of JSON a packet, for programs")
    parser.set_defaults(run=run)


def _positive(text: str) -> int:
    number = int(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _snaplen(text: str) -> int:
    number = int(text)
    if not 0 <= number < 1 << 31:
        raise argparse.ArgumentTypeError(f"{text} is no number of bytes; 0 is all")
    return number


def run(options: argparse.Namespace) -> int:
    """Show or write packets until there were enough, a signal comes, or the device has ended."""
    wrong = _contradiction(options)
    if wrong:
        print(f"tuncer: {wrong}", file=sys.stderr)
        return 2
    device = device_called(options.device)
    try:
        wanted = compile_filter(" ".join(options.filter), device.flags())
    except ValueError as error:
        print(f"tuncer: {error}", file=sys.stderr)
        return 2
    with Interruption() as interruption:
        output = _output(options, interruption)
        return _capture(device, wanted, output, options.count, interruption)


def _contradiction(options: argparse.Namespace) -> str | None:
    """Return what is wrong with the options together."""
    rotates = options.megabytes is not None or options.seconds is not None
    if rotates and options.file in {None, "-"}:
        return "-C and -G begin files: give the first one's name by -w"
    if options.json and options.file:
        return "--json and -w exclude one another"
    return None


def _output(options: argparse.Namespace, interruption: Interruption) -> _Output:
    if options.file is None:
        return _Lines(_Pipe(1, interruption), options)
    if options.file == "-":
        return _Stream(_Pipe(1, interruption), options)
    path = Path(options.file)
    if path.exists() and not path.is_file():  # a named pipe
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        return _Stream(_Pipe(fd, interruption), options)
    return _Files(options)


def _capture(
    device: Device,
    wanted: Program,
    output: _Output,
    count: int | None,
    interruption: Interruption,
) -> int:
    captured = lost = status = 0
    untold = 0  # lost before packets that the filter has left out
    poller = select.poll()
    poller.register(interruption.fileno(), select.POLLIN)
    with contextlib.ExitStack() as closing:
        closing.callback(output.close)
        packets = closing.enter_context(device.subscribe(batch=True))
        poller.register(packets.fileno(), select.POLLIN)
        try:
            while count is None or captured < count:
                if any(fd == interruption.fileno() for fd, _ in poller.poll()):
                    break
                with contextlib.suppress(TimeoutError):
                    batch = packets.recv(timeout=0)
                    found, untold = _passing(batch, wanted, untold)
                    found = found if count is None else found[: count - captured]
                    output.write(found)
                    captured += len(found)
                    lost += sum(packet.lost for packet in found)
        except EOFError:
            print(f"tuncer: {device.name} has ended", file=sys.stderr)
        except (BrokenPipeError, InterruptedError):  # whoever read has enough: that is no failure
            output.abandon()
        except OSError as error:  # a full disk, a device that was deleted
            print(f"tuncer: {sentence(error)}", file=sys.stderr)
            status = 1
    print(f"{captured} packets captured, {lost + untold} lost", file=sys.stderr)
    return status


def _passing(batch: Sequence[Packet], wanted: Program, untold: int) -> tuple[list[Packet], int]:
    """Return the packets that pass, and how many were lost behind the last one of them."""
    found = []
    for packet in batch:
        untold += packet.lost
        if not wanted.expression or wanted.accepts(packet.data[packet.framing.start :]):
            found.append(packet if packet.lost == untold else packet._replace(lost=untold))
            untold = 0
    return found, untold


class _Output(ABC):
    """Where packets go."""

    @abstractmethod
    def write(self, packets: Sequence[Packet]) -> None:
        """Write packets, all of them to the end.

        Raises:
            OSError: they are not written; what was written before stays whole.
        """

    @abstractmethod
    def close(self) -> None:
        """Write what ends it."""

    def abandon(self) -> None:
        """Write nothing more: the reader has gone."""
        return


class _Pipe:
    """A descriptor that is written to, until a signal comes: its reader may have stopped."""

    def __init__(self, fd: int, interruption: Interruption) -> None:
        self._fd, self._interruption = fd, interruption
        self._poller = select.poll()
        self._poller.register(fd, select.POLLOUT)
        self._poller.register(interruption.fileno(), select.POLLIN)

    def write(self, data: bytes) -> None:
        """Write bytes.

        Raises:
            OSError: EPIPE, the reader has gone; EINTR, a signal came while there was no room.
        """
        while data:
            ready = {fd for fd, _ in self._poller.poll()}
            if self._fd not in ready:
                raise InterruptedError(errno.EINTR, "a signal came, and the reader reads nothing")
            # So much has room when poll(2) says so (PIPE_BUF of pipe(7)): it does not block.
            data = data[os.write(self._fd, data[: select.PIPE_BUF]) :]


class _Lines(_Output):
    """Lines on the standard output."""

    def __init__(self, pipe: _Pipe, options: argparse.Namespace) -> None:
        self._pipe = pipe
        self._options = options
        self._last = 0

    def write(self, packets: Sequence[Packet]) -> None:
        """Print packets."""
        show = self._as_json if self._options.json else self._as_text
        lines = "".join(f"{show(packet)}\n" for packet in packets)
        self._pipe.write(lines.encode(sys.stdout.encoding or "utf-8", "backslashreplace"))

    def _as_json(self, packet: Packet) -> str:
        start = packet.framing.start
        data = packet.data[start : start + self._options.snaplen if self._options.snaplen else None]
        told: dict[str, Any] = {
            "schema": SCHEMA,
            "device": packet.device,
            "queue": packet.queue,
            "seq": packet.seq,
            "timestamp": packet.timestamp,
            "length": len(packet.data) - start,
            "lost": packet.lost,
            "text": packet_text.line(packet),
        }
        if self._options.hex:
            told["data"] = data.hex()
        return json.dumps(told)

    def _as_text(self, packet: Packet) -> str:
        options = self._options
        text = packet_text.line(packet, with_macs=options.macs)
        told = f"{self._time(packet.timestamp)}{text}"
        if packet.lost:
            told = f"[{packet.lost} packets were lost here]\n{told}"
        if options.hex:
            start = packet.framing.start
            end = start + options.snaplen if options.snaplen else None
            told = f"{told}\n{packet_text.dump(packet.data[start:end])}"
        return told

    def _time(self, timestamp: int) -> str:
        """Return the beginning of a line: as tcpdump's -t, -tt, -ttt and -tttt."""
        before, self._last = self._last or timestamp, timestamp
        seconds, rest = divmod(timestamp, 1_000_000_000)
        if self._options.time == 1:
            return ""
        if self._options.time == 2:
            return f"{seconds}.{rest // 1000:06} "
        if self._options.time == 3:
            return f"{(timestamp - before) / 1e9:.6f} "
        pattern = "%Y-%m-%d %H:%M:%S" if self._options.time > 3 else "%H:%M:%S"
        return f"{time.strftime(pattern, time.localtime(seconds))}.{rest // 1000:06} "

    def close(self) -> None:
        """Nothing ends it."""


class _Files(_Output):
    """Capture files."""

    def __init__(self, options: argparse.Namespace) -> None:
        size = None if options.megabytes is None else options.megabytes * _MILLION
        limits = Limits(size, options.seconds, options.snaplen)
        self._files = CaptureFiles(Path(options.file), limits, comment=options.comment)

    def write(self, packets: Sequence[Packet]) -> None:
        """Write packets."""
        if packets:
            self._files.write(packets)

    def close(self) -> None:
        """Write what was counted."""
        self._files.close()


class _Stream(_Output):
    """A capture into a pipe, whose reader sees packets at once."""

    def __init__(self, pipe: _Pipe, options: argparse.Namespace) -> None:
        self._pipe = pipe
        self._snaplen = options.snaplen
        self._known: pcapng.Interfaces = {}
        self._is_abandoned = False
        self._pipe.write(pcapng.section(options.comment))

    def write(self, packets: Sequence[Packet]) -> None:
        """Write packets."""
        blocks, self._known = pcapng.blocks(packets, self._known, self._snaplen)
        self._pipe.write(blocks)

    def close(self) -> None:
        """Write what was counted."""
        if not self._is_abandoned:
            with contextlib.suppress(OSError):
                self._pipe.write(pcapng.ending(self._known, time.time_ns()))

    def abandon(self) -> None:
        """Write nothing more."""
        self._is_abandoned = True
