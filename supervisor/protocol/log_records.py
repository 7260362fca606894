"""Log records on their way from actors to the program that they belong to.

A program that collects them has one socket (SEQPACKET), of which every process below it inherits
the other end. One send is one record, whole or not at all; those of a process arrive in order.
"""

from __future__ import annotations

import logging
import socket
from typing import Any

from supervisor.errors import RAISED, shown
from supervisor.protocol import codec, framing

LONGEST = 48 << 10
"""Bytes of a text that travels; of a longer one the beginning does."""

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
"""Attributes that every record has. All others are a program's own (``extra``)."""

_PLAIN = logging.Formatter()


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the program's end and the actors'."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    framing.enlarge(theirs)
    return ours, theirs


def packed(record: logging.LogRecord, lost: int) -> bytes:
    """Pack a record, with how many before it found no room."""
    trace = record.exc_text or ""
    if record.exc_info and not trace:
        trace = _PLAIN.formatException(record.exc_info)
    fields = {
        "name": record.name,
        "levelno": record.levelno,
        "levelname": record.levelname,
        "msg": _text(record)[:LONGEST],
        "exc_text": _encodable(trace[-LONGEST:]) or None,
        "stack_info": record.stack_info and _encodable(record.stack_info[:LONGEST]),
        "created": record.created,
        "msecs": record.msecs,
        "process": record.process,
        "processName": record.processName,
        "threadName": record.threadName,
        "pathname": record.pathname,
        "filename": record.filename,
        "module": record.module,
        "funcName": record.funcName,
        "lineno": record.lineno,
    }
    own = {name: codec.portable(value) for name, value in vars(record).items() if name not in _OWN}
    data = codec.pack([fields, own, lost])
    return data if len(data) <= 3 * LONGEST else codec.pack([fields, {}, lost])


def _text(record: logging.LogRecord) -> str:
    """Return a record's message; what cannot be formatted as it stands."""
    try:
        return _encodable(record.getMessage())
    except RAISED as error:  # its arguments do not fit, or one's own __str__ has raised
        text = f"{record.msg!r:.1000} cannot be formatted: {type(error).__qualname__}"
        return _encodable(f"{text}: {shown(record.args, 1000)}")


def _encodable(text: str) -> str:
    """Return a text without what UTF-8 does not have, such as half of a surrogate pair."""
    return text.encode("utf-8", "backslashreplace").decode()


def unpacked(data: bytes) -> tuple[logging.LogRecord, int]:
    """Return a record, and how many before it found no room.

    Raises:
        ValueError: it is none.
    """
    match codec.unpack(data):
        case [dict(fields), dict(own), int(lost)]:
            actor = {"actor": fields.get("processName")}
            return logging.makeLogRecord(_checked(fields) | own | actor), lost
    raise ValueError("no log record")


def _checked(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a record.

    Raises:
        ValueError: they are not what the logging module relies on.
    """
    if not isinstance(fields.get("levelno"), int) or not isinstance(fields.get("name"), str):
        raise ValueError("no log record")  # noqa: TRY004 - of whoever sent it
    return fields
