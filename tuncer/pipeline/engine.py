"""What stages make of packets: the stages that run in one process, one after the other.

It knows neither logs nor processes, and so is what ``Pipeline.test`` runs, too.
"""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tuncer.pipeline.records import Item, Routed
from tuncer.pipeline.stage import Packets, Stage
from tuncer.protocol.packet import Packet

COUNTERS = ("taken", "made", "out", "dropped", "failed")
"""What is counted of a stage: taken + made = out + dropped + failed.

``taken`` packets that came in, ``made`` packets that a stage returned beyond one for each that it
was given, ``out`` packets that went on, ``dropped`` on purpose, ``failed``: the stage raised an
exception.
"""
TAKEN, MADE, OUT, DROPPED, FAILED = range(len(COUNTERS))

_Told = Callable[[Packet | None, BaseException], None]


class StageError(Exception):
    """A stage with ``on_error="crash"`` has raised an exception: its cause."""


@dataclass
class Runner:
    """A stage in a process: how to call it, and its counters."""

    name: str
    call: Callable[..., Any]
    is_batch: bool
    on_error: str
    failed: _Told
    """Told of each packet that has failed, if it is known, and why."""
    sinks: AbstractSet[str]
    """The names that ``to`` may give."""
    counters: list[int] = field(default_factory=lambda: [0] * len(COUNTERS))

    def run(self, items: list[Item]) -> list[Item]:
        """Return what the stage makes of packets; those for a sink pass by."""
        if Routed not in set(map(type, items)):
            return self._run(items)  # type: ignore[arg-type]
        found: list[Item] = []
        run: list[Packet] = []
        for item in items:
            if isinstance(item, Routed):
                found += self._run(run)
                found.append(item)
                run = []
            else:
                run.append(item)
        return found + self._run(run)

    def end(self, call: Callable[[], Iterable[Any] | None]) -> list[Item]:
        """Return what the stage gives after all packets."""
        try:
            found = self._made_of_many([], list(_results(call())))
        except Exception as error:  # noqa: BLE001 - whatever a stage raises
            self.counters[MADE] += 1
            self._fail(None, error)
            return []
        self.counters[OUT] += len(found)
        return found

    def _run(self, packets: list[Packet]) -> list[Item]:
        if not packets:
            return []
        counters = self.counters
        counters[TAKEN] += len(packets)
        found = self._batched(packets) if self.is_batch else self._one_by_one(packets)
        counters[OUT] += len(found)
        return found

    def _one_by_one(self, packets: list[Packet]) -> list[Item]:
        """Call the function for each packet, in C as far as possible."""
        results: list[Any] = []
        left = iter(packets)
        while True:
            try:
                results.extend(map(self.call, left))  # after an exception it has those before
            except Exception as error:  # noqa: BLE001 - whatever a stage raises
                results.append(_Failed(error))
            else:
                if len(results) == len(packets):
                    break
                # ``extend`` takes this exception of a function for the end of the packets.
                results.append(_Failed(RuntimeError("the stage has raised StopIteration")))
        if all(issubclass(kind, Packet) for kind in set(map(type, results))):
            return results
        found: list[Item] = []
        for packet, result in zip(packets, results, strict=True):
            found += self._made(packet, result)
        return found

    def _made(self, packet: Packet, result: Any) -> list[Item]:
        """Return what the function has made of one packet."""
        counters = self.counters
        if result is None:
            counters[DROPPED] += 1
            return []
        if isinstance(result, _Failed):
            return self._give_up(packet, result.error)
        try:
            made = self._items(result)
        except (TypeError, ValueError) as error:
            return self._give_up(packet, error)
        counters[MADE] += len(made) - 1 if made else 0
        counters[DROPPED] += not made
        return made

    def _batched(self, packets: list[Packet]) -> list[Item]:
        """Call the function for many packets; after an exception go on behind its packet."""
        found: list[Item] = []
        while packets:
            given = Packets(packets)
            results: list[Any] = []
            first_left = 0
            try:
                made = iter(_results(self.call(given)))
                results += itertools.islice(made, 1)
                first_left = given.left()
                results.extend(made)  # after an exception it has those before
            except Exception as error:  # noqa: BLE001 - whatever a stage raises
                done = len(packets) - given.left()
                if results and first_left > 0 and done > 0:  # it iterates one by one
                    begin = done - 1
                elif not results and done > 0:
                    begin = 0
                else:  # nothing tells which packet it was
                    begin, done = min(len(results), len(packets) - 1), len(packets)
                found += self._made_of_many(packets[:begin], results)
                for packet in packets[begin:done]:
                    found += self._give_up(packet, error)
                packets = packets[done:]
            else:
                found += self._made_of_many(packets, results)
                break
        return found

    def _made_of_many(self, packets: list[Packet], results: list[Any]) -> list[Item]:
        """Return what the function has made of many packets, and count it."""
        counters = self.counters
        if all(issubclass(kind, Packet) for kind in set(map(type, results))):
            found: list[Item] = results
            wrong = 0
        else:
            found, errors = self._checked(results)
            wrong = len(errors)
            for error in errors:
                self._fail(packets[0] if packets else None, error)
        difference = len(found) + wrong - len(packets)
        counters[MADE] += max(0, difference)
        counters[DROPPED] += max(0, -difference)
        return found

    def _checked(self, results: list[Any]) -> tuple[list[Item], list[Exception]]:
        """Return the packets among results, and what is wrong with the others."""
        found: list[Item] = []
        errors: list[Exception] = []
        for result in results:
            try:
                found += self._items(result)
            except (TypeError, ValueError) as error:
                errors.append(error)
        return found, errors

    def _fail(self, packet: Packet | None, error: Exception) -> None:
        """Count and tell that a packet has failed; with "crash" end the worker."""
        if self.on_error == "crash":
            raise StageError(f"stage {self.name!r} has raised an exception") from error
        self.counters[FAILED] += 1
        self.failed(packet, error)

    def _give_up(self, packet: Packet, error: Exception) -> list[Item]:
        """Do with a packet, for which the stage has raised an exception, what ``on_error`` says."""
        self._fail(packet, error)
        if self.on_error == "skip":
            return []
        self.counters[MADE] += 1
        return [Routed(self.on_error.removeprefix("to:"), packet)]

    def _items(self, result: Any) -> list[Item]:
        """Return what the stage has returned for a packet as a list.

        Raises:
            TypeError: it is no packet, nor None, nor a list of packets.
            ValueError: there is no such sink.
        """
        if result is None:
            return []
        found = list(result) if type(result) in {list, tuple} else [result]
        for one in found:
            if isinstance(one, Routed):
                if one.sink not in self.sinks:
                    raise ValueError(f"there is no sink {one.sink!r}, but {sorted(self.sinks)}")
            elif not isinstance(one, Packet):
                raise TypeError(
                    f"stage {self.name!r} returns packets, None, or a list of packets, not"
                    f" {result!r:.100}"
                )
        return found


