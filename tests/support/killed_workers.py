"""Workers that kill themselves, once, at a line where a kill was never so likely."""

import dataclasses
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tuncer
from supervisor import ChildSpec
from tuncer import tunctl
from tuncer.protocol.fd_store_keys import TUN, StoreKey
from tuncer.worker.fd_store import FdStore
from tuncer.worker.packet_reader import PacketReader
from tuncer.worker.server import Worker


def spec(worker: type[Worker], **options: Any) -> ChildSpec:
    """Return the specification of a device with this worker."""
    flags = options.pop("flags", tuncer.Flag.TUN | tuncer.Flag.NO_PI)
    return dataclasses.replace(tuncer.child_spec("net", "lab0", flags, **options), start=worker)


def die_once() -> None:
    """Be killed, unless that has happened in this test before."""
    killed = Path(os.environ["TUNCER_RUNTIME_DIR"]) / "killed"
    if not killed.exists():
        killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def then_die(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function after which its process is killed, the first time."""

    def called(*arguments: Any) -> Any:
        result = function(*arguments)
        die_once()
        return result

    return called


class AsItDropsItsDevice(Worker):
    """Is killed as soon as a deleted device is dropped from the fd store."""

    def init(self, *arguments: Any, **options: Any) -> Any:
        def drop(store: FdStore, key: StoreKey) -> None:
            original(store, key)
            if key == TUN:
                die_once()

        original, FdStore.drop = FdStore.drop, drop  # type: ignore[method-assign]
        return super().init(*arguments, **options)


class BeforeItHandsOver(Worker):
    """Is killed after it has read packets for subscribers, and before it says that they are."""

    def init(self, *arguments: Any, **options: Any) -> Any:
        def hand_over(packets: PacketReader, *limit: int) -> None:
            if packets.control.head:
                die_once()
            original(packets, *limit)

        original, PacketReader.hand_over = PacketReader.hand_over, hand_over  # type: ignore[method-assign]
        return super().init(*arguments, **options)


class AsItIsPersistent(Worker):
    """Is killed as soon as its device is persistent."""

    def init(self, *arguments: Any, **options: Any) -> Any:
        tunctl.persist = then_die(tunctl.persist)
        return super().init(*arguments, **options)


class AsItHasRead(Worker):
    """Is killed when it has read a packet, and has not stored its length."""

    def init(self, *arguments: Any, **options: Any) -> Any:
        os.preadv = then_die(os.preadv)
        return super().init(*arguments, **options)


class EachTimeAsItHasRead(Worker):
    """Is killed again and again, after some packets: it has read one, and not stored its length."""

    def init(self, *arguments: Any, **options: Any) -> Any:
        left = random.randint(50, 4000)
        preadv = os.preadv

        def read(*arguments: Any) -> int:
            nonlocal left
            length = preadv(*arguments)
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return length

        os.preadv = read  # type: ignore[assignment]
        return super().init(*arguments, **options)
