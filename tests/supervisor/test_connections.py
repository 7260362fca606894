"""A process's connections: a descriptor for each peer; idle ones are closed if need be."""

from __future__ import annotations

import contextlib
import os

import pytest
from actors import Counter, Recorder
from processes import (
    PATIENCE,
    eventually,
    python,
)
from strangers import say, stranger

from supervisor.protocol import message_kinds


def test_a_peer_costs_a_descriptor_on_each_side() -> None:
    recorder = Recorder.start_link()
    refs = [Counter.start_link() for _ in range(5)]
    recorder.call("warm up")
    before, there = len(os.listdir("/proc/self/fd")), recorder.call(["fds"])
    for ref in refs:
        ref.call("get")
    assert len(os.listdir("/proc/self/fd")) == before + 5
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            say(stack.enter_context(stranger(recorder.pid)), [0, 1, "hello"])
        eventually(lambda: recorder.call(["fds"]) >= there + 10)
        assert recorder.call(["fds"]) == there + 10
    eventually(lambda: recorder.call(["fds"]) <= there)


MANY = """
import resource
from actors import Recorder
from supervisor import ChildSpec, DynamicSupervisor, multi_call
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]), hard))
if __name__ == "__main__":
    number = int(sys.argv[1])
    pool = DynamicSupervisor.start_link(ChildSpec("c", Recorder))
    refs = [pool.start_child() for _ in range(number)]
    for turn in range(4):
        for ref in refs:
            ref.cast(turn)
            ref.cast(turn + 100)
    assert all(ref.call("seen") == [0, 100, 1, 101, 2, 102, 3, 103] for ref in refs)
    import os
    assert len(os.listdir("/proc/self/fd")) < int(sys.argv[2]) // 2, "it leaves no room for others"
    replies, errors = multi_call(refs[:number // 4], "seen")
    assert not errors and len(replies) == number // 4, errors[:1]
    print(len(refs))
"""


@pytest.mark.slow
def test_more_actors_than_descriptors() -> None:
    assert python(MANY, "200", "96") == "200\n"


def test_an_idle_connection_is_one_whose_messages_were_served() -> None:
    ref = Recorder.start_link()
    ref.suspend()
    for number in range(message_kinds.MAILBOX // 2):
        ref.cast(number)
    there = ref._connection()
    assert not there.close_if_idle(unread=True)
    ref.resume()
    eventually(lambda: len(ref.call("seen", PATIENCE)) >= message_kinds.MAILBOX // 2)
    assert there.close_if_idle(unread=True)
    assert ref.call("again") == "again"
