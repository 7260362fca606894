"""Terms on the wire: msgpack, with extension types for what Python has beyond it.

Tuples, sets, big integers, references and errors arrive as what they were. Whatever cannot
travel fails at the sender, and the error says which value it was.
Source: the MessagePack specification (timestamps are its extension -1).
"""

from __future__ import annotations

import enum
import functools
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgpack

from supervisor.errors import CARRIED, GaveUp, RemoteError, Shutdown, carried, shown

LIMIT = 16 << 20
"""Bytes of a message at most."""

MALFORMED = (
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    RecursionError,
    MemoryError,
    msgpack.UnpackException,
)
"""What a stranger's bytes may provoke. Not every Exception: a signal's handler raises what it likes
in the middle of this."""

_LONG = 32 << 10  # bytes of a message from which on its counts are checked first
_DEEPEST = 64  # tuples and other extensions within one another


class Code(enum.IntEnum):
    """The codes of types that travel, as msgpack's extension types."""

    TUPLE = 1
    SET = 2
    FROZENSET = 3
    BIG_INTEGER = 4
    REMOTE_ERROR = 5
    SHUTDOWN = 6
    CARRIED_ERROR = 7
    GAVE_UP = 8
    REF = 16
    DOWN = 17
    SUPERVISOR_REF = 18
    CHILD_SPEC = 19
    DYNAMIC_SUPERVISOR_REF = 20
    EVENT = 21
    TRACED = 22
    EXIT = 23
    SENDER = 24
    INVOCATION = 25
    RECEIVED = 26
    POOL_REF = 27
    FIRST_OF_OTHERS = 32
    """Packages that build on this one have the codes from here to 127."""


_encoders: dict[type, tuple[int, Callable[[Any], Any]]] = {
    tuple: (Code.TUPLE, list),
    set: (Code.SET, list),
    frozenset: (Code.FROZENSET, list),
    RemoteError: (Code.REMOTE_ERROR, lambda e: [e.kind, e.message, e.trace]),
    Shutdown: (Code.SHUTDOWN, lambda s: s.term),
    GaveUp: (Code.GAVE_UP, lambda g: g.why),
}
_decoders: dict[int, Callable[[Any], Any]] = {
    Code.TUPLE: tuple,
    Code.SET: set,
    Code.FROZENSET: frozenset,
    Code.BIG_INTEGER: lambda text: int(text, 16),
    Code.REMOTE_ERROR: lambda fields: RemoteError(*fields),
    Code.SHUTDOWN: Shutdown,
    Code.GAVE_UP: GaveUp,
    Code.CARRIED_ERROR: lambda fields: CARRIED[fields[0]](*fields[1]),
}
# How an object of a subclass becomes one of its base type. ``int.__int__`` and the like ignore the
# subclass's own methods: ``str()`` of an Enum with str values would be the member's name.
_BASES: dict[type, Callable[[Any], Any]] = {
    int: int.__int__,
    float: float.__float__,
    str: str.__str__,
    bytes: bytes,
    list: list,
    dict: dict,
}


def extend(
    code: int,
    kinds: type | tuple[type, ...],
    encode: Callable[[Any], Any],
    decode: Callable[[Any], Any],
) -> None:
    """Let another type travel, as a term that does.

    Args:
        code: its own, see ``Code``.
        kinds: the type, or several that arrive as one.
        encode: returns the term of an object.
        decode: returns the object of a term.

    Raises:
        ValueError: the code is another type's, or none; or the type has a code already.
    """
    if not 0 <= code <= 127:  # of msgpack's extension types
        raise ValueError(f"an extension's code is from 0 to 127, not {code}")
    if code in _decoders:
        owners = [kind.__name__ for kind, (taken, _) in _encoders.items() if taken == code]
        raise ValueError(f"code {code} is taken already, by {', '.join(owners) or 'this module'}")
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    for kind in kinds:
        if kind in _encoders:
            raise ValueError(f"{kind.__name__} travels already, by code {_encoders[kind][0]}")
    for kind in kinds:
        _encoders[kind] = (code, encode)
    _decoders[code] = decode


