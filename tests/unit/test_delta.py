"""What was written to an open file, in two parts laid over one another, against a bytearray."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hyperfs.delta import UNCUT, Delta

STORED = bytes(range(1, 41))
steps = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 60), st.binary(min_size=1, max_size=20)),
        st.integers(0, 60),
    ),
    max_size=6,
)


def apply(delta, steps, expected):
    """Write and truncate, in a delta and in a bytearray."""
    for step in steps:
        if isinstance(step, int):
            delta.truncate(step)
            del expected[step:]
            expected.extend(bytes(step - len(expected)))
        else:
            offset, data = step
            delta.write(offset, data)
            expected.extend(bytes(max(0, offset - len(expected))))
            expected[offset : offset + len(data)] = data


def laid(stored, delta):
    """The file: *delta* over what is stored."""
    found = bytearray(stored[: min(delta.cut, len(stored))].ljust(delta.size, b"\0"))
    for offset, data in delta.ranges.ranges():
        found[offset : offset + len(data)] = data
    return found[: delta.size]


@given(steps, steps)
def test_two_deltas_stacked_say_what_both_did(older_steps, newer_steps):
    expected = bytearray(STORED)
    older = Delta(len(STORED))
    apply(older, older_steps, expected)
    assert laid(STORED, older) == expected
    newer = Delta(older.size)
    apply(newer, newer_steps, expected)
    copy = older.copy()
    assert laid(STORED, older.stack(newer)) == expected
    # The copy is another one.
    assert laid(STORED, copy.stack(newer)) == expected


def test_what_was_cut_stays_cut_when_the_file_grows_again():
    older, newer = Delta(40), Delta(40)
    newer.truncate(10)
    newer.truncate(40)
    assert older.cut == UNCUT
    assert laid(STORED, older.stack(newer)) == STORED[:10] + bytes(30)
