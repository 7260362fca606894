"""An actor that follows a device, and answers calls meanwhile: who sends the most?

    sudo python examples/top_talkers.py

It makes the interface lab0, sends datagrams to some hosts behind it, as any program would, and asks
the actor which hosts get the most bytes. The actor is a child of a supervisor, and so is the
device: each of the two is started again if it crashes.
"""

import socket
from collections import Counter
from ipaddress import IPv4Address

import tuncer
from supervisor import ChildSpec, Supervisor, handler

HOSTS = {"10.9.0.2": 30, "10.9.0.3": 10, "10.9.0.4": 20}


class TopTalkers(tuncer.Follower):
    """Counts the bytes to each host."""

    def init(self, device: str) -> None:
        """Begin with the packets that come now."""
        self.bytes = Counter[IPv4Address]()
        self.follow(tuncer.attach(device))

    def handle_packets(self, batch: tuncer.Batch) -> None:
        """Count: each packet of a TUN begins with an IP header."""
        for data in batch.payloads():
            if data[0] >> 4 == 4:
                self.bytes[IPv4Address(data[16:20])] += len(data)

    @handler
    def most(self, hosts: int) -> list[tuple[str, int]]:
        """Return so many hosts, and the bytes that each has got."""
        return [(str(host), count) for host, count in self.bytes.most_common(hosts)]


def main() -> None:
    """Start both, send, and ask."""
    flags = tuncer.Flag.TUN | tuncer.Flag.NO_PI
    children = [
        tuncer.child_spec("net", "lab0", flags, addresses=["10.9.0.1/24"]),
        ChildSpec("talkers", TopTalkers, ("lab0",), name="talkers"),
    ]
    sup = Supervisor.start_link(children, intensity=100)
    talkers = sup.child("talkers", TopTalkers)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for host, count in HOSTS.items():
            for _ in range(count):
                sender.sendto(bytes(972), (host, 9))
    while sum(count for _, count in talkers.call(TopTalkers.most, len(HOSTS))) < 1000 * sum(
        HOSTS.values()
    ):
        pass  # each call is served between two batches of packets
    for host, count in talkers.call(TopTalkers.most, 2):
        print(f"{host} got {count} bytes", flush=True)
    sup.stop()


if __name__ == "__main__":
    main()
