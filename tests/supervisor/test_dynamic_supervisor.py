"""Dynamic supervisors: children of a template, which come and go."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from actors import Counter, Refuses, Witness
from processes import eventually
from trees import kill_actor, start, states, wait_for

from supervisor import (
    Backoff,
    CallTimeout,
    ChildSpec,
    DynamicSupervisor,
    DynamicSupervisorRef,
    NotFound,
    ProcessDown,
    RemoteError,
    StartFailed,
    TooManyChildren,
)


def dynamic(spec: ChildSpec, **options: Any) -> DynamicSupervisorRef:
    ref: DynamicSupervisorRef = DynamicSupervisor.start_link(spec, **options)
    return ref


def test_children_of_a_template_come_and_go(capfd: Any) -> None:
    sup = dynamic(ChildSpec("c", Counter), max_children=3)
    assert sup.count_children() == {"specs": 1, "active": 0, "supervisors": 0, "workers": 0}
    one, two, three = (sup.start_child(n) for n in (1, 2, 3))
    assert one is not None
    assert two is not None
    assert [row[:2] for row in sup.which_children()] == [("c-1", one), ("c-2", two), ("c-3", three)]
    with pytest.raises(TooManyChildren, match="3 children"):
        sup.start_child(4)
    sup.terminate_child(two)
    with pytest.raises(NotFound):
        sup.terminate_child(two)
    four = sup.start_child(start=4)
    assert four is not None
    assert [ref.call("get") for ref in (one, four)] == [1, 4]
    kill_actor(one)
    wait_for(sup, dict.fromkeys(["c-1", "c-3", "c-4"], "running"))
    again = sup.which_children()[0][1]
    assert again is not None
    assert again.call("get") == 1
    with pytest.raises(TypeError, match="object"):
        sup.start_child(object())


def test_children_of_a_template_that_do_not_start_or_end_in_order_are_forgotten() -> None:
    sup = dynamic(ChildSpec("c", Counter, restart="transient"))
    ref = sup.start_child()
    assert ref is not None
    ref.call("stop")
    wait_for(sup, {})
    sup = dynamic(ChildSpec("r", Refuses))
    with pytest.raises(StartFailed, match="no start today"):
        sup.start_child("raise")
    assert sup.start_child("ignore") is None
    assert states(sup) == {}


def test_children_of_a_template_are_stopped_at_the_same_time(runtime_dir: Path) -> None:
    sup = dynamic(ChildSpec("w", Witness, (str(runtime_dir / "log"),), shutdown=0.5))
    hanging = [sup.start_child(f"{n}") for n in range(5)]
    sup.start_child("orderly")
    for ref in hanging:
        with pytest.raises(CallTimeout):
            ref.call("never", timeout=0.01)
    before = time.monotonic()
    sup.stop()
    assert 0.5 <= time.monotonic() - before < 2.5  # not five times as long
    assert "end orderly shutdown" in (runtime_dir / "log").read_text()


def test_a_dynamic_supervisor_checks_its_template() -> None:
    with pytest.raises(ValueError, match="cannot share the name"):
        dynamic(ChildSpec("c", Counter, name="c"))
    with pytest.raises(ValueError, match="max_children is a number"):
        dynamic(ChildSpec("c", Counter), max_children=-1)
    with pytest.raises(ValueError, match="max_children is a number"):
        ChildSpec("d", DynamicSupervisor, (ChildSpec("c", Counter),), {"max_children": True})
    for template in (5, [ChildSpec("c", Counter)]):
        with pytest.raises(TypeError, match="a template is one ChildSpec, not"):
            dynamic(template)  # type: ignore[arg-type]


def test_a_dynamic_supervisor_in_a_tree(capfd: Any) -> None:
    template, options = ChildSpec("c", Counter), {"intensity": 9}
    sup = start(ChildSpec("pool", DynamicSupervisor, (template,), options, name="pool"))
    ref = sup.child("pool")
    assert isinstance(ref, DynamicSupervisorRef)
    worker = ref.start_child(5)
    assert worker is not None
    with pytest.raises(ProcessDown):
        worker.call("kill")
    with pytest.raises(RemoteError):
        sup.child("pool").start_child(1).call("raise")  # type: ignore[attr-defined]
    kill_actor(ref)
    assert states(sup.child("pool")) == {}  # it begins again without any


def test_a_dynamic_child_in_its_backoff_can_be_terminated(capfd: Any) -> None:
    template = ChildSpec("c", Counter, backoff=Backoff(1000, 1000))
    sup: DynamicSupervisorRef = DynamicSupervisor.start_link(template)
    ref = sup.start_child()
    assert ref is not None
    os.kill(ref.pid, signal.SIGKILL)
    eventually(lambda: states(sup), {"c-1": "restarting"})
    sup.terminate_child("c-1")
    assert states(sup) == {}
    with pytest.raises(NotFound):
        sup.terminate_child("c-1")
    capfd.readouterr()
