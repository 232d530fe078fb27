"""What verification believes, and everything it must not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corestore import crypto
from corestore.errors import DecodeError, ForkConflict, InvalidProof, InvalidSignature
from corestore.manifest import Manifest, ManifestVerifier, Prologue, manifest_key, sign
from corestore.replication import messages
from corestore.tree import (
    EMPTY_HEAD,
    BlockProof,
    BlockRequest,
    HashProof,
    HashRequest,
    Head,
    Node,
    NodeOverlay,
    OutdatedProof,
    Proof,
    SeekProof,
    SeekRequest,
    UpgradeProof,
    UpgradeRequest,
    append,
    flat,
)
from corestore.tree.verify import verify
from tests.support.trees import KEY_PAIR, VERIFIER, Log, Nodes, Replica, block

REFUSALS = (InvalidProof, InvalidSignature)


# -- mutations -----------------------------------------------------------------------------------


def proofs():
    """(name, replica, proof) of every kind, each of which verifies."""
    log = Log.of_length(13)
    for name, start, parts in [
        ("block", 13, {"block": BlockRequest(5, 3)}),
        ("block under a last root", 13, {"block": BlockRequest(12, 0)}),
        ("hash", 13, {"hash": HashRequest(9, 2)}),
        ("hash of a leaf", 13, {"hash": HashRequest(4, 3)}),
        ("hash and seek", 13, {"hash": HashRequest(0, 3), "seek": SeekRequest(100, 0)}),
        ("block and seek", 13, {"block": BlockRequest(0, 3), "seek": SeekRequest(100, 0)}),
        ("upgrade from nothing", 0, {"upgrade": UpgradeRequest(0, 13)}),
        ("upgrade", 5, {"upgrade": UpgradeRequest(5, 8)}),
        ("upgrade with additional nodes", 5, {"upgrade": UpgradeRequest(5, 2)}),
        ("upgrade with block", 5, {"block": BlockRequest(9, 0), "upgrade": UpgradeRequest(5, 8)}),
        ("upgrade with hash", 5, {"hash": HashRequest(17, 0), "upgrade": UpgradeRequest(5, 8)}),
        ("upgrade with seek", 0, {"seek": SeekRequest(150, 0), "upgrade": UpgradeRequest(0, 13)}),
        (
            "upgrade with old block",
            5,
            {"block": BlockRequest(1, 2), "upgrade": UpgradeRequest(5, 8)},
        ),
    ]:
        yield pytest.param(Replica.at(log, start), log.build(**parts), id=name)


@pytest.mark.parametrize(("replica", "proof"), list(proofs()))
def test_every_single_bit_flipped_in_a_proof_is_refused(replica, proof):
    replica.check(proof)
    type_, body = messages.encode(messages.Data(id=1, proof=proof, manifest=None))
    data = bytearray(body)
    checked = 0
    # Bytes 0 and 1 are the message's flags and request id. Without a part's flag the rest is
    # another message, and can be a valid one: an upgrade without its block, say.
    for bit in range(16, 8 * len(data)):
        data[bit >> 3] ^= 1 << (bit & 7)
        try:
            mutated = messages.decode(type_, bytes(data)).proof
        except DecodeError:
            continue
        finally:
            data[bit >> 3] ^= 1 << (bit & 7)
        if mutated.seek is not None:
            # The offset only repeats the request; who asked compares it.
            mutated = replace(mutated, seek=replace(mutated.seek, offset=proof.seek.offset))
        if mutated == proof:
            continue
        with pytest.raises(REFUSALS):
            replica.check(mutated)
        checked += 1
    assert checked > 50


nodes_in_full = st.builds(
    Node, st.integers(0, 2**53 - 1), st.integers(0, 2**53 - 1), st.binary(min_size=32, max_size=32)
)
node_tuples = st.lists(
    st.one_of(nodes_in_full, st.sampled_from(sorted(Log.of_length(9).nodes.by_index.values()))),
    max_size=6,
).map(tuple)
numbers = st.one_of(st.integers(0, 20), st.integers(0, 2**53 - 1))
any_proof = st.builds(
    Proof,
    st.one_of(st.just(0), numbers),
    st.none() | st.builds(BlockProof, numbers, st.binary(max_size=8), node_tuples),
    st.none() | st.builds(HashProof, numbers, node_tuples),
    st.none() | st.builds(SeekProof, numbers, node_tuples),
    st.none()
    | st.builds(UpgradeProof, numbers, numbers, node_tuples, node_tuples, st.binary(max_size=80)),
)


@given(any_proof, st.integers(0, 9))
def test_any_proof_is_refused_or_true(proof, length):
    log = Log.of_length(9)
    try:
        batch = Replica.at(log, length).check(proof)
    except REFUSALS:
        return
    assert batch.head in (None, log.head)
    assert all(log.nodes.by_index[node.index] == node for node in batch.nodes)


def test_lists_longer_than_any_tree_are_refused_before_they_are_hashed():
    log = Log.of_length(8)
    replica = Replica.at(log, 8)
    path = tuple(Node(2 * i, 0, bytes(32)) for i in range(10_000))
    with pytest.raises(InvalidProof, match="10000 nodes"):
        replica.check(Proof(block=BlockProof(0, b"", path)))
    upgrade = UpgradeProof(8, 10_000, path, path, b"")
    with pytest.raises(InvalidProof, match="too many"):
        replica.check(Proof(upgrade=upgrade))


def test_sizes_beyond_what_peers_can_hold_are_refused():
    log = Log.of_length(2)
    big = 2**53 - 1
    nodes = (Node(0, big, bytes(32)), Node(2, big, bytes(32)))
    with pytest.raises(InvalidProof, match="bytes below one node"):
        Replica.at(log, 2).check(Proof(hash=HashProof(0, nodes)))
    with pytest.raises(InvalidProof, match="bytes below one node"):
        Replica().check(Proof(upgrade=UpgradeProof(0, 1, nodes[:1], nodes[1:], b"")))
    root = Node(flat.index(42, 0), 1, bytes(32))
    with pytest.raises(InvalidProof, match="a log of"):
        Replica().check(Proof(upgrade=UpgradeProof(0, 2**42, (root,), (), b"")))
    roots = (Node(1, big, bytes(32)), Node(4, big, bytes(32)))
    with pytest.raises(InvalidProof, match="a log of"):
        Replica().check(Proof(upgrade=UpgradeProof(0, 3, roots, (), b"")))


def test_a_proof_of_nothing_is_refused():
    replica = Replica.at(Log.of_length(3), 3)
    for proof in (
        Proof(),
        Proof(hash=HashProof(0, ())),
        Proof(seek=SeekProof(0, ())),
        Proof(upgrade=UpgradeProof(3, 0, (), (), b"")),
    ):
        with pytest.raises(InvalidProof):
            replica.check(proof)


# -- sizes ---------------------------------------------------------------------------------------


def shifted(nodes, first, second, by):
    """The nodes with bytes moved from one to another, their sum being the same."""
    change = {first: by, second: -by}
    return tuple(node._replace(size=node.size + change.get(node.index, 0)) for node in nodes)


def test_sizes_that_are_only_claimed_are_never_stored():
    log = Log.of_length(8)
    true = log.nodes.by_index
    for parts, part in [
        ({"hash": HashRequest(4, 3)}, "hash"),
        ({"hash": HashRequest(0, 3), "seek": SeekRequest(80, 0)}, "seek"),
    ]:
        proof = log.build(**parts)
        inner = getattr(proof, part)
        first, second = (node.index for node in inner.nodes[:2])
        lie = replace(inner, nodes=shifted(inner.nodes, first, second, 5))
        assert lie != inner
        batch = Replica.at(log, 8).check(replace(proof, **{part: lie}))
        assert all(true[node.index] == node for node in batch.nodes)
        assert {first, second} <= {node.index for node in batch.hints}

    proof = log.build(upgrade=UpgradeRequest(0, 2))  # additional: node 5, then node 11
    upgrade = proof.upgrade
    lie = replace(
        upgrade,
        nodes=shifted(upgrade.nodes, 1, 5, 3),
        additional_nodes=shifted(upgrade.additional_nodes, 1, 5, 3),
    )
    batch = Replica().check(replace(proof, upgrade=lie))
    assert batch.head == log.head
    assert all(true[node.index] == node for node in batch.nodes)
    assert {node.index for node in batch.hints} == {1, 5}


def test_a_block_proof_leaves_nothing_uncertain():
    log = Log.of_length(13)
    batch = Replica.at(log, 13).receive(log.build(block=BlockRequest(2, 3)))
    assert not batch.hints
    assert {node.index for node in batch.nodes} == {4, 6, 5, 1, 3, 11}


def test_a_claimed_size_beside_a_known_one_is_certain():
    log = Log.of_length(8)
    batch = Replica.at(log, 5).receive(log.build(upgrade=UpgradeRequest(5, 3)))
    assert not batch.hints
    proof = log.build(upgrade=UpgradeRequest(5, 3))
    for first, second in [(10, 13)]:
        lie = replace(proof.upgrade, nodes=shifted(proof.upgrade.nodes, first, second, 1))
        with pytest.raises(REFUSALS):
            Replica.at(log, 5).check(replace(proof, upgrade=lie))


# -- upgrades and forks --------------------------------------------------------------------------


def test_an_upgrade_signed_by_somebody_else_is_refused():
    log = Log.of_length(5)
    proof = log.build(upgrade=UpgradeRequest(0, 5))
    other = crypto.key_pair_from_seed(bytes(32))[0]
    manifest = Manifest.default(other)
    with pytest.raises(InvalidSignature):
        Replica().check(proof, verifier=ManifestVerifier(manifest, manifest_key(manifest)))


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 40))
def test_an_answer_to_an_older_question_is_joined_or_outdated(start, more, yet):
    log = Log.of_length(start + more)
    old = log.build(upgrade=UpgradeRequest(start, more)) if more else None
    replica = Replica.at(log, start)
    if more:
        replica.receive(log.build(upgrade=UpgradeRequest(start, more)))
    log.append(*(block(i) for i in range(start + more, start + more + yet)))
    if old is not None:
        assert replica.check(old).head is None
    late = log.build(upgrade=UpgradeRequest(start, more + yet))
    try:
        batch = replica.check(late)
    except OutdatedProof:
        assert more
        return
    assert batch.head == log.head
    assert all(log.nodes.by_index[node.index] == node for node in batch.nodes)


def test_an_upgrade_from_a_length_we_do_not_have_is_refused():
    log = Log.of_length(8)
    with pytest.raises(InvalidProof, match="from 5 blocks"):
        Replica.at(log, 3).check(log.build(upgrade=UpgradeRequest(5, 3)))


def other_history(length, differs_at, *, fork=0):
    blocks = [block(i) for i in range(length)]
    blocks[differs_at] = b"another history"
    return Log(blocks, fork=fork)


@pytest.mark.parametrize("length", [6, 8, 13])
def test_two_signed_histories_of_one_fork_are_a_conflict(length):
    log, other = Log.of_length(8), other_history(length, 5)
    replica = Replica.at(log, 8)
    replica.nodes.add(log.nodes.by_index.values())
    for asked in {min(length, 8), length}:
        proof = other.build(upgrade=UpgradeRequest(0, asked))
        with pytest.raises(ForkConflict) as caught:
            replica.check(proof)
        assert caught.value.proof is proof


def test_a_higher_fork_replaces_the_log():
    log, other = Log.of_length(8), other_history(6, 5, fork=1)
    replica = Replica.at(log, 8)
    for index in range(8):
        replica.fetch(log, index)
    proof = other.build(upgrade=UpgradeRequest(0, 6))
    batch = replica.receive(proof)
    assert batch.reorganises
    assert replica.head == other.head
    # The roots of six blocks are those of four, which both histories share, and of two.
    assert batch.truncate == 4
    assert sorted(replica.blocks) == [0, 1, 2, 3]
    for index in (4, 5):
        replica.fetch(other, index)
    assert replica.blocks == dict(enumerate(other.blocks))
    assert all(other.nodes.by_index[i] == n for i, n in replica.nodes.by_index.items())


@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_after_any_fork_the_replica_is_the_new_log(before, after, data):
    log = Log.of_length(before)
    differs = data.draw(st.integers(0, after - 1))
    other = other_history(after, differs, fork=data.draw(st.integers(1, 2**53 - 1)))
    replica = Replica.at(log, before)
    for index in data.draw(st.sets(st.integers(0, before - 1))):
        replica.fetch(log, index)
    parts = {}
    if data.draw(st.booleans()):
        parts["block"] = BlockRequest(data.draw(st.integers(0, after - 1)), 0)
    batch = replica.receive(other.build(upgrade=UpgradeRequest(0, after), **parts))
    assert replica.head == other.head
    assert batch.truncate <= min(before, differs)
    for index in range(after):
        if index not in replica.blocks:
            replica.fetch(other, index)
    assert replica.blocks == dict(enumerate(other.blocks))
    assert replica.nodes.by_index == other.nodes.by_index


def test_forks_that_do_not_start_from_nothing_or_go_back_are_refused():
    log, newer = Log.of_length(8, fork=1), other_history(8, 7, fork=2)
    replica = Replica.at(log, 8)
    assert replica.head.fork == 1
    for proof in (
        newer.build(upgrade=UpgradeRequest(4, 4)),
        newer.build(block=BlockRequest(0, 3)),
        Log.of_length(8).build(upgrade=UpgradeRequest(0, 8)),
        Log.of_length(8).build(block=BlockRequest(0, 3)),
    ):
        with pytest.raises(InvalidProof):
            replica.check(proof)


def test_a_block_that_does_not_join_a_new_fork_is_refused():
    log, newer = Log.of_length(8), other_history(8, 7, fork=1)
    proof = newer.build(upgrade=UpgradeRequest(0, 8))
    stray = Log.of_length(8).build(block=BlockRequest(0, 3)).block
    replica = Replica.at(log, 8)
    replica.check(Proof(block=stray))
    with pytest.raises(InvalidProof):
        replica.check(replace(proof, block=stray))


# -- prologues -----------------------------------------------------------------------------------


def with_prologue(log: Log, length: int):
    """A verifier of a core that starts from the log's first blocks and is signed after them."""
    tree_hash = append(EMPTY_HEAD, log.blocks[:length]).tree_hash()
    manifest = replace(Manifest.default(KEY_PAIR.public_key), prologue=Prologue(tree_hash, length))
    return ManifestVerifier(manifest, manifest_key(manifest))


