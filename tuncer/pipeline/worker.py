"""A worker of a pipeline: an actor that runs the stages of a segment, one shard of it.

It works in transactions. It takes packets of its source or of one of its inputs, runs the stages,
delivers what goes to its sinks, writes the rest to its outputs, and commits all of this by one
store (see ``arena``). Between two transactions it serves messages and timers.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from supervisor import NoReply, Sender
from supervisor.lowlevel import Host, Timer, load_reference, pack_exact, unpack
from tuncer.pipeline import (
    edge_log,
    engine,
    failures,
    feed,
    opened,
    plan,
    records,
    shards,
    sinks,
    sources,
)
from tuncer.pipeline.arena import (
    HAND,
    HAND_COUNT,
    HAND_INPUT,
    KILLS,
    LIMIT,
    SUSPECTS,
    Arena,
)
from tuncer.pipeline.engine import COUNTERS, Runner, run_all
from tuncer.pipeline.failures import Suspicion
from tuncer.pipeline.feed_source import FeedSource
from tuncer.pipeline.plan import Edge, Plan
from tuncer.pipeline.records import Item, Record, Routed
from tuncer.pipeline.stage import Stage, kept_of
from tuncer.pipeline.tracing import Trace, Tracer
from tuncer.protocol.packet import Packet

log = logging.getLogger("tuncer")

ARENA, WAKE, DONE = "pipeline arena", "wake", "pipeline done"
"""Names of descriptors in a worker's store: the memory, eventfds of workers, the supervisor's."""

_MOST = 256  # packets of a transaction
_LONGEST = 1 << 62  # bytes, more than there are
_MOST_BYTES = 1 << 20  # of what a source gives to a transaction
_TURNS = 8  # transactions between two looks at messages
_NOTHING = (1 << 63) - 1  # an input: the transaction ends this worker, and takes nothing
_EMITTED = (1 << 63) - 2  # an input: the packets are of stages themselves, and nothing is taken


def wake_name(worker: int) -> str:
    """Return the name of a worker's eventfd in the stores of its neighbours."""
    return f"{WAKE} {worker}"


class _Hand(NamedTuple):
    """What a worker has taken, and not committed yet."""

    items: list[Item]
    input: int
    position: int
    """Of the next packet's record in the input."""
    done: int
    """Packets of that record that are done with then."""
    ticket: int
    is_last: bool
    """Whether these are the last ones of their ticket."""
    is_given_up: bool = False
    """Whether they are lost, or quarantined."""


class _Pending(NamedTuple):
    """What came of a hand: it waits for room in the outputs."""

    hand: _Hand
    records: list[list[Record]]
    """Those of each output."""
    delivered: list[tuple[int, list[Packet]]]
    """Sinks, and what they get."""


