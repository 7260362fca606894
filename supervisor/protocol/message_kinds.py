"""Messages between actors, and between a supervisor and its children.

In a mailbox: ``[kind, number, term]``, where number is the sender's of a request that is to be
answered, else 0; a call that an actor makes has a fourth part, the processes that wait for it.
An answer is ``[kind, number, term]`` on the same connection.
"""

CALL, CAST, INFO, MONITOR, STOP, OWN, LEAVE = range(7)
LINK, UNLINK, ANSWER, SYSTEM, SUBSCRIBE, SEEN, FORGET, CALL_METHOD, CAST_METHOD = range(7, 16)
"""Kinds of messages to an actor. SEEN says how far a subscriber has come; FORGET withdraws the
MONITOR or SUBSCRIBE of a number. The term of CALL_METHOD and CAST_METHOD is of ``invocation``."""

CALLS = (CALL, CALL_METHOD)
METHODS = (CALL_METHOD, CAST_METHOD)
SERVED = (CALL, CAST, INFO, CALL_METHOD, CAST_METHOD)
"""Messages that callbacks serve: the mailbox's bound is about them, and a suspended actor keeps
them."""

REPLY, RAISE, DOWN, EVENT, CREDIT, CRASH, LAST = range(7)
"""Kinds of answers: a value, an error to raise in the caller, the reason why the actor ends, one of
many to SUBSCRIBE, how many messages and bytes were served (see ``flow_control``); and of an actor
that is about to end, an error to raise, and a value."""

IN_FLIGHT = 500
"""Calls that one process may have under way with one actor; further ones wait."""

MAILBOX = 10_000
"""Messages of one process that one actor may not have served yet; further ones wait."""

EVENTS_UNDER_WAY = 500
"""Events of one subscription that may be under way; further ones are counted as lost. They must not
fill the connection: answers need it."""

MAILBOX_BYTES = 32 << 20
"""Bytes of them; further ones wait."""

# On the channel between a process and the one that started it: an interpreter that begins says
# HELLO; then come the words of any actor; to it go the answer to STORE, the order to end, and the
# question whether it still serves, which PONG answers; HELD says that a debugger holds it up. LEFT
# says that the program to which the actor belongs is about to exit. RESTORE says that the runtime
# directory has been made again.
HELLO = "hello"
READY = "ready"
IGNORE = "ignore"
FAILED = "failed"
EXIT = "exit"
STORE = "store"
DROP = "drop"
HAPPENED = "happened"
PONG = "pong"
HELD = "held"
STORED = "stored"
SHUT = "shut"
PING = "ping"
LEFT = "left"
RESTORE = "restore"
