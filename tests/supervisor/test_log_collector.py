"""Actors' log records in their program's logging: all of it, in order, and nobody waits."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import PATHS, PATIENCE, program, python

from supervisor.protocol import codec, log_records

ACTORS = PATHS + (
    "import json, logging, os, sys, time\n"
    "from supervisor import ChildSpec, GenServer, Supervisor, collect_logs, handler\n"
    "class Talks(GenServer):\n"
    "    @handler\n"
    "    def say(self, *what):\n"
    "        for text in what:\n"
    "            logging.getLogger('mine').info('said %s', text, extra={'n': len(text)})\n"
    "        return os.getpid()\n"
    "    @handler\n"
    "    def much(self, count):\n"
    "        for n in range(count): logging.getLogger('mine').info('%d', n)\n"
    "    @handler\n"
    "    def quiet(self):\n"
    "        logging.getLogger('quiet').info('not wanted')\n"
    "        logging.getLogger('mine').debug('not wanted')\n"
    "    @handler\n"
    "    def trouble(self):\n"
    "        try: 1 / 0\n"
    "        except ZeroDivisionError: logging.getLogger('mine').exception('in trouble')\n"
    "    @handler\n"
    "    def odd(self):\n"
    "        class Odd:\n"
    "            def __repr__(self): raise KeyboardInterrupt\n"
    "        logging.getLogger('mine').info('%s', Odd())\n"
    "        extra = {'odd': object(), 'big': 'y' * 1_000_000}\n"
    "        logging.getLogger('mine').info('x' * 1_000_000, extra=extra)\n"
    "    @handler\n"
    "    def fail(self):\n"
    "        raise ValueError('on request')\n"
    "    @handler\n"
    "    def start_another(self):\n"
    "        return Talks.start_link().call(Talks.say, 'from below')\n"
    "class Json(logging.Handler):\n"
    "    def emit(self, record):\n"
    "        fields = ('name', 'levelname', 'process', 'processName', 'actor', 'n', 'exc_text')\n"
    "        told = {f: getattr(record, f, None) for f in fields}\n"
    "        print(json.dumps(told | {'text': record.getMessage()}), flush=True)\n"
)
MAIN = (
    "if __name__ == '__main__':\n"
    "    logging.basicConfig(level=logging.INFO, handlers=[Json()])\n"
    "    logging.getLogger('quiet').setLevel(logging.ERROR)\n"
    "    collect_logs()\n"
)


def records(tmp_path: Path, code: str) -> list[dict[str, Any]]:
    """Run a program, and return the records that its handler was given."""
    (tmp_path / "program.py").write_text(f"{ACTORS}{MAIN}{code}")
    done = subprocess.run(
        # Python 3.12 warns of a fork beside the thread that collects.
        [sys.executable, "-W", "ignore::DeprecationWarning", str(tmp_path / "program.py")],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_what_actors_log_is_handled_by_the_program(tmp_path: Path) -> None:
    found = records(
        tmp_path,
        "    specs = [ChildSpec('t', Talks), ChildSpec('u', Talks, name='U')]\n"
        "    sup = Supervisor.start_link(specs)\n"
        "    pid = sup.child('t', Talks).call(Talks.say, 'a', 'bc')\n"
        "    sup.child('t').call(Talks.quiet)\n"
        "    sup.child('u').call(Talks.say, 'd')\n"
        "    logging.getLogger('mine').info('pid %d', pid)\n"
        "    Talks.start_link(name='alone').call(Talks.say, 'e')\n",
    )
    own = next(one for one in found if one["text"].startswith("pid"))
    pid = int(own["text"].split()[1])
    said = [one for one in found if one["text"].startswith("said")]
    assert [(one["text"], one["n"], one["actor"]) for one in said] == [
        ("said a", 1, "t"),
        ("said bc", 2, "t"),
        ("said d", 1, "U"),
        ("said e", 1, "alone"),
    ]
    assert [one["process"] for one in said[:2]] == [pid, pid]
    assert {one["processName"] for one in said} == {"t", "U", "alone"}
    assert not [one for one in found if one["text"] == "not wanted"]


def test_tracebacks_odd_values_and_long_ones_arrive(tmp_path: Path) -> None:
    found = records(
        tmp_path,
        "    ref = Talks.start_link()\n"
        "    ref.call(Talks.trouble)\n"
        "    ref.call(Talks.start_another)\n",
    )
    assert found[0]["text"] == "in trouble"
    assert "ZeroDivisionError: division by zero" in found[0]["exc_text"]
    assert found[1]["text"] == "said from below"
    (tmp_path / "program.py").write_text(
        f"{ACTORS}{MAIN}    ref = Talks.start_link()\n    ref.call(Talks.odd)\n"
    )
    command = [sys.executable, str(tmp_path / "program.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=50)
    odd, long = map(json.loads, done.stdout.splitlines())
    assert odd["text"].startswith("'%s' cannot be formatted: KeyboardInterrupt")
    assert long["text"] == "x" * log_records.LONGEST


def test_the_last_words_before_the_end_arrive_in_order(tmp_path: Path) -> None:
    found = records(
        tmp_path,
        "    Talks.start_link().call(Talks.much, 300)\n",
    )
    assert [int(one["text"]) for one in found] == list(range(300))


def test_an_actor_does_not_wait_for_a_program_that_handles_nothing(tmp_path: Path) -> None:
    found = records(
        tmp_path,
        "    import threading\n"
        "    go, told = threading.Event(), threading.Event()\n"
        "    class Waits(Json):\n"
        "        def emit(self, record):\n"
        "            go.wait(20); super().emit(record)\n"
        "            if 'found no room' in record.getMessage(): told.set()\n"
        "    logging.getLogger().handlers[:] = [Waits()]\n"
        "    ref = Talks.start_link()\n"
        "    ref.within(20).call(Talks.much, 100_000)\n"
        "    go.set()\n"
        "    for _ in range(2000):\n"
        "        ref.call(Talks.say, 'after')\n"
        "        if told.wait(0.01): break\n",
    )
    numbers = [int(one["text"]) for one in found if one["text"].isdigit()]
    assert numbers == list(range(len(numbers)))
    assert 0 < len(numbers) < 100_000
    lost = [one["text"] for one in found if "found no room" in one["text"]]
    assert len(lost) >= 1
    assert int(lost[0].split()[0]) > 1000


def test_records_of_actors_that_outlive_the_program_go_to_standard_error(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        f"{ACTORS}{MAIN}"
        "    ref = Talks.start(name='stays')\n"
        "    ref.call(Talks.say, 'before')\n"
        "    sys.stdin.read()\n"
    )
    with program(sys.executable, str(tmp_path / "program.py")) as running:
        running.expect("said before")
        running.process.kill()
        running.process.wait(PATIENCE)
        code = (
            "import supervisor\n"
            "from supervisor import whereis\n"
            "ref = whereis('stays')\n"
            "ref._ask(14, ['trouble', []], 20)\n"
            "ref.stop()\n"
        )
        python(code)
        running.expect("ZeroDivisionError: division by zero")


def test_a_crash_loop_is_one_line_with_a_count(tmp_path: Path) -> None:
    found = records(
        tmp_path,
        "    sup = Supervisor.start_link([ChildSpec('t', Talks)], intensity=50)\n"
        "    for n in range(20):\n"
        "        down = sup.child('t').monitor()\n"
        "        sup.child('t').cast(Talks.fail)\n"
        "        down.wait(20)\n",
    )
    crashes = [one["text"] for one in found if "ValueError: on request" in one["text"]]
    assert len(crashes) <= 4
    assert all("\n" not in text for text in crashes[1:])  # the traceback is told once
    assert "child 't' ended: ValueError: on request; restarting it" in crashes[0]
    assert "raise ValueError('on request')" in crashes[0]


def test_a_call_after_the_first_start_is_told(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(
        ACTORS
        + "if __name__ == '__main__':\n"
        + "    logging.basicConfig(level=logging.INFO, handlers=[Json()])\n"
        + "    early = Talks.start_link()\n"
        + "    collect_logs()\n"
        + "    Talks.start_link().call(Talks.say, 'later')\n"
        + "    time.sleep(0.2)\n"
    )
    said = subprocess.run([sys.executable, path], capture_output=True, text=True, check=True).stdout
    late, later = map(json.loads, said.splitlines())
    assert late["text"].startswith("collect_logs() comes late")
    assert later["text"] == "said later"


def test_a_second_call_changes_nothing_and_a_fork_may_collect(tmp_path: Path) -> None:
    found = records(
        tmp_path,
        "    collect_logs()\n"
        "    import threading\n"
        "    assert len(threading.enumerate()) == 2\n"
        "    Talks.start_link().call(Talks.say, 'once')\n",
    )
    assert [one["text"] for one in found] == ["said once"]


def test_pytest_sees_actors_records(tmp_path: Path) -> None:
    (tmp_path / "talks.py").write_text(ACTORS)
    (tmp_path / "test_it.py").write_text(
        "import logging\n"
        "from talks import Talks, collect_logs\n"
        "def test_it(caplog, supervision_tree):\n"
        "    caplog.set_level(logging.INFO)\n"
        "    collect_logs()\n"
        "    Talks.start_link().call(Talks.say, 'a')\n"
        "    for _ in range(1000):\n"
        "        if 'said a' in caplog.text: return\n"
        "        import time; time.sleep(0.01)\n"
        "    assert False, caplog.text\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stdout


def test_a_filter_that_fails_of_every_record_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        f"{ACTORS}{MAIN}"
        "    class Strict(logging.Filter):\n"
        "        def filter(self, record): return record.tenant\n"
        "    strict = Strict()\n"
        "    logging.getLogger().handlers[0].addFilter(strict)\n"
        "    ref = Talks.start_link()\n"
        "    ref.call(Talks.say, 'a')\n"
        "    time.sleep(0.3)\n"
        "    logging.getLogger().handlers[0].removeFilter(strict)\n"
        "    ref.call(Talks.say, 'b')\n"
    )
    command = [sys.executable, str(tmp_path / "program.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == ["said b"]
    assert "an actor's log record was not handled: AttributeError" in done.stderr


def test_a_fork_collects_for_itself(tmp_path: Path) -> None:
    found = records(
        tmp_path,
        "    if os.fork():\n"
        "        assert os.waitstatus_to_exitcode(os.wait()[1]) == 0\n"
        "        Talks.start_link().call(Talks.say, 'in the parent')\n"
        "    else:\n"
        "        collect_logs()\n"
        "        Talks.start_link().call(Talks.much, 20)\n"
        "        Talks.start_link().call(Talks.say, 'in the child')\n",
    )
    texts = [one["text"] for one in found]
    assert texts == [*map(str, range(20)), "said in the child", "said in the parent"]


# -- records on their way --------------------------------------------------------------------------


@given(st.recursive(st.none() | st.integers() | st.text(), st.lists))
def test_what_is_no_record_is_a_value_error(term: Any) -> None:
    with pytest.raises(ValueError, match="no log record"):
        log_records.unpacked(codec.pack(term))


@given(st.text(), st.integers(0, 60), st.integers(0))
def test_a_record_arrives_as_it_was(text: str, level: int, lost: int) -> None:
    record = logging.makeLogRecord({"name": "a.b", "msg": text, "levelno": level, "own": [1, {2}]})
    found, told = log_records.unpacked(log_records.packed(record, lost))
    assert (found.getMessage(), found.levelno, found.own, told) == (text, level, [1, {2}], lost)  # type: ignore[attr-defined]


def test_a_record_that_cannot_be_told_as_it_is_arrives_all_the_same() -> None:
    odd = logging.makeLogRecord({"name": "a", "levelno": 30, "msg": "half \ud800 a pair"})
    found, _ = log_records.unpacked(log_records.packed(odd, 0))
    assert found.getMessage() == "half \\ud800 a pair"
    wrong = logging.makeLogRecord({"name": "a", "levelno": 30, "msg": "%d of", "args": ("x",)})
    found, _ = log_records.unpacked(log_records.packed(wrong, 0))
    assert found.getMessage() == "'%d of' cannot be formatted: TypeError: ('x',)"


def test_a_program_whose_handler_hangs_exits_all_the_same(tmp_path: Path) -> None:
    """Its exit would otherwise wait for that handler's lock."""
    (tmp_path / "program.py").write_text(
        f"{ACTORS}{MAIN}"
        "    import threading\n"
        "    logging.getLogger().handlers[0].emit = lambda record: threading.Event().wait()\n"
        "    Talks.start_link().call(Talks.say, 'x')\n"
    )
    command = [sys.executable, "-W", "ignore", str(tmp_path / "program.py")]
    assert subprocess.run(command, timeout=PATIENCE, check=False).returncode == 0
