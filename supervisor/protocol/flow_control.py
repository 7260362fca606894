"""Flow control by credit: how much one sender may have in a mailbox that has not been served.

Both sides count what has passed on a connection. The actor tells from time to time how much of it
has been served; the difference to what was sent is what the sender has in the mailbox.
A socket's buffer alone could not say that: an actor may read what it does not serve yet.
"""

from __future__ import annotations

from supervisor.protocol.message_kinds import MAILBOX, MAILBOX_BYTES

# The part of a whole mailbox after which the actor tells what was served.
_SOME, _SOME_BYTES = MAILBOX // 4, MAILBOX_BYTES // 4


class Credit:
    """A sender's side: positions on the connection, in messages and in bytes."""

    __slots__ = ("most", "most_bytes", "sent", "sent_bytes")

    def __init__(self) -> None:
        self.sent = self.sent_bytes = 0
        self.most, self.most_bytes = MAILBOX, MAILBOX_BYTES
        """Up to where it may send without another word of the actor's."""

    def covers(self, size: int) -> bool:
        """Tell whether a message of so many bytes may be sent now."""
        return self.sent < self.most and self.sent_bytes + size <= self.most_bytes

    def extend(self, messages: int, size: int) -> None:
        """Take note of what was served, as it was told."""
        self.most = MAILBOX + messages
        self.most_bytes = MAILBOX_BYTES + size

    def is_whole(self) -> bool:
        """Tell whether all that was sent was served, but for what may not have been told yet."""
        few = self.most - self.sent > MAILBOX - _SOME
        return few and self.most_bytes - self.sent_bytes > MAILBOX_BYTES - _SOME_BYTES


class Served:
    """The actor's side: what was served of one sender's."""

    __slots__ = ("bytes", "messages", "next", "next_bytes")

    def __init__(self) -> None:
        self.messages = self.bytes = 0
        self.next, self.next_bytes = _SOME, _SOME_BYTES
        """From where on the sender is to be told again."""

    def count(self, size: int) -> bool:
        """Count a message; tell whether the sender is to be told."""
        self.messages += 1
        self.bytes += size
        return self.messages >= self.next or self.bytes >= self.next_bytes

    def tell(self) -> list[int]:
        """Return what the sender is told."""
        self.next, self.next_bytes = self.messages + _SOME, self.bytes + _SOME_BYTES
        return [self.messages, self.bytes]
