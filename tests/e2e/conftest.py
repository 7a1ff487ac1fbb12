"""A place for each test's runs, which is afterwards as it was before."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.census import Place, left_clean


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root folder of all engines here, since a host base takes its time."""
    return tmp_path_factory.mktemp("engines")


@pytest.fixture
def here(engines: Path) -> Iterator[Place]:
    with left_clean(engines) as place:
        yield place
