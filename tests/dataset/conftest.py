"""A store of each kind to hold to one contract."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from rollout.dataset.store import LocalStore, Store, open_store
from tests.s3_server import BUCKET

_prefixes = itertools.count()


@pytest.fixture
def s3_store(s3_endpoint: str) -> Iterator[Store]:
    store = open_store(f"s3://{BUCKET}/runs/{next(_prefixes)}", endpoint_url=s3_endpoint)
    yield store
    store.close()


@pytest.fixture
def local_store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "run")


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest) -> Store:
    """One of each kind."""
    found: Store = request.getfixturevalue(f"{request.param}_store")
    return found
