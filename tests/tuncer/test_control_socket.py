"""A client's end of a device's control socket."""

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import PATIENCE

from supervisor.lowlevel import Channel
from tuncer import DeviceError
from tuncer.protocol import control_socket
from tuncer.protocol.control_socket import EVENT, request

Answer = Callable[[Channel], None]


@pytest.fixture
def path(runtime_dir: Path) -> Path:
    return runtime_dir / "control"


@pytest.fixture
def serve(path: Path) -> Iterator[Callable[..., threading.Thread]]:
    """Serve connections, one after the other, each by one of these functions."""
    listener = socket.socket(fileno=control_socket.listen(path, "d0"))
    listener.setblocking(True)
    threads = []

    def serving(*answers: Answer) -> threading.Thread:
        def work() -> None:
            for answer in answers:
                channel = control_socket.accept(listener)
                assert channel is not None
                channel.receive(wait=True)
                answer(channel)
                channel.close()

        threads.append(threading.Thread(target=work))
        threads[-1].start()
        return threads[-1]

    yield serving
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    listener.close()


def test_a_worker_that_ended_before_its_answer_is_followed_by_one_that_is_asked(
    path: Path, serve: Callable[..., threading.Thread]
) -> None:
    serve(lambda _: None, lambda _: None, lambda channel: channel.send("here", 7))
    answer, fds, channel = request(path, "d0", "what", timeout=PATIENCE)
    assert (answer, fds) == (["here", 7], [])
    channel.close()


def test_what_comes_unasked_is_no_answer(
    path: Path, serve: Callable[..., threading.Thread]
) -> None:
    def answer(channel: Channel) -> None:
        channel.send(EVENT, "up")
        channel.send("here")

    serve(answer)
    found, _, channel = request(path, "d0", "what", timeout=PATIENCE)
    assert found == ["here"]
    channel.close()


def test_descriptors_come_with_the_answer_or_it_is_an_error(
    path: Path, serve: Callable[..., threading.Thread]
) -> None:
    serve(lambda channel: channel.send("here", fds=(0,)), lambda channel: channel.send("here"))
    _, (fd,), channel = request(path, "d0", "what", timeout=PATIENCE, descriptors=1)
    os.close(fd)
    channel.close()
    with pytest.raises(OSError, match="more descriptors") as caught:
        request(path, "d0", "what", timeout=PATIENCE, descriptors=1)
    assert (caught.value.errno, caught.value.filename) == (errno.EMFILE, "d0")


def test_an_error_is_raised_here(path: Path, serve: Callable[..., threading.Thread]) -> None:
    serve(lambda channel: channel.send(OSError(errno.ENOSPC, "full", "d0")))
    with pytest.raises(OSError, match="full"):
        request(path, "d0", "what", timeout=PATIENCE)


def test_one_that_does_not_answer_is_told(path: Path) -> None:
    listener = socket.socket(fileno=control_socket.listen(path, "d0"))
    with pytest.raises(DeviceError, match="does not answer") as caught:
        request(path, "d0", "what", timeout=0.05)
    assert (caught.value.errno, caught.value.filename) == (errno.ETIMEDOUT, "d0")
    listener.close()


def test_a_full_backlog_is_not_waited_for_without_an_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_socket, "_BACKLOG", 0)
    listener = socket.socket(fileno=control_socket.listen(path, "d0"))
    first = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    first.connect(str(path))
    with pytest.raises(DeviceError, match="does not answer"):
        request(path, "d0", "what", timeout=0.05)
    first.close()
    listener.close()


def test_a_path_is_taken_over_from_the_dead_and_not_from_the_living(path: Path) -> None:
    dead = control_socket.listen(path, "d0")
    with pytest.raises(OSError, match="has a worker already") as caught:
        control_socket.listen(path, "d0")
    assert caught.value.errno == errno.EBUSY
    os.close(dead)
    os.close(control_socket.listen(path, "d0"))


def test_where_nobody_listens_there_is_no_device(path: Path) -> None:
    os.close(control_socket.listen(path, "d0"))
    with pytest.raises(DeviceError, match="no such device") as caught:
        request(path, "d0", "what", timeout=PATIENCE)
    assert caught.value.errno == errno.ENODEV
