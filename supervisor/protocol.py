"""Messages between actors, and between a supervisor and its children.

In a mailbox: ``[kind, id, term]``, where id is the sender's number of a request that is to be
answered, else 0. An answer is ``[kind, id, term]`` on the same connection.
"""

CALL, CAST, INFO, MONITOR, STOP, OWN = range(6)
"""Kinds of messages to an actor."""

REPLY, RAISE, DOWN = range(3)
"""Kinds of answers: a value, an error to raise in the caller, the reason why the actor ended."""

IN_FLIGHT = 500
"""Calls that one process may have under way with one actor; further ones wait."""

READY, IGNORE, FAILED, EXIT, STORE, DROP, STORED, SHUT = (
    "ready",
    "ignore",
    "failed",
    "exit",
    "store",
    "drop",
    "stored",
    "shut",
)
"""On the channel between a supervisor and a child: the child's first five words, the answer to
STORE and DROP, and the supervisor's order to end."""
