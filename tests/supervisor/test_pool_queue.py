"""Which member of a pool serves which request: properties of the decision."""

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from supervisor.supervision.pool_queue import PoolQueue


def assigned(queue: PoolQueue[str, int]) -> list[tuple[int, str]]:
    found = []
    while (one := queue.next()) is not None:
        found.append(one)
    return found


def test_a_request_goes_to_the_least_busy_member() -> None:
    queue = PoolQueue[str, int](2)
    queue.submit(1)
    assert assigned(queue) == []
    queue.set_members(["a"])
    assert assigned(queue) == [(1, "a")]
    queue.set_members(["a", "b"])
    for n in (2, 3, 4, 5):
        queue.submit(n)
    assert assigned(queue) == [(2, "b"), (3, "a"), (4, "b")]
    queue.answered("a")
    assert assigned(queue) == [(5, "a")]


def test_members_take_turns() -> None:
    queue = PoolQueue[str, int](1)
    queue.set_members(["a", "b", "c"])
    served = []
    for n in range(6):
        queue.submit(n)
        ((_, member),) = assigned(queue)
        served.append(member)
        queue.answered(member)
    assert served[:3] == served[3:]
    assert sorted(served[:3]) == ["a", "b", "c"]


def test_one_that_leaves_gets_nothing_more() -> None:
    queue = PoolQueue[str, int](1)
    queue.set_members(["a", "b"])
    queue.leave("a")
    queue.submit(1)
    queue.submit(2)
    assert assigned(queue) == [(1, "b")]
    queue.set_members(["b"])
    queue.set_members(["a", "b"])  # another one, of the same name
    assert assigned(queue) == [(2, "a")]


def test_what_could_not_be_sent_is_the_next() -> None:
    queue = PoolQueue[str, int](1)
    queue.set_members(["a"])
    queue.submit(1)
    queue.submit(2)
    assert queue.next() == (1, "a")
    queue.give_back(1, "a", ended=True)
    assert queue.next() is None
    queue.set_members(["a"])
    assert assigned(queue) == [(1, "a")]
    assert (len(queue), queue.busy("a"), queue.busy("nobody")) == (1, 1, 0)


def test_one_without_room_is_left_alone_until_it_has_some() -> None:
    queue = PoolQueue[str, int](1)
    queue.set_members(["a", "b"])
    queue.submit(1)
    ((request, member),) = assigned(queue)
    queue.give_back(request, member, ended=False)
    queue.pause(member)
    assert assigned(queue) == [(1, "b" if member == "a" else "a")]
    queue.submit(2)
    assert assigned(queue) == []
    queue.resume(member)
    assert assigned(queue) == [(2, member)]


def test_a_full_queue_says_so() -> None:
    queue = PoolQueue[str, int](2)
    queue.set_members(["a"])
    while not queue.is_full():
        queue.submit(1)
    assert len(queue) == 20
    assert len(assigned(queue)) == 2
    assert not queue.is_full()


class Pools(RuleBasedStateMachine):
    """Members come and go, requests come, are assigned and answered."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = PoolQueue[int, int](2)
        self.members: set[int] = set()
        self.leaving: set[int] = set()
        self.under_way: dict[int, list[int]] = {}
        self.submitted = 0
        self.seen: list[int] = []

    @rule(members=st.sets(st.integers(0, 4)))
    def change(self, members: set[int]) -> None:
        self.queue.set_members(members)
        self.under_way = {m: self.under_way.get(m, []) for m in members}
        self.members, self.leaving = members, self.leaving & members

    @rule(member=st.integers(0, 4))
    def leave(self, member: int) -> None:
        if member in self.members:
            self.queue.leave(member)
            self.leaving.add(member)

    @rule()
    def submit(self) -> None:
        self.queue.submit(self.submitted)
        self.submitted += 1

    @rule()
    def assign(self) -> None:
        free = {m: len(self.under_way[m]) for m in self.members - self.leaving}
        found = self.queue.next()
        if found is None:
            assert not len(self.queue) or not free or min(free.values()) >= 2
            return
        request, member = found
        assert free[member] == min(free.values()) < 2
        assert request not in self.seen
        self.seen.append(request)
        self.under_way[member].append(request)

    @precondition(lambda self: any(self.under_way.values()))
    @rule(data=st.data())
    def answer(self, data: Any) -> None:
        busy = sorted(m for m, requests in self.under_way.items() if requests)
        member = data.draw(st.sampled_from(busy))
        self.under_way[member].pop()
        self.queue.answered(member)

    @invariant()
    def counts_agree(self) -> None:
        assert len(self.queue) + len(self.seen) == self.submitted
        assert self.seen == sorted(self.seen)  # in the order in which they came
        for member in self.members:
            assert self.queue.busy(member) == len(self.under_way[member])


TestPools = Pools.TestCase
