"""A Docker daemon of a test's own, to be ended and started again while others use the machine's."""

import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rollout.sandbox.docker.container import OWNER
from rollout.sandbox.docker.daemon import find_daemon

BUSYBOX = "rollout-test-busybox"
PATIENCE_S = 60.0


class PrivateDaemon:
    """A dockerd with a socket, images and containers of its own, and no network."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"unix://{folder}/docker.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = ["dockerd", "--host", self.url, "--bridge=none", "--iptables=false"]
        command += ["--ip6tables=false", "--pidfile", f"{self.folder}/pid"]
        command += ["--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        give_up_s = time.monotonic() + PATIENCE_S
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < give_up_s, "dockerd does not answer"
            time.sleep(0.1)

    def _answers(self) -> bool:
        return self._docker("version").returncode == 0

    def stop(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(PATIENCE_S)

    def restart(self) -> None:
        self.stop()
        self.start()

    def kill_one(self, rng: random.Random) -> str:
        """A container that runs; which one, or "" where there is none."""
        running = sorted(self._docker("ps", "-q").stdout.split())
        if not running:
            return ""
        victim = rng.choice(running).decode()
        self._docker("kill", victim)
        return victim

    def left(self) -> list[str]:
        """What an engine has made here: containers, and images that are some owner's."""
        look = find_daemon()
        try:
            containers = [f"container {each['Id']}" for each in look.containers(OWNER)]
            owned = [each for each in look.images(OWNER) if each["Labels"][OWNER]]
            return containers + [f"image {each['Id']}" for each in owned]
        finally:
            look.close()

    def _docker(self, *words: str) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(["docker", "--host", self.url, *words], capture_output=True)


@contextmanager
def private_daemon() -> Iterator[PrivateDaemon]:
    """The Docker of this process and of those it starts, while the block runs; it has busybox."""
    if shutil.which("dockerd") is None or os.geteuid() != 0:
        pytest.skip("starts a dockerd of its own, as root")
    # Short: a socket of its containerd is far below it, and a socket's path has 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="dockerd-", dir="/tmp"))
    made = PrivateDaemon(folder)
    made.start()
    try:
        usual = find_daemon()
        usual.save(BUSYBOX, folder / "image.tar")
        usual.close()
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("DOCKER_HOST", made.url)
            own = find_daemon()
            with (folder / "image.tar").open("rb") as image:
                own.load(image)
            own.close()
            yield made
    finally:
        made.stop()
        shutil.rmtree(folder)
