"""Capture files that are written, pcapng: one, or one after the other by size and time."""

from __future__ import annotations

import contextlib
import glob
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

from tuncer.protocol import pcapng
from tuncer.protocol.packet import Packet

log = logging.getLogger("tuncer")

_OFFSET_BITS = 44  # of a position: bytes in a file; above them the file's number
_OFFSETS = (1 << _OFFSET_BITS) - 1
_DIGITS = 5  # of a file's number


class Limits(NamedTuple):
    """What bounds capture files."""

    bytes: int | None = None
    """A file of so many bytes is followed by the next one."""
    seconds: float | None = None
    """The same after so many seconds."""
    snaplen: int = 0
    """Bytes of a packet that are written, at most; 0: all."""

    @property
    def rotate(self) -> bool:
        """Whether one file follows the other. They have numbers in their names then."""
        return self.bytes is not None or self.seconds is not None


class CaptureFiles:
    """Writes packets. Whatever happens, what was written before stays whole.

    ``position`` is the file's number, and how many bytes of it are written: one who goes on there
    cuts off what is behind it.
    """

    def __init__(self, path: Path, limits: Limits, position: int = 0, comment: str = "") -> None:
        """Go on at a position, or begin.

        Args:
            path: where the file is: without numbers.
            limits: of size and time.
            position: 0: begin. A file of this name is replaced then, unless they have numbers.
            comment: of each section.

        Raises:
            OSError: it cannot be written, at the beginning. Later each ``write`` tries again.
        """
        self._path, self._limits, self._comment = path, limits, comment
        self._number, self._offset = position >> _OFFSET_BITS, position & _OFFSETS
        self._interfaces: pcapng.Interfaces = {}
        self._began = time.monotonic()
        self._file: IO[bytes] | None = None
        if position == 0:
            self._number = self._first_free()
            self._open()
            return
        if limits.rotate:
            # Of a predecessor that was killed before it had committed anything in it.
            self._path_of(self._number + 1).unlink(missing_ok=True)
        try:
            self._open()
        except OSError as error:
            log.error("%s cannot be written: %s", self.name, error)

    @property
    def name(self) -> Path:
        """The present file."""
        return self._path_of(self._number)

    @property
    def position(self) -> int:
        """Behind what was written."""
        return self._number << _OFFSET_BITS | self._offset

    def _open(self) -> IO[bytes]:
        """Open the present file, and cut it behind the position.

        A new section begins there: it describes its interfaces anew.

        Raises:
            OSError: it cannot be opened, or has no room.
        """
        is_there = self._offset > 0 and self.name.exists()
        if self._offset and not is_there:
            log.error("%s was removed: another file begins", self.name)
            self._offset = 0
        file = self.name.open("r+b" if is_there else "w+b", buffering=0)
        self._interfaces = {}
        try:
            file.truncate(self._offset)
            file.seek(self._offset)
            _write(file, pcapng.section(self._comment))
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(self._offset)
            file.close()
            raise
        self._offset = file.tell()
        self._file = file
        return file

    def _first_free(self) -> int:
        """Return the number of the first file: behind those that are there, of earlier runs."""
        if not self._limits.rotate:
            return 0
        found = self._path.parent.glob(f"{glob.escape(self._path.stem)}-*{self._path.suffix}")
        cut = len(self._path.stem) + 1
        texts = [path.stem[cut:] for path in found]
        numbers = [int(text) for text in texts if text.isdecimal() and len(text) == _DIGITS]
        return max(numbers, default=-1) + 1

    def _path_of(self, number: int) -> Path:
        if not self._limits.rotate:
            return self._path
        return self._path.with_name(f"{self._path.stem}-{number:0{_DIGITS}}{self._path.suffix}")

    def write(self, packets: Sequence[Packet]) -> None:
        """Write packets, all of them or none.

        Raises:
            OSError: none was written. ENOSPC, EFBIG: there is no room for them.
        """
        self._rotate()
        file = self._file or self._open()
        blocks, known = pcapng.blocks(packets, self._interfaces, self._limits.snaplen)
        try:
            _write(file, blocks)
        except OSError as error:
            with contextlib.suppress(OSError):
                file.truncate(self._offset)
            file.seek(self._offset)
            raise OSError(error.errno, error.strerror, str(self.name)) from None
        self._interfaces = known
        self._offset = file.tell()

    def _rotate(self) -> None:
        """Begin the next file, if it is time to."""
        size, seconds, _ = self._limits
        is_full = size is not None and self._offset >= size
        is_old = seconds is not None and time.monotonic() - self._began >= seconds
        if self._file is not None and (is_full or is_old):
            self.close()
            self._number, self._offset = self._number + 1, 0
            self._began = time.monotonic()

    def close(self) -> None:
        """Write what was counted of each interface, and close the file."""
        if self._file is None:
            return
        try:
            _write(self._file, pcapng.ending(self._interfaces, time.time_ns()))
        except OSError:  # the disk is full: the packets stay readable
            with contextlib.suppress(OSError):
                self._file.truncate(self._offset)
        self._file.close()
        self._file = None


def _write(file: IO[bytes], data: bytes) -> None:
    written = 0
    while written < len(data):  # a full disk cuts it short: the next one tells
        written += file.write(data[written:])
