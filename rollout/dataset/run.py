"""What a run is, and each start of it: `run.json`, `starts/<n>.json` and `ends/<when>.json`.

`run.json` is written once, by the first start; later starts leave their own config beside it. A
start that nobody watches also says how it ended.
"""

import getpass
import json
import os
import platform
import socket
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from secrets import token_hex
from typing import Any

from rollout.dataset.schema import SCHEMA_VERSION
from rollout.dataset.state import LOG_VERSION
from rollout.dataset.store_base import Store
from rollout.errors import StoreError

LAYOUT_VERSION = 1

_GIT_TIMEOUT_S = 5.0


def begin(store: Store, config: dict[str, Any], digests: dict[str, Any]) -> int:
    """Record this start and give its number, from 1; the first one also writes `run.json`.

    `config` is resolved, plain and free of secrets; it is readable by whoever reads the dataset.
    """
    run = {
        "layout_version": LAYOUT_VERSION,
        "log_version": LOG_VERSION,
        "schema_version": SCHEMA_VERSION,
        "created_at": datetime.now(UTC).isoformat(),
        "config": config,
        "digests": digests,
    }
    if not store.put_if_absent("run.json", _json(run)):
        read_run(store)
    return _record_start(store, config, digests)


def read_run(store: Store) -> dict[str, Any]:
    """`run.json`; StoreError when there is none, or a newer rollout wrote it."""
    try:
        run: dict[str, Any] = json.loads(store.get("run.json"))
        newer = run["layout_version"] > LAYOUT_VERSION or run["schema_version"] > SCHEMA_VERSION
    except FileNotFoundError as exc:
        raise StoreError(f"there is no run at {store.uri}: it has no run.json") from exc
    except (ValueError, TypeError, KeyError) as exc:
        raise StoreError(f"{store.uri}/run.json is damaged: {type(exc).__name__}: {exc}") from exc
    if newer:
        raise StoreError(
            f"{store.uri}/run.json is of layout {run['layout_version']} and schema "
            f"{run['schema_version']}; this program knows {LAYOUT_VERSION} and {SCHEMA_VERSION}: "
            "use the newer rollout that wrote it"
        )
    return run


def _record_start(store: Store, config: dict[str, Any], digests: dict[str, Any]) -> int:
    start = _json({**_here(), "config": config, "digests": digests})
    number = len(store.list("starts/")) + 1
    while not store.put_if_absent(f"starts/{number}.json", start):
        # A put whose reply was lost finds itself; two starts never have the same content (`pid`).
        if store.get(f"starts/{number}.json") == start:
            break
        number += 1
    return number


def record_end(store: Store, *, error: str, notes: Sequence[str]) -> None:
    """For whoever asks after a run whose command is gone: why it is no longer at work.

    error: what ended it; empty where it ended in order.
    """
    at = datetime.now(UTC)
    end = {"at": at.isoformat(), "host": socket.gethostname(), "error": error, "notes": [*notes]}
    name = f"ends/{at.strftime('%Y%m%dT%H%M%S.%fZ')}-{token_hex(4)}.json"
    store.put_if_absent(name, _json(end))


def _here() -> dict[str, Any]:
    return {
        "at": datetime.now(UTC).isoformat(),
        "package_version": _package_version(),
        "git_commit": _git_commit(),
        "host": socket.gethostname(),
        "user": _user(),
        "pid": os.getpid(),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def _package_version() -> str | None:
    try:
        return version("rollout")
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the checkout this code runs from; None when it is installed."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()
