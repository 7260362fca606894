"""Messages between actors, and between a supervisor and its children.

In a mailbox: ``[kind, id, term]``, where id is the sender's number of a request that is to be
answered, else 0. An answer is ``[kind, id, term]`` on the same connection.
"""

CALL, CAST, INFO, MONITOR, STOP, OWN, LEAVE = range(7)
"""Kinds of messages to an actor."""

REPLY, RAISE, DOWN = range(3)
"""Kinds of answers: a value, an error to raise in the caller, the reason why the actor ended."""

IN_FLIGHT = 500
"""Calls that one process may have under way with one actor; further ones wait."""

HELLO, READY, IGNORE, FAILED, EXIT, STORE, DROP, PONG, STORED, SHUT, PING = (
    "hello",
    "ready",
    "ignore",
    "failed",
    "exit",
    "store",
    "drop",
    "pong",
    "stored",
    "shut",
    "ping",
)
"""On the channel between a process and the one that started it: an interpreter that begins says
HELLO; then the words of any actor; then, to it, the answer to STORE, the order to end, and the
question whether it still serves, which PONG answers."""
