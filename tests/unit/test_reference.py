"""What the reference says about the small things: encodings, keys, roots, ids, sizes.

The tests of each part assert its own vectors; here is what none of them has a place for, so that
every value in `tests/vectors` is compared with something.
"""

from __future__ import annotations

import json
import re

import pytest

from corestore import Manifest, Node, crypto, manifest_key
from corestore import keys as corestore_keys
from corestore.encoding import Reader, Writer
from corestore.encryption import BlockCipher, block_key
from corestore.keys import Key, KeyPair
from corestore.tree.batch import append
from corestore.tree.types import EMPTY_HEAD
from corestore.wire import noise, secretstream
from hyperfs.blobs import BLOCK_BYTES
from hyperfs.hyperbee.tree import Bee
from hyperfs.index.node import NodeCache
from tests.support.blocks import Blocks
from tests.support.vectors import load, unhex

CRYPTO = load("crypto")
ENCODINGS = load("compact-encoding")["vectors"]
DRIVE = load("hyperdrive")


def of_type(*names):
    return [vector for vector in ENCODINGS if vector["type"] in names]


def nodes(values):
    return tuple(Node(v["index"], v["size"], unhex(v["hash"])) for v in values)


# -- compact encoding ------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", of_type("buffer", "optionalBuffer"))
def test_buffers_match_the_reference(vector):
    encoded, value = unhex(vector["hex"]), vector["value"]
    plain = None if value is None else unhex(value)
    assert Writer().buffer(plain).finish() == encoded
    if vector["type"] == "buffer":
        assert Reader(encoded).buffer() == plain
    else:
        # An empty one and none are the same on the wire.
        assert Reader(encoded).optional_buffer() == (plain or None)


@pytest.mark.parametrize("vector", of_type("fixed32"))
def test_fixed_bytes_match_the_reference(vector):
    assert Reader(unhex(vector["hex"])).fixed(32) == unhex(vector["value"])
    assert Writer().fixed(unhex(vector["value"])).finish() == unhex(vector["hex"])


@pytest.mark.parametrize("vector", of_type("uint32array"))
def test_words_match_the_reference(vector):
    words = b"".join(word.to_bytes(4, "little") for word in vector["value"])
    assert Reader(unhex(vector["hex"])).uint32_array() == words
    assert Writer().uint(len(vector["value"])).fixed(words).finish() == unhex(vector["hex"])


@pytest.mark.parametrize("vector", of_type("array(uint)", "array(string)"))
def test_arrays_match_the_reference(vector):
    read, write = {
        "array(uint)": (Reader.uint, Writer.uint),
        "array(string)": (Reader.string, Writer.string),
    }[vector["type"]]
    assert Reader(unhex(vector["hex"])).array(read) == list(vector["value"])
    assert Writer().array(list(vector["value"]), write).finish() == unhex(vector["hex"])


@pytest.mark.parametrize("vector", of_type("frame(string)"))
def test_frames_match_the_reference(vector):
    inner = Writer().string(vector["value"]).finish()
    assert Writer().buffer(inner).finish() == unhex(vector["hex"])
    assert Reader(Reader(unhex(vector["hex"])).buffer()).string() == vector["value"]


def test_no_type_is_left_out():
    tested = {"uint", "buffer", "optionalBuffer", "string", "fixed32", "uint32array"}
    tested |= {"array(uint)", "array(string)", "frame(string)"}
    in_nothing_of_ours = {"int", "uint16", "uint32", "uint64", "bool"}
    assert {vector["type"] for vector in ENCODINGS} == tested | in_nothing_of_ours


# -- keys and hashes -------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", CRYPTO["keyPairs"])
def test_a_seed_leads_to_a_key_pair_and_its_signatures(vector):
    pair = KeyPair.from_seed(unhex(vector["seed"]))
    assert pair.public_key == unhex(vector["publicKey"])
    assert pair.secret_key == unhex(vector["secretKey"])
    assert pair.sign(b"hello") == unhex(vector["signatureOfHello"])


def test_namespaces_have_their_uses():
    names = CRYPTO["hypercoreNamespaceNames"]
    ours = [getattr(crypto, name) for name in names]
    assert [value.hex() for value in ours] == CRYPTO["namespaces"]["hypercore"][: len(ours)]
    corestore = load("corestore")
    assert unhex(corestore["namespaceConstant"]) == crypto.CORESTORE
    assert unhex(corestore["defaultNamespace"]) == corestore_keys.ROOT_NAMESPACE


@pytest.mark.parametrize("vector", load("corestore")["vectors"])
def test_secret_keys_of_names_match_the_reference(vector):
    namespace = unhex(vector["namespace"])
    primary_key = unhex(vector["primaryKey"])
    pair = corestore_keys.derive_key_pair(primary_key, namespace, vector["name"])
    if "secretKey" in vector:
        assert pair.secret_key == unhex(vector["secretKey"])


