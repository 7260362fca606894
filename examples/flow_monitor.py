"""A pipeline that counts packets per flow in two processes, writes them to a file, and shows them.

Run:    sudo .venv/bin/python examples/flow_monitor.py [SECONDS]
See:    a table of the largest flows of the interface lab0, which the example makes and sends
        datagrams through. Kill any of its processes meanwhile: no flow begins anew, and the file
        flows.pcapng has each packet once.
"""

import contextlib
import socket
import sys
import time
from collections.abc import Iterator

from rich.live import Live
from rich.table import Table

from supervisor import handler
from tuncer import Packet
from tuncer.pipeline import Packets, Pcap, Pipeline, PipelineRef, Port, Stage, flow_text


def ip_only(packet: Packet) -> Packet | None:
    """Drop what is no IP packet."""
    return packet if packet.ip else None


class Flows(Stage):
    """Counts the packets and bytes of each flow."""

    kept = ("flows",)

    def init(self) -> None:
        """Begin with nothing, unless a former process has counted already."""
        if not self.restored:
            self.flows: dict[bytes, list[int]] = {}

    def handle_batch(self, packets: Packets) -> Iterator[Packet]:
        """Count packets, and pass them on."""
        for packet in packets:
            counts = self.flows.setdefault(packet.flow or b"", [0, 0])
            counts[0] += 1
            counts[1] += len(packet.data)
            yield packet

    @handler
    def largest(self, count: int) -> list[tuple[bytes, list[int]]]:
        """Return so many flows: those of the most bytes."""
        return sorted(self.flows.items(), key=lambda flow: flow[1][1], reverse=True)[:count]


def table_of(running: PipelineRef) -> Table:
    """Return the largest flows of all workers."""
    table = Table("flow", "packets", "bytes")
    largest = running.within(retry=5.0).gather(Flows.largest, 5)
    found = [flow for flows in largest for flow in flows]
    for flow, (packets, size) in sorted(found, key=lambda one: one[1][1], reverse=True)[:5]:
        table.add_row(flow_text(flow), str(packets), str(size))
    return table


def main() -> None:
    """Run the pipeline, send, and show."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    port = Port("lab0", addresses=["10.9.0.1/24"])
    stages = [ip_only, Flows.spec(workers=2, by="flow")]
    running = Pipeline("monitor", port, stages, Pcap("flows.pcapng")).start_link()
    end = time.monotonic() + seconds
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        contextlib.ExitStack() as stack,
    ):
        sender.bind(("10.9.0.1", 5000))
        live = stack.enter_context(Live(table_of(running)))
        while time.monotonic() < end:
            for number in range(1, 6):
                for _ in range(number):
                    sender.sendto(bytes(100), (f"10.9.0.{1 + number}", 9))
            live.update(table_of(running))
    counts = running.stop()
    (sink,) = counts.sinks
    print(f"{sink.written} packets are in flows.pcapng, {counts.sources[0].missed} were missed")


if __name__ == "__main__":
    main()
