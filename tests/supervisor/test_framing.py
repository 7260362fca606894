"""The transport: messages of every length, and descriptors beside them."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from actors import Recorder
from processes import (
    PATIENCE,
    eventually,
)
from strangers import hear, is_closed, stranger

from supervisor.protocol import codec, framing, message_kinds


def test_messages_of_every_length_in_both_directions() -> None:
    ref = Recorder.start_link()
    edges = [framing.INLINE + n for n in range(-20, 4)]
    for size in (0, 1, 200, 250, 255, 256, 257, 65535, 65536, 1 << 20, *edges, codec.LIMIT - 100):
        assert ref.call(["echo", b"x" * size], timeout=PATIENCE) == ["echo", b"x" * size]
    for size in (10, 100_000, 5, framing.INLINE, 1):
        ref.cast([size, b"y" * size])
    assert ref.call("seen", timeout=PATIENCE) == [
        [size, b"y" * size] for size in (10, 100_000, 5, framing.INLINE, 1)
    ]
    with pytest.raises(ValueError, match="over the limit"):
        ref.cast(b"x" * (codec.LIMIT + 1))


def memfd(content: bytes, seals: int = framing._SEALS) -> int:
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.write(fd, content)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


@contextlib.contextmanager
def given(fds: list[int]) -> Iterator[list[tuple[int, int, array.array[int]]]]:
    try:
        yield [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
    finally:
        for fd in fds:
            os.close(fd)


def test_a_descriptor_that_holds_no_message_ends_its_connection(
    capfd: pytest.CaptureFixture[str],
) -> None:
    ref = Recorder.start_link()
    ref.call("warm up")
    message, before = codec.pack([0, 1, "hello"]), ref.call(["fds"])
    reader, writer = os.pipe()
    os.close(writer)
    cases: list[tuple[Any, list[int]]] = [
        (len(message), [memfd(message, 0)]),
        (len(message) + 1, [memfd(message)]),
        (1 << 40, [memfd(message)]),
        (-1, [memfd(message)]),
        (5, [reader]),
        (5, [os.open("/dev/zero", os.O_RDONLY)]),
        (5, [os.open("/", os.O_RDONLY)]),
        ([0, 1, "hello"], [os.open("/dev/null", os.O_RDONLY) for _ in range(100)]),
    ]
    for size, fds in cases:
        with stranger(ref.pid) as other, given(fds) as rights:
            other.sendmsg([codec.pack(size)], rights)
            assert is_closed(other), size
    for bad in (b"\x93\x00\x01\xdd\xff\xff\xff\xff" + bytes(40_000), b"\x91" * 40_000):
        with stranger(ref.pid) as other:
            framing.send_long(other, bad)
            assert is_closed(other)
    with stranger(ref.pid) as other, given([memfd(message)]) as rights:
        other.sendmsg([codec.pack(len(message))], rights)
        assert hear(other) == [message_kinds.REPLY, 1, "hello"]
    eventually(lambda: ref.call(["fds"]) <= before)
    assert len(capfd.readouterr().err.splitlines()) == len(cases) + 2
