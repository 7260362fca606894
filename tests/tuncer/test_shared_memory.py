"""Memory that processes share."""

import errno
import os
import resource

import pytest

from tuncer.protocol import shared_memory


def test_nobody_can_cut_it_short() -> None:
    fd = shared_memory.create("test", 8192, "a test")
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    memory = shared_memory.mapped(fd, "a test", writable=True)
    memory[8191] = 7
    assert shared_memory.mapped(fd, "a test", writable=False)[8191] == 7
    os.close(fd)


def test_the_limit_that_it_is_over_is_named() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match=r"a test of 1 MiB has more than .*ulimit -f") as caught:
            shared_memory.create("test", 1 << 20, "a test")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    fd = shared_memory.create("test", 1 << 30, "a test")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, hard))
    try:
        with pytest.raises(OSError, match=r"a test of 1024 MiB has more than .*ulimit -v"):
            shared_memory.mapped(fd, "a test", writable=False)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        os.close(fd)
