"""On which line of a TOML file a key stands: tomllib does not tell. Pure.

It knows tables, arrays of tables and keys at the beginning of a line, dotted and quoted ones, too.
What stands within an inline table, or an array, is told by the line of the key outside.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Sequence

_KEY = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_DOTTED = rf"{_KEY}(?:\s*\.\s*{_KEY})*"
_TABLE = re.compile(rf"\s*\[\s*({_DOTTED})\s*\]")
_ARRAY = re.compile(rf"\s*\[\[\s*({_DOTTED})\s*\]\]")
_PAIR = re.compile(rf"\s*({_DOTTED})\s*=\s*(.*)")
_TRIPLE = re.compile(r'"""|\'\'\'')


def line_of(text: str, path: Sequence[str | int]) -> int:
    """Return the line of a key, from 1 on, or of the nearest one outside; 1 if there is none.

    Args:
        text: the file's, which is TOML.
        path: keys from the outside on; numbers are those of an array's elements.
    """
    wanted = tuple(str(part) for part in path)
    best, found = 0, 1
    for place, number in _keys(text):
        common = place[: len(wanted)]  # a table may stand only before the names of those in it
        if len(common) > best and wanted[: len(common)] == common:
            best, found = len(common), number
    return found


@functools.lru_cache(maxsize=1)  # each problem of a file asks for them
def _keys(text: str) -> list[tuple[tuple[str, ...], int]]:
    """Return the paths of all keys that begin a line, with their lines."""
    found: list[tuple[tuple[str, ...], int]] = []
    counts: Counter[tuple[str, ...]] = Counter()
    table: tuple[str, ...] = ()
    closing = ""
    for number, line in enumerate(text.splitlines(), 1):
        if closing:  # within a string of several lines
            closing = "" if closing in line else closing
            continue
        array, header, pair = _ARRAY.match(line), _TABLE.match(line), _PAIR.match(line)
        if array is not None:
            name = _parts(array[1])
            table = (*name, str(counts[name]))
            counts[name] += 1
            found.append((table, number))
        elif header is not None:
            table = _parts(header[1])
            found.append((table, number))
        elif pair is not None:
            found.append(((*table, *_parts(pair[1])), number))
            opened = _TRIPLE.match(pair[2])
            if opened is not None and opened[0] not in pair[2][3:]:
                closing = opened[0]
    return found


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in re.findall(_KEY, dotted))
