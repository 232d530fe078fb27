"""The multiplexer against the reference's frames, and the ways openings and closings can cross."""

from __future__ import annotations

import pytest

from corestore.encoding import Writer, encode_uint
from corestore.errors import DecodeError, LimitExceeded, LocalProtocolError, RemoteProtocolError
from corestore.wire import mux as mux_module
from corestore.wire.mux import (
    BATCH_BYTES,
    BATCHED_MESSAGE_BYTES,
    MAX_BATCH_MESSAGES,
    ChannelClosed,
    ChannelMessage,
    ChannelOpened,
    Mux,
    RemoteOpen,
)
from tests.support.vectors import load, unhex

STEPS = [[unhex(f) for f in step["frames"]] for step in load("protomux")["steps"]]
PROTOCOL = "test/proto"


def string(text):
    return Writer().string(text).finish()


def transfer(source, target):
    events = []
    for frame in source.data_to_send():
        events += target.receive(frame)
    return events


def bodies(events):
    return [bytes(e.body) for e in events if isinstance(e, ChannelMessage)]


def opened_pair(name=b"k" * 32):
    a, b = Mux(), Mux()
    ours = a.open(PROTOCOL, name)
    theirs = b.open(PROTOCOL, name)
    transfer(a, b)
    transfer(b, a)
    assert ours.opened
    assert theirs.opened
    return a, b, ours, theirs


# -- the reference's script ------------------------------------------------------------------------


def test_the_script_of_the_reference_gives_the_same_frames():
    a = Mux()
    rejected = a.open(PROTOCOL, None, string("hs-a"))
    assert a.data_to_send() == STEPS[0]
    assert a.receive(STEPS[1][0]) == [ChannelClosed(rejected, rejected=True)]

    name = STEPS[2][0][15:47]
    channel = a.open(PROTOCOL, name, string("hs-a"))
    channel.send(0, string("before open"))
    assert a.data_to_send() == STEPS[2]
    assert a.receive(STEPS[3][0]) == [ChannelOpened(channel, string("hs-b"))]
    channel.send(1, encode_uint(300))
    assert a.data_to_send() == STEPS[4]

    a.cork()
    channel.send(0, string("x"))
    channel.send(1, encode_uint(5))
    other = a.open(PROTOCOL, STEPS[5][0][27:59], string("q"))
    channel.send(0, string("y"))
    assert a.data_to_send() == []
    a.uncork()
    assert a.data_to_send() == STEPS[5]
    assert a.receive(STEPS[6][0]) == [ChannelClosed(other, rejected=True)]
    a.cork()
    channel.send(1, encode_uint(6))
    a.uncork()
    assert a.data_to_send() == STEPS[7]
    channel.close()
    assert a.data_to_send() == STEPS[8]


def test_the_other_side_of_the_script_hears_what_was_said():
    b = Mux()
    (asked,) = b.receive(STEPS[0][0])
    assert (asked.protocol, asked.id, asked.handshake) == (PROTOCOL, None, string("hs-a"))
    b.reject(asked)
    assert b.data_to_send() == STEPS[1]

    (asked,) = b.receive(STEPS[2][0])
    assert b.receive(STEPS[2][1]) == []
    channel = b.open(asked.protocol, asked.id, string("hs-b"))
    assert b.data_to_send() == STEPS[3]
    events = b.events()
    assert events[0] == ChannelOpened(channel, string("hs-a"))
    events += b.receive(STEPS[4][0])
    events += b.receive(STEPS[5][0])
    b.cork()
    b.reject(events[-2])
    b.uncork()
    assert b.data_to_send() == STEPS[6]
    events += b.receive(STEPS[7][0])
    events += b.receive(STEPS[8][0])
    assert bodies(events) == [
        string("before open"),
        encode_uint(300),
        string("x"),
        encode_uint(5),
        string("y"),
        encode_uint(6),
    ]
    assert [type(e) for e in events if not isinstance(e, ChannelMessage)] == [
        ChannelOpened,
        RemoteOpen,
        ChannelClosed,
    ]
    assert channel.closed


def test_a_session_of_two_reference_peers_reads_through():
    """Both directions of a recorded session, each fed to a mux that does as the other side did."""
    session = load("replication-session")
    name = unhex(session["discoveryKey"])
    for side in ("A", "B"):
        mux = Mux()
        if side == "B":
            mux.open("hypercore/alpha", b"unrelated")
        channel = mux.open("hypercore/alpha", name, b"", ("hypercore",))
        kinds = []
        for frame in session["frames"]:
            if frame["from"] != side:
                continue
            for event in mux.receive(unhex(frame["hex"])):
                match event:
                    case ChannelMessage(opened, kind, _) if opened is channel:
                        kinds.append(kind)
                    case ChannelOpened(opened, handshake):
                        assert opened is channel
                        assert len(handshake) == 33
                    case RemoteOpen():
                        mux.reject(event)
        assert set(kinds) == ({0, 3, 8} if side == "A" else {0, 1})


