"""GenServer and Ref, on real processes."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from actors import Counter, Later, Refuses, Relay, Witness
from processes import PATIENCE, eventually

from supervisor import (
    GenServer,
    RemoteError,
    Shutdown,
    StartFailed,
    whereis,
)


def test_calls_and_casts_keep_their_order() -> None:
    ref = Counter.start_link(10, name="counter")
    ref.cast(5)
    ref.cast(-3)
    assert ref.call("get") == 12
    assert ref.pid != os.getpid()
    assert ref.is_alive()
    assert whereis("counter") == ref
    ref.stop()
    assert not ref.is_alive()
    assert whereis("counter") is None


def test_terms_arrive_as_what_they_were() -> None:
    ref = Counter.start_link()
    expected = (1, {2}, frozenset({3}), 1 << 100, b"x", {"k": [None, True, 1.5]}, ref)
    assert ref.call("term") == expected
    assert ref.call(["echo", expected]) == expected


def test_an_exception_reaches_the_caller_with_its_traceback(
    capfd: pytest.CaptureFixture[str],
) -> None:
    ref = Counter.start_link()
    monitor = ref.monitor()
    with pytest.raises(RemoteError, match="ValueError: on request") as caught:
        ref.call("raise")
    assert "raise error" in str(caught.value)
    assert "a note of its own" in str(caught.value)
    reason = monitor.wait(PATIENCE).reason
    assert isinstance(reason, RemoteError)
    assert reason.kind == "ValueError"
    assert "on request" in capfd.readouterr().err


def test_a_reply_that_cannot_travel_is_an_error_of_the_actor(
    capfd: pytest.CaptureFixture[str],
) -> None:
    ref = Counter.start_link()
    monitor = ref.monitor()
    with pytest.raises(RemoteError, match="object, which cannot travel"):
        ref.call("unpackable")
    monitor.wait(PATIENCE)
    assert "cannot travel" in capfd.readouterr().err


def test_a_reply_may_come_later() -> None:
    ref = Later.start_link()
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(ref.call, "wait", PATIENCE) for _ in range(3)]
        eventually(lambda: ref.call(["reply", "now"]) >= 3)
        assert [a.result(PATIENCE) for a in answers] == ["now"] * 3


def test_continue_timers_and_plain_messages() -> None:
    ref = Later.start_link()
    assert ref.call("continue") == "replied"
    ref.call(["cancelled", "never"])
    assert ref.call("wait", timeout=PATIENCE) == "after the cancelled one"
    ref.send("hello")
    assert ref.call("log") == [
        ["continue", "from init"],
        ["continue", "from a call"],
        "after the cancelled one",
        "hello",
    ]


def test_a_reason_that_cannot_travel_is_an_error() -> None:
    ref = Later.start_link()
    monitor = ref.monitor()
    ref.send("end strangely")
    reason = monitor.wait(PATIENCE).reason
    assert isinstance(reason, RemoteError)
    assert "cannot travel" in reason.message


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("raise", "no start today"),
        ("stop", "for a reason"),
        ("exit", "ended before it served"),
        ("kill", "ended before it served"),
    ],
)
def test_a_start_that_fails_says_why(how: str, text: str) -> None:
    with pytest.raises(StartFailed, match=text):
        Refuses.start_link(how)


def test_a_start_may_be_ignored() -> None:
    assert Refuses.start_link("ignore") is None


def test_wrong_arguments_fail_the_start() -> None:
    with pytest.raises(StartFailed, match="unexpected keyword"):
        Counter.start_link(nonsense=1)


def test_terminate_is_called_at_an_orderly_end(runtime_dir: Path) -> None:
    log = runtime_dir / "log"
    ref = Witness.start_link(str(log), "w")
    ref.stop("shutdown")
    assert log.read_text().splitlines() == ["start w", "end w shutdown"]


class Leaves(GenServer):
    """Logs, and ends by itself a little later."""

    def handle_cast(self, request: Any) -> None:
        self.log.warning("%s leaves", request)
        cancelled = self.call_later(0.01, lambda: self.exit("too early"))
        self.cancel_timer(cancelled)
        self.call_later(0.02, lambda: self.exit(Shutdown("done")))


def test_an_actor_logs_calls_back_and_ends_by_itself(capfd: Any) -> None:
    ref = Leaves.start_link()
    monitor = ref.monitor()
    ref.cast("somebody")
    assert monitor.wait(PATIENCE).reason == Shutdown("done")
    assert "somebody leaves" in capfd.readouterr().err


def test_a_reply_from_another_process() -> None:
    boss, worker = Relay.start_link(), Relay.start_link()
    futures = [boss.call_async(["delegate", worker, n]) for n in range(100)]
    assert [future.result(PATIENCE) for future in futures] == [n * n for n in range(100)]
    assert boss.statistics()["replies"] < 100  # they were not its own


def test_callbacks_outside_a_process_are_told() -> None:
    class Ticker(GenServer):
        pass

    with pytest.raises(RuntimeError, match="runs in no process: start one by"):
        Ticker().send_after(1.0, "tick")
