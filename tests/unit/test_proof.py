"""Building proofs: the reference's, byte for byte, and requests that have no answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corestore.errors import BlockNotAvailable
from corestore.manifest import Manifest, ManifestVerifier
from corestore.replication import messages
from corestore.tree import (
    EMPTY_HEAD,
    BlockRequest,
    HashRequest,
    InvalidRequest,
    NodeOverlay,
    Proof,
    Request,
    SeekRequest,
    UpgradeRequest,
    append,
    build,
    flat,
    missing_levels,
)
from corestore.tree.verify import verify
from tests.support.trees import Log, Nodes, Replica, block
from tests.support.vectors import load, unhex

CORES = load("proofs")["cores"]
CASES = [(core, case) for core in CORES for case in core["requests"]]


def request_of(value) -> Request:
    def part(kind, name, *fields):
        return kind(*(value[name][field] for field in fields)) if name in value else None

    return Request(
        0,
        part(BlockRequest, "block", "index", "nodes"),
        part(HashRequest, "hash", "index", "nodes"),
        part(SeekRequest, "seek", "bytes", "padding"),
        part(UpgradeRequest, "upgrade", "start", "length"),
    )


def case_name(value):
    if "requests" in value:
        return f"length {value['length']}"
    return " ".join(f"{k}{tuple(v.values())}" for k, v in value["request"].items())


@pytest.mark.parametrize(("core", "case"), CASES, ids=case_name)
def test_proofs_equal_the_reference_and_verify(core, case):
    blocks = [block(i) for i in range(core["length"])]
    batch = append(EMPTY_HEAD, blocks)
    assert batch.tree_hash() == unhex(core["treeHash"])
    head = batch.head(unhex(core["signature"]))
    request = request_of(case["request"])
    nodes = Nodes(batch.nodes)

    proof = build(request, head, nodes=nodes, block=blocks.__getitem__)
    type_, body = messages.encode(messages.Data(id=1, proof=proof, manifest=None))
    assert body == unhex(case["data"])
    assert messages.decode(type_, body).proof == proof

    verifier = ManifestVerifier(Manifest.decode(unhex(core["manifest"])), unhex(core["key"]))
    if request.upgrade is None:
        assert verify(proof, head, nodes=nodes, verifier=verifier).head is None
        return
    before = append(EMPTY_HEAD, blocks[: request.upgrade.start])
    held = Nodes(before.nodes)
    result = verify(proof, before.head(b""), nodes=held, verifier=verifier)
    assert result.head == head
    assert set(result.nodes) | set(result.hints) <= set(batch.nodes)


def test_an_empty_log_proves_nothing():
    asked = Request(3, block=BlockRequest(0, 0), upgrade=UpgradeRequest(0, 1))
    assert build(asked, EMPTY_HEAD, nodes=Nodes(), block=lambda _: None) == Proof(0)


@pytest.mark.parametrize(
    "parts",
    [
        {"upgrade": UpgradeRequest(0, 9)},
        {"upgrade": UpgradeRequest(8, 0)},
        {"upgrade": UpgradeRequest(2**53 - 1, 2**53 - 1)},
        {"block": BlockRequest(0, 4)},
        {"block": BlockRequest(0, 2**53 - 1)},
        {"hash": HashRequest(3, 2)},
        {"block": BlockRequest(6, 0), "upgrade": UpgradeRequest(4, 2)},
        {"hash": HashRequest(3, 0), "upgrade": UpgradeRequest(2, 4)},
        {
            "block": BlockRequest(6, 0),
            "seek": SeekRequest(1, 0),
            "upgrade": UpgradeRequest(4, 4),
        },
        {"hash": HashRequest(0, 2), "seek": SeekRequest(100, 0)},
        {"hash": HashRequest(8, 2), "seek": SeekRequest(3, 0)},
        {"hash": HashRequest(0, 2), "seek": SeekRequest(2**53 - 1, 2**53 - 1)},
    ],
)
def test_requests_without_an_answer_are_refused(parts):
    with pytest.raises(InvalidRequest):
        Log.of_length(8).build(**parts)


@pytest.mark.parametrize(
    "parts",
    [
        {"block": BlockRequest(8, 0)},
        {"block": BlockRequest(2**53 - 1, 2**53 - 1)},
        {"hash": HashRequest(15, 0)},
        {"hash": HashRequest(2**53 - 1, 2**53 - 1)},
    ],
)
def test_what_lies_beyond_the_log_is_not_available(parts):
    with pytest.raises(BlockNotAvailable):
        Log.of_length(8).build(**parts)


def test_a_block_that_is_not_held_is_not_available():
    log = Log.of_length(8)
    with pytest.raises(BlockNotAvailable) as caught:
        build(Request(block=BlockRequest(5, 0)), log.head, nodes=log.nodes, block=lambda _: None)
    assert caught.value.index == 5


def test_a_node_that_is_not_held_makes_the_proof_unavailable():
    log = Log.of_length(8)
    with pytest.raises(BlockNotAvailable):
        build(
            Request(block=BlockRequest(5, 2)),
            log.head,
            nodes=Nodes(log.head.roots),
            block=log.blocks.__getitem__,
        )


def test_an_upgrade_from_within_the_prologue_is_of_the_prologue():
    log = Log.of_length(8)
    proof = build(
        Request(upgrade=UpgradeRequest(2, 6)),
        log.head,
        nodes=log.nodes,
        block=log.blocks.__getitem__,
        prologue_length=5,
    )
    assert (proof.upgrade.start, proof.upgrade.length) == (0, 5)
    assert [node.index for node in proof.upgrade.nodes] == [3, 8]
    assert [node.index for node in proof.upgrade.additional_nodes] == [10, 13]


@given(st.integers(0, 70), st.data())
def test_missing_levels_lead_to_the_lowest_stored_node(length, data):
    log = Log.of_length(length)
    known = data.draw(st.sets(st.sampled_from(sorted(log.nodes.by_index)))) if length else set()
    nodes = Nodes(log.nodes.by_index[index] for index in known)
    nodes.add(log.head.roots)
    index = data.draw(st.integers(0, 2 * length + 4))
    levels = missing_levels(index, log.head, nodes)
    if index >= 2 * length:
        assert levels == 0
    elif flat.right_span(index) < 2 * length:
        path = [index]
        for _ in range(levels):
            path.append(flat.parent(path[-1]))
        assert [i in nodes.by_index for i in path] == [False] * levels + [True]


def test_levels_of_huge_indexes_are_found_at_once():
    for index in (2**53 - 1, 2**53 - 2, 2**54):
        assert missing_levels(index, Log.of_length(3).head, Nodes()) <= 54


@given(st.integers(1, 70), st.data())
def test_every_proof_for_a_sparse_replica_verifies_and_brings_true_nodes(length, data):
    log = Log.of_length(length)
    start = data.draw(st.integers(0, length))
    replica = Replica.at(log, start)
    for _ in range(data.draw(st.integers(1, 6))):
        own = replica.head.length
        parts = {}
        if own < length:
            to = data.draw(st.integers(own + 1, length))
            if own == 0 or data.draw(st.booleans()):
                parts["upgrade"] = UpgradeRequest(own, to - own)
        limit = own if "upgrade" not in parts else to
        asked = data.draw(st.sampled_from(["block", "hash", "none"]))
        if asked == "block":
            index = data.draw(st.integers(0, limit - 1))
            parts["block"] = BlockRequest(index, replica.levels(2 * index))
        elif asked == "hash":
            index = data.draw(st.integers(0, 2 * limit - 2))
            within = (flat.left_span(index) >= 2 * own) if "upgrade" in parts else False
            if flat.right_span(index) < 2 * own or (within and flat.right_span(index) < 2 * limit):
                parts["hash"] = HashRequest(index, replica.levels(index))
        if not parts:
            continue
        last = flat.right_span(parts["hash"].index) if "hash" in parts else -1
        last = 2 * parts["block"].index if "block" in parts else last
        if data.draw(st.booleans()) and not ("upgrade" in parts and last >= 2 * own):
            if last < 0:
                offset = data.draw(st.integers(0, log.head.byte_length))
            else:
                part = parts.get("block") or parts["hash"]
                top = 2 * part.index if "block" in parts else part.index
                for _ in range(part.nodes):
                    top = flat.parent(top)
                low = sum(map(len, log.blocks[: flat.blocks(top)[0]]))
                high = sum(map(len, log.blocks[: flat.blocks(top)[1]]))
                offset = data.draw(st.integers(low, high - 1))
            parts["seek"] = SeekRequest(offset, 0)
        proof = log.build(**parts)
        batch = replica.receive(proof)
        assert all(log.nodes.by_index[node.index] == node for node in batch.nodes)
        assert all(log.nodes.by_index[node.index] == node for node in batch.hints)
        if "upgrade" in parts:
            assert replica.head == log.head
        if "block" in parts:
            assert batch.block == (parts["block"].index, log.blocks[parts["block"].index])
            assert 2 * parts["block"].index in replica.nodes.by_index
        NodeOverlay(replica.nodes, batch.hints)


@given(st.integers(1, 60), st.data())
def test_blocks_fetched_in_any_order_make_the_whole_log(length, data):
    log = Log.of_length(length)
    replica = Replica.at(log, data.draw(st.integers(0, length)))
    for index in data.draw(st.permutations(range(length))):
        replica.fetch(log, index)
    assert replica.head == log.head
    assert replica.blocks == dict(enumerate(log.blocks))
    assert replica.nodes.by_index == log.nodes.by_index
