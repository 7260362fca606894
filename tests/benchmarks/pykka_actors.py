"""pykka's actors, which are threads of one process. Usage: pykka_actors.py call|cast N."""

import json
import sys
import time
from typing import Any

import pykka


class Counter(pykka.ThreadingActor):
    """Counts."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def on_receive(self, message: Any) -> int:
        if message != "get":
            self.n += message
        return self.n


def main(kind: str, number: int) -> dict[str, float]:
    ref = Counter.start()
    ref.ask("get")
    began = time.perf_counter()
    if kind == "call":
        for _ in range(number):
            ref.ask("get")
        found = {"us": (time.perf_counter() - began) / number * 1e6}
    else:
        for _ in range(number):
            ref.tell(1)
        assert ref.ask("get") == number
        found = {"per_s": number / (time.perf_counter() - began)}
    ref.stop()
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
