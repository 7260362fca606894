"""Devices under adverse conditions: stopped workers, slow readers, swapped devices, odd names."""

import asyncio
import contextlib
import errno
import fcntl
import os
import pickle
import resource
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from devices import LOOP, OTHER, TUN, make
from processes import PATIENCE, Run, eventually, kill, program, stop, wait_for_end
from traffic import FLOWS, send_flows, send_one

import tuncer
from supervisor import CallTimeout, ProcessDown, SupervisorRef
from tuncer import Device, DeviceError, DeviceEvent, Flag, Packet, tunctl


def drained(dev: Device, queue: int) -> int:
    count = 0
    with contextlib.suppress(TimeoutError):
        while True:
            dev.recv(0.1, queue=queue)
            count += 1
    return count


# -- which device it is ----------------------------------------------------------------------------


def test_devices_that_were_moved_are_found_where_they_are(run: Run) -> None:
    holders = [program("unshare", "--net", "sh", "-c", "echo ready; cat") for _ in range(2)]
    with holders[0] as left, holders[1] as right:
        left.expect("ready")
        right.expect("ready")
        one, two = left.process.pid, right.process.pid
        for name, there in (("lab0", one), ("other0", two)):  # made there, they have one number
            inside = ("nsenter", "--net", "--target", str(there))
            run(*inside, "ip", "tuntap", "add", name, "mode", "tun")
        with (
            tuncer.create("lab0", TUN, namespace=one) as a,
            tuncer.create("other0", TUN, namespace=two) as b,
        ):
            assert a.ifindex() == b.ifindex()
            a.move(two)
            b.move(one)
            assert tuncer.attach("other0", one) == b
            assert tuncer.attach("lab0", two) == a
            with pytest.raises(DeviceError, match="no such device"):
                tuncer.attach("lab0", one)


def test_an_interface_of_somebody_else_is_not_attached_to(run: Run) -> None:
    run("ip", "tuntap", "add", "theirs", "mode", "tun")
    with pytest.raises(DeviceError, match="no worker of this user serves") as caught:
        tuncer.attach("theirs")
    assert caught.value.errno == errno.ENODEV


def test_a_name_that_is_no_text(dev: Device) -> None:
    with dev.subscribe(events=True) as subscription:
        subprocess.run([b"ip", b"link", b"set", b"lab0", b"name", b"\xff\xfe"], check=True)
        assert subscription.recv(PATIENCE) == DeviceEvent("name", "lab0", "\\xff\\xfe")
        assert dev.devname() == "\\xff\\xfe"
        kill(dev.pid)
        assert dev.mtu(1400) == 1400
        dev.rename("lab0")
        assert dev.statistics()["restarts"] == 1


def test_a_descriptor_that_blocks_is_adopted() -> None:
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"lab0", TUN))
    with tuncer.adopt(fd) as dev:
        dev.up("10.9.0.1/24", link_local=False)
        with dev.subscribe() as subscription:
            send_one(OTHER, b"one")
            assert subscription.recv(PATIENCE).data[28:] == b"one"
        assert dev.statistics()["packets_read"] == 1
    os.close(fd)


# -- queues ----------------------------------------------------------------------------------------


def test_a_queue_whose_state_was_changed_behind_its_worker(two_queues: Device) -> None:
    held = two_queues.getfd(queue=1)
    with two_queues.subscribe():
        tunctl.detach_queue(held)  # as its worker does, and is killed before it takes note
        kill(two_queues.pids[1])
    assert len(two_queues.pids) == 2
    tunctl.attach_queue(held)
    with two_queues.subscribe() as subscription:
        send_flows()
        found = [subscription.recv(PATIENCE) for _ in range(FLOWS)]
        assert {p.queue for p in found if isinstance(p, Packet)} == {0, 1}
    os.close(held)
    assert two_queues.statistics()["restarts"] == 1


def test_what_a_queue_holds_outlives_its_worker(two_queues: Device) -> None:
    with pytest.raises(TimeoutError):
        two_queues.recv(0.01, queue=1)
    send_flows()
    kill(two_queues.pids[1])
    assert drained(two_queues, 0) + drained(two_queues, 1) == FLOWS


def test_messages_of_a_queue_outlive_its_stopped_worker(two_queues: Device) -> None:
    with two_queues.subscribe(transport="zmq") as subscription:
        send_flows()
        found = [subscription.recv(PATIENCE) for _ in range(FLOWS)]
        pid = two_queues.pids[1]
        stop(pid)
        send_flows(FLOWS)
        kill(pid)
        found += [subscription.recv(PATIENCE) for _ in range(FLOWS)]
        assert len(found) == 2 * FLOWS
        assert subscription.stats() == {"delivered": 2 * FLOWS, "lost": 0}


