"""The targets of `make fuzz`, with what hypothesis thinks of: right input with a few faults."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.security.fuzz.targets import TARGETS, seeds

Spoil = tuple[int, int, bytes]

spoils = st.lists(
    st.tuples(
        st.integers(0, 4000),
        st.integers(0, 600),
        st.one_of(
            st.binary(max_size=20),
            st.sampled_from([b"..", b"/", b"\0", b"-1", b"2 =\n", b"\x80" + b"\xff" * 11]),
        ),
    ),
    max_size=6,
)


def spoiled(seed: bytes, faults: list[Spoil]) -> bytes:
    for at, length, instead in faults:
        at %= len(seed) + 1
        seed = seed[:at] + instead + seed[at + length % (len(instead) + 2) :]
    return seed


@given(st.data())
@pytest.mark.parametrize("name", TARGETS)
def test_no_bytes_break_a_rule(name: str, data: st.DataObject) -> None:
    target: Callable[[bytes], None] = TARGETS[name]
    target(spoiled(data.draw(st.sampled_from(seeds()[name])), data.draw(spoils)))