def signed_by(verifier: ManifestVerifier, blocks):
    """The head of a log of *blocks*, signed under the manifest of *verifier*."""
    batch = append(EMPTY_HEAD, blocks)
    return batch.head(sign(verifier.manifest, verifier.key, KEY_PAIR, batch))


def test_a_prologue_is_proven_as_a_whole():
    log = Log.of_length(8)
    for prologue in (3, 5):
        verifier = with_prologue(log, prologue)
        static = append(EMPTY_HEAD, log.blocks[:prologue])
        head = static.head(b"")
        whole = UpgradeProof(0, prologue, static.roots, (), b"")
        assert (
            verify(Proof(upgrade=whole), EMPTY_HEAD, nodes=Nodes(), verifier=verifier).head == head
        )
        part = append(EMPTY_HEAD, log.blocks[: prologue - 1])
        for wrong in (
            UpgradeProof(0, prologue - 1, part.roots, (), b""),
            replace(whole, nodes=other_history(prologue, 0).head.roots),
        ):
            with pytest.raises(REFUSALS):
                verify(Proof(upgrade=wrong), EMPTY_HEAD, nodes=Nodes(), verifier=verifier)
        rest = UpgradeProof(
            prologue - 1,
            1,
            tuple(
                log.nodes.by_index[i] for i in flat.upgrade_nodes(2 * prologue - 2, 2 * prologue)
            ),
            (),
            b"",
        )
        with pytest.raises(InvalidProof, match="in parts"):
            verify(Proof(upgrade=rest), part.head(b""), nodes=Nodes(part.nodes), verifier=verifier)


