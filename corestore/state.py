"""What all handles of one core share: its head, its bitfield, its commit lock, its machine.

A `CoreState` is what storage holds of one core, in memory, and the only place that changes it. It
waits for nothing. Every mutation goes the same way, without an await between the steps: a `Commit`
is built, storage writes it, `apply` repeats it in memory, and only then is the machine told.

Theory of the two heads: `head` is what is committed, and what readers in this process see;
`published` is what peers may see. In a core we sign the second follows the first after a sync; in
any other core they are equal. Nobody needs the signature of a head that nobody is shown, so a head
is signed when the sync begins that publishes it.

Encrypted cores: storage, trees and peers know stored blocks only. An encryption key that was given
is *kept* with the core, in its user data, once it is known to be the right one: a block bore it
out, or we began the core with it. Until then it is this object's.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import trio

from corestore import crypto, tree
from corestore.bitfield import Bitfield
from corestore.commit import Commit, Run, StoredBlock
from corestore.encryption import BLOCK_KEY_BYTES, PADDING_BYTES, BlockCipher
from corestore.errors import (
    DecodeError,
    NotWritable,
    StorageConflict,
    StorageCorrupt,
    WrongEncryptionKey,
)
from corestore.events import Appended, Broadcast, Downloaded, Published, Truncated
from corestore.lease import HOLD, Hold, Lease, Reason
from corestore.manifest import Manifest, ManifestVerifier, check_signer, is_compat, sign
from corestore.replication.machine import Replicator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from corestore.events import CoreEvent
    from corestore.keys import DiscoveryKey, Key, KeyPair
    from corestore.replication.actions import CommitBatch, PeerId
    from corestore.storage.base import CoreRecord, CoreStorage
    from corestore.tree import Head, Node, TreeBatch, Verifier

# A larger block does not fit into one message of the wire (16,777,198 bytes with its proof).
MAX_BLOCK_BYTES: Final = 15 << 20
# Ends of blocks just written, by the index of the next: what saves a descent through the tree for
# every block of a download that runs in order.
_KNOWN_OFFSETS: Final = 1024
# Where a core's user data has its encryption key: as secret as the signer's note in its record, and
# in the same file.
ENCRYPTION_KEY: Final = "corestore/encryption-key"


class CoreState:
    """One core of an open store. Also the `CoreView` that its machine looks through."""

    def __init__(self, storage: CoreStorage, key_pair: KeyPair | None) -> None:
        self.storage = storage
        self.key: Key = storage.record.key
        self.discovery_key: DiscoveryKey = self.key.discovery_key
        self.key_pair = key_pair
        self.manifest: Manifest | None = None
        self.commit_lock = trio.Lock()
        # Held, under the commit lock, while a thread hashes what is to be appended.
        self.hashing = trio.Lock()
        self.events: Broadcast[CoreEvent] = Broadcast()
        # Woken whenever the head, the bitfield, `finding` or `asked` changed.
        self.changed = trio.lowlevel.ParkingLot()
        # How many handles are open; a core without any is only served, and may be forgotten.
        self.handles = 0
        # How many look for peers of this core at the moment: `update` waits for them.
        self.finding = 0
        # How many peers have yet to say whether they have it.
        self.asked = 0
        # Orders what one sync publishes: a transaction's later cores get the lower rank.
        self.publish_rank = 0
        # When the machine wants to be woken.
        self.wake_at = math.inf
        # The public keys of the peers whose channels are open.
        self.peers: dict[PeerId, bytes] = {}
        # The length of every cut below the end, truncations and others, since the core was opened.
        self.cuts: list[int] = []
        self._offsets: dict[int, int] = {}
        # What blocks are encrypted with; None also if they are and nobody has told us.
        self.encryption_key: bytes | None = None
        self._key_kept = False
        self._key_proven = False
        self._cipher: BlockCipher | None = None
        self.lease = Lease()
        # Whether that our key pair signs this core alone was looked at, and is so.
        self._signs_alone = False
        self._load()
        self.replicator = self._machine()
        stopped = self.lease.conflict(self.key)
        if stopped is not None:
            self.replicator.stop(stopped)
        else:
            self._watch()

    def _machine(self) -> Replicator:
        return Replicator(self.key, self, rng=random.Random(crypto.random_bytes(16)))

    def start_again(self) -> None:
        """A stopped core goes on: with a machine that knows of no peer."""
        self.replicator = self._machine()
        self.replicator.set_downloading(self.handles > 0)
        self._watch()

    def _watch(self) -> None:
        """Have peers show what they have beyond ours, if we sign here or may have an old copy. The
        lock outlives this object when the core leaves the cache."""
        held = self.lease.hold is not None
        if self.writable and (held or self.storage.signing_locked):
            self.replicator.doubt(every=held)
            self.follow_if_moved()

    def _load(self) -> None:
        storage = self.storage
        self.head: Head = storage.head
        self.published: Head = storage.published
        encoded = storage.record.manifest
        if encoded is not None:
            self.manifest = Manifest.decode(encoded)
        self._offsets.clear()
        kept = storage.user_data(ENCRYPTION_KEY)
        if kept is not None and kept != self.encryption_key:
            self._set_encryption_key(kept)
        self._key_kept = kept is not None
        self.lease.load(storage)
        self.bitfield = Bitfield()
        for number, page in storage.bitfield_pages():
            self.bitfield.load_page(number, page)

    def learn(self, record: CoreRecord, key_pair: KeyPair | None) -> None:
        """Take over what became known of the core since it was loaded."""
        if self.key_pair is None:
            self.key_pair = key_pair
        if self.manifest is None and record.manifest is not None:
            self.manifest = Manifest.decode(record.manifest)

    # -- what the machine looks at ----------------------------------------------------------------

    @property
    def writable(self) -> bool:
        """Whether we can sign for this core."""
        return self.key_pair is not None

    def node(self, index: int) -> Node | None:
        """A tree node by flat index, as committed."""
        return self.storage.node(index)

    def verifier(self, manifest: Manifest) -> Verifier:
        """What checks heads of this core under *manifest*.

        Raises:
          VerificationError: it is not the manifest of this core.
        """
        return ManifestVerifier(manifest, self.key)

    # -- reading ----------------------------------------------------------------------------------

    def block(self, index: int) -> bytes | None:
        """The stored bytes of a block, or None if it is not here.

        Raises:
          StorageCorrupt: the bitfield says it is here, and it is not.
        """
        if not self.bitfield.get(index):
            return None
        block = self.storage.block(index)
        if block is None and not self.reload():
            raise StorageCorrupt(f"block {index} of core {self.key}")
        return block

    @property
    def contiguous_length(self) -> int:
        """How many blocks are held from the first on, without a gap."""
        return min(self.bitfield.contiguous_length, self.head.length)

    # -- encryption -------------------------------------------------------------------------------

    @property
    def padding(self) -> int:
        """How many bytes of each stored block its readers do not see."""
        return 0 if self.encryption_key is None else PADDING_BYTES

    @property
    def cipher(self) -> BlockCipher | None:
        """What stored blocks are encrypted with. Not to be asked for before the core's kind is
        known: it has a block, or we sign it."""
        if self._cipher is None and self.encryption_key is not None:
            compat = is_compat(self.signing_manifest, self.key)
            self._cipher = BlockCipher.of_core(self.encryption_key, self.key, compat=compat)
        return self._cipher

    def use_encryption_key(self, key: bytes) -> None:
        """Encrypt and decrypt with *key* from now on. A key that turned out right is not replaced.

        Raises:
          ValueError: it has not 32 bytes.
          WrongEncryptionKey: a block that is held was not encrypted with it.
        """
        if len(key) != BLOCK_KEY_BYTES:
            raise ValueError(f"an encryption key has {BLOCK_KEY_BYTES} bytes, this has {len(key)}")
        before = self.encryption_key
        if key == before:
            return
        if before is not None and (self._key_kept or self._key_proven):
            raise WrongEncryptionKey(f"core {self.key} is encrypted with another key")
        self._set_encryption_key(key)
        held = self.bitfield.first(True, 0, self.head.length)
        stored = None if held is None else self.block(held)
        if held is not None and stored is not None:
            try:
                self.decrypt(held, stored)
            except WrongEncryptionKey:
                if before is not None:
                    self._set_encryption_key(before)
                raise

    def decrypt(self, index: int, stored: bytes) -> bytes:
        """What readers see of a stored block.

        The first block tells whether the key is right; one that is not, and not kept, is forgotten.

        Raises:
          WrongEncryptionKey: it was not encrypted with the key we have.
        """
        cipher = self.cipher
        if cipher is None:
            return stored
        try:
            if not self._key_proven and cipher.fork(index, stored) > self.head.fork:
                raise DecodeError("encrypted block")
            block = cipher.decrypt(index, stored)
        except DecodeError:
            if not self._key_kept and not self._key_proven:
                self._set_encryption_key(None)
            raise WrongEncryptionKey(
                f"block {index} of core {self.key} is not encrypted with the key given"
            ) from None
        self._key_proven = True
        return block

    def encryption_commit(self) -> Commit | None:
        """What keeps the encryption key, if it is to be kept and is not yet."""
        if self.encryption_key is None or self._key_kept:
            return None
        if self._key_proven or (self.writable and self.head.length == 0):
            return Commit(user_data={ENCRYPTION_KEY: self.encryption_key})
        return None

    def _set_encryption_key(self, key: bytes | None) -> None:
        self.encryption_key = key
        self._cipher = None
        self._key_proven = False

    # -- building commits -------------------------------------------------------------------------

    def prepare_signing(self) -> None:
        """Take the right to sign: the secret key, the kernel lock, and the head as of now.

        Raises:
          NotWritable: the secret key is not here.
          StorageLocked: another process signs this core.
          MustRecover: another copy of this core has more, or may have.
          ForkConflict: the core is stopped.
        """
        if not self.storage.signing_locked or self.key_pair is None:
            self.lock_signing()
        if not self.may_sign:
            self.lease.check(self.key, self.replicator.newer)

    def lock_signing(self) -> None:
        """Take the kernel lock alone, and look what there is under it. Raises as above."""
        if self.key_pair is None:
            raise NotWritable(f"the secret key of core {self.key} is not here")
        if not self.storage.signing_locked:
            self.storage.lock_signing()
            self._reread()
            # From here on nobody else lengthens it: who claims to have more has another copy.
            self.replicator.doubt(every=self.lease.hold is not None)

    async def take_commit_lock(self) -> None:
        """Acquire `commit_lock`; no checkpoint if it is free, which would cost as much as hashing
        and staging a small block."""
        try:
            self.commit_lock.acquire_nowait()
        except trio.WouldBlock:
            await self.commit_lock.acquire()

    @property
    def free_to_append(self) -> bool:
        """Whether an append has to wait for nothing: no other one, no question to the peers."""
        return self.lease.asked and self.may_sign and not self.commit_lock.locked()

    def follow_if_moved(self) -> None:
        """A core whose key was moved to another store is followed as if it were somebody else's."""
        hold = self.lease.hold
        self.replicator.set_recovering(hold is not None and hold.reason is Reason.MOVED)

    @property
    def may_sign(self) -> bool:
        """Whether nothing is known that forbids signing."""
        lease = self.lease
        return lease.hold is None and lease.evidence is None and self.replicator.newer is None

    def _sign(self, head: Head) -> Head:
        """*head*, signed by us. Raises as `prepare_signing`."""
        self.prepare_signing()
        assert self.key_pair is not None
        return replace(head, signature=sign(self.signing_manifest, self.key, self.key_pair, head))

    @property
    def signing_manifest(self) -> Manifest:
        """The manifest, or what stands for it in a core whose key is a signer's public key."""
        return self.manifest or Manifest.default(self.key)

    def append_commit(
        self, base: Head, batch: TreeBatch | None, user_data: Mapping[str, bytes | None]
    ) -> Commit:
        """The commit of an append that was built on *base*, by who may sign it; its head is not
        yet signed.

        Raises:
          NotWritable: our key pair alone is no quorum of the manifest's signers.
          StorageConflict: the core is not at *base* any more.
        """
        if batch is None:
            return Commit(user_data=user_data)
        if self.encryption_key is not None and not self._key_kept:
            user_data = {**user_data, ENCRYPTION_KEY: self.encryption_key}
        self._check_signer()
        if (self.head.fork, self.head.length) != (base.fork, base.length):
            raise StorageConflict(f"core {self.key} was changed by somebody else meanwhile")
        return Commit(
            blocks=batch.blocks,
            nodes=batch.nodes,
            runs=(Run(base.length, batch.length, True),),
            head=batch.head(b""),
            user_data=user_data,
        )

    def truncate_commit(self, length: int, fork: int) -> Commit:
        """The commit that shortens the log to *length* blocks, on *fork*."""
        self.prepare_signing()
        batch = tree.truncate(self.head, length, fork, nodes=self)
        return Commit(truncate=length, nodes=batch.nodes, head=self._sign(batch.head(b"")))

    def sign_commit(self) -> Commit | None:
        """What signs the head; None if it is signed, or may not be."""
        head = self.head
        if not head.length or head.signature or self.key_pair is None or not self.may_sign:
            return None
        try:
            self._check_signer()
        except NotWritable:
            return None  # it takes others too
        return Commit(head=self._sign(head))

    def _check_signer(self) -> None:
        if not self._signs_alone:
            assert self.key_pair is not None
            check_signer(self.signing_manifest, self.key, self.key_pair)
            self._signs_alone = True

    def complete(self, commit: Commit) -> Commit:
        """*commit*, its head signed if it is ours to sign and is not yet. Raises as
        `prepare_signing`."""
        head = commit.head
        if head is None or head.signature or not head.length:
            return commit
        if self.key_pair is None:
            return commit  # up to its prologue a log needs no signature
        return replace(commit, head=self._sign(head))

    def verified_commit(self, batches: Sequence[CommitBatch]) -> Commit:
        """One commit of what peers proved, in that order.

        Only the first of *batches* may replace our history (`VerifiedBatch.truncate`).
        """
        head = self.head
        new_head: Head | None = None
        manifest: Manifest | None = None
        nodes: list[Node] = []
        blocks: list[StoredBlock] = []
        runs: list[Run] = []
        overlay = tree.NodeOverlay(self)
        truncate = batches[0].batch.truncate
        if truncate is not None:
            self._offsets.clear()
        for each in batches:
            batch = each.batch
            manifest = each.manifest or manifest
            if batch.head is not None:
                head = new_head = batch.head
            nodes += batch.nodes
            overlay.add(batch.nodes)
            if batch.block is not None:
                index, data = batch.block
                offset = self._byte_offset(index, len(data), head, overlay)
                blocks.append(StoredBlock(index, offset, data))
                if runs and runs[-1].end == index:
                    runs[-1] = Run(runs[-1].start, index + 1, True)
                else:
                    runs.append(Run(index, index + 1, True))
        if truncate is not None:
            self._offsets.clear()  # it may be refused, and the log stay what it is
        return Commit(
            truncate=truncate,
            blocks=blocks,
            nodes=nodes,
            runs=runs,
            head=new_head,
            manifest=None if manifest is None or self.manifest is not None else manifest.encode(),
        )

    def _byte_offset(self, index: int, size: int, head: Head, nodes: tree.NodeReader) -> int:
        offset = self._offsets.pop(index, None)
        if offset is None:
            offset = tree.byte_offset(index, head, nodes=nodes)
        if len(self._offsets) >= _KNOWN_OFFSETS:
            self._offsets.clear()
        self._offsets[index + 1] = offset + size
        return offset

    # -- changing memory --------------------------------------------------------------------------

    def apply(self, commit: Commit) -> None:
        """Repeat in memory what storage has just committed, and report it."""
        before = self.head
        if commit.manifest is not None and self.manifest is None:
            self.manifest = Manifest.decode(commit.manifest)
        if ENCRYPTION_KEY in commit.user_data:
            self._key_kept = True
        if HOLD in commit.user_data:
            held = commit.user_data[HOLD]
            self.lease.hold = None if held is None else Hold.decode(held)
            self.follow_if_moved()
        if commit.truncate is not None:
            self.bitfield.set(commit.truncate, max(before.length, commit.truncate), False)
            self._offsets.clear()
            if commit.truncate < before.length:
                self.cuts.append(commit.truncate)
        for run in commit.runs:
            self.bitfield.set(run.start, run.end, run.held)
        if commit.head is not None:
            self.head = commit.head
            if self.key_pair is None:
                self.published = commit.head
            self._report_head(before)
        if self.changed:
            self.changed.unpark_all()

    def reload(self) -> bool:
        """Look whether another process changed the core; whether it did."""
        if not self.storage.changed():
            return False
        self._reread()
        return True

    def cut_to_stored(self) -> None:
        """Take over the head that storage cut an unpublished tail to."""
        self._reread()

    def _reread(self) -> None:
        before = self.head
        self._load()
        if self.head.fork != before.fork and before.length:
            # How far the other history reaches back is not known here.
            self.cuts.append(0)
        elif self.head.length < before.length:
            self.cuts.append(self.head.length)
        self._report_head(before)
        if self.writable:
            self.replicator.forget_nodes()
        for start, end in self.bitfield.runs(0, self.head.length):
            self.replicator.stored(start, end)
        self.replicator.published(self.published)
        self.changed.unpark_all()

    def publish(self) -> bool:
        """Take over what storage says is published; whether that is new."""
        head, shown = self.storage.published, self.published
        if head.fork == shown.fork and head.length < shown.length:
            return False  # more was shown before it was synced, as by the policy NONE
        return self._publish(head)

    def publish_unsynced(self) -> bool:
        """Show peers what is committed, durable or not; whether that is new."""
        return self._publish(self.head)

    def _publish(self, head: Head) -> bool:
        if head == self.published:
            return False
        self.published = head
        self.events.send(Published(head.length))
        self.changed.unpark_all()
        return True

    def report_downloads(self, batches: Sequence[CommitBatch]) -> None:
        """Tell subscribers which blocks arrived."""
        if self.events:
            for each in batches:
                if each.batch.block is not None:
                    self.events.send(Downloaded(each.batch.block[0]))

    def _report_head(self, before: Head) -> None:
        if not self.events:
            return
        head = self.head
        if head.fork != before.fork or head.length < before.length:
            self.events.send(Truncated(head.length, head.fork))
        elif head.length > before.length:
            self.events.send(Appended(head.length))