def test_a_filter_sees_behind_the_headers_of_every_queue() -> None:
    with make(flags=TUN | Flag.VNET_HDR, queues=2) as dev, dev.subscribe() as subscription:
        assert dev.vnet_hdr_size(12) == 12
        assert dev.filter(LOOP) == "worker"
        send_flows(port=53)
        for _ in range(FLOWS):
            subscription.recv(PATIENCE)
        assert dev.statistics()["packets_filtered"] == 0


def test_a_merged_subscription_does_not_sleep_on_what_it_has(two_queues: Device) -> None:
    with two_queues.subscribe(events=True) as subscription:
        two_queues.mtu(1300)
        assert subscription.recv(PATIENCE) == DeviceEvent("mtu", "lab0", 1300)
        while two_queues.statistics()["packets_read"] < FLOWS:
            send_flows()
        for _ in range(FLOWS):
            assert isinstance(subscription.recv(0), Packet)


def test_statistics_of_several_queues(two_queues: Device) -> None:
    with two_queues.subscribe(queue=1):
        counts = two_queues.statistics()
        assert counts["subscribers"] == 1
        assert [q["subscribers"] for q in counts["queues"]] == [0, 1]
        assert "attached" not in counts
        assert counts["kernel"] == tunctl.statistics("lab0")


# -- subscriptions ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_events_that_were_missed_are_counted_and_the_end_is_known(dev: Device) -> None:
    count = 1500
    subscription = dev.subscribe(events=True)
    begun = subscription._counted_events()
    for number in range(count):
        dev.mtu(1300 + number % 100)
    told = [subscription.recv(PATIENCE) for _ in range(10)]
    assert all(isinstance(e, DeviceEvent) and e.kind == "mtu" for e in told)
    found = len(told)
    while found < count:
        item = subscription.recv(PATIENCE)
        assert isinstance(item, DeviceEvent)
        found += item.value if item.kind == "missed" else 1  # type: ignore[operator]
    assert found == count
    for number in range(count):
        dev.mtu(1300 + number % 100)
    while subscription._counted_events() < begun + 2 * count:
        pass  # otherwise they happen while no worker runs, and only what differs in the end is told
    kill(dev.pid)  # whoever knows what was missed goes
    dev.destroy()
    found = 0
    with pytest.raises(EOFError):  # in order, though there was no room to tell it
        while True:
            item = subscription.recv(PATIENCE)
            assert isinstance(item, DeviceEvent)
            found += item.value if item.kind == "missed" else 1  # type: ignore[operator]
    assert found in {count, count + 1}  # one may be told twice, of a worker that is killed
    subscription.close()


def test_events_that_a_merged_subscription_missed(two_queues: Device) -> None:
    count = 1500
    with two_queues.subscribe(events=True) as subscription:
        for number in range(count):
            two_queues.mtu(1300 + number % 100)
        found = 0
        while found < count:
            item = subscription.recv(PATIENCE)
            assert isinstance(item, DeviceEvent)
            found += item.value if item.kind == "missed" else 1  # type: ignore[operator]
        assert found == count


def test_two_tasks_that_wait_for_one_subscription_are_told(dev: Device) -> None:
    async def main() -> None:
        with dev.subscribe() as subscription:
            first = asyncio.ensure_future(subscription.arecv(PATIENCE))
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # it waits now
            with pytest.raises(RuntimeError, match="another task waits"):
                await subscription.arecv(PATIENCE)
            send_one(OTHER, b"one")
            item = await first
            assert isinstance(item, Packet)
            assert item.data[28:] == b"one"

    asyncio.run(main())


@pytest.mark.parametrize("mode", ["once", 1])
def test_after_a_count_a_new_subscription_makes_it_active(dev: Device, mode: Any) -> None:
    with dev.subscribe() as first:
        dev.setopt(active=mode)
        for text in (b"1", b"2"):
            send_one(OTHER, text)
        assert first.recv(PATIENCE).data[28:] == b"1"
    with dev.subscribe() as second:
        assert second.recv(PATIENCE).data[28:] == b"2"


async def asked(dev: Device) -> None:
    """Wait until a recv waits in the worker."""
    await asyncio.to_thread(eventually, lambda: dev.statistics()["receivers"])


# -- recv ------------------------------------------------------------------------------------------


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
        while dev.statistics()["packets_read"] == 0:
            pass  # its reply is in the socket, and the loop has not looked
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


def test_a_sync_recv_takes_over_from_an_arecv_of_another_loop(dev: Device) -> None:
    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await dev.arecv()

    asyncio.run(give_up())
    send_one(OTHER, b"one")
    assert dev.recv(PATIENCE)[28:] == b"one"


def test_calls_from_asyncio_go_on_over_a_kill(dev: Device) -> None:
    async def main() -> None:
        for _ in range(20):
            os.kill(dev.pid, signal.SIGKILL)
            send_one(OTHER, b"x")
            with contextlib.suppress(ProcessDown):  # it was killed in the middle of the call
                assert (await dev.arecv(PATIENCE))[28:] == b"x"

    asyncio.run(main())


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


