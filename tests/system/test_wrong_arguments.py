"""Every public function with every kind of wrong argument: a clear error, and nothing changes."""

import inspect
import json
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from devices import TUN
from processes import Run

import tuncer
from tuncer import tunctl

NAN = float("nan")
LONG = "x" * 300
WRONG: list[Any] = [1.5, b"", "", "\0", "\ud800", [], {}, object(), -1, 1 << 80, NAN, LONG]

RIGHT: list[tuple[str, Any]] = [  # no mistakes: the empty alias, no bridge, no addresses, ...
    ("alias", ""),
    ("master", ""),
    ("filter", ""),
    ("compile_filter", ""),
    ("receive_filter", []),
    ("receive_filter", {}),
    ("setopt", -1),
    ("create", ""),
    ("create", -1),  # a mode
    ("recv", 1 << 80),  # a long time
    ("subscribe", 1 << 80),  # the same
    ("subscribe", 1.5),
]
GOOD = {  # for the arguments that are not the one that is tried
    "address": "10.44.0.1/24",
    "destination": "10.45.0.0/16",
    "peer": "10.44.0.2",
    "name": "lab7",
    "expression": "udp",
    "active": True,
    "what": 0,
    "flags": TUN,
    "data": b"1234",
    "namespace": os.getpid(),
    "fd": 1 << 20,
}


def good(function: Callable[..., Any], parameter: str) -> Any:
    return "10.44.0.9" if function.__name__ == "broadcast" else GOOD[parameter]


class Try(NamedTuple):
    """A call with one wrong argument."""

    function: Callable[..., Any]
    before: list[Any]
    parameter: inspect.Parameter
    value: Any

    def __str__(self) -> str:
        return f"{self.function.__name__}({self.parameter.name}={self.value!r:.40})"

    def call(self) -> Any:
        """Make it."""
        if self.parameter.kind is self.parameter.VAR_POSITIONAL:
            return self.function(*self.before, self.value)
        return self.function(*self.before, **{self.parameter.name: self.value})


def tries(functions: list[Callable[..., Any]], first: tuple[Any, ...] = ()) -> Iterator[Try]:
    """Yield each function with each wrong value in each of its places."""
    for function in functions:
        parameters = list(inspect.signature(function).parameters.values())[len(first) :]
        needed = [p for p in parameters if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
        for parameter in parameters:
            before = needed[: needed.index(parameter)] if parameter in needed else needed
            after = [p for p in needed if p not in before and p != parameter]
            for value in WRONG:
                right = any(value is v or (value == v) for n, v in RIGHT if n == function.__name__)
                if not right and not after:
                    arguments = [good(function, p.name) for p in before]
                    yield Try(function, [*first, *arguments], parameter, value)


def state(run: Run) -> Any:
    routes = [run("ip", f, "-j", "route", "show", "table", "all") for f in ("-4", "-6")]
    return json.loads(run("ip", "-j", "-d", "addr")), routes


def check(run: Run, tried: Iterator[Try]) -> int:
    """Make the calls; return how many."""
    before, descriptors = state(run), len(os.listdir("/proc/self/fd"))
    unclear, count = [], 0
    for one in tried:
        count += 1
        try:
            one.call()
        except (OSError, ValueError, TypeError, KeyError) as error:
            if len(str(error)) < 12:
                unclear.append(f"{one}: {error!r}")
        except BaseException as error:  # noqa: BLE001 - AttributeError, StartFailed, ... are no answers
            unclear.append(f"{one}: {error!r:.200}")
        else:
            unclear.append(f"{one} was taken")
    assert not unclear, "\n".join(unclear)
    assert state(run) == before
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    return count


def of_a_device() -> list[Callable[..., Any]]:
    """Return the functions of tunctl that take a device first."""
    functions = [
        getattr(tunctl, n) for n in tunctl.__all__ if inspect.isfunction(getattr(tunctl, n))
    ]
    leave_out = {"attached", "change_address", "attach_filter"}
    return [
        function
        for function in functions
        if next(iter(inspect.signature(function).parameters), "") in {"target", "fd"}
        and function.__name__ not in leave_out
    ]


def test_functions_of_a_device_by_system_calls(run: Run) -> None:
    fd = tunctl.create("lab0", TUN)
    tunctl.up(fd, "10.9.0.1/24", link_local=False)
    functions = [function for function in of_a_device() if function is not tunctl.delete]
    assert check(run, tries(functions, (fd,))) > 400
    assert tunctl.flags(fd) == TUN
    os.close(fd)


@pytest.mark.parametrize("target", [None, 1.5, b"lab0", [], {}, object(), True, -1, 1 << 80, ""])
def test_what_is_no_device(target: Any) -> None:
    for function in of_a_device():
        parameters = list(inspect.signature(function).parameters.values())[1:]
        others = [good(function, p.name) for p in parameters if p.default is p.empty]
        with pytest.raises((OSError, TypeError), match=r"descriptor|device|name"):
            function(target, *others)


def test_methods_of_a_device(run: Run) -> None:
    with tuncer.create("lab0", TUN) as dev:
        with pytest.raises(OSError, match="no packet for this kind"):
            dev.send(bytes(40))  # from here on this process has a descriptor of the device
        dev.up("10.9.0.1/24", link_local=False)
        leave_out = {"close", "destroy", "arecv", "asend", "aup", "asubscribe"}
        methods = [getattr(dev, name) for name in dir(type(dev)) if not name.startswith("_")]
        tried = [m for m in methods if inspect.ismethod(m) and m.__name__ not in leave_out]
        pid = dev.pid
        assert check(run, tries(tried)) > 400
        assert (dev.pid, dev.flags(), dev.statistics()["subscribers"]) == (pid, TUN, 0)


def test_functions_without_a_device(run: Run) -> None:
    tuncer.create("first", TUN).destroy()  # so that the root is there
    functions = [tuncer.create, tuncer.adopt, tuncer.attach, tuncer.header, tuncer.read]
    assert check(run, tries(functions)) > 100
    check(run, tries([tunctl.create, tunctl.check, tunctl.compile_filter]))
    assert tuncer.devices() == []
