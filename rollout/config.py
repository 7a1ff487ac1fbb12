"""Every knob on one page.

Closed sets (engine, pool, executor, store, …) are the dataclasses below; open sets (task source,
agent, scorer) are `_target_` plus that class's own arguments. Hydra composes (`compose.py`),
`problems` validates, and from then on only plain dataclasses travel.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from typing import Any

from rollout.types import Outcome

KEEP_LIMIT_MAX_MB = 4_096
"""S3 takes no more than 5 GB at once."""
KEEP_ALL = "all"


@dataclass
class ResourcesConf:
    """Limits of a sandbox where the task says nothing; `null` leaves one off."""

    cpu: float | None = None
    memory_mb: int | None = None
    disk_mb: int | None = None
    pids: int | None = 1024
    unenforceable: str = "refuse"
    """`refuse | record`: what to do about a limit this machine cannot enforce. Limits that came
    with imported tasks are always recorded."""


@dataclass
class EngineConf:
    """What makes sandboxes."""

    kind: str = "native"
    """`native | memory`."""
    root_dir: str = "/var/lib/rollout"
    """Layers and live sandboxes; on a file system that can carry an overlay's upper folder."""
    uid_base: int = 1_000_000
    """First host uid of the sandbox ranges; 65,536 for each slot."""
    max_slots: int = 8_192
    scratch: str = "auto"
    """`auto | disk | btrfs | tmpfs`: where a sandbox's writes go. `auto`: to a folder on disk, or
    with a disk limit to a subvolume of a btrfs image, where the machine has none to a tmpfs. `disk`
    holds no limits. `btrfs` and `tmpfs` are for every sandbox; a tmpfs takes memory."""
    volume_mb: int | None = None
    """Size of a worker's btrfs image, which is sparse; `null`: 90 % of what is free when it is
    made. A host disk that fills up below it means I/O errors for all sandboxes on it."""
    volume_reserve_mb: int = 1_024
    """No sandbox is made on the image while less than this is free on the host's disk."""
    memory_cgroups: str = "auto"
    """`each | group | auto`: a memory limit by a control group of the sandbox's own, or by one
    that several share; `auto` shares beyond 2,000 live sandboxes of one worker."""
    memory_group_size: int = 8
    """Sandboxes that share one."""
    memory_reserve_mb: int = 512
    """With less than this left, the machine's largest sandbox over its own limit is ended; with
    less than half, the largest one."""


@dataclass
class PoolConf:
    """Warm sandboxes of one node."""

    spares_per_image: int = 2
    """Sandboxes kept ready for each fingerprint that the plan will ask for next."""
    max_spares: int = 16
    """Over all fingerprints."""
    creates_at_once: int = 4
    max_sandboxes: int = 2_000
    """Hard cap of one worker, spares included."""
    overcommit_cpu: float = 16.0
    overcommit_memory: float = 4.0
    overcommit_disk: float = 4.0
    overcommit_pids: float = 8.0
    breaker_failures: int = 5
    """Creates that fail in a row before creating pauses."""
    breaker_pause_s: float = 5.0


@dataclass
class RetryConf:
    """Retries are only for outcomes that were ours to answer for."""

    max_attempts: int = 3
    backoff_s: float = 1.0
    """Doubled with each attempt, with jitter."""
    storm_window: int = 200
    storm_share: float = 0.2
    """Leasing pauses when more than this share of the last `storm_window` attempts failed by us."""


@dataclass
class TimeoutsConf:
    """Seconds for each stage; a task's own limit wins where it has one."""

    create_s: float = 60.0
    setup_s: float = 300.0
    agent_s: float = 600.0
    agent_override_s: float | None = None
    """Replaces every task's own agent limit, before the multiplier."""
    score_s: float = 600.0
    release_s: float = 30.0
    keep_s: float = 120.0
    """For writing down the files of a rollout that `keep_on` asks for."""
    grace_s: float = 5.0
    """How long past its deadline an agent or scorer may take to notice before it is cut off."""
    multiplier: float = 1.0
    """Scales the task's agent, verifier and build limits."""


@dataclass
class ExecutorConf:
    """Where workers run."""

    kind: str = "ray"
    """`ray | local`."""
    address: str | None = None
    """Of a running Ray cluster; null starts one on this machine, or uses RAY_ADDRESS."""
    workers: int | None = None
    """Local: processes; null: one for each `cpus_per_worker` cores."""
    cpus_per_worker: int = 4
    episodes_per_worker: int = 64
    """Rollouts in flight in one worker at most; admission may allow fewer."""
    lease_batch: int = 16
    lease_ttl_s: float = 5.0
    dashboard: bool = True
    dashboard_port: int = 8265


@dataclass
class StoreConf:
    """Where the dataset goes."""

    uri: str = "runs"
    """A folder, or `s3://bucket/prefix`; each run is a folder below it."""
    endpoint_url: str | None = None
    region: str | None = None
    format: str = "parquet"
    """`parquet | arrow`."""
    flush_mb: float = 64.0
    flush_s: float = 5.0
    """A part is written when it holds this much, or its oldest row is this old."""


@dataclass
class BlueprintConf:
    """The computer of tasks that bring none of their own; task options refer to it."""

    base: str = "host"
    """`host | host-frozen | rootfs:/path | rootfs-linked:/path`, told in conf/blueprint."""
    workdir: str = "/app"
    env: dict[str, str] = field(default_factory=dict)
    sudo: bool = False
    """Let setuid programs work inside, sudo and su among them."""


