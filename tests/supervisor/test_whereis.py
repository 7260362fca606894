"""References by name: to whom, of which kind, and what is no kind."""

from typing import Any

import pytest
from actors import Counter
from trees import start

from supervisor import ChildSpec, Pool, PoolRef, Ref, Supervisor, SupervisorRef, named, whereis


def test_the_kind_is_that_of_the_actor_or_of_its_reference() -> None:
    ref = Counter.start_link(name="n")
    for kind in (Ref, Counter, Ref[Counter]):
        found: Any = whereis("n", kind)
        assert (type(found), found) == (Ref, ref)
    assert type(named("s", Supervisor)) is SupervisorRef
    assert type(named("s", SupervisorRef)) is SupervisorRef
    assert type(named("p", PoolRef[Counter])) is PoolRef
    assert type(named("p", Pool)) is PoolRef
    assert whereis("nobody", Counter) is None


@pytest.mark.parametrize("wrong", [5, "Counter", int, None, Counter.start_link])
def test_what_is_no_kind(wrong: Any) -> None:
    with pytest.raises(TypeError, match="kind is a class of actors, or of references, not"):
        named("n", wrong)
    with pytest.raises(TypeError, match="kind is a class of actors, or of references, not"):
        whereis("n", wrong)


def test_a_child_of_another_kind_is_told() -> None:
    inner = ChildSpec("inner", Supervisor)
    sup = start(ChildSpec("c", Counter), inner)
    assert sup.child("c", Counter).call("get") == 0
    assert sup.child("inner", SupervisorRef).which_children() == []
    with pytest.raises(TypeError, match="child 'c' has a Ref, no SupervisorRef"):
        sup.child("c", SupervisorRef)
    pool = sup.start_child(ChildSpec("p", Pool, (ChildSpec("w", Counter),)), PoolRef)
    assert len(pool.which_children()) == 4
    sup.terminate_child("p")
    assert type(sup.restart_child("p", PoolRef)) is PoolRef
    with pytest.raises(ValueError, match="a name has"):
        named("")
