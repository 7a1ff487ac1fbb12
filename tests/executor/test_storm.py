"""When our own failures are a storm, and when they are weather."""

from rollout.config import RetryConf
from rollout.executor.storm import StormWatch


def watch(ended: list[str | None], **conf: float) -> str:
    storm = StormWatch(RetryConf(**conf))  # type: ignore[arg-type]
    for failure in ended:
        storm.ended(failure)
    return storm.verdict


def test_a_few_failures_at_the_beginning_mean_nothing() -> None:
    assert watch(["down"] * 19) == ""
    assert watch(["down"] * 20) != ""


def test_the_share_must_be_exceeded() -> None:
    assert watch([None] * 80 + ["down"] * 20) == ""
    assert watch([None] * 80 + ["down"] * 21) != ""


def test_only_the_window_counts() -> None:
    assert watch(["down"] * 100 + [None] * 200) == ""
    assert watch([None] * 1000 + ["down"] * 41) != ""


def test_a_small_window_is_enough_for_itself() -> None:
    assert watch(["down"] * 5, storm_window=5) != ""


def test_it_says_what_happened_most() -> None:
    said = watch([None] * 10 + ["disk full"] * 3 + ["model_error: 503"] * 9)
    assert "12 of the last 22" in said
    assert "9 times: model_error: 503" in said
