"""Docker's words: quotes, escapes and variables."""

import pytest

from rollout.errors import ConfigError
from rollout.tasks.dockerfile_words import expand, pairs

VARIABLES = {"A": "one", "B": "two words", "EMPTY": "", "A_B": "under"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("$A/x", "one/x"),
        ("${A}B", "oneB"),
        ("$A_B", "under"),
        ("$AB", ""),
        ("'$A'", "$A"),
        ('"$A and $B"', "one and two words"),
        (r"\$A", "$A"),
        (r'"\$A \"q\" \n"', r'$A "q" \n'),
        ("${MISSING:-x}", "x"),
        ("${EMPTY:-x}", "x"),
        ("${EMPTY-x}", ""),
        ("${A:+x}", "x"),
        ("${EMPTY:+x}", ""),
        ("${EMPTY+x}", "x"),
        ("${MISSING:-${A}/$B}", "one/two words"),
        ("$$", "$$"),
        ("a$", "a$"),
        ("${A:?no}", "one"),
    ],
)
def test_expand(text: str, expected: str) -> None:
    assert expand(text, VARIABLES) == expected


@pytest.mark.parametrize("text", ["${A", "'x", '"x', "${}", "${A#x}", "${MISSING?}"])
def test_what_is_no_word(text: str) -> None:
    with pytest.raises(ConfigError):
        expand(text, VARIABLES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("K=v", [("K", "v")]),
        ("K=v L='a b' M=c\\ d", [("K", "v"), ("L", "a b"), ("M", "c d")]),
        ("K=", [("K", "")]),
        ("K a  b=c", [("K", "a  b=c")]),
        ("K=$A L=${B}", [("K", "one"), ("L", "two words")]),
        ("K=a=b", [("K", "a=b")]),
    ],
)
def test_pairs(text: str, expected: list[tuple[str, str]]) -> None:
    assert pairs(text, VARIABLES) == expected
