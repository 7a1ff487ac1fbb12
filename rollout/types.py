"""The glossary: every noun of a run as a frozen, picklable value. Stdlib only.

What changes a result is part of a digest; what does not (executor, pool, store, retries) is not.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any


def digest_of(value: Any) -> str:
    """A stable 64-digit hex SHA-256 of plain data and of the dataclasses in this module."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """One spelling for one value: sorted keys, no spaces, bytes by their hash."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return "sha256:" + hashlib.sha256(value).hexdigest()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    raise TypeError(f"{type(value).__name__} has no canonical form")


def _digest_without(value: Any, *left_out: str) -> str:
    names = (f.name for f in dataclasses.fields(value) if f.name not in left_out)
    return digest_of({name: getattr(value, name) for name in names})


# ---------------------------------------------------------------- how things end


class Outcome(StrEnum):
    """How a rollout ended. The first eight are scored on the end state; the rest are ours."""

    OK = "ok"
    """The agent ended in order."""
    MAX_TURNS = "max_turns"
    BUDGET = "budget"
    """Tokens, cost or another budget of the agent was used up."""
    CONTEXT_OVERFLOW = "context_overflow"
    AGENT_TIMEOUT = "agent_timeout"
    AGENT_ERROR = "agent_error"
    OUT_OF_MEMORY = "out_of_memory"
    OUT_OF_DISK = "out_of_disk"

    SETUP_ERROR = "setup_error"
    """No sandbox could be made ready: image, staging or launch commands failed."""
    SANDBOX_LOST = "sandbox_lost"
    MODEL_ERROR = "model_error"
    SCORING_ERROR = "scoring_error"
    JUDGE_ERROR = "judge_error"
    CANCELED = "canceled"

    @property
    def scored(self) -> bool:
        """Whether it carries a reward; if not, the failure was ours, never the agent's."""
        return self not in _OURS


_OURS = frozenset(
    {
        Outcome.SETUP_ERROR,
        Outcome.SANDBOX_LOST,
        Outcome.MODEL_ERROR,
        Outcome.SCORING_ERROR,
        Outcome.JUDGE_ERROR,
        Outcome.CANCELED,
    }
)


class StopReason(StrEnum):
    """How the agent ended, kept even when scoring fails afterwards."""

    COMPLETED = "completed"
    MAX_TURNS = "max_turns"
    BUDGET = "budget"
    CONTEXT_OVERFLOW = "context_overflow"
    TIMEOUT = "timeout"
    ERROR = "error"


class ScoreMode(StrEnum):
    """Where the scorer works."""

    AS_DECLARED = "as_declared"
    """As the task says: Harbor's `shared` is SHARED, `separate` is FRESH; our own say FORK."""
    FRESH = "fresh"
    """A pristine sandbox that receives only the declared outputs."""
    FORK = "fork"
    """A new sandbox on the agent's frozen file system; no process of the agent runs there."""
    SHARED = "shared"
    """The agent's own sandbox, its services still running."""


# ---------------------------------------------------------------- files


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """One name of a tree. `path` is relative, POSIX, without `.` or `..`."""

    path: str
    kind: str
    """`file`, `dir` or `link`."""
    mode: int = 0o644
    data: bytes = b""
    target: str = ""
    """Where a link points, as written."""


@dataclass(frozen=True)
class Tree:
    """A small folder by value: how files travel to workers and out of sandboxes."""

    entries: tuple[TreeEntry, ...] = ()

    @classmethod
    def of(cls, files: Mapping[str, bytes | str], mode: int = 0o644) -> "Tree":
        """A tree of plain files, for tests and generated tasks."""
        return cls(
            tuple(
                TreeEntry(path, "file", mode, data.encode() if isinstance(data, str) else data)
                for path, data in sorted(files.items())
            )
        )

    @property
    def size_bytes(self) -> int:
        return sum(len(entry.data) for entry in self.entries)

    @cached_property
    def digest(self) -> str:
        return digest_of(self.entries)

    def without(self, patterns: Iterable[str]) -> "Tree":
        """Leave out what a glob in `patterns` matches, by path or by last name."""
        globs = tuple(patterns)
        kept = (e for e in self.entries if not any(_matches(e.path, glob) for glob in globs))
        return Tree(tuple(kept))

    def files(self) -> dict[str, bytes]:
        """Path to content of the regular files."""
        return {entry.path: entry.data for entry in self.entries if entry.kind == "file"}