def test_what_follows_a_prologue_is_signed():
    log = Log.of_length(8)
    verifier = with_prologue(log, 5)
    head = signed_by(verifier, log.blocks)
    verifier.verify(head)
    with pytest.raises(InvalidSignature):
        verifier.verify(replace(head, signature=log.head.signature))


@pytest.mark.parametrize("prologue", [3, 4, 5, 7])
def test_a_signed_log_that_begins_otherwise_than_its_prologue_is_refused(prologue):
    log = Log.of_length(8)
    verifier = with_prologue(log, prologue)
    for differs_at, is_refused in ((0, True), (prologue - 1, True), (7, False)):
        other = other_history(8, differs_at)
        signature = signed_by(verifier, other.blocks).signature
        nodes, more = (
            tuple(other.nodes.by_index[i] for i in flat.upgrade_nodes(2 * start, 2 * end))
            for start, end in ((0, prologue), (prologue, 8))
        )
        proof = Proof(upgrade=UpgradeProof(0, prologue, nodes, more, signature))
        whole = Proof(upgrade=UpgradeProof(0, 8, other.head.roots, (), signature))
        with pytest.raises(InvalidProof, match="in parts"):
            verify(whole, EMPTY_HEAD, nodes=Nodes(), verifier=verifier)
        if is_refused:
            with pytest.raises(InvalidProof, match="those of the prologue"):
                verify(proof, EMPTY_HEAD, nodes=Nodes(), verifier=verifier)
        else:
            assert verify(proof, EMPTY_HEAD, nodes=Nodes(), verifier=verifier).head.length == 8


