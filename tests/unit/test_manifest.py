"""Manifests, keys and signatures against the reference."""

from __future__ import annotations

from dataclasses import replace

import pytest

from corestore import crypto
from corestore.errors import DecodeError, InvalidSignature, NotWritable
from corestore.keys import Key, KeyPair
from corestore.manifest import (
    MAX_SIGNERS,
    Manifest,
    ManifestVerifier,
    PartialSignature,
    Prologue,
    Signer,
    assemble,
    derive,
    manifest_key,
    sign,
    sign_partial,
    signable,
)
from corestore.tree import EMPTY_HEAD, Head, Node, append, flat
from tests.support.trees import Nodes
from tests.support.vectors import load, unhex

CRYPTO = load("crypto")
SIGNATURES = CRYPTO["signatures"]
PAIRS = [KeyPair.from_seed(bytes([i]) * 32) for i in range(5)]


def optional(value):
    return None if value is None else unhex(value)


def manifest_of(value) -> Manifest:
    prologue = value["prologue"]
    linked = value["linked"]
    return Manifest(
        version=value["version"],
        allow_patch=value["allowPatch"],
        quorum=value["quorum"],
        signers=tuple(
            Signer(unhex(s["publicKey"]), unhex(s["namespace"])) for s in value["signers"]
        ),
        prologue=prologue and Prologue(unhex(prologue["hash"]), prologue["length"]),
        linked=None if linked is None else tuple(unhex(key) for key in linked),
        user_data=optional(value["userData"]),
    )


def by_name(vector):
    return vector["name"]


@pytest.mark.parametrize("vector", CRYPTO["manifests"], ids=by_name)
def test_manifests_and_keys_match_the_reference(vector):
    manifest = manifest_of(vector["manifest"])
    encoded = unhex(vector["encoded"])
    assert manifest.encode() == encoded
    assert Manifest.decode(encoded + b"ignored") == manifest
    key = manifest_key(manifest)
    assert key == unhex(vector["key"])
    assert key.discovery_key == unhex(vector["discoveryKey"])
    assert str(key) == vector["id"]


def test_the_default_manifest_is_70_bytes_of_version_1():
    manifest = Manifest.default(bytes(32))
    head = bytes.fromhex("010000010100")
    assert manifest.encode() == head + crypto.DEFAULT_NAMESPACE + bytes(32)


@pytest.mark.parametrize("vector", CRYPTO["signable"], ids=lambda v: f"{v['kind']} {v['fork']}")
def test_signables_match_the_reference(vector):
    context = unhex(vector["manifestHash"]) if vector["kind"] == "manifest" else None
    made = signable(context, unhex(vector["treeHash"]), vector["length"], vector["fork"])
    assert made == unhex(vector["signable"])


def head_of(vector) -> Head:
    batch = append(EMPTY_HEAD, [b"block-%d" % i for i in range(vector["length"])])
    assert batch.tree_hash() == unhex(vector["treeHash"])
    return replace(batch.head(unhex(vector["signature"])), fork=vector["fork"])


def signature_id(vector):
    return f"{vector['name']} length {vector['length']}"


@pytest.mark.parametrize("vector", SIGNATURES, ids=signature_id)
def test_signatures_of_the_reference_verify_and_no_others(vector):
    head = head_of(vector)
    manifest = Manifest.decode(unhex(vector["manifest"]))
    verifier = ManifestVerifier(manifest, unhex(vector["key"]))
    assert verifier.compat == vector["compat"]
    verifier.verify(head)
    wrong = [
        replace(head, fork=head.fork + 1),
        replace(head, length=head.length + 1),
        replace(head, roots=(*head.roots[:-1], head.roots[-1]._replace(size=1))),
        replace(head, signature=b""),
        replace(head, signature=head.signature[:-1] if verifier.compat else head.signature[:60]),
    ]
    for bit in range(8 * len(head.signature)):
        flipped = bytearray(head.signature)
        flipped[bit >> 3] ^= 1 << (bit & 7)
        wrong.append(replace(head, signature=bytes(flipped)))
    accepted = []
    for other in wrong:
        try:
            verifier.verify(other)
        except InvalidSignature:
            continue
        accepted.append(other)
    # The version 0 container has unused flag bits; nothing else may vary.
    flags = 2 * 7 if vector.get("v0multi") else 0
    assert len(accepted) <= flags


