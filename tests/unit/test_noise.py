"""The Noise handshake against the reference's exchange, and against peers that cheat."""

from __future__ import annotations

import pytest

from corestore.errors import DecodeError, LocalProtocolError, RemoteProtocolError
from corestore.keys import KeyPair
from corestore.wire.noise import Handshake
from tests.support.vectors import load, unhex

VECTORS = load("secret-stream")
SEEDS = {name: KeyPair.from_seed(unhex(seed)) for name, seed in VECTORS["seeds"].items()}


def known_pair():
    return (
        Handshake(True, SEEDS["initiatorStatic"], ephemeral=SEEDS["initiatorEphemeral"]),
        Handshake(False, SEEDS["responderStatic"], ephemeral=SEEDS["responderEphemeral"]),
    )


def test_the_exchange_matches_the_reference():
    initiator, responder = known_pair()
    sent = []
    for sender, receiver in ((initiator, responder), (responder, initiator)) * 2:
        if sender.sends_next:
            sent.append(sender.send())
            receiver.receive(sent[-1])
    assert [m.hex() for m in sent] == [VECTORS[f"message{n}"] for n in (1, 2, 3)]
    assert initiator.done
    assert responder.done
    assert initiator.handshake_hash == responder.handshake_hash == unhex(VECTORS["handshakeHash"])
    assert initiator.tx_key == responder.rx_key == unhex(VECTORS["initiatorTx"])
    assert initiator.rx_key == responder.tx_key == unhex(VECTORS["initiatorRx"])
    assert initiator.remote_public_key == SEEDS["responderStatic"].public_key
    assert responder.remote_public_key == SEEDS["initiatorStatic"].public_key


def test_two_exchanges_of_the_same_peers_share_nothing():
    def run():
        initiator = Handshake(True, SEEDS["initiatorStatic"])
        responder = Handshake(False, SEEDS["responderStatic"])
        responder.receive(initiator.send())
        initiator.receive(responder.send())
        responder.receive(initiator.send())
        return initiator

    one, two = run(), run()
    assert one.handshake_hash != two.handshake_hash
    assert len({one.tx_key, one.rx_key, two.tx_key, two.rx_key}) == 4


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_message_of_another_size_is_refused(step):
    initiator, responder = known_pair()
    sides = [(initiator, responder), (responder, initiator), (initiator, responder)]
    for sender, receiver in sides[:step]:
        receiver.receive(sender.send())
    sender, receiver = sides[step]
    message = sender.send()
    for wrong in (message[:-1], message + b"\x00", b""):
        with pytest.raises(DecodeError):
            receiver.receive(wrong)
    receiver.receive(message)


@pytest.mark.parametrize(("step", "at"), [(1, 40), (1, 90), (2, 0), (2, 63)])
def test_a_changed_bit_is_noticed(step, at):
    initiator, responder = known_pair()
    responder.receive(initiator.send())
    sender, receiver = responder, initiator
    if step == 2:
        initiator.receive(responder.send())
        sender, receiver = initiator, responder
    message = bytearray(sender.send())
    message[at] ^= 1
    with pytest.raises(RemoteProtocolError):
        receiver.receive(bytes(message))


# The neutral element and a point of order 8: a peer that sends one tries to know our secret.
@pytest.mark.parametrize(
    "point",
    [
        b"\x01" + bytes(31),
        bytes(32),
        unhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
        b"\xff" * 32,
    ],
)
def test_a_key_that_is_no_usable_point_is_refused(point):
    responder = Handshake(False, SEEDS["responderStatic"])
    responder.receive(point)
    with pytest.raises(RemoteProtocolError):
        responder.send()


def test_out_of_turn_is_our_own_fault():
    initiator, responder = known_pair()
    with pytest.raises(LocalProtocolError):
        responder.send()
    with pytest.raises(LocalProtocolError):
        initiator.receive(bytes(96))
    responder.receive(initiator.send())
    initiator.receive(responder.send())
    responder.receive(initiator.send())
    for side in (initiator, responder):
        with pytest.raises(LocalProtocolError):
            side.send()
        with pytest.raises(LocalProtocolError):
            side.receive(bytes(64))
