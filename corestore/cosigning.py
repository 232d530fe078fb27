"""Cores with several signers: a change is proposed, signed by each apart, committed by a quorum.

Whoever has the log and the blocks to come makes the same `Proposal`, on any machine: signers need
not meet. Or one sends it to the others, as bytes, who read it where they have the log. Each
signs it, the parts are carried to somebody who has the log, and who commits them, which takes no
secret key. A signer may have signed a longer log than the others, if the manifest allows
*patches*: that part then carries the way from the shorter log to the longer one.

A core with a prologue needs no signatures up to there: its first blocks are proposed and committed
without parts, once, and if there are no signers that is all it will ever have.

Only one history may be signed: a signer who has signed a proposal must not sign another one of the
same fork unless it continues the first. Nothing here remembers that for them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import trio

from corestore import crypto, tree
from corestore.commit import Commit, Run
from corestore.encoding import Reader, Writer
from corestore.errors import DecodeError, NotWritable, StorageConflict
from corestore.manifest import assemble, sign_partial, signed_bytes
from corestore.staging import HASH_IN_PLACE
from corestore.state import MAX_BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from corestore.driver import Driver
    from corestore.keys import KeyPair
    from corestore.manifest import PartialSignature
    from corestore.state import CoreState
    from corestore.tree import Head, TreeBatch

# What a proposal's bytes begin with.
_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Proposed:
    """A proposal as it is sent (corestore/PROTOCOL.md, 5.12): of which core, from which state to
    which; `blocks` are those appended, as they are stored."""

    key: bytes
    base_fork: int
    base_length: int
    fork: int
    length: int
    tree_hash: bytes
    blocks: tuple[bytes | memoryview, ...]

    def encode(self) -> bytes:
        """The bytes to send."""
        writer = Writer().uint(_FORMAT).fixed(self.key)
        writer.uint(self.base_fork).uint(self.base_length).uint(self.fork).uint(self.length)
        return writer.fixed(self.tree_hash).array(self.blocks, Writer.buffer).finish()

    @classmethod
    def decode_untrusted(cls, data: bytes | memoryview) -> Proposed:
        """Undo `encode`. Raises DecodeError."""
        reader = Reader(data)
        if reader.uint() != _FORMAT:
            raise DecodeError("proposal", 0)
        key = reader.fixed(crypto.PUBLIC_KEY_BYTES)
        base_fork, base_length, fork, length = [reader.uint() for _ in range(4)]
        tree_hash = reader.fixed(crypto.HASH_BYTES)
        at = reader.at
        blocks = tuple(reader.array(Reader.buffer))
        if fork == base_fork:
            sound = bool(blocks) and length == base_length + len(blocks)
        else:
            sound = not blocks and fork > base_fork and 0 < length <= base_length
        if not sound:
            raise DecodeError("proposal of an append or a truncation", at)
        return cls(key, base_fork, base_length, fork, length, tree_hash, blocks)


class Proposal:
    """A change of a core that is to be signed by several: blocks appended, or a truncation.

    Made by `Hypercore.propose` and `Hypercore.propose_truncation`; changes nothing by itself.
    """

    def __init__(self, driver: Driver, state: CoreState, base: Head, batch: TreeBatch) -> None:
        self._driver = driver
        self._state = state
        self._base = base
        self._batch = batch

    def __repr__(self) -> str:
        return f"<Proposal {self._state.key} fork={self.fork} length={self.length}>"

    @property
    def length(self) -> int:
        """Blocks in the log after the change."""
        return self._batch.length

    @property
    def fork(self) -> int:
        """The fork after the change."""
        return self._batch.fork

    def tree_hash(self) -> bytes:
        """The hash that stands for the whole log after the change."""
        return self._batch.tree_hash()

    def signable(self, signer: int = 0) -> bytes:
        """The bytes that a signer signs, by its place in the manifest; for those who keep keys
        elsewhere. Differs between signers in version 0 only.

        Raises:
          IndexError: there is no such signer.
        """
        manifest = self._state.signing_manifest
        return signed_bytes(manifest, self._state.key, manifest.signers[signer], self._batch)

    def blocks(self) -> list[bytes]:
        """The blocks that are appended, as readers see them: look before you sign.

        Raises:
          DecodeError: one is not encrypted, as the log is.
        """
        cipher = self._state.cipher
        stored = self._batch.blocks
        if cipher is None:
            return [bytes(block.data) for block in stored]
        return [cipher.decrypt(block.index, bytes(block.data)) for block in stored]

    def encode(self) -> bytes:
        """The bytes to send to another signer, for `Hypercore.read_proposal`.

        They have the core's key in them, and the blocks as they are stored. If those are encrypted,
        two proposals for the same place are so under one key stream: whoever has both learns how
        they differ, without the encryption key. So send them to readers only, or sealed.
        """
        base, batch = self._base, self._batch
        blocks = tuple(block.data for block in batch.blocks)
        end = (batch.fork, batch.length, batch.tree_hash())
        return Proposed(self._state.key, base.fork, base.length, *end, blocks).encode()

    def sign(self, key_pair: KeyPair, *, patch: int = 0) -> PartialSignature:
        """One signer's part of the signature.

        With *patch* it is a part for the proposal that lacks the last *patch* blocks of this one:
        the other signers have not got these.

        Raises:
          NotWritable: the key pair is none of the signers.
          ValueError: *patch* is not below the number of blocks appended, or the manifest does not
            allow patches.
        """
        state, batch = self._state, self._batch
        manifest = state.signing_manifest
        part = sign_partial(manifest, state.key, key_pair, batch)
        if not patch:
            return part
        start = batch.length - patch
        if not manifest.allow_patch:
            raise ValueError("the manifest does not allow patches")
        if patch < 0 or start <= self._base.length:
            raise ValueError(f"{patch} of {batch.length - self._base.length} blocks left out")
        request = tree.Request(batch.fork, upgrade=tree.UpgradeRequest(start, patch))
        nodes = tree.NodeOverlay(state, batch.nodes)
        proof = tree.build(request, batch.head(b""), nodes=nodes, block=lambda index: None)
        assert proof.upgrade is not None
        return replace(part, patch=patch, nodes=proof.upgrade.nodes)

    async def commit(self, parts: Sequence[PartialSignature] = ()) -> int:
        """Change the core, with the parts of a quorum; returns the new length. Peers see it at
        once, and `Corestore.sync` waits until it is durable.

        Raises:
          InvalidSignature: the parts are no quorum, or one of them is wrong; nothing is changed.
          StorageConflict: the core was changed since this was proposed.
          NotWritable: the core was opened with a key pair, so it is signed with that.
          OSError, StorageError: as an append.
        """
        state, driver, base, batch = self._state, self._driver, self._base, self._batch
        if state.key_pair is not None:
            raise NotWritable("a core that is opened with a key pair is signed with it alone")
        manifest = state.signing_manifest
        head = batch.head(assemble(manifest, parts) if parts else b"")
        async with state.commit_lock:
            if (state.head.fork, state.head.length) != (base.fork, base.length):
                raise StorageConflict(f"core {state.key} was changed since this was proposed")
            state.verifier(manifest).verify(head)
            if batch.fork == base.fork:
                runs = (Run(base.length, batch.length, True),)
                change = Commit(blocks=batch.blocks, nodes=batch.nodes, runs=runs, head=head)
            else:
                change = Commit(truncate=batch.length, nodes=batch.nodes, head=head)
            driver.commit([(state, change)])
            # No sync publishes it: whoever has lost it can get it back from others.
            state.replicator.published(state.published)
            driver.drain(state)
        await driver.after_commit()
        return batch.length


async def propose(
    driver: Driver, state: CoreState, blocks: Sequence[bytes | memoryview]
) -> Proposal:
    """The proposal to append *blocks*, as they are to be stored. Raises ValueError."""
    if not blocks:
        raise ValueError("an append of nothing is not proposed")
    base = state.head
    if any(len(block) > MAX_BLOCK_BYTES for block in blocks):
        raise ValueError(f"a block of more than {MAX_BLOCK_BYTES} bytes")
    if sum(map(len, blocks)) > HASH_IN_PLACE:
        batch = await trio.to_thread.run_sync(tree.append, base, blocks)
    else:
        batch = tree.append(base, blocks)
    return Proposal(driver, state, base, batch)


def propose_truncation(driver: Driver, state: CoreState, length: int, fork: int) -> Proposal:
    """The proposal to cut the log to *length* blocks, on *fork*. Raises ValueError, LookupError."""
    base = state.head
    if fork <= base.fork or length == 0:
        raise ValueError(f"a truncation to {length} blocks on fork {fork} of {base.fork}")
    return Proposal(driver, state, base, tree.truncate(base, length, fork, nodes=state))


async def read_proposal(driver: Driver, state: CoreState, data: bytes | memoryview) -> Proposal:
    """What *data* proposes, on the log that is here. See `Hypercore.read_proposal`."""
    sent = Proposed.decode_untrusted(data)
    if sent.key != state.key:
        raise ValueError("this is proposed for another core")
    base = state.head
    if (base.fork, base.length) != (sent.base_fork, sent.base_length):
        raise StorageConflict(
            f"core {state.key} has {base.length} blocks on fork {base.fork} here; this was proposed"
            f" with {sent.base_length} on fork {sent.base_fork}"
        )
    if sent.blocks:
        proposal = await propose(driver, state, sent.blocks)
    else:
        proposal = propose_truncation(driver, state, sent.length, sent.fork)
    if proposal.tree_hash() != sent.tree_hash:
        raise StorageConflict(f"core {state.key} has another history where this was proposed")
    return proposal
