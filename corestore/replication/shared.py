"""What the parts of one machine have in common: the core, its peers, the actions so far."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from corestore.manifest import Manifest
from corestore.replication.actions import ReplicationStatistics, Send
from corestore.replication.nodes import NodeCache
from corestore.replication.wants import Wants

if TYPE_CHECKING:
    from random import Random

    from corestore.keys import Key
    from corestore.replication.actions import Action, CoreView, PeerId
    from corestore.replication.messages import Message
    from corestore.replication.peer import Flight, Peer
    from corestore.tree.types import HashRequest, Head, SeekRequest, Verifier


class Asker(Protocol):
    """What those who decide what to ask for use of the requests under way."""

    def claimed(self, index: int) -> bool:
        """Whether a block is under way or being written."""
        ...

    def better(self, peer: Peer, other: Peer) -> bool:
        """Whether *peer* would answer sooner than *other*."""
        ...

    def block_wanted(self, index: int) -> None:
        """A single block is wanted."""
        ...

    def launch(
        self,
        flight: Flight,
        hash_request: HashRequest | None = None,
        seek_request: SeekRequest | None = None,
        priority: int = 0,
    ) -> None:
        """Send the request of *flight*, and remember it."""
        ...


class Shared:
    """State that uploads, downloads and the machine itself read and write.

    Attributes:
      pending_head: a head that was verified and is not committed yet.
      pending_manifest: likewise.
      out: actions for the next drain, in order.
      now: the time of the latest input that came with one.
      downloading: whether we follow the log.
      deserted: how often a peer has left that owed answers; blocks that come pay for it.
      recovering: our own log is being fetched from peers, as if somebody else signed it.
    """

    def __init__(self, key: Key, view: CoreView, rng: Random) -> None:
        self.key = key
        self.view = view
        self.rng = rng
        self.nodes = NodeCache(view)
        self.peers: dict[PeerId, Peer] = {}
        self.out: list[Action] = []
        self.wants = Wants(self.out.append)
        self.pending_head: Head | None = None
        self.pending_manifest: Manifest | None = None
        self.statistics = ReplicationStatistics()
        self.now = 0.0
        self.downloading = True
        self.recovering = False
        self.deserted = 0
        self._verifier: tuple[Manifest, Verifier] | None = None

    @property
    def follows(self) -> bool:
        """Whether peers may lengthen our log: somebody else signs it, or we recover our own."""
        return self.recovering or not self.view.writable

    @property
    def head(self) -> Head:
        """The newest head we have verified."""
        return self.pending_head or self.view.head

    @property
    def manifest(self) -> Manifest | None:
        """The manifest, if one was verified."""
        return self.view.manifest or self.pending_manifest

    def manifest_for(self, sent: Manifest | None) -> Manifest:
        """Whose signatures count: the manifest we know, else the one *sent* along, else that of a
        core older than manifests, whose key is the signer's."""
        return self.manifest or sent or Manifest.default(self.key)

    def verifier(self, sent: Manifest | None) -> Verifier:
        """What checks heads under `manifest_for` *sent*. Raises VerificationError."""
        manifest = self.manifest_for(sent)
        if self._verifier is None or self._verifier[0] is not manifest:
            self._verifier = manifest, self.view.verifier(manifest)
        return self._verifier[1]

    def send(self, peer: Peer, message: Message) -> None:
        """Queue a message."""
        self.out.append(Send(peer.id, message))

    def take_actions(self) -> list[Action]:
        """The actions since the last call."""
        actions = self.out.copy()
        self.out.clear()
        return actions
