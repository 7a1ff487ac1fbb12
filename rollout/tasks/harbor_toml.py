"""task.toml of Harbor's task format, schema 1.x: every key is honoured or refused by name."""

import posixpath
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rollout.tasks.harbor_environment import (
    Allowed,
    Environment,
    EnvironmentReader,
    Network,
    Pairs,
)
from rollout.tasks.problems import Problems
from rollout.tasks.toml_table import Table
from rollout.types import Collect, Output


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What one task.toml says, in this package's own terms."""

    environment: Environment = Environment()
    network: Network = Network()
    """Of the agent."""
    agent_timeout_s: float | None = None
    agent_user: str = ""
    verifier_timeout_s: float = 600.0
    verifier_env: Pairs = ()
    verifier_user: str = ""
    verifier_mode: str = ""
    """`shared`, `separate`, or empty when the file does not say."""
    verifier_environment: Environment | None = None
    collect: tuple[Collect, ...] = ()
    solution_env: Pairs = ()
    outputs: tuple[Output, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


def read_task_toml(file: Path, allowed: Allowed, problems: Problems) -> Declared:
    """Parse and check the file; `problems` hears of everything that cannot be honoured."""
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        problems.add("task.toml", f"is no TOML: {exc}")
        return Declared()
    except OSError as exc:
        problems.add("task.toml", f"cannot be read: {exc}")
        return Declared()
    return _Reader(Table(data, "", problems), allowed).read()


class _Reader:
    def __init__(self, root: Table, allowed: Allowed) -> None:
        self._root = root
        self._environments = EnvironmentReader(allowed)

    def read(self) -> Declared:
        root = self._root
        self._check_version()
        root.refuse("steps", "tasks of several steps are not supported", harmless=([],))
        root.choice("multi_step_reward_strategy", ("mean", "final"), "mean")
        agent, verifier, environment, solution = (
            self._section(name) for name in ("agent", "verifier", "environment", "solution")
        )
        read = self._environments
        declared = Declared(
            environment=read.environment(environment),
            network=read.agent_network(environment, agent),
            agent_timeout_s=agent.number("timeout_sec"),
            agent_user=agent.user("user"),
            verifier_timeout_s=verifier.seconds("timeout_sec", 600.0),
            verifier_env=read.env(verifier),
            verifier_user=verifier.user("user"),
            verifier_mode=self._verifier_mode(verifier),
            verifier_environment=self._verifier_environment(verifier),
            collect=tuple(self._collect(table) for table in verifier.tables("collect")),
            solution_env=read.env(solution),
            outputs=self._outputs(),
            metadata=self._metadata(),
        )
        for table in (agent, verifier, environment, solution, root):
            table.done()
        return declared

    def _section(self, name: str) -> Table:
        return self._root.table(name) or Table({}, f"[{name}]", self._root.problems)

    def _check_version(self) -> None:
        root = self._root
        key = "schema_version" if root.has("schema_version") else "version"
        version = root.text(key, "1.4") if root.has(key) else "1.4"
        if not re.fullmatch(r"1\.\d+", version):
            root.wrong(key, 'a schema version "1.x"')
        if root.has("version") and root.data["version"] != root.data.get(key):
            root.wrong("version", f"the same as {key}, or leave it out")

    # ------------------------------------------------------------ verifier

    def _verifier_mode(self, table: Table) -> str:
        mode = table.choice("environment_mode", ("shared", "separate"), "")
        if not mode and table.has("environment"):
            return "separate"
        if mode == "shared" and table.has("environment"):
            table.wrong("environment_mode", '"separate", or leave out [verifier.environment]')
        return mode

    def _verifier_environment(self, verifier: Table) -> Environment | None:
        table = verifier.table("environment")
        self._environments.refuse_network(verifier, table)
        if table is None:
            return None
        table.refuse("healthcheck", "only [environment].healthcheck is supported")
        environment = self._environments.environment(table)
        table.done()
        return environment

    def _collect(self, table: Table) -> Collect:
        command = table.text("command")
        if not command:
            table.wrong("command", "a shell command")
        if table.text("service", "main") != "main":
            table.wrong("service", "main; other services are not supported")
        timeout_s, user = table.seconds("timeout_sec", 60.0), table.user("user")
        table.done()
        return Collect(command=command, timeout_s=timeout_s, user=user)

    # ------------------------------------------------------------ artifacts, metadata

    def _outputs(self) -> tuple[Output, ...]:
        root = self._root
        listed = root.data.get("artifacts", [])
        if not root.has("artifacts") or not isinstance(listed, list):
            if root.has("artifacts"):
                root.wrong("artifacts", "a list of paths or tables")
            return ()
        tables = (
            Table(
                entry if isinstance(entry, dict) else {"source": entry},
                f"[[artifacts]] {number}",
                root.problems,
            )
            for number, entry in enumerate(listed, start=1)
        )
        return tuple(self._output(table) for table in tables)

    def _output(self, table: Table) -> Output:
        source = table.text("source")
        if not source.startswith("/") or ".." in source.split("/"):
            table.wrong("source", "an absolute path without ..")
        if table.text("service", "main") != "main":
            table.wrong("service", "main; other services are not supported")
        name = table.text("destination").rstrip("/")
        if name.startswith("/") or ".." in name.split("/") or name == "manifest.json":
            table.wrong("destination", "a relative path without .., or leave it out")
        output = Output(
            source=posixpath.normpath(source) if source else "/",
            name=name,
            exclude=table.texts("exclude"),
        )
        table.done()
        return output

    def _metadata(self) -> dict[str, Any]:
        """[metadata] as it is, and what [task] and `source` say, under `harbor`."""
        table = self._root.table("metadata")
        package = self._package(self._root.table("task"))
        if source := self._root.text("source"):
            package["source"] = source
        return {**(table.data if table else {}), **({"harbor": package} if package else {})}

    def _package(self, table: Table | None) -> dict[str, Any]:
        if table is None:
            return {}
        if not table.text("name"):
            table.wrong("name", "the task's name, org/name")
        for key in ("version", "description"):
            table.text(key)
        table.texts("keywords")
        for author in table.tables("authors"):
            author.text("name")
            author.text("email")
            author.done()
        table.done()
        return dict(table.data)