# -- overlays ------------------------------------------------------------------------------------


def test_an_overlay_shows_what_is_laid_over_and_lets_it_go():
    log = Log.of_length(4)
    base = Nodes(log.head.roots)
    leaf, other = log.nodes.by_index[0], Node(0, 1, bytes(32))
    overlay = NodeOverlay(base, [leaf])
    assert overlay.node(0) == leaf
    assert overlay.node(3) == log.head.roots[0]
    assert overlay.node(2) is None
    overlay.add([other])
    overlay.discard([leaf])
    assert overlay.node(0) is other
    overlay.discard([other])
    assert overlay.node(0) is None
    overlay.add([leaf])
    overlay.clear()
    assert len(overlay) == 0


def test_a_block_may_be_proven_through_nodes_that_wait_to_be_committed():
    log = Log.of_length(8)
    replica = Replica.at(log, 8)
    overlay = NodeOverlay(replica.nodes)
    first = verify(
        log.build(block=BlockRequest(0, 3)), replica.head, nodes=overlay, verifier=VERIFIER
    )
    overlay.add(first.nodes)
    second = verify(
        log.build(block=BlockRequest(1, 0)), replica.head, nodes=overlay, verifier=VERIFIER
    )
    assert second.block == (1, log.blocks[1])
    assert not second.nodes


def test_the_verifier_sees_the_head_it_vouches_for():
    log = Log.of_length(5)
    seen = []

    class Witness:
        prologue = None

        def verify(self, head: Head) -> None:
            seen.append(head)

    Replica().check(log.build(upgrade=UpgradeRequest(0, 3)), verifier=Witness())
    assert seen == [log.head]
