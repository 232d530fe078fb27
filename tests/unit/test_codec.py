"""Values in blocks: as JavaScript writes them, and refused as a peer's fault when they are none."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corestore import DecodeError
from corestore.codec import BINARY, JSON, TEXT, find_codec

# What `JSON.stringify` makes of the same value, in UTF-8.
JSON_BLOCKS = [
    ({"otherKeys": ["ab", "cd"]}, b'{"otherKeys":["ab","cd"]}'),
    ([1, -2, 0.5, True, False, None], b"[1,-2,0.5,true,false,null]"),
    ('tab\t quote" slash/ back\\ nul\0', b'"tab\\t quote\\" slash/ back\\\\ nul\\u0000"'),
    ("smörgås 🍓", '"smörgås 🍓"'.encode()),
    ("\ud800 alone", b'"\\ud800 alone"'),
    ({}, b"{}"),
]


@pytest.mark.parametrize(("value", "block"), JSON_BLOCKS)
def test_json_is_compact_like_javascript_s(value, block):
    assert JSON.encode(value) == block
    assert JSON.decode(block) == value


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(values)
def test_json_comes_back_as_it_went(value):
    assert JSON.decode(JSON.encode(value)) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"bytes", {1, 2}, object()])
def test_what_json_cannot_express_is_refused(value):
    with pytest.raises((TypeError, ValueError)):
        JSON.encode(value)


@pytest.mark.parametrize("value", [b"bytes", 5, None, "\ud800"])
def test_what_text_cannot_express_is_refused(value):
    with pytest.raises((TypeError, ValueError)):
        TEXT.encode(value)


@pytest.mark.parametrize(
    "block",
    [b"", b"{", b"NaN", b"[1,]", b"\xff", b"[" * 100_000, b"1" * 10_000, b"-Infinity", b'"\x01"'],
)
def test_json_that_is_none_is_refused(block):
    with pytest.raises(DecodeError):
        JSON.decode(block)


@given(st.binary())
def test_any_bytes_are_a_value_or_a_decode_error(block):
    for codec in (TEXT, JSON):
        with contextlib.suppress(DecodeError):
            codec.decode(block)


@given(st.binary())
def test_json_agrees_with_the_parser_of_the_standard_library(block):
    try:
        value = JSON.decode(block)
    except DecodeError:
        return
    assert value == json.loads(block)


def test_binary_leaves_what_it_gets_alone():
    block = memoryview(b"a block")
    assert BINARY.encode(block) is block
    assert BINARY.decode(b"x") == b"x"


def test_text_that_is_none_is_refused_with_its_place():
    assert TEXT.decode(TEXT.encode("smörgås")) == "smörgås"
    with pytest.raises(DecodeError, match="at byte 3"):
        TEXT.decode(b"abc\xff")


def test_an_unknown_encoding_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="binary, utf-8, json"):
        find_codec("utf8")
    assert find_codec("json") is JSON
    own = object()
    assert find_codec(own) is own
