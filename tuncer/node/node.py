"""The actor that knows a node's configuration: the last child of the node's supervisor.

It reloads the file, and tells the service manager how the node is. It has no part in what the
others do: when it crashes, its successor goes on with the configuration that was in force.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

from supervisor import ActorError, ChildSpec, GenServer, SupervisorRef, handler, named
from supervisor.lowlevel import starts_again
from tuncer.node import notify
from tuncer.node.config import Child, Config, ConfigError, load, parse
from tuncer.node.metrics_server import MetricsServer
from tuncer.node.reloading import Step, steps
from tuncer.node.specs import specs

log = logging.getLogger("tuncer")


def name_of(node: str) -> str:
    """Return the name of the actor of a node."""
    return f"{node} configuration"


class Watchdog(GenServer):
    """Tells the service manager's watchdog, twice within its time, that the supervisor answers."""

    def init(self, node: str, period: float) -> None:
        """Begin.

        Args:
            node: the name of the supervisor.
            period: seconds within which the service manager wants to hear of it.
        """
        self._node = node
        self.call_every(period / 2, self._look)

    def _look(self) -> None:
        try:
            named(self._node, SupervisorRef).within(5.0).count_children()
        except ActorError as error:
            log.error("the supervisor of node %s does not answer: %s", self._node, error)
        else:
            notify.notify(WATCHDOG=1)


class Reloaded(NamedTuple):
    """What a reload has done."""

    done: list[str]
    """A line for each child that is not as it was; of a dry run, that would not be."""
    problems: str
    """What is wrong with the file, or did not work; empty: nothing."""


class Node(GenServer):
    """Reloads the configuration of a node."""

    kept = ("text",)

    def init(self, file: str, text: str) -> None:
        """Begin, when all other children have started.

        Args:
            file: the absolute path of the configuration.
            text: what it says.
        """
        self.file = file
        if not self.restored:
            self.text = text
        told = parse(self.text, file)
        self._name = told.name
        notify.notify(READY=1, STATUS=f"node {told.name}: {len(told.children)} children run")

    @property
    def _supervisor(self) -> SupervisorRef:
        return named(self._name, SupervisorRef)

    # -- reload ------------------------------------------------------------------------------------

    @handler
    def reload(self, *, dry_run: bool = False) -> Reloaded:
        """Read the file again, and do what has changed.

        With a file that is wrong nothing is done: the configuration in force stays.

        Args:
            dry_run: do nothing.
        """
        if not dry_run:
            notify.reloading()
        try:
            return self._reload(dry_run=dry_run)
        except (ConfigError, OSError, ValueError) as error:
            log.error("node %s keeps its configuration: %s", self._name, error)
            return Reloaded([], f"{error}")
        finally:
            if not dry_run:
                notify.notify(READY=1)

    def _reload(self, *, dry_run: bool) -> Reloaded:
        after = load(self.file)
        wanted = dict(zip((child.id for child in after.children), specs(after), strict=True))
        todo = steps(self._in_force(), after)
        if dry_run:
            return Reloaded([str(step) for step in todo], "")
        done, problems = [], []
        for step in todo:
            try:
                self._do(step, wanted)
                done.append(str(step))
                log.info("node %s: %s", self._name, step)
            except (ActorError, OSError, TypeError, ValueError) as error:
                problems.append(f"{step}: {error}".partition("\n")[0])
                log.error("node %s: %s: %s", self._name, step, error)
        self.text = after.text
        return Reloaded(done, "\n".join(problems))

    def _in_force(self) -> Config:
        """Return the configuration in force, as far as its children are there.

        One that did not start is not there. One that is there and that it does not have was started
        by a predecessor of this actor, which was killed in a reload: its settings are not known.
        """
        told = parse(self.text, self.file)
        there = {row.id for row in self._supervisor.which_children()}
        known = [child for child in told.children if child.id in there]
        strangers = there - {child.id for child in known}
        for id_ in sorted(strangers):
            section, _, name = id_.partition(" ")
            if section in {"device", "pipeline", "actor"}:
                known.append(Child(section, name, {"settings": "unknown"}))
        return Config(told.file, told.node, tuple(known), told.text)

    def _do(self, step: Step, wanted: dict[str, ChildSpec]) -> None:
        supervisor = self._supervisor.within(60.0)
        if step.action in {"stop", "replace"}:
            supervisor.terminate_child(step.child.id)
            supervisor.delete_child(step.child.id)
        if step.action in {"replace", "start"}:
            supervisor.start_child(wanted[step.child.id])

    def terminate(self, reason: object) -> None:
        """Tell the service manager that the node stops: not when this actor has crashed."""
        if reason == "shutdown" and not starts_again(self):
            notify.notify(STOPPING=1)


def children_of(config: Config) -> list[ChildSpec]:
    """Return the children of a node's supervisor: the last one is its ``Node``.

    Raises:
        ConfigError: what is wrong with them.
    """
    file = str(Path(config.file).absolute())
    own = ChildSpec("configuration", Node, (file, config.text), name=name_of(config.name))
    return [*specs(config), *_metrics(config), *_watchdog(config), own]


def _watchdog(config: Config) -> list[ChildSpec]:
    period = notify.watchdog_period()
    return [] if period is None else [ChildSpec("watchdog", Watchdog, (config.name, period))]


def _metrics(config: Config) -> list[ChildSpec]:
    where = config.node.get("metrics")
    if where is None:
        return []
    host, _, port = where.rpartition(":")
    told = (host.strip("[]"), int(port))
    # Its own limit: a port that somebody else takes away does not end the node.
    return [ChildSpec("metrics", MetricsServer, told, intensity=10, period=60.0)]
