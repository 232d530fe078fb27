"""Compact encoding against the reference's vectors, and against any bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corestore.encoding import Reader, Writer, encode_uint
from corestore.errors import DecodeError
from tests.support.vectors import load, unhex

VECTORS = load("compact-encoding")["vectors"]


def of_type(*names):
    return [v for v in VECTORS if v["type"] in names]


@pytest.mark.parametrize("vector", of_type("uint"))
def test_uint_matches_the_reference(vector):
    encoded = unhex(vector["hex"])
    assert encode_uint(int(vector["value"])) == encoded
    assert Reader(encoded).uint() == int(vector["value"])


@pytest.mark.parametrize("vector", of_type("string", "utf8"))
def test_string_matches_the_reference(vector):
    encoded = unhex(vector["hex"])
    assert Writer().string(vector["value"]).finish() == encoded
    assert Reader(encoded).string() == vector["value"]


@given(st.integers(0, 2**53 - 1))
def test_uint_reads_back(value):
    assert Reader(encode_uint(value)).uint() == value


@pytest.mark.parametrize("value", [-1, 2**53, 2**64])
def test_integers_the_peers_cannot_hold_are_not_written(value):
    with pytest.raises(ValueError, match="unsigned"):
        encode_uint(value)


def test_integers_the_peers_cannot_hold_are_not_read():
    with pytest.raises(DecodeError):
        Reader(b"\xff" + (2**53).to_bytes(8, "little")).uint()


def test_an_array_longer_than_its_bytes_is_refused_before_it_is_made():
    with pytest.raises(DecodeError):
        Reader(encode_uint(0x100000) + b"\x00").array(Reader.uint)


@given(st.binary(max_size=64))
def test_any_bytes_give_a_value_or_a_decode_error(data):
    reads = (
        Reader.uint,
        Reader.buffer,
        Reader.optional_buffer,
        Reader.string,
        Reader.uint32_array,
        Reader.rest,
        lambda r: r.fixed(7),
        lambda r: r.array(Reader.buffer),
    )
    for read in reads:
        reader = Reader(data)
        try:
            read(reader)
        except DecodeError:
            continue
        assert 0 <= reader.at <= len(data)


@pytest.mark.parametrize("vector", of_type("array(uint)"))
def test_array_matches_the_reference(vector):
    encoded = unhex(vector["hex"])
    assert Reader(encoded).array(Reader.uint) == vector["value"]
    assert Writer().array(vector["value"], Writer.uint).finish() == encoded
