"""Extract, transform, load, with a kill a second: every record is in the database exactly once.

    python examples/etl.py [RECORDS] [KILLS_PER_SECOND]        (no privileges needed)

A source reads records in order, a pool of workers transforms them, a sink writes them to SQLite.
Meanwhile a process of the tree is killed each second, whichever it is. The source remembers how far
it has come (``kept``), and repeats what was under way; the sink knows each record by its number,
and ignores what it has already. At the end it counts.
"""

import contextlib
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time

from supervisor import ChildSpec, GenServer, Pool, PoolRef, Supervisor, handler, named
from supervisor.tree import snapshot

BATCH = 50


class Worker(GenServer):
    """Transforms a record, which takes a while."""

    @handler
    def transform(self, record: int) -> int:
        """Return what is loaded for a record."""
        time.sleep(0.001)
        return record * record


class Sink(GenServer):
    """Owns the database."""

    def init(self, path: str) -> None:
        """Open it; a transaction that a kill has interrupted is rolled back."""
        self.database = sqlite3.connect(path)
        self.database.execute("create table if not exists loaded (record primary key, result)")

    @handler
    def load(self, rows: list[list[int]]) -> None:
        """Write rows; those that are there already are ignored. The reply means that they are."""
        with self.database:
            self.database.executemany("insert or ignore into loaded values (?, ?)", rows)

    @handler
    def check(self) -> list[int]:
        """Return how many records there are, and the sum of their results."""
        query = "select count(*), coalesce(sum(result), 0) from loaded"
        return list(self.database.execute(query).fetchone())


class Source(GenServer):
    """Reads the records in order, a batch at a time."""

    kept = ("position",)

    def init(self, records: int) -> None:
        """Go on behind the last batch that was loaded."""
        self.records = records
        if not self.restored:
            self.position = 0
        self.workers: PoolRef[Worker] = named("workers", PoolRef).within(10.0, retry=30.0)
        self.sink = named("sink", Sink).within(10.0, retry=30.0)
        self.call_later(0.0, self.advance)

    def advance(self) -> None:
        """Have the next batch transformed and loaded; only then it counts.

        What fails here crashes the source, which then begins this batch again.
        """
        batch = range(self.position, min(self.position + BATCH, self.records))
        results = [self.workers.call_async(Worker.transform, record) for record in batch]
        rows = [[record, one.result(30.0)] for record, one in zip(batch, results, strict=True)]
        self.sink.call(Sink.load, rows)
        self.position = batch.stop
        if self.position < self.records:
            self.call_later(0.0, self.advance)

    @handler
    def progress(self) -> int:
        """Return how many records have been loaded."""
        return self.position


def kill_one(chance: random.Random) -> str:
    """Kill a process of the tree, but the root; return which."""
    (root,) = snapshot()
    victims = [(node.id, node.pid) for node in root.all() if node is not root and node.pid]
    name, pid = chance.choice(victims)
    with contextlib.suppress(ProcessLookupError):  # it has just ended with another one
        os.kill(pid, signal.SIGKILL)
    return name


def main(records: int = 20_000, kills_per_second: float = 1.0) -> None:
    """Run it, kill, and check."""
    chance, killed = random.Random(1), 0  # noqa: S311 - which process is killed is no secret
    size = {"size": 4, "intensity": 1000}
    with tempfile.TemporaryDirectory() as directory:
        children = [
            ChildSpec("sink", Sink, (f"{directory}/etl.sqlite",), name="sink"),
            ChildSpec("workers", Pool, (ChildSpec("worker", Worker),), size, name="workers"),
            ChildSpec("source", Source, (records,), name="source"),
        ]
        supervisor = Supervisor.start_link(children, intensity=1000)
        source = named("source", Source).within(60.0, retry=60.0)
        while source.call(Source.progress) < records:
            time.sleep(1 / kills_per_second)
            print(f"killed {kill_one(chance)}", flush=True)
            killed += 1
        count, total = named("sink", Sink).within(60.0, retry=60.0).call(Sink.check)
        supervisor.stop()
    assert (count, total) == (records, sum(n * n for n in range(records)))
    print(f"{killed} kills; each of {count} records is there exactly once", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
