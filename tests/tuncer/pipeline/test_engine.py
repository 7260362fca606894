"""What stages make of packets, and how it is counted."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipelines import packet as numbered

from tuncer.pipeline.engine import COUNTERS, Runner, StageError, run_all
from tuncer.pipeline.records import Routed
from tuncer.pipeline.stage import Packets, to
from tuncer.protocol.packet import Packet

Told = list[tuple[int, str]]


def runner(
    call: Callable[..., Any], *, batch: bool = False, on_error: str = "skip"
) -> tuple[Runner, Told]:
    told: Told = []

    def failed(packet: Packet | None, error: BaseException) -> None:
        told.append((-1 if packet is None else packet.seq, str(error)))

    return Runner("s", call, batch, on_error, failed, frozenset(["alarm"])), told


def counts(of: Runner) -> dict[str, int]:
    found = dict(zip(COUNTERS, of.counters, strict=True))
    taken = found["taken"] + found["made"]
    assert taken == found["out"] + found["dropped"] + found["failed"]
    return found


PACKETS = [numbered(n) for n in range(6)]


def by_seq(results: dict[int, Any]) -> Callable[[Packet], Any]:
    def call(packet: Packet) -> Any:
        result = results.get(packet.seq, packet)
        if isinstance(result, Exception):
            raise result
        return result

    return call


def test_a_function_of_a_packet() -> None:
    results = {0: None, 1: [PACKETS[0], PACKETS[1]], 2: [], 3: ValueError("no"), 4: 4711}
    one, told = runner(by_seq(results))
    assert one.run(PACKETS) == [PACKETS[0], PACKETS[1], PACKETS[5]]
    assert counts(one) == {"taken": 6, "made": 1, "out": 3, "dropped": 2, "failed": 2}
    assert told[0] == (3, "no")
    assert told[1][0] == 4
    assert "returns packets, None, or a list of packets, not 4711" in told[1][1]


def test_what_is_on_its_way_to_a_sink_passes_in_order() -> None:
    one, _ = runner(by_seq({1: to("alarm", PACKETS[1])}))
    two, _ = runner(by_seq({}))
    found = run_all([one, two], list(PACKETS[:3]))
    assert found == [PACKETS[0], Routed("alarm", PACKETS[1]), PACKETS[2]]
    assert counts(two)["taken"] == 2


def test_an_unknown_sink_is_a_failure() -> None:
    one, told = runner(by_seq({1: to("alrm", PACKETS[1])}))
    assert len(one.run(PACKETS[:2])) == 1
    assert told == [(1, "there is no sink 'alrm', but ['alarm']")]


def test_failed_packets_go_to_a_sink_in_their_place() -> None:
    one, _ = runner(by_seq({1: ValueError("no")}), on_error="to:alarm")
    assert one.run(PACKETS[:3]) == [PACKETS[0], Routed("alarm", PACKETS[1]), PACKETS[2]]
    assert counts(one) == {"taken": 3, "made": 1, "out": 3, "dropped": 0, "failed": 1}


@pytest.mark.parametrize("batch", [False, True])
def test_crash(batch: bool) -> None:
    def call(given: Any) -> Any:
        raise ValueError("no")

    one, _ = runner(call, batch=batch, on_error="crash")
    with pytest.raises(StageError) as caught:
        one.run(PACKETS[:3])
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_generator_goes_on_behind_the_packet_that_failed() -> None:
    def call(packets: Packets) -> Iterator[Packet]:
        for packet in packets:
            if packet.seq in {2, 4}:
                raise ValueError("no")
            yield packet

    one, told = runner(call, batch=True)
    assert [packet.seq for packet in one.run(list(PACKETS))] == [0, 1, 3, 5]  # type: ignore[union-attr]
    assert [seq for seq, _ in told] == [2, 4]
    assert counts(one) == {"taken": 6, "made": 0, "out": 4, "dropped": 0, "failed": 2}


def test_of_a_list_everything_that_was_iterated_has_failed() -> None:
    def call(packets: Packets) -> list[Packet]:
        found = []
        for packet in packets:
            if packet.seq == 2:
                raise ValueError("no")
            found.append(packet)
        return found

    one, told = runner(call, batch=True)
    assert [packet.seq for packet in one.run(list(PACKETS))] == [3, 4, 5]  # type: ignore[union-attr]
    assert [seq for seq, _ in told] == [0, 1, 2]
    assert counts(one)["failed"] == 3


def test_a_batch_that_raises_before_it_looks_costs_a_packet() -> None:
    def call(packets: Packets) -> list[Packet]:
        raise ValueError(len(packets))

    one, told = runner(call, batch=True)
    assert one.run(list(PACKETS)) == []
    assert [text for _, text in told] == ["6"] * 6


def test_stop_iteration_is_a_failure_of_its_packet() -> None:
    def call(packet: Packet) -> Packet:
        return packet if packet.seq != 2 else next(iter([]))

    one, told = runner(call)
    assert [packet.seq for packet in one.run(list(PACKETS))] == [0, 1, 3, 4, 5]  # type: ignore[union-attr]
    assert told == [(2, "the stage has raised StopIteration")]
    assert counts(one)["failed"] == 1


@pytest.mark.parametrize("how", [list, sorted, lambda packets: map(packets.__getitem__, range(6))])
def test_a_batch_that_looks_at_all_first_is_not_given_again(how: Any) -> None:
    """Nothing tells which packet has failed: those that were passed on are not repeated."""

    def call(packets: Packets) -> Iterator[Packet]:
        for packet in how(packets):
            if packet.seq == 4:
                raise ValueError("no")
            yield packet

    one, told = runner(call, batch=True)
    assert [packet.seq for packet in one.run(list(PACKETS))] == [0, 1, 2, 3]  # type: ignore[union-attr]
    assert [seq for seq, _ in told] == [4, 5]
    assert counts(one)["failed"] == 2


def test_what_comes_after_all_packets() -> None:
    one, told = runner(by_seq({}))
    assert one.end(lambda: [PACKETS[0]]) == [PACKETS[0]]
    assert one.end(lambda: None) == []
    assert counts(one) == {"taken": 0, "made": 1, "out": 1, "dropped": 0, "failed": 0}
    assert one.end(lambda: [1 // 0]) == []  # type: ignore[list-item]
    assert counts(one)["failed"] == len(told) == 1


def test_packets_are_a_sequence() -> None:
    given = Packets(list(PACKETS))
    assert len(given) == 6
    assert given[1:3] == PACKETS[1:3]
    assert list(given) == list(given) == PACKETS
    assert given.left() == 0


RESULTS = st.dictionaries(
    st.integers(0, 5),
    st.none()
    | st.just(ValueError("no"))
    | st.lists(st.sampled_from(PACKETS), max_size=3)
    | st.just(to("alarm", PACKETS[0]))
    | st.just(5),
)


@given(RESULTS, st.sampled_from(["skip", "to:alarm"]), st.booleans())
def test_the_counts_add_up(results: dict[int, Any], on_error: str, batch: bool) -> None:
    call = by_seq(results)

    def of_many(packets: Packets) -> Iterator[Any]:
        return map(call, packets)

    one, _ = runner(of_many if batch else call, batch=batch, on_error=on_error)
    two, _ = runner(by_seq({}))
    found = run_all([one, two], list(PACKETS))
    assert counts(one)["taken"] == 6
    assert counts(one)["out"] == len(found)
    counts(two)
