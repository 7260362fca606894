"""Terms on the wire: what goes in comes out, what cannot travel is named."""

import contextlib
import dataclasses
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any

import msgpack
import pytest
from actors import Counter
from hypothesis import given
from hypothesis import strategies as st

from supervisor import (
    ChildSpec,
    Down,
    NotFound,
    Ref,
    RemoteError,
    Shutdown,
    Supervisor,
    SupervisorRef,
)
from supervisor.linux import Process
from supervisor.protocol import codec

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.datetimes(
        timezones=st.just(UTC), min_value=datetime(1970, 1, 1), max_value=datetime(2100, 1, 1)
    )
)


keys = st.integers() | st.text() | st.binary() | st.tuples(st.integers(), st.text())


terms = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.sets(st.integers(), max_size=4)
        | st.frozensets(st.text(), max_size=4)
        | st.builds(Shutdown, inner)
    ),
    max_leaves=20,
)


@pytest.mark.slow
@given(terms)
def test_a_term_arrives_as_it_was(term: Any) -> None:
    assert codec.unpack(codec.pack(term)) == term


@given(st.binary(max_size=200))
def test_any_bytes_are_a_term_or_a_value_error(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        codec.unpack(data)


def test_references_and_reasons_travel() -> None:
    ref = Ref(Process(1, 2), None)
    for term in (ref, Ref(name="x"), Down(ref, 1, "killed"), Down(ref, 1, Shutdown([1]))):
        assert codec.unpack(codec.pack(term)) == term


def test_errors_travel_as_data() -> None:
    error = codec.unpack(codec.pack(RemoteError("m.Kind", "text", "trace")))
    assert (error.kind, error.message, error.trace) == ("m.Kind", "text", "trace")
    assert isinstance(codec.unpack(codec.pack(NotFound("who"))), NotFound)
    missing = codec.unpack(codec.pack(FileNotFoundError(2, "no", "lab0")))
    assert (type(missing), missing.errno, missing.filename) == (FileNotFoundError, 2, "lab0")


def test_subclasses_travel_as_what_they_are_built_on() -> None:
    class Colour(IntEnum):
        RED = 3

    assert codec.unpack(codec.pack([Colour.RED])) == [3]


@pytest.mark.parametrize(
    ("term", "where"),
    [
        ({"a": [1, object()]}, r"message\['a'\]\[1\] is object"),
        ([{1: datetime(2020, 1, 1)}], r"message\[0\]\[1\] is a naive datetime"),
        ({(1, print): 2}, r"builtin_function"),
        (lambda: 0, r"the message is function"),
    ],
)
def test_what_cannot_travel_is_named(term: Any, where: str) -> None:
    with pytest.raises(TypeError, match=where):
        codec.pack(term)


def test_a_message_has_a_limit() -> None:
    with pytest.raises(ValueError, match="over the limit"):
        codec.pack(bytes(codec.LIMIT))


def test_nesting_has_a_limit_on_both_sides() -> None:
    term: Any = 1
    for _ in range(60):
        term = (term,)
    assert codec.unpack(codec.pack(term)) == term
    for _ in range(60):
        term = (term,)
    with pytest.raises(TypeError, match=r"nested|cannot travel"):
        codec.pack(term)
    data = msgpack.packb(1)
    for _ in range(3000):
        data = msgpack.packb(msgpack.ExtType(1, data))
    with pytest.raises(ValueError, match="nested"):
        codec.unpack(data)


def test_extensions_within_extensions_and_errors_between_them() -> None:
    nested = (1, {2, (3, frozenset({1 << 90}))}, [ValueError("x", (4,))], Shutdown((5, {6})))
    for _ in range(3):
        with pytest.raises(TypeError, match="cannot travel"):
            codec.pack([nested, (object(),)])
        again = codec.unpack(codec.pack([nested, nested]))
        assert repr(again) == repr([nested, nested])


def test_a_code_has_one_owner() -> None:
    class Other:
        pass

    for code, owner in ((codec.Code.REF, "Ref"), (codec.Code.BIG_INTEGER, "this module")):
        with pytest.raises(ValueError, match=f"is taken already, by {owner}"):
            codec.extend(code, Other, lambda _: None, lambda _: Other())
    with pytest.raises(ValueError, match="from 0 to 127"):
        codec.extend(128, Other, lambda _: None, lambda _: Other())
    with pytest.raises(ValueError, match=f"Ref travels already, by code {codec.Code.REF}"):
        codec.extend(100, (Other, Ref), lambda _: None, lambda _: Other())
    with pytest.raises(TypeError, match="Other"):
        codec.pack(Other())  # of a call that was refused nothing stays


def test_nothing_from_a_mailbox_is_unpickled() -> None:
    sup: SupervisorRef = Supervisor.start_link([])
    plan = ChildSpec("c", Counter).plan()
    assert plan.pickled
    with pytest.raises(TypeError, match="pickled"):
        sup.call(["start_child", plan, None])
    forged = codec.pack(dataclasses.replace(plan, pickled=False)).replace(
        b"pickled\xc2", b"pickled\xc3"
    )
    with pytest.raises(ValueError, match="unpickled"):
        codec.unpack(forged)
    with pytest.raises(TypeError, match="takes a ChildSpec"):
        sup.call(["start_child", vars(plan), None])
