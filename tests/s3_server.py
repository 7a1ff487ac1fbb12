"""A real S3 server on 127.0.0.1, for as long as a block runs."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""Any server on 127.0.0.1 takes them; they must stand in the environment."""
BUCKET = "rollout-tests"


@contextmanager
def s3_server(output: Path) -> Iterator[str]:
    """The URL of a moto_server process with one bucket; what it prints goes to `output`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with output.open("wb") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_until_it_answers(server, port, output)
        endpoint = f"http://127.0.0.1:{port}"
        client = boto3.session.Session().client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket=BUCKET)
        client.close()
        yield endpoint
    finally:
        server.kill()
        server.wait()


def _wait_until_it_answers(server: "subprocess.Popen[bytes]", port: int, output: Path) -> None:
    give_up_s = time.monotonic() + 60
    while time.monotonic() < give_up_s and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"moto_server does not answer: {output.read_text()}")
