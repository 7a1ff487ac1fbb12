"""The way out of a real sandbox: programs find the proxy, and nothing goes past it."""

import re
from pathlib import Path

import pytest

from rollout.egress.access import OWN, egress
from rollout.sandbox.base import Engine, Sandbox, SandboxSpec
from rollout.types import Blueprint
from tests.egress.outside import PUBLIC, Outside, hello, server_of
from tests.sandbox.conftest import running

PYTHON = "/usr/bin/python3"
ASK = """
import sys, urllib.error, urllib.request
for uri in sys.argv[1:]:
    try:
        print(urllib.request.urlopen(uri, timeout=30).read().decode())
    except urllib.error.HTTPError as exc:
        print(exc.code, exc.read().decode().strip())
"""
TUNNEL = """
import http.client, os, urllib.parse
proxy = urllib.parse.urlsplit(os.environ["HTTPS_PROXY"])
line = http.client.HTTPConnection(proxy.hostname, proxy.port, timeout=30)
line.set_tunnel("a.org", 443)
line.request("GET", "/")
print(line.getresponse().read().decode())
"""
DIRECT = f"""
import errno, socket
for address in [("{PUBLIC}", 80), ("10.0.0.1", 80), ("169.254.169.254", 80), ("1.1.1.1", 53)]:
    with socket.socket() as sock:
        print(errno.errorcode[sock.connect_ex(address)])
with socket.socket(socket.AF_INET6) as sock:
    print(errno.errorcode[sock.connect_ex(("2606:4700::1111", 443))])
try:
    socket.getaddrinfo("a.org", 80)
except socket.gaierror:
    print("no names")
"""
HAS = {"pip": "python3 -m pip"}
TOOLS = {
    "curl": "curl -sS http://a.org/x",
    "git": "git ls-remote http://a.org/x",
    "pip": "python3 -m pip download --no-input --retries 0 --trusted-host a.org -i http://a.org/ x",
    "npm": "npm view anything --registry http://a.org/ --fetch-retries 0",
}


async def sandbox(engine: Engine, *hosts: str, network: str = "allowlist") -> Sandbox:
    blueprint = Blueprint(network=network, allowed_hosts=hosts, env=(("NO_PROXY", "a.org"),))
    return await engine.create(SandboxSpec.for_blueprint(await engine.build(blueprint), blueprint))


async def out(box: Sandbox, *argv: str) -> str:
    result = await box.exec(argv)
    assert result.ok, result
    return result.stdout.decode().strip()


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("native", marks=pytest.mark.native),
        pytest.param("docker", marks=pytest.mark.docker),
    ],
)
async def test_what_is_allowed_is_reached_and_nothing_else(kind: str, tmp_path: Path) -> None:
    events: list[tuple[str, str]] = []

    def tell(kind: str, detail: str) -> None:
        events.append((kind, detail))

    async with running(kind, tmp_path) as engine, server_of(hello) as port:
        box, outside = await sandbox(engine, "a.org"), Outside(port)
        outside.names["a.org"] = [[PUBLIC]]
        async with egress(box, tell, resolve=outside.resolve, dial=outside.dial):
            said = (await out(box, PYTHON, "-c", ASK, "http://a.org/", "http://b.org/")).split("\n")
            assert said[0] == "hello"
            assert said[1] == "403 egress proxy: b.org:80 is not reached: no rule allows it"
            assert await out(box, PYTHON, "-c", TUNNEL) == "hello"
            refused = ["ENETUNREACH"] * 5
            assert (await out(box, PYTHON, "-c", DIRECT)).split("\n") == [*refused, "no names"]
            variables = (await out(box, "env")).split("\n")
            assert f"no_proxy={OWN}" in variables
        assert outside.dialed == [(PUBLIC, 80), (PUBLIC, 443)]
        assert [(kind, detail.split(" at ")[0]) for kind, detail in events] == [
            ("egress_allowed", "GET a.org:80"),
            ("egress_refused", "GET b.org:80: no rule allows it"),
            ("egress_allowed", "CONNECT a.org:443"),
        ]
        (led,) = (line for line in variables if line.startswith("http_proxy="))
        address = led.removeprefix("http_proxy=")
        left = (await out(box, "env")).split("\n")
        assert [line for line in left if "proxy" in line.lower()] == ["NO_PROXY=a.org"]
        gone = await box.exec(
            [PYTHON, "-c", ASK, "http://a.org/"], env={"http_proxy": address, "NO_PROXY": ""}
        )
        assert b"refused" in gone.stderr.lower()
        await box.close()


@pytest.mark.native
async def test_without_a_network_there_is_no_proxy(tmp_path: Path) -> None:
    async with running("native", tmp_path) as engine:
        box = await sandbox(engine, network="none")
        async with egress(box, lambda kind, detail: None):
            assert "HTTP_PROXY" not in await out(box, "env")
            assert (await out(box, PYTHON, "-c", DIRECT)).startswith("ENETUNREACH")
        await box.close()


@pytest.mark.native
@pytest.mark.tools
@pytest.mark.parametrize("tool", TOOLS)
async def test_tools_find_it_by_themselves(tool: str, tmp_path: Path) -> None:
    """What they make of the answer is their own affair."""
    events: list[str] = []
    async with running("native", tmp_path) as engine, server_of(hello) as port:
        box, outside = await sandbox(engine, "a.org"), Outside(port)
        outside.names["a.org"] = [[PUBLIC]]
        async with egress(
            box,
            lambda kind, detail: events.append(detail),
            resolve=outside.resolve,
            dial=outside.dial,
        ):
            if not (await box.exec(["sh", "-c", f"{HAS.get(tool, tool)} --version"])).ok:
                pytest.skip(f"this host has no {tool}")
            done = await box.exec(["sh", "-c", TOOLS[tool]], timeout_s=120)
        await box.close()
    assert [line for line in events if re.match(rf"GET a\.org:80 at {PUBLIC}", line)], done
