"""Writing packets to a queue of a device, on a descriptor of this process's own.

The device's worker hands out a duplicate of its descriptor, at the first packet. From then on
packets are written without the worker: if it is killed, nothing changes for those who write, and an
error is the kernel's own. All handles of a device in a process share one descriptor.

A device lives as long as somebody has a descriptor of it. So that this one does not keep a device
alive whose supervisors were killed, there is a connection to the device's control socket beside it,
which the kernel closes with them. It is looked at before a packet is written, every millisecond at
most. A device that was deleted is gone, whoever has a descriptor of it: writing fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import weakref
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

from supervisor.lowlevel import Channel, RLock
from tuncer.protocol import control_socket
from tuncer.protocol.control_socket import PATIENCE
from tuncer.protocol.operations import GETFD
from tuncer.protocol.packet import DeviceError
from tuncer.tunctl.errors import explain

Data = bytes | bytearray | memoryview

MOST_BYTES = 65535 + 14 + 4 + 4 + 12
"""The largest packet: an IP packet with Ethernet header, VLAN tag, packet information and
virtio_net_hdr before it."""

_FRESH = 0.001  # seconds in which a device is taken to be there, without another look
_DELETED = {errno.EBADFD, errno.EBADF}  # of the device; of a descriptor that was given up


_open: set[int] = set()
"""The descriptors of all devices that this process has sent to."""


class _Descriptor:
    """A descriptor of a device, and a connection that tells whether the device is still served.

    A thread that writes holds a reference to this. So the number of the descriptor belongs to
    nobody else before the last of them has written.
    """

    def __init__(self, fd: int, channel: Channel) -> None:
        self.fd = fd
        self.channel = channel
        self.fresh_until = 0.0
        _open.add(fd)

    def give_up(self) -> None:
        """Let the device go. Whoever writes from now on gets EBADF."""
        try:
            nothing = os.open("/", os.O_PATH | os.O_CLOEXEC)
        except OSError:  # there is no descriptor free
            self.channel.close()
            nothing = os.open("/", os.O_PATH | os.O_CLOEXEC)
        os.dup2(nothing, self.fd, inheritable=False)
        os.close(nothing)

    def close(self) -> None:
        """Close both: nobody writes."""
        if self.fd >= 0:
            self.channel.close()
            with control_socket.receiving:  # a fork finds the number in both places, or in none
                _open.discard(self.fd)
                os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()


class PacketWriter:
    """Writes packets to one queue of a device. Threads and forks may use it."""

    def __init__(self, path: Path, device: str) -> None:
        """Write to the device that is served at the path of a control socket."""
        self._path = path
        self._device = device
        self._lock = RLock()
        self._there: _Descriptor | None = None

    @property
    def is_ready(self) -> bool:
        """Whether a packet can be written without a look at the control socket."""
        there = self._there
        return there is not None and monotonic() < there.fresh_until

    @property
    def descriptor(self) -> int:
        """The number of its descriptor, or -1."""
        there = self._there
        return -1 if there is None else there.fd

    def make_ready(self) -> None:
        """Get a descriptor, if there is none; give it up, if the device is not served any more.

        Raises:
            DeviceError: there is no such device any more, or it does not answer.
        """
        self._usable()

    def write(self, packets: Sequence[Data]) -> int:
        """Write packets; wait for room, if the device has a send buffer that is full.

        Raises:
            As ``write_some``, and BlockingIOError: there is no room for 10 seconds.
        """
        sent = self.write_some(packets)
        while sent < len(packets):
            self.wait_for_room()
            try:
                sent += self.write_some(packets[sent:])
            except Exception as error:
                _with_count(error, sent + written_before(error))
                raise
        return sent

    async def awrite(self, packets: Sequence[Data]) -> int:
        """Write packets, as ``write`` does, from asyncio."""
        sent = 0
        while True:
            if not self.is_ready:
                await asyncio.to_thread(self.make_ready)
            sent += self.write_some(packets[sent:])
            if sent == len(packets):
                return sent
            await asyncio.to_thread(self.wait_for_room)

    def write_some(self, packets: Sequence[Data]) -> int:
        """Write packets, as many as there is room for; return how many.

        Raises:
            DeviceError: there is no such device any more, or it does not answer.
            OSError: of write(2), what the kernel says of a packet.
            ValueError: an empty packet, or one longer than any can be.
            TypeError: a packet is not bytes.
            What comes before the packet was written.
        """
        there = self._there
        if there is None or monotonic() >= there.fresh_until:
            del there  # what this raises keeps its frames, which are not to keep the descriptor
            there = self._usable()
        write, fd, sent = os.write, there.fd, 0
        try:
            for packet in packets:
                if not 0 < len(packet) <= MOST_BYTES:
                    break
                write(fd, packet)
                sent += 1
            else:
                return sent
        except BlockingIOError:
            return sent
        except BufferError:  # a memoryview that is not contiguous
            return sent + self.write_some([bytes(packets[sent]), *packets[sent + 1 :]])
        except (OSError, TypeError) as error:
            if isinstance(error, OSError) and error.errno in _DELETED:
                self._give_up(there)
            del there
            raise _with_count(_explained(error, packets[sent], self._device), sent) from None
        del there
        raise _with_count(_wrong_size(packets[sent]), sent)

    def wait_for_room(self) -> None:
        """Wait until the device takes another packet.

        Raises:
            BlockingIOError: it does not, for 10 seconds.
        """
        there = self._usable()
        poller = select.poll()
        poller.register(there.fd, select.POLLOUT)
        if not poller.poll(PATIENCE * 1000):
            problem = f"its send buffer has been full for {PATIENCE:g} s"
            raise BlockingIOError(errno.EAGAIN, problem, self._device)

    def _usable(self) -> _Descriptor:
        """Return a descriptor of a device that is served."""
        with self._lock:
            self.look()
            there = self._there or self._opened()
            there.fresh_until = monotonic() + _FRESH
            return there

    def _opened(self) -> _Descriptor:
        arriving: set[int] = set()
        _arriving.append(arriving)
        try:
            _, (fd,), channel = control_socket.request(
                *(self._path, self._device, GETFD),
                timeout=PATIENCE,
                descriptors=1,
                arriving=arriving,
            )
            there = self._there = _Descriptor(fd, channel)
        finally:
            _arriving.remove(arriving)
        return there

    def look(self) -> None:
        """Let the device go, if it is not served any more.

        A worker that was killed is followed by another one, and the control socket takes
        connections meanwhile: nobody has to answer. If it cannot be looked at, as there is no
        descriptor free, or this process is another user's since, the device is taken to be there:
        an error of the device's own tells when it is not.

        Raises:
            DeviceError: it is not served any more.
        """
        with self._lock:
            there = self._there
            if there is None or not there.channel.has_hung_up():
                return
            try:
                channel = control_socket.connect(self._path, self._device, PATIENCE)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    self._give_up(there)
                    del there
                    raise
            else:
                there.channel.close()
                there.channel = channel

    def give_up(self) -> None:
        """Let the device go, if there is a descriptor of it. The next packet gets another one."""
        self._give_up(self._there)

    def _give_up(self, there: _Descriptor | None) -> None:
        with self._lock:
            if there is not None and there is self._there:
                self._there = None
                there.give_up()

    def _after_fork(self) -> None:
        """Close what the parent has: its device is not to live as long as this process."""
        self._lock = RLock()  # another thread of the parent may have held it
        there, self._there = self._there, None
        if there is not None:  # a signal's handler that has forked may return to who writes on it
            there.give_up()


def written_before(error: Exception) -> int:
    """Return how many packets one call wrote to a queue before it raised an exception."""
    return int(getattr(error, "written", 0))


def _with_count(error: Exception, written: int) -> Exception:
    """Note how many packets were written before an exception."""
    error.written = written  # type: ignore[attr-defined]
    return error


def _explained(error: Exception, packet: Data, device: str) -> Exception:
    """Return what to raise when a packet could not be written."""
    if not isinstance(error, OSError):
        return _no_bytes(packet)
    return explain(errno.EBADFD if error.errno in _DELETED else error.errno or 0, "send", device)


def _wrong_size(packet: Data) -> Exception:
    if not isinstance(packet, (bytes, bytearray, memoryview)):
        return _no_bytes(packet)
    return ValueError(f"a packet has 1 to {MOST_BYTES} bytes, this one {len(packet)}")


def _no_bytes(packet: object) -> TypeError:
    return TypeError(f"a packet is bytes, not {type(packet).__name__}: {packet!r:.60}")


_writers: weakref.WeakValueDictionary[Path, PacketWriter] = weakref.WeakValueDictionary()
_writers_lock = RLock()


def writer_of(path: Path, device: str) -> PacketWriter:
    """Return this process's writer of the device that is served at a path."""
    with _writers_lock:
        writer = _writers.get(path)
        if writer is None:
            writer = _writers[path] = PacketWriter(path, device)
        return writer


def give_up_the_dead() -> None:
    """Let those devices go that are not served any more: their names are free again."""
    with _writers_lock:
        writers = list(_writers.values())
    for writer in writers:
        with contextlib.suppress(DeviceError):
            writer.look()


_arriving: list[set[int]] = []
"""Descriptors that arrive, or have just arrived, for writers that do not have them yet."""


def _before_fork() -> None:
    control_socket.receiving.acquire()


def _after_fork_in_parent() -> None:
    control_socket.receiving.release()


def _after_fork() -> None:
    global _writers_lock
    _writers_lock = RLock()
    control_socket.receiving = RLock()
    kept = set()
    for writer in list(_writers.values()):
        kept.add(writer.descriptor)
        writer._after_fork()  # noqa: SLF001 - of this module
    # Those that were about to be closed, or to be a writer's, in other threads of the parent.
    for fd in _open.union(*_arriving) - kept:
        os.close(fd)
    _open.intersection_update(kept)
    _arriving.clear()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork
)