@pytest.mark.parametrize("vector", [v for v in SIGNATURES if "secretKey" in v], ids=signature_id)
def test_our_signatures_equal_the_reference(vector):
    secret = unhex(vector["secretKey"])
    pair = KeyPair(secret[32:], secret)
    manifest = Manifest.decode(unhex(vector["manifest"]))
    head = head_of(vector)
    assert sign(manifest, unhex(vector["key"]), pair, head) == head.signature


def test_a_core_without_a_manifest_is_taken_for_a_compat_core():
    batch = append(EMPTY_HEAD, [b"a", b"b"])
    key = PAIRS[0].public_key
    verifier = ManifestVerifier(None, key)
    assert verifier.compat
    assert verifier.prologue is None
    head = batch.head(sign(verifier.manifest, key, PAIRS[0], batch))
    assert len(head.signature) == 64
    verifier.verify(head)
    with pytest.raises(InvalidSignature):
        ManifestVerifier(None, PAIRS[1].public_key).verify(head)


def test_a_manifest_that_is_not_the_keys_is_refused():
    manifest = Manifest.default(PAIRS[0].public_key)
    with pytest.raises(InvalidSignature, match="manifest"):
        ManifestVerifier(manifest, bytes(32))
    # Two signers, the first of which is the key, do not make a compat core.
    two = Manifest.of_signers([Signer(p.public_key) for p in PAIRS[:2]])
    with pytest.raises(InvalidSignature, match="manifest"):
        ManifestVerifier(two, PAIRS[0].public_key)


def test_only_a_signer_can_sign():
    manifest = Manifest.default(PAIRS[0].public_key)
    with pytest.raises(NotWritable):
        sign(manifest, manifest_key(manifest), PAIRS[1], EMPTY_HEAD)


# -- quorums -------------------------------------------------------------------------------------


def core_of(count, quorum=None, **changes):
    manifest = Manifest.of_signers([Signer(p.public_key) for p in PAIRS[:count]], quorum=quorum)
    manifest = replace(manifest, **changes)
    return manifest, manifest_key(manifest), ManifestVerifier(manifest, manifest_key(manifest))


@pytest.mark.parametrize(("signers", "majority"), [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (5, 3)])
def test_a_quorum_is_a_majority_by_default(signers, majority):
    assert Manifest.of_signers([Signer(p.public_key) for p in PAIRS[:signers]]).quorum == majority


@pytest.mark.parametrize("quorum", [-1, 4])
def test_a_quorum_that_cannot_be_met_is_refused(quorum):
    with pytest.raises(ValueError, match="out of 3"):
        core_of(3, quorum)


@pytest.mark.parametrize("version", [0, 1, 2])
def test_a_quorum_of_different_signers_must_sign(version):
    manifest, key, verifier = core_of(3, version=version)
    batch = append(EMPTY_HEAD, [b"a", b"b", b"c"])
    parts = [sign_partial(manifest, key, pair, batch) for pair in PAIRS[:3]]
    for chosen in ([0, 1], [2, 0], [1, 2], [0, 1, 2]):
        verifier.verify(batch.head(assemble(manifest, [parts[i] for i in chosen])))
    for chosen in ([0], [1, 1], [], [0, 0, 1]):
        with pytest.raises(InvalidSignature):
            verifier.verify(batch.head(assemble(manifest, [parts[i] for i in chosen])))
    swapped = [replace(parts[0], signer=1), replace(parts[1], signer=0)]
    stranger = [replace(parts[0], signer=3), parts[1]]
    for wrong in (swapped, stranger):
        with pytest.raises(InvalidSignature):
            verifier.verify(batch.head(assemble(manifest, wrong)))
    with pytest.raises(NotWritable, match="signatures of 2"):
        sign(manifest, key, PAIRS[0], batch)


