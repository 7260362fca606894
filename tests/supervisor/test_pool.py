"""Pools: who serves a call, what a member's death costs, sizes, and what may not be asked for."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from processes import PATIENCE, eventually, kill
from trees import start

from supervisor import (
    Backoff,
    CallTimeout,
    ChildSpec,
    GenServer,
    MailboxFull,
    NoProcess,
    NoReply,
    Pool,
    PoolRef,
    ProcessDown,
    RemoteError,
    Sender,
    StartFailed,
    Stop,
    handler,
    named,
)
from supervisor.protocol import codec
from supervisor.protocol.message_kinds import CALL_METHOD, CAST_METHOD, SYSTEM
from supervisor.supervision.pool_ref import REPEAT
from supervisor.testing import kill_and_wait


class Worker(GenServer):
    def init(self, path: str = "") -> None:
        self.path = path
        self.waiting: list[Sender] = []
        self.served = 0

    @handler
    def pid(self) -> int:
        self.served += 1
        return os.getpid()

    @handler
    def wait_for(self, name: str) -> int:
        while not os.path.exists(f"{self.path}/{name}"):
            time.sleep(0.001)
        return os.getpid()

    @handler
    def die(self, deaths: int = 10**6) -> int:
        """Be killed, so many times in all."""
        with open(f"{self.path}/deaths", "ab", buffering=0) as file:
            file.write(b".")
            if file.tell() <= deaths:
                os.kill(os.getpid(), signal.SIGKILL)
        return os.getpid()

    @handler
    def fail(self, error: str) -> NoReply:
        assert self.sender is not None
        if error == "raise":
            raise ValueError("on request")
        self.refuse(self.sender, KeyError(error))
        return NoReply()

    @handler
    def later(self) -> NoReply:
        assert self.sender is not None
        self.waiting.append(self.sender)
        if len(self.waiting) == 2:
            for sender in self.waiting:
                self.reply(sender, "both")
        return NoReply()

    @handler
    def note(self, text: str) -> None:
        with open(f"{self.path}/notes", "ab", buffering=0) as file:
            file.write(f"{os.getpid()} {text}\n".encode())

    @handler
    def count(self) -> None:
        self.served += 1
        if self.served % 100 == 0:
            time.sleep(0.003)

    @handler
    def counted(self) -> int:
        return self.served

    @handler
    def echo(self, data: bytes) -> bytes:
        return data

    @handler
    def leave(self, n: int) -> int | Stop:
        return Stop("normal", reply=n)

    @handler
    def relay(self) -> NoReply:
        assert self.sender is not None
        self.served += 1
        self.refuse(self.sender, ProcessDown("somebody else", "killed"))
        return NoReply()

    @handler
    def relays(self) -> int:
        return self.served

    def handle_call(self, request: Any, sender: Sender) -> Any:
        return [request, os.getpid()]

    def handle_cast(self, request: Any) -> None:
        self.note(request)


class Choosy(GenServer):
    """Does not start while a file is there."""

    def init(self, path: str) -> None:
        if os.path.exists(path):
            raise RuntimeError("the file is there")

    @handler
    def pid(self) -> int:
        return os.getpid()


def pool_of(path: Path, size: int = 4, **options: Any) -> PoolRef[Worker]:
    template = ChildSpec("w", Worker, args=(str(path),), backoff=options.pop("backoff", None))
    return Pool.start_link(template, size=size, intensity=1000, **options)


def pids(pool: PoolRef[Any]) -> set[int]:
    found = set()
    for row in pool.which_children():
        if row.ref is not None:
            with contextlib.suppress(NoProcess):  # it was killed, and its pool has not seen it yet
                found.add(row.ref.pid)
    return found


def test_calls_are_spread_over_the_members(tmp_path: Path) -> None:
    pool = pool_of(tmp_path)
    assert isinstance(pool, PoolRef)
    assert {pool.call(Worker.pid) for _ in range(4)} == pids(pool)
    assert {pool.call("x")[1] for _ in range(4)} == pids(pool)
    assert pool.call((1, {2}))[0] == (1, {2})
    assert [row.id for row in pool.which_children()] == ["w-1", "w-2", "w-3", "w-4"]
    assert pool.count_children() == {"specs": 4, "active": 4, "supervisors": 0, "workers": 4}


def test_a_busy_member_is_left_alone(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, 3)
    busy = [pool.call_async(Worker.wait_for, "go") for _ in range(2)]
    (free,) = {pool.call(Worker.pid) for _ in range(10)}
    waits = pool.call_async(Worker.wait_for, "go")
    queued = pool.call_async(Worker.pid)
    with pytest.raises(CallTimeout):
        queued.result(0.05)
    (tmp_path / "go").touch()
    assert {future.result(PATIENCE) for future in [*busy, waits]} == pids(pool)
    assert queued.result(PATIENCE) in pids(pool)
    assert free in pids(pool)


def test_more_calls_at_a_time(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, 1, concurrency=2)
    futures = [pool.call_async(Worker.later) for _ in range(2)]
    assert [future.result(PATIENCE) for future in futures] == ["both", "both"]


def test_what_a_member_raises_reaches_the_caller(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, 1)
    with pytest.raises(KeyError, match="nothing"):
        pool.call(Worker.fail, "nothing")
    with pytest.raises(RemoteError, match="ValueError: on request"):
        pool.call(Worker.fail, "raise")
    with pytest.raises(TypeError, match=r"Worker.fail: missing a required argument: 'error'"):
        pool.call(Worker.fail)  # type: ignore[call-overload]
    assert pool.call(Worker.pid) in pids(pool)


def test_a_death_costs_what_was_being_served_and_no_more(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, 1)
    dying = pool.call_async(Worker.wait_for, "never")
    waiting = [pool.call_async(Worker.pid) for _ in range(20)]
    (pid,) = pids(pool)
    kill(pid)
    with pytest.raises(ProcessDown, match=f"<Ref pid {pid}> ended during the call: killed"):
        dying.result(PATIENCE)
    assert {future.result(PATIENCE) for future in waiting} == pids(pool) != {pid}


def test_an_idempotent_call_is_given_to_another_member(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, 2)
    before = pids(pool)
    assert pool.within(retry=PATIENCE).call(Worker.die, 2) in pids(pool)
    assert (tmp_path / "deaths").read_bytes() == b"..."
    eventually(lambda: len(pids(pool) - before), 2)


def test_a_call_that_kills_is_not_repeated_for_ever(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, 4)
    with pytest.raises(ProcessDown, match="killed"):
        pool.within(retry=PATIENCE).call(Worker.die)
    assert (tmp_path / "deaths").read_bytes() == b"..."
    with pytest.raises(ProcessDown, match="killed"):
        pool.call(Worker.die)
    assert (tmp_path / "deaths").read_bytes() == b"...."
    assert pool.call(Worker.pid) in pids(pool)


def test_a_call_waits_until_a_member_lives_again(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, 2, backoff=Backoff(0.1, 1.0))
    for pid in pids(pool):
        kill(pid)
    pool.cast(Worker.note, "cast meanwhile")
    assert pool.call(Worker.pid) in pids(pool)
    eventually((tmp_path / "notes").exists)


def test_casts_are_spread_too(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, 3)
    for n in range(30):
        pool.cast(Worker.note, f"method {n}")
        pool.cast(f"term {n}")

    def notes() -> list[list[str]]:
        path = tmp_path / "notes"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.split(" ", 1) for line in lines]

    eventually(lambda: len(notes()), 60)
    assert {int(pid) for pid, _ in notes()} == pids(pool)
    assert {text for _, text in notes()} == {
        f"{w} {n}" for w in ("method", "term") for n in range(30)
    }


def test_a_pool_that_is_full_holds_its_senders_back_and_drops_nothing(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, 1)
    future = pool.call_async(Worker.wait_for, "go")
    sent = 0
    with pytest.raises(MailboxFull):
        while True:
            pool.within(0.05).cast(Worker.note, f"{sent}")
            sent += 1
    assert sent > 100
    (tmp_path / "go").touch()
    future.result(PATIENCE)
    pool.within(PATIENCE).cast(Worker.note, "last")
    notes = tmp_path / "notes"
    eventually(lambda: notes.exists() and notes.read_text().endswith(" last\n"))
    numbers = [line.split()[1] for line in notes.read_text().splitlines()]
    assert numbers == [*map(str, range(sent)), "last"]


def test_casts_faster_than_a_member_serves_them_all_arrive(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, 1)
    for _ in range(15_000):
        pool.within(PATIENCE).cast(Worker.count)
    eventually(lambda: pool.call(Worker.counted), 15_000)


def test_messages_as_long_as_they_may_be(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, 1)
    longest = b"x" * (codec.LIMIT - 32)
    for size in range(16):
        with contextlib.suppress(TypeError, ValueError, RemoteError):
            assert len(pool.within(PATIENCE).call(Worker.echo, longest + b"x" * size)) > size
    assert pool.call(Worker.pid) in pids(pool)


def test_calls_that_wait_are_not_given_to_a_member_that_ends(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, 1)
    futures = [pool.call_async(Worker.leave, n) for n in range(10)]
    assert [future.result(PATIENCE) for future in futures] == list(range(10))


def test_another_actors_end_is_not_a_members(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, 2)
    with pytest.raises(ProcessDown, match="somebody else"):
        pool.within(retry=PATIENCE).call(Worker.relay)
    assert {pool.call(Worker.relays) for _ in range(2)} == {0, 1}


# -- sizes -----------------------------------------------------------------------------------------


def test_a_pool_grows_and_shrinks(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, 2)
    before = pids(pool)
    pool.resize(5)
    assert before < pids(pool)
    assert {pool.call(Worker.pid) for _ in range(5)} == pids(pool)
    pool.resize(5)
    pool.resize(1)
    assert len(pids(pool)) == 1
    assert pool.call(Worker.pid) in pids(pool)
    pool.resize(2)
    assert len({row.id for row in pool.which_children()}) == 2


def test_a_member_that_leaves_answers_first(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, 3)
    futures = [pool.call_async(Worker.wait_for, "go") for _ in range(3)]
    before = pids(pool)
    thread = threading.Thread(target=pool.resize, args=(1,))
    thread.start()
    queued = [pool.call_async(Worker.pid) for _ in range(5)]
    with pytest.raises(CallTimeout):
        queued[0].result(0.1)
    assert thread.is_alive()
    (tmp_path / "go").touch()
    assert {future.result(PATIENCE) for future in futures} == before
    thread.join(PATIENCE)
    assert {future.result(PATIENCE) for future in queued} == pids(pool)
    assert len(pids(pool)) == 1


def test_a_member_that_is_killed_as_it_leaves_is_not_restarted(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, 2)
    futures = [pool.call_async(Worker.wait_for, "never") for _ in range(2)]
    thread = threading.Thread(target=pool.resize, args=(1,))
    thread.start()
    with pytest.raises(CallTimeout):
        futures[0].result(0.1)
    for pid in pids(pool):
        kill(pid)
    thread.join(PATIENCE)
    eventually(lambda: len(pids(pool)), 1)
    for future in futures:
        assert isinstance(future.exception(PATIENCE), ProcessDown)


def test_resizes_at_a_time_end_in_the_last_size(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, 2)
    for sizes in ([4, 4], [5, 2], [1, 3], [6, 1, 2]):
        threads = []
        for size in sizes:
            threads.append(threading.Thread(target=pool.resize, args=(size,)))
            threads[-1].start()
        for thread in threads:
            thread.join(PATIENCE)
        assert len(pids(pool)) in sizes
        assert pool.get_state()["_size"] == len(pids(pool))


class CountingPool(Pool):
    kept = ("stats",)

    def init(self, *args: Any, **kwargs: Any) -> Any:
        if "stats" not in vars(self):
            self.stats = 0
        self.stats += 1
        return super().init(*args, **kwargs)


def test_a_subclass_keeps_what_its_bases_keep(tmp_path: Path) -> None:
    template = ChildSpec("w", Worker, args=(str(tmp_path),))
    spec = ChildSpec("pool", CountingPool, (template,), {"size": 2}, name="pool")
    sup = start(spec, intensity=10)
    pool = sup.child("pool", PoolRef)
    pool.resize(3)
    kill_and_wait(pool)
    pool = sup.child("pool", PoolRef)
    assert (len(pids(pool)), pool.get_state()["stats"]) == (3, 2)


def test_a_pool_keeps_its_size_over_its_own_restart(tmp_path: Path) -> None:
    template = ChildSpec("w", Worker, args=(str(tmp_path),))
    spec = ChildSpec("pool", Pool, args=(template,), kwargs={"size": 2}, name="pool")
    sup = start(spec, intensity=10)
    pool = sup.child("pool", PoolRef)
    pool.resize(3)
    kill_and_wait(pool)
    pool = sup.child("pool", PoolRef)
    assert len(pids(pool)) == 3
    assert pool.call(Worker.pid) in pids(pool)


def test_a_call_is_repeated_over_the_pools_own_restart(tmp_path: Path) -> None:
    template = ChildSpec("w", Worker, args=(str(tmp_path),))
    sup = start(ChildSpec("pool", Pool, args=(template,), name="pool"), intensity=10)
    pool: PoolRef[Worker] = sup.child("pool", PoolRef)
    future: list[int] = []

    def call() -> None:
        future.append(pool.within(PATIENCE, retry=PATIENCE).call(Worker.wait_for, "go"))

    thread = threading.Thread(target=call)
    thread.start()
    eventually(lambda: pool.statistics()["calls"] > 0)
    kill(pool.pid)
    (tmp_path / "go").touch()
    thread.join(PATIENCE)
    assert future[0] in pids(named("pool", PoolRef))


def test_a_new_member_that_does_not_start_leaves_the_size_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "there"
    pool = Pool.start_link(ChildSpec("c", Choosy, args=(str(path),)), size=2)
    before = pids(pool)
    path.touch()
    with pytest.raises(StartFailed, match="c-3 failed to start: RuntimeError: the file is there"):
        pool.resize(4)
    assert pids(pool) == before
    path.unlink()
    pool.resize(3)
    assert len(pids(pool)) == 3


def test_many_kills_lose_no_idempotent_call(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, 4)
    stopping = threading.Event()

    def kill_often() -> None:
        while not stopping.is_set():
            for row in pool.which_children():
                if row.ref is not None:
                    try:
                        os.kill(row.ref.pid, signal.SIGKILL)
                    except (ProcessLookupError, LookupError):
                        continue
                stopping.wait(0.02)

    thread = threading.Thread(target=kill_often)
    thread.start()
    try:
        ref = pool.within(PATIENCE, retry=PATIENCE)
        for _ in range(300):
            ref.call(Worker.pid)
    finally:
        stopping.set()
        thread.join()
    eventually(lambda: len(pids(pool)), 4)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"size": 0}, "the size of a pool is a number of members from 1 on, not 0"),
        ({"size": True}, "the size of a pool is a number of members from 1 on, not True"),
        ({"size": "4"}, "the size of a pool is a number of members from 1 on, not '4'"),
        ({"concurrency": 0}, "concurrency is a number of calls from 1 on, not 0"),
        ({"intensity": -1}, "the pool: intensity is a number of restarts"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Pool.start_link(ChildSpec("w", Worker), **options)


def test_wrong_templates_and_operations(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot share the name 'one'"):
        Pool.start_link(ChildSpec("w", Worker, name="one"))
    with pytest.raises(ValueError, match="the members of a pool are permanent"):
        Pool.start_link(ChildSpec("w", Worker, restart="transient"))
    with pytest.raises(TypeError, match="a template is one ChildSpec"):
        Pool.start_link([ChildSpec("w", Worker)])  # type: ignore[arg-type]
    pool = pool_of(tmp_path, 1)
    for wrong in (0, -1, "2", None, True):
        with pytest.raises(ValueError, match="the size of a pool is a number of members"):
            pool.resize(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a supervisor does not know 'terminate_child'"):
        pool._operate("terminate_child", "w-1")
    with pytest.raises(ValueError, match="retry is a number of seconds"):
        pool.within(retry=-1.0)
    assert pool.call(Worker.pid) in pids(pool)


def test_nonsense_of_a_stranger_does_not_end_a_pool(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, 1)
    for wrong in ([], [0], [9, "x", 1.0], [0, "x", "y"], [14, "x", None], [[], [], []]):
        with pytest.raises(TypeError, match="no call to be repeated"):
            pool._ask(CALL_METHOD, [REPEAT, wrong], PATIENCE)
        pool._send(CAST_METHOD, [REPEAT, wrong], PATIENCE)
        with pytest.raises(ValueError, match="a supervisor does not know"):
            pool._ask(SYSTEM, ["operate", "nonsense", *wrong], PATIENCE)
    with pytest.raises((TypeError, ValueError)):
        pool._ask(SYSTEM, ["operate"], PATIENCE)
    with pytest.raises(ValueError, match="a Worker is no pool"):
        pool.which_children()[0].ref._ask(SYSTEM, ["operate", "which_children"], PATIENCE)
    with pytest.raises(ProcessDown):  # the member hangs up
        pool._ask(CALL_METHOD, [REPEAT, [CALL_METHOD, "no method", 1.0]], PATIENCE)
    assert pool.call(Worker.pid) in pids(pool)
