"""A program that feeds a pipeline: packets of any iterable, and of capture streams."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from supervisor import named
from tuncer.pipeline.ends import Pcap
from tuncer.pipeline.feed import END, PACKETS, Position, name_of
from tuncer.pipeline.feed_sink import requests
from tuncer.protocol import pcapng
from tuncer.protocol.packet import Packet

log = logging.getLogger("tuncer")

_ROOM = 4 * PACKETS  # packets that wait in this process to be sent
_numbers = itertools.count()
"""Of packets that this program feeds as bytes: so a trace can tell them apart."""
_AWAY = 30.0  # seconds in which a worker that has ended may have a successor


def captured(source: Pcap) -> Iterator[Packet]:
    """Yield the packets of a capture: at the distances of their times, if that is wanted.

    Raises:
        CaptureError: it is none, or is damaged.
    """
    with contextlib.ExitStack() as stack:
        if isinstance(source.path, (str, os.PathLike)):
            file: IO[bytes] = stack.enter_context(Path(source.path).open("rb"))
        else:
            file = source.path
        began: tuple[float, int] | None = None
        for number, record in enumerate(pcapng.read(file, source.name)):
            if source.timed:
                began = began or (time.monotonic(), record.timestamp)
                due = began[0] + (record.timestamp - began[1]) / 1e9
                time.sleep(max(0.0, due - time.monotonic()))
            yield record.packet(number)


def packets_of(source: Iterable[Packet | bytes] | Pcap, device: str) -> Iterator[Packet]:
    """Yield packets of a capture, or of an iterable of packets and bytes.

    Args:
        source: where they come from.
        device: the name of what bytes come from.

    Raises:
        CaptureError: as ``captured``.
        TypeError: something is neither a packet nor bytes.
    """
    if isinstance(source, Pcap):
        yield from captured(source)
        return
    for given in source:
        if isinstance(given, Packet):
            yield given
        elif isinstance(given, (bytes, bytearray, memoryview)):
            yield Packet(bytes(given), next(_numbers), time.time_ns(), device)
        else:
            raise TypeError(f"a pipeline is fed with packets, or bytes, not {given!r:.100}")


class _Sender:
    """Sends packets in a thread of its own: what is there already does not wait for what comes."""

    def __init__(self, pipeline: str) -> None:
        self._there = named(name_of(pipeline)).within(None, retry=_AWAY)
        self._producer = os.urandom(16)
        self._position = Position(0, 0)
        self._packets: deque[Packet] = deque()
        self._changed = threading.Condition()
        self._is_over = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"feed {pipeline}", daemon=True)
        self._thread.start()

    def put(self, packet: Packet) -> None:
        """Have a packet sent; wait for room."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._packets) < _ROOM or self._error is not None)
            self._check()
            self._packets.append(packet)
            if len(self._packets) == 1:
                self._changed.notify_all()

    def finish(self) -> int:
        """Wait until all packets are committed; return how many they were."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        self._thread.join()
        self._check()
        return self._position.number

    def give_up(self) -> None:
        """Send nothing more."""
        with self._changed:
            self._packets.clear()
            self._is_over = True
            self._changed.notify_all()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while some := self._some():
                self._send(some)
        except BaseException as error:  # noqa: BLE001 - the thread that feeds raises it
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _some(self) -> list[Packet]:
        """Return packets that wait; none: there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._packets or self._is_over)
            count = min(len(self._packets), PACKETS)
            found = [self._packets.popleft() for _ in range(count)]
            self._changed.notify_all()
            return found

    def _send(self, packets: list[Packet]) -> None:
        for request, count in requests(self._producer, self._position, packets):
            refused = self._there.call(request.term())
            if refused:
                raise BrokenPipeError(f"{self._there} takes no packets: {refused}")
            self._position = self._position.behind(count)


def feed(pipeline: str, source: Iterable[Packet | bytes] | Pcap) -> int:
    """Have a pipeline take packets; see ``PipelineRef.feed``."""
    sender = _Sender(pipeline)
    try:
        for packet in packets_of(source, "feed"):
            sender.put(packet)
    except Exception:
        with contextlib.suppress(Exception):  # that failure is the first one
            sender.finish()  # what was given before it goes on
        raise
    except BaseException:  # Ctrl-C does not wait
        sender.give_up()
        raise
    return sender.finish()


def end(pipeline: str) -> None:
    """Tell a pipeline that no more packets come."""
    named(name_of(pipeline)).within(None, retry=_AWAY).call(END.term())


def feed_in_thread(pipeline: str, source: Iterable[Packet | bytes] | Pcap) -> None:
    """Feed a pipeline from this program, beside all else, until the source has no more packets.

    What the source raises is logged, and ends it.
    """

    def run() -> None:
        try:
            feed(pipeline, source)
        except Exception:
            log.exception("%s: the source ends early", pipeline)
        with contextlib.suppress(Exception):  # the pipeline has ended
            end(pipeline)

    threading.Thread(target=run, name=f"source of {pipeline}", daemon=True).start()
