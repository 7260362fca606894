"""OTP's contract, where it is easily missed: what callbacks return, what callers are told, when."""

import os
from typing import Any

import pytest
from actors import Counter
from processes import PATIENCE

from supervisor import (
    ChildSpec,
    Continue,
    GenServer,
    Ignore,
    NoReply,
    ProcessDown,
    RemoteError,
    Sender,
    StartFailed,
    Stop,
    Supervisor,
)

WRONG: dict[str, Any] = {
    "a number": 4711,
    "False": False,
    "the class Stop": Stop,
    "the class Ignore": Ignore,
    "the class NoReply": NoReply,
    "text": "ok",
}


class Returns(GenServer):
    """Returns from each callback what it is told."""

    def init(self, returned: str = "", first: str = "") -> Any:
        self.later: Sender | None = None
        if first:
            return Continue(first)
        return WRONG.get(returned)

    def handle_call(self, request: Any, sender: Sender) -> Any:
        match request:
            case "stop":
                return Stop("for a reason")
            case "stop and reply":
                return Stop("for a reason", reply=None)
            case ["continue", what]:
                self.later = sender
                return Continue(what)
            case "continue and reply":
                return Continue("", reply=None)
            case ["return", what]:
                return WRONG[what]
        return os.getpid()

    def handle_cast(self, what: str) -> Any:
        return WRONG.get(what)

    def handle_info(self, what: Any) -> Any:
        return WRONG.get(what)

    def handle_continue(self, what: str) -> Any:
        if what == "reply" and self.later is not None:
            self.reply(self.later, "replied later")
        return WRONG.get(what)


class Forgets(Supervisor):
    """Forgets to return what its base has returned."""

    def init(self) -> None:
        super().init([ChildSpec("c", Counter)])


class Begins(GenServer):
    """Returns coroutines from plain functions; async ones are refused when a class is defined."""

    async def later(self) -> int:
        return 1

    def handle_call(self, request: Any, sender: Sender) -> Any:
        return self.later()

    def handle_cast(self, request: Any) -> Any:
        return self.later()


# -- what callbacks return -------------------------------------------------------------------------


@pytest.mark.parametrize("what", WRONG)
def test_what_init_may_not_return_fails_the_start(what: str) -> None:
    with pytest.raises(StartFailed, match="init returns None, Continue"):
        Returns.start_link(what)


def test_a_supervisors_init_that_returns_nothing_fails_the_start() -> None:
    with pytest.raises(StartFailed, match=r"returns what super\(\).init"):
        Forgets.start_link()


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("callback", ["handle_cast", "handle_info", "handle_continue"])
def test_what_other_callbacks_may_not_return_ends_their_actor(callback: str, what: str) -> None:
    ref = Returns.start_link()
    down = ref.monitor()
    match callback:
        case "handle_cast":
            ref.cast(what)
        case "handle_info":
            ref.send(what)
        case "handle_continue":
            ref = Returns.start_link(first="")
            down = ref.monitor()
            with pytest.raises((ProcessDown, RemoteError)):
                ref.call(["continue", what])
    reason = down.wait(PATIENCE).reason
    assert f"{callback} returns None, Stop(...) or Continue(...), not" in str(reason)


@pytest.mark.parametrize("what", ["the class Stop", "the class Ignore", "the class NoReply"])
def test_a_class_is_no_reply(what: str) -> None:
    ref = Returns.start_link()
    with pytest.raises(RemoteError, match=f"has returned {what}"):
        ref.call(["return", what])


def test_a_coroutine_is_no_result(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RemoteError, match="handle_call has returned a coroutine"):
        Begins.start_link().call("x")
    ref = Begins.start_link()
    down = ref.monitor()
    ref.cast("x")
    assert "handle_cast has returned a coroutine" in str(down.wait(PATIENCE).reason)
    assert "never awaited" not in capfd.readouterr().err


def test_a_stop_without_a_reply_is_told_as_an_end() -> None:
    with pytest.raises(ProcessDown) as caught:
        Returns.start_link().call("stop")
    assert caught.value.reason == "for a reason"
    assert Returns.start_link().call("stop and reply") is None


def test_continue_may_leave_the_reply_open() -> None:
    ref = Returns.start_link()
    assert ref.call(["continue", "reply"]) == "replied later"
    assert ref.call("continue and reply") is None


class Undecided(GenServer):
    """Ends for no reason."""

    def init(self, at_once: bool = False) -> Any:
        return Stop(None) if at_once else None  # type: ignore[arg-type]

    def handle_call(self, request: Any, sender: Sender) -> Any:
        return Stop(None)  # type: ignore[arg-type]


def test_none_is_no_reason_to_end() -> None:
    with pytest.raises(StartFailed, match="None is no reason"):
        Undecided.start_link(True)
    with pytest.raises(RemoteError, match="None is no reason"):
        Undecided.start_link().call("x")
    sup = Supervisor.start_link([])
    with pytest.raises(StartFailed, match="None is no reason"):
        sup.start_child(ChildSpec("u", Undecided, (True,)))
    sup.stop()


# -- terminate -------------------------------------------------------------------------------------


class Stumbles(GenServer):
    def handle_call(self, request: Any, sender: Sender) -> int:
        return os.getpid()

    def terminate(self, reason: Any) -> None:
        raise ZeroDivisionError("as it ended")


def test_a_terminate_that_raises_is_the_reason() -> None:
    ref = Stumbles.start_link()
    down = ref.monitor()
    with pytest.raises(ProcessDown, match="as it ended"):
        ref.stop()
    assert "as it ended" in str(down.wait(PATIENCE).reason)


def test_a_transient_child_whose_terminate_raises_is_restarted() -> None:
    sup = Supervisor.start_link([ChildSpec("s", Stumbles, restart="transient")])
    ref = sup.child("s")
    former = ref.call("pid")
    with pytest.raises(ProcessDown):
        ref.stop()
    assert sup.child("s").call("pid") != former
