"""The peer: scapy's TunTapInterface, which reads packets, and dissects them.

Usage: python scapy_reader.py NAME SECONDS. It prints "ready", and a line of JSON.
"""

import json
import os
import subprocess
import sys
import time

from scapy.config import conf
from scapy.layers.tuntap import TunTapInterface


def main() -> None:
    name, seconds = sys.argv[1], float(sys.argv[2])
    conf.verb = 0
    tun = TunTapInterface(name, mode_tun=True)
    for words in (f"addr add 10.98.0.1/24 dev {name}", f"link set {name} up txqueuelen 10000"):
        subprocess.run(["ip", *words.split()], check=True)
    print("ready", flush=True)
    count, end = 0, None
    while end is None or time.monotonic() < end:
        if tun.select([tun], 0.1) and tun.recv() is not None:
            end = end or time.monotonic() + seconds
            count += 1
    print(json.dumps({"per_s": count / seconds}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
