"""Active, passive, once, N: who gets which packet, with its notices; and calls from asyncio."""

import asyncio
import contextlib
import errno
import os
import pickle
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from devices import ADDRESS, TUN, kill_worker
from hypothesis import given
from hypothesis import strategies as st
from processes import PATIENCE, Run, eventually, program, stop
from traffic import number_in, numbers, send_numbers

import tuncer
from tuncer import Device, DeviceError, DeviceEvent, Flag, Packet, tunctl
from tuncer.protocol.control_block import ControlBlock
from tuncer.tunctl.linux import monitor
from tuncer.worker import active_mode, crash_safe_value

PASSIVE = DeviceEvent("passive", "lab0")


@pytest.mark.parametrize("transport", ["ring", "zmq"])
@pytest.mark.parametrize("batch", [False, True])
def test_a_number_of_packets_and_then_the_notice(dev: Device, transport: str, batch: bool) -> None:
    with dev.subscribe(events=True, transport=transport, batch=batch) as subscription:
        dev.setopt(active=False)
        send_numbers(0, 10)
        dev.setopt(active=3)
        assert numbers(subscription, 4) == [0, 1, 2, PASSIVE]
        assert not dev.statistics()["active"]
        dev.setopt(active=4)
        assert numbers(subscription, 5) == [3, 4, 5, 6, PASSIVE]
        dev.setopt(active=True)
        assert numbers(subscription, 3) == [7, 8, 9]
        assert subscription.stats() == {"delivered": 10, "lost": 0}


def test_once_gives_one_packet_and_no_notice(dev: Device) -> None:
    with dev.subscribe(events=True) as subscription:
        dev.setopt(active="once")
        send_numbers(0, 3)
        assert numbers(subscription, 1) == [0]
        with pytest.raises(TimeoutError):
            subscription.recv(0.05)
        assert int(dev.recv(PATIENCE)[28:]) == 1
        # A subscription sees whatever is read.
        assert numbers(subscription, 1) == [1]
        dev.setopt(active="once")
        assert numbers(subscription, 1) == [2]


def test_counted_packets_wait_for_a_subscription() -> None:
    with tuncer.create("lab0", TUN, active=2) as dev:
        dev.up(f"{ADDRESS}/24", link_local=False)
        send_numbers(0, 3)
        with pytest.raises(OSError, match="active mode") as caught:
            dev.recv(0)
        assert caught.value.errno == errno.EINVAL
        with dev.subscribe(events=True) as subscription:
            assert numbers(subscription, 3) == [0, 1, PASSIVE]
        assert int(dev.recv(PATIENCE)[28:]) == 2


def test_numbers_add_up_as_in_otp(dev: Device) -> None:
    with dev.subscribe(events=True) as subscription:
        dev.setopt(active=32767)
        with pytest.raises(OSError, match="32768 packets") as caught:
            dev.setopt(active=1)
        assert caught.value.errno == errno.EINVAL
        dev.setopt(active=-32766)
        send_numbers(0, 1)
        assert numbers(subscription, 2) == [0, PASSIVE]
        dev.setopt(active=5)
        dev.setopt(active=-32768)
        dev.setopt(active=0)
        assert numbers(subscription, 2) == [PASSIVE, PASSIVE]
        send_numbers(1, 2)
        assert int(dev.recv(PATIENCE)[28:]) == 1


def test_passive_is_kept_until_somebody_subscribes_anew(dev: Device) -> None:
    with dev.subscribe() as first:
        dev.setopt(active=False)
        send_numbers(0, 2)
        assert int(dev.recv(PATIENCE)[28:]) == 0
        with dev.subscribe() as second:
            assert numbers(second, 1) == [1]
        assert numbers(first, 2) == [0, 1]


def test_a_recv_that_waits_is_refused_when_the_device_becomes_active(dev: Device) -> None:
    for activate in (lambda: dev.setopt(active=True), lambda: dev.setopt(active=1), dev.subscribe):
        dev.setopt(active=False)
        eventually(lambda: not (dev.statistics()["active"]))
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(dev.recv, PATIENCE)
            eventually(lambda: dev.statistics()["receivers"])
            held = activate()
            with pytest.raises(OSError, match="active mode"):
                waiting.result(PATIENCE)
        if held is not None:
            held.close()