@dataclass
class VerifierConf:
    mode: str = "as_declared"
    """`as_declared | fresh | fork | shared`."""


@dataclass
class RunConf:
    """One run: a function of this and of what its dataset already holds."""

    name: str = "run"
    """Also the run id: starting the same name again does what is missing."""
    samples: int = 1
    """Rollouts of each (arm, task): the group size."""
    dry_run: bool = False
    """Print the plan and start nothing."""
    keep_on: list[str] = field(default_factory=list)
    """Outcomes, or `all`: of rollouts that end so the agent's files are kept, for `shell`."""
    keep_limit_mb: float = 256.0
    """Of one rollout's files; more than that is not kept, which an event of the row tells."""
    task: dict[str, Any] = field(default_factory=dict)
    agent: dict[str, Any] = field(default_factory=dict)
    scorer: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    blueprint: BlueprintConf = field(default_factory=BlueprintConf)
    sweep: dict[str, Any] = field(default_factory=dict)
    """`key: [values]`; every combination is one arm of this run."""
    verifier: VerifierConf = field(default_factory=VerifierConf)
    resources: ResourcesConf = field(default_factory=ResourcesConf)
    engine: EngineConf = field(default_factory=EngineConf)
    pool: PoolConf = field(default_factory=PoolConf)
    retry: RetryConf = field(default_factory=RetryConf)
    timeouts: TimeoutsConf = field(default_factory=TimeoutsConf)
    executor: ExecutorConf = field(default_factory=ExecutorConf)
    store: StoreConf = field(default_factory=StoreConf)


Settings = tuple[tuple[str, Any], ...]
"""What the sweep sets for one arm: dotted keys and values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One point of the sweep: an arm's own config, and the settings that make it."""

    settings: Settings
    conf: RunConf


def arm_name(settings: Settings) -> str:
    """`agent=oracle,agent.temperature=0.7`; `default` without a sweep."""
    return ",".join(f"{key}={value}" for key, value in settings) or "default"


# ---------------------------------------------------------------- what values may be

CHOICES = {
    "engine.kind": ("native", "memory"),
    "engine.scratch": ("auto", "disk", "btrfs", "tmpfs"),
    "engine.memory_cgroups": ("each", "group", "auto"),
    "executor.kind": ("ray", "local"),
    "store.format": ("parquet", "arrow"),
    "resources.unenforceable": ("refuse", "record"),
    "verifier.mode": ("as_declared", "fresh", "fork", "shared"),
}
MAY_BE_ZERO = frozenset(
    {
        "engine.uid_base",
        "engine.volume_reserve_mb",
        "engine.memory_reserve_mb",
        "pool.spares_per_image",
        "pool.max_spares",
        "pool.breaker_pause_s",
        "retry.backoff_s",
        "retry.storm_share",
    }
)
"""Every number is finite and above zero, but these may be zero."""

AT_MOST = {
    "retry.storm_share": 1.0,
    "executor.dashboard_port": 65_535,
    "keep_limit_mb": KEEP_LIMIT_MAX_MB,
}
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def nearest(word: str, known: Iterator[str] | list[str] | tuple[str, ...]) -> str:
    """`; did you mean "x"?` for the known name most like `word`, or nothing."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f'; did you mean "{close[0]}"?' if close else ""


def problems(conf: RunConf) -> list[str]:
    """Everything out of range, one line each: key, what was seen, what is allowed."""
    found = [line for key, value in _walk(conf) for line in _problem(key, value)]
    if not RUN_NAME.fullmatch(conf.name):
        found.append(
            f"name: {conf.name!r} cannot name a run's folder; "
            "use up to 100 letters, digits, '.', '_' and '-'"
        )
    if conf.store.uri in ("", "s3://"):
        found.append("store.uri: must be given, store.uri=s3://bucket/prefix or a folder")
    return found + _keep_problems(conf)


def _keep_problems(conf: RunConf) -> list[str]:
    known = (*(outcome.value for outcome in Outcome), KEEP_ALL)
    found = []
    for word in conf.keep_on:
        if word not in known:
            hint = nearest(word, known) or f"; there are: {', '.join(known)}"
            found.append(f"keep_on: {word!r} is no outcome{hint}")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """What `keep_on` and `keep_limit_mb` come to."""

    outcomes: tuple[Outcome, ...] = ()
    limit_bytes: int = 256 << 20

    @classmethod
    def of(cls, conf: RunConf) -> "Keeping":
        """Of a config without problems."""
        words = Outcome if KEEP_ALL in conf.keep_on else conf.keep_on
        outcomes = tuple(Outcome(word) for word in words)
        return cls(outcomes=outcomes, limit_bytes=int(conf.keep_limit_mb * 2**20))


def _walk(conf: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for item in fields(conf):
        key, value = prefix + item.name, getattr(conf, item.name)
        if is_dataclass(value):
            yield from _walk(value, key + ".")
        else:
            yield key, value


def _problem(key: str, value: Any) -> Iterator[str]:
    allowed = CHOICES.get(key)
    if allowed and value not in allowed:
        yield f"{key}: {value!r} is none of {', '.join(allowed)}{nearest(str(value), allowed)}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    floor = "at least 0" if key in MAY_BE_ZERO else "above 0"
    if not math.isfinite(value) or value < 0 or (value == 0 and key not in MAY_BE_ZERO):
        yield f"{key}: must be {floor}, was {value}"
    elif value > AT_MOST.get(key, math.inf):
        yield f"{key}: must be at most {AT_MOST[key]:g}, was {value}"
