"""The main job into S3, read back by others straight from the bucket's bare prefix."""

import json
import os
import subprocess
import sys
from pathlib import Path

import boto3
import duckdb
import polars
import pyarrow.dataset as pads
import pytest
from pyarrow.fs import S3FileSystem

import rollout
from tests.census import Place, left_clean
from tests.e2e.test_main_job import ROOT, TASKS
from tests.s3_server import BUCKET, CREDENTIALS

pytestmark = [pytest.mark.native, pytest.mark.s3]

PREFIX = f"{BUCKET}/e2e/bucket/trajectories"
HUGGING_FACE = """
import sys
from datasets import load_dataset

rows = load_dataset("parquet", data_dir=sys.argv[1], cache_dir=sys.argv[2], split="train")
print(len(rows), sum(rows["reward"]) / len(rows))
"""


@pytest.fixture(scope="module")
def folder(s3_endpoint: str, engines: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run of 3 tasks × 2 arms × 2 samples into the bucket was started."""
    folder = tmp_path_factory.mktemp("s3")
    args = [
        "+experiment=harbor",
        f"task.path={TASKS}",
        "name=bucket",
        "task.limit=3",
        "samples=2",
        "executor=local",
        "store=s3",
        f"store.uri=s3://{BUCKET}/e2e",
        f"store.endpoint_url={s3_endpoint}",
    ]
    with left_clean(engines) as here:
        run_twice([*args, f"engine.root_dir={engines}"], folder, here)
    assert list(folder.iterdir()) == [], "a run into a bucket writes nothing where it is started"
    return folder


def run_twice(args: list[str], folder: Path, here: Place) -> None:
    for expected in ("12 rollouts, 0 there already", "finished"):
        done = subprocess.run(
            [sys.executable, "-m", "rollout", *args],
            cwd=folder,
            env={**os.environ, **here.environment, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert expected in done.stdout + done.stderr


def bucket(endpoint: str) -> pads.Dataset:
    files = S3FileSystem(
        access_key=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        secret_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        endpoint_override=endpoint,
        region="us-east-1",
    )
    return pads.dataset(PREFIX, filesystem=files, format="parquet")


def test_four_readers_agree_on_the_bare_prefix(
    folder: Path, s3_endpoint: str, tmp_path: Path
) -> None:
    dataset = bucket(s3_endpoint)
    table = dataset.to_table(columns=["reward"])
    by_pyarrow = (table.num_rows, sum(table["reward"].to_pylist()) / table.num_rows)

    options = {"aws_endpoint_url": s3_endpoint, "aws_region": "us-east-1", "aws_allow_http": "true"}
    options |= {
        "aws_access_key_id": CREDENTIALS["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    }
    frame = polars.scan_parquet(f"s3://{PREFIX}/**/*.parquet", storage_options=options).collect()
    by_polars = (frame.height, frame["reward"].mean())

    with duckdb.connect() as connection:
        connection.register("rows", dataset)
        by_duckdb = connection.sql("select count(*), avg(reward) from rows").fetchall()[0]

    by_datasets = hugging_face(s3_endpoint, tmp_path)
    assert by_pyarrow == by_polars == by_duckdb == by_datasets == (12, 0.5)


def hugging_face(endpoint: str, tmp_path: Path) -> tuple[int, float]:
    """`datasets` reads a copy of the prefix: its own way to S3 is a package we do not install."""
    client = boto3.session.Session().client("s3", endpoint_url=endpoint)
    listed = client.list_objects_v2(Bucket=BUCKET, Prefix=PREFIX.split("/", 1)[1])["Contents"]
    for item in listed:
        copy = tmp_path / "copy" / item["Key"]
        copy.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(BUCKET, item["Key"], str(copy))
    client.close()
    done = subprocess.run(
        [sys.executable, "-c", HUGGING_FACE, str(tmp_path / "copy"), str(tmp_path / "cache")],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows, mean = done.stdout.split()
    return int(rows), float(mean)


def test_our_reader_sees_the_same(folder: Path, s3_endpoint: str) -> None:
    with rollout.open_dataset(f"s3://{BUCKET}/e2e/bucket", endpoint_url=s3_endpoint) as dataset:
        assert dataset.scan().num_rows == len(dataset.finished_ids()) == 12
        assert json.loads(json.dumps(dataset.run))["schema_version"]