# -- openings and closings that cross --------------------------------------------------------------


def test_openings_that_cross_pair_up():
    a, b, ours, theirs = opened_pair()
    ours.send(3, b"hello")
    assert transfer(a, b) == [ChannelMessage(theirs, 3, b"hello")]


def test_openings_of_one_name_pair_first_with_first():
    a, b = Mux(), Mux()
    first, second = a.open(PROTOCOL, None, b"1"), a.open(PROTOCOL, None, b"2")
    asked = transfer(a, b)
    one, two = b.open(PROTOCOL, None), b.open(PROTOCOL, None)
    assert b.events() == [ChannelOpened(one, b"1"), ChannelOpened(two, b"2")]
    assert [type(e) for e in asked] == [RemoteOpen, RemoteOpen]
    assert transfer(b, a) == [ChannelOpened(first, b""), ChannelOpened(second, b"")]


def test_messages_wait_until_the_opening_is_answered():
    a, b = Mux(), Mux()
    ours = a.open(PROTOCOL, None)
    ours.send(0, b"one")
    ours.send(1, b"two")
    (asked,) = transfer(a, b)
    assert b._pending_bytes > 6
    theirs = b.open(asked.protocol, asked.id)
    assert b.events() == [
        ChannelOpened(theirs, b""),
        ChannelMessage(theirs, 0, b"one"),
        ChannelMessage(theirs, 1, b"two"),
    ]
    assert b._pending_bytes == 0


def test_messages_of_a_rejected_opening_are_dropped():
    a, b = Mux(), Mux()
    ours = a.open(PROTOCOL, None)
    ours.send(0, b"one")
    (asked,) = transfer(a, b)
    b.reject(asked)
    assert b._pending_bytes == 0
    ours.send(0, b"two")
    assert transfer(a, b) == []
    assert transfer(b, a) == [ChannelClosed(ours, rejected=True)]
    assert ours.closed
    ours.send(0, b"three")
    assert a.data_to_send() == []


def test_an_alias_pairs_with_the_name():
    a, b = Mux(), Mux()
    ours = a.open("old", b"id")
    theirs = b.open("new", b"id", aliases=("old",))
    assert transfer(a, b) == [ChannelOpened(theirs, b"")]
    c = Mux()
    a = Mux()
    ours = a.open("old", b"id", b"x")
    (asked,) = transfer(a, c)
    theirs = c.open("new", b"id", aliases=("old",))
    assert c.events() == [ChannelOpened(theirs, b"x")]
    assert isinstance(asked, RemoteOpen)
    assert not ours.opened


def test_closing_frees_the_number_at_once_when_both_had_opened():
    a, b, ours, theirs = opened_pair()
    ours.close()
    ours.close()
    assert transfer(a, b) == [ChannelClosed(theirs)]
    assert b.data_to_send() == []
    assert a.open(PROTOCOL, b"next").local_id == ours.local_id
    assert b.open(PROTOCOL, b"next").local_id == theirs.local_id
    transfer(a, b)
    assert [type(e) for e in transfer(b, a)] == [ChannelOpened]


def test_a_number_closed_before_the_answer_stays_taken_until_it_comes():
    a, b = Mux(), Mux()
    ours = a.open(PROTOCOL, None)
    ours.close()
    assert a.open(PROTOCOL, b"other").local_id == 2
    theirs = b.open(PROTOCOL, None)
    events = transfer(a, b)
    assert events[:2] == [ChannelOpened(theirs, b""), ChannelClosed(theirs)]
    assert transfer(b, a) == []
    assert a.open(PROTOCOL, b"third").local_id == 1
    assert [type(e) for e in transfer(a, b)] == [RemoteOpen]


def test_an_opening_closed_before_our_answer_is_rejected_for_us():
    a, b = Mux(), Mux()
    ours = a.open(PROTOCOL, None)
    (asked,) = transfer(a, b)
    ours.close()
    assert transfer(a, b) == []
    b.reject(asked)
    assert transfer(b, a) == []
    assert a.open(PROTOCOL, None).local_id == 1
    assert [type(e) for e in transfer(a, b)] == [RemoteOpen]


def test_opening_what_the_peer_closed_meanwhile_opens_anew():
    a, b = Mux(), Mux()
    ours = a.open(PROTOCOL, None)
    (asked,) = transfer(a, b)
    ours.close()
    transfer(a, b)
    theirs = b.open(asked.protocol, asked.id)
    assert b.events() == []
    (again,) = transfer(b, a)
    assert isinstance(again, RemoteOpen)
    second = a.open(again.protocol, again.id)
    assert transfer(a, b) == [ChannelOpened(theirs, b"")]
    assert second.opened


def test_messages_for_a_channel_closed_here_are_ignored():
    a, b, ours, theirs = opened_pair()
    theirs.send(0, b"on its way")
    ours.close()
    assert transfer(b, a) == []


