"""Calls of recv on a device with offload: what one call leaves belongs to the others that wait."""

import asyncio
import contextlib
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from devices import OTHER
from processes import PATIENCE, eventually
from traffic import send_large, send_one

import tuncer
from tuncer import Device


def test_threads_that_wait_get_the_segments(large: Device) -> None:
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(large.recv, PATIENCE) for _ in range(3)]
        eventually(lambda: large.statistics()["receivers"], 1)  # the others wait for that one
        send_large()
        assert sorted(len(call.result(PATIENCE)) for call in calls) == [528, 1028, 1028]


def test_tasks_that_wait_get_the_segments(large: Device) -> None:
    async def main() -> list[int]:
        tasks = [asyncio.create_task(large.arecv(PATIENCE)) for _ in range(4)]
        while not (await asyncio.to_thread(large.statistics))["receivers"]:
            pass
        first, *others = tasks
        first.cancel()  # the one that has asked: another one asks
        with contextlib.suppress(asyncio.CancelledError):
            await first
        send_large()
        return sorted(len(packet) for packet in await asyncio.gather(*others))

    assert asyncio.run(main()) == [528, 1028, 1028]


def test_each_call_has_its_own_timeout(large: Device) -> None:
    with ThreadPoolExecutor(1) as pool:
        patient = pool.submit(large.recv, PATIENCE)
        eventually(lambda: large.statistics()["receivers"])
        for timeout in (0, 0.01):
            with pytest.raises(TimeoutError, match="in time"):
                large.recv(timeout)
            with pytest.raises(TimeoutError, match="in time"):
                asyncio.run(large.arecv(timeout))
        send_one(OTHER, b"x")
        assert patient.result(PATIENCE)[28:] == b"x"


class Interrupted(Exception):
    """Raised by a signal's handler."""


def test_what_a_signals_handler_interrupts_is_no_obstacle(large: Device) -> None:
    """The handler receives; then it raises, and the next call does not wait for the one before."""
    found: list[bytes] = []

    def handler(*_: object) -> None:
        send_one(OTHER, b"of the call that was interrupted")
        send_one(OTHER, b"of the handler")
        found.append(large.recv(PATIENCE))
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, handler)
    main = threading.get_ident()

    def interrupt() -> None:
        eventually(lambda: large.statistics()["receivers"])
        signal.pthread_kill(main, signal.SIGUSR1)

    try:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(interrupt)
            with pytest.raises(Interrupted):
                large.recv(PATIENCE)
    finally:
        signal.signal(signal.SIGUSR1, before)
    found.append(large.recv(PATIENCE))
    told = [b"of the handler", b"of the call that was interrupted"]
    assert [packet[28:] for packet in found] == told


def test_a_blocking_call_does_not_wait_for_a_task_of_its_own_thread(large: Device) -> None:
    async def main() -> None:
        task = asyncio.create_task(large.arecv(PATIENCE))
        while not (await asyncio.to_thread(large.statistics))["receivers"]:
            pass
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            large.recv(0.01)  # it blocks the loop, as it may
        assert time.monotonic() - began < PATIENCE
        send_one(OTHER, b"x")
        assert (await task)[28:] == b"x"

    asyncio.run(main())


def test_a_fork_begins_anew(large: Device) -> None:
    send_large()
    large.recv(PATIENCE)
    child = os.fork()
    if child == 0:
        with contextlib.suppress(TimeoutError):
            large.recv(0)
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [len(large.recv(PATIENCE)) for _ in range(2)] == [1028, 528]


def test_threads_that_are_the_first_have_the_same_segments(large: Device) -> None:
    for _ in range(20):
        other = tuncer.attach("lab0")
        together = threading.Barrier(4)

        def first(other: Device = other, together: threading.Barrier = together) -> object:
            together.wait(PATIENCE)
            return other._large

        with ThreadPoolExecutor(4) as pool:
            found = [pool.submit(first) for _ in range(4)]
            assert len({id(one.result(PATIENCE)) for one in found}) == 1
