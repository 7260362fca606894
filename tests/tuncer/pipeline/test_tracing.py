"""What a trace says of packets."""

import os

from hypothesis import given
from hypothesis import strategies as st
from pipelines import packet

from tuncer.pipeline import tracing
from tuncer.pipeline.arena import Arena, Layout, WorkerShape, create
from tuncer.pipeline.records import Routed
from tuncer.pipeline.tracing import PUT, READ, TAKEN, Step, Trace, key_of, verdict_of


def found(datas: list[bytes], sinks: list[str]) -> tracing._Found:
    return tracing._Found(datas, sinks)


def test_a_stage_in_a_word() -> None:
    one = found([b"a"], [])
    for made, says in (
        (found([b"a"], []), "passed"),
        (found([b"b"], []), "changed"),
        (found([], []), "dropped"),
        (found([b"a", b"a"], []), "made 2"),
        (found([], ["alarm"]), "to alarm"),
        (found([b"a"], ["alarm"]), "passed, to alarm"),
        (found([], ["alarm", "alarm"]), "2 to alarm"),
    ):
        assert verdict_of(one, made, is_failed=False) == says
    assert verdict_of(one, found([], ["bad"]), is_failed=True) == "failed, to bad"
    on_its_way = found([b"a"], ["alarm"])
    assert verdict_of(on_its_way, found([b"a"], ["alarm"]), is_failed=False) == "passed"
    assert verdict_of(on_its_way, found([], ["alarm", "alarm"]), is_failed=False) == "to alarm"


def test_only_traced_packets_are_followed() -> None:
    trace = Trace({key_of(packet(1)), key_of(packet(3))}, "w")
    trace.each([packet(1), packet(2), Routed("out", packet(3)), packet(1)], "out", "written")
    assert [(s.seq, s.packets) for s in trace.steps] == [(1, 2), (3, 1)]


@given(st.permutations(range(5)))
def test_steps_come_in_any_order_of_workers(order: list[int]) -> None:
    key = key_of(packet(1))
    steps = [
        Step(*key, 100, "source-1", "lab0", READ, 1, "36 bytes"),
        Step(*key, 150, "source-1", "count-1", PUT, 2, ""),
        Step(*key, 200, "count-1", "source-1", TAKEN, 2, ""),
        Step(*key, 250, "count-1", "count", "passed", 2, ""),
        Step(*key, 300, "count-1", "out", "written", 2, ""),
    ]
    (one,) = tracing.packets_of([steps[n] for n in order])
    assert (one.device, one.seq, one.summary, one.done) == ("lab0", 1, "36 bytes", True)
    assert [step.time for step in one.steps] == [0, 50, 100, 150, 200]
    (one,) = tracing.packets_of(steps[:2])
    assert not one.done
    assert not tracing.is_over([one], 1)
    assert tracing.packets_of(steps[1:]) == []  # its beginning has not been seen


def test_what_has_no_room_in_a_page_is_left_out() -> None:
    layout = Layout((WorkerShape(8, keeps=False),), 0, 1 << 18)
    fd = create(layout)
    page = Arena(fd, layout).page(0)
    os.close(fd)
    data = bytes(1000)
    sizes = [page.write_trace(1000 * n, data) for n in range(100)]
    assert set(sizes) == {1000, 0}
    assert sizes == sorted(sizes, reverse=True)
    page.write_trace_key(63, 1, 1 << 63)
    assert page.trace_keys(64)[63] == (1, 1 << 63)
