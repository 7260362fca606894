"""Errors travel as themselves, and their texts help."""

import dataclasses
import enum
from typing import Any

import pytest
from actors import Counter
from processes import PATIENCE

from supervisor import (
    CallTimeout,
    ChildSpec,
    GenServer,
    RemoteError,
    Sender,
    Supervisor,
    SupervisorRef,
)
from supervisor.errors import CARRIED
from supervisor.protocol import codec


def test_errors_of_every_kind_travel_as_themselves() -> None:
    for kind in CARRIED.values():
        for arguments in (("who", "why"), ("one",)):
            try:
                error = kind(*arguments)
            except TypeError:
                continue
            again = codec.unpack(codec.pack(error))
            assert type(again) is kind
            assert str(again) == str(error)
    assert type(codec.unpack(codec.pack(CallTimeout("late")))) is CallTimeout


class Color(str, enum.Enum):  # noqa: UP042 - it is about what str's subclasses answer
    """Text."""

    RED = "red"


def test_subclasses_travel_as_what_they_are_built_on() -> None:
    assert codec.unpack(codec.pack([Color.RED, enum.IntEnum("N", "A").A])) == ["red", 1]


def test_a_long_error_is_a_reason_all_the_same(capfd: Any) -> None:
    sup: SupervisorRef = Supervisor.start_link([ChildSpec("l", Long)])
    events = sup.events()
    with pytest.raises(RemoteError, match="RuntimeError: x"):
        sup.child("l").call("raise")
    reason = events.next(PATIENCE).reason
    assert isinstance(reason, RemoteError)
    assert reason.kind == "RuntimeError"
    assert len(reason.message) > 8000
    capfd.readouterr()


class Long(GenServer):
    """Fails with many words."""

    def handle_call(self, request: Any, sender: Sender) -> Any:
        raise RuntimeError("x" * 100_000)


def test_words_that_help() -> None:
    sup: SupervisorRef = Supervisor.start_link([])
    with pytest.raises(ValueError, match="a supervisor does not know 'get'"):
        sup.call("get")
    for make, text in (
        (lambda: ChildSpec("c", Counter, 5), "child 'c': args is a tuple of arguments"),  # type: ignore[arg-type]
        (lambda: ChildSpec("c", Counter, "abc"), "args is a tuple"),  # type: ignore[arg-type]
        (lambda: ChildSpec("c", Counter, (), None), "kwargs is a dict by name"),  # type: ignore[arg-type]
        (lambda: ChildSpec("c" * 300, Counter), "1 to 255 bytes"),
        (lambda: ChildSpec("c", Counter, shutdown=10**400), "shutdown is seconds"),
        (lambda: Supervisor.start_link(ChildSpec("c", Counter)), "a list of ChildSpec"),
        (
            lambda: Supervisor.start_link([ChildSpec("c", Counter, (lambda: 0,))]),
            "its arguments cannot be pickled",
        ),
        (lambda: Supervisor.start_link([], strategy="simple_one_for_one"), "DynamicSupervisor"),
    ):
        with pytest.raises((ValueError, TypeError), match=text):
            make()  # type: ignore[no-untyped-call]
    plan = dataclasses.replace(ChildSpec("x", Counter).plan(travels=True), id="y")
    assert plan.describe()["id"] == "y"
