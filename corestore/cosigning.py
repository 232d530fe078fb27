"""Cores with several signers: a change is proposed, signed by each apart, committed by a quorum.

Whoever has the log and the blocks to come makes the same `Proposal`, on any machine: signers need
not meet. Each signs it, the parts are carried to somebody who has the log, and who commits them; he
needs no secret key. A signer may have signed a longer log than the others, if the manifest allows
*patches*: his part then carries the way from the shorter log to the longer one.

A core with a prologue needs no signatures up to there: its first blocks are proposed and committed
without parts, once, and if there are no signers that is all it will ever have.

Only one history may be signed: a signer who has signed a proposal must not sign another one of the
same fork unless it continues the first. Nothing here remembers that for him.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from corestore import tree
from corestore.commit import Commit, Run
from corestore.errors import NotWritable, StorageConflict
from corestore.manifest import assemble, sign_partial, signed_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from corestore.driver import Driver
    from corestore.keys import KeyPair
    from corestore.manifest import PartialSignature
    from corestore.state import CoreState
    from corestore.tree import Head, TreeBatch

__all__ = ["Proposal"]


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
