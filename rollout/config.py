"""Every knob on one page.

Closed sets (engine, pool, executor, store, …) are the dataclasses below; open sets (task source,
agent, scorer) are `_target_` plus that class's own arguments. Hydra composes (`compose.py`),
`checks.py` validates, and from then on only plain dataclasses travel.
"""

from dataclasses import dataclass, field, fields
from typing import Any

from rollout.types import Outcome, Resources

KEEP_LIMIT_MAX_MB = 4_096
"""S3 takes no more than 5 GB at once."""
KEEP_ALL = "all"
AUTO = "auto"
"""Of an engine: chosen where the run is planned."""


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

    kind: str = AUTO
    """`auto | native | docker | memory`. `auto`: native where it can make what the run asks for,
    Docker otherwise."""
    runtime: str | None = None
    """Docker: the runtime of its containers, by the daemon's name for it; null: its default."""
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
    """A worker that was not heard of for so long has lost what it ran."""
    drain_s: float = 20.0
    """What rollouts that run are given when their worker is told to end, by SIGTERM or because its
    Ray node drains; what has not ended by then runs again elsewhere."""
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
    inline_kb: float = 64.0
    """Of longer texts of a message the row has head and tail; all of it is an artifact."""


@dataclass
class ObjectsConf:
    """Where blueprints' files by id are kept, and images' layers for other nodes."""

    uri: str | None = None
    """A folder, or `s3://bucket/prefix`; null: `_objects` below `store.uri`, with its endpoint."""
    endpoint_url: str | None = None
    region: str | None = None
    cache_mb: int = 8_192
    """Of what came from S3, on each node; what was not used for the longest time goes first."""


@dataclass
class BlueprintLimitsConf:
    """Limits of this computer; each goes before that of `size`, a task's own goes before both."""

    cpu: float | None = None
    memory_mb: int | None = None
    disk_mb: int | None = None
    pids: int | None = None


@dataclass
class DockerfileConf:
    """A Dockerfile in place of a base. Paths are relative to where the command is run, or to the
    folder of the YAML file that was named by its path."""

    path: str = ""
    context: str = ""
    """The folder that COPY and ADD take from; empty: the Dockerfile's own."""
    args: dict[str, str] = field(default_factory=dict)
    target: str = ""
    """The stage to stop at; empty: the last."""
    images: dict[str, str] = field(default_factory=dict)
    """Names in its FROM lines, or globs over them, to bases."""


@dataclass
class BlueprintConf:
    """The computer of tasks that bring none of their own. Tasks that do get of it what is done at
    each start (`mounts`, `launch_commands`, `ready`), and how their own is built."""

    base: str = "host"
    """`host | host-frozen | rootfs:/path | rootfs-linked:/path`, told in conf/blueprint."""
    dockerfile: DockerfileConf = field(default_factory=DockerfileConf)
    steps: list[dict[str, Any]] = field(default_factory=list)
    """After the base or the Dockerfile, each one of `run`, `copy`, `env`, `workdir`, `user`."""
    states: list[dict[str, str]] = field(default_factory=list)
    """What `shell --keep` has kept, laid over base and steps: `object`, its id, and `below`, the
    digest of the image it was written on."""
    mounts: list[dict[str, Any]] = field(default_factory=list)
    """Each one of `file`, `folder`, `object`, `code`, `agent`; put at each start, or into the
    image."""
    env: dict[str, str] = field(default_factory=dict)
    workdir: str = ""
    """Made if missing; empty: that of the image, else /app."""
    user: str = ""
    """Who the agent is; empty: the image's, else root."""
    size: str | None = None
    """`x_small | small | medium | large | x_large | xx_large`."""
    resources: BlueprintLimitsConf = field(default_factory=BlueprintLimitsConf)
    network: str = "none"
    """`none | allowlist | public`: what the agent reaches, through a proxy of the worker's."""
    allowed_hosts: list[str] = field(default_factory=list)
    """Of `allowlist`; with `public`, what else: hosts, `*.hosts`, addresses and CIDR ranges, each
    with `:port` or without (443 and 80)."""
    build_network: str = "none"
    """`none | host`: what `run` steps of the build reach."""
    secrets: dict[str, str] = field(default_factory=dict)
    """Of `run` steps: an id to the name of the variable that holds the secret."""
    launch_commands: list[str] = field(default_factory=list)
    """Shell commands of each start, in order; what they leave in the background lives on."""
    ready: str = ""
    """A shell command that must succeed before anybody gets the sandbox."""
    sudo: bool = False
    """Let setuid programs work inside, sudo and su among them."""


