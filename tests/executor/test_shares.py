"""Workers come, go and use what they have: together they may never use more than there is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.executor.shares import Shares

EVENTS = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.sampled_from(["comes or beats", "calls", "has its answers", "ends"]),
    ),
    max_size=80,
)


@given(EVENTS)
def test_together_never_more_than_the_whole(events: list[tuple[int, str]]) -> None:
    shares = Shares()
    parts: dict[int, float] = {}
    """Worker to what it was told last."""
    running: dict[int, float] = {}
    """Worker to what its calls in flight use, which a smaller part does not end."""
    for worker, what in events:
        match what:
            case "comes or beats":
                using = max(parts.get(worker, 0.0), running.get(worker, 0.0))
                parts.setdefault(worker, 0.0)
                parts[worker] = shares.part(str(worker), using, len(parts))
            case "calls":
                running[worker] = max(running.get(worker, 0.0), parts.get(worker, 0.0))
            case "has its answers":
                running[worker] = 0.0
            case "ends":
                shares.gone(str(worker))
                parts.pop(worker, None)
                running.pop(worker, None)
        used = {name: max(part, running.get(name, 0.0)) for name, part in parts.items()}
        assert sum(used.values()) <= 1 + 1e-9


def test_after_two_beats_of_each_all_have_the_same() -> None:
    shares = Shares()
    parts = {"a": shares.part("a", 0.0, 1)}
    assert parts == {"a": 1.0}
    for _ in range(2):
        for name in ("c", "b", "a"):
            parts[name] = shares.part(name, parts.get(name, 0.0), 3)
    for name in ("b", "c"):
        parts[name] = shares.part(name, parts[name], 3)
    assert parts == pytest.approx({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})
    shares.gone("a")
    assert shares.part("b", 1 / 3, 2) == pytest.approx(1 / 2)


def test_who_still_uses_more_is_waited_for() -> None:
    shares = Shares()
    assert shares.part("a", 0.0, 1) == 1.0
    assert shares.part("b", 0.0, 2) == 0.0
    assert shares.part("a", 1.0, 2) == 0.5
    assert shares.part("b", 0.0, 2) == 0.0
    assert shares.part("a", 0.75, 2) == 0.5  # its long calls
    assert shares.part("b", 0.0, 2) == 0.25
    assert shares.part("a", 0.5, 2) == 0.5
    assert shares.part("b", 0.25, 2) == 0.5