def test_no_packet_is_lost_between_modes(dev: Device) -> None:
    count, taken = 3000, []
    feeder = threading.Thread(target=send_numbers, args=(0, count))
    with dev.subscribe(events=True) as subscription:
        feeder.start()
        modes: list[Any] = [True, False, "once", 7, False, 3, True]
        turn = 0
        while len(taken) < count:
            dev.setopt(active=modes[turn % len(modes)])
            turn += 1
            try:
                while len(taken) < count:
                    item = subscription.recv(0.002)
                    taken += [] if isinstance(item, DeviceEvent) else [number_in(item)]
                    if isinstance(item, Packet) and len(taken) % 10 == 0:
                        break
            except TimeoutError:
                continue
        feeder.join()
        assert taken == list(range(count))
        assert subscription.stats() == {"delivered": count, "lost": 0}


def test_a_count_goes_on_over_a_restart(dev: Device) -> None:
    with dev.subscribe(events=True) as subscription:
        dev.setopt(active=4)
        send_numbers(0, 2)
        assert numbers(subscription, 2) == [0, 1]
        kill_worker(dev)
        send_numbers(2, 6)
        assert numbers(subscription, 3) == [2, 3, PASSIVE]
        kill_worker(dev)
        assert not dev.statistics()["active"]
        assert int(dev.recv(PATIENCE)[28:]) == 4
        assert numbers(subscription, 1) == [4]
        with pytest.raises(TimeoutError):
            subscription.recv(0.05)  # the notice is not told again


# -- events ----------------------------------------------------------------------------------------


def events_until(subscription: Any, last: DeviceEvent) -> list[DeviceEvent]:
    found: list[DeviceEvent] = []
    while not found or found[-1] != last:
        item = subscription.recv(PATIENCE)
        found += [item] if isinstance(item, DeviceEvent) else []
    return found


def event(kind: str, value: Any = None) -> DeviceEvent:
    return DeviceEvent(kind, "lab0", value)


@pytest.mark.parametrize("transport", ["ring", "zmq"])
def test_what_happens_to_a_link_is_told(dev: Device, run: Run, transport: str) -> None:
    with dev.subscribe(events=True, transport=transport) as subscription:
        run("ip", "link", "set", "lab0", "mtu", "1400")
        run("ip", "addr", "add", "10.9.1.1/24", "dev", "lab0")
        run("ip", "addr", "add", "fd00::1/64", "dev", "lab0", "nodad")
        # The kernel tells it from a queue of work of its own, in no order with what comes next.
        before = events_until(subscription, event("address_added", "fd00::1/64"))
        run("ip", "addr", "del", "10.9.1.1/24", "dev", "lab0")
        dev.carrier(False)
        dev.carrier(True)
        dev.rename("lab9")
        dev.down()
        dev.up()
        run("ip", "link", "del", "lab9")
        found = before + events_until(subscription, event("deleted"))
        at_once = found[7:9]  # in whatever order the kernel tells them
        assert {e.kind for e in at_once} == {"down", "address_removed"}
        # After that the kernel takes the link down, of which nobody may hear before its end.
        assert [*found[:7], found[9], found[-1]] == [
            event("mtu", 1400),
            event("address_added", "10.9.1.1/24"),
            event("address_added", "fd00::1/64"),
            event("address_removed", "10.9.1.1/24"),
            event("carrier", False),
            event("carrier", True),
            event("name", "lab9"),
            event("up"),
            event("deleted"),
        ]
        with pytest.raises(DeviceError, match="was deleted"):
            subscription.recv(PATIENCE)


def test_what_happened_while_no_worker_ran_is_told(dev: Device, run: Run) -> None:
    with dev.subscribe(events=True) as subscription:
        stop(dev.pid)
        run("ip", "link", "set", "lab0", "mtu", "1300")
        run("ip", "addr", "add", "10.9.1.1/24", "dev", "lab0")
        kill_worker(dev)
        assert events_until(subscription, event("address_added", "10.9.1.1/24")) == [
            event("mtu", 1300),
            event("address_added", "10.9.1.1/24"),
        ]