def pack(term: Any, name: str = "the message") -> bytes:
    """Make bytes of a term, which errors call by this name.

    Raises:
        TypeError: a value in it cannot travel; the text says which and where.
        ValueError: it takes more bytes than ``LIMIT``, and nothing else is wrong with it.
    """
    try:
        data = _packed(term)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(_complaint(term, name) or f"cannot travel in a message: {error}") from error
    return _within_limit(data, name)


def pack_exact(term: Any, name: str = "the message") -> bytes:
    """Make bytes of a term that comes back as what it is; errors call it by this name.

    An object of a subclass (a ``Counter``, a member of an ``IntEnum``, a named tuple) would come
    back as one of the base, which a message's receiver may not mind, but who keeps it does; and a
    datetime of another zone as one of UTC. A ``bytearray`` still becomes ``bytes``.

    Raises:
        TypeError, ValueError: as ``pack``; or a value is of a subclass.
    """
    _here.exact = True
    try:
        return pack(term, name)
    finally:
        _here.exact = False


def _packed(term: Any) -> bytes:
    # A packer is taken while it works: other threads, and extensions within the term, take others.
    packers = _exact_packers if _here.exact else _packers
    try:
        packer = packers.pop()
    except IndexError:
        # An exact one asks ``_encode`` for each datetime.
        packer = msgpack.Packer(default=_encode, strict_types=True, datetime=not _here.exact)
    data: bytes = packer.pack(term)
    packers.append(packer)
    return data


def pack_message(kind: int, number: int, term: Any, chain: Any = ()) -> bytes:
    """Make bytes of a message of a mailbox. Raises as ``pack``, of the term in it."""
    try:
        data = _packed([kind, number, term, chain] if chain else [kind, number, term])
    except (TypeError, ValueError, OverflowError):
        pack(term)  # says where in the term, not where in the message around it
        raise
    return _within_limit(data, "the message")


def _within_limit(data: bytes, name: str) -> bytes:
    if len(data) > LIMIT:
        raise ValueError(f"{name} takes {len(data)} bytes, over the limit of {LIMIT}")
    return data


class _Here(threading.local):
    """How deep in extensions a thread is as it packs, and whether subclasses are refused."""

    def __init__(self) -> None:
        self.depth = 0
        self.exact = False


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_packers: list[msgpack.Packer] = []
_exact_packers: list[msgpack.Packer] = []
"""Those that are at hand: making a packer costs more than packing."""


def portable(term: Any) -> Any:
    """Return a term if it can travel, otherwise its text: for those who only look."""
    try:
        pack(term)
    except (TypeError, ValueError):
        return shown(term, 1000)
    return term


def unpack(data: bytes) -> Any:
    """Make a term of bytes.

    Raises:
        ValueError: they are no message of ours.
    """
    try:
        if len(data) > _LONG:
            _check_counts(data)
        return msgpack.unpackb(data, ext_hook=_decode, strict_map_key=False, timestamp=3)
    except MALFORMED as error:
        raise ValueError(f"not a term: {error!r:.200}") from error


def terms(longest: int, fed: int) -> msgpack.Unpacker:
    """Return an iterator over the terms in what is fed to it; it raises one of ``MALFORMED``.

    Args:
        longest: bytes of a term at most.
        fed: bytes at most that are fed at a time.
    """
    return msgpack.Unpacker(
        max_buffer_size=longest + 2 * fed,
        max_str_len=longest,
        max_bin_len=longest,
        max_ext_len=longest,
        max_array_len=longest,
        max_map_len=longest // 2,
        ext_hook=_decode,
        strict_map_key=False,
        timestamp=3,
    )


def number_of(data: bytes) -> int:
    """Return the number of a message whose term cannot be unpacked; 0 if it has none."""
    unpacker = msgpack.Unpacker(max_buffer_size=len(data))
    unpacker.feed(data)
    try:
        unpacker.read_array_header()
        unpacker.skip()
        number = unpacker.unpack()
    except MALFORMED:
        return 0
    return number if isinstance(number, int) else 0