# -- stopped, limited ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("queues", "stopped", "known"), [(1, [0], False), (2, [0], True), (2, [1], False)]
)
def test_a_worker_that_does_not_answer_is_destroyed(
    run: Run, monkeypatch: pytest.MonkeyPatch, queues: int, stopped: list[int], known: bool
) -> None:
    with make("first") as first:
        root = first._call("belongs")[0]
        before = len(SupervisorRef(root._process).which_children())
        dev = make(queues=queues)
        above = dev._call("belongs")[1].pid
        pids = dev.pids
        for number in stopped:
            stop(pids[number])
        for module in ("device", "worker_client"):
            monkeypatch.setattr(f"tuncer.client.{module}.PATIENCE", 0.2)
        # One that this program has called before, and one that it has not.
        (dev if known else pickle.loads(pickle.dumps(dev))).destroy()
        assert all(wait_for_end(pid) for pid in (*pids, above))
        assert "lab0" not in run("ip", "-br", "link")
        assert tuncer.devices() == [first]
        assert len(SupervisorRef(root._process).which_children()) == before
        dev.destroy()


def test_a_worker_that_does_not_answer_is_not_taken_for_none(
    dev: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = dev.pid
    stop(pid)
    with monkeypatch.context() as impatient:
        for module in ("device", "worker_client"):
            impatient.setattr(f"tuncer.client.{module}.PATIENCE", 0.2)
        with pytest.raises(DeviceError, match="does not answer") as caught:
            tuncer.attach("lab0")
    assert caught.value.errno == errno.ETIMEDOUT
    os.kill(pid, signal.SIGCONT)
    assert tuncer.attach("lab0") == dev


def test_a_filter_that_cannot_be_set_leaves_the_one_before(dev: Device) -> None:
    assert dev.filter("udp port 53") == "kernel"
    dev.statistics()  # connected
    program = tunctl.compile_filter("udp port 9", Flag.TUN)
    before = resource.prlimit(dev.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(dev.pid, resource.RLIMIT_NOFILE, (3, before[1]))
    with pytest.raises(OSError, match="open files") as caught:
        dev._call("filter", program.expression, program.instructions, None)
    assert caught.value.errno == errno.EMFILE
    resource.prlimit(dev.pid, resource.RLIMIT_NOFILE, before)
    assert dev.statistics()["filter"] == "udp port 53"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for port in (9, 53):
            sender.sendto(b"%d" % port, (OTHER, port))
    assert dev.recv(PATIENCE)[28:] == b"53"


def test_many_packets_are_sent_in_several_messages(dev: Device) -> None:
    packet = bytes.fromhex("4500057800000000400100000a0900020a090001") + bytes(1380)
    assert dev.send(*[packet] * 5000) == 5000
    assert dev.statistics()["kernel"]["rx_packets"] == 5000


@pytest.mark.parametrize(
    ("use", "error", "text"),
    [
        (lambda d: d.recv("soon"), TypeError, "number of seconds"),
        (lambda d: d.recv(float("nan")), ValueError, "number of seconds"),
        (lambda d: d.send("text"), TypeError, "bytes, not str"),
        (lambda d: d.send(b"short"), OSError, "no packet for this kind"),
        (lambda d: d.controlling_process("x"), TypeError, "a pid"),
        (lambda d: d.persist("no"), TypeError, "True or False"),
        (lambda d: d.link_local("no"), TypeError, "True or False"),
        (lambda d: d.vnet_hdr_size(1 << 20), ValueError, "at most 1024"),
        (lambda d: d.offload(1), OSError, "VNET_HDR"),
        (lambda d: d.owner("no-such-user"), KeyError, "there is no user"),
        (lambda d: tuncer.read(d.getfd(), 0), ValueError, "1 byte"),
        (lambda _: tuncer.create("all"), OSError, "can be called"),
        (lambda _: tuncer.create("x0", TUN, slots="x"), TypeError, "slots"),
        (lambda _: tuncer.create("x0", TUN, slots=2**40), ValueError, "power of two"),
        (lambda _: tuncer.create("x0", TUN, persist="x"), TypeError, "True or False"),
        (lambda _: tuncer.adopt(-1), OSError, "not open"),
        (lambda _: tuncer.header("abcdef"), TypeError, "bytes"),
    ],
)
def test_an_error_says_what_is_wrong(
    dev: Device, use: Callable[[Device], Any], error: type[Exception], text: str
) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(error, match=text):
        use(dev)
    for number in set(os.listdir("/proc/self/fd")) - before:  # of getfd
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{number}") == "/dev/net/tun":
                os.close(int(number))
    assert dev.devname() == "lab0"


def test_a_descriptor_is_read_with_a_timeout(dev: Device) -> None:
    fd = dev.getfd()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        tuncer.read(fd, timeout=0.05)
    assert time.monotonic() - began >= 0.05
    send_one(OTHER, b"one")
    assert tuncer.read(fd, timeout=PATIENCE)[28:] == b"one"
    os.close(fd)