def end_all(runners: Sequence[Runner], stages: Mapping[str, Stage]) -> list[Item]:
    """Return what stages give after all packets, one after the other: of ``Stage.handle_end``.

    Args:
        runners: the stages of a process.
        stages: those that are objects, by their names.
    """
    items: list[Item] = []
    for runner in runners:
        items = runner.run(items)
        if runner.name in stages:
            items += runner.end(stages[runner.name].handle_end)
    return items


def without_key(packet: Packet, error: Exception, stage: str, on_error: str) -> Item | None:
    """Return what goes on instead of a packet for which the function of ``by=`` has raised.

    Raises:
        StageError: with ``on_error="crash"``.
    """
    if on_error == "crash":
        raise StageError(f"the function of by= of stage {stage!r} has raised") from error
    return None if on_error == "skip" else Routed(on_error.removeprefix("to:"), packet)


class _Failed(NamedTuple):
    """Stands for what a stage would have returned, had it not raised an exception."""

    error: Exception


def _results(returned: Any) -> Iterable[Any]:
    return () if returned is None else returned


def run_all(runners: Sequence[Runner], items: list[Item]) -> list[Item]:
    """Return what stages, one after the other, make of packets."""
    for runner in runners:
        items = runner.run(items)
    return items


def text_of(error: BaseException) -> str:
    """Return an exception with its traceback, as a quarantine tells it."""
    try:
        text = "".join(traceback.format_exception(error)).rstrip()
    except Exception as worse:  # noqa: BLE001 - whatever its __str__ raises
        text = f"{type(error).__qualname__}, whose text raises {type(worse).__qualname__}"
    return text.encode(errors="backslashreplace").decode()
