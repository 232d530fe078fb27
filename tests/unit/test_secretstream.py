"""The encrypted stream against the reference's transcript, in pieces of any size."""

from __future__ import annotations

import pytest

from corestore.crypto import SECRETSTREAM_OVERHEAD
from corestore.errors import LocalProtocolError, RemoteProtocolError
from corestore.keys import KeyPair
from corestore.wire.secretstream import (
    MAX_MESSAGE_BYTES,
    HandshakeDone,
    MessageReceived,
    SecureStream,
)
from tests.support.vectors import load, unhex

VECTORS = load("secret-stream")
SEEDS = {name: KeyPair.from_seed(unhex(seed)) for name, seed in VECTORS["seeds"].items()}
STREAMS = {stream["sender"]: stream for stream in VECTORS["streams"]}


def known_stream(side):
    return SecureStream(
        side == "initiator",
        SEEDS[f"{side}Static"],
        ephemeral=SEEDS[f"{side}Ephemeral"],
        header=unhex(STREAMS[side]["header"]),
    )


def outgoing(stream):
    return b"".join(stream.data_to_send())


def established():
    initiator = SecureStream(True, KeyPair.generate())
    responder = SecureStream(False, KeyPair.generate())
    while not (initiator.established and responder.established):
        responder.receive_data(outgoing(initiator))
        initiator.receive_data(outgoing(responder))
    return initiator, responder


def plains(events):
    return [event.plain for event in events if isinstance(event, MessageReceived)]


def test_the_transcript_matches_the_reference():
    initiator, responder = known_stream("initiator"), known_stream("responder")
    frames = [unhex(frame) for frame in VECTORS["frames"]]
    headers = {side: unhex(stream["headerFrame"]) for side, stream in STREAMS.items()}

    assert initiator.data_to_send() == [frames[0]]
    assert responder.receive_data(frames[0]) == []
    assert responder.data_to_send() == [frames[1]]
    done = initiator.receive_data(frames[1])
    assert done == [
        HandshakeDone(unhex(VECTORS["handshakeHash"]), SEEDS["responderStatic"].public_key)
    ]
    assert initiator.data_to_send() == [frames[2], headers["initiator"]]
    done = responder.receive_data(frames[2] + headers["initiator"])
    assert done == [
        HandshakeDone(unhex(VECTORS["handshakeHash"]), SEEDS["initiatorStatic"].public_key)
    ]
    assert responder.data_to_send() == [headers["responder"]]
    assert initiator.receive_data(headers["responder"]) == []

    for sender, receiver, side in (
        (initiator, responder, "initiator"),
        (responder, initiator, "responder"),
    ):
        for message in STREAMS[side]["messages"]:
            plain, frame = unhex(message["plain"]), unhex(message["frame"])
            sender.send(plain)
            assert sender.data_to_send() == [frame]
            assert plains(receiver.receive_data(frame)) == ([plain] if plain else [])


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_frames_may_be_cut_anywhere(size):
    responder = known_stream("responder")
    stream = STREAMS["initiator"]
    wire = b"".join(
        [
            unhex(VECTORS["frames"][0]),
            unhex(VECTORS["frames"][2]),
            unhex(stream["headerFrame"]),
            *(unhex(message["frame"]) for message in stream["messages"]),
        ]
    )
    events = []
    for at in range(0, len(wire), size):
        events += responder.receive_data(wire[at : at + size])
    assert isinstance(events[0], HandshakeDone)
    assert plains(events) == [unhex(m["plain"]) for m in stream["messages"] if m["plain"]]
    assert responder.incoming_bytes == 0


def test_messages_may_follow_the_own_header_at_once():
    initiator = SecureStream(True, KeyPair.generate())
    responder = SecureStream(False, KeyPair.generate())
    responder.receive_data(outgoing(initiator))
    initiator.receive_data(outgoing(responder))
    initiator.send(b"early")
    assert plains(responder.receive_data(outgoing(initiator))) == [b"early"]


