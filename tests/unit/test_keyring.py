"""Notes that lead from a core's record back to its key pair."""

from __future__ import annotations

from corestore.keyring import MAX_DERIVED, KeyRing, namespace_of
from corestore.keys import ROOT_NAMESPACE, Key, KeyPair
from corestore.storage import CoreRecord


def record(ring, key_pair):
    return CoreRecord(Key(bytes(32)), None, ring.note(key_pair))


def test_a_derived_pair_is_found_again_without_being_kept():
    ring = KeyRing(bytes(32))
    first = ring.derive(ROOT_NAMESPACE, b"first")
    for number in range(MAX_DERIVED + 1):
        ring.derive(ROOT_NAMESPACE, b"%d" % number)
    kept = record(ring, first)
    assert first.secret_key not in kept.signer
    assert namespace_of(kept) == ROOT_NAMESPACE
    assert KeyRing(bytes(32)).find(kept) == first


def test_a_pair_of_another_store_is_kept_itself():
    ring, other = KeyRing(bytes(32)), KeyRing(bytes(31) + b"\1")
    for pair in (other.derive(ROOT_NAMESPACE, b"name"), KeyPair.generate()):
        kept = record(ring, pair)
        assert namespace_of(kept) is None
        assert ring.find(kept) == pair


def test_pairs_in_memory_are_bounded():
    ring = KeyRing(bytes(32))
    for number in range(MAX_DERIVED + 10):
        ring.derive(ROOT_NAMESPACE, b"%d" % number)
    assert ring._derive.cache_info().currsize == MAX_DERIVED
