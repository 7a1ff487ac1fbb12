"""What may happen to a sweep while it runs. Each does it, and says what it did."""

import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from tests.census import census
from tests.chaos.sweep import Fault, Sweep

STILL_S = 4.0
"""Twice the lease's time to live."""


def sandbox(sweep: Sweep) -> str:
    """The init of one sandbox."""
    return _kill(sweep, "rollout-box init")


def launcher(sweep: Sweep) -> str:
    """Of one worker's engine: whatever lives in its sandboxes goes with it."""
    return _kill(sweep, "rollout-box launch")


def clearer(sweep: Sweep) -> str:
    """Who takes apart what sandboxes leave."""
    return _kill(sweep, "rollout-box clear")


def worker(sweep: Sweep) -> str:
    return _kill(sweep, WORKER[sweep.executor])


def worker_asked_to_end(sweep: Sweep) -> str:
    """As a machine does that is to be taken away."""
    return _kill(sweep, WORKER[sweep.executor], signal.SIGTERM)


def worker_stands_still(sweep: Sweep) -> str:
    """Longer than its leases live; then it goes on, a zombie that has rows to commit."""
    if (victim := _victim(sweep, WORKER[sweep.executor])) is None:
        return "no worker to hold still"
    with suppress(ProcessLookupError):
        os.kill(victim, signal.SIGSTOP)
        time.sleep(STILL_S)
        os.kill(victim, signal.SIGCONT)
    return f"held worker {victim} still for {STILL_S} s"


def coordinator(sweep: Sweep) -> str:
    return _kill(sweep, "ray::CoordinatorActor")


def raylet(sweep: Sweep) -> str:
    """Its workers are orphans, and may live on for a while."""
    return _kill(sweep, "/raylet/raylet ")


def gcs(sweep: Sweep) -> str:
    """Ray's head."""
    return _kill(sweep, "/gcs/gcs_server ")


def driver(sweep: Sweep) -> str:
    assert sweep.process is not None
    sweep.process.kill()
    sweep.process.wait()
    return "killed the driver"


def driver_interrupted(sweep: Sweep) -> str:
    """^C, and now and then a second one."""
    assert sweep.process is not None
    times = sweep.rng.choice((1, 1, 2))
    for _ in range(times):
        sweep.process.send_signal(signal.SIGINT)
        time.sleep(sweep.rng.uniform(0.05, 0.5))
    return f"interrupted the driver {times} times"


def two_drivers(sweep: Sweep) -> str:
    """Somebody starts the run a second time while it runs: one of them is fenced."""
    first = sweep.process
    sweep.start()
    time.sleep(sweep.rng.uniform(0.5, 3))
    assert first is not None
    if sweep.rng.random() < 0.5:
        first.kill()
    sweep.others.append(first)
    return "started it a second time"


def store(sweep: Sweep) -> str:
    """It fails in one of its ways, for less time than anybody's patience or more than one try's."""
    kind = sweep.rng.choice(list(sweep.shelf.kinds))
    for_s = round(sweep.rng.uniform(0.2, 5), 1)
    return f"{kind} for {for_s} s ({sweep.shelf.fail(kind, for_s)} requests)"


def container(sweep: Sweep) -> str:
    """With its init, and all that runs in it."""
    assert sweep.daemon is not None
    return f"killed container {sweep.daemon.kill_one(sweep.rng) or '(none)'}"


def dockerd(sweep: Sweep) -> str:
    """The daemon is ended in order, as on an update, and all its containers with it."""
    assert sweep.daemon is not None
    sweep.daemon.restart()
    return "restarted dockerd"


def faults_of(sweep: Sweep) -> Sequence[Fault]:
    """All that may happen to it. A store that can fail does so as often as all the rest."""
    rest = FAULTS[sweep.executor]
    if sweep.daemon is not None:
        rest = (*(each for each in rest if each not in NATIVE), container, dockerd)
    return (*rest, *(len(rest) * (store,) if sweep.shelf.kinds else ()))


WORKER: Mapping[str, str] = {"local": "rollout.executor.local_worker", "ray": "ray::WorkerActor"}

NATIVE: tuple[Fault, ...] = (sandbox, launcher, clearer)
ANYWHERE: tuple[Fault, ...] = (
    *NATIVE,
    worker,
    worker_asked_to_end,
    worker_stands_still,
    driver,
    driver_interrupted,
    two_drivers,
)
FAULTS: Mapping[str, tuple[Fault, ...]] = {
    "local": ANYWHERE,
    "ray": (*ANYWHERE, coordinator, raylet, gcs),
}


def _kill(sweep: Sweep, words: str, number: signal.Signals = signal.SIGKILL) -> str:
    if (victim := _victim(sweep, words)) is None:
        return f"no {words.strip()} to end"
    with suppress(ProcessLookupError):
        os.kill(victim, number)
    return f"sent {number.name} to {words.strip()} ({victim})"


def _victim(sweep: Sweep, words: str) -> int | None:
    """One of the sweep's processes that has these words in its command line."""
    found = (name.split(" ", 1) for name in census(sweep.here)["processes"])
    pids = sorted(int(pid) for pid, command in found if words in f"{command} ")
    return sweep.rng.choice(pids) if pids else None
