"""The actor that knows a node's configuration: the last child of the node's supervisor.

It reloads the file, and tells the service manager how the node is. It has no part in what the
others do: when it crashes, its successor goes on with the configuration that was in force.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

from supervisor import ActorError, ChildSpec, GenServer, SupervisorRef, handler, named
from tuncer.node import notify
from tuncer.node.config import Config, ConfigError, load, parse
from tuncer.node.metrics_server import MetricsServer
from tuncer.node.reloading import Step, steps
from tuncer.node.specs import specs

log = logging.getLogger("tuncer")


def name_of(node: str) -> str:
    """Return the name of the actor of a node."""
    return f"{node} configuration"


class Reloaded(NamedTuple):
    """What a reload has done."""

    done: list[str]
    """A line for each child that is not as it was; of a dry run, that would not be."""
    problems: str
    """What is wrong with the file, or did not work; empty: nothing."""


class Node(GenServer):
    """Reloads the configuration of a node."""

    kept = ("text", "failed")

    def init(self, file: str, text: str) -> None:
        """Begin, when all other children have started.

        Args:
            file: the absolute path of the configuration.
            text: what it says.
        """
        self.file = file
        if not self.restored:
            self.text = text
            self.failed: list[str] = []
            """Children of the configuration in force that are not there: they did not start."""
        self._name = parse(self.text, file).name
        count = len(parse(self.text, file).children)
        notify.notify(READY=1, STATUS=f"node {self._name}: {count} children run")
        period = notify.watchdog_period()
        if period is not None:
            self.call_every(period / 2, self._still_well)

    @property
    def _supervisor(self) -> SupervisorRef:
        return named(self._name, SupervisorRef)

    def _still_well(self) -> None:
        """Tell the service manager's watchdog that the supervisor answers."""
        try:
            self._supervisor.within(5.0).count_children()
        except ActorError as error:
            log.error("the supervisor of node %s does not answer: %s", self._name, error)
        else:
            notify.notify(WATCHDOG=1)

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
        before = parse(self.text, self.file)
        there = tuple(child for child in before.children if child.id not in self.failed)
        todo = steps(Config(before.file, before.node, there, before.text), after)
        if dry_run:
            return Reloaded([str(step) for step in todo], "")
        done, failed, problems = [], [], []
        for step in todo:
            try:
                self._do(step, wanted)
                done.append(str(step))
                log.info("node %s: %s", self._name, step)
            except (ActorError, OSError) as error:
                problems.append(f"{step}: {error}".partition("\n")[0])
                log.error("node %s: %s: %s", self._name, step, error)
                if step.action != "stop":
                    failed.append(step.child.id)
        self.text, self.failed = after.text, failed
        return Reloaded(done, "\n".join(problems))

    def _do(self, step: Step, wanted: dict[str, ChildSpec]) -> None:
        supervisor = self._supervisor.within(60.0)
        if step.action in {"stop", "replace"}:
            supervisor.terminate_child(step.child.id)
            supervisor.delete_child(step.child.id)
        if step.action in {"replace", "start"}:
            supervisor.start_child(wanted[step.child.id])

    def terminate(self, reason: object) -> None:
        """Tell the service manager that the node stops, unless this actor alone does."""
        del reason
        notify.notify(STOPPING=1)


def children_of(config: Config) -> list[ChildSpec]:
    """Return the children of a node's supervisor: the last one is its ``Node``.

    Raises:
        ConfigError: what is wrong with them.
    """
    file = str(Path(config.file).absolute())
    own = ChildSpec("configuration", Node, (file, config.text), name=name_of(config.name))
    return [*specs(config), *_metrics(config), own]


def _metrics(config: Config) -> list[ChildSpec]:
    where = config.node.get("metrics")
    if where is None:
        return []
    host, _, port = where.rpartition(":")
    told = (host.strip("[]"), int(port))
    # Its own limit: a port that somebody else takes away does not end the node.
    return [ChildSpec("metrics", MetricsServer, told, intensity=10, period=60.0)]
