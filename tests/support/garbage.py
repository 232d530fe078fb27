"""Bytes that are nearly right, for decoders."""

from __future__ import annotations

from hypothesis import strategies as st


@st.composite
def damaged(draw, valid):
    """Any bytes, or some of *valid*, with a few bytes changed and perhaps the end missing."""
    data = bytearray(draw(st.one_of(st.binary(max_size=200), valid)))
    for _ in range(draw(st.integers(0, 3))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    del data[draw(st.integers(0, len(data))) :]
    return bytes(data)
