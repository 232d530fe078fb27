"""Any bytes on the wire: events, or a RemoteProtocolError, and nothing that grows without bound."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from corestore.encoding import encode_uint
from corestore.errors import RemoteProtocolError
from corestore.keys import KeyPair
from corestore.wire.mux import ChannelMessage, ChannelOpened, Mux, RemoteOpen
from corestore.wire.noise import Handshake
from corestore.wire.secretstream import MessageReceived, SecureStream

OURS = KeyPair.from_seed(b"o" * 32)
THEIRS = KeyPair.from_seed(b"t" * 32)


@given(st.binary(max_size=200))
def test_any_bytes_before_the_handshake(data):
    for initiator in (True, False):
        stream = SecureStream(initiator, OURS)
        with contextlib.suppress(RemoteProtocolError):
            stream.receive_data(data)
        assert stream.incoming_bytes <= len(data)


@given(st.sampled_from([32, 96, 64]), st.data())
def test_any_handshake_message_of_the_right_size(size, data):
    message = data.draw(st.binary(min_size=size, max_size=size))
    side = Handshake(size == 96, OURS)
    if size == 96:
        side.send()
    elif size == 64:
        side.receive(Handshake(True, THEIRS).send())
        side.send()
    with contextlib.suppress(RemoteProtocolError):
        side.receive(message)
        side.send()
    assert not side.done


def established():
    one, two = SecureStream(True, OURS), SecureStream(False, THEIRS)
    while not (one.established and two.established):
        two.receive_data(b"".join(one.data_to_send()))
        one.receive_data(b"".join(two.data_to_send()))
    two.receive_data(b"".join(one.data_to_send()))
    return one, two


@given(st.binary(max_size=200), st.integers(0, 200))
def test_any_bytes_after_the_handshake(data, cut):
    _, stream = established()
    with contextlib.suppress(RemoteProtocolError):
        events = stream.receive_data(data[:cut]) + stream.receive_data(data[cut:])
        assert events == []


@given(
    st.lists(st.binary(max_size=300), max_size=8),
    st.lists(st.integers(1, 60), min_size=1, max_size=8),
)
def test_messages_arrive_whatever_the_cuts(messages, cuts):
    sender, receiver = established()
    for message in messages:
        sender.send(message)
    wire = b"".join(sender.data_to_send())
    received, at, turn = [], 0, 0
    while at < len(wire):
        size = cuts[turn % len(cuts)]
        turn += 1
        received += receiver.receive_data(memoryview(wire)[at : at + size])
        at += size
    assert received == [MessageReceived(message) for message in messages if message]
    assert receiver.incoming_bytes == 0


@given(
    st.lists(st.binary(max_size=20), min_size=1, max_size=5), st.integers(0), st.integers(0, 255)
)
def test_a_change_anywhere_is_noticed(messages, position, change):
    sender, receiver = established()
    for message in messages:
        sender.send(message)
    wire = bytearray(b"".join(sender.data_to_send()))
    wire[position % len(wire)] ^= change
    with contextlib.suppress(RemoteProtocolError):
        events = receiver.receive_data(wire)
        expected = [MessageReceived(message) for message in messages if message]
        assert events == expected[: len(events)]


# -- the multiplexer -------------------------------------------------------------------------------

NUMBERS = st.one_of(st.integers(0, 5), st.integers(0, 2**53 - 1))
BODIES = st.binary(max_size=12)
NAMES = st.sampled_from([b"\x01x", b"\x01y"])
IDS = st.sampled_from([b"\x00", b"\x02id"])
CONTROL = st.one_of(
    st.tuples(NUMBERS, NAMES, IDS, BODIES).map(
        lambda t: b"\x01" + encode_uint(t[0]) + t[1] + t[2] + t[3]
    ),
    NUMBERS.map(lambda n: b"\x02" + encode_uint(n)),
    NUMBERS.map(lambda n: b"\x03" + encode_uint(n)),
    BODIES,
)
ITEMS = st.one_of(
    CONTROL.map(lambda item: (0, item)),
    st.tuples(st.integers(1, 5), st.binary(min_size=1, max_size=12)),
)


def batch(items):
    parts = [b"\x00\x00\x00"]
    for channel, item in items:
        parts.append(b"\x00" + encode_uint(channel))
        parts.append(encode_uint(len(item)) + item)
    return b"".join(parts)


FRAMES = st.one_of(
    st.binary(max_size=64),
    ITEMS.map(lambda item: encode_uint(item[0]) + item[1]),
    st.lists(ITEMS, max_size=6).map(batch),
)


@given(st.lists(FRAMES, max_size=30), st.randoms(use_true_random=False))
def test_any_frames_give_events_of_channels_we_know(frames, random):
    mux = Mux()
    channels = [mux.open("x", None), mux.open("y", b"id")]
    asked = []
    with contextlib.suppress(RemoteProtocolError):
        for frame in frames:
            for event in mux.receive(frame):
                if isinstance(event, RemoteOpen):
                    asked.append(event)
                else:
                    assert event.channel in channels
                    if isinstance(event, ChannelMessage | ChannelOpened):
                        assert event.channel.local_id > 0
            if asked and random.random() < 0.5:
                event = asked.pop()
                if random.random() < 0.5:
                    mux.reject(event)
                else:
                    channels.append(mux.open(event.protocol, event.id))
            if random.random() < 0.2:
                random.choice(channels).close()
            random.choice(channels).send(0, b"body")
        assert mux._pending_bytes >= 0
        numbers = [channel.local_id for channel in mux.channels]
        assert len(set(numbers)) == len(numbers)


@given(st.data())
def test_two_muxes_agree_whatever_they_open_and_close(data):
    """Both sides do anything in any order; in the end both have the same channels open."""
    sides = (Mux(), Mux())
    opened = ([], [])
    asked = ([], [])
    wires = ([], [])

    def deliver(source):
        target = 1 - source
        wires[source].extend(sides[source].data_to_send())
        if wires[source]:
            for event in sides[target].receive(wires[source].pop(0)):
                if isinstance(event, RemoteOpen):
                    asked[target].append(event)

    for _ in range(data.draw(st.integers(0, 25))):
        side = data.draw(st.integers(0, 1))
        match data.draw(st.sampled_from(["open", "close", "answer", "reject", "deliver", "send"])):
            case "open":
                opened[side].append(sides[side].open("x", data.draw(st.sampled_from([None, b"i"]))))
            case "close" if opened[side]:
                opened[side].pop(0).close()
            case "answer" if asked[side]:
                event = asked[side].pop(0)
                opened[side].append(sides[side].open(event.protocol, event.id))
            case "reject" if asked[side]:
                sides[side].reject(asked[side].pop(0))
            case "deliver":
                deliver(side)
            case "send" if opened[side]:
                opened[side][-1].send(1, b"hello")
    for _ in range(200):
        deliver(0)
        deliver(1)
        for side in (0, 1):
            while asked[side]:
                sides[side].reject(asked[side].pop(0))
    lives = [[c for c in mux.channels if c.opened] for mux in sides]
    assert all(channel.opened for mux in sides for channel in mux.channels)
    pairs = [{(c.local_id, c.remote_id, c.id) for c in live} for live in lives]
    assert pairs[0] == {(remote, local, id_) for local, remote, id_ in pairs[1]}
    assert all(mux._pending_bytes == 0 for mux in sides)
