"""Errors cross processes and keep their meaning."""

import pickle

import pytest

from rollout import errors
from rollout.errors import RolloutError, SandboxError, SandboxLost, boundary

ALL = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, RolloutError)
]


@pytest.mark.parametrize("kind", ALL)
def test_errors_survive_pickling(kind: type[RolloutError]) -> None:
    copy = pickle.loads(pickle.dumps(kind("what, which, seen, change")))
    assert type(copy) is kind
    assert str(copy) == "what, which, seen, change"


async def test_boundary_types_what_escapes_and_keeps_the_cause() -> None:
    with pytest.raises(SandboxError, match=r"reading /x of box 7: ValueError: odd") as caught:
        async with boundary(SandboxError, "reading /x of box 7"):
            raise ValueError("odd")
    assert isinstance(caught.value.__cause__, ValueError)


async def test_boundary_lets_typed_errors_through() -> None:
    with pytest.raises(SandboxLost, match="gone"):
        async with boundary(errors.ScoreError, "scoring"):
            raise SandboxLost("gone")
