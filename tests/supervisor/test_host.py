"""Several objects in one actor."""

from typing import Any

import pytest
from processes import eventually

from supervisor import GenServer, RemoteError, handler, named
from supervisor.host import Host


class Adds(GenServer):
    def init(self, n: int) -> None:
        self.n = n

    @handler
    def add(self, n: int) -> int:
        self.n += n
        return self.n

    def handle_call(self, request: Any, sender: Any) -> Any:
        return ["adds", request]

    def handle_cast(self, request: Any) -> None:
        self.n = request

    def handle_info(self, message: Any) -> None:
        self.n = -message


class Ticks(GenServer):
    def init(self) -> None:
        self.ticks = 0
        self.call_every(0.001, self.tick)

    def tick(self) -> None:
        self.ticks += 1

    @handler
    def count(self) -> int:
        return self.ticks


class House(Host):
    def init(self, both: bool) -> None:
        self.callbacks = 0
        self.make(Adds).init(5)
        if both:
            self.make(Ticks).init()

    def after_callback(self) -> None:
        self.callbacks += 1


def test_calls_go_to_the_object_that_has_the_handler() -> None:
    ref: Any = House.start_link(both=True)
    assert ref.call(Adds.add, 2) == 7
    eventually(lambda: ref.call(Ticks.count) > 2)
    assert ref.get_state()["callbacks"] > 2
    with pytest.raises(RemoteError, match=r"2 objects live in .* only a handler's name tells"):
        ref.call("a term")


def test_terms_go_to_the_only_object() -> None:
    ref: Any = House.start_link(both=False, name="house")
    assert ref.call("a term") == ["adds", "a term"]
    ref.cast(10)
    assert ref.call(Adds.add, 1) == 11
    named("house").send(3)
    assert ref.call(Adds.add, 1) == -2
    with pytest.raises(TypeError):
        ref.call(Ticks.count)