def _unpack(data: bytes, depth: int) -> Any:
    if depth > _DEEPEST:  # each level takes tens of KiB of the C stack
        raise ValueError(f"nested more than {_DEEPEST} deep")
    hook = functools.partial(_decode, depth=depth)
    return msgpack.unpackb(data, ext_hook=hook, strict_map_key=False, timestamp=3)


def _check_counts(data: bytes) -> None:
    """Check that a message has as many elements as the heads of its arrays and maps declare.

    msgpack allocates memory for an array by its head alone, for as many elements as the message
    has bytes at most. For a short message that is little. A long one could declare so many
    elements in each of a thousand nested arrays.

    Raises:
        One of ``MALFORMED``: elements are missing.
    """
    unpacker = msgpack.Unpacker(max_buffer_size=len(data))
    unpacker.feed(data)
    unpacker.skip()


def _encode(value: Any) -> Any:
    known = _encoders.get(type(value))
    if known:
        code, encode = known
        return msgpack.ExtType(code, _pack_inner(encode(value)))
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 63:
        return msgpack.ExtType(Code.BIG_INTEGER, _pack_inner(hex(value)))
    if isinstance(value, Exception) and (name := carried(value)):
        return msgpack.ExtType(Code.CARRIED_ERROR, _pack_inner([name, _arguments(value)]))
    if type(value) is datetime and value.tzinfo is UTC:  # of an exact packer
        since = value - _EPOCH
        return msgpack.Timestamp(since.days * 86_400 + since.seconds, since.microseconds * 1000)
    if _here.exact:
        as_what = "one of UTC" if type(value) is datetime else "its base class"
        raise TypeError(f"{type(value).__qualname__} would come back as {as_what}")
    for kind, (code, encode) in _encoders.items():
        if isinstance(value, kind):  # a subclass travels as what it is built on
            return msgpack.ExtType(code, _pack_inner(encode(value)))
    for base, plain in _BASES.items():
        if isinstance(value, base):
            return plain(value)
    raise TypeError(f"{type(value).__qualname__} cannot travel in a message")


def _pack_inner(term: Any) -> bytes:
    """Pack what stands in an extension: a message of its own, in the message around it."""
    if _here.depth >= _DEEPEST:
        raise ValueError(f"nested more than {_DEEPEST} deep")
    _here.depth += 1
    try:
        return pack(term)
    finally:
        _here.depth -= 1


_here = _Here()


def _arguments(error: Exception) -> list[Any]:
    if isinstance(error, OSError) and error.errno is not None:
        return [error.errno, error.strerror, error.filename]
    return list(error.args)


def _decode(code: int, data: bytes, depth: int = 0) -> Any:
    decoder = _decoders.get(code)
    if decoder is None:
        raise ValueError(f"unknown extension type {code}")
    return decoder(_unpack(data, depth + 1))


def _kind_of(term: Any) -> str:
    if isinstance(term, datetime):
        return "a naive datetime" if term.tzinfo is None else "a datetime of a zone but UTC"
    return type(term).__qualname__


def _complaint(term: Any, where: str) -> str | None:
    """Find the value that cannot travel, and say where it stands."""
    if isinstance(term, dict):
        parts = [(f"{where}[{shown(key)}]", value) for key, value in term.items()]
        parts += [(f"the key {shown(key)} of {where}", key) for key in term]
    elif isinstance(term, (list, tuple, set, frozenset)):
        parts = [(f"{where}[{place}]", value) for place, value in enumerate(term)]
    else:
        parts = []
        try:
            exact = _here.exact
            msgpack.packb(term, default=_encode, strict_types=True, datetime=not exact)
        except (TypeError, ValueError, OverflowError):
            kind = _kind_of(term)
            return f"{where} is {kind}, which cannot travel in a message: {shown(term)}"
    try:
        return next(filter(None, (_complaint(value, name) for name, value in parts)), None)
    except RecursionError:
        # Of a path of hundreds of levels the beginning tells enough.
        where = where if len(where) <= 100 else f"{where[:100]}..."
        return f"{where} is nested too deeply, or in itself"
