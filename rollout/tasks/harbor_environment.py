"""[environment] of a task.toml: what the sandbox is, may use and may reach."""

import os
import posixpath
import re
from collections.abc import Collection
from dataclasses import dataclass

from rollout.tasks.toml_table import Table
from rollout.types import HealthCheck, Resources

NETWORKS = ("none", "as_declared")
BUILD_NETWORKS = ("none", "host")
_MODES = ("public", "no-network", "allowlist")
_HOST = re.compile(r"(\*\.)?[A-Za-z0-9:]([A-Za-z0-9.:-]*[A-Za-z0-9:.])?(/\d+)?")
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

    def baseline_network(self, table: Table) -> str:
        """The network an environment declares, or Harbor's default; told of if undeliverable."""
        mode = self._network_mode(table, "public")
        internet = table.flag("allow_internet")
        said = table.has("network_mode") or table.has("allowed_hosts")
        if internet is not None and not said:
            mode = "public" if internet else "no-network"
        if said or internet is not None:
            key = "network_mode" if said else "allow_internet"
            self._check_delivered(table, key, mode)
        else:
            self._check_delivered(table, "network_mode", mode, note="not set, which means public")
        return mode

    def phase_network(self, table: Table, baseline: str) -> None:
        """Check what [agent] or [verifier] declares for itself, where it differs."""
        mode = self._network_mode(table, "")
        if mode and mode != baseline:
            self._check_delivered(table, "network_mode", mode)

    def _network_mode(self, table: Table, default: str) -> str:
        mode = table.choice("network_mode", _MODES, default)
        hosts = table.texts("allowed_hosts")
        if table.has("allowed_hosts") and mode != "allowlist":
            table.wrong("allowed_hosts", 'it with network_mode = "allowlist" only')
        if any(not _HOST.fullmatch(host.strip()) for host in hosts):
            table.wrong("allowed_hosts", "host names, *.names, addresses or CIDR ranges")
        return mode

    def _check_delivered(self, table: Table, key: str, mode: str, note: str = "") -> None:
        if self._allowed.network == "none" or mode == "no-network":
            return
        seen = note or f"saw {table.data.get(key)!r}"
        table.problems.add(
            table.path(key),
            f"{seen}; this version delivers no network: "
            'declare "no-network", or set task.network=none to run without',
        )
