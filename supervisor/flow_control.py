"""Flow control by credit: how much one sender may have in a mailbox that has not been served.

Both sides count what has passed on a connection. The actor tells from time to time how much of it
has been served; the difference to what was sent is what the sender has in the mailbox.
A socket's buffer alone could not say that: an actor may read what it does not serve yet.
"""

from __future__ import annotations

from supervisor.protocol import MAILBOX, MAILBOX_BYTES

_PARTS = 4  # of a whole mailbox, after each of which the actor tells what was served


class Credit:
    """What a sender may still send, in messages and in bytes."""

    __slots__ = ("bytes", "messages")

    def __init__(self) -> None:
        # Positions on the connection: up to where it may be sent without another word.
        self.messages = MAILBOX
        self.bytes = MAILBOX_BYTES

    def covers(self, sent: Passed, size: int) -> bool:
        """Tell whether a message of so many bytes may be sent after what was sent."""
        return sent.messages < self.messages and sent.bytes + size <= self.bytes

    def is_whole(self, sent: Passed) -> bool:
        """Tell whether all that was sent was served, but for what may not have been told yet."""
        few = self.messages - sent.messages > MAILBOX - MAILBOX // _PARTS
        return few and self.bytes - sent.bytes > MAILBOX_BYTES - MAILBOX_BYTES // _PARTS

    def extend(self, messages: int, size: int) -> None:
        """Take note of what was served, as it was told."""
        self.messages = MAILBOX + messages
        self.bytes = MAILBOX_BYTES + size


class Passed:
    """How many messages, and bytes in them, have passed on a connection."""

    __slots__ = ("bytes", "messages", "told", "told_bytes")

    def __init__(self) -> None:
        self.messages = self.bytes = self.told = self.told_bytes = 0

    def count(self, size: int) -> bool:
        """Count a message; tell whether the sender is to be told of it."""
        self.messages += 1
        self.bytes += size
        return (
            self.messages - self.told >= MAILBOX // _PARTS
            or self.bytes - self.told_bytes >= MAILBOX_BYTES // _PARTS
        )

    def tell(self) -> list[int]:
        """Return what the sender is told."""
        self.told, self.told_bytes = self.messages, self.bytes
        return [self.messages, self.bytes]
