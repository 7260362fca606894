"""Flows of datagrams in shared memory: what was put is found, by a successor as well."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuncer.pipeline import datagrams
from tuncer.pipeline.datagrams import SharedDatagrams, place_of

KEY = b"a secret"

keys = st.binary(min_size=12, max_size=40)
flows = st.sampled_from([13, 37]).flatmap(lambda size: st.binary(min_size=size, max_size=size))


def table(memory: bytearray | None = None) -> SharedDatagrams:
    return SharedDatagrams(memoryview(bytearray(datagrams.SIZE) if memory is None else memory), KEY)


@given(st.dictionaries(keys, flows, max_size=50), st.data())
def test_a_successor_finds_what_was_put_and_nothing_else(
    put: dict[bytes, bytes], data: st.DataObject
) -> None:
    memory = bytearray(datagrams.SIZE)
    for key in data.draw(st.permutations(list(put) * 2)):
        table(memory).put(key, put[key])
    # Nine datagrams have a set of eight ways in common by a chance that is negligible here.
    assert {key: table(memory).get(key) for key in put} == put
    assert table(memory).get(b"another") is None


def colliding(count: int) -> list[bytes]:
    """Return datagrams that share a set."""
    numbers = map(str, itertools.count())
    where = place_of(b"0", KEY)[1]
    same = (key for number in numbers if place_of(key := number.encode(), KEY)[1] == where)
    return list(itertools.islice(same, count))


def test_the_oldest_of_a_full_set_is_displaced() -> None:
    found = table()
    *first, last = colliding(datagrams.WAYS + 1)
    for key in first:
        found.put(key, bytes(13))
    found.put(first[0], bytes(14))  # which is the newest now
    found.put(last, bytes(15))
    assert found.get(first[0]) == bytes(14)
    assert found.get(first[1]) is None
    assert [found.get(key) for key in first[2:]] == [bytes(13)] * (datagrams.WAYS - 2)
    assert found.get(last) == bytes(15)


class Killed(BaseException):
    pass


class StopsAt:
    """Memory whose writer is killed at a store."""

    def __init__(self, memory: bytearray, store: int) -> None:
        self.memory, self.left = memory, store

    def __getitem__(self, where: Any) -> Any:
        return self.memory[where]

    def __setitem__(self, where: Any, value: Any) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed
        self.memory[where] = value


@pytest.mark.parametrize("store", range(5))
def test_a_kill_at_any_store_leaves_a_flow_or_nothing(store: int) -> None:
    memory = bytearray(datagrams.SIZE)
    *before, last = colliding(datagrams.WAYS + 1)
    for key in before:
        table(memory).put(key, bytes(13))
    killed = StopsAt(memory, store)
    try:
        SharedDatagrams(killed, KEY).put(last, bytes(range(37)))  # type: ignore[arg-type]
    except Killed:
        assert store < 4
    assert table(memory).get(last) == (bytes(range(37)) if store == 4 else None)
    assert table(memory).get(before[0]) == (bytes(13) if store == 0 else None)
    assert all(table(memory).get(key) == bytes(13) for key in before[1:])


@given(st.binary(min_size=1, max_size=1), st.integers(0, 511))
def test_damaged_memory_raises_nothing(damage: bytes, place: int) -> None:
    memory = bytearray(datagrams.SIZE)
    table(memory).put(b"key", bytes(13))
    at = place_of(b"key", KEY)[1]
    memory[at + place : at + place + 1] = damage
    assert table(memory).get(b"key") is None or len(table(memory).get(b"key") or b"") < 48
