"""The serving half of a machine: what we tell peers about our copy, and how we answer them.

Nothing is sent at once. Inputs mark what is to be told; `flush`, once per drain, sends each peer
the newest state: one `Sync` if it differs from the last one sent (this also acknowledges the peer's
own length, and ends the exchange when nothing changes), and the blocks that came since, as one
range where they touch.

Only what is published is announced and served.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from corestore.bitfield import MAX_WIRE_BLOCKS
from corestore.errors import BlockNotAvailable, LimitExceeded, RemoteProtocolError
from corestore.manifest import manifest_key
from corestore.replication.messages import (
    BitfieldMessage,
    Data,
    NoData,
    NoDataReason,
    Range,
    RequestMessage,
    Sync,
    Want,
)
from corestore.tree import flat
from corestore.tree.proof import InvalidRequest, build
from corestore.tree.types import HashRequest, Proof, Request, UpgradeRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from corestore.manifest import Manifest
    from corestore.replication.peer import Peer
    from corestore.replication.shared import Shared
    from corestore.tree.types import Head, UpgradeProof

# Requests of one peer that wait for an answer: twice what we ourselves send at most.
MAX_SERVING: Final = 1024
# Of requests that no tree can answer; the reference gives up at the same number.
MAX_INVALID_REQUESTS: Final = 64
# Wants of one peer that wait for an answer, and answers of up to 256 KiB between two ticks.
MAX_ASKED: Final = 1024
BITFIELDS_PER_TICK: Final = 16
# More separate runs than this are told as one bitfield, if they lie within its reach.
MAX_RANGES: Final = 32


class Uploads:
    """Announces and answers, for one core."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._runs: list[tuple[int, int]] = []
        self._sync_all = False
        self._sync_some: dict[Peer, None] = {}
        self._asking: dict[Peer, None] = {}
        self._bitfields_left = BITFIELDS_PER_TICK
        self._served_manifest: tuple[Manifest, bool] | None = None

    # -- what changed ----------------------------------------------------------------------------

    def head_changed(self) -> None:
        """Our published head, manifest or `downloading` changed: all peers are told."""
        self._sync_all = True

    def peer_changed(self, peer: Peer) -> None:
        """A peer is new, or its state changed: what we say to it may change."""
        self._sync_some[peer] = None

    def blocks_added(self, start: int, end: int) -> None:
        """Blocks are held now."""
        if not self._shared.peers:
            return  # whoever comes is told everything
        runs = self._runs
        if runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], end)
        else:
            runs.append((start, end))

    def blocks_removed(self, start: int, end: int) -> None:
        """Blocks are no longer held; the peers are told at once."""
        cut = [(low, min(high, start)) for low, high in self._runs if low < start]
        cut += [(max(low, end), high) for low, high in self._runs if end < high]
        self._runs = [(low, high) for low, high in cut if low < high]
        for peer in self._shared.peers.values():
            if peer.sent is not None:
                told = peer.told_contiguous
                peer.told_contiguous = min(told, start)
                self._shared.send(peer, Range(start, end - start, drop=True))
                if end < told:
                    # The reference only counts how far we are whole, and forgets what is beyond.
                    self._shared.send(peer, Range(end, told - end))

    def rewind(self, start: int, end: int) -> None:
        """The log was cut at *start*, and had *end* blocks: start telling from the beginning."""
        self._runs.clear()
        for peer in self._shared.peers.values():
            peer.told_contiguous = 0
            if peer.sent is not None and start < end:
                # Without this, blocks that the new history has as well would still count as here.
                self._shared.send(peer, Range(start, end - start, drop=True))
        for low, high in self._shared.view.bitfield.runs(0, self._shared.view.published.length):
            self.blocks_added(low, high)

    def want(self, peer: Peer, want: Want) -> None:
        """A peer asks which blocks we have. Raises LimitExceeded if it asks too often."""
        if want.length > MAX_WIRE_BLOCKS:
            return
        peer.asked[want] = None
        if len(peer.asked) > MAX_ASKED:
            raise LimitExceeded(f"more than {MAX_ASKED} wants")
        self._asking[peer] = None

    def forget_peer(self, peer: Peer) -> None:
        """A peer has gone."""
        self._sync_some.pop(peer, None)
        self._asking.pop(peer, None)

    def tick(self) -> None:
        """Some time has passed."""
        self._bitfields_left = BITFIELDS_PER_TICK

    @property
    def waiting(self) -> bool:
        """Whether answers are held back until the next tick."""
        return bool(self._asking)

    # -- telling ---------------------------------------------------------------------------------

    @property
    def contiguous_length(self) -> int:
        """How many blocks from 0 on we announce."""
        view = self._shared.view
        return min(view.bitfield.contiguous_length, view.published.length)

    def flush(self) -> None:
        """Send every peer what it does not know yet."""
        if self._runs:
            self._announce()
        if self._sync_all:
            for peer in self._shared.peers.values():
                self._sync(peer)
        elif self._sync_some:
            for peer in self._sync_some:
                self._sync(peer)
        self._sync_all = False
        self._sync_some.clear()
        if self._asking:
            self._answer_wants()

    def _announce(self) -> None:
        end = self._shared.view.published.length
        contiguous = self.contiguous_length
        runs: list[tuple[int, int]] = []
        grown = False
        for low, high in sorted(self._runs):
            start, stop = low, min(high, end)
            if start < contiguous:
                grown = True
                start = contiguous
            if runs and start <= runs[-1][1]:
                runs[-1] = (runs[-1][0], max(stop, runs[-1][1]))
            elif start < stop:
                runs.append((start, stop))
        self._runs.clear()
        messages: list[Range | BitfieldMessage] = [Range(low, high - low) for low, high in runs]
        if len(runs) > MAX_RANGES and runs[-1][1] - runs[0][0] <= MAX_WIRE_BLOCKS - 64:
            bitfield = self._bits(runs[0][0], runs[-1][1])
            messages = [bitfield] if bitfield is not None else []
        for peer in self._shared.peers.values():
            if peer.sent is None:
                continue  # new: it is told everything below
            if grown and peer.told_contiguous < contiguous:
                self._tell_contiguous(peer, contiguous)
            for message in messages:
                self._shared.send(peer, message)
            if not peer.sent.can_upgrade and 0 < peer.length < end and peer.length <= contiguous:
                # By now we have the roots at its length: they are above blocks that we hold.
                self._sync_some[peer] = None

    def _tell_contiguous(self, peer: Peer, contiguous: int) -> None:
        peer.told_contiguous = contiguous
        self._shared.send(peer, Range(0, contiguous))

    def _sync(self, peer: Peer) -> None:
        sync = self._state_for(peer)
        if sync == peer.sent:
            return
        first = peer.sent is None
        peer.sent = sync
        self._shared.send(peer, sync)
        if first and (contiguous := self.contiguous_length):
            self._tell_contiguous(peer, contiguous)

    def _state_for(self, peer: Peer) -> Sync:
        head = self._shared.view.published
        same_fork = not peer.synced or peer.fork == head.fork
        return Sync(
            # A log without blocks has no signature, so nobody can follow to its fork. Hypercore 10
            # would try, and wait for ever.
            fork=head.fork if head.length else 0,
            length=head.length,
            remote_length=peer.length if same_fork else 0,
            can_upgrade=same_fork and self._can_upgrade(peer.length, head),
            uploading=True,
            downloading=self._shared.downloading or bool(self._shared.wants),
            has_manifest=self._manifest_to_serve() is not None,
        )

    def _can_upgrade(self, length: int, head: Head) -> bool:
        if length == 0:
            return True
        if length >= head.length:
            return False
        view = self._shared.view
        if view.writable and view.bitfield.contiguous_length >= head.length:
            return True
        nodes = self._shared.nodes
        return all(nodes.node(root) is not None for root in flat.full_roots(2 * length))

    def _manifest_to_serve(self) -> Manifest | None:
        """The manifest, unless it is unknown or the core is older than manifests."""
        manifest = self._shared.view.manifest
        if manifest is None:
            return None
        if self._served_manifest is None or self._served_manifest[0] is not manifest:
            self._served_manifest = manifest, manifest_key(manifest) == self._shared.key
        return manifest if self._served_manifest[1] else None

    def _answer_wants(self) -> None:
        for peer in list(self._asking):
            while peer.asked and self._bitfields_left:
                want = next(iter(peer.asked))
                del peer.asked[want]
                self._answer_want(peer, want)
            if not peer.asked:
                del self._asking[peer]

    def _answer_want(self, peer: Peer, want: Want) -> None:
        shared = self._shared
        length = shared.view.published.length
        end = min(want.start + want.length, length)
        contiguous = self.contiguous_length
        if want.start >= length:
            return
        if end <= contiguous:
            self._tell_contiguous(peer, contiguous)
        elif want.any:
            first = shared.view.bitfield.first(True, want.start, end)
            if first is not None:
                shared.send(peer, Range(first, 1))
        else:
            bitfield = self._bits(want.start, end)
            if bitfield is not None:
                self._bitfields_left -= 1
                shared.send(peer, bitfield)

    def _bits(self, start: int, end: int) -> BitfieldMessage | None:
        """The published blocks of a range; None if there are none. Empty words at both ends are
        left out: what was never announced counts as missing."""
        view = self._shared.view
        first = view.bitfield.first(True, start, end)
        if first is None:
            return None
        start = first & ~31
        bits = view.bitfield.wire(start, min(end, start + MAX_WIRE_BLOCKS))
        limit = view.published.length - start
        if limit < 8 * len(bits):
            # The last word may reach into blocks that are not published.
            known = int.from_bytes(bits, "little") & (1 << limit) - 1
            bits = known.to_bytes(len(bits), "little")
        size = len(bits.rstrip(b"\x00")) + 3 & ~3
        return BitfieldMessage(start, bits[:size])

    # -- answering -------------------------------------------------------------------------------

    def accept(self, peer: Peer, request: RequestMessage) -> None:
        """Note a request that is to be served. Raises LimitExceeded if there are too many."""
        peer.serving[request.id] = request
        if len(peer.serving) > MAX_SERVING:
            raise LimitExceeded(f"more than {MAX_SERVING} requests at once")

    def answer(
        self, peer: Peer, request: RequestMessage, block: Callable[[int], bytes | None]
    ) -> Data | NoData | None:
        """The answer to a request, None if it is not wanted any more.

        Raises:
          RemoteProtocolError: the peer has sent too many impossible requests.
        """
        if peer.serving.get(request.id) is not request:
            return None
        del peer.serving[request.id]
        head = self._shared.view.published
        manifest = self._manifest_to_serve() if request.manifest else None
        reason = NoDataReason.NOT_AVAILABLE
        wanted = request.request
        if wanted.fork == head.fork and head.length:
            try:
                # Of what is stored only: nodes on their way may belong to the next fork.
                proof = build(
                    wanted,
                    head,
                    nodes=self._shared.view,
                    block=block,
                    prologue_length=self._prologue_length(),
                )
            except BlockNotAvailable:
                pass
            except InvalidRequest:
                reason = NoDataReason.INVALID_REQUEST
                peer.invalid_requests += 1
                if peer.invalid_requests > MAX_INVALID_REQUESTS:
                    raise RemoteProtocolError("too many impossible requests") from None
            else:
                statistics = self._shared.statistics
                if proof.block is not None:
                    statistics.blocks_served += 1
                    statistics.bytes_served += len(proof.block.value)
                return Data(request.id, proof, manifest)
        if manifest is not None:
            return Data(request.id, Proof(fork=head.fork), manifest)
        return NoData(request.id, reason)

    def own_history(self, theirs: UpgradeProof) -> Proof | None:
        """Our signed head, proved from nothing, with a node that *theirs* has otherwise. None if
        there is no such node."""
        view = self._shared.view
        head = view.published
        requests = [Request(head.fork, upgrade=UpgradeRequest(0, min(theirs.length, head.length)))]
        for node in theirs.nodes:
            # A sparse copy may not know all its roots of then: one that differs is enough.
            if self._shared.nodes.node(node.index) not in (None, node):
                upgrade = UpgradeRequest(0, head.length)
                requests.append(
                    Request(head.fork, hash=HashRequest(node.index, 0), upgrade=upgrade)
                )
        for request in requests:
            with contextlib.suppress(BlockNotAvailable, InvalidRequest):
                return build(
                    request,
                    head,
                    nodes=self._shared.nodes,
                    block=lambda index: None,
                    prologue_length=self._prologue_length(),
                )
        return None

    def _prologue_length(self) -> int:
        manifest = self._shared.view.manifest
        if manifest is None or manifest.prologue is None:
            return 0
        return manifest.prologue.length