@pytest.mark.parametrize("size", [1, 65536, 1 << 18, MAX_MESSAGE_BYTES])
def test_messages_of_every_size_arrive(size):
    initiator, responder = established()
    message = bytes([7]) * size
    initiator.send(memoryview(message))
    initiator.send(b"next")
    assert plains(responder.receive_data(outgoing(initiator))) == [message, b"next"]


def test_a_message_too_long_for_a_frame_is_not_sent():
    initiator, _ = established()
    with pytest.raises(ValueError, match="at most"):
        initiator.send(bytes(MAX_MESSAGE_BYTES + 1))
    assert initiator.data_to_send() == []


def test_a_keepalive_is_an_empty_message_that_nobody_sees():
    initiator, responder = established()
    initiator.keepalive()
    wire = outgoing(initiator)
    assert len(wire) == 3 + SECRETSTREAM_OVERHEAD
    assert responder.receive_data(wire) == []


def test_a_keepalive_before_the_handshake_is_nothing():
    responder = SecureStream(False, KeyPair.generate())
    responder.keepalive()
    assert responder.data_to_send() == []


def test_sending_before_the_handshake_is_our_own_fault():
    with pytest.raises(LocalProtocolError):
        SecureStream(False, KeyPair.generate()).send(b"x")


@pytest.mark.parametrize("announced", [0, 31, 33, 0xFFFFFF])
def test_a_frame_of_the_wrong_size_is_refused_at_its_length(announced):
    responder = SecureStream(False, KeyPair.generate())
    with pytest.raises(RemoteProtocolError):
        responder.receive_data(announced.to_bytes(3, "little"))


def test_a_message_shorter_than_its_overhead_is_refused():
    _, responder = established()
    with pytest.raises(RemoteProtocolError):
        responder.receive_data(b"\x10\x00\x00")


def test_an_announced_frame_costs_only_what_has_arrived():
    _, responder = established()
    assert responder.receive_data(b"\xff\xff\xff" + bytes(1000)) == []
    assert responder.incoming_bytes == 1003


@pytest.mark.parametrize("cut", [False, True])
def test_a_changed_bit_ends_the_stream(cut):
    initiator, responder = established()
    initiator.send(b"hello")
    wire = bytearray(outgoing(initiator))
    wire[-1] ^= 1
    if cut:
        responder.receive_data(wire[:5])
        wire = wire[5:]
    with pytest.raises(RemoteProtocolError):
        responder.receive_data(wire)
    with pytest.raises(RemoteProtocolError, match="before"):
        responder.receive_data(b"")


def test_a_repeated_message_ends_the_stream():
    initiator, responder = established()
    initiator.send(b"once")
    wire = outgoing(initiator)
    responder.receive_data(wire)
    with pytest.raises(RemoteProtocolError):
        responder.receive_data(wire)


def test_a_header_of_the_own_side_is_refused():
    initiator = known_stream("initiator")
    initiator.data_to_send()
    initiator.receive_data(unhex(VECTORS["frames"][1]))
    with pytest.raises(RemoteProtocolError, match="another stream"):
        initiator.receive_data(unhex(STREAMS["initiator"]["headerFrame"]))


def test_the_buffer_given_in_may_be_changed_afterwards():
    initiator, responder = established()
    initiator.send(b"hello")
    wire = bytearray(outgoing(initiator))
    responder.receive_data(memoryview(wire)[:10])
    rest = wire[10:]
    events = responder.receive_data(rest)
    rest.clear()
    assert plains(events) == [b"hello"]


def test_a_closed_stream_holds_nothing_and_takes_nothing():
    initiator, responder = established()
    initiator.send(bytes(1000))
    responder.receive_data(outgoing(initiator)[:-1])
    assert responder.incoming_bytes
    responder.close()
    assert not responder.incoming_bytes
    with pytest.raises(RemoteProtocolError, match="closed before"):
        responder.receive_data(b"x")
