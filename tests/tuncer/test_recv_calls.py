"""Calls of recv that are given up at any moment: no packet is lost, and each comes in order."""

import asyncio
import contextlib
import errno
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from devices import OTHER
from processes import PATIENCE, eventually, stop, wait_for_end
from traffic import send_numbers, send_one

import tuncer
from supervisor import CallTimeout, ProcessDown, Shutdown
from supervisor.protocol.message_kinds import DOWN
from tuncer import Device, DeviceError, tunctl
from tuncer.client.recv_calls import RecvCalls
from tuncer.client.worker_client import WorkerClient


async def asked(dev: Device) -> None:
    """Wait until a recv waits in the worker."""
    await asyncio.to_thread(eventually, lambda: dev.statistics()["receivers"])


def test_a_packet_for_a_recv_that_was_given_up_is_the_next_ones(
    dev: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuncer.client.worker_client.PATIENCE", 0.2)
    pid = dev.pid
    stop(pid)
    send_one(OTHER, b"one")
    with pytest.raises(CallTimeout):
        dev.recv(0.1)
    os.kill(pid, signal.SIGCONT)
    monkeypatch.setattr("tuncer.client.worker_client.PATIENCE", PATIENCE)
    assert dev.recv(PATIENCE)[28:] == b"one"
    with pytest.raises(TimeoutError):
        dev.recv(0.01)


def test_a_packet_for_an_arecv_that_was_cancelled_is_the_next_ones(dev: Device) -> None:
    async def main() -> None:
        waiting = asyncio.ensure_future(dev.arecv())
        await asked(dev)
        send_one(OTHER, b"one")
        # Without a turn of the loop: its reply is in the socket, and the loop has not looked.
        eventually(lambda: dev.statistics()["packets_read"])
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (await dev.arecv(PATIENCE))[28:] == b"one"
        cancelled = asyncio.ensure_future(dev.arecv())
        await asked(dev)
        cancelled.cancel()
        send_one(OTHER, b"two")
        assert (await dev.arecv())[28:] == b"two"

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_a_packet_for_a_call_whose_thread_still_sends_comes_first(
    dev: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    sends, may_return = WorkerClient._request, threading.Event()

    def slow(*request: Any) -> Any:
        """Send, and return late: the machine is busy."""
        reply = sends(*request)
        may_return.wait(PATIENCE)
        return reply

    monkeypatch.setattr(WorkerClient, "_request", slow)

    async def main() -> list[bytes]:
        dev._first.forget()  # so that a thread looks for the worker, and sends
        given_up = asyncio.create_task(dev.arecv())
        await asked(tuncer.attach("lab0"))
        given_up.cancel()
        await asyncio.wait([given_up])
        send_numbers(0, 2)
        found = [(await dev.arecv(PATIENCE))[28:] for _ in range(2)]
        may_return.set()
        return found

    assert asyncio.run(main()) == [b"0", b"1"]


def test_a_sync_recv_takes_over_from_an_arecv_of_another_loop(dev: Device) -> None:
    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await dev.arecv()

    asyncio.run(give_up())
    send_one(OTHER, b"one")
    assert dev.recv(PATIENCE)[28:] == b"one"


def test_threads_and_loops_that_cancel_share_one_device(dev: Device) -> None:
    count = 1500
    taken: list[int] = []
    over = threading.Event()

    def here() -> None:
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                taken.append(int(dev.recv(0.01)[28:]))

    async def there() -> None:
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.0005):
                    taken.append(int((await dev.arecv())[28:]))

    with ThreadPoolExecutor(4) as threads:
        running = [threads.submit(here), *(threads.submit(asyncio.run, there()) for _ in range(2))]
        for number in range(count):
            send_one(OTHER, b"%d" % number)
        with contextlib.suppress(AssertionError):  # what is missing is told below
            eventually(lambda: len(taken) >= count)
        over.set()
        for one in running:
            one.result()
    assert sorted(taken) == list(range(count))


def test_a_packet_that_was_kept_is_not_a_forked_childs_too(dev: Device) -> None:
    async def give_up() -> None:
        waiting = asyncio.ensure_future(dev.arecv())
        await asked(dev)
        send_one(OTHER, b"one")
        eventually(lambda: dev.statistics()["packets_read"] != 0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(give_up())
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        told = b"error"
        with contextlib.suppress(BaseException):
            try:
                told = dev.recv(0.05)[28:]
            except TimeoutError:
                told = b"none"
        os.write(writer, told)
        os._exit(0)
    assert os.read(reader, 100) == b"none"
    assert wait_for_end(pid)
    assert dev.recv(PATIENCE)[28:] == b"one"
    os.close(reader)
    os.close(writer)


def test_a_cancelled_arecv_loses_no_packet(dev: Device) -> None:
    count = 300

    async def main() -> list[int]:
        loop, found = asyncio.get_running_loop(), []
        feeding = loop.run_in_executor(None, send_numbers, 0, count)
        while len(found) < count:
            with contextlib.suppress(TimeoutError):
                # About as long as an answer takes: it is cancelled before, at, and after it.
                async with asyncio.timeout(0.0003):
                    found.append(int((await dev.arecv())[28:]))
        await feeding
        return found

    assert asyncio.run(main()) == list(range(count))


@pytest.mark.parametrize("under_way", [False, True])
def test_a_recv_that_is_interrupted_while_it_waits_loses_no_packet(
    dev: Device, under_way: bool
) -> None:
    class Interrupted(BaseException):
        pass

    sent = 0

    def interrupt(*_: object) -> None:
        nonlocal sent
        if under_way:  # the worker reads it, unless recv is interrupted before it has asked
            send_numbers(sent, sent + 1)
            sent += 1
            with contextlib.suppress(AssertionError):
                eventually(lambda: tunctl.statistics("lab0")["tx_packets"] >= sent, within=0.1)
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for number in range(50):
            with pytest.raises(Interrupted):  # wherever this process is after that time
                signal.setitimer(signal.ITIMER_REAL, 0.005)
                dev.recv(PATIENCE)
            if not under_way:
                send_numbers(number, number + 1)
            assert int(dev.recv(PATIENCE)[28:]) == number
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_call_that_comes_when_the_device_has_ended_is_told_so() -> None:
    calls = RecvCalls("lab0")
    call = calls.new()
    call.pending.settle(DOWN, Shutdown("the device was deleted"))
    with pytest.raises(DeviceError, match="has ended: the device was deleted") as caught:
        calls.take(call)
    assert (caught.value.errno, caught.value.filename) == (errno.ENODEV, "lab0")
    killed = calls.new()
    killed.pending.settle(DOWN, "killed")
    with pytest.raises(ProcessDown):
        calls.take(killed)


def test_a_fork_waits_for_no_lock_of_a_thread_of_its_parent() -> None:
    calls = RecvCalls("lab0")
    held, end = threading.Event(), threading.Event()

    def hold() -> None:
        with calls._lock:
            held.set()
            end.wait(PATIENCE)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    pid = os.fork()
    if pid == 0:
        signal.alarm(5)
        os._exit(calls.take() is not None)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    end.set()
    thread.join()
