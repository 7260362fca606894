"""The lock over which a signal's handler may raise."""

import threading

from processes import python

from supervisor.client.lock import RLock

RAISES = """
import signal
from supervisor.client.lock import RLock

class Raised(Exception):
    pass

def handler(number, frame):
    raise Raised

lock = RLock()
signal.signal(signal.SIGALRM, handler)
raised = 0
for turn in range(3000):
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-6 + turn % 40 * 1e-6)
        while True:
            with lock:
                pass
    except Raised:
        raised += 1
    assert not lock._is_owned(), turn
print(raised)
"""


def test_a_handler_that_raises_leaves_the_lock_free() -> None:
    """In CPython 3.14 its own lock stays locked in most of these turns."""
    assert python(RAISES) == "3000\n"


def test_it_is_reentrant_and_keeps_others_out() -> None:
    lock = RLock()
    with lock, lock:
        free: list[bool] = []
        other = threading.Thread(target=lambda: free.append(lock.acquire(blocking=False)))
        other.start()
        other.join()
    assert free == [False]
    assert lock.acquire(blocking=False)
    lock.release()
