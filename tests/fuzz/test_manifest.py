"""Any bytes are a manifest or a DecodeError, a signature that is valid or InvalidSignature."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from corestore.errors import DecodeError, InvalidSignature
from corestore.manifest import Manifest, ManifestVerifier, Prologue, Signer, manifest_key
from corestore.tree import EMPTY_HEAD, append
from tests.support.garbage import damaged
from tests.support.vectors import load, unhex

hashes = st.binary(min_size=32, max_size=32)
numbers = st.one_of(st.integers(0, 4), st.integers(0, 2**53 - 1))
signers = st.lists(st.builds(Signer, hashes, hashes), max_size=4).map(tuple)
new_manifests = st.builds(
    Manifest,
    st.integers(1, 3),
    st.booleans(),
    numbers,
    signers,
    st.none() | st.builds(Prologue, hashes, numbers),
    st.none() | st.lists(hashes, max_size=3).map(tuple),
    st.none() | st.binary(max_size=9),
)
old_manifests = st.one_of(
    st.builds(lambda h: Manifest(0, quorum=0, prologue=Prologue(h, 0)), hashes),
    st.builds(
        lambda patch, quorum, s: Manifest(0, patch, quorum, s), st.booleans(), numbers, signers
    ),
)
manifests = st.one_of(new_manifests, old_manifests)
VALID = [unhex(v["encoded"]) for v in load("crypto")["manifests"]]
SIGNATURES = [unhex(v["signature"]) for v in load("crypto")["signatures"]]
BATCH = append(EMPTY_HEAD, [b"block-%d" % i for i in range(5)])


@given(manifests)
def test_manifests_read_back(manifest):
    assert Manifest.decode(manifest.encode()) == manifest


@given(damaged(st.sampled_from(VALID)))
def test_any_bytes_are_a_manifest_or_a_decode_error(data):
    try:
        manifest = Manifest.decode(data)
    except DecodeError:
        return
    assert Manifest.decode(manifest.encode()) == manifest


@given(manifests, st.one_of(st.binary(max_size=300), st.sampled_from(SIGNATURES)), st.data())
def test_any_bytes_are_a_signature_or_refused(manifest, signature, draws):
    verifier = ManifestVerifier(manifest, manifest_key(manifest))
    cut = draws.draw(st.integers(0, len(signature)))
    filler = draws.draw(st.binary(max_size=8))
    try:
        verifier.verify(BATCH.head(signature[:cut] + filler + signature[cut:]))
    except InvalidSignature:
        return
    assert manifest.prologue is not None
    assert manifest.prologue.hash == BATCH.tree_hash()


@given(st.one_of(st.none(), manifests), st.binary(min_size=32, max_size=32))
def test_a_manifest_is_of_one_key_only(manifest, key):
    try:
        verifier = ManifestVerifier(manifest, key)
    except InvalidSignature:
        assert manifest is not None
        return
    assert verifier.compat or manifest_key(verifier.manifest) == key
