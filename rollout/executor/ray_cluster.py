"""The Ray that a run works on: one it starts on this machine, or a cluster that is there.

All of it blocks; the executor calls it in a thread.
"""

import logging
import math
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray

from rollout.config import ExecutorConf
from rollout.errors import ConfigError
from rollout.executor.ray_home import RayHome

NAMESPACE = "rollout"
SANDBOX_HOST = "sandbox_host"
"""The custom resource of nodes that may hold sandboxes."""

HOSTS_WAIT_S = 8.0
CONNECT_S = 5.0
START_WAIT_S = 60.0
OBJECT_STORE_BYTES = 256 << 20
"""Only small records cross Ray, so our own start takes little memory from the sandboxes."""

OWN_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Its memory monitor would end a worker for what its sandboxes use. The kernel's own killer
    # takes the sandboxes first: their processes raise their oom_score_adj.
    "RAY_memory_monitor_refresh_ms": "0",
}


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for one worker."""

    node_id: str
    index: int
    cpus: float
    part: float
    """Of the node's `sandbox_host`."""
    share: float
    """Of the node itself."""


class Cluster:
    """A connection to Ray. `close` ends it, and the Ray itself if it was started here."""

    def __init__(self, conf: ExecutorConf, *, to_work: bool = True) -> None:
        """ConfigError when there is no such cluster, or, `to_work`, none of its nodes may hold
        sandboxes."""
        self._home: RayHome | None = None
        self._borrowed = ray.is_initialized()
        self.dashboard_hint = ""
        try:
            self.dashboard_url = self._connect(conf)
            if to_work:
                self._wait_for_hosts()
        except BaseException:
            self.close()
            raise

    def _connect(self, conf: ExecutorConf) -> str | None:
        address = conf.address or os.environ.get("RAY_ADDRESS")
        if self._borrowed:
            context = ray.init(ignore_reinit_error=True, logging_level=logging.ERROR)
        elif address and address != "local":
            context = _join(address)
            self.dashboard_hint = "if it asks for a token: it is the cluster's RAY_AUTH_TOKEN"
        else:
            context = self._start(conf)
        return f"http://{context.dashboard_url}" if context.dashboard_url else None

    def _start(self, conf: ExecutorConf) -> Any:
        """A Ray of our own on this machine, for this machine only, behind a token."""
        self._home = RayHome()
        for name, value in OWN_SETTINGS.items():
            os.environ.setdefault(name, value)
        # Ray has read RAY_AUTH_MODE when it was imported, so setting it now would set up half of
        # it; unset, `ray.init` itself turns tokens on for a cluster of its own. Ray keeps the
        # first token of a process, so that stays in the environment.
        self._home.keep_token(os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32)))
        self.dashboard_hint = f"it asks for a token: cat {self._home.token_file}"
        with _alone():
            context = ray.init(
                address="local",
                namespace=NAMESPACE,
                resources={SANDBOX_HOST: 1},
                include_dashboard=conf.dashboard,
                dashboard_host="127.0.0.1",
                dashboard_port=_free_port(conf.dashboard_port),
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _node_ip_address="127.0.0.1",
                _temp_dir=str(self._home.path),
            )
        _check_guarded()
        return context

    def _wait_for_hosts(self) -> None:
        give_up_s = time.monotonic() + HOSTS_WAIT_S
        while not hosts():
            if time.monotonic() > give_up_s:
                raise ConfigError(
                    f"the Ray cluster has no node that may hold sandboxes: none of its "
                    f"{len(_nodes())} nodes has the resource `{SANDBOX_HOST}`. Start one with: "
                    f"ray start --address=HEAD:6379 --resources='{{\"{SANDBOX_HOST}\": 1}}'"
                )
            time.sleep(0.2)

    def close(self) -> None:
        """Idempotent."""
        if not self._borrowed and ray.is_initialized():
            ray.shutdown()
        if self._home is not None:
            self._home.close()


def hosts() -> list[dict[str, Any]]:
    """Living nodes that may hold sandboxes, and will tomorrow."""
    leaving = draining()
    able = (node for node in _nodes() if node["Resources"].get(SANDBOX_HOST, 0) > 0)
    return [node for node in able if node["NodeID"] not in leaving]


def draining() -> dict[str, float]:
    """Nodes that are to be taken away (`ray drain-node`, a pre-emption), and seconds until then."""
    told: dict[str, int] = ray._private.state.state.get_draining_nodes()
    # Without a deadline it is 0: then nobody is in a hurry.
    return {node: at / 1000 - time.time() if at else math.inf for node, at in told.items()}


def slots(conf: ExecutorConf) -> list[Slot]:
    """Where workers belong: one for each `cpus_per_worker` cores of each host, at least one."""
    found = []
    for node in hosts():
        cpus = float(node["Resources"].get("CPU", 0))
        size = max(1, int(cpus // conf.cpus_per_worker))
        part = int(node["Resources"][SANDBOX_HOST] / size * 10_000) / 10_000
        each = min(float(conf.cpus_per_worker), cpus)
        found += [Slot(node["NodeID"], index, each, part, 1 / size) for index in range(size)]
    return found[: conf.workers or len(found)]


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _join(address: str) -> Any:
    _check_reachable(address)
    try:
        return ray.init(
            address=address,
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError, ValueError) as exc:
        raise ConfigError(f"executor.address: no Ray cluster at {address}: {exc}") from exc


def _check_reachable(address: str) -> None:
    """Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except OSError as exc:
        raise ConfigError(
            f"executor.address: nothing answers at {address} ({exc}); is the cluster up? Set "
            "executor.address=null (and unset RAY_ADDRESS) to start a Ray on this machine"
        ) from exc


def _check_guarded() -> None:
    """Whoever may talk to a Ray may run code on it: never start one that anybody may talk to."""
    mode = os.environ.get("RAY_AUTH_MODE")
    if mode != "token":
        raise ConfigError(
            f"RAY_AUTH_MODE is {mode!r}: the Ray started for this run would be open to every user "
            "of this machine; unset it, or set it to `token`"
        )


@contextmanager
def _alone() -> Iterator[None]:
    """One start at a time of this user: a port is found free some seconds before Ray takes it.

    Whoever waits too long starts all the same; at worst it is told that the port is taken.
    """
    give_up_s = time.monotonic() + START_WAIT_S
    with socket.socket(socket.AF_UNIX) as lock:
        while time.monotonic() < give_up_s:
            try:
                lock.bind(f"\0rollout-start-{os.getuid()}")  # a name without a file, gone with us
                break
            except OSError:
                time.sleep(0.1)
        yield


def _free_port(wanted: int) -> int:
    """`wanted` if it is free, else any that is: two runs on one machine must not collide."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            free: int = probe.getsockname()[1]
            return free
    return wanted
