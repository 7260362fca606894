"""Actors that follow devices: packets come to a callback, in turns with messages."""

from __future__ import annotations

import functools
from typing import Any

from supervisor import GenServer, Shutdown
from tuncer.client.device import HOLD_TIMEOUT, Device, Policy
from tuncer.client.subscription import Subscription
from tuncer.protocol.batch import Batch
from tuncer.protocol.packet import DeviceError, DeviceEvent


class Follower(GenServer):
    """A GenServer that gets the packets of devices, besides calls, casts and messages.

    Its loop serves messages and packets in turns: some messages, then one batch of each device. So
    a flood of packets does not keep calls waiting, and a flood of messages does not keep packets
    waiting. An exception in a callback ends the actor, as in any other; a successor begins with the
    packets that are read after it has called ``follow``.
    """

    def follow(
        self,
        device: Device,
        *,
        batch: int = 256,
        events: bool = False,
        transport: str = "ring",
        queue: int | None = None,
        policy: Policy = "drop",
        hold_timeout: float | None = HOLD_TIMEOUT,
        large: bool = False,
    ) -> Subscription[Any]:
        """Subscribe to a device: its packets come to ``handle_packets`` from now on.

        Args:
            device: which.
            batch: packets in a batch, at most.
            events: have its ``DeviceEvent`` objects come to ``handle_event``.
            transport: as of ``Device.subscribe``.
            queue: as of ``Device.subscribe``.
            policy: as of ``Device.subscribe``.
            hold_timeout: as of ``Device.subscribe``.
            large: as of ``Device.subscribe``.

        Returns:
            The subscription, for ``unfollow`` and ``stats``.

        Raises:
            As ``Device.subscribe``.
        """
        subscription = device.subscribe(
            batch=batch,
            events=events,
            transport=transport,
            queue=queue,
            policy=policy,
            hold_timeout=hold_timeout,
            large=large,
        )
        self.add_reader(subscription.fileno(), functools.partial(self._take, subscription))
        return subscription

    def unfollow(self, subscription: Subscription[Any]) -> None:
        """End a subscription; nothing of it comes any more."""
        if not subscription.closed:
            self.remove_reader(subscription.fileno())
            subscription.close()

    def handle_packets(self, batch: Batch) -> None:
        """Take packets that follow one another."""
        raise NotImplementedError(f"{type(self).__qualname__} handles no packets: {batch!r}")

    def handle_event(self, event: DeviceEvent) -> None:
        """Take what has happened to a device, after the packets that came before it."""
        raise NotImplementedError(f"{type(self).__qualname__} handles no events: {event}")

    def handle_end(self, subscription: Subscription[Any], end: EOFError | DeviceError) -> None:
        """Go on after a device has ended: by default this actor ends, too.

        Args:
            subscription: which is closed.
            end: EOFError if the device was destroyed; DeviceError if it was deleted, or its
                supervisors were killed.
        """
        del subscription
        self.exit(Shutdown(str(end)))

    def _take(self, subscription: Subscription[Any]) -> None:
        try:
            item = subscription.recv(timeout=0)
        except TimeoutError:
            return
        except (EOFError, DeviceError) as end:
            self.unfollow(subscription)
            self.handle_end(subscription, end)
            return
        if isinstance(item, DeviceEvent):
            self.handle_event(item)
        else:
            self.handle_packets(item)
