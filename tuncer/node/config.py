"""The configuration of a node: a TOML file, checked whole. Pure, but for ``load``.

What a file says of devices, pipelines and actors becomes children of one supervisor, in the order
of the file: see ``specs``.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tuncer.node.toml_lines import line_of

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_DEVICE = re.compile(r"[^/\s:]{1,15}")


class Problem(NamedTuple):
    """Something that is wrong with a file."""

    line: int
    text: str


class ConfigError(ValueError):
    """A configuration is wrong: all that is wrong with it."""

    def __init__(self, file: str, problems: list[Problem]) -> None:
        self.file, self.problems = file, problems
        super().__init__(file, problems)

    def __str__(self) -> str:
        return "\n".join(f"{self.file}:{line}: {text}" for line, text in self.problems)


@dataclass(frozen=True)
class Child:
    """A child of the node's supervisor."""

    section: str
    """"device", "pipeline" or "actor"."""
    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    """As the file has them: whoever compares two files compares these."""

    @property
    def id(self) -> str:
        """What the supervisor calls it."""
        return f"{self.section} {self.name}"


@dataclass(frozen=True)
class Config:
    """A configuration that is right by itself; what it refers to is looked at by ``specs``."""

    file: str
    node: dict[str, Any]
    children: tuple[Child, ...]
    text: str = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """The name of the node."""
        return str(self.node.get("name", "node"))

    def line_of(self, child: Child) -> int:
        """Return the line where a child stands."""
        return line_of(self.text, (child.section, child.name))


class _Kind(NamedTuple):
    """What a value has to be."""

    is_right: Callable[[Any], bool]
    told: str


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_loopback(value: Any) -> bool:
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    return host in {"127.0.0.1", "localhost", "[::1]"} and port.isdecimal() and int(port) < 1 << 16


_TEXT = _Kind(_is_text, "text")
_COUNT = _Kind(lambda value: _is_number(value) and value > 0, "a whole number above 0")
_SECONDS = _Kind(
    lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0,
    "a number of seconds above 0",
)
_FLAG = _Kind(lambda value: isinstance(value, bool), "true or false")
_TEXTS = _Kind(
    lambda value: isinstance(value, list) and all(map(_is_text, value)),
    'a list as in ["10.9.0.1/24"]',
)
_USER = _Kind(lambda value: _is_text(value) or _is_number(value), "a name or a number")
_ARRAY = _Kind(lambda value: isinstance(value, list), "a list")
_TABLE = _Kind(lambda value: isinstance(value, dict), "a table")
_REFERENCE = _Kind(
    lambda value: _is_text(value) and re.fullmatch(r"[\w.]+:[\w.]+", value) is not None,
    'text as in "package.module:Name"',
)


def _one_of(*words: str) -> _Kind:
    return _Kind(lambda value: value in words, " or ".join(f'"{word}"' for word in words))


KEYS: dict[str, dict[str, _Kind]] = {
    "node": {
        "name": _Kind(lambda value: _is_text(value) and bool(_NAME.fullmatch(value)), "a name"),
        "intensity": _Kind(lambda value: _is_number(value) and value >= 0, "a whole number"),
        "period": _SECONDS,
        "path": _TEXTS,
        "metrics": _Kind(_is_loopback, 'a port of loopback, as in "127.0.0.1:9464"'),
    },
    "device": {
        "kind": _one_of("tun", "tap"),
        "addresses": _TEXTS,
        "routes": _TEXTS,
        "mtu": _COUNT,
        "filter": _TEXT,
        "queues": _COUNT,
        "offload": _FLAG,
        "persist": _FLAG,
        "owner": _USER,
        "group": _USER,
        "namespace": _TEXT,
        "txqueuelen": _COUNT,
        "log_packets": _COUNT,
        "log_bytes": _COUNT,
        "packet_information": _FLAG,
    },
    "pipeline": {"object": _REFERENCE},
    "actor": {
        "start": _REFERENCE,
        "args": _ARRAY,
        "kwargs": _TABLE,
        "name": _TEXT,
        "restart": _one_of("permanent", "transient", "temporary"),
        "shutdown": _SECONDS,
        "watchdog": _SECONDS,
    },
}
"""The sections, and the keys of each."""

