"""Active, passive, once, N: who gets which packet, and the notice at the end of a count."""

import errno
from typing import Any

import pytest
from devices import ADDRESS, OTHER, TUN, kill_worker
from hypothesis import given
from hypothesis import strategies as st
from processes import PATIENCE
from traffic import numbers, send_numbers, send_one

import tuncer
from tuncer import Device, DeviceEvent
from tuncer.protocol.control_block import ControlBlock
from tuncer.worker import active_mode

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
            assert error.errno == errno.EINVAL  # noqa: PT017 - it may succeed as well
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


@pytest.mark.parametrize("mode", ["once", 1])
def test_after_a_count_a_new_subscription_makes_it_active(dev: Device, mode: Any) -> None:
    with dev.subscribe() as first:
        dev.setopt(active=mode)
        for text in (b"1", b"2"):
            send_one(OTHER, text)
        assert first.recv(PATIENCE).data[28:] == b"1"
    with dev.subscribe() as second:
        assert second.recv(PATIENCE).data[28:] == b"2"
