"""What a child's specification may say, and what is refused."""

from dataclasses import dataclass
from typing import Any

import pytest
from actors import Counter
from processes import resident
from trees import start

from supervisor import (
    Backoff,
    ChildSpec,
    GenServer,
    Supervisor,
    check_childspecs,
)


def test_a_child_of_type_supervisor_may_take_any_time_to_end() -> None:
    spec = ChildSpec("c", Counter, type="supervisor")
    assert spec.plan().shutdown == "infinity"
    assert ChildSpec("c", Supervisor, ([],), type="worker").plan().shutdown == 5.0


def test_a_period_is_finite() -> None:
    for wrong in (float("inf"), float("nan"), 0, -1):
        with pytest.raises(ValueError, match="period is a finite number"):
            Supervisor.start_link([], period=wrong)


def test_the_arguments_of_a_temporary_child_are_not_kept() -> None:
    sup = Supervisor.start_link([])
    big = "x" * (4 << 20)
    before = resident(sup.pid)
    for n in range(20):
        sup.start_child(ChildSpec(f"c{n}", Takes, (big,), restart="temporary"))
    assert resident(sup.pid) - before < 30 << 20


class Takes(GenServer):
    def init(self, _: str) -> None:
        return


@dataclass
class Config:
    x: int


def test_an_argument_that_cannot_travel_is_named() -> None:
    sup = Supervisor.start_link([])
    with pytest.raises(TypeError, match=r"child 'd': args\[1\], Config, cannot travel"):
        sup.start_child(ChildSpec("d", Takes, (1, Config(1))))
    with pytest.raises(TypeError, match=r"child 'd': where, Config, cannot travel"):
        sup.start_child(ChildSpec("d", Takes, kwargs={"where": Config(1)}))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: ChildSpec("", Counter), "1 to 255 bytes"),
        (lambda: ChildSpec("a", 5), "GenServer class"),  # type: ignore[arg-type]
        (
            lambda: ChildSpec("a", type("L", (Counter,), {"__qualname__": "f.<locals>.L"})),
            "top level",
        ),
        (lambda: ChildSpec("a", Counter, restart="always"), "restart is one of"),  # type: ignore[arg-type]
        (lambda: ChildSpec("a", Counter, shutdown=-1), "shutdown is seconds"),
        (lambda: ChildSpec("a", Counter, shutdown="never"), "shutdown is seconds"),  # type: ignore[arg-type]
        (lambda: ChildSpec("a", Counter, intensity=-1), "intensity"),
        (lambda: ChildSpec("a", Counter, intensity=1, period=0), "period"),
        (lambda: ChildSpec("a", Counter, name=""), "1 to 200"),
        (lambda: ChildSpec(start=Counter), "missing 1 required positional argument: 'id'"),  # type: ignore[call-arg]
        (lambda: ChildSpec("a", Counter, modules=[]), "unexpected keyword argument 'modules'"),  # type: ignore[call-arg]
        (lambda: ChildSpec("a", Counter, type="daemon"), "type is one of"),  # type: ignore[arg-type]
        (lambda: ChildSpec("a", Counter, significant=True), "significant and permanent"),
        (lambda: ChildSpec("a", Counter, significant=1), "True or False"),  # type: ignore[arg-type]
        (lambda: ChildSpec("a", Counter, init_timeout=0), "init_timeout is a number of seconds"),
        (lambda: ChildSpec("a", Counter, watchdog=float("nan")), "watchdog is a number"),
        (lambda: ChildSpec("a", Counter, backoff=1), "is a Backoff"),  # type: ignore[arg-type]
        (lambda: ChildSpec("a", Counter, backoff=Backoff(2, 1)), "grows"),
        (lambda: ChildSpec("a", Counter, backoff=Backoff(jitter=2)), "between 0 and 1"),
    ],
)
def test_a_wrong_specification_says_what_is_wrong(make: Any, text: str) -> None:
    with pytest.raises((ValueError, TypeError), match=text):
        make()


def test_specifications_side_by_side() -> None:
    twice = [ChildSpec("a", Counter), ChildSpec("b", Counter), ChildSpec("a", Counter)]
    with pytest.raises(ValueError, match="two children have the id 'a'"):
        start(*twice)
    with pytest.raises(ValueError, match="two children have the id 'a'"):
        check_childspecs(twice)
    significant = ChildSpec("s", Counter, restart="transient", significant=True)
    with pytest.raises(ValueError, match="significant, but the supervisor's auto_shutdown is"):
        check_childspecs([significant], "never")
    check_childspecs([significant])  # of a supervisor that is not known
    check_childspecs([significant], "any_significant")
    with pytest.raises(ValueError, match="auto_shutdown is one of"):
        check_childspecs([], "sometimes")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="ChildSpec objects"):
        check_childspecs([{"id": "a"}])  # type: ignore[list-item]
