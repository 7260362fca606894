"""The kit for tests of programs that are made of actors: each part, and what it finds."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from actors import Counter
from processes import PATIENCE, eventually

from supervisor import (
    AlreadyRegistered,
    CallTimeout,
    ChildSpec,
    GenServer,
    Ignore,
    Invocation,
    NoProcess,
    NoReply,
    Ref,
    RemoteError,
    Sender,
    StartFailed,
    Stop,
    Supervisor,
    SupervisorRef,
    Timeout,
    handler,
)
from supervisor.testing import (
    InProcess,
    Probe,
    Received,
    kill_and_wait,
    kill_and_wait_for_restart,
    nothing_left,
)


class Account(GenServer):
    kept = ("balance",)

    def init(self, audit: Ref | None = None) -> None:
        self.audit = audit
        self.log_lines: list[Any] = []
        self.waiting: list[Sender] = []
        if not self.restored:
            self.balance = 0

    @handler
    def deposit(self, amount: int) -> int:
        if amount < 0:
            raise ValueError("a deposit is positive")
        self.balance += amount
        if self.audit is not None:
            self.audit.cast(["deposited", amount])
        return self.balance

    @handler
    def approved(self) -> Any:
        assert self.audit is not None
        return self.audit.call(Account.deposit, self.balance)

    @handler
    def remind(self) -> None:
        self.send_after(3600.0, "an hour later")

    @handler
    def wait(self) -> NoReply:
        assert self.sender is not None
        self.waiting.append(self.sender)
        return NoReply()

    @handler
    def start_another(self) -> Ref[Counter]:
        return Counter.start_link(7)

    def handle_call(self, request: Any, sender: Sender) -> Any:
        return ["served", request, os.getpid()]

    def handle_cast(self, request: Any) -> Any:
        if request == "leave":
            return Stop("left")
        raise LookupError(request)

    def handle_info(self, message: Any) -> None:
        if isinstance(message, Timeout):
            self.idle_timeout = None
        self.log_lines.append(message)

    def terminate(self, reason: Any) -> None:
        self.log_lines.append(["terminated", str(reason)])


class Never(GenServer):
    def init(self, how: str) -> Any:
        if how == "raises":
            raise ValueError("it does not start")
        return Ignore() if how == "ignores" else Stop("it does not start")


# -- an actor in this process ----------------------------------------------------------------------


def test_an_actor_runs_in_the_tests_process() -> None:
    with InProcess(Account) as account:
        assert account.call(Account.deposit, 5) == 5
        assert account.server.balance == 5
        account.server.balance = 7
        account.cast(Account.deposit, 1)
        assert account.call("x") == ["served", "x", os.getpid()]
        assert account.server.balance == 8
        account.send("hello")
        assert account.server.log_lines == ["hello"]
        server = account.server
    assert server.log_lines[-1] == ["terminated", "normal"]
    assert account.reason == "normal"
    with pytest.raises(NoProcess):
        account.call("x")


def test_terms_travel_as_they_do_between_processes() -> None:
    with InProcess(Account) as account:
        with pytest.raises(TypeError, match="which cannot travel in a message"):
            account.call({"x": object()})
        with pytest.raises(TypeError, match=r"Account.deposit: missing a required argument"):
            account.call(Account.deposit)  # type: ignore[call-overload]
        assert account.call((1, {2}))[1] == (1, {2})


def test_an_exception_is_the_cause_of_what_the_caller_is_raised() -> None:
    with InProcess(Account) as account:
        with pytest.raises(RemoteError, match="ValueError: a deposit is positive") as caught:
            account.call(Account.deposit, -1)
        assert isinstance(caught.value.__cause__, ValueError)
        assert isinstance(account.reason, RemoteError)
    with InProcess(Account) as account, pytest.raises(LookupError, match="nonsense"):
        account.cast("nonsense")


def test_an_end_by_itself() -> None:
    with InProcess(Account) as account:
        account.cast("leave")
        assert account.reason == "left"
        assert account.server.log_lines == [["terminated", "left"]]


def test_time_passes_when_it_is_told_to() -> None:
    with InProcess(Account) as account:
        account.call(Account.remind)
        account.elapse(3599.0)
        assert account.server.log_lines == []
        account.elapse(1.0)
        assert account.server.log_lines == ["an hour later"]
        account.server.idle_timeout = 60.0
        account.elapse(59.0)
        assert account.server.log_lines == ["an hour later"]
        account.elapse(1.0)
        assert account.server.log_lines == ["an hour later", Timeout()]


def test_what_is_kept_is_what_the_next_incarnation_finds() -> None:
    account = InProcess(Account)
    account.call(Account.deposit, 5)
    server = account.server
    account.kill()
    assert server.log_lines == []  # not terminated
    assert account.kept == {"balance": 5}
    with InProcess(Account, kept=account.kept) as again:
        assert again.server.restored
        assert again.call(Account.deposit, 1) == 6


def test_other_processes_reach_it_while_it_runs() -> None:
    with InProcess(Account, name="account") as account:
        code = (
            "from supervisor import whereis\n"
            "print(whereis('account').call('from elsewhere', timeout=20))\n"
        )
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
            while other.poll() is None:
                account.run(0.01)
            assert other.stdout is not None
            assert other.stdout.read() == f"['served', 'from elsewhere', {os.getpid()}]\n".encode()


def test_it_is_linked_to_what_it_starts() -> None:
    with InProcess(Account) as account:
        counter = account.call(Account.start_another)
        assert counter.call("get") == 7
        kill_and_wait(counter)
        for _ in range(1000):
            account.run(0.01)
            if account.reason is not None:
                break
        assert account.reason == "killed"


@pytest.mark.parametrize("how", ["raises", "ignores", "stops"])
def test_a_start_that_fails(how: str) -> None:
    with pytest.raises(StartFailed, match=r"Never failed to start") as caught:
        InProcess(Never, how)
    assert isinstance(caught.value.__cause__, ValueError) == (how == "raises")
    with InProcess(Account) as account:
        assert account.call("x")


def test_there_is_one_at_a_time() -> None:
    with (
        InProcess(Account),
        pytest.raises(RuntimeError, match="<InProcess Account> runs in this process already"),
    ):
        InProcess(Account)


def test_no_reply_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.testing.in_process._PATIENCE", 0.05)
    with InProcess(Account) as account:
        with pytest.raises(CallTimeout, match=r"<InProcess Account> has not replied to <function"):
            account.call(Account.wait)
        assert len(account.server.waiting) == 1


def test_what_is_no_exception_of_the_actors_ends_the_test() -> None:
    class Cancelled(BaseException):
        """As pytest's own outcomes, or Ctrl-C."""

    with InProcess(Account) as account:
        account.server.handle_info = _raiser(Cancelled)  # type: ignore[method-assign]
        with pytest.raises(Cancelled):
            account.send("x")
        assert account.reason is not None


