"""Filter expressions such as ``udp port 53``, compiled and run by libpcap. Source: pcap-filter(7).

libpcap is loaded when the first expression is compiled: without it, everything else works.
"""

from __future__ import annotations

import ctypes
import errno
import functools
from dataclasses import dataclass, field
from typing import Any

from tuncer.tunctl.flags import Flag, parse

_ETHERNET, _RAW = 1, 12  # DLT_EN10MB, DLT_RAW
_SNAPLEN = 262144
_NO_NETMASK = 0xFFFFFFFF  # PCAP_NETMASK_UNKNOWN
INSTRUCTION = 8
"""Bytes of a ``struct bpf_insn``: code, jt, jf, k."""

_NAMES = ("libpcap.so.0.8", "libpcap.so.1", "libpcap.dylib")


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.c_void_p))


@dataclass(frozen=True)
class Program:
    """A compiled filter expression: classic BPF."""

    expression: str
    instructions: bytes
    _buffer: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        code = self.instructions
        object.__setattr__(self, "_buffer", ctypes.create_string_buffer(code, len(code)))

    def __len__(self) -> int:
        return len(self.instructions) // INSTRUCTION

    @property
    def address(self) -> int:
        """Where the instructions lie in memory, as long as this object lives."""
        return ctypes.addressof(self._buffer)

    def accepts(self, packet: bytes) -> bool:
        """Tell whether a packet passes: an IP packet of a TUN, a frame of a TAP."""
        return bool(_library().bpf_filter(self.address, packet, len(packet), len(packet)))

    def accepts_at(self, address: int, length: int) -> bool:
        """Tell whether a packet that lies somewhere in memory passes."""
        return bool(_library().bpf_filter(self.address, address, length, length))


def compile_filter(expression: str, flags: int) -> Program:
    """Compile an expression for the packets of a kind of device.

    Names of hosts and networks in it are looked up, which may take a while.

    Args:
        expression: of pcap-filter(7); empty: everything passes.
        flags: of the device: TUN (an IP header is first) or TAP (an Ethernet header).

    Raises:
        ValueError: it is no filter expression; the text says why.
        TypeError: no text.
        OSError: ENOENT, libpcap is not installed.
    """
    if not isinstance(expression, str):
        raise TypeError(f"a filter is an expression such as 'udp port 53', not {expression!r}")
    library, program = _library(), _Program()
    kind = (
        _ETHERNET
        if Flag.TAP in parse(flags & ~Flag.PERSIST if isinstance(flags, int) else flags)
        else _RAW
    )
    handle = library.pcap_open_dead(kind, _SNAPLEN)
    if not handle:
        raise MemoryError("libpcap has no memory")
    try:
        text = expression.encode("utf-8", "backslashreplace")
        arguments = (handle, ctypes.byref(program), text, 1, _NO_NETMASK)
        if b"\0" in text or library.pcap_compile(*arguments):
            why = library.pcap_geterr(handle).decode(errors="replace") or "a NUL in it"
            raise ValueError(f"{expression!r} is no filter expression: {why}")
        size = program.length * INSTRUCTION
        code = ctypes.string_at(program.instructions, size)
        library.pcap_freecode(ctypes.byref(program))
    finally:
        library.pcap_close(handle)
    return Program(expression, code)


def _loaded(name: str | None) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(name) if name else None
    except OSError:
        return None


@functools.cache
def _library() -> ctypes.CDLL:
    found = next(filter(None, map(_loaded, _NAMES)), None)
    if found is None:  # it runs the linker's tools, and those may be missing
        from ctypes.util import find_library  # noqa: PLC0415 - large, and seldom needed

        found = _loaded(find_library("pcap"))
    if found is None:
        raise OSError(
            errno.ENOENT,
            "filters need libpcap, which is not installed here: 'sudo apt-get install libpcap0.8'",
        )
    found.pcap_open_dead.restype = ctypes.c_void_p
    found.pcap_geterr.restype = ctypes.c_char_p
    found.pcap_open_dead.argtypes = (ctypes.c_int, ctypes.c_int)
    pointer, integer = ctypes.c_void_p, ctypes.c_uint
    found.pcap_compile.argtypes = (pointer, pointer, ctypes.c_char_p, ctypes.c_int, integer)
    found.pcap_geterr.argtypes = found.pcap_close.argtypes = (pointer,)
    found.pcap_freecode.argtypes = (pointer,)
    found.bpf_filter.argtypes = (pointer, pointer, integer, integer)
    found.bpf_filter.restype = integer
    return found
