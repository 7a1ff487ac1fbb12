"""A small sweep that is made to fail, and what must hold of it afterwards.

    sweep = Sweep(seed, "local", folder, here, Folder(folder / "runs"))
    sweep.suffer(faults_of(sweep))   # the real command line, started again until it is done
    sweep.check()                   # the dataset against the plan, the ledger, the artifacts

What the dataset holds is read with plain pyarrow from the parts that the log names.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.census import Place, census
from tests.chaos.agents import ARTIFACT, REPEATS
from tests.chaos.shelves import NAME, Shelf
from tests.private_daemon import BUSYBOX, PrivateDaemon

ROOT = Path(__file__).parent.parent.parent
TASKS, ARMS, SAMPLES = 3, 2, 6
PLANNED = TASKS * ARMS * SAMPLES
QUICK_S = 0.05
STARTS = 8
"""After the faults are over one start is enough; each fault may cost one."""
START_S = 120.0
"""No start of so small a sweep may take longer, whatever it meets."""


Fault = Callable[["Sweep"], str]
"""Does something to it, and says what it did."""


class Sweep:
    """One run name, started as often as it takes."""

    def __init__(
        self,
        seed: int,
        executor: str,
        folder: Path,
        here: Place,
        shelf: Shelf,
        *more: str,
        slow_s: float = 0.4,
        environment: Mapping[str, str] | None = None,
        daemon: PrivateDaemon | None = None,
    ) -> None:
        """
        more: words of the command line.
        slow_s: what the slower half of the rollouts takes.
        environment: of the command line, besides the place's.
        daemon: its sandboxes are containers there; None: the native engine's.
        """
        self.seed = seed
        self.rng = random.Random(seed)
        self.executor = executor
        self.folder = folder
        self.here = here
        self.shelf = shelf
        self.ledger = folder / "ledger"
        self._began_s = time.monotonic()
        self.story: list[str] = []
        """What was done to it, for people."""
        self.process: subprocess.Popen[bytes] | None = None
        """The last start."""
        self.others: list[subprocess.Popen[bytes]] = []
        """Earlier ones that were left to themselves."""
        self.daemon = daemon
        self.engine = "native" if daemon is None else "docker"
        self._slow_s = slow_s
        self._environment = {**here.environment, **(environment or {})}
        self._words = self._command_line(*more)
        self._output = folder / "output"

    def _command_line(self, *more: str) -> list[str]:
        tasks = self.folder / "tasks.jsonl"
        command = "grep -Exq '[0-9a-f]{32}' done"
        rows = [
            {"id": f"task-{n}", "instruction": "note it", "command": command} for n in range(TASKS)
        ]
        tasks.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return [
            *("+experiment=jsonl", f"task.path={tasks}", f"name={NAME}", f"samples={SAMPLES}"),
            *("agent=nop", "agent._target_=tests.chaos.agents.Noting"),
            *(f"+agent.ledger={self.ledger}", "~sweep.agent"),
            f"+sweep.agent.work_s=[{QUICK_S},{self._slow_s}]",
            *(f"engine={self.engine}", f"engine.root_dir={self.here.root_dir}"),
            *([f"blueprint.base=image:{BUSYBOX}"] if self.daemon else []),
            *(f"executor={self.executor}", "executor.workers=2", "executor.episodes_per_worker=3"),
            *("executor.lease_batch=3", "executor.lease_ttl_s=2", "executor.dashboard=false"),
            *("store.flush_s=0.2", "retry.backoff_s=0.1", "retry.max_attempts=10"),
            "retry.storm_share=1",
            *self.shelf.words,
            *more,
        ]

    # ---------------------------------------------------------------- starting it

    def start(self) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "rollout", *self._words],
                cwd=self.folder,
                env={**clean, **self._environment, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def suffer(self, faults: Sequence[Fault]) -> None:
        """Some of the faults at moments by seed, then started until it is done."""
        self.start()
        for _ in range(self.rng.randint(1, 3)):
            self.wait_for_rows(self.rng.randrange(PLANNED))
            time.sleep(self.rng.uniform(0, 0.5))
            if not self.running():
                self.tell(f"ended with {self.end()}, started again")
                self.start()
                time.sleep(self.rng.uniform(0, 3))
            self.tell(self.rng.choice(faults)(self))
        self.finish()

    def finish(self) -> None:
        """Start it again until it says that all is done; each start must end by itself."""
        for _ in range(STARTS):
            code = self.end()
            self.tell(f"ended with {code}")
            if code == 0:
                return
            self.start()
        raise AssertionError(f"{STARTS} starts were not enough: {self.told()}")

    def end(self) -> int:
        """The exit code of the last start, once all starts are over."""
        assert self.process is not None
        for process in (*self.others, self.process):
            try:
                process.wait(START_S)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGABRT)
                raise AssertionError(f"it hangs: {self.told()}") from None
        return self.process.returncode

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def tell(self, what: str) -> None:
        self.story.append(f"{time.monotonic() - self._began_s:.1f} s: {what}")

    def told(self) -> str:
        """Seed, story and the last output, for whoever has to find out."""
        output = self._output.read_text(errors="replace")[-3000:] if self._output.exists() else ""
        return (
            f"seed {self.seed} on {self.executor}, {self.engine}: {'; '.join(self.story)}\n{output}"
        )

    def wait_for_rows(self, count: int) -> None:
        """Until so many are committed, or it has ended."""
        while self.running() and len(self.ids()) < count:
            time.sleep(0.02)

    def unseen(self) -> list[str]:
        """What a kill would leave behind and is not there now."""
        seen = census(self.here)
        return [kind for kind in ("processes", "cgroups", "temporary files") if not seen[kind]]

    # ---------------------------------------------------------------- reading it

    def parts(self) -> list[str]:
        """What the log names, folded here by hand."""
        named: dict[str, None] = {}
        for name in sorted(self.shelf.names("_log/")):
            body = json.loads(self.shelf.read(name))["body"]
            for path in body.get("removes", []):
                del named[path]
            for commit in body.get("commits", []):
                named |= dict.fromkeys(part["path"] for part in commit["parts"])
        return [path for path in named if path.startswith("trajectories/")]

    def ids(self) -> list[str]:
        """Of what is committed, by the log alone."""
        logged = (json.loads(self.shelf.read(name))["body"] for name in self.shelf.names("_log/"))
        return [i for body in logged for commit in body.get("commits", []) for i in commit["ids"]]

    def rows(self) -> list[dict[str, Any]]:
        tables = (
            pq.ParquetFile(pa.BufferReader(self.shelf.read(path))).read() for path in self.parts()
        )
        return [row for table in tables for row in table.to_pylist()]

    # ---------------------------------------------------------------- what must hold

    def check(self) -> None:
        """Exactly the planned rows, each of a rollout that was really made, bytes included."""
        assert "Traceback" not in self._output.read_text(errors="replace"), self.told()
        rows = self.rows()
        ids = Counter(row["trajectory_id"] for row in rows)
        assert [i for i, times in ids.items() if times > 1] == [], self.told()
        plan = Counter((row["arm"], row["task_id"], row["sample_index"]) for row in rows)
        assert len(plan) == len(rows) == PLANNED, f"{len(rows)} rows: {self.told()}"
        assert sorted(self.ids()) == sorted(ids), self.told()
        noted = dict(self._ledger_lines())
        seen = [self._check_row(row, noted) for row in rows]
        assert len(set(seen)) == len(seen), f"two rows of one rollout: {self.told()}"
        assert set(self._on_the_shelf()) == set(self.parts()), f"unnamed parts: {self.told()}"

    def _check_row(self, row: dict[str, Any], noted: dict[str, str]) -> str:
        assert (row["outcome"], row["reward"]) == ("ok", 1.0), f"{row['outcome']}: {self.told()}"
        nonce: str = row["messages"][-1]["content"]
        assert noted[nonce] == row["task_id"], self.told()
        (kept,) = (each for each in row["artifacts"] if each["name"] == ARTIFACT)
        data = self.shelf.read(kept["uri"])
        assert data == (nonce * REPEATS).encode(), f"artifact of another attempt: {self.told()}"
        assert hashlib.sha256(data).hexdigest() == kept["sha256"]
        numbers = [(attempt["epoch"], attempt["n"]) for attempt in row["attempts"]]
        assert numbers == sorted(set(numbers)), f"attempts {numbers}: {self.told()}"
        return nonce

    def noted(self) -> int:
        """How many rollouts were begun, those included that came to nothing."""
        return len(self._ledger_lines())

    def _ledger_lines(self) -> list[tuple[str, str]]:
        lines = self.ledger.read_text().splitlines()
        return [(line["nonce"], line["task"]) for line in map(json.loads, lines)]

    def _on_the_shelf(self) -> list[str]:
        """What a bare glob over the folder finds."""
        return [path for path in self.shelf.names("trajectories/") if path.endswith(".parquet")]