def test_empty_messages_and_controls_of_the_future_are_ignored():
    assert Mux().receive(b"") == []
    assert Mux().receive(b"\x00\x09anything") == []


def test_the_control_channel_cannot_be_opened():
    b = Mux()
    assert b.receive(b"\x00\x01\x00\x01x\x00") == []
    assert b.data_to_send() == [b"\x00\x02\x00"]


# -- batches ---------------------------------------------------------------------------------------


def test_corks_nest():
    a, b, ours, theirs = opened_pair()
    a.cork()
    a.cork()
    ours.send(0, b"one")
    a.uncork()
    assert a.data_to_send() == []
    a.uncork()
    assert transfer(a, b) == [ChannelMessage(theirs, 0, b"one")]
    with pytest.raises(LocalProtocolError):
        a.uncork()


def test_large_messages_stay_out_of_batches_and_in_order():
    a, b, ours, _ = opened_pair()
    large = bytes(BATCHED_MESSAGE_BYTES)
    a.cork()
    for body in (b"one", large, b"two", b"three"):
        ours.send(0, body)
    a.uncork()
    frames = a.data_to_send()
    assert len(frames) == 3
    events = [event for frame in frames for event in b.receive(frame)]
    assert bodies(events) == [b"one", large, b"two", b"three"]


def test_batches_stay_near_their_size():
    a, b, ours, theirs = opened_pair()
    a.cork()
    for number in range(600):
        ours.send(0, number.to_bytes(2, "big") * 512)
    a.uncork()
    frames = a.data_to_send()
    assert len(frames) == 3
    assert all(len(frame) < BATCH_BYTES + BATCHED_MESSAGE_BYTES for frame in frames)
    events = [event for frame in frames for event in b.receive(frame)]
    assert [int.from_bytes(body[:2], "big") for body in bodies(events)] == list(range(600))
    assert all(event.channel is theirs for event in events)


@pytest.mark.parametrize(
    "frame",
    [
        b"\x00\x00",  # no channel
        b"\x00\x00\x01\x05\x00",  # an item longer than the batch
        b"\x00\x00\x01\x01\xfd\x01\x00",  # a type longer than its item
        b"\x00\x00\x00\x02\x00\x01",  # a batch in a batch
        b"\x00\x00\x01\x00",  # a switch to no channel
    ],
)
def test_damaged_batches_are_refused(frame):
    with pytest.raises(DecodeError):
        Mux().receive(frame)


# -- peers that break the rules --------------------------------------------------------------------


def opening(number, name=b""):
    return Writer().fixed(b"\x00\x01").uint(number).string(PROTOCOL).buffer(name or None).finish()


def test_numbers_must_be_the_next_or_free():
    with pytest.raises(RemoteProtocolError):
        Mux().receive(opening(2))
    b = Mux()
    b.receive(opening(1))
    with pytest.raises(RemoteProtocolError):
        b.receive(opening(1))


def test_rejecting_what_was_not_opened_is_refused():
    with pytest.raises(RemoteProtocolError):
        Mux().receive(b"\x00\x02\x01")
    a, _, ours, _ = opened_pair()
    with pytest.raises(RemoteProtocolError):
        a.receive(b"\x00\x02" + encode_uint(ours.local_id))


def test_closing_what_was_not_opened_is_ignored():
    assert Mux().receive(b"\x00\x03\x07") == []


def test_a_peer_cannot_open_more_than_waits_for_us(monkeypatch):
    monkeypatch.setattr(mux_module, "MAX_PENDING_OPENS", 3)
    b = Mux()
    for number in range(1, 4):
        b.receive(opening(number))
    with pytest.raises(LimitExceeded):
        b.receive(opening(4))


def test_a_peer_cannot_open_channels_without_end(monkeypatch):
    monkeypatch.setattr(mux_module, "MAX_REMOTE_CHANNELS", 3)
    b = Mux()
    for number in range(1, 4):
        (event,) = b.receive(opening(number))
        b.open(event.protocol, event.id)
        b.events()
    with pytest.raises(LimitExceeded):
        b.receive(opening(4))


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_a_peer_cannot_fill_our_memory_before_we_answer(size):
    b = Mux()
    b.receive(opening(1))
    message = b"\x01\x00" + bytes(size)
    before = b._pending_bytes
    b.receive(message)
    cost = b._pending_bytes - before
    assert cost >= max(size, 64)
    for _ in range((mux_module.MAX_PENDING_BYTES - before) // cost - 1):
        b.receive(message)
    with pytest.raises(LimitExceeded):
        b.receive(message)


def test_a_batch_of_nothing_but_messages_is_bounded():
    b = Mux()
    b.receive(opening(1))
    b.open(PROTOCOL, None)
    item = b"\x01\x00"
    b.receive(b"\x00\x00\x01" + item * MAX_BATCH_MESSAGES)
    with pytest.raises(LimitExceeded):
        b.receive(b"\x00\x00\x01" + item * (MAX_BATCH_MESSAGES + 1))