class Worker(Host):
    """One shard of a segment."""

    def init(self, term: dict[str, Any], number: int) -> None:
        """Go on where a former incarnation has committed; or begin.

        Args:
            term: the pipeline's plan.
            number: which worker this is.
        """
        self._plan = Plan.of(term)
        self._number = number
        place = self._plan.places[number]
        self._segment = self._plan.segments[place.segment]
        self._fds = self.stored_fds()
        self._wake = self._fds[wake_name(number)]
        self._arena = Arena(self._fds[ARENA], self._plan.layout)
        self._page = self._arena.page(number)
        self._slot = self._plan.slot(number)
        self._words = self._page.read()
        self._inputs = self._plan.inputs(number)
        self._outputs = self._plan.outputs(number)
        self._logs = {e.log: self._arena.log(e.log) for e in (*self._inputs, *self._outputs)}
        self._heads = [0] * len(self._inputs)
        self._pages = {
            other: self._arena.page(other)
            for edge in (*self._inputs, *self._outputs)
            for other in (edge.producer, edge.consumer)
        }
        self._most_bytes = min(_MOST_BYTES, edge_log.most(self._plan.log_bytes) // 2)
        self._next_input = 0
        self._pending: _Pending | None = None
        self._polled = -1
        self._timer: Timer | None = None
        self._emitted: list[tuple[int, list[Item]]] = []
        """Stages, and packets of theirs that are to go on."""
        self._is_ordered = self._segment.by == "ordered" and self._segment.workers > 1
        self._hidden = 0  # failures that were not logged, as others were just before
        self._places_of_heads = [self._place_of_head(edge) for edge in self._inputs]
        self._places_of_tails = [self._place_of_tail(edge) for edge in self._outputs]
        self._added: dict[int, int] = {}
        """What the next commit adds to counters: until then a kill has changed nothing."""
        ends = [self._arena.page(shard) for shard in range(len(self._plan.sources))]
        self._tracer = Tracer(self._arena, self._page, self._words, self._plan.id(number), ends)
        self._trace: Trace | None = None
        self._begin_stages()
        self._begin_ends(place)
        self._share = self._sharing(place.segment)
        self._forced = self._recover()
        self._commit_source()
        self.add_reader(self._wake, self._turn)
        self._wake_all()

    def _wake_all(self) -> None:
        """Wake this worker and its neighbours.

        A predecessor may have been killed between a commit and what tells others of it.
        """
        for name, fd in self._fds.items():
            if name.startswith(WAKE):
                os.eventfd_write(fd, 1)
        if self._words[plan.ENDED]:
            os.eventfd_write(self._fds[DONE], 1)

    def handle_call(self, request: Any, sender: Sender) -> Any:
        """Take packets for a source that others feed; all else is for a stage."""
        if not feed.is_request(request):
            return super().handle_call(request, sender)
        if not isinstance(self._source, FeedSource):
            return "it has a source of its own"
        if self._words[plan.ENDED]:
            return "the pipeline has ended"
        try:
            self._source.accept(request, lambda refused: self.reply(sender, refused))
        except ValueError as error:
            return str(error)
        self._again()
        return NoReply()

    # -- the beginning -----------------------------------------------------------------------------

    def _begin_stages(self) -> None:
        words, slot = self._words, self._slot
        self._objects: dict[str, Stage] = {}
        """The stages that are objects, by their names."""
        self._runners: list[Runner] = []
        names = frozenset(sink.name for sink in self._plan.sinks)
        for number, told in enumerate(self._segment.stages):
            call = load_reference(told.start)
            if told.is_class:
                stage = self._objects[told.name] = self.make(call)
                stage.emitter = functools.partial(self._emit, number)
                call = stage.handle_batch
            is_batch = told.is_class or told.batch
            runner = Runner(told.name, call, is_batch, told.on_error, self._note_failure, names)
            place = slot.stage(number)
            runner.counters[:] = words[place : place + len(COUNTERS)]
            self._runners.append(runner)
        self._restore_kept()
        for told in self._segment.stages:
            if told.is_class:
                result = self._objects[told.name].init(*told.args, **told.kwargs)
                if result is not None:
                    raise TypeError(f"{told.start}.init returns nothing, not {result!r:.100}")
        self._keeps = self._plan.keeps(self._plan.places[self._number])

    def _begin_ends(self, place: plan.Place) -> None:
        words, slot = self._words, self._slot
        self._source: sources.Source | None = None
        self._source_is_over = False
        self._missed_before = words[plan.MISSED]
        if place.segment == 0:
            told = self._plan.sources[place.shard]
            position, identity = words[plan.SOURCE_POSITION], words[plan.SOURCE_IDENTITY]
            self._source = opened.source(told, position, identity, self._kept_of_source)
        self._sinks: list[sinks.Sink] = []
        self._sink_numbers: dict[str, int] = {}
        for number, sink in enumerate(self._plan.sinks_of(place.segment)):
            at = slot.sink(number)
            position = words[at + plan.SINK_POSITION]
            self._sinks.append(opened.sink(sink, position, self._arena.identity, self._again))
            self._sink_numbers[sink.name] = number
        self._sink_names = list(self._sink_numbers)
        first = self._plan.sinks[0].name if self._plan.sinks else None
        is_last = place.segment == len(self._plan.segments) - 1 - bool(self._plan.exclusive)
        self._default = first if is_last else None
        self._is_last = is_last

    def _commit_source(self) -> None:
        """Commit where the source begins, at the first start.

        An incarnation that is killed before its first transaction has a successor, which does not
        begin at a later packet, and does not wait for a device that is being restarted, too.
        """
        words, source = self._words, self._source
        if source is not None and source.identity and not words[plan.SOURCE_IDENTITY]:
            words[plan.SOURCE_POSITION] = source.position
            words[plan.SOURCE_IDENTITY] = source.identity
            self._page.commit(words)

    def _sharing(self, segment: int) -> Callable[[Sequence[Item]], shards.Shares] | None:
        """Return what shares packets out among the workers of the next segment."""
        if not self._outputs:
            return None
        following = self._plan.segments[segment + 1]
        if following.workers == 1 or following.by == "any":
            return self._to_any
        if following.by == "ordered":
            return self._to_next
        if following.by == "flow":
            return shards.by_flow(following.workers)
        return shards.by_key(following.workers, load_reference(following.by), self._without_key)

    def _without_key(self, packet: Packet, error: Exception) -> Item | None:
        """Do with a packet what the next stage's ``on_error`` says: its ``by=`` has raised."""
        following = self._plan.segments[self._plan.places[self._number].segment + 1].stages[0]
        found = engine.without_key(packet, error, following.name, following.on_error)
        self._note_failure(packet, error)
        if self._trace is not None:
            verdict = "unassigned" if found is None else following.on_error.replace(":", " ")
            self._trace.each([packet], following.name, verdict, f"by=: {error!r}")
        if found is None:
            self._added[plan.UNASSIGNED] = self._added.get(plan.UNASSIGNED, 0) + 1
        return found

    def _recover(self) -> tuple[str, int, int] | None:
        """Look at what a predecessor had in hand when it was killed.

        Returns:
            What is to be done with the first packets ("retry", "skip" or "quarantine"), of which
            input, and how many they are; None: nothing special.
        """
        words = self._page.words
        hand = words[HAND]
        if hand != self._page.version + 1:
            return None
        before = Suspicion(words[KILLS], words[LIMIT], words[SUSPECTS])
        of, count = words[HAND_INPUT], words[HAND_COUNT]
        self._reason = self._page.reason(hand) or "its worker was killed"
        verdict = failures.after_kill(count, before, self._segment.on_kill)  # type: ignore[arg-type]
        self._suspect(verdict.suspicion)
        if verdict.what == "retry":
            count = verdict.suspicion.limit
        return None if verdict.what == "go on" else (verdict.what, of, count)

    def _suspect(self, suspicion: Suspicion) -> None:
        words = self._page.words
        words[KILLS], words[LIMIT], words[SUSPECTS] = suspicion

    @property
    def _limit(self) -> int:
        return self._page.words[LIMIT] or _MOST

    # -- what is kept ------------------------------------------------------------------------------

    def _restore_kept(self) -> None:
        words = self._words
        self._packed = b""
        self._kept_of_source = None
        if not words[plan.KEPT_SIZE]:
            return
        self._packed = self._page.read_kept(words[plan.KEPT_HALF], words[plan.KEPT_SIZE])
        of_stages, self._kept_of_source = unpack(self._packed)
        for stage, kept in zip(self._objects.values(), of_stages, strict=True):
            vars(stage).update(kept)
            stage.was_restored = bool(stage.kept)

    def after_callback(self) -> None:
        """Commit what a callback between two transactions has changed of what is kept.

        While outputs have no room for what came of some packets, those packets are in what is kept
        already: then it is committed with them.
        """
        if self._emitted:  # what a callback has changed is committed with what it has emitted
            return
        if self._keeps and self._pending is None and self._write_kept():
            self._page.commit(self._words)

    def _write_kept(self) -> bool:
        """Write what is kept, if it has changed: the next commit puts it in force."""
        of_source = None if self._source is None else self._source.kept()
        packed = pack_exact([[kept_of(stage) for stage in self._objects.values()], of_source])
        if packed == self._packed:
            return False
        half = 1 - self._words[plan.KEPT_HALF]
        self._page.write_kept(packed, half)
        self._words[plan.KEPT_HALF], self._words[plan.KEPT_SIZE] = half, len(packed)
        self._packed = packed
        return True

    # -- turns -------------------------------------------------------------------------------------

    def _again(self) -> None:
        os.eventfd_write(self._wake, 1)

    def _again_after(self, seconds: float | None) -> None:
        """Have the next turn after so many seconds at the latest, if a number is given."""
        if self._timer is not None:
            self.cancel_timer(self._timer)
        self._timer = None if seconds is None else self.call_later(seconds, self._again)

    def _turn(self) -> None:
        """Do some transactions; then messages have their turn."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        for _ in range(_TURNS):
            if self._pending is None and not self._take():
                return
            if self._pending is not None and not self._finish(self._pending):
                return
        self._again()

    def _take(self) -> bool:
        """Take packets, and run the stages; tell whether there was anything to do."""
        if self._words[plan.ENDED]:
            return False
        if self._emitted:
            emitted = _Hand([], _EMITTED, 0, 0, 0, is_last=True)
            self._pending = self._prepared(emitted, self._take_emitted())
            return True
        what = ""
        hand: _Hand | None = None
        if self._forced is not None:
            hand = self._hand(*self._forced[1:], is_again=True)
            if hand is not None:
                what, self._forced = self._forced[0], None
        is_free = self._forced is None or (self._source is not None and self._source.is_shared)
        if hand is None and is_free:
            hand = self._hand(-1, self._limit, is_again=False)
        if hand is None:
            if not self._is_over():  # packets that are to come first may have not come yet
                return False
            hand = _Hand([], _NOTHING, 0, 0, 0, is_last=True)
            in_the_end = engine.end_all(self._runners, self._objects) + self._take_emitted()
            self._pending = self._prepared(hand, in_the_end)
            return True
        words = self._page.words
        words[HAND_INPUT], words[HAND_COUNT] = hand.input, len(hand.items)
        words[HAND] = self._page.version + 1
        self._trace = self._traced(hand)
        if what in {"skip", "quarantine"}:
            self._give_up(hand, what)
            self._skip_at_sinks()
            hand = hand._replace(is_given_up=True)
            self._pending = self._prepared(hand, [])
        else:
            self._pending = self._done_with(hand)
        return True

    def _emit(self, stage: int, items: Sequence[Item]) -> None:
        """Have packets of a stage itself go on, in a transaction of their own."""
        name = self._segment.stages[stage].name
        if self._words[plan.ENDED]:
            raise RuntimeError(f"stage {name!r} has ended: nothing goes on from it any more")
        if self._is_ordered:
            raise RuntimeError(
                f"stage {name!r}: packets that are not of a batch have no place in the order that"
                " by='ordered' restores"
            )
        self._emitted.append((stage, list(items)))
        self._again()

    def _take_emitted(self) -> list[Item]:
        """Return what comes of the packets that stages have emitted."""
        emitted, self._emitted = self._emitted, []
        found: list[Item] = []
        for stage, items in emitted:
            own = self._runners[stage].end(lambda items=items: items)  # type: ignore[misc]
            found += run_all(self._runners[stage + 1 :], own)
        return found

    def _done_with(self, hand: _Hand) -> _Pending:
        """Run the stages, and prepare what came of it; leave the reason if that raises."""
        try:
            run = run_all if self._trace is None else self._trace.run_all
            found = run(self._runners, hand.items)
            return self._prepared(hand, found + self._take_emitted() if self._emitted else found)
        except BaseException as error:
            self._page.leave_reason(engine.text_of(error))
            raise

    def _traced(self, hand: _Hand) -> Trace | None:
        """Return the trace of what was taken, if anybody traces it."""
        if self._source is not None:
            name = self._plan.sources[self._plan.places[self._number].shard].name
            return self._tracer.begin(hand.items, name, name)
        origin = self._plan.id(self._inputs[hand.input].producer)
        return self._tracer.begin(hand.items, None, origin)

    def _skip_at_sinks(self) -> None:
        """Have the sinks forget what a predecessor may have offered to them."""
        for number, sink in enumerate(self._sinks):
            sink.given_up()
            self._words[self._slot.sink(number) + plan.SINK_POSITION] = sink.position

    def _give_up(self, hand: _Hand, what: str) -> None:
        """Count packets that have killed a worker."""
        counter = plan.LOST if what == "skip" else plan.QUARANTINED
        self._added[counter] = len(hand.items)
        packets = [item.packet if isinstance(item, Routed) else item for item in hand.items]
        if self._trace is not None:
            verdict = "lost" if what == "skip" else "quarantined"
            self._trace.each(hand.items, self._segment.id, verdict, self._reason)
        where = f"{self._plan.name}: {self._plan.id(self._number)}"
        if what == "skip":
            log.warning("%s: %d packets were in hand at a kill: lost", where, len(packets))
            return
        for packet in packets:
            log.error("%s: packet %d is quarantined: %s", where, packet.seq, self._reason)
            if self._plan.quarantine is not None:
                try:
                    sinks.quarantine(self._plan.quarantine, packet, self._reason)
                except OSError as error:
                    log.error("%s: %s", self._plan.quarantine, error)

    # -- inputs ------------------------------------------------------------------------------------

    def _hand(self, of: int, most: int, *, is_again: bool) -> _Hand | None:
        """Take packets: those that a predecessor had in hand when it was killed, or the next ones.

        Args:
            of: of which input, or whose of a source that is shared; -1: any.
            most: how many, at most.
            is_again: a predecessor had them.
        """
        if self._source is None:
            return self._hand_of_inputs(of, most)
        return self._hand_of_source(self._source, of, most, is_again=is_again)

    def _hand_of_source(
        self, source: sources.Source, of: int, most: int, *, is_again: bool
    ) -> _Hand | None:
        """Take packets of the source; again those that a predecessor had in hand, if there are any.

        Those are taken also when the sources are to end, and whenever they are due.
        """
        if self._arena.draining and not is_again:
            return None
        source.hurry, source.wanted = is_again, of
        found = source.read(most, self._most_bytes)
        if is_again and found:  # as many as the predecessor had, if they are there
            while len(found) < most and (more := source.read(most - len(found), _LONGEST)):
                found += more
        source.hurry = False
        if not found:
            self._source_is_over = found is None
            self._wait_for_source()
            return None
        self._added[plan.READ] = len(found)
        return _Hand(list(found), source.of, 0, 0, 0, is_last=True)

    def _wait_for_source(self) -> None:
        """Have this worker called back when the source may have packets."""
        assert self._source is not None
        self._again_after(self._source.delay())
        fd = self._source.fileno()
        if fd is not None and fd != self._polled:
            self._stop_polling()
            if fd >= 0:
                self.add_reader(fd, self._source_is_readable)
            self._polled = fd

    def _source_is_readable(self) -> None:
        self._stop_polling()  # it stays readable while there is no room in an output
        self._again()

    def _stop_polling(self) -> None:
        if self._polled >= 0:
            with contextlib.suppress(KeyError, OSError, ValueError):  # it was closed meanwhile
                self.remove_reader(self._polled)
        self._polled = -1

    def _hand_of_inputs(self, of: int, most: int) -> _Hand | None:
        """Take packets of one input: of that one, of the one whose turn it is, or of the next."""
        before = self._plan.segments[self._plan.places[self._number].segment - 1]
        is_ordered = before.by == "ordered" and before.workers > 1
        count = len(self._inputs)
        if of >= 0:
            order: Sequence[int] = [of]
        elif is_ordered:
            order = [self._words[plan.TURN] % count]
        else:
            order = [(self._next_input + n) % count for n in range(count)]
        for number in order:
            at = self._slot.input(number)
            if self._words[at + plan.POSITION] < self._head(number):
                self._next_input = number + 1
                return self._hand_of(number, at, most)
        return None

    def _head(self, number: int) -> int:
        """Return how far an input was written."""
        edge, position = self._inputs[number], self._words[self._slot.input(number)]
        if self._heads[number] <= position:
            place = self._places_of_heads[number]
            self._heads[number] = self._pages[edge.producer].read(place, 1)[0]
        return self._heads[number]

    def _place_of_head(self, edge: Edge) -> int:
        """Return where in the slot of an input's producer stands how far it was written."""
        outputs = self._plan.outputs(edge.producer)
        return self._plan.slot(edge.producer).output(outputs.index(edge)) + plan.HEAD

    def _place_of_tail(self, edge: Edge) -> int:
        """Return where in the slot of an output's consumer stands how far it was read."""
        inputs = self._plan.inputs(edge.consumer)
        return self._plan.slot(edge.consumer).input(inputs.index(edge)) + plan.POSITION

    def _hand_of(self, number: int, at: int, most: int) -> _Hand:
        log_of = self._logs[self._inputs[number].log]
        position, done = self._words[at + plan.POSITION], self._words[at + plan.DONE]
        record, after = edge_log.read(log_of, position)
        head = records.head_of(record)
        items = records.decode(record, done, most) if head.packets else []
        done += len(items)
        is_last = done == head.packets
        return _Hand(
            items,
            number,
            after if is_last else position,
            0 if is_last else done,
            head.ticket,
            is_last=is_last and head.is_last,
        )

    def _is_over(self) -> bool:
        """Tell whether nothing will come any more, and everything was taken."""
        if self._source is not None:
            return self._source_is_over or self._arena.draining
        for number, edge in enumerate(self._inputs):
            # In this order: a producer commits its last record before, or with, its end.
            if not self._pages[edge.producer].read(plan.ENDED, 1)[0]:
                return False
            self._heads[number] = 0
            if self._head(number) > self._words[self._slot.input(number)]:
                self._again()
                return False
        return True

    # -- outputs -----------------------------------------------------------------------------------

    def _prepared(self, hand: _Hand, items: list[Item]) -> _Pending:
        """Return what goes to which sink, and which records go to which output."""
        delivered: list[tuple[int, list[Packet]]] = []
        if self._is_last or self._sinks:
            delivered, items = self._sorted_by_sink(items)
        if self._share is None:
            return _Pending(hand, [], delivered)
        ticket, is_last = hand.ticket, hand.is_last
        if self._share == self._to_next:
            ticket, is_last = self._words[plan.TICKET], True
        elif not self._is_ordered:
            ticket, is_last = 0, True
        shares = self._share(items)
        if self._trace is not None:
            self._trace.shared_out(shares)
        found = [
            self._encoded(share, ticket, is_last=is_last)
            if share or (self._is_ordered and hand.is_last and hand.input != _NOTHING)
            else []
            for share in shares
        ]
        return _Pending(hand, found, delivered)

    def _encoded(self, items: list[Item], ticket: int, *, is_last: bool) -> list[Record]:
        """Return records of packets, each of which fits into an empty log.

        Raises:
            ValueError: all of them together do not.
        """
        most = edge_log.most(self._plan.log_bytes)
        found = [records.encode(items, ticket, is_last=is_last)]
        if found[0].size > most and len(items) > 1:
            half = len(items) // 2
            found = self._encoded(items[:half], ticket, is_last=False)
            found += self._encoded(items[half:], ticket, is_last=is_last)
        if edge_log.needed_for([record.size for record in found]) > self._plan.log_bytes:
            raise ValueError(
                f"stages have made {sum(record.size for record in found)} bytes at once, and an"
                f" edge has room for {self._plan.log_bytes}: give the pipeline more log_bytes="
            )
        return found

    def _sorted_by_sink(
        self, items: list[Item]
    ) -> tuple[list[tuple[int, list[Packet]]], list[Item]]:
        """Return what goes to the sinks here, and what goes to those of another worker."""
        if not items:
            return [], items
        default = self._sink_numbers.get(self._default) if self._default is not None else None
        if default is not None and Routed not in set(map(type, items)):
            return [(default, items)], []  # type: ignore[list-item]  # packets alone
        found: dict[int, list[Packet]] = {}
        others: list[Item] = []
        for item in items:
            name, packet = item if isinstance(item, Routed) else (self._default, item)
            number = self._sink_numbers.get(name) if name is not None else None
            if number is not None:
                found.setdefault(number, []).append(packet)
            elif name is not None and name in self._plan.exclusive:
                others.append(Routed(name, packet))
        return list(found.items()), others

    def _to_any(self, items: Sequence[Item]) -> shards.Shares:
        """Give packets to the worker that has the least to do."""
        workers = len(self._outputs)
        least = min(range(workers), key=self._filled) if workers > 1 else 0
        return shards.to_one(least, workers, items)

    def _to_next(self, items: Sequence[Item]) -> shards.Shares:
        """Give packets to the worker whose turn it is."""
        workers = len(self._outputs)
        return shards.to_one(self._words[plan.TICKET] % workers, workers, items)

    def _filled(self, number: int) -> int:
        """Return how many bytes in an output its consumer has not done with."""
        edge = self._outputs[number]
        position = self._pages[edge.consumer].read(self._places_of_tails[number], 1)[0]
        return self._words[self._slot.output(number) + plan.HEAD] - position

    def _has_room(self, number: int, wanted: list[Record]) -> bool:
        begin = head = self._words[self._slot.output(number) + plan.HEAD]
        capacity = self._plan.log_bytes
        for record in wanted:
            head += edge_log.needed(record.size, head, capacity)
        return head - begin <= capacity - self._filled(number)

    # -- the end of a transaction ------------------------------------------------------------------

    def _finish(self, pending: _Pending) -> bool:
        """Deliver, write and commit; return False if there is no room yet."""
        wanted = [(number, several) for number, several in enumerate(pending.records) if several]
        full = [number for number, several in wanted if not self._has_room(number, several)]
        if full and self._plan.full == "wait":
            self._page.wait(waiting=True)
            if not all(self._has_room(number, several) for number, several in wanted):
                return False  # a consumer wakes this worker after its next commit
        self._page.wait(waiting=False)
        for number, packets in pending.delivered:
            if not self._sinks[number].offer(packets):
                self._again_after(self._sinks[number].delay())
                return False
        for number, packets in pending.delivered:
            self._deliver(number, packets)
        for number, several in wanted:
            self._put(number, several, is_shed=self._plan.full == "drop" and number in full)
        if self._share == self._to_next and wanted:
            self._words[plan.TICKET] += 1
        self._commit(pending.hand)
        for number, _ in wanted:
            os.eventfd_write(self._fds[wake_name(self._outputs[number].consumer)], 1)
        return True

    def _deliver(self, number: int, packets: list[Packet]) -> None:
        """Deliver packets to a sink."""
        sink, at = self._sinks[number], self._slot.sink(number)
        failed = sink.deliver(packets)
        self._words[at + plan.WRITTEN] += len(packets) - failed
        self._words[at + plan.FAILED] += failed
        self._words[at + plan.SINK_POSITION] = sink.position
        if self._trace is not None:
            self._trace.delivered(self._sink_names[number], packets, failed)

    def _put(self, number: int, several: list[Record], *, is_shed: bool) -> None:
        """Write records to an output; or count their packets as shed."""
        words, at, edge = self._words, self._slot.output(number), self._outputs[number]
        packets = sum(record.packets for record in several)
        if self._trace is not None:
            self._trace.put(number, self._plan.id(edge.consumer), is_shed=is_shed)
        if is_shed:
            words[at + plan.SHED] += packets
            return
        for record in several:
            head = words[at + plan.HEAD]
            words[at + plan.HEAD] = edge_log.write(
                self._logs[edge.log], head, record.parts, record.size
            )
        words[at + plan.PUT] += packets

    def _commit(self, hand: _Hand) -> None:
        """Put in force what was done with a hand, and tell whom it concerns."""
        self._count(hand)
        if self._keeps:
            self._write_kept()
        trace, self._trace = self._trace, None
        if trace is not None:
            self._tracer.write(trace)
        self._page.commit(self._words)
        self._pending = None
        if trace is not None:
            os.eventfd_write(self._fds[DONE], 1)
        if hand.input == _NOTHING:
            self._end()
            return
        self._suspect(failures.after_commit(len(hand.items), self._suspicion_now()))
        if self._source is not None:
            self._source.committed()
        elif hand.input != _EMITTED:
            producer = self._inputs[hand.input].producer
            if self._pages[producer].is_waiting():
                os.eventfd_write(self._fds[wake_name(producer)], 1)

    def _count(self, hand: _Hand) -> None:
        """Write positions and counters into the words that are to be committed."""
        words, slot = self._words, self._slot
        for number, runner in enumerate(self._runners):
            at = slot.stage(number)
            words[at : at + len(COUNTERS)] = runner.counters
        for counter, more in self._added.items():
            words[counter] += more
        self._added.clear()
        if not hand.is_given_up and Routed in set(map(type, hand.items)):
            words[plan.PASSED] += sum(type(item) is Routed for item in hand.items)
        if self._source is not None:
            words[plan.SOURCE_POSITION] = self._source.position
            words[plan.SOURCE_IDENTITY] = self._source.identity
            words[plan.MISSED] = self._missed_before + self._source.missed
        elif hand.input not in {_NOTHING, _EMITTED}:
            at = slot.input(hand.input)
            words[at + plan.POSITION], words[at + plan.DONE] = hand.position, hand.done
            words[at + plan.TAKEN] += len(hand.items)
            if hand.is_last:
                words[plan.TURN] = hand.ticket + 1
        words[plan.ENDED] = hand.input == _NOTHING

    def _suspicion_now(self) -> Suspicion:
        words = self._page.words
        return Suspicion(words[KILLS], words[LIMIT], words[SUSPECTS])

    def _end(self) -> None:
        """Tell the neighbours that this worker has done with everything."""
        self._stop_polling()
        if self._source is not None:
            self._source.ended()
        for edge in self._outputs:
            os.eventfd_write(self._fds[wake_name(edge.consumer)], 1)
        os.eventfd_write(self._fds[DONE], 1)
        log.info("%s: %s has ended", self._plan.name, self._plan.id(self._number))

    def _note_failure(self, packet: Packet | None, error: BaseException) -> None:
        """Log a packet for which a stage has raised an exception: once, and then with a number."""
        if self._trace is not None:
            self._trace.failed(packet, error)
        where = f"{self._plan.name}: {self._plan.id(self._number)}"
        if self._hidden == 0:
            which = "a packet" if packet is None else f"packet {packet.seq}"
            log.error("%s: %s: %s", where, which, engine.text_of(error))
            self.call_later(1.0, self._tell_hidden)
            self._hidden = 1
        else:
            self._hidden += 1

    def _tell_hidden(self) -> None:
        more, self._hidden = self._hidden - 1, 0
        if more:
            where = f"{self._plan.name}: {self._plan.id(self._number)}"
            log.error("%s: %d more packets have failed within a second", where, more)

    def terminate(self, reason: Any) -> None:
        """Have the stages clean up, and close sources and sinks."""
        for stage in self._objects.values():
            stage.terminate(reason)
        if self._source is not None:
            self._source.close()
        for sink in self._sinks:
            sink.close()
