"""Sources and sinks, as a pipeline is told of them: ``Port``, ``Pcap``, and functions."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, TypeAlias

from supervisor import ChildSpec
from supervisor.lowlevel import reference_to
from tuncer.client.create import child_spec
from tuncer.client.device import Device
from tuncer.client.link import absolute
from tuncer.pipeline.plan import EndPlan
from tuncer.protocol.packet import Packet
from tuncer.tunctl import Flag

_LONGEST_TOPIC = 255  # bytes


def _check_count(name: str, given: Any) -> None:
    """Check a number that is 0 or above, and fits into what stores it.

    Raises:
        TypeError, ValueError: it is none.
    """
    if isinstance(given, bool) or not isinstance(given, int):
        raise TypeError(f"{name} is a number, not {given!r:.100}")
    if not 0 <= given < 1 << 31:
        raise ValueError(f"{name} is 0 or above, not {given}")


@dataclass(frozen=True)
class Port:
    """A device as a source or a sink; as both, packets of one pipeline go in and out by it.

    By default the pipeline makes the device, and again if somebody deletes it. ``Port.of(device)``
    is one that is there already.

    Args:
        name: the device's.
        flags: as of ``tuncer.create``; by default a TUN.
        queues: how many queues; as a source each of them is read by a worker of its own.
        options: as of ``tuncer.child_spec``: ``addresses``, ``mtu``, ``routes`` and so on.
    """

    name: str
    flags: int = Flag.TUN | Flag.NO_PI
    queues: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    device: Device | None = None
    """One that is somebody else's."""

    def __init__(
        self, name: str, flags: int = Flag.TUN | Flag.NO_PI, *, queues: int = 1, **options: Any
    ) -> None:
        for key, value in {"name": name, "flags": int(flags), "queues": queues}.items():
            object.__setattr__(self, key, value)
        object.__setattr__(self, "options", options)
        object.__setattr__(self, "device", None)
        if not name:
            raise ValueError("a pipeline's device has a name: give one")
        self.spec()  # which says what is wrong

    @classmethod
    def of(cls, device: Device) -> Port:
        """Return a device that is there already, and stays when the pipeline ends."""
        port = cls(device.name)
        object.__setattr__(port, "queues", device.queues)
        object.__setattr__(port, "device", device)
        return port

    def described(self) -> dict[str, Any]:
        """Return how a worker finds the device."""
        if self.device is not None:
            path, *fields = self.device.__reduce__()[1]
            return {"name": self.name, "namespace": None, "device": [str(path), *fields]}
        namespace = self.options.get("namespace")
        if namespace is not None:
            namespace = absolute(namespace)
            namespace = namespace if isinstance(namespace, int) else str(namespace)
        return {"name": self.name, "namespace": namespace, "device": None}

    def spec(self) -> ChildSpec:
        """Return the specification of the device's worker."""
        name, options = self.name, dict(self.options)
        if self.queues != 1:
            options["queues"] = self.queues
        return child_spec(f"device {name}", name, self.flags, restart="permanent", **options)


