"""One problem, and the computer it is worked on."""

from dataclasses import dataclass

from rollout.types.digests import digest_of, digest_without
from rollout.types.endings import ScoreMode
from rollout.types.files import Tree


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
    sudo: bool = False
    """Setuid programs work, sudo among them: `no_new_privs` is lifted, and no other wall."""

    @property
    def digest(self) -> str:
        return digest_of(self)

    @property
    def image_digest(self) -> str:
        """Covers only what shapes the image, so blueprints that differ in limits share one."""
        return digest_of((self.base, self.steps))


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
        return digest_without(self, "metadata", "dataset", "split")
