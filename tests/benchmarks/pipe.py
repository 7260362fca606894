"""multiprocessing.Pipe between two processes. Usage: pipe.py call|cast N."""

import json
import multiprocessing
import sys
import time
from multiprocessing.connection import Connection


def serve(end: Connection, kind: str, number: int) -> None:
    if kind == "call":
        while True:
            end.recv()
            end.send(15)
    for _ in range(number):
        end.recv()
    end.send("done")


def main(kind: str, number: int) -> dict[str, float]:
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=serve, args=(theirs, kind, number))
    child.start()
    if kind == "call":
        for _ in range(number // 10):
            ours.send("get")
            ours.recv()
    began = time.perf_counter()
    if kind == "call":
        for _ in range(number):
            ours.send("get")
            ours.recv()
        found = {"us": (time.perf_counter() - began) / number * 1e6}
    else:
        for _ in range(number):
            ours.send(1)
        ours.recv()
        found = {"per_s": number / (time.perf_counter() - began)}
    child.kill()
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
