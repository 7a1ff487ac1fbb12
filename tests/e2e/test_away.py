"""A run that is left to a cluster: its command is gone, others ask after it, follow it, end it."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.census import left_clean
from tests.chaos.cluster import RayNodes, ray_nodes
from tests.chaos.run import sweep_up
from tests.chaos.shelves import Folder
from tests.chaos.sweep import PLANNED, ROOT, Sweep

pytestmark = [pytest.mark.native, pytest.mark.ray, pytest.mark.long]


class Verbs:
    """The command line of somebody who knows the run's folder and the cluster."""

    def __init__(self, sweep: Sweep, nodes: RayNodes) -> None:
        self._run = str(sweep.folder / "runs/chaos")
        clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        self._env = {**clean, **sweep.here.environment, **nodes.environment}

    def start(self, verb: str, *words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "rollout", verb, self._run, *words],
            env={**self._env, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def say(self, verb: str, *words: str) -> tuple[int, str]:
        process = self.start(verb, *words)
        output, _ = process.communicate(timeout=100)
        return process.returncode, output


def wait_for_three(sweep: Sweep) -> None:
    """Rows; the sweep's own wait ends with its command, which is gone."""
    give_up_s = time.monotonic() + 60
    while len(sweep.ids()) < 3:
        assert time.monotonic() < give_up_s, sweep.told()
        time.sleep(0.05)


async def test_a_run_is_left_to_a_cluster_followed_cancelled_and_finished(tmp_path: Path) -> None:
    with left_clean() as here, ray_nodes(here, 1) as nodes:
        shelf = Folder(tmp_path / "runs")
        words = ("detach=true", "executor.cpus_per_worker=1")
        sweep = Sweep(
            0, "ray", tmp_path, here, shelf, *words, slow_s=2, environment=nodes.environment
        )
        verbs = Verbs(sweep, nodes)
        sweep.start()
        assert sweep.end() == 0, sweep.told()
        assert "attach" in sweep.told()

        attached = verbs.start("attach")
        wait_for_three(sweep)
        sweep.start()
        assert sweep.end() == 2, "at work already"
        attached.send_signal(signal.SIGINT)
        output, _ = attached.communicate(timeout=60)
        assert attached.returncode == 130, output
        assert "Traceback" not in output

        code, told = verbs.say("cancel")
        assert (code, "ends when" in told) == (0, True), told
        code, told = verbs.say("attach")
        assert (code, "still to do" in told) == (1, True), told
        assert re.search(r"its driver on \S+ ended .* ago", told), told
        assert 3 <= len(sweep.ids()) < PLANNED

        sweep.start()
        assert sweep.end() == 0, sweep.told()
        code, told = verbs.say("attach")
        assert code == 0, told
        code, told = verbs.say("status")
        assert f"{PLANNED}/{PLANNED}" in told
        assert "finished" in told
        sweep.check()
        await sweep_up(here)


async def test_how_a_driver_that_nobody_watched_has_ended_is_told(tmp_path: Path) -> None:
    """Of two raylets the one is killed that holds the sandboxes; the driver is on either."""
    with left_clean() as here, ray_nodes(here, 1) as nodes:
        shelf = Folder(tmp_path / "runs")
        words = ("detach=true", "executor.cpus_per_worker=1")
        sweep = Sweep(
            0, "ray", tmp_path, here, shelf, *words, slow_s=2, environment=nodes.environment
        )
        verbs = Verbs(sweep, nodes)
        sweep.start()
        assert sweep.end() == 0, sweep.told()
        wait_for_three(sweep)
        sweep.tell(nodes.tell("kill", "0"))
        code, told = verbs.say("attach")
        assert code == 1, told
        lost = r"its driver ended without a word: it was killed, or its node was lost"
        left_word = r"its driver on \S+ ended .* ago\n.*stopped: no worker is left"
        assert re.search(f"{lost}|{left_word}", told, re.DOTALL), told
        code, told = verbs.say("status")
        assert re.search(f"{lost}|{left_word}", told, re.DOTALL), told
        await sweep_up(here)
