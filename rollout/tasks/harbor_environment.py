"""[environment] of a task.toml: what the sandbox is, may use and may reach."""

import os
import posixpath
import re
from collections.abc import Collection
from dataclasses import dataclass

from rollout.egress import rules
from rollout.tasks.toml_table import Table
from rollout.types import HealthCheck, Resources

NETWORKS = ("none", "as_declared")
BUILD_NETWORKS = ("none", "host")
_MODES = {"public": "public", "no-network": "none", "allowlist": "allowlist"}
"""Harbor's words for ours."""
_TEMPLATE = re.compile(r"\$\{([^}:]+)(?::-(.*))?\}", re.DOTALL)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMG])", re.IGNORECASE)
_MB_IN = {"K": 1 / 1024, "M": 1, "G": 1024}

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """[environment], or [verifier.environment]."""

    build_timeout_s: float = 600.0
    docker_image: str = ""
    resources: Resources = Resources()
    env: Pairs = ()
    workdir: str = ""
    healthcheck: HealthCheck | None = None
    build_network: str = "none"
    secrets: Pairs = ()
    sudo: bool = False


@dataclass(frozen=True, slots=True)
class Network:
    """What is reached, in a blueprint's words."""

    mode: str = "none"
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """What the config lets tasks have."""

    network: str = "none"
    build_network: str = "none"
    secrets: Pairs = ()
    env: Collection[str] = ()
    """Variables of the host that `${VAR}` may name."""
    sudo: bool = False


class EnvironmentReader:
    """Reads environments and what other tables share with them: `env` and the network."""

    def __init__(self, allowed: Allowed) -> None:
        self._allowed = allowed

    def environment(self, table: Table) -> Environment:
        """All of the table but its network."""
        table.refuse("gpus", "no engine of this version has GPUs", harmless=(0,))
        table.refuse("gpu_types", "no engine of this version has GPUs", harmless=([],))
        table.refuse("tpu", "no engine of this version has TPUs")
        table.refuse("mcp_servers", "MCP servers are not supported", harmless=([],))
        table.refuse("skills_dir", "no agent of this version reads skills", harmless=("",))
        table.text("os", "linux")
        if str(table.data.get("os", "linux")).lower() != "linux":
            table.wrong("os", "linux; other systems are not supported")
        return Environment(
            build_timeout_s=table.seconds("build_timeout_sec", 600.0),
            docker_image=table.text("docker_image"),
            resources=Resources(
                cpu=table.number("cpus"),
                memory_mb=self._size_mb(table, "memory_mb", legacy="memory"),
                disk_mb=self._size_mb(table, "storage_mb", legacy="storage"),
            ),
            env=self.env(table),
            workdir=self._workdir(table),
            healthcheck=self._healthcheck(table.table("healthcheck")),
            build_network=self._allowed.build_network,
            secrets=self._allowed.secrets,
            sudo=self._allowed.sudo,
        )

    def _size_mb(self, table: Table, key: str, *, legacy: str) -> int | None:
        size_mb = table.whole(key)
        if not table.has(legacy):
            return size_mb
        found = _SIZE.fullmatch(table.text(legacy).strip())
        old_mb = int(float(found[1]) * _MB_IN[found[2].upper()]) if found else 0
        if old_mb < 1:
            table.wrong(legacy, f'a size of 1 MB or more, such as "512M" or "2G", or {key}')
        elif size_mb not in (None, old_mb):
            table.wrong(legacy, f"the same as {key} ({size_mb}), or leave it out")
        return size_mb or old_mb or None

    def _workdir(self, table: Table) -> str:
        workdir = table.text("workdir")
        if workdir and not workdir.startswith("/"):
            table.wrong("workdir", "an absolute path")
            return ""
        return posixpath.normpath(workdir) if workdir else ""

    def _healthcheck(self, table: Table | None) -> HealthCheck | None:
        if table is None:
            return None
        check = HealthCheck(
            command=table.text("command"),
            interval_s=table.seconds("interval_sec", 5.0, zero=True),
            timeout_s=table.seconds("timeout_sec", 30.0),
            start_period_s=table.seconds("start_period_sec", 0.0, zero=True),
            start_interval_s=table.seconds("start_interval_sec", 5.0, zero=True),
            retries=table.whole("retries", 3) or 3,
        )
        if not check.command:
            table.wrong("command", "a shell command")
        table.done()
        return check

    # ------------------------------------------------------------ variables of the host

    def env(self, table: Table) -> Pairs:
        """The table's `env`, with variables of the host filled in where that is allowed."""
        values = table.table("env")
        if values is None:
            return ()
        for name in values.data:
            if not name or "=" in name or "\0" in name:
                values.problems.add(values.path(name), "no name for a variable")
        return tuple((name, self._resolve(values, name)) for name in values.data)

    def _resolve(self, values: Table, name: str) -> str:
        """As in Harbor only a value that is one template whole is one; all else is literal."""
        value = values.text(name)
        found = _TEMPLATE.fullmatch(value)
        if not found:
            return value
        variable, default = found[1], found[2]
        if not _VARIABLE.fullmatch(variable) or variable not in self._allowed.env:
            values.wrong(name, f"a plain value, or allow it with task.env_allow: [{variable}]")
            return ""
        if variable in os.environ:
            return os.environ[variable]
        if default is None:
            values.wrong(name, f"${{{variable}:-default}}, or set {variable}: it is not set here")
        return default or ""

    # ------------------------------------------------------------ network

    def agent_network(self, environment: Table, agent: Table) -> Network:
        """What [agent] declares, else the environment, else Harbor's default."""
        own, usual = self._network(agent), self._environments_network(environment)
        found = own or usual or Network("public")
        return Network() if self._allowed.network == "none" else found

    def refuse_network(self, verifier: Table, environment: Table | None) -> None:
        """Where a verifier declares one of its own: no scorer has any."""
        self._refuse_network(verifier, self._network(verifier))
        if environment is not None:
            self._refuse_network(environment, self._environments_network(environment))

    def _refuse_network(self, table: Table, declared: Network | None) -> None:
        if declared and declared.mode != "none" and self._allowed.network != "none":
            table.problems.add(
                table.path("network_mode"),
                f"saw {declared.mode!r}; verifiers have no network: "
                'declare "no-network", or set task.network=none to run all without',
            )

    def _environments_network(self, table: Table) -> Network | None:
        internet = table.flag("allow_internet")
        usual = None if internet is None else Network("public" if internet else "none")
        return self._network(table) or usual

    def _network(self, table: Table) -> Network | None:
        """None where the table says nothing."""
        word = table.choice("network_mode", tuple(_MODES), "public")
        hosts = tuple(host.strip() for host in table.texts("allowed_hosts"))
        if not (table.has("network_mode") or table.has("allowed_hosts")):
            return None
        if table.has("allowed_hosts") and word != "allowlist":
            table.wrong("allowed_hosts", 'it with network_mode = "allowlist" only')
            return None
        for line in rules.problems(_MODES[word], hosts):
            key, _, what = line.partition(": ")
            table.problems.add(table.path(key), what)
        return Network(_MODES[word], hosts)