def test_one_of_several_signers_is_enough_if_the_quorum_says_so():
    manifest, key, verifier = core_of(3, quorum=1)
    batch = append(EMPTY_HEAD, [b"a"])
    for pair in PAIRS[:3]:
        verifier.verify(batch.head(sign(manifest, key, pair, batch)))


def test_nobody_can_sign_for_a_quorum_of_none():
    manifest, key, verifier = core_of(3, quorum=0)
    batch = append(EMPTY_HEAD, [b"a"])
    part = sign_partial(manifest, key, PAIRS[0], batch)
    with pytest.raises(InvalidSignature):
        verifier.verify(batch.head(assemble(manifest, [part])))


def patched(manifest, key, pair, blocks, length):
    """The part of a signer who signed all the blocks, for their first *length*."""
    longer = append(EMPTY_HEAD, blocks)
    nodes = Nodes(longer.nodes)
    part = sign_partial(manifest, key, pair, longer)
    path = flat.upgrade_nodes(2 * length, 2 * len(blocks))
    return replace(
        part, patch=len(blocks) - length, nodes=tuple(nodes.node(index) for index in path)
    )


def test_a_signer_may_have_signed_a_longer_log_if_the_manifest_allows_patches():
    blocks = [b"block-%d" % i for i in range(13)]
    for length in range(1, 12):
        batch = append(EMPTY_HEAD, blocks[:length])
        for allowed in (True, False):
            manifest, key, verifier = core_of(3, allow_patch=allowed)
            parts = [
                sign_partial(manifest, key, PAIRS[1], batch),
                patched(manifest, key, PAIRS[0], blocks, length),
            ]
            head = batch.head(assemble(manifest, parts))
            if allowed:
                verifier.verify(head)
            else:
                with pytest.raises(InvalidSignature):
                    verifier.verify(head)


def test_a_patched_signature_is_assembled_as_the_reference_does():
    (vector,) = (v for v in SIGNATURES if v.get("patched"))
    manifest = Manifest.decode(unhex(vector["manifest"]))
    signature = unhex(vector["signature"])
    blocks = [b"block-%d" % i for i in range(8)]
    nodes = Nodes(append(EMPTY_HEAD, blocks).nodes)
    # Two parts of 66 bytes follow the count: signer, signature, patch.
    assert (signature[0], signature[1], signature[67]) == (2, 1, 0)
    parts = [
        PartialSignature(1, signature[2:66]),
        PartialSignature(0, signature[68:132], 3, (nodes.node(10), nodes.node(13))),
    ]
    assert assemble(manifest, parts) == signature


def test_a_patch_that_leads_nowhere_is_refused():
    manifest, key, verifier = core_of(3, allow_patch=True)
    blocks = [b"block-%d" % i for i in range(8)]
    batch = append(EMPTY_HEAD, blocks[:5])
    good = patched(manifest, key, PAIRS[0], blocks, 5)
    other = sign_partial(manifest, key, PAIRS[1], batch)
    for wrong in (
        replace(good, nodes=good.nodes[:1]),
        replace(good, patch=2),
        replace(good, patch=2**53 - 1),
        replace(good, nodes=(good.nodes[0], Node(13, 2**53 - 1, bytes(32)))),
        replace(good, nodes=(good.nodes[0], good.nodes[1]._replace(size=1))),
    ):
        with pytest.raises(InvalidSignature):
            verifier.verify(batch.head(assemble(manifest, [wrong, other])))


