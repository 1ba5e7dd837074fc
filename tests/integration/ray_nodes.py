"""A Ray cluster of several nodes on this machine (`ray.cluster_utils.Cluster`), held by a process of its own.

    python -m tests.integration.ray_nodes '{"num_cpus": 2, …}'

Commands come as lines of JSON, `["add", NAME, {…}]` and `["kill", NAME]`; each is answered by one line, a node's id and
the cluster's address. The cluster ends with the input. A process of its own, because what Ray reads from the
environment it reads once, and one process can hardly belong to two clusters.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import psutil

from deploy.processes import stack_processes, stop_processes

HEAD = "head"
_PATIENCE_S = 300.0  # Ray's own is half a minute
_TRIES = 3  # it gives its own parts half a minute; on a machine that is busy the next try finds them in memory


class RayNodes:
    """The cluster, as its test sees it."""

    def __init__(self, head: Mapping[str, Any], *, environment: Mapping[str, str], stack_id: str, log: Path) -> None:
        self._command = [sys.executable, "-P", "-m", "tests.integration.ray_nodes", json.dumps(dict(head))]
        self._environment = dict(environment)
        self._stack_id = stack_id
        self._log = log
        self.ids: dict[str, str] = {}
        self.address = ""

    def __enter__(self) -> Self:
        for attempt in range(1, _TRIES + 1):
            self._start()
            try:
                self._learn(HEAD)
                break
            except AssertionError:
                self.__exit__()
                if attempt == _TRIES:
                    raise
        return self

    def _start(self) -> None:
        with self._log.open("wb") as log:
            self._keeper = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._keeper.communicate(timeout=60)
        stop_processes(stack_processes(self._stack_id), grace_s=5.0)
        self._keeper.wait(10)

    def add(self, name: str, **node: Any) -> None:
        """Returns when the node belongs to the cluster."""
        self._tell(["add", name, node])
        self._learn(name)

    def kill(self, name: str) -> None:
        """Kill -9 of everything that runs on the node."""
        self._tell(["kill", name])
        self._learn(name)

    def _tell(self, command: list[Any]) -> None:
        assert self._keeper.stdin is not None
        self._keeper.stdin.write(json.dumps(command) + "\n")
        self._keeper.stdin.flush()

    def _learn(self, name: str) -> None:
        assert self._keeper.stdout is not None
        line = self._keeper.stdout.readline()
        assert line, f"the cluster's process has ended:\n{self._log.read_text()}"
        self.ids[name], self.address = json.loads(line)


def keep(head: dict[str, Any]) -> None:
    """Does what the lines of standard input say, until they end."""
    from ray.cluster_utils import Cluster

    answers, sys.stdout = sys.stdout, sys.stderr  # Ray prints
    cluster = Cluster(initialize_head=True, head_node_args={"wait": False, **head})
    cluster.wait_for_nodes(timeout=_PATIENCE_S)
    nodes = {HEAD: cluster.head_node}

    def answer(name: str) -> None:
        print(json.dumps([nodes[name].node_id, cluster.address]), file=answers, flush=True)

    answer(HEAD)
    for line in sys.stdin:
        what, name, *rest = json.loads(line)
        if what == "add":
            nodes[name] = cluster.add_node(wait=False, **rest[0])
            cluster.wait_for_nodes(timeout=_PATIENCE_S)
        else:
            kill_all(nodes[name])
            cluster.remove_node(nodes[name], allow_graceful=False)
        answer(name)
    cluster.shutdown()


def kill_all(node: Any) -> None:
    """The raylet and all that it has started, at once: its workers would outlive it by some seconds."""
    for (record,) in node.all_processes.values():
        with contextlib.suppress(psutil.NoSuchProcess):
            started = psutil.Process(record.process.pid)
            for process in [*started.children(recursive=True), started]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


if __name__ == "__main__":
    keep(json.loads(sys.argv[1]))
