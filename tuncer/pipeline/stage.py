"""Stages: what a pipeline does with packets.

A stage is a function of a packet, a function of many packets, or a ``Stage`` class.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from supervisor import Backoff, GenServer
from supervisor.lowlevel import reference_to
from tuncer.pipeline.records import Item, Routed
from tuncer.protocol.packet import Packet

By: TypeAlias = "Literal['flow', 'any', 'ordered'] | Callable[[Packet], Any]"
"""Which worker of a stage gets a packet.

"flow": all packets of a flow, of both directions, the same one. "any": the one that has the least
to do. "ordered": the one whose turn it is, and behind the stage their order is restored. A function
of the packet: packets for which it returns the same go to the same one; its result is a number,
text, bytes, None, or a tuple of these.
"""
OnKill: TypeAlias = Literal["retry", "skip"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_MOST_WORKERS = 64
WAYS = ("flow", "any", "ordered")


def to(sink: str, packet: Packet) -> Routed:
    """Send a packet to a sink by its name, past all further stages: for a stage to return."""
    return Routed(sink, packet)


class Packets(Sequence[Packet]):
    """What ``handle_batch`` is given: a sequence that knows how far it has been iterated."""

    def __init__(self, packets: list[Packet]) -> None:
        self._packets = packets
        self._iterated = iter(packets)

    def __iter__(self) -> Iterator[Packet]:
        self._iterated = iter(self._packets)
        return self._iterated

    def __getitem__(self, index: Any) -> Any:
        return self._packets[index]

    def __len__(self) -> int:
        return len(self._packets)

    def left(self) -> int:
        """Return how many were not iterated yet, by the latest iterator."""
        return self._iterated.__length_hint__()  # type: ignore[attr-defined, no-any-return]


class Stage(GenServer):
    """A stage with state: a GenServer, an object for each worker of the stage.

    ``init`` gets the arguments of ``spec``. Packets come to ``handle_batch``, in turns with calls,
    casts, messages and timers. Other processes call methods that are marked by ``handler``, by
    ``PipelineRef.gather`` or by a worker's reference.

    The attributes that ``kept`` names survive a crash. They are committed together with what
    ``handle_batch`` has yielded, and with the position behind the packets that it was given: so
    over a crash each packet counts in them exactly once.
    """

    was_restored = False
    emitter: Callable[[Sequence[Item]], None] | None = None

    def emit(self, *packets: Item) -> None:
        """Have packets of the stage itself go on, as if ``handle_batch`` had yielded them.

        For timers, messages and handlers: what they change of ``kept`` is committed with that.
        Packets that are emitted go on before the next batch is handled; those that are emitted
        while one is handled, behind what comes of it. After the end of the source they are dropped,
        and a warning says so.

        Args:
            *packets: packets, or what ``to`` returns.

        Raises:
            BufferError: 16 MiB wait already, as the next stage has no room.
            RuntimeError: the stage has ``by="ordered"`` and several workers, or runs in
                ``Pipeline.test``, where there are no timers.
        """
        if self.emitter is None:
            raise RuntimeError(f"{type(self).__qualname__} runs in no worker, and emits nothing")
        self.emitter(packets)

    @property
    def restored(self) -> bool:
        """Whether the attributes of ``kept`` are those of a former incarnation."""
        return self.was_restored

    def handle_end(self) -> Iterable[Item | None] | None:
        """Return or yield packets after all others: called once, when the source has ended.

        Everything that came before has been handled. Not for a stage with ``by="ordered"``.
        """
        return None

    def handle_batch(self, packets: Packets) -> Iterable[Item | None]:
        """Do with packets what is to be done; what is yielded or returned goes on, in its order.

        A packet that is not yielded is dropped on purpose.

        Args:
            packets: one at least, in their order.
        """
        raise NotImplementedError(f"{type(self).__qualname__} handles no packets: {packets!r:.80}")

    @classmethod
    def spec(cls, *args: Any, workers: int | None = None, **options: Any) -> StageSpec:
        """Return this stage with arguments for ``init``, and with options: see ``StageSpec``."""
        return StageSpec(cls, args, workers=workers, **options)


@dataclass(frozen=True)
class StageSpec:
    """A stage with options.

    Args:
        start: a function of a packet, which returns a packet, None (it is dropped on purpose), or a
            list of packets; or a subclass of ``Stage``. It stands at the top level of a module.
        args: for ``Stage.init``. They must be able to travel in a message.
        kwargs: for ``Stage.init`` too.
        workers: how many processes run the stage. Without it the stage runs in the process of the
            stage before it, or of the source.
        by: which of the workers gets a packet.
        batch: ``start`` is a function of many packets: it gets ``Packets``, and returns or yields
            as ``Stage.handle_batch``.
        name: what the stage is called; by default what ``start`` is called, in lower case.
        on_error: what is done with a packet for which the stage, or the function of ``by``, raises
            an exception. "skip": it is counted and logged. "to:NAME": it goes to that sink.
            "crash": the worker ends, and then it is as if it had been killed. A ``handle_batch``
            that is a generator, and iterates over the packets one by one, goes on behind the packet
            that failed. Of any other all packets have failed that it has looked at and not passed
            on.
        on_kill: what is done with the packets that a worker had in hand when it was killed.
            "retry": its successor gets them again; packets that kill a worker twice are halved,
            until the one that does it is alone, and is quarantined. "skip": they are counted as
            lost. Of a stage without workers that of the process's first stage counts.
        backoff: a ``Backoff``, how long to wait before a restart of a worker. As the next one, of
            the first stage of a process.
        watchdog: seconds that one transaction may take, with up to 256 packets, before the worker
            is killed as hung; see ``ChildSpec``.

    Raises:
        TypeError, ValueError: what is wrong with it.
    """

    start: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    workers: int | None = None
    by: By = "any"
    batch: bool = False
    name: str | None = None
    on_error: str = "skip"
    on_kill: OnKill = "retry"
    backoff: Backoff | None = None
    watchdog: float | None = None

    def __post_init__(self) -> None:
        self._check_start()
        who = f"stage {self.title!r}"
        check_name(who, self.title)
        self._check_workers(who)
        if self.on_error not in {"skip", "crash"} and not _is_route(self.on_error):
            raise ValueError(
                f"{who}: on_error is 'skip', 'crash' or 'to:NAME', not {self.on_error!r:.100}"
            )
        if not isinstance(self.batch, bool):
            raise TypeError(f"{who}: batch is True or False, not {self.batch!r:.100}")
        self._check_watchdog(who)
        if self.on_kill not in {"retry", "skip"}:
            raise ValueError(f"{who}: on_kill is 'retry' or 'skip', not {self.on_kill!r:.100}")

    def _check_watchdog(self, who: str) -> None:
        given = self.watchdog
        if given is not None and (isinstance(given, bool) or not isinstance(given, (int, float))):
            raise TypeError(f"{who}: watchdog is a number of seconds, not {given!r:.100}")
        if given is not None and not 0 < given < math.inf:
            raise ValueError(f"{who}: watchdog is above 0, not {given}")

    def _check_start(self) -> None:
        is_class = isinstance(self.start, type)
        if not callable(self.start) or (is_class and not issubclass(self.start, Stage)):
            raise TypeError(
                f"a stage is a function of a packet, or a subclass of Stage, not {self.start!r:.99}"
            )
        reference_to(self.start)
        if is_class and self.batch:
            raise ValueError(f"{self.start.__qualname__} is a Stage, and gets batches anyway")
        if is_class and self.start.handle_batch is Stage.handle_batch:
            raise TypeError(f"{self.start.__qualname__} has no handle_batch of its own")
        if not is_class and (self.args or self.kwargs):
            raise ValueError("a function of packets gets no further arguments: write a Stage")

    def _check_workers(self, who: str) -> None:
        if self.workers is not None:
            is_number = isinstance(self.workers, int) and not isinstance(self.workers, bool)
            if not is_number or not 1 <= self.workers <= _MOST_WORKERS:
                raise ValueError(
                    f"{who}: workers is a number from 1 to {_MOST_WORKERS}, not {self.workers!r}"
                )
        if not (callable(self.by) or self.by in WAYS):
            raise ValueError(f"{who}: by is one of {WAYS}, or a function, not {self.by!r:.100}")
        if self.by != "any" and self.workers is None:
            raise ValueError(f"{who}: by says which of its workers gets a packet: give workers=")

    @property
    def title(self) -> str:
        """What the stage is called."""
        named = self.name if self.name is not None else getattr(self.start, "__name__", "stage")
        return named if self.name is not None else named.strip("_").lower() or "stage"

    @property
    def is_class(self) -> bool:
        """Whether it is a ``Stage``."""
        return isinstance(self.start, type)


def stage(start: Any, **options: Any) -> StageSpec:
    """Return a stage with options: a function, say, with workers of its own. See ``StageSpec``."""
    return StageSpec(start, **options)


def specified(given: Any) -> StageSpec:
    """Return the specification of what stands in a list of stages."""
    return given if isinstance(given, StageSpec) else StageSpec(given)


def check_name(what: str, name: Any) -> None:
    """Check a name of a stage, a sink or a pipeline.

    Raises:
        ValueError, TypeError: it is none.
    """
    if not isinstance(name, str):
        raise TypeError(f"{what}: a name is text, not {name!r:.100}")
    if not _NAME.fullmatch(name) or len(name) > 64:
        raise ValueError(
            f"{what}: a name has 1 to 64 letters, digits, '_', '-' and '.', not {name!r:.100}"
        )


def _is_route(on_error: Any) -> bool:
    return isinstance(on_error, str) and on_error.startswith("to:") and len(on_error) > 3


def kept_of(stage: Stage) -> dict[str, Any]:
    """Return what a stage keeps.

    Raises:
        AttributeError: which attribute is not there.
    """
    attributes = vars(stage)
    try:
        return {name: attributes[name] for name in stage.kept}
    except KeyError as error:
        who = type(stage).__qualname__
        raise AttributeError(f"{who}.kept names {error}, which is not set on self") from None
