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
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from supervisor import NoReply, Sender
from supervisor.errors import shown
from supervisor.lowlevel import Host, Timer, is_fork, load_reference, pack_exact, unpack
from tuncer.pipeline import (
    edge_log,
    engine,
    failures,
    feed,
    opened,
    plan,
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
from tuncer.pipeline.hand import EMITTED, NOTHING, Hand
from tuncer.pipeline.inputs import Inputs
from tuncer.pipeline.outputs import Outputs, Wanted
from tuncer.pipeline.plan import Plan
from tuncer.pipeline.records import Item, Routed, packet_of
from tuncer.pipeline.stage import Stage, kept_of
from tuncer.pipeline.tracing import Trace, Tracer
from tuncer.pipeline.worker_sinks import Delivered, WorkerSinks
from tuncer.protocol.packet import Packet

log = logging.getLogger("tuncer")

ARENA, WAKE, DONE = "pipeline arena", "wake", "pipeline done"
"""Names of descriptors in a worker's store: the memory, eventfds of workers, the supervisor's."""

_MOST = 256  # packets of a transaction
_LONGEST = 1 << 62  # bytes, more than there are
_MOST_BYTES = 1 << 20  # of what a source gives to a transaction
_PATIENCE = 5.0  # seconds in which those who feed a source send again what was in hand at a kill
_MOST_EMITTED = 16 << 20  # bytes that stages may have emitted, and that wait for room
_OVERHEAD = 64  # bytes that a packet takes in a log besides its own
_TURNS = 8  # transactions between two looks at messages


def wake_name(worker: int) -> str:
    """Return the name of a worker's eventfd in the stores of its neighbours."""
    return f"{WAKE} {worker}"


class _Pending(NamedTuple):
    """What came of a hand: it waits for room in the outputs."""

    hand: Hand
    records: Wanted
    delivered: Delivered


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
        unfit = self._page.unfit()
        if unfit is not None:
            raise RuntimeError(unfit)
        self._slot = self._plan.slot(number)
        self._words = self._page.read()
        self._most_bytes = min(_MOST_BYTES, edge_log.most(self._plan.log_bytes) // 2)
        self._pending: _Pending | None = None
        self._is_delivered = False
        """Whether the pending packets are delivered, but for sinks that number them."""
        self._polled = -1
        self._timer: Timer | None = None
        self._emitted: deque[tuple[int, list[Item], int]] = deque()
        """Stages, packets of theirs that are to go on, and how many bytes these take."""
        self._emitted_bytes = 0
        self._has_told_of_end = False
        self._hidden = 0  # failures that were not logged, as others were just before
        self._added: dict[int, int] = {}
        """What the next commit adds to counters: until then a kill has changed nothing."""
        ends = [self._arena.page(shard) for shard in range(len(self._plan.sources))]
        self._tracer = Tracer(self._arena, self._page, self._words, self._plan.id(number), ends)
        self._trace: Trace | None = None
        memory = self._arena, self._words
        self._inputs = Inputs(self._plan, number, *memory)
        self._outputs = Outputs(self._plan, number, *memory, self._without_key)
        self._begin_stages()
        self._begin_source(place)
        self._sinks = WorkerSinks(self._plan, number, self._words, self._arena, self, self._again)
        self._forced = self._recover()
        self._is_shared = self._source is not None and self._source.is_shared
        self._commit_source()
        if self._forced is None:
            # A predecessor may have been killed in a transaction that nothing repeats: of packets
            # that stages emitted, or gave in the end.
            if self._sinks.given_up() or self._sinks.have_begun:
                self._page.commit(self._words)
        elif self._is_shared:
            self.call_later(_PATIENCE, self._stop_waiting)
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
        if self._keeps:  # what cannot be kept is told at the start, and blames no packet
            self._packed_now(None)

    def _begin_source(self, place: plan.Place) -> None:
        words = self._words
        self._source: sources.Source | None = None
        self._source_is_over = False
        self._missed_before = words[plan.MISSED]
        if place.segment == 0:
            told = self._plan.sources[place.shard]
            position, identity = words[plan.SOURCE_POSITION], words[plan.SOURCE_IDENTITY]
            self._source = opened.source(told, position, identity, self._kept_of_source)

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

    def _without_key(self, packet: Packet, error: Exception) -> Item | None:
        """Do with a packet what the next stage's ``on_error`` says: its ``by=`` has raised."""
        following = self._plan.segments[self._plan.places[self._number].segment + 1].stages[0]
        found = engine.without_key(packet, error, following.name, following.on_error)
        self._note_failure(packet, error)
        if self._trace is not None:
            verdict = "unassigned" if found is None else following.on_error.replace(":", " ")
            self._trace.each([packet], following.name, verdict, f"by=: {shown(error)}")
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
        if self._source is not None and not self._source.can_repeat:
            self._lose(count)
            return None
        verdict = failures.after_kill(count, before, self._segment.on_kill)  # type: ignore[arg-type]
        self._suspect(verdict.suspicion)
        if verdict.what == "retry":
            count = verdict.suspicion.limit
        return None if verdict.what == "go on" else (verdict.what, of, count)

    def _lose(self, count: int) -> None:
        """Count packets that were in hand at a kill, and that the source does not give again."""
        assert self._source is not None
        log.warning("%s: %d packets were in hand at a kill: lost", self._plan.name, count)
        self._suspect(Suspicion())
        if self._source.identity:  # then it tells them itself, by their numbers, as missed
            return
        self._words[plan.READ] += count
        self._words[plan.LOST] += count
        self._page.commit(self._words)

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
        if is_fork(self):  # which ends now
            return
        if self._keeps and self._pending is None and self._write_kept():
            self._page.commit(self._words)

    def _write_kept(self) -> bool:
        """Write what is kept, if it has changed: the next commit puts it in force."""
        packed = self._packed_now(None if self._source is None else self._source.kept())
        if packed == self._packed:
            return False
        half = 1 - self._words[plan.KEPT_HALF]
        self._page.write_kept(packed, half)
        self._words[plan.KEPT_HALF], self._words[plan.KEPT_SIZE] = half, len(packed)
        self._packed = packed
        return True

    def _packed_now(self, of_source: Any) -> bytes:
        """Return what is kept.

        Raises:
            AttributeError, TypeError: it is not there, or cannot travel.
            ValueError: it is too long. Then the pipeline ends.
        """
        kept = [[kept_of(stage) for stage in self._objects.values()], of_source]
        try:
            return pack_exact(kept, "what the stages keep")
        except TypeError as error:
            raise TypeError(f"what the stages keep cannot be written: {error}") from None
        except ValueError as error:
            # No packet is to blame, and a successor would come to it again.
            self._page.end_for_good(f"{self._plan.id(self._number)}: {error}")
            os.eventfd_write(self._fds[DONE], 1)
            raise

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
        try:
            for _ in range(_TURNS):
                if self._pending is None and not self._take():
                    return
                if self._pending is not None and not self._finish(self._pending):
                    return
        except BaseException as error:  # of a stage, of a sink, or of what is kept
            self._page.leave_reason(engine.text_of(error))
            raise
        self._again()

    def _take(self) -> bool:
        """Take packets, and run the stages; tell whether there was anything to do."""
        if self._words[plan.ENDED] or self._arena.stopped:
            return False
        hand, what = self._next_hand()
        if hand is not None and hand.input == EMITTED:
            self._pending = self._prepared(hand, self._take_emitted())
            return True
        if hand is None:
            if not self._is_over():  # packets that are to come first may have not come yet
                return False
            hand = Hand([], NOTHING)
            in_the_end = engine.end_all(self._runners, self._objects)
            while self._emitted:
                in_the_end += self._take_emitted()
            self._pending = self._prepared(hand, in_the_end)
            return True
        words = self._page.words
        words[HAND_INPUT], words[HAND_COUNT] = hand.input, len(hand.items)
        words[HAND] = self._page.version + 1
        self._trace = self._traced(hand)
        if what in {"skip", "quarantine"}:
            self._give_up(hand, what)
            self._sinks.given_up()
            hand = hand._replace(is_given_up=True)
            self._pending = self._prepared(hand, [])
        else:
            self._pending = self._done_with(hand)
        return True

    def _next_hand(self) -> tuple[Hand | None, str]:
        """Return what is taken next; and what is done with it, if stages are not to have it.

        What was in hand at a kill comes first, in the same order as before it: a sink may have
        given packets on that are not committed, and they are known there by their numbers.
        """
        if self._forced is not None:
            what, of, count = self._forced
            hand = self._hand(of, count, is_again=True)
            if hand is not None:
                self._forced = None
                return hand, what
            if not self._is_shared or self._sinks.are_numbered:
                return None, ""
        words = self._page.words
        if words[SUSPECTS] and self._forced is None:
            hand = self._hand(words[HAND_INPUT], self._limit, is_again=self._is_shared)
            if hand is not None or not self._is_shared:
                return hand, ""
            self._give_up_order()  # whoever feeds has gone, and does not send the rest again
        if self._emitted:
            return Hand([], EMITTED), ""
        return self._hand(-1, self._limit, is_again=False), ""

    def _give_up_order(self) -> None:
        """Go on with other packets than those that were in hand at a kill."""
        self._forced = None
        self._suspect(Suspicion())
        if self._sinks.given_up():
            self._page.commit(self._words)

    def _stop_waiting(self) -> None:
        """Wait no longer for those who fed a predecessor, and do not send their packets again."""
        if self._forced is not None:
            self._give_up_order()
            self._again()

    def _emit(self, stage: int, items: Sequence[Item]) -> None:
        """Have packets of a stage itself go on, in a transaction of their own."""
        name = self._segment.stages[stage].name
        if self._words[plan.ENDED]:
            if not self._has_told_of_end:
                text = "%s: stage %r emits packets after the end: they are dropped"
                log.warning(text, self._plan.name, name)
            self._has_told_of_end = True
            return
        if self._outputs.is_ordered:
            raise RuntimeError(
                f"stage {name!r}: packets that are not of a batch have no place in the order that"
                " by='ordered' restores"
            )
        size = sum(len(packet_of(item).data) + _OVERHEAD for item in items)
        if self._emitted_bytes + size > _MOST_EMITTED:
            raise BufferError(
                f"stage {name!r}: {self._emitted_bytes} bytes wait already that it has emitted: the"
                " next stage has no room for them"
            )
        self._emitted.append((stage, list(items), size))
        self._emitted_bytes += size
        self._again()

    def _take_emitted(self) -> list[Item]:
        """Return what comes of the packets that stages have emitted."""
        found: list[Item] = []
        taken = 0
        while self._emitted and (taken == 0 or taken + self._emitted[0][2] <= self._most_bytes):
            stage, items, size = self._emitted.popleft()
            taken += size
            self._emitted_bytes -= size
            own = self._runners[stage].end(lambda items=items: items)  # type: ignore[misc]
            found += run_all(self._runners[stage + 1 :], own)
        return found

    def _done_with(self, hand: Hand) -> _Pending:
        """Run the stages, and prepare what came of it."""
        run = run_all if self._trace is None else self._trace.run_all
        found = run(self._runners, hand.items)
        while self._emitted:  # what is kept is committed with all that it tells of
            found = found + self._take_emitted()
        return self._prepared(hand, found)

    def _traced(self, hand: Hand) -> Trace | None:
        """Return the trace of what was taken, if anybody traces it."""
        if self._source is not None:
            name = self._plan.sources[self._plan.places[self._number].shard].name
            return self._tracer.begin(hand.items, name, name)
        origin = self._plan.id(self._inputs.producer(hand.input))
        return self._tracer.begin(hand.items, None, origin)

    def _give_up(self, hand: Hand, what: str) -> None:
        """Count packets that have killed a worker."""
        counter = plan.LOST if what == "skip" else plan.QUARANTINED
        self._added[counter] = len(hand.items)
        packets = [packet_of(item) for item in hand.items]
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

    def _hand(self, of: int, most: int, *, is_again: bool) -> Hand | None:
        """Take packets: those that a predecessor had in hand when it was killed, or the next ones.

        Args:
            of: of which input, or whose of a source that is shared; -1: any.
            most: how many, at most.
            is_again: a predecessor had them.
        """
        if self._source is None:
            return self._inputs.take(of, most)
        return self._hand_of_source(self._source, of, most, is_again=is_again)

    def _hand_of_source(
        self, source: sources.Source, of: int, most: int, *, is_again: bool
    ) -> Hand | None:
        """Take packets of the source; again those that a predecessor had in hand, if there are any.

        Those are taken also when the sources are to end, and whenever they are due.
        """
        if self._arena.draining and not is_again and not source.has_more_to_drain():
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
        return Hand(list(found), source.of)

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

    def _is_over(self) -> bool:
        """Tell whether nothing will come any more, and everything was taken."""
        if self._source is not None:
            is_drained = self._arena.draining and not self._source.has_more_to_drain()
            return self._source_is_over or is_drained
        if not self._inputs.have_ended():
            return False
        # In this order: a producer commits its last record before, or with, its end.
        if not self._inputs.are_read():
            self._again()
            return False
        return True

    def _prepared(self, hand: Hand, items: list[Item]) -> _Pending:
        """Return what goes to which sink, and which records go to which output."""
        delivered, others = self._sinks.sorted(items)
        return _Pending(hand, self._outputs.records_of(hand, others, self._trace), delivered)

    # -- the end of a transaction ------------------------------------------------------------------

    def _finish(self, pending: _Pending) -> bool:
        """Deliver, write and commit; return False if there is no room yet, or it is too late."""
        if self._arena.stopped or is_fork(self):
            return False
        wanted = pending.records
        shed = self._outputs.full(wanted)
        if shed and self._plan.full == "wait":
            self._page.wait(waiting=True)
            shed = self._outputs.full(wanted)
            if shed:
                return False  # a consumer wakes this worker after its next commit
        self._page.wait(waiting=False)
        if not self._is_delivered:
            self._sinks.deliver(pending.delivered, self._trace)
            self._is_delivered = True
        waiting = self._sinks.waiting(pending.delivered)
        if waiting is not None:
            self._again_after(waiting.delay())
            return False
        self._sinks.deliver_numbered(pending.delivered, self._trace)
        self._outputs.write(wanted, shed, self._trace)
        self._commit(pending.hand)
        for number, _ in wanted:
            os.eventfd_write(self._fds[wake_name(self._outputs.consumers[number])], 1)
        return True

    def _commit(self, hand: Hand) -> None:
        """Put in force what was done with a hand, and tell whom it concerns."""
        self._count(hand)
        is_part = hand.input == EMITTED and bool(self._emitted)
        if self._keeps and not is_part:  # with the last that stages have emitted
            self._write_kept()
        trace, self._trace = self._trace, None
        if trace is not None:
            self._tracer.write(trace)
        self._page.commit(self._words)
        self._pending, self._is_delivered = None, False
        if trace is not None:
            os.eventfd_write(self._fds[DONE], 1)
        if hand.input == NOTHING:
            self._end()
            return
        if hand.input == EMITTED:  # of the packets that are suspected none was done with
            return
        if self._forced is None:  # otherwise these were others' than those that were in hand
            self._suspect(failures.after_commit(len(hand.items), self._suspicion_now()))
        if self._source is not None:
            self._source.committed()
        elif self._inputs.is_waited_for(hand.input):
            producer = self._inputs.producer(hand.input)
            os.eventfd_write(self._fds[wake_name(producer)], 1)

    def _count(self, hand: Hand) -> None:
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
        elif hand.input not in {NOTHING, EMITTED}:
            self._inputs.count(hand)
        words[plan.ENDED] = hand.input == NOTHING

    def _suspicion_now(self) -> Suspicion:
        words = self._page.words
        return Suspicion(words[KILLS], words[LIMIT], words[SUSPECTS])

    def _end(self) -> None:
        """Tell the neighbours that this worker has done with everything."""
        self._stop_polling()
        if self._source is not None:
            self._source.ended()
        for consumer in self._outputs.consumers:
            os.eventfd_write(self._fds[wake_name(consumer)], 1)
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
        self._sinks.close()
