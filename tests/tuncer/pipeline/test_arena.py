"""A pipeline's memory: a commit is one store, and readers see all of one commit."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from processes import SUPPORT

from tuncer.pipeline.arena import VERSION, Arena, Layout, Page, WorkerShape, create

LAYOUT = Layout((WorkerShape(5, keeps=False), WorkerShape(3, keeps=True)), 2, 4096)


@pytest.fixture
def fd() -> Iterator[int]:
    found = create(LAYOUT)
    yield found
    os.close(found)


def test_parts_do_not_overlap() -> None:
    places = [LAYOUT.page(0), LAYOUT.reason(0), LAYOUT.page(1), LAYOUT.reason(1), LAYOUT.log(0)]
    places += [LAYOUT.log(1), LAYOUT.kept(1), LAYOUT.size]
    assert places == sorted(set(places))


def test_a_commit_is_read_whole(fd: int) -> None:
    page = Arena(fd, LAYOUT).page(0)
    other = Arena(fd, LAYOUT).page(0)
    assert other.read() == [0] * 5
    page.commit([1, 2, 3, 4, 5])
    page.commit([6, 7, 8, 9, 10])
    assert other.read() == [6, 7, 8, 9, 10]
    assert other.read(1, 2) == [7, 8]
    assert other.version == 2


def test_before_the_version_is_stored_nothing_has_changed(fd: int) -> None:
    page = Arena(fd, LAYOUT).page(0)
    page.commit([1] * 5)
    page.commit([2] * 5)
    page.commit([3] * 5)
    page.words[VERSION] -= 1  # as if the worker had been killed before its last store
    assert page.read() == [2] * 5


def test_readers_beside_a_writer_see_whole_commits(fd: int) -> None:
    writer = (
        "import sys, time\n"
        f"sys.path.insert(0, {SUPPORT!r})\n"
        "from tuncer.pipeline.arena import *\n"
        "layout = Layout((WorkerShape(5, keeps=False), WorkerShape(3, keeps=True)), 2, 4096)\n"
        f"page = Arena({fd}, layout).page(0)\n"
        "for n in range(30_000): page.commit([n] * 5)\n"
    )
    page = Arena(fd, LAYOUT).page(0)
    with subprocess.Popen([sys.executable, "-c", writer], pass_fds=[fd]) as started:
        while started.poll() is None:
            assert len(set(page.read())) == 1
    assert started.returncode == 0
    assert page.read() == [29_999] * 5


def test_kept_and_reasons(fd: int) -> None:
    page: Page = Arena(fd, LAYOUT).page(1)
    page.write_kept(b"abc", 1)
    assert page.read_kept(1, 3) == b"abc"
    with pytest.raises(ValueError, match="at most 16777216 fit"):
        page.write_kept(bytes((16 << 20) + 1), 0)
    page.words[2] = 7  # HAND
    page.leave_reason("because é" + "x" * 20_000)
    assert page.reason(7) == "x" * 16_384
    assert page.reason(8) is None


def test_memory_of_another_shape_is_refused(fd: int) -> None:
    with pytest.raises(ValueError, match="no memory of this pipeline"):
        Arena(fd, Layout(LAYOUT.workers, 3, 4096))
