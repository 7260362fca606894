"""References: where they can be used, what a call raises, names."""

import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from actors import Counter, Relay
from processes import PATIENCE

from supervisor import (
    NoProcess,
    Ref,
    RemoteError,
    named,
)


def test_a_timeout_is_a_number() -> None:
    ref = Counter.start_link()
    for use in (ref.call, ref.call_async):
        with pytest.raises(TypeError, match="a timeout is a number of seconds, or None, not '5'"):
            use("get", timeout="5")  # type: ignore[arg-type]
        for wrong in (float("nan"), 10**400):
            with pytest.raises(ValueError, match="a timeout is a number of seconds, or None, not"):
                use("get", timeout=wrong)


def test_every_method_of_a_reference_can_be_used_in_an_actor() -> None:
    relay, other = Relay.start_link(), Counter.start_link(3, name="other")
    for name, *arguments in (
        ["get_state"],
        ["statistics"],
        ["suspend"],
        ["resume"],
        ["is_alive"],
        ["cast", 1],
    ):
        relay.call(["method", other, name, *arguments])
    assert other.call("get") == 4
    monitor = other.monitor()
    relay.call(["method", other, "stop"])
    assert monitor.wait(PATIENCE).reason == "normal"


def test_a_reference_can_be_pickled_and_used_elsewhere() -> None:
    ref = Counter.start_link(3, name="n")
    assert pickle.loads(pickle.dumps(ref)) == ref
    assert pickle.loads(pickle.dumps(ref)).call("get") == 3


def test_nobody_there_is_told_at_once() -> None:
    started = time.monotonic()
    with pytest.raises(NoProcess, match="nobody has the name 'ghost'"):
        Ref(name="ghost").call("get", timeout=None)
    ref = Counter.start_link()
    ref.stop()
    for attempt in (ref.call, ref.cast, ref.send):
        with pytest.raises(NoProcess):
            attempt("x", timeout=None)
    assert time.monotonic() - started < PATIENCE


def test_a_request_that_cannot_travel_fails_at_the_sender() -> None:
    ref = Counter.start_link()
    with pytest.raises(TypeError, match=r"the message\[1\] is object"):
        ref.call(["echo", object()])
    with pytest.raises(ValueError, match="over the limit"):
        ref.call(["echo", bytes(17 << 20)])
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(TypeError, match=r"nested too deeply|cannot travel"):
        ref.call(loop)
    assert ref.call("get") == 0


def test_an_actor_that_calls_itself_learns_so(capfd: pytest.CaptureFixture[str]) -> None:
    ref = Counter.start_link()
    with pytest.raises(RemoteError, match="CallCycle"):
        ref.call("self")
    capfd.readouterr()


def test_many_threads_share_a_reference() -> None:
    ref = Counter.start_link()

    def work(k: int) -> list[Any]:
        return [ref.call(["echo", [k, i]], timeout=PATIENCE) for i in range(100)]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8)))
    assert results == [[[k, i] for i in range(100)] for k in range(8)]


@pytest.mark.parametrize("timeout", [-1, float("nan"), True, "1"])
def test_bounds_that_are_none_are_refused(timeout: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        named("x").within(timeout)
    assert named("x").within(None).within(0)
