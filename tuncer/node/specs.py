"""The children of a node, as its supervisor takes them."""

from __future__ import annotations

import sys
from typing import Any

from supervisor import ChildSpec, GenServer
from supervisor.lowlevel import load_reference, pack_exact
from tuncer.client.create import child_spec
from tuncer.node.config import Child, Config, ConfigError, Problem
from tuncer.tunctl import Flag


def specs(config: Config) -> list[ChildSpec]:
    """Return all children of a configuration. The modules that it refers to are imported.

    Raises:
        ConfigError: what is wrong with them.
    """
    for directory in reversed(config.node.get("path", [])):
        if directory not in sys.path:
            sys.path.insert(0, directory)
    found, problems = [], []
    for child in config.children:
        try:
            found.append(_MADE[child.section](child))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - of the user's modules
            said = f"[{child.section}.{child.name}]: {_line(error)}"
            problems.append(Problem(config.line_of(child), said))
    if problems:
        raise ConfigError(config.file, problems)
    return found


def _line(error: BaseException) -> str:
    kind = "" if isinstance(error, (ValueError, TypeError)) else f"{type(error).__name__}: "
    return kind + (str(error).partition("\n")[0] or "no reason is told")


def _device(child: Child) -> ChildSpec:
    options = dict(child.settings)
    flags = Flag.TAP if options.pop("kind", "tun") == "tap" else Flag.TUN
    if not options.pop("packet_information", False):
        flags |= Flag.NO_PI
    return child_spec(child.id, child.name, flags, restart="permanent", **options)


def _pipeline(child: Child) -> ChildSpec:
    from tuncer.pipeline import Pipeline  # noqa: PLC0415 - not every node has one

    found = load_reference(child.settings["object"])
    if not isinstance(found, Pipeline):
        raise TypeError(f"{child.settings['object']} is no Pipeline, but {found!r:.100}")
    return found.child_spec(child.id, restart="permanent")


def _actor(child: Child) -> ChildSpec:
    settings = child.settings
    found = load_reference(settings["start"])
    if not (isinstance(found, type) and issubclass(found, GenServer)):
        raise TypeError(f"{settings['start']} is no GenServer, but {found!r:.100}")
    known = ("name", "restart", "shutdown", "watchdog")
    options: dict[str, Any] = {key: settings[key] for key in known if key in settings}
    arguments = tuple(settings.get("args", ())), dict(settings.get("kwargs", {}))
    pack_exact([list(arguments[0]), arguments[1]], "init")  # as they travel in a reload
    return ChildSpec(child.id, found, *arguments, **options)


_MADE = {"device": _device, "pipeline": _pipeline, "actor": _actor}
