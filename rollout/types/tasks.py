"""One problem, and the computer it is worked on."""

from dataclasses import dataclass

from rollout.types.digests import digest_of, digest_without
from rollout.types.endings import ScoreMode
from rollout.types.files import Tree
from rollout.types.workspace import Trust

NETWORKS = ("none", "allowlist", "public")
"""What an agent may reach: nothing, what is named, or all of the public internet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Limits of one sandbox. `None` means: no limit was asked for."""

    cpu: float | None = None
    """Cores, may be a fraction."""
    memory_mb: int | None = None
    disk_mb: int | None = None
    pids: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """What one `run` step may read while it runs, and what no layer may hold afterwards."""

    id: str
    target: str = ""
    """Absolute path of the file it is read from; empty: `/run/secrets/<id>`."""
    env: str = ""
    """Name of the variable it is given as instead of a file; empty: a file."""
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildStep:
    """One step of a blueprint, after parsing: variables are resolved, sources are inlined."""

    op: str
    """`put` (tree -> dest), `object` (stored tar or blob -> dest), `state` (what a sandbox wrote,
    over all below it), `run`, `workdir`, `env`, `user`; of `Blueprint.launch` also `made` (what
    `steps` leave at dest)."""
    dest: str = ""
    """`put`: an absolute folder. `object`: a folder for a tar, a file for a blob. `made`: a folder
    that `steps` fill. `workdir`: the absolute folder, made if missing."""
    tree: Tree | None = None
    owner: str = ""
    """`put`, `object`: `user[:group]`; empty means root."""
    key: str = ""
    value: str = ""
    """`env`: key and value. `user`: value. `object`, and `run` of a mount: value says of what
    it is a part, for people."""
    argv: tuple[str, ...] = ()
    """`run`: the command, with the env, workdir and user of the steps before it."""
    user: str = ""
    """`run`: who runs this command alone; empty: as the steps before it have said."""
    env: tuple[tuple[str, str], ...] = ()
    """`run`: set for this command alone, as build arguments are."""
    secrets: tuple[Secret, ...] = ()
    """`run`: what it may read of `blueprint.secrets`."""
    object_id: str = ""
    """`object`, `state`: `sha256:` and 64 hex digits."""
    steps: tuple["BuildStep", ...] = ()
    """`made`: done once for an image, where builds may use the network; at each launch, where there
    is none, `dest` is put as they left it (sandbox/made.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dockerfile:
    """A Dockerfile that only a Docker daemon can build, with all that it is built of."""

    text: str
    """As written, its FROM lines already led through the map of bases."""
    context: Tree = Tree()
    args: tuple[tuple[str, str], ...] = ()
    target: str = ""
    needs: str = ""
    """Where and what in it steps cannot say, for engines that have no daemon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """The recipe of a sandbox. Building it gives an image; running it adds the limits."""

    name: str = "host"
    base: str = "host"
    dockerfile: Dockerfile | None = None
    """In place of `base`, where steps cannot say it: for engines with the feature `dockerfile`."""
    steps: tuple[BuildStep, ...] = ()
    build_network: str = "none"
    """`none | host`: what `run` steps reach; never what the agent reaches."""
    secrets: tuple[tuple[str, str], ...] = ()
    """Of `run` steps: id to the name of the worker's environment variable that holds it. Neither
    the values nor these names are part of an image."""
    env: tuple[tuple[str, str], ...] = ()
    """Set for every process of the sandbox, after the image's own."""
    workdir: str = ""
    """Empty: the image's."""
    user: str = ""
    """Who the agent runs as; empty: the image's, else root."""
    resources: Resources = Resources()
    network: str = "none"
    """`none | allowlist | public`: what the agent reaches, through a proxy of the worker's; its
    sandbox has no other way out."""
    allowed_hosts: tuple[str, ...] = ()
    """Of `allowlist`, and what else of `public`: hosts, `*.hosts`, addresses and CIDR ranges, each
    with `:port` or without."""
    sudo: bool = False
    """Setuid programs work, sudo among them: `no_new_privs` is lifted, and no other wall."""
    launch: tuple[BuildStep, ...] = ()
    """Done in each new sandbox before it is handed out, in order: mounts that are not baked in, and
    launch commands. `run` steps here reach no network."""
    ready: str = ""
    """A shell command that must succeed before it is handed out; tried again until then."""
    agents: tuple[tuple[str, str, str], ...] = ()
    """Of the agents mounted: name, exact version and where from, for every row."""

    @property
    def digest(self) -> str:
        return digest_of(self)

    @property
    def image_digest(self) -> str:
        """Covers only what shapes the image, so blueprints that differ in limits share one."""
        parts = (self.base, self.dockerfile, self.steps)
        runs = self.dockerfile is not None or any(step.op == "run" for step in self.steps)
        return digest_of((*parts, self.build_network) if runs else parts)


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
    trust: Trust = Trust.WORKSPACE
    """What a scorer in FORK mode takes over of the agent's files; never AS_DECLARED itself."""
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
        return digest_without(self, "metadata", "dataset", "split")
