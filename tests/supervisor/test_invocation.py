"""Methods as messages: which methods, which arguments, and what is said of wrong ones."""

import contextlib
import functools
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import PATIENCE, eventually, python

from supervisor import (
    CallTimeout,
    Continue,
    GenServer,
    Invocation,
    NoReply,
    ProcessDown,
    Ref,
    RemoteError,
    Sender,
    Stop,
    handler,
    multi_call,
)
from supervisor.protocol import codec, invocation


class Account(GenServer):
    def init(self, balance: int = 0) -> None:
        self.balance = balance
        self.waiting: list[Sender] = []
        self.notes: list[Any] = []

    @handler
    def add(self, amount: int, *, note: str = "") -> int:
        self.balance += amount
        self.notes.append(note)
        return self.balance

    @handler
    def many(self, first: Any, /, *rest: Any, **named: Any) -> list[Any]:
        return [first, rest, named]

    @handler
    def needs(self, *, key: str) -> str:
        return key

    @handler
    def wait(self) -> int | NoReply:
        assert self.sender is not None
        self.waiting.append(self.sender)
        return NoReply()

    @handler
    def release(self, value: int) -> None:
        assert self.sender is None
        for sender in self.waiting:
            self.reply(sender, value)

    @handler
    def leave(self) -> str | Stop:
        return Stop("left", reply="bye")

    @handler
    def go_on(self) -> int | Continue:
        return Continue("later", reply=self.balance)

    @handler
    def fail(self) -> None:
        raise ValueError("on request")

    @handler
    def refused(self) -> NoReply | None:
        assert self.sender is not None
        self.refuse(self.sender, KeyError("no such account"))
        return NoReply()

    @handler
    def class_for_object(self) -> Any:
        return NoReply

    def secret(self) -> int:
        return 4711

    def handle_call(self, request: Any, sender: Sender) -> Any:
        return [request, self.sender == sender]

    def handle_continue(self, argument: Any) -> None:
        self.notes.append(argument)

    @handler
    def noted(self) -> list[Any]:
        return self.notes


class Savings(Account):
    def add(self, amount: int, *, note: str = "savings") -> int:
        return super().add(2 * amount, note=note)

    leave = None  # type: ignore[assignment]  # as with __hash__


def test_a_method_is_called_in_the_actor() -> None:
    ref = Account.start_link(10)
    assert ref.call(Account.add, 5) == 15
    assert ref.call(Account.add, amount=5, note="five") == 20
    assert ref.call(Account.many, 1, (2, 3), x={4}) == [1, ((2, 3),), {"x": {4}}]
    assert ref.call(Account.needs, key="k") == "k"
    ref.cast(Account.add, 100)
    assert ref.call_async(Account.add, 1).result(PATIENCE) == 121
    assert ref.call("get") == ["get", True]  # terms are served beside


def test_what_is_returned_means_what_it_means_elsewhere() -> None:
    ref = Account.start_link(3)
    future = ref.call_async(Account.wait)
    assert ref.call(Account.go_on) == 3
    assert ref.call(Account.noted) == ["later"]
    ref.cast(Account.release, 7)
    assert future.result(PATIENCE) == 7
    with pytest.raises(KeyError, match="no such account"):
        ref.call(Account.refused)
    down = ref.monitor()
    assert ref.call(Account.leave) == "bye"
    assert down.wait(PATIENCE).reason == "left"


def test_a_cast_may_stop_its_actor() -> None:
    ref = Account.start_link()
    down = ref.monitor()
    ref.cast(Account.leave)
    assert down.wait(PATIENCE).reason == "left"


def test_an_exception_ends_the_actor_and_reaches_the_caller() -> None:
    ref = Account.start_link()
    with pytest.raises(RemoteError, match="ValueError: on request"):
        ref.call(Account.fail)
    ref = Account.start_link()
    with pytest.raises(RemoteError, match="class_for_object has returned the class NoReply"):
        ref.call(Account.class_for_object)


def test_a_subclass_has_its_bases_handlers_and_its_own_versions() -> None:
    ref = Savings.start_link()
    assert ref.call(Account.add, 5) == 10
    assert ref.call(Savings.add, 5) == 20
    assert ref.call(Account.noted) == ["savings", "savings"]
    with pytest.raises(TypeError, match="Savings has no handler 'leave'; it has: add, "):
        ref.call(Account.leave)
    assert ref.is_alive()


@pytest.mark.parametrize(
    ("method", "args", "kwargs", "says"),
    [
        (Account.secret, (), {}, r"Account.secret is not marked by @handler"),
        (GenServer.terminate, ("normal",), {}, r"GenServer.terminate is not marked by @handler"),
        (print, (), {}, "print is not marked by @handler"),
        (lambda: 1, (), {}, "<lambda> is not marked by @handler"),
        (Account.add, (), {}, "Account.add: missing a required argument: 'amount'"),
        (Account.add, (1, 2), {}, "Account.add: too many positional arguments"),
        (Account.needs, (), {}, "Account.needs: missing a required.* argument: 'key'"),
        (Account.add, (1,), {"nothing": 1}, "Account.add: got an unexpected keyword argument"),
        (
            Account.add,
            (1,),
            {"timeout": 1.0},
            r"a timeout, or retry, is given by ref",
        ),
        (Account.add, (object(),), {}, r"\[0\] is object, which cannot travel"),
    ],
)
def test_what_is_wrong_with_a_call_is_raised_where_it_is_made(
    method: Callable[..., Any], args: Any, kwargs: Any, says: str
) -> None:
    ref = Account.start_link()
    for use in (ref.call, ref.cast, ref.call_async):
        with pytest.raises(TypeError, match=says):
            use(method, *args, **kwargs)
    assert ref.statistics()["calls"] == ref.statistics()["casts"] == 0


