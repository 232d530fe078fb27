"""The replication messages against the reference's bytes."""

from __future__ import annotations

import pytest

from corestore.errors import DecodeError, InvalidCapability
from corestore.manifest import Manifest
from corestore.replication.messages import (
    MAX_NODES,
    PROTOCOL,
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
    capability,
    check_capability,
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
from corestore.wire.mux import ChannelMessage, ChannelOpened, Mux
from tests.support.vectors import load, unhex

VECTORS = [v for v in load("replication-messages")["vectors"] if v["type"] is not None]
HANDSHAKES = [v for v in load("replication-messages")["vectors"] if v["type"] is None]
PROOFS = [
    (core, entry)
    for core in load("proofs")["cores"]
    for entry in core["requests"]
    if "data" in entry
]


def nodes(values):
    return tuple(Node(v["index"], v["size"], unhex(v["hash"])) for v in values)


def part(value, build):
    return None if value is None else build(value)


def sync(v):
    return Sync(
        v["fork"],
        v["length"],
        v["remoteLength"],
        v["canUpgrade"],
        v["uploading"],
        v["downloading"],
        v["hasManifest"],
        v["allowPush"],
    )


def request(v):
    return RequestMessage(
        v["id"],
        Request(
            v["fork"],
            part(v["block"], lambda b: BlockRequest(b["index"], b["nodes"])),
            part(v["hash"], lambda h: HashRequest(h["index"], h["nodes"])),
            part(v["seek"], lambda s: SeekRequest(s["bytes"], s["padding"])),
            part(v["upgrade"], lambda u: UpgradeRequest(u["start"], u["length"])),
        ),
        v["manifest"],
        v["priority"],
    )


def data(v, manifest):
    return Data(
        v["request"],
        Proof(
            v["fork"],
            part(
                v["block"], lambda b: BlockProof(b["index"], unhex(b["value"]), nodes(b["nodes"]))
            ),
            part(v["hash"], lambda h: HashProof(h["index"], nodes(h["nodes"]))),
            part(v["seek"], lambda s: SeekProof(s["bytes"], nodes(s["nodes"]))),
            part(
                v["upgrade"],
                lambda u: UpgradeProof(
                    u["start"],
                    u["length"],
                    nodes(u["nodes"]),
                    nodes(u["additionalNodes"]),
                    unhex(u["signature"] or ""),
                ),
            ),
        ),
        manifest,
    )


def words(v):
    return b"".join(word.to_bytes(4, "little") for word in v["bitfield"])


def expected(vector):
    v = vector["value"]
    match vector["message"]:
        case "sync":
            return sync(v)
        case "request":
            return request(v)
        case "cancel":
            return Cancel(v["request"])
        case "data":
            manifest = v["manifest"]
            if manifest is not None:
                signer = manifest["signers"][0]
                manifest = Manifest.default(
                    unhex(signer["publicKey"]), namespace=unhex(signer["namespace"])
                )
            return data(v, manifest)
        case "noData":
            return NoData(v["request"], v["reason"])
        case "want":
            return Want(v["start"], v["length"], v["any"])
        case "unwant":
            return Unwant(v["start"], v["length"], v["any"])
        case "bitfield":
            return BitfieldMessage(v["start"], words(v))
        case "range":
            return Range(v["start"], v["length"], v["drop"])
        case "extension":
            return Extension(v["name"], unhex(v["message"]))
    raise AssertionError(vector["message"])


def name(vector):
    return f"{vector['message']}-{vector['hex'][:12]}"


@pytest.mark.parametrize("vector", VECTORS, ids=name)
def test_messages_match_the_reference(vector):
    message = expected(vector)
    assert encode(message) == (vector["type"], unhex(vector["hex"]))
    assert decode(vector["type"], unhex(vector["hex"])) == message


@pytest.mark.parametrize("vector", VECTORS, ids=name)
def test_messages_decode_from_a_slice_of_a_larger_buffer(vector):
    body = unhex(vector["hex"])
    view = memoryview(b"before" + body)[6:]
    assert decode(vector["type"], view) == expected(vector)


@pytest.mark.parametrize("vector", VECTORS, ids=name)
def test_a_message_cut_short_is_refused_or_an_older_form(vector):
    body = unhex(vector["hex"])
    for end in range(len(body)):
        try:
            message = decode(vector["type"], body[:end])
        except DecodeError:
            continue
        # Only fields that older peers leave out, and raw payloads, may be missing.
        assert isinstance(message, NoData | Want | Unwant | Extension)


@pytest.mark.parametrize("vector", HANDSHAKES)
def test_the_handshake_matches_the_reference(vector):
    handshake = OpenHandshake(unhex(vector["value"]["capability"]), vector["value"]["seeks"])
    assert encode_handshake(handshake) == unhex(vector["hex"])
    assert decode_handshake(unhex(vector["hex"])) == handshake


@pytest.mark.parametrize(("core", "entry"), PROOFS)
def test_proofs_of_the_reference_read_back(core, entry):
    body = unhex(entry["data"])
    message = decode(MessageType.DATA, body)
    assert isinstance(message, Data)
    assert message.id == 1
    asked = entry["request"]
    assert (message.proof.block is not None) == (asked.get("block") is not None)
    assert (message.proof.upgrade is not None) == (asked.get("upgrade") is not None)
    assert encode(message) == (MessageType.DATA, body)


def test_trailing_bytes_are_ignored():
    assert decode(MessageType.CANCEL, b"\x07\xff\xff") == Cancel(7)


def test_a_no_data_of_older_peers_has_no_reason():
    assert decode(MessageType.NO_DATA, b"\x09") == NoData(9, 0)


def test_a_message_type_of_the_future_is_none():
    assert decode(10, b"anything") is None


def test_a_bitfield_between_two_words_is_refused():
    with pytest.raises(DecodeError):
        decode(MessageType.BITFIELD, b"\x21\x00")
    with pytest.raises(ValueError, match="multiple of 32"):
        encode(BitfieldMessage(33, bytes(4)))


def test_more_nodes_than_any_proof_needs_are_refused():
    node = b"\x00\x00" + bytes(32)
    count = MAX_NODES + 1
    body = b"\x02\x01\x00\x00\xfd" + count.to_bytes(2, "little") + node * count
    with pytest.raises(DecodeError):
        decode(MessageType.DATA, body)


SESSION = load("replication-session")


def test_capabilities_differ_by_side_and_match_the_reference():
    key, handshake_hash = unhex(SESSION["key"]), unhex(SESSION["handshakeHash"])
    text = "".join(frame["hex"] for frame in SESSION["frames"])
    for initiator in (True, False):
        assert capability(key, handshake_hash, initiator=initiator).hex() in text


def test_a_capability_of_the_other_side_is_refused():
    key, handshake_hash = unhex(SESSION["key"]), unhex(SESSION["handshakeHash"])
    shown = OpenHandshake(capability(key, handshake_hash, initiator=True))
    check_capability(shown, key, handshake_hash, initiator=True)
    with pytest.raises(InvalidCapability):
        check_capability(shown, key, handshake_hash, initiator=False)
    with pytest.raises(InvalidCapability):
        check_capability(shown, bytes(32), handshake_hash, initiator=True)


@pytest.mark.parametrize("side", ["A", "B"])
def test_what_two_reference_peers_said_reads_and_writes_the_same(side):
    mux = Mux()
    if side == "B":
        mux.open(PROTOCOL, b"unrelated")
    mux.open(PROTOCOL, unhex(SESSION["discoveryKey"]))
    count = 0
    for frame in SESSION["frames"]:
        for event in mux.receive(unhex(frame["hex"])) if frame["from"] == side else ():
            if isinstance(event, ChannelOpened):
                handshake = decode_handshake(event.handshake)
                assert handshake.seeks
                check_capability(
                    handshake,
                    unhex(SESSION["key"]),
                    unhex(SESSION["handshakeHash"]),
                    initiator=side == "A",
                )
            elif isinstance(event, ChannelMessage):
                count += 1
                message = decode(event.type, event.body)
                assert encode(message) == (event.type, event.body)
    assert count > 5
