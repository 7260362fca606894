"""Classic BPF, as libpcap compiles it, made into eBPF: the kernel runs only that on a TUN.

Sources: the kernel's ``Documentation/networking/filter.rst`` (classic) and
``Documentation/bpf/standardization/instruction-set.rst``; bpf(2). Both machines load packet
bytes by the same instructions, which end the program with verdict 0 beyond the packet's end.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator

from tuncer.tunctl.errors import explain

_CLASSIC = struct.Struct("=HBBI")  # struct sock_filter: code, jt, jf, k
_EXTENDED = struct.Struct("=BBhi")  # struct bpf_insn: code, registers, offset, immediate

# Registers: A and X of the classic machine, a spare one, the packet, the caller's, the stack.
_A, _X, _SPARE, _PACKET, _ARGUMENT, _STACK = 0, 7, 8, 6, 1, 10

_LD, _LDX, _ST, _STX, _ALU, _JMP, _RET, _MISC = range(8)  # classes of classic BPF
_IMM, _ABS, _IND, _MEM, _LEN, _MSH = 0x00, 0x20, 0x40, 0x60, 0x80, 0xA0  # its modes
_SOURCE_X, _RETURN_A, _TXA = 0x08, 0x10, 0x80
_TAX = 0x07
_JUMP_ALWAYS, _DIVIDE, _MODULO, _NEGATE = 0x00, 0x30, 0x90, 0x80

_LOAD_WORD, _STORE_WORD = 0x61, 0x63  # eBPF: *(u32 *) (register + offset)
_MOVE_IMM, _MOVE, _AND, _LSH32 = 0xB4, 0xBC, 0x54, 0x64  # of 32 bits
_MOVE_64 = 0xBF
_JA, _EXIT, _JNE32, _JLE32 = 0x05, 0x95, 0x56, 0xB6
_JMP32 = 0x06
_LOAD_BYTE_ABS = 0x30

_SPECIAL = 1 << 31  # offsets below 0, such as SKF_AD_OFF: not bytes of the packet
_LONGEST = 1 << 20  # no packet has so many bytes
_SHIFTS = {0x60, 0x70}
_CELLS = 16  # of the classic machine's memory

_PROG_LOAD, _SOCKET_FILTER = 5, 1
_SYSCALL = {"x86_64": 321, "aarch64": 280}
_ATTRIBUTES = struct.Struct("=IIQQIIQII16s")

Step = tuple[int, int, int, int, int]
"""An instruction: code, destination, source, offset, immediate."""


class CannotConvert(ValueError):
    """The program does what eBPF's verifier, or this conversion, does not take."""


def has_same_verdicts(program: bytes) -> bool:
    """Tell whether the kernel and libpcap have the same verdicts of a classic program. Pure.

    To the kernel an offset below 0 (SKF_AD_OFF) means data of its own, not bytes of the packet;
    also when the sum of X and a constant becomes such an offset. The kernel takes shifts by X
    modulo 32. libpcap does neither. The sum stays small if the program never computes X: if X is
    always the length of an IP header, or a small constant.
    """
    computed = by_x = False
    for code, _, _, k in _CLASSIC.iter_unpack(program):
        kind, mode = code & 0x07, code & 0xE0
        computed |= code == _TAX or (kind == _LDX and mode in {_MEM, _LEN})
        computed |= kind == _LDX and mode == _IMM and k > _LONGEST
        by_x |= kind == _LD and mode == _IND
        if not _is_sound(code, k):
            return False
    return not (computed and by_x)


def _is_sound(code: int, k: int) -> bool:
    kind, mode = code & 0x07, code & 0xE0
    if kind == _LD and mode in {_ABS, _IND}:
        return k < _SPECIAL
    return not (kind == _ALU and code & 0xF0 in _SHIFTS and code & _SOURCE_X)


def convert(program: bytes) -> bytes:
    """Return the eBPF program that has the verdicts of a classic one. Pure.

    Raises:
        CannotConvert: it jumps back, loads what are not bytes of the packet, or shifts by X.
    """
    classic = list(_CLASSIC.iter_unpack(program))
    start = list(_prologue(classic))
    pieces = [list(_steps(*instruction)) for instruction in classic]
    places = [len(start)]
    for piece in pieces:
        places.append(places[-1] + len(piece))
    steps = start
    if not all(_is_sound(code, k) for code, _, _, k in classic):
        raise CannotConvert("the kernel would tell it otherwise")
    for number, piece in enumerate(pieces):
        for code, destination, source, offset, immediate in piece:
            away = offset
            if isinstance(offset, _Jump):
                target = number + 1 + offset.distance
                if target >= len(classic):
                    raise CannotConvert("a jump beyond the end, or back")
                away = places[target] - len(steps) - 1
            steps.append((code, destination, source, away, immediate))
    try:
        return b"".join(
            _EXTENDED.pack(code, destination | source << 4, int(offset), _signed(immediate))
            for code, destination, source, offset, immediate in steps
        )
    except struct.error:
        raise CannotConvert("an instruction's number is out of range") from None


class _Jump(int):
    """A distance in classic instructions, to be made one in eBPF's."""

    @property
    def distance(self) -> int:
        return int(self)


def _signed(number: int) -> int:
    return number - (1 << 32) if number >= 1 << 31 else number