SIZES = {
    "x_small": (0.5, 1_024, 4_096),
    "small": (1.0, 2_048, 4_096),
    "medium": (2.0, 4_096, 8_192),
    "large": (2.0, 8_192, 16_384),
    "x_large": (4.0, 16_384, 16_384),
    "xx_large": (8.0, 32_768, 16_384),
}
"""Cores, MB of memory and MB of disk of a `blueprint.size`."""


def limits_of(blueprint: BlueprintConf, rest: ResourcesConf) -> ResourcesConf:
    """The blueprint's own limits, then those of its size, then `rest`."""
    sized = dict(
        zip(("cpu", "memory_mb", "disk_mb"), SIZES.get(blueprint.size or "", ()), strict=False)
    )
    own = {name: value for name, value in vars(blueprint.resources).items() if value is not None}
    return ResourcesConf(**{**vars(rest), **sized, **own})


def resources_of(limits: ResourcesConf) -> Resources:
    """Of one sandbox, as plain data."""
    return Resources(**{item.name: getattr(limits, item.name) for item in fields(Resources)})


@dataclass
class PriceConf:
    """US dollars for a million tokens; null: the cost is not known, and stays null in the rows."""

    prompt: float | None = None
    completion: float | None = None
    cached: float | None = None
    """Of the prompt, what the endpoint had already; null: as `prompt`."""


@dataclass
class ModelConf:
    """Who answers the agent's model calls. Sandboxes reach it through the worker alone."""

    kind: str = "none"
    """`none | openai | anthropic | litellm | scripted`. `openai`: any server of its chat
    completions, such as vLLM, SGLang or llama.cpp. `anthropic`: its messages API. `litellm`: as
    that library does. `scripted`: replies out of a file."""
    name: str = ""
    """By the endpoint's own name; agents may call it what they like."""
    urls: list[str] = field(default_factory=list)
    """Base URLs of one or several replicas, `http://host:8000/v1`; of `anthropic` empty for its
    own."""
    key_env: str | None = None
    """The variable, of each worker's environment, that holds the key. It enters no sandbox."""
    headers: dict[str, str] = field(default_factory=dict)
    """Sent with each call, such as `anthropic-beta`; no key, for they are kept with the dataset."""
    sampling: dict[str, Any] = field(default_factory=dict)
    """`temperature`, `max_tokens` and others, by the endpoint's own names, laid over what the agent
    asks."""
    price: PriceConf = field(default_factory=PriceConf)
    script: str = ""
    """`scripted`: the file of its replies."""
    timeout_s: float = 600.0
    """Of one try."""
    patience_s: float = 1800.0
    """Of one call with all its tries: then the rollout ends as `model_error`."""
    max_concurrent: int | None = None
    """Calls at once, over all workers of the run and all arms with these `urls`; null: any."""
    tokens_per_minute: int | None = None
    """Of prompts and completions, over all of them; null: any."""
    capture: str = "text"
    """`text | logprobs | tokens`: what is kept of each reply. `tokens`, for training: the engine's
    own token ids and log probabilities, as rows of the table `sequences`; needs vLLM's
    `return_token_ids`, and pins top_p, top_k, min_p and penalties to what changes nothing."""
    realign_tokens: int = 0
    """`tokens`: how many sampled tokens at the end of a reply a harness may send back changed
    before a new sequence begins. 0: none, and every sampled token is trained exactly once."""
    policy_version_file: str | None = None
    """A file, on each worker, that holds the number of the weights the endpoint serves; read
    around each call, where the endpoint itself tells none."""