def _matches(path: str, glob: str) -> bool:
    """Whether `glob` names the path, its last part, or a folder above it."""
    parents = [path, *(str(parent) for parent in PurePosixPath(path).parents)][:-1]
    return any(fnmatchcase(p, glob) or fnmatchcase(p.rsplit("/", 1)[-1], glob) for p in parents)


# ---------------------------------------------------------------- the computer


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Limits of one sandbox. `None` means: no limit was asked for."""

    cpu: float | None = None
    """Cores, may be a fraction."""
    memory_mb: int | None = None
    disk_mb: int | None = None
    pids: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildStep:
    """One step of a blueprint, after parsing: variables are resolved, sources are inlined."""

    op: str
    """`put` (tree -> dest), `workdir`, `env`, `user`."""
    dest: str = ""
    """`put`: an absolute folder. `workdir`: the absolute folder, made if missing."""
    tree: Tree | None = None
    owner: str = ""
    """`put`: `user[:group]`; empty means root."""
    key: str = ""
    value: str = ""
    """`env`: key and value. `user`: value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """The recipe of a sandbox. Building it gives an image; running it adds the limits."""

    name: str = "host"
    base: str = "host"
    steps: tuple[BuildStep, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    """Set for every process of the sandbox, after the image's own."""
    workdir: str = ""
    """Empty: the image's."""
    user: str = ""
    """Who the agent runs as; empty: the image's, else root."""
    resources: Resources = Resources()
    network: str = "none"

    @property
    def digest(self) -> str:
        return digest_of(self)

    @property
    def image_digest(self) -> str:
        """Covers only what shapes the image, so blueprints that differ in limits share one."""
        return digest_of((self.base, self.steps))


# ---------------------------------------------------------------- the work


@dataclass(frozen=True, slots=True, kw_only=True)
class Collect:
    """A command run in the agent's sandbox after the agent ended, before outputs are taken."""

    command: str
    timeout_s: float = 60.0
    user: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A declared output: what a fresh scoring sandbox receives."""

    source: str
    """Absolute path of a file or folder in the agent's sandbox."""
    destination: str = ""
    """Absolute path in the scoring sandbox; empty: the same."""
    exclude: tuple[str, ...] = ()
    name: str = ""
    """Relative path it is kept under among the rollout's artifacts; empty: `source` without `/`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verifier:
    """What a task says of its own scoring."""

    timeout_s: float = 600.0
    env: tuple[tuple[str, str], ...] = ()
    user: str = ""
    mode: ScoreMode = ScoreMode.FORK
    """What AS_DECLARED means for this task; never AS_DECLARED itself."""
    blueprint: Blueprint | None = None
    """Of the fresh sandbox; `None`: the task's own."""
    collect: tuple[Collect, ...] = ()
    command: str = ""
    """For the `command` scorer; empty: `tests/test.sh` decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """A command that must succeed before the agent may start."""

    command: str
    interval_s: float = 5.0
    timeout_s: float = 30.0
    start_period_s: float = 0.0
    start_interval_s: float = 5.0
    retries: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One problem: what to do, in which computer, and how the end state is judged."""

    id: str
    instruction: str
    blueprint: Blueprint = Blueprint()
    tests: Tree = Tree()
    """Put at /tests, in the scoring sandbox only, after the agent ended."""
    solution: Tree = Tree()
    """Put at /solution, for the oracle agent only."""
    solution_env: tuple[tuple[str, str], ...] = ()
    verifier: Verifier = Verifier()
    agent_timeout_s: float | None = None
    agent_user: str = ""
    setup_timeout_s: float = 600.0
    healthcheck: HealthCheck | None = None
    outputs: tuple[Output, ...] = ()
    dataset: str = ""
    split: str = ""
    limits_imported: bool = False
    """The limits came with an imported task: what cannot be enforced is recorded, not refused."""
    metadata: str = "{}"
    """JSON; shown and kept, never interpreted, and not part of the digest."""

    @property
    def digest(self) -> str:
        return _digest_without(self, "metadata", "dataset", "split")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Something a user brings by name: built in the worker by `target(**params)`."""

    target: str
    """Dotted path of a class or function."""
    params: str = "{}"
    """Keyword arguments as canonical JSON, so that a plugin is hashable and crosses processes."""
    version: str = ""
    """Of the code behind it, where it tells one: a new version is a changed arm."""

    def kwargs(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self.params)
        return loaded


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One point of the sweep: everything but task and sample that can change a result."""

    name: str
    """Short and unique in the run, such as `agent=oracle`; `default` without a sweep."""
    agent: Plugin
    scorer: Plugin
    model: str = ""
    """Canonical JSON of the model's settings; empty without a model."""
    score_mode: ScoreMode = ScoreMode.AS_DECLARED
    agent_timeout_s: float | None = None
    """Overrides the task's."""
    timeout_multiplier: float = 1.0
    settings: tuple[tuple[str, str], ...] = ()
    """The sweep's own keys and values, for tables."""

    @property
    def digest(self) -> str:
        return _digest_without(self, "name", "settings")


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSpec:
    """One attempt-able unit of the plan; tasks and arms are looked up by the worker."""

    trajectory_id: str
    group_id: str
    arm: str
    task_id: str
    sample: int
    group_size: int


def trajectory_id(run_id: str, arm_digest: str, task_digest: str, sample: int) -> str:
    """32 hex digits that name one planned rollout for ever."""
    return digest_of([run_id, arm_digest, task_digest, sample])[:32]


def group_id(run_id: str, arm_digest: str, task_digest: str) -> str:
    """32 hex digits shared by the samples of one (arm, task)."""
    return digest_of([run_id, arm_digest, task_digest])[:32]


# ---------------------------------------------------------------- what happened


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One named verdict. `value` is finite or `None`, and then `error` says why."""

    name: str
    value: float | None
    weight: float = 1.0
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    id: str
    name: str
    arguments: str
    """JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One chat message in the one shape all dialects are recorded in."""

    role: str
    content: str = ""
    content_parts: str | None = None
    """JSON, where content is more than text."""
    reasoning_content: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentStep:
    """One turn, as spans over the messages."""

    source: str
    """`system`, `user` or `agent`."""
    message_start: int
    message_end: int
    started_at: datetime | None = None
    model_ms: float | None = None
    env_ms: float | None = None
    finish_reason: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Time spent in one stage: `queue claim setup agent freeze score release`."""

    name: str
    start: datetime
    ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something worth telling that is no message: `resource_alert`, `retry`, …"""

    at: datetime
    kind: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One ended try at a spec, whoever made it and however it ended."""

    epoch: int
    n: int
    outcome: Outcome
    worker: str
    started_at: datetime
    finished_at: datetime
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to make one attempt, for as long as the worker's heartbeat lives."""

    spec: RolloutSpec
    epoch: int
    n: int
    """This attempt's number, from 1, over all starts of the run."""
    last: bool
    """No retry follows: its row is committed whatever the outcome."""
    attempts: tuple[Attempt, ...] = ()
    """Ended before, oldest first."""
    record_only: bool = False
    """Nothing is run: workers were lost until no retry was left. The row tells the last attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    name: str
    uri: str
    """Relative to the run's root."""
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """One accepted rollout: a row of the dataset."""

    run_id: str
    spec: RolloutSpec
    epoch: int
    attempt: int
    outcome: Outcome
    stop_reason: StopReason | None = None
    error_type: str = ""
    error_message: str = ""
    reward: float | None = None
    scores: tuple[Score, ...] = ()
    scorer_output: str = ""
    """Head and tail of what the scorer printed; for people."""
    messages: tuple[Message, ...] = ()
    tools: str | None = None
    steps: tuple[AgentStep, ...] = ()
    events: tuple[Event, ...] = ()
    integrity: tuple[str, ...] = ()
    """Signs of tampering, one line each."""
    phases: tuple[Phase, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    """Every ended attempt, this one last."""
    artifacts: tuple[Artifact, ...] = ()
    limits_enforced: tuple[str, ...] = ()
    blueprint: str = ""
    blueprint_digest: str = ""
    task_digest: str = ""
    dataset: str = ""
    split: str = ""
    agent_name: str = ""
    agent_version: str = ""
    model_name: str = ""
    arm_digest: str = ""
    started_at: datetime
    finished_at: datetime
    node: str = ""
    sandbox_id: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def trainable(self) -> bool:
        """Whether a trainer may use the reward: scored, and nothing of ours failed."""
        return self.outcome.scored and self.reward is not None


def count_by(values: Iterable[str]) -> dict[str, int]:
    """How often each value occurs, in order of first sight."""
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return counts
