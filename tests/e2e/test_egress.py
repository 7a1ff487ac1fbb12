"""Runs with a network, as people start them: this machine's own address, named in the config."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import AF_INET
from subprocess import CompletedProcess
from typing import Any

import psutil
import pyarrow.dataset as pads
import pytest

from tests.forked import Forked

pytestmark = pytest.mark.native

ASK = """python3 -c "import urllib.request as u; print(u.urlopen('{uri}').read().decode())" """
TASK = {
    "id": "fetch",
    "instruction": "Put what the server says into out.txt.",
    "command": "grep -qx hello out.txt && ! env | grep -i proxy",
}


class Says(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *words: object) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    """Host and port of a server that is not on the loopback."""
    found = [
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family == AF_INET and not address.address.startswith(("127.", "169.254."))
    ]
    if not found:
        pytest.skip("this machine has no address but its loopback's")
    made = ThreadingHTTPServer((found[0], 0), Says)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"{found[0]}:{made.server_port}"
    made.shutdown()
    made.server_close()


Start = Callable[..., CompletedProcess[str]]


@pytest.fixture
def start(forked: Forked) -> Start:
    def start(folder: Path, *words: str) -> CompletedProcess[str]:
        (folder / "tasks.jsonl").write_text(json.dumps(TASK))
        line = ["+experiment=jsonl", "~sweep.agent", "task.path=tasks.jsonl", "agent=script"]
        line += ["executor=local", "name=egress", f"engine.root_dir={folder}/root", *words]
        return forked.said(line, cwd=folder)

    return start


def quoted(text: str) -> str:
    """As a word of Hydra's command line."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


@pytest.mark.parametrize("mode", ["fork", "shared"])
def test_the_agent_is_let_out_and_the_scorer_is_not(
    tmp_path: Path, start: Start, server: str, mode: str
) -> None:
    script = (
        f"{ASK.format(uri=f'http://{server}/')} > out.txt; "
        f"{ASK.format(uri='http://example.org/')} 2> /dev/null; env > env.txt; exit 0"
    )
    done = start(
        tmp_path, f"agent.script={quoted(script)}", "blueprint.network=allowlist",
        f"blueprint.allowed_hosts=['{server}']", f"verifier.mode={mode}",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = rows(tmp_path)
    assert (row["outcome"], row["reward"]) == ("ok", 1.0)
    told = [event for event in row["events"] if event["kind"].startswith("egress")]
    assert [event["kind"] for event in told] == ["egress_allowed", "egress_refused"]
    assert told[0]["detail"].startswith(f"GET {server} at {server.split(':')[0]}, ")
    assert told[1]["detail"] == "GET example.org:80: no rule allows it"


def rows(folder: Path) -> list[dict[str, Any]]:
    table = pads.dataset(folder / "runs/egress/trajectories").to_table()
    found: list[dict[str, Any]] = table.to_pylist()
    return found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["blueprint.network=allowlist"], "blueprint.allowed_hosts: must be given with network="),
        (["blueprint.allowed_hosts=[a.org]"], "blueprint.allowed_hosts: nothing is reached with"),
        (
            ["blueprint.network=open"],
            "blueprint.network: 'open' is none of none, allowlist, public",
        ),
        (
            ["blueprint.network=public", "blueprint.allowed_hosts=[127.0.0.1]"],
            "blueprint.allowed_hosts: saw '127.0.0.1': it is never reached: loopback",
        ),
        (
            ["blueprint.network=public", "engine=memory"],
            "task fetch, network public: engine memory lacks 'ports' here",
        ),
    ],
)
def test_slips_are_told_before_anything_starts(
    tmp_path: Path, start: Start, words: list[str], said: str
) -> None:
    done = start(tmp_path, "agent.script=ls", *words)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert not (tmp_path / "runs").exists()