@dataclass
class BudgetConf:
    """What one rollout may use of its model; null: as much as it likes. The end state is scored."""

    turns: int | None = None
    """Model calls."""
    prompt_tokens: int | None = None
    """Summed over all calls, each with its whole prompt."""
    completion_tokens: int | None = None
    cost_usd: float | None = None
    """Needs `model.price`."""
    wall_s: float | None = None
    """From the first call on."""


@dataclass
class RescoreConf:
    """The run whose end states are scored again; `python -m rollout rescore` fills this in."""

    uri: str | None = None
    """Its root; null: agents work."""
    endpoint_url: str | None = None
    region: str | None = None


@dataclass
class VerifierConf:
    mode: str = "as_declared"
    """`as_declared | fresh | fork | shared`."""
    trust: str = "as_declared"
    """`as_declared | workspace | system`: what a scorer in fork mode takes over of the agent's
    files. `workspace`, which tasks declare unless they say otherwise: all but system folders,
    hidden files in homes, and the tools that PATH names. `system`: all of it, for tasks whose
    solution is to install or configure software; what looks like tampering is then only flagged."""


@dataclass
class OnlineConf:
    """Of a run that a trainer drives: how much may be on its way, in groups of `samples`."""

    batch: int | None = None
    """Groups of a training step; null: all that the trainer asks for runs at once."""
    max_staleness: int = 1
    """By how many steps the weights of a group may be behind when it is trained on. 0: sampling
    waits for training and training for sampling."""


@dataclass
class RunConf:
    """One run: a function of this and of what its dataset already holds."""

    name: str = "run"
    """Also the run id: starting the same name again does what is missing."""
    samples: int = 1
    """Rollouts of each (arm, task): the group size."""
    dry_run: bool = False
    """Print the plan and start nothing."""
    detach: bool = False
    """Leave the run to a Ray cluster that outlives this command, and return; see `attach`."""
    keep_on: list[str] = field(default_factory=list)
    """Outcomes, or `all`: of rollouts that end so the agent's files are kept, for `shell`."""
    keep_limit_mb: float = 256.0
    """Of one rollout's files; more than that is not kept, which an event of the row tells."""
    task: dict[str, Any] = field(default_factory=dict)
    agent: dict[str, Any] = field(default_factory=dict)
    scorer: dict[str, Any] = field(default_factory=dict)
    learner: dict[str, Any] = field(default_factory=dict)
    """Trains on the rollouts while they are made; empty: nobody does."""
    sampler: dict[str, Any] = field(default_factory=dict)
    """Of a run that a trainer drives: draws its tasks; empty: the trainer names them."""
    online: OnlineConf = field(default_factory=OnlineConf)
    model: ModelConf = field(default_factory=ModelConf)
    budget: BudgetConf = field(default_factory=BudgetConf)
    blueprint: BlueprintConf = field(default_factory=BlueprintConf)
    sweep: dict[str, Any] = field(default_factory=dict)
    """`key: [values]`; every combination is one arm of this run."""
    verifier: VerifierConf = field(default_factory=VerifierConf)
    rescore: RescoreConf = field(default_factory=RescoreConf)
    resources: ResourcesConf = field(default_factory=ResourcesConf)
    engine: EngineConf = field(default_factory=EngineConf)
    pool: PoolConf = field(default_factory=PoolConf)
    retry: RetryConf = field(default_factory=RetryConf)
    timeouts: TimeoutsConf = field(default_factory=TimeoutsConf)
    executor: ExecutorConf = field(default_factory=ExecutorConf)
    store: StoreConf = field(default_factory=StoreConf)
    objects: ObjectsConf = field(default_factory=ObjectsConf)


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