class Elsewhere:
    """Another version of the class."""

    @handler
    def add(self, amount: int, more: int) -> int:
        raise AssertionError

    @handler
    def unknown(self) -> None:
        raise AssertionError


def test_another_version_of_the_class_is_told_and_the_actor_goes_on(
    capfd: pytest.CaptureFixture[str],
) -> None:
    ref: Ref = Account.start_link(1)
    with pytest.raises(TypeError, match="Account has no handler 'unknown'; it has: add, class_for"):
        ref.call(Elsewhere.unknown)
    with pytest.raises(TypeError, match=r"Account.add: too many positional arguments"):
        ref.call(Elsewhere.add, 1, 2)
    ref.cast(Elsewhere.unknown)
    assert ref.call(Account.add, 0) == 1
    eventually(lambda: "ignores a cast: Account has no handler 'unknown'" in capfd.readouterr().err)


def test_a_timeout_names_the_method() -> None:
    ref = Account.start_link()
    with pytest.raises(CallTimeout, match=r"has not replied to wait\(\) within 0.01 s"):
        ref.within(0.01).call(Account.wait)


def test_methods_are_traced() -> None:
    ref = Account.start_link()
    with ref.trace() as trace:
        ref.call(Account.add, 5, note="n")
        ref.cast(Account.add, 1)
        found = [trace.next(PATIENCE) for _ in range(3)]
    assert [(event.kind, repr(event.term)) for event in found] == [
        ("call", "add(5, note='n')"),
        ("reply", "5"),
        ("cast", "add(1)"),
    ]


def test_several_actors_are_called_by_a_method() -> None:
    refs = [Account.start_link(n) for n in range(3)]
    replies, errors = multi_call(refs, Account.add, 5)
    assert (replies, errors) == ([(ref, 5 + n) for n, ref in enumerate(refs)], [])
    with pytest.raises(TypeError, match=r"Account.add: missing"):
        multi_call(refs, Account.add)


def test_a_suspended_actor_keeps_methods_too() -> None:
    ref = Account.start_link()
    ref.suspend()
    ref.cast(Account.add, 1)
    future = ref.call_async(Account.add, 2)
    assert ref.statistics()["casts"] == 0
    assert not future.done()
    ref.resume()
    assert future.result(PATIENCE) == 3


def test_annotations_are_not_evaluated() -> None:
    """Python 3.14 looks them up when they are asked for, also without quotation marks."""
    one, other = ("Tree", "Nothing") if sys.version_info >= (3, 14) else ("'Tree'", "'Nothing'")
    code = (
        "from supervisor import GenServer, handler, named\n"
        "class Tree(GenServer):\n"
        "    @handler\n"
        f"    def add(self, one: {one}, other: {other} = 1) -> {other}: ...\n"
        "try: named('x', Tree).call(Tree.add)\n"
        "except TypeError as error: print(error)\n"
    )
    assert python(code) == "Tree.add: missing a required argument: 'one'\n"


# -- what may be a handler -------------------------------------------------------------------------