def _prologue(classic: list[tuple[int, int, int, int]]) -> Iterator[Step]:
    yield _MOVE_64, _PACKET, _ARGUMENT, 0, 0
    yield _MOVE_IMM, _A, 0, 0, 0
    yield _MOVE_IMM, _X, 0, 0, 0
    # The verifier wants memory written before it is read.
    stores = (_ST, _STX, _LD | _MEM, _LDX | _MEM)
    for cell in sorted({k for code, _, _, k in classic if code in stores}):
        yield _STORE_WORD, _STACK, _A, _cell(cell), 0


def _cell(number: int) -> int:
    if number >= _CELLS:
        raise CannotConvert("there is no such cell of memory")
    return -4 * (number + 1)


def _steps(code: int, jt: int, jf: int, k: int) -> Iterator[Step]:
    """Yield what one classic instruction becomes."""
    kind = code & 0x07
    if kind == _LD:
        yield from _load(code, k)
    elif kind == _LDX:
        yield from _load_x(code, k)
    elif kind in {_ST, _STX}:
        yield _STORE_WORD, _STACK, _A if kind == _ST else _X, _cell(k), 0
    elif kind == _ALU:
        yield from _arithmetic(code, k)
    elif kind == _JMP:
        yield from _jump(code, jt, jf, k)
    elif kind == _RET:
        if not code & _RETURN_A:
            yield _MOVE_IMM, _A, 0, 0, k
        yield _EXIT, 0, 0, 0, 0
    elif code & 0xF8 == _TXA:
        yield _MOVE, _A, _X, 0, 0
    else:
        yield _MOVE, _X, _A, 0, 0


def _load(code: int, k: int) -> Iterator[Step]:
    mode = code & 0xE0
    if mode in {_ABS, _IND}:
        if mode == _IND:  # X beyond any packet: verdict 0. The kernel could take X + k as negative
            yield _JLE32, _X, 0, 2, _LONGEST
            yield _MOVE_IMM, _A, 0, 0, 0
            yield _EXIT, 0, 0, 0, 0
        yield code, 0, _X if mode == _IND else 0, 0, k
    elif mode == _IMM:
        yield _MOVE_IMM, _A, 0, 0, k
    elif mode == _MEM:
        yield _LOAD_WORD, _A, _STACK, _cell(k), 0
    else:  # _LEN: the first field of struct __sk_buff
        yield _LOAD_WORD, _A, _PACKET, 0, 0


def _load_x(code: int, k: int) -> Iterator[Step]:
    mode = code & 0xE0
    if mode == _IMM:
        yield _MOVE_IMM, _X, 0, 0, k
    elif mode == _MEM:
        yield _LOAD_WORD, _X, _STACK, _cell(k), 0
    elif mode == _LEN:
        yield _LOAD_WORD, _X, _PACKET, 0, 0
    else:  # _MSH: the length of an IP header, 4 * (byte & 15)
        yield _MOVE, _SPARE, _A, 0, 0
        yield _LOAD_BYTE_ABS, 0, 0, 0, k
        yield _AND, _A, 0, 0, 0xF
        yield _LSH32, _A, 0, 0, 2
        yield _MOVE, _X, _A, 0, 0
        yield _MOVE, _A, _SPARE, 0, 0


def _arithmetic(code: int, k: int) -> Iterator[Step]:
    operation, by_x = code & 0xF0, code & _SOURCE_X
    if operation == _NEGATE:
        yield code, _A, 0, 0, 0
        return
    if by_x and operation in {_DIVIDE, _MODULO}:  # by 0: the verdict is 0
        yield _JNE32, _X, 0, 2, 0
        yield _MOVE_IMM, _A, 0, 0, 0
        yield _EXIT, 0, 0, 0, 0
    yield code, _A, _X if by_x else 0, 0, 0 if by_x else k


def _jump(code: int, jt: int, jf: int, k: int) -> Iterator[Step]:
    if code & 0xF0 == _JUMP_ALWAYS:
        yield _JA, 0, 0, _Jump(k), 0
        return
    by_x = code & _SOURCE_X
    condition = (code & 0xF8) | _JMP32
    yield condition, _A, _X if by_x else 0, _Jump(jt), 0 if by_x else k
    yield _JA, 0, 0, _Jump(jf), 0


def load(program: bytes) -> int:
    """Give an eBPF program to the kernel, as a filter of packets; return its descriptor.

    Raises:
        OSError: EPERM CAP_BPF is needed, or ``kernel.unprivileged_bpf_disabled`` to be 0; ENOSYS
            this machine's number of the system call is not known here; EINVAL, EACCES the
            verifier does not take it.
    """
    number = _SYSCALL.get(os.uname().machine)
    if number is None:
        raise explain(errno.ENOSYS, "load the filter")
    libc = ctypes.CDLL(None, use_errno=True)
    code, license_ = ctypes.create_string_buffer(program), ctypes.create_string_buffer(b"MIT")
    attributes = _ATTRIBUTES.pack(
        _SOCKET_FILTER,
        len(program) // _EXTENDED.size,
        ctypes.addressof(code),
        ctypes.addressof(license_),
        *(0, 0, 0, 0, 0),
        b"tuncer_filter",
    )
    fd = libc.syscall(number, _PROG_LOAD, attributes, len(attributes))
    if fd < 0:
        raise explain(ctypes.get_errno(), "load the filter")
    os.set_inheritable(fd, False)
    return int(fd)