def test_version_0_signatures_with_a_patch_are_read_and_not_written():
    manifest, key, verifier = core_of(2, version=0, allow_patch=True)
    blocks = [b"block-%d" % i for i in range(8)]
    batch = append(EMPTY_HEAD, blocks[:5])
    part = patched(manifest, key, PAIRS[0], blocks, 5)
    other = sign_partial(manifest, key, PAIRS[1], batch)
    with pytest.raises(ValueError, match="patch"):
        assemble(manifest, [part, other])
    # flags, signer, signature, then start, length and indexes of the patch
    encoded = b"\x02\x01\x00" + part.signature + b"\x08\x03\x02\x00\x01"
    encoded += b"\x00\x01" + other.signature + b"\x02"
    for node in part.nodes:
        encoded += bytes([node.index, node.size]) + node.hash
    verifier.verify(batch.head(encoded))


# -- prologues -----------------------------------------------------------------------------------


def test_a_static_core_has_one_length():
    blocks = [b"a", b"b", b"c"]
    batch = append(EMPTY_HEAD, blocks)
    manifest = Manifest(quorum=0, prologue=Prologue(batch.tree_hash(), 3))
    verifier = ManifestVerifier(manifest, manifest_key(manifest))
    verifier.verify(batch.head(b""))
    verifier.verify(batch.head(b"anything"))
    for wrong in (blocks[:2], [*blocks, b"d"], [b"a", b"b", b"x"]):
        with pytest.raises(InvalidSignature):
            verifier.verify(append(EMPTY_HEAD, wrong).head(b""))


# -- derived cores -------------------------------------------------------------------------------


def test_content_cores_are_derived_as_the_reference_does():
    drive = load("hyperdrive")
    metadata = Manifest.decode(unhex(drive["metadataManifest"]))
    content = derive(metadata, crypto.namespace("hyperdrive", 0), unhex(drive["key"]))
    assert content.encode() == unhex(drive["contentManifest"])
    assert manifest_key(content) == unhex(drive["contentKey"])


def test_a_derived_core_keeps_the_signers_and_drops_the_rest():
    manifest = replace(
        Manifest.of_signers([Signer(p.public_key) for p in PAIRS[:3]]),
        version=2,
        allow_patch=True,
        prologue=Prologue(bytes(32), 4),
        linked=(bytes(32),),
        user_data=b"x",
    )
    key = manifest_key(manifest)
    made = derive(manifest, b"salt", key)
    assert [s.public_key for s in made.signers] == [p.public_key for p in PAIRS[:3]]
    expected = crypto.hash_bytes(b"salt" + key + crypto.DEFAULT_NAMESPACE)
    assert made.signers[0].namespace == expected
    assert (made.version, made.quorum, made.allow_patch) == (2, 2, True)
    assert (made.prologue, made.linked, made.user_data) == (None, None, None)
    assert isinstance(manifest_key(made), Key)


# -- bytes that are none -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "01",
        "04000001" + "00" * 70,  # an unknown version
        "01000101" + "00" * 70,  # an unknown hash
        "0000" + "03" + "00" * 70,  # an unknown type of version 0
        "010000010101" + "00" * 64,  # an unknown signature
        "0100000101" + "00" * 60,  # a signer cut short
        "01000001fe00001000",  # a million signers in no bytes
        "0102000000" + "00" * 32,  # a prologue without its length
        "020800010005ff",  # user data cut short
    ],
)
def test_bytes_that_are_no_manifest_are_refused(text):
    with pytest.raises(DecodeError):
        Manifest.decode(bytes.fromhex(text))


def test_more_signers_than_anybody_has_are_refused():
    signers = [Signer(bytes(32))] * (MAX_SIGNERS + 1)
    with pytest.raises(DecodeError, match="signers"):
        Manifest.decode(Manifest.of_signers(signers).encode())
    linked = replace(Manifest.default(bytes(32)), version=2, linked=(bytes(32),) * 5000)
    with pytest.raises(DecodeError, match="linked"):
        Manifest.decode(linked.encode())
