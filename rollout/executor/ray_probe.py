"""Looks at a running Ray cluster: `python -m rollout.executor.ray_probe ADDRESS`.

A process of its own, since connecting can hang and Ray cannot be told to give up. The answer is
one line of JSON on stdout, or one line on stderr that says what is wrong.
"""

import json
import os
import sys

import ray

from rollout.config import ExecutorConf
from rollout.errors import ConfigError
from rollout.executor.ray_cluster import SANDBOX_HOST, Cluster, hosts

MEMORY_SETTINGS = ("RAY_memory_monitor_refresh_ms", "RAY_memory_usage_threshold")
TASK_TIMEOUT_S = 30.0


def main(address: str) -> int:
    """Print the nodes that may hold sandboxes, and what the first of them says of memory."""
    try:
        cluster = Cluster(ExecutorConf(address=address))
    except ConfigError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    try:
        answer = {"version": ray.__version__, "hosts": len(hosts()), "memory": _memory_settings()}
    finally:
        cluster.close()
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


def _memory_settings() -> dict[str, str | None]:
    """Of a node: its processes have the environment it was started with."""
    remote = ray.remote(num_cpus=0, resources={SANDBOX_HOST: 0.0001})(_environment)
    found: dict[str, str | None] = ray.get(remote.remote(), timeout=TASK_TIMEOUT_S)
    return found


def _environment() -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in MEMORY_SETTINGS}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
