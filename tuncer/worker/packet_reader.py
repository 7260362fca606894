"""Packets from the kernel into the ring: which are read, filtered, counted, and recovered.

The ring outlives a worker that is killed. Its successor continues the log where it ends.
"""

from __future__ import annotations

import logging

from tuncer import tunctl
from tuncer.protocol import ring
from tuncer.protocol.packet import Framing, Packet
from tuncer.protocol.ring_reader import RingReader
from tuncer.tunctl import Flag
from tuncer.tunctl.header import SIZE as PI_SIZE
from tuncer.worker import packet_length
from tuncer.worker.active_mode import Active, Mode
from tuncer.worker.demand import demand
from tuncer.worker.packet_filter import Filter
from tuncer.worker.ring_writer import RingWriter

_LARGEST_VNET_HDR = 1024  # so that any packet behind it fits


class PacketReader:
    """Reads one queue of a device into its ring."""

    def __init__(self, tun: int, ring_fd: int, filter_fd: int, queue: int, queues: int) -> None:
        """Map the ring, and restore the filter of a worker before this one.

        Args:
            tun: the device's descriptor.
            ring_fd: the ring's descriptor.
            filter_fd: the memfd where the filter is kept.
            queue: which of the device's queues this is; the first one's filter is the kernel's.
            queues: how many there are.
        """
        self.tun = tun
        self.flags = tunctl.flags(tun)  # whatever was asked for, or adopted
        self._vnet_hdr = tunctl.vnet_hdr_size(tun)
        self.writer = RingWriter(ring_fd)
        self._tell_framing()
        self.ring = RingReader(ring_fd, of_another_process=False)
        self.control = self.writer.control
        self.queue = queue
        self.has_queues = queues > 1
        self._was_active = False
        self.filter = Filter(tun, filter_fd, self._prefix, leads=queue == 0)
        self.mode = Mode(self.control)

    @property
    def is_new(self) -> bool:
        """Whether no worker has written to this ring yet."""
        return self.control.transmitted is None

    def recover(self, active: Active, logger: logging.Logger) -> None:
        """Begin the log; or continue that of a killed worker, with what it had read last."""
        control = self.control
        if self.is_new:
            self.mode.set(active, has_subscribers=False)
            counts = tunctl.statistics(self.tun)
            control.received = counts["rx_packets"]
            control.received_bytes = counts["rx_bytes"]
            control.handed_out = counts["tx_packets"]
            control.transmitted = counts["tx_bytes"]
            return
        control.restarts += 1

        def measure(packet: memoryview, seq: int, before: int) -> int | None:
            length = self._length(packet, seq, before)
            if length is None:
                logger.warning(
                    "%s: a frame is lost: a kill left it in the ring without its length",
                    self.name,
                )
            return length

        self.writer.recover(measure, self.filter.accepts)

    @property
    def name(self) -> str:
        """The device's."""
        return self.control.name

    def decide(self, *, receivers: bool, has_subscribers: bool) -> bool:
        """Attach or detach the queue as ``demand`` says; return whether to poll the device."""
        active = has_subscribers or self.mode.is_active(has_subscribers=has_subscribers)
        wanted = demand(
            receivers=receivers,
            room=self.mode.room(has_subscribers=has_subscribers),
            active=active,
            was_active=self._was_active,
            settled=bool(self.control.settled),
        )
        if self.has_queues:
            self._attach(attached=wanted.attached)
            self._was_active = active
            self.control.settled = 1
        return wanted.polled

    def _attach(self, *, attached: bool | None) -> None:
        try:
            if attached is None or tunctl.is_attached(self.tun) == attached:
                return
            if attached:
                tunctl.attach_queue(self.tun)
            else:
                tunctl.detach_queue(self.tun)
        except OSError:
            return  # the device was deleted, which polling its descriptor tells

    def read(self, *, has_subscribers: bool) -> bool:
        """Read a batch for subscribers, or one packet for a ``recv``; return whether the former.

        Raises:
            OSError: EBADFD, the device was deleted. What was read before is in the log.
        """
        room = self.mode.room(has_subscribers=has_subscribers)
        if not self.filter.runs_here:
            self.writer.fill(self.tun, room or 1)
        elif self.writer.fill_filtered(self.tun, room or 1, self.filter.accepts)[1]:
            self.filter.is_dry()
        if room:
            self.hand_over()
        return room > 0

    def hand_over(self, limit: int | None = None) -> None:
        """Leave the packets in the log, or those below a limit, to the subscribers.

        No ``recv`` gets any of them.
        """
        head = self.control.head
        end = head if limit is None else min(head, limit)
        self.control.taken = max(self.control.taken, end)

    def take(self) -> Packet | None:
        """Return the next packet for a ``recv``: the first one that nobody has taken, if any."""
        seq = self.control.taken
        if seq >= self.control.head:
            return None
        taken = self.ring.take(seq, self.name, most=1)
        assert taken.batch is not None  # nobody reads so far that it would be overwritten
        self.control.taken = taken.seq
        return taken.batch[0]

    def put_back(self) -> None:
        """Undo the last ``take``: nobody got the packet."""
        self.control.taken -= 1

    def vnet_hdr_size(self, size: int | None = None) -> int:
        """Return the size of the header before each packet, after setting it if one is given.

        Raises:
            ValueError: a packet behind it may not fit into the ring.
        """
        if size is not None and size > _LARGEST_VNET_HDR:
            raise ValueError(f"a virtio_net_hdr has at most {_LARGEST_VNET_HDR} bytes, not {size}")
        self._vnet_hdr = tunctl.vnet_hdr_size(self.tun, size)
        self._tell_framing()
        return self._vnet_hdr

    def _tell_framing(self) -> None:
        """Tell subscribers how this device frames packets."""
        self.writer.control.framing = Framing(Flag.TAP in self.flags, self._prefix())

    def _prefix(self) -> int:
        """Return how many bytes precede each packet."""
        information = 0 if Flag.NO_PI in self.flags else PI_SIZE
        return information + (self._vnet_hdr if Flag.VNET_HDR in self.flags else 0)

    def _length(self, packet: memoryview, seq: int, before: int) -> int | None:
        """Return the length of the one packet of which a killed worker did not store it.

        Args:
            packet: the memory that it begins.
            seq: its number.
            before: bytes in the log before it.
        """
        prefix = self._prefix()
        # What a packet says of itself leaves out padding, and need not be true.
        length = self._length_by_counters(seq, before, prefix)
        if length is None:
            of = packet_length.frame_length if Flag.TAP in self.flags else packet_length.ip_length
            length = of(packet[prefix:])
        return None if length is None else min(max(length + prefix, 1), ring.LONGEST)

    def _length_by_counters(self, seq: int, before: int, prefix: int) -> int | None:
        """Return what the kernel has handed out less what the log has: this packet.

        None if another process reads the device, too, through a descriptor or another queue: then
        the kernel's counters are of both.
        """
        counts = tunctl.statistics(self.tun)
        others = seq + self.control.filtered
        if counts["tx_packets"] - self.control.handed_out != others + 1:
            return None
        handed_out = counts["tx_bytes"] - (self.control.transmitted or 0)
        return handed_out - (before + self.control.filtered_bytes - others * prefix)