def _raiser(error: type[BaseException]) -> Any:
    def raises(_: Any) -> None:
        raise error

    return raises


# -- probes ----------------------------------------------------------------------------------------


def test_a_probe_is_a_reference_that_records() -> None:
    probe = Probe.start_link()
    assert isinstance(probe, Probe)
    probe.cast("a")
    probe.send(("b", 2))
    assert probe.next() == Received("cast", "a")
    assert probe.next() == Received("info", ("b", 2))
    probe.nothing(0.01)
    assert probe.received() == [Received("cast", "a"), Received("info", ("b", 2))]


def test_a_probe_stands_for_another_actor() -> None:
    audit = Probe.start_link()
    account = Account.start_link(audit)
    assert account.call(Account.deposit, 5) == 5
    assert audit.next() == Received("cast", ["deposited", 5])
    audit.answer("granted", "again")
    assert account.call(Account.approved) == "granted"
    call = audit.next()
    assert (call.kind, call.term) == ("call", Invocation("deposit", [5], {}))
    assert account.call(Account.approved) == "again"
    audit.next()
    future = account.call_async(Account.approved)
    sender = audit.next().sender
    assert sender is not None
    sender.reply("by the test")
    assert future.result(PATIENCE) == "by the test"


def test_a_probe_that_receives_nothing_says_what_came_before() -> None:
    probe = Probe.start_link(name="probe")
    probe.cast("a")
    probe.next()
    with pytest.raises(
        AssertionError, match=r"<Probe probe> has received nothing more within 0.01"
    ):
        probe.next(timeout=0.01)
    probe.cast("b")
    with pytest.raises(AssertionError, match=r"has received Received\(kind='cast', term='b'"):
        probe.nothing()


# -- kills -----------------------------------------------------------------------------------------


