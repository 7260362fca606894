"""The peer: reads a TUN device by python-pytun, and sends each packet as a message of pyzmq.

Usage: python pytun_publisher.py ENDPOINT NAME SECONDS, in an environment that has both. It prints
"ready", and a line of JSON.
"""

import json
import os
import select
import subprocess
import sys
import time

import pytun
import zmq


def main() -> None:
    endpoint, name, seconds = sys.argv[1:]
    tun = pytun.TunTapDevice(name=name, flags=pytun.IFF_TUN | pytun.IFF_NO_PI)
    tun.addr, tun.netmask, tun.mtu = "10.98.0.1", "255.255.255.0", 1500
    link = ["ip", "link", "set", name, "txqueuelen", "10000", "addrgenmode", "none"]
    subprocess.run(link, check=True)  # before the kernel sends what it sends to a new link
    tun.up()
    os.set_blocking(tun.fileno(), False)
    context = zmq.Context()
    socket = context.socket(zmq.PUB)
    socket.setsockopt(zmq.SNDHWM, 100_000)
    socket.bind(endpoint)
    print("ready", flush=True)
    poller = select.poll()
    poller.register(tun, select.POLLIN)
    while not poller.poll(10):  # tell subscribers that they are there
        socket.send(b"")
    end, count = time.monotonic() + float(seconds), 0
    while time.monotonic() < end:
        try:
            while True:
                socket.send(tun.read(2000))
                count += 1
        except (OSError, pytun.Error):
            poller.poll(100)
    print(json.dumps({"read": count}))
    socket.close(1000)
    context.term()


if __name__ == "__main__":
    main()