def test_a_storm_of_changes_ends_in_the_right_state(dev: Device, run: Run) -> None:
    with dev.subscribe(events=True) as subscription:
        pid = dev.pid
        stop(pid)  # so that its socket overflows
        lines = [f"link set lab0 mtu {1000 + n % 500}\n" for n in range(3000)]
        lines.append("addr add 10.9.7.7/24 dev lab0\n")
        with program("ip", "-batch", "-") as batch:
            assert batch.process.stdin is not None
            batch.process.stdin.write("".join(lines))
            batch.process.stdin.close()
            assert batch.process.wait(PATIENCE) == 0
        os.kill(pid, signal.SIGCONT)
        told = events_until(subscription, event("address_added", "10.9.7.7/24"))
        assert [e.value for e in told if e.kind == "mtu"][-1] == dev.mtu()
        assert dev.pid == pid


@pytest.mark.parametrize("batch", [False, True])
def test_an_event_stands_between_the_packets_before_and_after(dev: Device, batch: bool) -> None:
    with dev.subscribe(events=True, batch=batch) as subscription:
        send_numbers(0, 200)  # more than a subscription takes at a time
        eventually(lambda: dev.statistics()["packets_read"] >= 200)
        dev.mtu(1400)
        while event("mtu", 1400) not in [told for _, told in subscription._pending_events]:
            subscription._read_control()
        send_numbers(200, 205)
        eventually(lambda: dev.statistics()["packets_read"] >= 205)
        found = numbers(subscription, 206)
        assert found == [*range(200), event("mtu", 1400), *range(200, 205)]


def test_moving_a_device_is_told_and_its_link_is_followed_there(dev: Device) -> None:
    with (
        program("unshare", "--net", "sh", "-c", "echo ready; cat") as holder,
        dev.subscribe(events=True) as subscription,
    ):
        holder.expect("ready")
        dev.move(holder.process.pid)
        found = events_until(subscription, event("moved"))
        assert found[-1] == event("moved")
        dev.up("10.77.0.1/24", link_local=False)
        found += events_until(subscription, event("address_added", "10.77.0.1/24"))
        found += events_until(subscription, event("up")) if event("up") not in found else []
        assert event("down") in found
        assert event("address_removed", f"{ADDRESS}/24") in found


def test_a_port_that_leaves_its_bridge_has_not_gone(run: Run) -> None:
    run("ip", "link", "add", "br0", "type", "bridge")
    with tuncer.create("e0", Flag.TAP | Flag.NO_PI) as dev, dev.subscribe(events=True) as told:
        dev.master("br0")
        dev.master("")  # the bridge says RTM_DELLINK of its port
        dev.mtu(1400)
        kinds = [told.recv(PATIENCE)]
        while kinds[-1] != DeviceEvent("mtu", "e0", 1400):
            kinds.append(told.recv(PATIENCE))
        assert {e.kind for e in kinds if isinstance(e, DeviceEvent)} <= {"mtu", "carrier"}


# -- asyncio ---------------------------------------------------------------------------------------


def test_asyncio_has_the_same_calls() -> None:
    async def main() -> None:
        async with tuncer.create("lab0", TUN) as dev:
            dev.up(f"{ADDRESS}/24", link_local=False)
            with pytest.raises(TimeoutError):
                await dev.arecv(0.01)
            with pytest.raises(ValueError, match="1 to"):
                await dev.asend(b"")
            waiting = asyncio.ensure_future(dev.arecv(PATIENCE))
            await asyncio.sleep(0)
            send_numbers(0, 1)
            packet = await waiting
            assert int(packet[28:]) == 0
            assert await dev.asend(packet) == 1
            async with dev.subscribe() as subscription:
                with pytest.raises(OSError, match="active mode"):
                    await dev.arecv()
                with pytest.raises(TimeoutError):
                    await subscription.arecv(0.01)
                with pytest.raises(ValueError, match="number of seconds"):
                    await subscription.arecv(-1)
                send_numbers(5, 6)
                eventually(lambda: dev.statistics()["packets_read"] >= 2)
                assert number_in(await subscription.arecv(0)) == 5
                send_numbers(1, 3)
                assert number_in(await subscription.arecv(PATIENCE)) == 1
                async for item in subscription:
                    assert number_in(item) == 2
                    break
        with pytest.raises(DeviceError):
            await dev.arecv()

    asyncio.run(main())
    assert tuncer.devices() == []


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
        if under_way:  # the worker has it in its hand
            send_numbers(sent, sent + 1)
            sent += 1
            eventually(lambda: tunctl.statistics("lab0")["tx_packets"] >= sent)
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for number_in in range(50):
            signal.setitimer(signal.ITIMER_REAL, 0.005)
            with pytest.raises(Interrupted):
                dev.recv(PATIENCE)
            if not under_way:
                send_numbers(number_in, number_in + 1)
            assert int(dev.recv(PATIENCE)[28:]) == number_in
    finally:
        signal.signal(signal.SIGALRM, before)