def test_kill_and_wait(supervision_tree: SupervisorRef) -> None:
    ref = supervision_tree.start_child(ChildSpec("n", Counter, args=(3,), name="n"))
    before = ref.pid
    down = kill_and_wait(ref)
    assert (down.pid, down.reason) == (before, "killed")
    now = supervision_tree.child("n").pid
    again = kill_and_wait_for_restart(ref)
    assert again not in (before, now)
    assert (ref.pid, ref.call("get")) == (again, 3)
    supervision_tree.terminate_child("n")
    with pytest.raises(NoProcess):
        kill_and_wait(ref)
    alone = Counter.start_link(name="alone")
    with pytest.raises(NoProcess, match=r"'alone' was not started again within 0.1 s"):
        kill_and_wait_for_restart(alone, timeout=0.1)
    with pytest.raises(ValueError, match="needs a reference with a name"):
        kill_and_wait_for_restart(Counter.start_link())


# -- what is left behind ---------------------------------------------------------------------------


def test_nothing_is_left_of_a_tree() -> None:
    with nothing_left() as path:
        sup = Supervisor.start_link([ChildSpec("n", Counter, name="n")])
        assert (path / "names" / "n").exists()
        assert sup.child("n").call("get") == 0
    assert not path.exists()


def test_a_process_that_is_left_is_named_and_killed() -> None:
    said = r"left behind: process \d+, sleep 1000"
    with pytest.raises(AssertionError, match=said), nothing_left(patience=0.1):
        left = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    assert left.wait(PATIENCE) == -9


def test_an_actor_that_was_started_to_stay_is_left() -> None:
    said = r"left behind: process \d+, .*python"
    with pytest.raises(AssertionError, match=said), nothing_left(patience=0.1):
        Counter.start(name="stays")


def test_a_descriptor_and_a_file_that_are_left_are_named() -> None:
    said = r"^left behind: the file names/x; descriptor \d+: /dev/null$"
    with pytest.raises(AssertionError, match=said), nothing_left() as path:
        (path / "names").mkdir()
        (path / "names" / "x").touch()
        fd = os.open("/dev/null", os.O_RDONLY)
    os.close(fd)


TESTS = """\
import os
from actors import Counter
from supervisor import ChildSpec, whereis

def test_a_tree(supervision_tree):
    ref = supervision_tree.start_child(ChildSpec("n", Counter, name="n"))
    assert ref.call("get") == 0

def test_another_tree(supervision_tree):
    assert whereis("n") is None

def test_that_leaves_a_descriptor(supervision_tree):
    os.open("/dev/null", os.O_RDONLY)
"""


def test_pytest_finds_the_fixture_by_itself(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(TESTS)
    support = str(Path(__file__).parents[1] / "support")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", "."]
    done = subprocess.run(
        [*command, "-o", f"pythonpath={support}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert "3 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "AssertionError: left behind: descriptor" in done.stdout
    eventually(lambda: done.returncode, 1)


class Asks(GenServer):
    """Answers when another actor has answered."""

    def init(self, other: Ref) -> None:
        self.other = other

    @handler
    def ask(self) -> NoReply:
        sender = self.sender
        assert sender is not None

        def answered(future: Any) -> None:
            self.reply(sender, future.result())

        self.other.call_async("get").add_done_callback(answered)
        return NoReply()


def test_callbacks_of_futures_are_called() -> None:
    other = Counter.start_link(3)
    with InProcess(Asks, other) as asks:
        assert asks.call(Asks.ask) == 3
    future = other.call_async("get")
    found: list[Any] = []
    future.add_done_callback(found.append)
    assert (future.result(PATIENCE), found) == (3, [future])


class Beats(GenServer):
    def init(self) -> None:
        self.beats = 0
        self.call_later(1.0, self.beat)

    def beat(self) -> None:
        self.beats += 1
        self.call_later(1.0, self.beat)


def test_all_that_is_due_meanwhile_is_done() -> None:
    with InProcess(Beats) as beats:
        beats.elapse(10.5)
        assert beats.server.beats == 10


class Breaks(GenServer):
    def __init__(self) -> None:
        raise LookupError("at once")


def test_a_start_that_fails_leaves_nothing_open() -> None:
    Counter.start_link(name="taken")
    for _ in range(3):
        with pytest.raises(LookupError, match="at once"):
            InProcess(Breaks)
        with pytest.raises(AlreadyRegistered):
            InProcess(Beats, name="taken")
    with InProcess(Beats) as beats:
        assert beats.server.beats == 0


def test_a_descriptor_that_takes_a_former_number_is_found() -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    with pytest.raises(AssertionError, match=rf"descriptor {fd}: /dev/zero"), nothing_left():
        os.close(fd)
        assert os.open("/dev/zero", os.O_RDONLY) == fd
    os.close(fd)
