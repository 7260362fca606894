"""The bound of a mailbox, kept by each of its senders: messages sent and not served yet.

ZeroMQ's own bound is one of a connection's buffers, which an actor empties long before it serves
what was in them. So a sender counts. After a quarter of the bound it sends a mark; when the actor
has come to that, everything before it has been served. The actor keeps no books.
"""

from __future__ import annotations

from dataclasses import dataclass

from supervisor.protocol import MAILBOX, MAILBOX_BYTES

_PART = 4  # marks in a whole mailbox


@dataclass
class Room:
    """What is left of the bound, in messages and in bytes."""

    messages: int = MAILBOX
    bytes: int = MAILBOX_BYTES
    _messages: int = 0
    """Sent since the last mark."""
    _bytes: int = 0

    def has(self, size: int) -> bool:
        """Tell whether there is room for a message of so many bytes."""
        return self.messages > 0 and self.bytes >= size

    def take(self, size: int) -> bool:
        """Count a message that was sent; tell whether a mark is due."""
        self.messages -= 1
        self.bytes -= size
        self._messages += 1
        self._bytes += size
        return self._messages * _PART >= MAILBOX or self._bytes * _PART >= MAILBOX_BYTES

    def mark(self) -> tuple[int, int]:
        """Return what the mark that is sent now stands for."""
        marked = self._messages, self._bytes
        self._messages = self._bytes = 0
        return marked

    def give(self, messages: int, size: int) -> None:
        """A mark has been reached: what it stands for has been served."""
        self.messages += messages
        self.bytes += size
