"""Any bytes as a replication message: a message, None, or a DecodeError."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corestore.encoding import encode_uint
from corestore.errors import DecodeError
from corestore.manifest import Manifest
from corestore.replication.messages import (
    BitfieldMessage,
    Cancel,
    Data,
    Extension,
    MessageType,
    NoData,
    OpenHandshake,
    Range,
    RequestMessage,
    Sync,
    Unwant,
    Want,
    decode,
    decode_handshake,
    encode,
    encode_handshake,
)
from corestore.tree.types import (
    BlockProof,
    BlockRequest,
    HashProof,
    HashRequest,
    Node,
    Proof,
    Request,
    SeekProof,
    SeekRequest,
    UpgradeProof,
    UpgradeRequest,
)
from tests.support.vectors import load, unhex

UINTS = st.one_of(st.integers(0, 300), st.integers(0, 2**53 - 1))
NODES = st.lists(
    st.builds(Node, UINTS, UINTS, st.binary(min_size=32, max_size=32)), max_size=4
).map(tuple)


def maybe(strategy):
    return st.one_of(st.none(), strategy)


REQUESTS = st.builds(
    Request,
    UINTS,
    maybe(st.builds(BlockRequest, UINTS, UINTS)),
    maybe(st.builds(HashRequest, UINTS, UINTS)),
    maybe(st.builds(SeekRequest, UINTS, UINTS)),
    maybe(st.builds(UpgradeRequest, UINTS, UINTS)),
)
PROOFS = st.builds(
    Proof,
    UINTS,
    maybe(st.builds(BlockProof, UINTS, st.binary(max_size=40), NODES)),
    maybe(st.builds(HashProof, UINTS, NODES)),
    maybe(st.builds(SeekProof, UINTS, NODES)),
    maybe(st.builds(UpgradeProof, UINTS, UINTS, NODES, NODES, st.binary(max_size=80))),
)
MANIFESTS = st.binary(min_size=32, max_size=32).map(Manifest.default)
MESSAGES = st.one_of(
    st.builds(
        Sync,
        UINTS,
        UINTS,
        UINTS,
        st.booleans(),
        st.booleans(),
        st.booleans(),
        st.booleans(),
        st.booleans(),
    ),
    st.builds(RequestMessage, UINTS, REQUESTS, st.booleans(), UINTS),
    st.builds(Cancel, UINTS),
    st.builds(Data, UINTS, PROOFS, maybe(MANIFESTS)),
    st.builds(NoData, UINTS, UINTS),
    st.builds(Want, UINTS, UINTS, st.booleans()),
    st.builds(Unwant, UINTS, UINTS, st.booleans()),
    st.builds(
        BitfieldMessage,
        st.integers(0, 2**40).map(lambda n: n * 32),
        st.integers(0, 8).flatmap(lambda n: st.binary(min_size=4 * n, max_size=4 * n)),
    ),
    st.builds(Range, UINTS, UINTS, st.booleans()),
    st.builds(Extension, st.text(max_size=10), st.binary(max_size=20)),
)
RECORDED = [
    (vector["type"], unhex(vector["hex"]))
    for vector in load("replication-messages")["vectors"]
    if vector["type"] is not None
]


def reads(kind, body):
    """Decode; what decodes also encodes, to something that decodes to the same."""
    try:
        message = decode(kind, body)
    except DecodeError:
        return
    if message is not None:
        assert decode(*encode(message)) == message


@given(MESSAGES)
def test_messages_read_back(message):
    assert decode(*encode(message)) == message


@given(st.builds(OpenHandshake, st.binary(min_size=32, max_size=32), st.booleans()))
def test_handshakes_read_back(handshake):
    assert decode_handshake(encode_handshake(handshake)) == handshake


@pytest.mark.parametrize("kind", list(MessageType))
@given(body=st.binary(max_size=120))
def test_any_bytes_are_a_message_or_refused(kind, body):
    reads(kind, body)


@given(st.sampled_from(RECORDED), st.data())
def test_damaged_messages_are_read_or_refused(recorded, data):
    kind, body = recorded
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged)))
        damaged[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    reads(kind, memoryview(damaged))


@given(st.binary(max_size=60))
def test_any_bytes_are_a_handshake_or_refused(data):
    try:
        handshake = decode_handshake(data)
    except DecodeError:
        return
    assert len(handshake.capability) == 32


@given(st.sampled_from([0xFFFF, 0x100000, 2**32 - 1, 2**53 - 1]))
def test_counts_beyond_the_message_are_refused_before_anything_is_made(count):
    for body in (
        b"\x02\x01\x00\x00" + encode_uint(count),  # nodes
        b"\x01\x01\x00\x00" + encode_uint(count),  # bytes of a block
        b"\x10\x01\x00\x01\x00\x00\x01" + encode_uint(count),  # signers
    ):
        with pytest.raises(DecodeError):
            decode(MessageType.DATA, body)
    with pytest.raises(DecodeError):
        decode(MessageType.BITFIELD, b"\x00" + encode_uint(count))
