"""An actor's end of the channel to its supervisor."""

import os
import signal

import pytest
from actors import Keeper
from processes import PATIENCE, eventually, stop
from trees import start

from supervisor import (
    ChildSpec,
    Ref,
    StartFailed,
)


def test_without_a_supervisor_there_is_no_store() -> None:
    with pytest.raises(StartFailed, match="no supervisor to store"):
        Keeper.start_link()


@pytest.mark.parametrize("later", [False, True])
def test_what_could_not_be_sent_gets_no_answer_of_anothers(later: bool) -> None:
    start(ChildSpec("k", Keeper, name="k"))
    keeper = Ref(name="k")
    keeper.call(["store what is none", later])
    for name in ("one", "two"):
        keeper.call(["store", name], timeout=PATIENCE)


def test_thousands_of_requests_while_the_supervisor_stands_still_are_all_answered() -> None:
    sup = start(ChildSpec("k", Keeper, name="k"))
    keeper = Ref(name="k")
    keeper.call("names")  # connected
    stop(sup.pid)
    keeper.call(["store many", 3000], timeout=PATIENCE)  # each waits with a duplicate of its own
    os.kill(sup.pid, signal.SIGCONT)
    eventually(lambda: keeper.call("answers"), 3000)
