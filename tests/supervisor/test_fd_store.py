"""The fd store: descriptors outlive the child that has stored them, and its supervisors."""

import os

from actors import Keeper
from trees import kill_actor, start

from supervisor import (
    ChildSpec,
    Ref,
    Supervisor,
    SupervisorRef,
)


def test_a_stored_descriptor_outlives_the_child() -> None:
    sup = start(ChildSpec("k", Keeper, name="k"), intensity=100)
    keeper = Ref(name="k")
    for expected in range(1, 6):
        assert keeper.call("add") == expected
        kill_actor(keeper)
        sup.child("k")
    keeper.call(["store", "extra"])
    keeper.call(["drop", "count"])
    kill_actor(keeper)
    sup.child("k")
    assert keeper.call("names") == ["extra"]


def test_a_child_has_its_own_descriptors_and_no_others() -> None:
    sup = start(*(ChildSpec(n, Keeper, name=n) for n in "ab"), intensity=9)
    first = {n: len(Ref(name=n).call("fds")) for n in "ab"}
    kill_actor(Ref(name="b"))
    sup.child("b")
    # The restarted one has the same number: it holds nothing of its sibling's or its supervisor's.
    assert len(Ref(name="b").call("fds")) == first["b"] == first["a"]


def test_stored_descriptors_outlive_the_supervisors_below_the_root() -> None:
    keeper = ChildSpec("k", Keeper, name="k")
    middle = ChildSpec("middle", Supervisor, ([keeper],))
    top = start(ChildSpec("inner", Supervisor, ([middle],)), intensity=9)
    ref = Ref(name="k")
    assert ref.call("add") == 1
    for depth in ("inner", "middle"):
        inner = top.child("inner")
        assert isinstance(inner, SupervisorRef)
        kill_actor(inner if depth == "inner" else inner.child("middle"))
        again = top.child("inner")
        assert isinstance(again, SupervisorRef)
        again.child("middle")
        assert ref.call("add") == (2 if depth == "inner" else 3)


def test_descriptors_are_closed_when_the_child_is_stopped_for_good() -> None:
    sup = start()
    sup.which_children()
    pid = sup.pid
    before = len(os.listdir(f"/proc/{pid}/fd"))
    for _ in range(20):
        ref = sup.start_child(ChildSpec("k", Keeper))
        assert ref is not None
        ref.call(["store", "more"])
        sup.terminate_child("k")
        sup.delete_child("k")
    assert len(os.listdir(f"/proc/{pid}/fd")) == before