@dataclass(frozen=True)
class Pcap:
    """A capture: as a source pcap or pcapng, as a sink a file, pcapng.

    Args:
        path: where it is. As a sink, a file that is there is replaced when the pipeline starts, and
            continued after a crash. As a source, a binary stream will do, a pipe say: this program
            reads it, and feeds the pipeline, see ``Feed``.
        timed: as a source: packets come at the distances of their times.
        rotate_bytes: as a sink: a file of so many bytes is the last one's; the next one begins.
            Files are then called ``name-00000.pcapng``, ``name-00001.pcapng`` and so on, behind
            those that are there of earlier runs.
        rotate_seconds: the same after so many seconds.
        snaplen: as a sink: bytes of a packet that are written, at most; 0: all.
    """

    path: str | os.PathLike[str] | IO[bytes]
    timed: bool = False
    rotate_bytes: int | None = None
    rotate_seconds: float | None = None
    snaplen: int = 0

    def __post_init__(self) -> None:
        """Check the arguments.

        Raises:
            TypeError, ValueError: which one is wrong.
        """
        for name in ("rotate_bytes", "rotate_seconds"):
            given = getattr(self, name)
            kinds = int if name == "rotate_bytes" else (int, float)
            if given is not None and (isinstance(given, bool) or not isinstance(given, kinds)):
                raise TypeError(f"{name} is a number, not {given!r:.100}")
            if given is not None and not 0 < given < math.inf:
                raise ValueError(f"{name} is above 0, not {given}")
        _check_count("snaplen", self.snaplen)

    @property
    def is_file(self) -> bool:
        """Whether it has a path, and so every process can read it."""
        return isinstance(self.path, (str, os.PathLike))

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return str(self.path) if self.is_file else str(getattr(self.path, "name", "a stream"))

    def absolute(self) -> str:
        """Return the absolute path.

        Raises:
            TypeError: it is a stream.
        """
        if not isinstance(self.path, (str, os.PathLike)):
            raise TypeError(f"a capture is written to a file, by its path, not to {self.path!r}")
        return os.path.abspath(self.path)


@dataclass(frozen=True)
class Feed:
    """As a source: whatever others give to the pipeline, by ``PipelineRef.feed`` or as a sink.

    As a sink: the pipeline of this name, which has such a source. It may be of another program. A
    ``Pipeline`` as a sink is the same. Over kills of any worker no packet is lost between the two,
    or comes twice, if the stages make the same of the same packets; what they emit by themselves,
    or give in the end, may come twice.

    Args:
        pipeline: as a sink, the name.
    """

    pipeline: str = ""


@dataclass(frozen=True)
class Zmq:
    """A ZeroMQ endpoint of the wire format (docs/wire-format.md): batches as messages.

    As a source it is connected to, by a SUB socket: a device's ``endpoint``, or another pipeline's
    sink. It begins with what is sent when its subscription is in force. What is lost behind that,
    also while the worker is being restarted, is counted as missed.
    As a sink it is bound, by an XPUB socket: it sends to whoever is there. A slow subscriber loses
    batches, which their numbers tell; after a crash some come again, with the same numbers.

    Args:
        endpoint: "ipc:///run/..." or "tcp://127.0.0.1:5555".
        topic: as a source, what to subscribe to, by its beginning; as a sink, the topic of all
            messages, by default the sink's name.
        subscribers: as a sink: wait, with the first packet, until so many have subscribed. With 0
            the packets that come before the first subscriber go to nobody.
    """

    endpoint: str
    topic: str = ""
    subscribers: int = 0

    def __post_init__(self) -> None:
        """Check the arguments.

        Raises:
            TypeError, ValueError: which one is wrong.
        """
        if not isinstance(self.topic, str):
            raise TypeError(f"a topic is text, not {self.topic!r:.100}")
        if len(self.topic.encode()) > _LONGEST_TOPIC:
            raise ValueError(f"a topic has {_LONGEST_TOPIC} bytes at most, not {self.topic!r:.100}")
        _check_count("subscribers", self.subscribers)
        if not isinstance(self.endpoint, str) or "://" not in self.endpoint:
            raise ValueError(f"an endpoint is like 'tcp://127.0.0.1:5555', not {self.endpoint!r}")


Source: TypeAlias = (
    "Port | Pcap | Zmq | Feed | Device | Callable[[], Iterable[Packet | bytes]] | Iterable[Any]"
)
"""A function at the top level of a module returns packets, of any iterable; after a crash it is
called again, and as many packets as were done with are left out. Any other iterable stays in the
program, which feeds the pipeline. Bytes are IP packets."""
Sink: TypeAlias = "Port | Pcap | Zmq | Feed | Device | Callable[[Packet], object]"


