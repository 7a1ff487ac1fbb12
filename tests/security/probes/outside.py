"""Probes: the host and the neighbours: processes, networks, files, devices, settings."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

from tests.security.probes.files import is_etc
from tests.security.probes.probe import call, probe, refuse

PTRACE_SEIZE = 0x4206

# ---------------------------------------------------------------- namespaces shared with the host


def share_namespace(kind: str) -> Callable[[dict[str, str]], object]:
    def get_out(namespaces: dict[str, str]) -> object:
        own = os.readlink(f"/proc/self/ns/{kind}")
        if own != namespaces[kind]:
            raise refuse(f"{own} of its own")
        return own

    return get_out


for _kind, _wall in {
    "user": "userns",
    "pid": "pid",
    "net": "net",
    "ipc": "ipc",
    "uts": "uts",
    "cgroup": "cgroup",
}.items():
    _declared = "uids" if _kind == "user" else "namespaces"
    probe(_declared, _wall, name=f"share_namespace_{_kind}")(share_namespace(_kind))


@probe("namespaces", "uts")
def name_of_the_host(nodename: str) -> object:
    if os.uname().nodename != nodename:
        raise refuse(os.uname().nodename)
    return nodename


@probe("namespaces", "cgroup")
def path_of_the_cgroup() -> object:
    lines = Path("/proc/self/cgroup").read_text().split()
    paths = {line.split(":", 2)[2] for line in lines} - {"/"}
    if not paths:
        raise refuse("only /")
    return paths


# ---------------------------------------------------------------- processes


@probe("processes", "pid")
def see_processes_of_the_host(host_pid: int) -> object:
    return Path(f"/proc/{host_pid}/comm").read_text()


@probe("processes", "pid")
def see_processes_of_neighbours(neighbour_pid: int) -> object:
    return Path(f"/proc/{neighbour_pid}/comm").read_text()


@probe("processes", "pid userns")
def signal_a_process_of_the_host(host_pid: int) -> object:
    return os.kill(host_pid, signal.SIGCONT)


@probe("processes", "pid userns")
def signal_a_neighbour(neighbour_pid: int) -> object:
    return os.kill(neighbour_pid, 0)


@probe("processes", "pid userns caps")
def trace_a_process_of_the_host(host_pid: int) -> object:
    return call("ptrace", PTRACE_SEIZE, host_pid, None, None)


@probe("processes", "pid userns caps")
def trace_a_neighbour(neighbour_pid: int) -> object:
    return call("ptrace", PTRACE_SEIZE, neighbour_pid, None, None)


@probe("processes", "pid userns caps")
def files_of_the_host_by_proc(host_pid: int, etc: list[int]) -> object:
    return is_etc(f"/proc/{host_pid}/root/etc", etc)


@probe("processes", "pid userns caps")
def environment_of_the_host(host_pid: int) -> object:
    return len(Path(f"/proc/{host_pid}/environ").read_bytes())


# ---------------------------------------------------------------- inter-process communication


@probe("namespaces", "ipc")
def message_queue_of_the_host(queue_key: int) -> object:
    return call("msgget", queue_key, 0)


@probe("namespaces", "ipc")
def named_queue_of_the_host(queue_name: str) -> object:
    return call("mq_open", queue_name.encode() + b"\0", os.O_RDONLY, 0, None)
