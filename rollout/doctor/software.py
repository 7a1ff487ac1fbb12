"""What is installed or answers beside the kernel: compiler, Ray, the dataset's store."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec

from rollout.dataset.store import open_store
from rollout.doctor.base import Finding, Wishes, fail, ok, warn
from rollout.errors import StoreError
from rollout.sandbox.init.build import BINARY

RAY_TIMEOUT_S = 60.0
SAFE_THRESHOLD = 0.98

_COMPILERS = ("musl-gcc", "gcc", "cc")
_MONITOR = "RAY_memory_monitor_refresh_ms"
_THRESHOLD = "RAY_memory_usage_threshold"


def check(wishes: Wishes) -> Iterator[Finding]:
    yield _init_binary()
    yield from _ray(wishes)
    if wishes.store:
        yield _store(wishes)


def _init_binary() -> Finding:
    name = "init binary"
    if BINARY.is_file() and os.access(BINARY, os.X_OK):
        return ok(name, f"{BINARY.name} is built")
    for compiler in _COMPILERS:
        if shutil.which(compiler):
            return ok(name, f"not built yet; {compiler} will build it at the first start")
    if find_spec("ziglang"):
        return ok(name, "not built yet; ziglang will build it at the first start")
    change = "`apt-get install gcc libc6-dev`, or `pip install ziglang`"
    return fail(name, "not built, and no C compiler is there", change)


def _ray(wishes: Wishes) -> Iterator[Finding]:
    try:
        version = importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        yield warn("Ray", "not installed", "`pip install 'ray[default]'`, or use executor=local")
        return
    address = wishes.ray_address or os.environ.get("RAY_ADDRESS")
    if address and address != "local":
        yield ok("Ray", f"{version}; runs would join the cluster at {address}")
        yield from _cluster(address)
    else:
        yield ok("Ray", f"{version}; each run starts its own here, with its memory monitor off")


def _cluster(address: str) -> Iterator[Finding]:
    name, command = "Ray cluster", [sys.executable, "-m", "rollout.executor.ray_probe", address]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=RAY_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        change = "check the address, and RAY_AUTH_TOKEN if the cluster asks for one"
        yield fail(name, f"{address}: {exc}", change)
        return
    if done.returncode != 0:
        yield fail(name, f"{address}: {_last_line(done.stderr)}", "as the message says")
        return
    answer = json.loads(done.stdout.splitlines()[-1])
    yield ok(name, f"{address}: {answer['hosts']} nodes may hold sandboxes (sandbox_host)")
    yield _memory_killer(answer["memory"])


def _memory_killer(settings: Mapping[str, str | None]) -> Finding:
    """Ray's monitor counts the memory of sandboxes as that of the worker that made them."""
    name = "Ray's memory monitor"
    seen = ", ".join(f"{key} {value or 'unset'}" for key, value in settings.items())
    if settings[_MONITOR] == "0" or float(settings[_THRESHOLD] or 0) >= SAFE_THRESHOLD:
        return ok(name, seen)
    change = f"start nodes with {_MONITOR}=0, lest it ends a worker for what its sandboxes use"
    return warn(name, seen, change)


def _store(wishes: Wishes) -> Finding:
    try:
        store = open_store(wishes.store, endpoint_url=wishes.endpoint_url, region=wishes.region)
        try:
            store.probe()
        finally:
            store.close()
    except StoreError as exc:
        return fail("store", f"{wishes.store}: {exc}", "as the message says")
    return ok("store", f"{store.uri}: written, refused a second time, read, listed, removed")


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:500] if lines else "it ended without a word"