_NEEDED = {"pipeline": "object", "actor": "start"}


def load(path: str | Path) -> Config:
    """Read a file.

    Raises:
        OSError: it cannot be read.
        ConfigError: what is wrong with it.
    """
    data = Path(path).read_bytes()
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(str(path), [Problem(line, "this is no UTF-8")]) from None
    return parse(text, str(path))


def parse(text: str, file: str) -> Config:
    """Return what a text says.

    Args:
        text: TOML.
        file: its name, for errors.

    Raises:
        ConfigError: what is wrong with it.
    """
    try:
        told = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where = re.search(r"at line (\d+)", str(error))
        line = int(where[1]) if where else len(text.splitlines()) or 1
        raise ConfigError(file, [Problem(line, f"this is no TOML: {error}")]) from None
    except RecursionError:
        raise ConfigError(file, [Problem(1, "tables or lists are nested too deep")]) from None
    problems = [Problem(line_of(text, path), said) for path, said in _problems(told)]
    if problems:
        raise ConfigError(file, sorted(problems))
    children = tuple(
        Child(section, name, settings)
        for section in ("device", "pipeline", "actor")
        for name, settings in told.get(section, {}).items()
    )
    return Config(file, told.get("node", {}), children, text)


_Path = tuple[str | int, ...]


def _problems(told: Mapping[str, Any]) -> Iterator[tuple[_Path, str]]:
    for section, content in told.items():
        if section not in KEYS:
            yield (section,), f"[{section}]: {_unknown('section', section, KEYS)}"
        elif not isinstance(content, dict):
            yield (section,), f"{section}: a section is a table, as in [{section}.NAME]"
        elif section == "node":
            yield from _of_table(("node",), content, KEYS["node"])
        else:
            yield from _of_section(section, content)
            if section == "actor":
                yield from _same_names(content)


def _same_names(actors: Mapping[str, Any]) -> Iterator[tuple[_Path, str]]:
    """Yield the actors that would register the name of another one."""
    seen: dict[str, str] = {}
    for actor, settings in actors.items():
        name = settings.get("name") if isinstance(settings, dict) else None
        if isinstance(name, str) and seen.setdefault(name, actor) != actor:
            yield ("actor", actor, "name"), f"[actor.{actor}]: {seen[name]!r} has this name, too"


def _of_section(section: str, content: Mapping[str, Any]) -> Iterator[tuple[_Path, str]]:
    for name, settings in content.items():
        path = (section, name)
        if not isinstance(settings, dict):
            yield path, f"{section}.{name}: write [{section}.NAME] before its settings"
            continue
        pattern = _DEVICE if section == "device" else _NAME
        if not pattern.fullmatch(name):
            allowed = "1 to 15 characters" if section == "device" else "letters, digits, _ . -"
            yield path, f"[{section}.{name}]: a name has {allowed}"
        yield from _of_table(path, settings, KEYS[section])
        needed = _NEEDED.get(section)
        if needed is not None and needed not in settings:
            yield path, f"[{section}.{name}]: {needed} = {KEYS[section][needed].told} is missing"


def _of_table(
    path: tuple[str, ...], settings: Mapping[str, Any], keys: Mapping[str, _Kind]
) -> Iterator[tuple[_Path, str]]:
    for key, value in settings.items():
        kind = keys.get(key)
        if kind is None:
            yield (*path, key), f"[{'.'.join(path)}]: {_unknown('key', key, keys)}"
        elif not kind.is_right(value):
            said = f"{key} is {kind.told}, not {value!r:.100}"
            yield (*path, key), f"[{'.'.join(path)}]: {said}"


def _unknown(what: str, word: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(word, known, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(known))}"
    return f"there is no {what} {word!r}: {hint}"