def wrapped(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def not_wrapped(function: Any) -> Any:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class Decorated(GenServer):
    @handler
    @wrapped
    def twice(self, n: int) -> int:
        return 2 * n

    @wrapped
    @handler
    def thrice(self, n: int) -> int:
        return 3 * n

    alias = twice


def test_handlers_may_be_decorated() -> None:
    ref = Decorated.start_link()
    assert ref.call(Decorated.twice, 2) == ref.call(Decorated.alias, 2) == 4
    assert ref.call(Decorated.thrice, 2) == 6
    with pytest.raises(TypeError, match=r"Decorated.twice: missing a required argument: 'n'"):
        ref.call(Decorated.twice)


async def waits(self: Any) -> None:
    raise AssertionError


async def waits_again(self: Any) -> Any:
    yield 1


@pytest.mark.parametrize(
    "callback", ["init", "handle_call", "handle_info", "terminate", "handle_packets"]
)
def test_an_async_callback_is_refused_when_the_class_is_defined(callback: str) -> None:
    with pytest.raises(TypeError, match=rf"Async.{callback} is an async function: an actor serves"):
        type("Async", (GenServer,), {callback: waits})


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (waits, "waits is an async function: an actor serves one message after the other"),
        (waits_again, "waits_again is an async function"),
        (staticmethod(print), "a handler is a plain method, not <staticmethod"),
        (classmethod(print), "a handler is a plain method, not <classmethod"),
        (property(print), "a handler is a plain method, not <property"),
        (5, "a handler is a plain method, not 5"),
        (Account, "a handler is a plain method, not <class"),
    ],
)
def test_what_is_no_handler(what: Any, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        handler(what)


@pytest.mark.parametrize("wrapper", [property, classmethod, staticmethod])
def test_a_wrapper_that_hides_a_handler_is_refused(wrapper: Any) -> None:
    def add(self: Any) -> None:
        raise AssertionError(self)

    with pytest.raises(TypeError, match=rf"Wraps.add is a {wrapper.__name__}, and so no handler"):
        type("Wraps", (GenServer,), {"add": wrapper(handler(add))})


class CallsBack(GenServer):
    @handler
    def later(self) -> None:
        self.call_later(0.0, waits)  # type: ignore[arg-type]


def test_an_async_function_is_not_called_back() -> None:
    with pytest.raises(RemoteError, match="is an async function: an actor calls plain ones back"):
        CallsBack.start_link().call(CallsBack.later)


def test_what_is_kept_is_no_handler() -> None:
    def add(self: Any) -> None:
        raise AssertionError(self)

    with pytest.raises(TypeError, match="kept names 'add', which is a handler"):
        type("Keeps", (GenServer,), {"add": handler(add), "kept": ("add",)})


def test_a_handler_takes_self() -> None:
    with pytest.raises(TypeError, match="alone takes no self: a handler is a method of an actor"):

        @handler
        def alone() -> None:
            raise AssertionError


def test_a_handler_that_callers_would_not_find_is_refused() -> None:
    with pytest.raises(TypeError, match=r"the handler Hidden.add calls itself 'wrapper'"):
        type("Hidden", (GenServer,), {"add": handler(not_wrapped(Account.secret))})
    with pytest.raises(TypeError, match=r"Private._Private__add calls itself '__add'"):

        class Private(GenServer):
            @handler
            def __add(self) -> None:
                raise AssertionError

    with pytest.raises(TypeError, match=r"Callback.handle_call is a callback of the actor, and no"):
        type("Callback", (GenServer,), {"handle_call": handler(Account.secret)})
    with pytest.raises(TypeError, match="a handler is a plain method, not 5"):
        type("Number", (Account,), {"add": 5})


@pytest.mark.parametrize("name", ["reference", "idle_timeout", "log", "sender", "monitor", "kept"])
def test_a_handler_has_no_name_of_what_every_actor_is(name: str) -> None:
    def method(self: Any) -> None:
        raise AssertionError

    method.__name__ = name
    with pytest.raises(TypeError, match=f"Odd.{name} has a name that every|kept"):
        type("Odd", (GenServer,), {name: handler(method)})


def test_a_generator_is_no_handler() -> None:
    def many(self: Any) -> Any:
        yield 1

    with pytest.raises(TypeError, match="many is a generator, which cannot travel as a reply"):
        handler(many)


def test_an_error_that_just_fits_ends_nothing() -> None:
    ref = Account.start_link()
    for size in range(codec.LIMIT - 70, codec.LIMIT - 50, 3):
        with pytest.raises((TypeError, ValueError)):
            ref._ask(14, ["add", [], {"x" * size: 1}], PATIENCE)
        with pytest.raises((TypeError, ValueError)):
            ref._ask(14, ["x" * size, []], PATIENCE)
    assert ref.call(Account.add, 1) == 1


# -- the message -----------------------------------------------------------------------------------

TERMS = st.none() | st.integers() | st.text() | st.lists(st.integers())


@given(st.lists(TERMS, max_size=3), st.dictionaries(st.text(), TERMS, max_size=3))
def test_an_invocation_is_what_was_called(args: list[Any], kwargs: dict[str, Any]) -> None:
    @handler
    def method(self: Any, *_: Any, **__: Any) -> None:
        raise AssertionError

    term = codec.unpack(codec.pack(invocation.term_of(method, tuple(args), kwargs)))
    assert Invocation.of(term) == Invocation("method", args, kwargs)
    assert codec.unpack(codec.pack(Invocation.of(term))) == Invocation("method", args, kwargs)


@given(st.recursive(TERMS, lambda inner: st.lists(inner, max_size=4), max_leaves=6))
def test_what_is_no_invocation_is_a_value_error(term: Any) -> None:
    with contextlib.suppress(ValueError):
        found = Invocation.of(term)
        assert [found.method, found.args] == term[:2]


def test_nonsense_of_a_stranger_closes_its_connection_alone() -> None:
    ref = Account.start_link()
    for nonsense in (5, [], ["add"], ["add", 5], [5, []], ["add", [], {5: 5}], ["add", [], [], 1]):
        with pytest.raises(ProcessDown):
            ref._ask(14, nonsense, PATIENCE)
    assert ref.call(Account.add, 1) == 1


def test_an_actor_is_stopped_while_a_method_is_under_way() -> None:
    ref = Account.start_link()
    future = ref.call_async(Account.wait)
    subprocess.run(["kill", "-9", str(ref.pid)], check=True)
    with pytest.raises(ProcessDown, match="killed"):
        future.result(PATIENCE)
