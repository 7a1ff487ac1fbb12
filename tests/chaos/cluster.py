"""A Ray cluster of several real raylets on this machine, which lose what a cluster loses.

A process of its own, since a Ray in the test's would be the only one that it can ever have; it is
told what to do in lines on its stdin and answers with one each.
"""

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.census import Place

ROOT = Path(__file__).parent.parent.parent
DRAIN_S = 60


class RayNodes:
    """The cluster from the outside."""

    def __init__(self, process: "subprocess.Popen[str]", token: str) -> None:
        self._process = process
        self.address = self._read()
        self.environment = {**_guarded(token), "RAY_ADDRESS": self.address}

    def tell(self, *words: str) -> str:
        """`kill N`: kill -9 of that node's raylet. `drain N`: it is to be taken away soon."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(words) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the cluster's process has ended"
        return line


@contextmanager
def ray_nodes(here: Place, count: int = 4) -> Iterator[RayNodes]:
    """So many that may hold sandboxes, besides the head; up while the block runs."""
    token = secrets.token_hex(16)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.cluster", str(count)],
        cwd=ROOT,
        env={**clean, **here.environment, **_guarded(token), "RAY_USAGE_STATS_ENABLED": "0"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        yield RayNodes(process, token)
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)
    shutil.rmtree(here.tmp / "ray")


def _guarded(token: str) -> Mapping[str, str]:
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}


def main() -> None:
    import ray
    from ray.cluster_utils import Cluster
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason

    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100 << 20}
    head["temp_dir"] = f"{os.environ['TMPDIR']}/ray"
    cluster = Cluster(initialize_head=True, head_node_args=head)
    one = {"num_cpus": 1, "resources": {"sandbox_host": 1}, "object_store_memory": 100 << 20}
    nodes = [cluster.add_node(**one) for _ in range(int(sys.argv[1]))]
    cluster.wait_for_nodes()
    print(cluster.address, flush=True)
    for line in sys.stdin:
        what, number = line.split()
        node = nodes[int(number)]
        if what == "kill":
            node.kill_raylet()
            print(f"killed the raylet of node {number}", flush=True)
        else:
            gcs = ray._raylet.GcsClient(address=cluster.address)
            reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
            until_ms = int((time.time() + DRAIN_S) * 1000)
            accepted, why = gcs.drain_node(node.node_id, reason, "to be taken away", until_ms)
            print(f"node {number} drains: {accepted} {why}", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
