"""Which worker gets a packet. Pure, but for the memory of fragments."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

from tuncer.client.flow_hash import choose
from tuncer.pipeline.records import Item, Routed
from tuncer.protocol.headers import FlowsOfDatagrams, FragmentTable
from tuncer.protocol.packet import Packet

_MASK = (1 << 64) - 1
_MOST_FLOWS = 65_536

Shares = list[list[Item]]
"""The items of each worker."""


def by_flow(
    workers: int, datagrams: FlowsOfDatagrams | None = None
) -> Callable[[Sequence[Item]], Shares]:
    """Return what gives each flow to one worker; what is no IP goes by its MAC addresses.

    Args:
        workers: how many there are.
        datagrams: where the flows of those that come in fragments are kept; by default in memory of
            this process.
    """
    table = FragmentTable(datagrams)
    cache: dict[bytes | None, int] = {}
    known, flow_of = cache.get, table.flow

    def shares(items: Sequence[Item]) -> Shares:
        found: Shares = [[] for _ in range(workers)]
        for item in items:
            packet = item.packet if isinstance(item, Routed) else item
            is_frame, start = packet.framing
            flow = flow_of(packet.data, start, is_frame=is_frame)
            number = known(flow)
            if number is None:
                if flow is None:
                    flow = _macs(packet)
                if len(cache) > _MOST_FLOWS:
                    cache.clear()
                number = cache[flow] = choose(int.from_bytes(flow, "big"), workers)
            found[number].append(item)
        return found

    return shares


def _macs(packet: Packet) -> bytes:
    """Return the addresses of a frame, the same for both directions; nothing of what has none."""
    if not packet.framing.is_frame:
        return b""
    start = packet.framing.start
    one, other = packet.data[start : start + 6], packet.data[start + 6 : start + 12]
    return one + other if one < other else other + one


def by_key(
    workers: int,
    key: Callable[[Packet], Any],
    failed: Callable[[Packet, Exception], Item | None],
) -> Callable[[Sequence[Item]], Shares]:
    """Return what gives packets of the same key to one worker.

    Args:
        workers: how many there are.
        key: the user's function.
        failed: called with a packet that has no key, and why; what it returns goes on instead.
    """

    def shares(items: Sequence[Item]) -> Shares:
        found: Shares = [[] for _ in range(workers)]
        for item in items:
            packet = item.packet if isinstance(item, Routed) else item
            try:
                number = _of_key(key(packet), workers)
            except Exception as error:  # noqa: BLE001 - whatever the user's function raises
                # What only passes by needs no key.
                left = item if isinstance(item, Routed) else failed(packet, error)
                if left is not None:
                    found[0].append(left)
            else:
                found[number].append(item)
        return found

    return shares


def _of_key(key: Any, workers: int) -> int:
    """Return the worker of a key: the same in every process, so ``hash`` is none."""
    if isinstance(key, int) and not isinstance(key, bool) and 0 <= key <= _MASK:
        return key % workers
    if not _is_key(key):
        raise TypeError(f"by: a key is a number, text, bytes, None or a tuple, not {key!r:.100}")
    return zlib.crc32(repr(key).encode()) % workers


def _is_key(key: Any) -> bool:
    if isinstance(key, tuple):
        return all(map(_is_key, key))
    return key is None or isinstance(key, (int, str, bytes, float))


def to_one(number: int, workers: int, items: Sequence[Item]) -> Shares:
    """Return all items as the share of one worker."""
    found: Shares = [[] for _ in range(workers)]
    found[number] = list(items)
    return found