def is_fed_by_program(source: Any) -> bool:
    """Tell whether a source is an object that stays in the program, which feeds the pipeline."""
    if isinstance(source, Pcap):
        return not source.is_file
    if isinstance(source, (list, tuple)):
        return bool(source) and all(isinstance(one, (bytes, Packet)) for one in source)
    if isinstance(source, (Port, Zmq, Feed, Device, str, bytes, Packet, Mapping)):
        return False
    return isinstance(source, Iterable) and not callable(source)


def each_of(source: Any) -> list[Any]:
    """Return the sources that a pipeline was given."""
    several = isinstance(source, (list, tuple)) and not is_fed_by_program(source)
    return list(source) if several else [source]


def source_plans(source: Any) -> list[EndPlan]:
    """Return what the workers of the first segment read, each one of them.

    Raises:
        TypeError, ValueError: this is no source.
    """
    if isinstance(source, io.IOBase):
        raise TypeError(f"a stream is a source as Pcap(stream), not by itself: {source!r:.100}")
    if isinstance(source, Feed) or is_fed_by_program(source):
        return [EndPlan("feed", "feed", {})]
    if isinstance(source, (list, tuple)):
        if not source:
            raise ValueError("a pipeline has one source at least")
        return [plan for one in source for plan in source_plans(one)]
    if isinstance(source, Device):
        source = Port.of(source)
    if isinstance(source, Port):
        return [
            EndPlan(source.name, "port", {"queue": queue, **source.described()})
            for queue in range(source.queues)
        ]
    if isinstance(source, Pcap):
        path = source.absolute()
        return [EndPlan(os.path.basename(path), "pcap", {"path": path, "timed": source.timed})]
    if isinstance(source, Zmq):
        options = {"endpoint": source.endpoint, "topic": source.topic}
        return [EndPlan(source.endpoint, "zmq", options)]
    if callable(source):
        name = getattr(source, "__name__", "function")
        return [EndPlan(name, "function", {"start": reference_to(source)})]
    raise TypeError(
        "a source is a Port, a Pcap, a Zmq, a Feed, a Device, a function that returns packets, or"
        f" an iterable, not {source!r:.200}"
    )


def sink_plan(name: str, sink: Any) -> EndPlan:
    """Return a sink.

    Raises:
        TypeError, ValueError: this is none.
    """
    if isinstance(sink, Device):
        sink = Port.of(sink)
    if isinstance(sink, Port):
        return EndPlan(name, "port", sink.described())
    if isinstance(sink, Pcap):
        limits = {"bytes": sink.rotate_bytes, "seconds": sink.rotate_seconds}
        told = {"path": sink.absolute(), "snaplen": sink.snaplen, **limits}
        return EndPlan(name, "pcap", told)
    if isinstance(sink, Zmq):
        told = {"endpoint": sink.endpoint, "topic": sink.topic or name}
        return EndPlan(name, "zmq", {**told, "subscribers": sink.subscribers})
    if isinstance(sink, Feed):
        if not sink.pipeline:
            raise ValueError(f"sink {name!r}: a Feed has the name of a pipeline there")
        return EndPlan(name, "pipeline", {"name": sink.pipeline})
    if callable(sink):
        return EndPlan(name, "function", {"start": reference_to(sink)})
    raise TypeError(
        f"sink {name!r} is a Port, a Pcap, a Zmq, a Feed, a Device, a Pipeline, or a function of a"
        f" packet, not {sink!r:.200}"
    )


def ports_of(source: Any, sinks: Iterable[Any]) -> dict[str, Port]:
    """Return the devices that a pipeline makes, by name.

    Raises:
        ValueError: two of them have the same name, and differ.
    """
    found: dict[str, Port] = {}
    for port in (*each_of(source), *sinks):
        is_made = isinstance(port, Port) and port.device is None
        if is_made and found.setdefault(port.name, port) != port:
            raise ValueError(f"the device {port.name!r} is described twice, and differently")
    return found
