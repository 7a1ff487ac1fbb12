"""What a container is asked to be: the config that the daemon gets for a sandbox."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollout.sandbox.base import SandboxSpec
from rollout.sandbox.docker.handover import HOSTNAME, INSIDE, PROGRAM, SOCKET
from rollout.sandbox.skeleton import HOSTNAME as NAME_INSIDE
from rollout.types import Resources

CAPABILITIES = (
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETUID",
    "SYS_CHROOT",
)
"""The same that the native engine leaves (init/confine.c)."""
TO_CONFINE = ("SETPCAP", "SYS_ADMIN")
"""Only for `sudo`: without no_new_privs a filter needs them, and `serve` drops both before it
becomes the init."""
MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/kpagecgroup",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/latency_stats",
    "/proc/pagetypeinfo",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/slabinfo",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/vmallocinfo",
    "/sys",
)
"""Docker's own, what only root may read, and all of /sys: root in a container is root to the
kernel's files."""
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
RUN = "rollout.run"
OWNER = "rollout.owner"
ABSENT = "rollout.absent"
PUT_BY_DOCKER = ("hosts", "resolv.conf", "mtab")
"""Made in /etc of every container where the image has none."""
START_PIDS = 64
"""What starts a container is itself a process of many threads inside its limit."""
SHM_MB = 64
SHM_SHARE = 0.5
"""Of a memory limit, which what lies in /dev/shm counts against."""
MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One container to be made."""

    name: str
    image_id: str
    spec: SandboxSpec
    mounted: Path
    labels: Mapping[str, str]
    runtime: str
    """Empty: the daemon's default."""
    limits_disk: bool
    absent: Sequence[str]
    """Files that Docker puts into every container and that this image lacks."""


def config(wanted: Wanted) -> dict[str, Any]:
    """The body of the daemon's `POST /containers/create`."""
    spec = wanted.spec
    absent = [word for path in wanted.absent for word in ("absent", path)]
    command = ["serve", f"{INSIDE}/{SOCKET}", *(["sudo"] if spec.sudo else []), *absent]
    return {
        "Image": wanted.image_id,
        "Hostname": NAME_INSIDE,
        "Entrypoint": [f"{INSIDE}/{PROGRAM}"],
        "Cmd": command,
        "Env": [],
        "User": "0:0",
        "WorkingDir": spec.image.workdir or "/",  # made by the daemon where it is missing
        "Labels": dict(wanted.labels),
        "NetworkDisabled": spec.network != "host",
        "Healthcheck": {"Test": ["NONE"]},
        "StopSignal": "SIGKILL",  # the init hears no other, and a daemon that ends would wait
        "AttachStdout": False,
        "AttachStderr": False,
        "HostConfig": _host_config(wanted),
    }


def _host_config(wanted: Wanted) -> dict[str, Any]:
    spec = wanted.spec
    security = ["seccomp=unconfined"]  # ours is laid on by `serve`, whatever the daemon's version
    if not spec.sudo:
        security.append("no-new-privileges")
    # Docker's own /etc/hostname is a file of the host's that the container may write to.
    mounted = {INSIDE: wanted.mounted, "/etc/hostname": wanted.mounted / HOSTNAME}
    mounts = [
        {"Type": "bind", "Source": str(source), "Target": target, "ReadOnly": True}
        for target, source in mounted.items()
    ]
    asked: dict[str, Any] = {
        "NetworkMode": "host" if spec.network == "host" else "none",
        "LogConfig": {"Type": "none"},
        "IpcMode": "private",
        "CgroupnsMode": "private",
        "CapDrop": ["ALL"],
        "CapAdd": [*CAPABILITIES, *(TO_CONFINE if spec.sudo else ())],
        "SecurityOpt": security,
        "MaskedPaths": list(MASKED),
        "ReadonlyPaths": list(READ_ONLY),
        "Mounts": mounts,
        "Runtime": wanted.runtime,
        "RestartPolicy": {"Name": "no"},
        "ShmSize": shm_bytes(spec.resources),
        **limits(spec.resources),
    }
    if wanted.limits_disk and spec.resources.disk_mb is not None:
        asked["StorageOpt"] = {"size": f"{spec.resources.disk_mb}m"}
    return asked


def limits(resources: Resources) -> dict[str, Any]:
    """The limits as Docker spells them. Processes at first no fewer than a start needs."""
    asked: dict[str, Any] = {}
    if resources.cpu is not None:
        asked |= {"CpuPeriod": 100_000, "CpuQuota": max(1_000, round(resources.cpu * 100_000))}
    if resources.memory_mb is not None:
        amount = resources.memory_mb * MIB
        asked |= {"Memory": amount, "MemorySwap": amount}
    if resources.pids is not None:
        # The init is one of them and no part of what was asked for.
        asked["PidsLimit"] = max(START_PIDS, resources.pids + 1)
    return asked


def shm_bytes(resources: Resources) -> int:
    """Docker's usual size, or a share of the memory limit where that is more."""
    return max(SHM_MB * MIB, int((resources.memory_mb or 0) * MIB * SHM_SHARE))


def labels_of(run: str, owner: str) -> dict[str, str]:
    return {RUN: run, OWNER: owner}


def absent_of(image: Mapping[str, Any]) -> tuple[str, ...]:
    """The files that an image of ours is known to lack."""
    text = ((image.get("Config") or {}).get("Labels") or {}).get(ABSENT, "[]")
    return tuple(json.loads(text))
