"""A tree of three supervisors and twelve workers, and blows on them at random.

After every one the tree becomes whole again; at the end nothing is left over, and nothing grown.
"""

import contextlib
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

from actors import Counter, Keeper
from processes import children, gone

from supervisor import ActorError, ChildSpec, Ref, Supervisor, SupervisorRef, linux

WORKERS = "01234k"
PATIENCE = 30.0


def tree() -> SupervisorRef:
    """Start a root with two supervisors of six workers each, of every strategy."""

    def workers(of: str) -> list[ChildSpec]:
        counters = [
            ChildSpec(f"{of}{n}", Counter, name=f"{of}{n}", watchdog=0.1, shutdown=0.2)
            for n in range(5)
        ]
        return [*counters, ChildSpec(f"{of}k", Keeper, name=f"{of}k", watchdog=0.1, shutdown=0.2)]

    options = {"intensity": 100_000, "period": 3600}
    inner = [
        ChildSpec(name, Supervisor, (workers(name),), {"strategy": strategy, **options}, name=name)
        for name, strategy in (("a", "rest_for_one"), ("b", "one_for_all"))
    ]
    ref: SupervisorRef = Supervisor.start_link(inner, **options)
    return ref


def whole(root: SupervisorRef) -> dict[str, int]:
    """Wait until all fourteen below the root answer; return their pids by id."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(ActorError):  # somebody has just ended
            found = {}
            for name in "ab":
                inner = root.child(name)
                assert isinstance(inner, SupervisorRef)
                found[name] = inner.pid
                for worker in WORKERS:
                    ref = inner.child(name + worker)  # waits for its restart
                    ref.statistics(timeout=1.0)
                    found[name + worker] = ref.pid
            return found
    raise AssertionError(f"the tree does not become whole: {root.which_children()}")


def strike(pids: dict[str, int], chance: random.Random) -> int:
    """Do something bad to somebody, or to several at the same time; return to how many."""
    victims = chance.sample(sorted(pids), chance.choice([1, 1, 2, 3]))
    for name in victims:
        pid = pids[name]
        blows = ["kill", "kill", "kill", "raise", "raise", "exit", "exit", "stop"]
        blow = "kill" if name in "ab" else chance.choice(blows)
        with contextlib.suppress(ActorError, ProcessLookupError):  # an earlier blow has hit it
            if blow == "kill":
                os.kill(pid, signal.SIGKILL)
            elif blow == "stop":
                os.kill(pid, signal.SIGSTOP)  # its watchdog is to find it
            elif name.endswith("k"):
                Ref(name=name).cast("add")  # what it does not serve, it dies of
            else:
                Ref(name=name).call_async(blow, timeout=0.1)
    return len(victims)


def resources(pids: dict[str, int], root: int, runtime: Path) -> dict[str, int]:
    """Count what could grow: descriptors, KiB of memory, files."""

    def rss(pid: int) -> int:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4

    supervisors = [root, pids["a"], pids["b"]]
    return {
        "descriptors": sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in [root, *pids.values()]),
        "root KiB": rss(root),
        "mailboxes": len(list((runtime / "mailboxes").iterdir())),
        "names": len(list((runtime / "names").iterdir())),
        "children": sum(len(children(pid)) for pid in supervisors),
    }


def settled(root: SupervisorRef, runtime: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Return the pids of the whole tree, and what it uses.

    On a busy machine a worker may give no sign of life for the time of its watchdog, and is killed
    while this counts.
    """
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        pids = whole(root)
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found = resources(pids, root.pid, runtime)
            if whole(root) == pids:
                return pids, found
    raise AssertionError("the tree does not settle")


def trial(number: int, seed: int, runtime: Path, capfd: Any) -> None:
    """Give a tree this many blows; see that it ends as it began."""
    chance = random.Random(seed)
    root = tree()
    pids = whole(root)
    for _ in range(20):  # so that caches are warm, and what grows from then on does grow
        strike(pids, chance)
        pids = whole(root)
    pids, before = settled(root, runtime)
    ever = set(pids.values())
    blows = 0
    while blows < number:
        blows += strike(pids, chance)
        pids = whole(root)
        ever |= set(pids.values())
    capfd.readouterr()
    print(f"seed {seed}, {len(ever)} processes, before {before}")
    pids, after = settled(root, runtime)
    ever |= set(pids.values())
    assert after.pop("root KiB") - before.pop("root KiB") < 2048
    assert after == before
    alive = {pid for pid in ever if not gone(pid)}
    assert alive == set(pids.values())
    assert [pid for pid in linux.children() if gone(pid)] == []  # no zombies here either
    root.stop()
    assert all(map(gone, alive))
