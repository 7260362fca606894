"""The import of a child's module in its supervisor."""

import dataclasses
import errno
import threading
from pathlib import Path
from typing import Any

import pytest
from actors import Counter
from processes import PATIENCE, SUPPORT
from trees import start, states

from supervisor import (
    CallTimeout,
    ChildSpec,
    StartFailed,
)
from supervisor.supervision import preload
from supervisor.supervision.child_spec import Plan


def test_a_supervisor_answers_while_a_childs_module_is_imported(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.syspath_prepend(str(runtime_dir))
    flag = runtime_dir / "flag"
    source = (Path(SUPPORT) / "actors.py").read_text()
    wait = f"import os, time\nwhile not os.path.exists({str(flag)!r}): time.sleep(0.01)\n"
    (runtime_dir / "slow.py").write_text(source + wait)
    (runtime_dir / "handles.py").write_text(
        source + "signal.signal(signal.SIGUSR1, signal.SIG_IGN)\n"
    )

    def of(module: str, **options: Any) -> Plan:
        plan = ChildSpec(module, Counter, **options).plan(travels=True)
        return dataclasses.replace(plan, start=f"{module}:Counter")

    sup = start(ChildSpec("c", Counter))
    with pytest.raises(CallTimeout):
        sup.call(["start_child", of("slow"), None], timeout=0.1)
    for _ in range(20):
        assert states(sup) == {"c": "running", "slow": "starting"}
    flag.touch()
    assert sup.child("slow").call("get") == 0
    assert sup.call(["start_child", of("handles"), None], timeout=PATIENCE).call("get") == 0
    sup.stop()

    flag.unlink()  # and from here on it hangs
    sup = start(ChildSpec("c", Counter))
    with pytest.raises(StartFailed, match=r"within 0.1 s \(init_timeout\)"):
        sup.call(["start_child", of("slow", init_timeout=0.1), None], timeout=PATIENCE)
    with pytest.raises(StartFailed, match="the import of slow:Counter"):
        sup.start_child(ChildSpec("d", Counter))
    assert states(sup) == {"c": "running"}
    sup.stop(timeout=PATIENCE)
    sup = start(ChildSpec("c", Counter))
    with pytest.raises(CallTimeout):
        sup.call(["start_child", of("slow"), None], timeout=0.1)
    sup.terminate_child("slow")
    assert states(sup) == {"c": "running"}
    sup.stop(timeout=PATIENCE)
    capfd.readouterr()


def test_an_import_for_which_no_thread_is_free_is_an_oserror(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(OSError, match="can't start new thread") as caught:
        preload.Preload(ChildSpec("c", Counter).plan(travels=True))
    assert caught.value.errno == errno.EAGAIN