@pytest.mark.parametrize("vector", load("corestore")["corestore6"]["vectors"])
def test_the_generation_before_makes_compat_cores_and_version_0(vector):
    namespace = corestore_keys.ROOT_NAMESPACE
    for name in vector["namespaces"]:
        namespace = corestore_keys.derive_namespace(namespace, name)
    primary_key = unhex(vector["primaryKey"])
    pair = corestore_keys.derive_key_pair(primary_key, namespace, vector["name"])
    assert pair.public_key == unhex(vector["publicKey"])
    if vector["compat"]:
        assert pair.public_key == unhex(vector["key"])
    else:
        manifest = Manifest.default(pair.public_key)
        whole = Manifest(version=vector["manifestVersion"], signers=manifest.signers)
        assert manifest_key(whole) == Key(unhex(vector["key"]))


@pytest.mark.parametrize("vector", CRYPTO["treeHash"])
def test_blocks_lead_to_roots(vector):
    last = int(re.fullmatch(r'ascii "block-<i>" for i in 0\.\.(\d+)', vector["blocks"])[1])
    batch = append(EMPTY_HEAD, [b"block-%d" % index for index in range(last + 1)])
    assert batch.roots == nodes(vector["roots"])
    assert (batch.length, batch.byte_length) == (vector["length"], vector["byteLength"])
    assert batch.tree_hash() == unhex(vector["hash"])


@pytest.mark.parametrize("core", load("proofs")["cores"])
def test_roots_of_the_cores_that_proofs_are_about(core):
    roots = nodes(core["roots"])
    assert crypto.tree_hash(roots) == unhex(core["treeHash"])
    assert sum(root.size for root in roots) == core["byteLength"]


@pytest.mark.parametrize("vector", [v for v in CRYPTO["signatures"] if "roots" in v])
def test_hashes_of_signed_trees_match_the_reference(vector):
    assert crypto.tree_hash(nodes(vector["roots"])) == unhex(vector["treeHash"])


@pytest.mark.parametrize("vector", CRYPTO["manifests"])
def test_manifests_are_of_the_only_kind_there_is(vector):
    manifest = vector["manifest"]
    assert manifest["hash"] == "blake2b"
    assert all(signer["signature"] == "ed25519" for signer in manifest["signers"])


@pytest.mark.parametrize("vector", load("block-encryption")["vectors"])
def test_keys_of_encrypted_blocks_match_the_reference(vector):
    encryption_key, core_key = unhex(vector["encryptionKey"]), unhex(vector["coreKey"])
    derived = block_key(encryption_key, core_key, compat=vector["compat"])
    of_block = encryption_key if vector["isBlockKey"] else derived
    assert of_block == unhex(vector["blockKey"])
    assert BlockCipher(of_block)._blinding_key == unhex(vector["blindingKey"])


# -- streams ---------------------------------------------------------------------------------------


def test_the_handshake_is_the_protocol_s():
    stream = load("secret-stream")
    assert stream["protocol"].encode() == noise._PROTOCOL_NAME
    assert stream["prologue"] == ""
    for side in ("initiator", "responder"):
        pair = KeyPair.from_seed(unhex(stream["seeds"][f"{side}Static"]))
        assert pair.public_key == unhex(stream[f"{side}StaticPublicKey"])
        ours = secretstream.stream_id(unhex(stream["handshakeHash"]), initiator=side == "initiator")
        assert ours == unhex(stream[f"{side}StreamId"])


# -- drives ----------------------------------------------------------------------------------------


def test_a_drive_s_keys_follow_from_its_name():
    namespace = corestore_keys.ROOT_NAMESPACE
    for name in DRIVE["corestoreNamespace"]:
        namespace = corestore_keys.derive_namespace(namespace, name)
    primary_key = unhex(DRIVE["primaryKey"])
    pair = corestore_keys.derive_key_pair(primary_key, namespace, DRIVE["coreName"])
    manifest = Manifest.default(pair.public_key)
    assert manifest.encode() == unhex(DRIVE["metadataManifest"])
    assert manifest_key(manifest) == Key(unhex(DRIVE["key"]))
    assert manifest_key(manifest).discovery_key == unhex(DRIVE["discoveryKey"])


def test_a_drive_s_records_are_the_reference_s():
    log = Blocks()
    log.blocks = [unhex(block) for block in DRIVE["metadataBlocks"]]
    items = Bee(len(log.blocks), log, NodeCache()).scan(b"", None, 100)
    raw = [(item.key.hex(), item.value.decode()) for item in items]
    assert raw == [(each["key"], each["value"]) for each in DRIVE["rawKeys"]]
    shown = [
        {"seq": item.seq, "key": item.key[6:].decode(), "value": json.loads(item.value)}
        for item in items
    ]
    assert shown == list(DRIVE["entries"])


def test_blobs_are_cut_like_the_reference_s():
    assert load("hyperblobs")["defaultBlockSize"] == BLOCK_BYTES
    lengths = []
    for entry in sorted(DRIVE["entries"], key=lambda entry: entry["seq"]):
        left = (entry["value"]["blob"] or {"byteLength": 0})["byteLength"]
        while left:
            lengths.append(min(left, BLOCK_BYTES))
            left -= lengths[-1]
    assert lengths == list(DRIVE["contentBlockLengths"])


@pytest.mark.parametrize("script", [s for s in load("hyperbee")["scripts"] if "blocks" in s])
def test_bees_have_a_block_for_each_change(script):
    assert len(script["blocks"]) == script["length"]
