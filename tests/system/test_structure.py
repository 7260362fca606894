"""The tree's promises to its readers: who imports whom, and how the package behaves as one."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from processes import ROOT

import tuncer

PACKAGES = ("supervisor", "tuncer")


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}


def imports_of(name: str) -> set[str]:
    """Return the modules of ours that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return (found & MODULES.keys()) - {name}


def test_no_import_circle() -> None:
    # The packages' own files pass names on from what is below them.
    graph = {name: imports_of(name) - set(PACKAGES) for name in MODULES if name not in PACKAGES}
    TopologicalSorter(graph).prepare()


FLOORS = {
    "supervisor": (
        *("linux", "errors", "inherited", "protocol", "client", "actor", "spawn", "gen_server"),
        *("host", "supervision", "lowlevel", "program", "log_collector", "testing"),
        *("tree", "__main__"),
    ),
    "tuncer": (
        *("tunctl", "protocol", "offload", "worker", "client", "pipeline"),
        *("extcap", "doctor", "node", "cli", "__main__"),
    ),
}
"""Parts of the packages, from below: each imports only itself, and what is below it."""


@pytest.mark.parametrize("package", PACKAGES)
def test_no_import_goes_upwards(package: str) -> None:
    """So ``protocol`` knows neither side, and a device's worker nothing of its clients."""

    def floor(name: str) -> int:
        return FLOORS[package].index(name.split(".")[1])

    for name in MODULES:
        if name.startswith(f"{package}."):
            below = {m for m in imports_of(name) if m.startswith(f"{package}.")}
            assert not {m for m in below if floor(m) > floor(name)}, name


def test_the_direction_of_imports() -> None:
    for name in MODULES:
        imported = imports_of(name)
        if name.startswith("supervisor"):
            assert not {m for m in imported if m.startswith("tuncer")}, name
        theirs = {m for m in imported if m.startswith("supervisor.")}
        if name.startswith("tuncer"):
            assert theirs <= {f"supervisor.{m}" for m in ("errors", "linux", "lowlevel", "tree")}, (
                name
            )
        if name.startswith("tuncer.tunctl"):
            assert {m for m in imported if not m.startswith("tuncer.tunctl")} == set(), name


def test_no_name_of_supervisords_is_used() -> None:
    theirs = {"process", "options", "events", "http", "loggers", "states", "web", "rpcinterface"}
    assert not theirs & {
        name.rpartition(".")[2] for name in MODULES if name.startswith("supervisor.")
    }


def test_supervisord_in_our_place_is_told_in_one_sentence(runtime_dir: Path) -> None:
    theirs = runtime_dir / "site" / "supervisor"
    theirs.mkdir(parents=True)
    (theirs / "__init__.py").write_text("")
    program = f"import sys; sys.path.insert(0, {str(theirs.parent)!r}); import tuncer"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: the package 'supervisor' in")
    assert "cannot share one environment" in done.stderr


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        tuncer.nonsense  # noqa: B018 - asking is what fails
    assert all(hasattr(tuncer, name) for name in tuncer.__all__)


def test_tunctl_serves_without_the_rest() -> None:
    program = (
        "import sys, tuncer.tunctl\n"
        "print(sorted(m for m in sys.modules if m.startswith(('supervisor', 'zmq'))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_numpy_is_imported_by_who_needs_it_alone() -> None:
    """It takes a tenth of a second, memory, and threads: then no user namespace can be entered."""
    program = (
        "import sys, os, tuncer, tuncer.cli.demo, tuncer.offload.ordinary\n"
        "tuncer.create, tuncer.Follower, tuncer.Device, tuncer.tunctl\n"
        "assert 'numpy' not in sys.modules\n"
        "assert len(os.listdir('/proc/self/task')) == 1\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_ones_own_supervisor_module_is_named(tmp_path: Path) -> None:
    (tmp_path / "supervisor.py").write_text("")
    (tmp_path / "program.py").write_text("import tuncer\n")
    found = subprocess.run(
        [sys.executable, tmp_path / "program.py"], capture_output=True, text=True, check=False
    )
    assert f"{tmp_path}/supervisor.py hides tuncer's package 'supervisor'" in found.stderr
