"""Workers that misbehave in every way: their supervisor answers, and ends what they leave."""

import subprocess
import sys
import time

import pytest
from actors import Counter
from hostile import KINDS, specifications
from processes import PATHS, PATIENCE

from supervisor import ChildSpec, Supervisor

PROGRAM = PATHS + (
    "import time\n"
    "from hostile import specifications\n"
    "from actors import Counter\n"
    "from supervisor import ChildSpec, Supervisor\n"
    "if __name__ == '__main__':\n"
    "    specs = [*specifications(), ChildSpec('good', Counter, name='good')]\n"
    "    sup = Supervisor.start_link(specs, intensity=100_000, period=1.0, name='root')\n"
    "    good, until, asked = sup.child('good'), time.monotonic() + 3.0, 0\n"
    "    while time.monotonic() < until:\n"
    "        assert sup.count_children()['specs'] == 6\n"
    "        assert good.call('get') == 0\n"
    "        asked += 1\n"
    "    restarts = sum(row.ref is not None for row in sup.which_children())\n"
    "    sup.stop()\n"
    "    import sys; sys.stderr.write(f'asked {asked} times\\n')\n"
)


def test_a_supervisor_of_hostile_workers_answers_and_leaves_nothing() -> None:
    """The fixture counts the processes; standard output is a pipe that nobody reads."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stderr is not None
        said = program.stderr.read()
        assert program.wait(PATIENCE) == 0, said[-3000:]
    asked = [line for line in said.splitlines() if line.startswith("asked")]
    assert int(asked[0].split()[1]) > 10
    assert "'HangsInC': no sign of life for 0.5 s (watchdog): killing it" in said
    assert "child 'EatsMemory' ended: MemoryError; restarting it" in said


@pytest.mark.parametrize("kind", [kind.__name__ for kind in KINDS if kind.__name__ != "Prints"])
def test_each_is_stopped_and_started_again_by_hand(kind: str) -> None:
    sup = Supervisor.start_link([ChildSpec("good", Counter)], intensity=100_000)
    spec = next(one for one in specifications() if one.id == kind)
    for _ in range(2):
        sup.start_child(spec)
        time.sleep(0.1)  # it has begun to misbehave
        sup.terminate_child(kind)
        sup.delete_child(kind)
    states = sup.which_children()
    assert [(row.id, row.state) for row in states] == [("good", "running")]