# -- pure ------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.one_of(
            st.booleans(),
            st.just("once"),
            st.integers(-active_mode.MOST - 1, active_mode.MOST),
            st.tuples(st.integers(0, 5000)),  # as many packets arrive
        )
    )
)
def test_a_mode_never_reads_more_than_was_asked_for(steps: list[Any]) -> None:
    control = ControlBlock(memoryview(bytearray(64 * 8)).cast("Q"))
    state = active_mode.Mode(control)
    left: int | None = None  # packets of a count
    for step in steps:
        if isinstance(step, tuple):
            read = 0
            while read < step[0] and (room := state.room(has_subscribers=True)):
                control.head += room
                read += room
            if left is not None:
                assert read <= left
                left -= read
                assert state.left == left
            continue
        try:
            state.set(active_mode.check(step), has_subscribers=True)
        except OSError as error:
            assert error.errno == errno.EINVAL  # noqa: PT017
            continue
        if isinstance(step, bool):
            left = None
        else:
            left = 1 if step == "once" else max(0, (left or 0) + step)
            assert state.left == left
            assert state.is_active(has_subscribers=False) == (left > 0)
            assert state.is_over == (left == 0)


@pytest.mark.parametrize("wrong", [None, 1.5, "twice", b"once", [1], 32768, -32769])
def test_what_is_no_mode(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="active is"):
        active_mode.check(wrong)


@given(
    st.builds(
        monitor.LinkState,
        st.sampled_from(["a", "b"]),
        st.booleans(),
        st.booleans(),
        st.integers(68, 70),
        st.frozensets(st.sampled_from(["10.0.0.1/8", "fd00::1/64", "10.0.0.2/8"])),
    ),
    st.builds(
        monitor.LinkState,
        st.sampled_from(["a", "b"]),
        st.booleans(),
        st.booleans(),
        st.integers(68, 70),
        st.frozensets(st.sampled_from(["10.0.0.1/8", "fd00::1/64", "10.0.0.2/8"])),
    ),
)
def test_the_changes_lead_from_one_state_to_the_other(
    before: monitor.LinkState, after: monitor.LinkState
) -> None:
    state = before
    for kind, value in monitor.difference(before, after):
        match kind:
            case "up" | "down":
                state = state._replace(up=kind == "up")
            case "address_added":
                state = state._replace(addresses=state.addresses | {str(value)})
            case "address_removed":
                state = state._replace(addresses=state.addresses - {str(value)})
            case _:
                state = state._replace(**{kind: value})
    assert state == after


@given(st.binary(max_size=200), st.integers(0, 5))
def test_any_bytes_are_read_as_messages_without_an_end(data: bytes, index: int) -> None:
    with contextlib.suppress(ValueError):
        monitor.messages(data, index)


def test_a_record_keeps_its_value() -> None:
    fd = crash_safe_value.create()
    assert crash_safe_value.load(fd) is None
    for value in ([1, "a"], {"b": None}, "x" * 1000):
        crash_safe_value.save(fd, value)
        assert crash_safe_value.load(fd) == value
    with pytest.raises(ValueError, match="at most"):
        crash_safe_value.save(fd, bytes(crash_safe_value.HALF))
    assert crash_safe_value.load(fd) == "x" * 1000
    os.close(fd)


def test_a_device_that_was_pickled_receives_too(dev: Device) -> None:
    send_numbers(0, 1)
    assert int(pickle.loads(pickle.dumps(dev)).recv(PATIENCE)[28:]) == 0
