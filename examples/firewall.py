"""A firewall between two network namespaces: a pipeline from two TUNs to two TUNs.

Run:    sudo .venv/bin/python examples/firewall.py LAN WAN
        Each is a network namespace: a name of "ip netns", a path, or the pid of a process in it.
        They get the interfaces lan0 (10.6.0.1/24) and wan0 (10.6.0.2/24), with a route each.
See:    everything passes but what a rule drops. A line on standard input is a rule: "drop icmp",
        "drop udp 53", "drop tcp 80"; "allow ..." takes one back. No packet is lost meanwhile, and a
        rule survives a kill of any of the processes. An empty line prints what was counted.
"""

import sys
from collections.abc import Iterator

from supervisor import handler
from tuncer.pipeline import Packets, Pipeline, Port, Routed, Stage, to

PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17}
OTHER_SIDE = {"lan0": "wan0", "wan0": "lan0"}


class Firewall(Stage):
    """Passes packets to the other side, but for those that a rule drops."""

    kept = ("rules",)

    def init(self) -> None:
        """Begin without rules, unless a former process had some."""
        if not self.restored:
            self.rules: set[tuple[int, int | None]] = set()

    def handle_batch(self, packets: Packets) -> Iterator[Routed]:
        """Pass packets on."""
        for packet in packets:
            ports = packet.ports or ()
            rules = [(packet.proto, None), *((packet.proto, port) for port in ports)]
            if self.rules.isdisjoint(rules):
                yield to(OTHER_SIDE[packet.device], packet)

    @handler
    def change(self, verb: str, protocol: str, port: int | None = None) -> None:
        """Add a rule, or take one back."""
        rule = PROTOCOLS[protocol], port
        (self.rules.add if verb == "drop" else self.rules.discard)(rule)


def main(arguments: list[str]) -> None:
    """Run the pipeline, and take rules from standard input."""
    lan, wan = (int(where) if where.isdecimal() else where for where in arguments)
    inside = Port("lan0", namespace=lan, addresses=["10.6.0.1/32"], routes=["10.6.0.2/32"])
    outside = Port("wan0", namespace=wan, addresses=["10.6.0.2/32"], routes=["10.6.0.1/32"])
    sinks = {"wan0": outside, "lan0": inside}
    stages = [Firewall.spec(workers=1)]
    running = Pipeline("firewall", [inside, outside], stages, sinks).start_link()
    print("ready", flush=True)
    for line in sys.stdin:
        verb, *rule = line.split() or [""]
        port = int(rule[1]) if len(rule) > 1 and rule[1].isdecimal() else None
        is_known = rule[:1] and rule[0] in PROTOCOLS and (len(rule) == 1 or port is not None)
        if verb in {"drop", "allow"} and is_known:
            running.within(retry=5.0).gather(Firewall.change, verb, rule[0], port)
            print("changed", flush=True)
        elif not verb:
            print(*running.stats().stages, flush=True)
        else:
            print(f"no rule: {line.strip()!r}", flush=True)
    running.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
