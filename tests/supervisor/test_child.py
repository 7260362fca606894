"""A child's watchdog, start timeout, backoff and grace."""

import atexit
import os
import signal
import threading
import time
from typing import Any

import pytest
from actors import Counter, Refuses
from hypothesis import given
from hypothesis import strategies as st
from processes import PATIENCE, eventually, stop
from trees import kill_actor, start, states, wait_for

from supervisor import (
    AlreadyPresent,
    Backoff,
    ChildSpec,
    GenServer,
    ProcessDown,
    Ref,
    Restarting,
    Sender,
    StartFailed,
    Supervisor,
    SupervisorRef,
    lowlevel,
)


class HangsAfterFailing(GenServer):
    def init(self) -> None:
        atexit.register(time.sleep, 1000)
        raise ValueError("no")


def test_a_start_that_fails_and_then_hangs_is_ended() -> None:
    sup = Supervisor.start_link([])
    with pytest.raises(StartFailed, match="no"):
        sup.start_child(ChildSpec("h", HangsAfterFailing))
    sup.stop()


def test_child_waits_for_a_backoff() -> None:
    spec = ChildSpec("c", Counter, backoff=Backoff(initial=0.5, jitter=0.0))
    sup = Supervisor.start_link([spec], intensity=100)
    ref = sup.child("c")
    down, former = ref.monitor(), ref.pid
    os.kill(former, signal.SIGKILL)
    down.wait(PATIENCE)
    found: list[Ref] = []
    threads = [threading.Thread(target=lambda: found.append(sup.child("c"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {one.pid for one in found} == {sup.child("c").pid} != {former}


def test_a_backoff_of_a_former_life_does_not_count(capfd: Any) -> None:
    spec = ChildSpec("c", Counter, backoff=Backoff(0.4, 0.4, jitter=0))
    sup: SupervisorRef = Supervisor.start_link([spec], intensity=9)
    os.kill(sup.child("c").pid, signal.SIGKILL)
    eventually(lambda: states(sup)["c"], "restarting")
    time.sleep(0.2)  # half of its wait
    sup.terminate_child("c")
    again = sup.restart_child("c")
    assert again is not None
    monitor = again.monitor()
    os.kill(again.pid, signal.SIGKILL)
    monitor.wait(PATIENCE)
    began = time.monotonic()
    eventually(lambda: states(sup)["c"], "running")
    assert time.monotonic() - began >= 0.35
    capfd.readouterr()


def test_init_timeout() -> None:
    sup = start()
    with pytest.raises(StartFailed, match=r"init has not returned within 0.05 s"):
        sup.start_child(ChildSpec("h", Refuses, ("hang",), init_timeout=0.05))
    assert states(sup) == {}
    ref = sup.start_child(ChildSpec("c", Counter, init_timeout=30.0))
    assert ref is not None
    assert ref.call("get") == 0
    with pytest.raises(StartFailed, match=r"h failed to start: init has not returned"):
        start(ChildSpec("c", Counter), ChildSpec("h", Refuses, ("hang",), init_timeout=0.05))


class Sleeper(GenServer):
    """Hangs when told, in Python or as a whole."""

    def handle_call(self, request: Any, sender: Sender) -> Any:
        match request:
            case "hang":
                hang_here()
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
        return os.getpid()


def hang_here() -> None:
    signal.pause()


@pytest.mark.parametrize("how", ["hang", "stop"])
def test_a_hung_child_is_dumped_and_restarted(how: str, capfd: Any) -> None:
    sup = start(ChildSpec("s", Sleeper, watchdog=0.2))
    ref = sup.child("s")
    pid, monitor = ref.pid, ref.monitor()
    with pytest.raises(ProcessDown):
        ref.call(how)
    assert monitor.wait(PATIENCE).reason == "hung"
    assert sup.child("s").call("pid") != pid
    err = capfd.readouterr().err
    assert "child 's': no sign of life for 0.2 s (watchdog): killing it" in err
    assert "child 's' ended: hung; restarting it" in err
    assert ("in hang_here" in err) == (how == "hang")
    assert "in handle_call" in err


def test_a_watchdog_lets_the_living_live(capfd: Any) -> None:
    """Neither an idle child, nor one whose supervisor was stopped for longer, is hung."""
    sup = start(ChildSpec("s", Sleeper, watchdog=0.1))
    pid = sup.child("s").call("pid")
    stop(sup.pid)
    time.sleep(0.5)  # the time itself is what matters here
    os.kill(sup.pid, signal.SIGCONT)
    time.sleep(0.5)
    assert sup.child("s").call("pid") == pid
    assert capfd.readouterr().err == ""


def test_restarts_may_wait(capfd: Any) -> None:
    spec = ChildSpec("c", Counter, backoff=Backoff(initial=0.2, jitter=0))
    sup = start(spec, ChildSpec("d", Counter), intensity=5)
    before = time.monotonic()
    kill_actor(sup.child("c"))
    wait_for(sup, {"c": "restarting", "d": "running"})
    with pytest.raises(Restarting):
        sup.restart_child("c")
    with pytest.raises(AlreadyPresent):
        sup.start_child(ChildSpec("c", Counter))
    wait_for(sup, {"c": "running", "d": "running"})
    assert time.monotonic() - before >= 0.2
    kill_actor(sup.child("c"))
    wait_for(sup, {"c": "restarting", "d": "running"})
    sup.terminate_child("c")
    sup.restart_child("c")
    assert states(sup) == {"c": "running", "d": "running"}


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_backoff_grows_up_to_its_maximum(restarts: int, chance: float) -> None:
    backoff = Backoff(0.5, 20.0, 2.0, 0.25)
    plain = Backoff(0.5, 20.0, 2.0, 0).delay(restarts, chance)
    assert plain == min(20.0, 0.5 * 2.0 ** min(restarts, 100))
    assert 0.75 * plain <= backoff.delay(restarts, chance) <= 1.25 * plain


class HangsWithAFullChannel(GenServer):
    """Reads none of the answers of its supervisor, for which there is no room in the end."""

    def handle_cast(self, request: Any) -> None:
        with open(os.devnull, "rb") as file:
            for number in range(request):
                lowlevel.store_fd_later(self, f"{number}", file.fileno(), lambda _: None)
        time.sleep(1000)


def test_a_watchdog_finds_a_child_that_hangs_with_a_full_channel(capfd: Any) -> None:
    sup = start(ChildSpec("s", HangsWithAFullChannel, watchdog=0.3))
    ref = sup.child("s")
    monitor = ref.monitor()
    ref.cast(600)
    assert monitor.wait(PATIENCE).reason == "hung"
    capfd.readouterr()
