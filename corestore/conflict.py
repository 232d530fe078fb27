"""The evidence that the key of a core has signed two histories, as a value and as bytes.

Both histories are proofs as peers send them: from nothing, with a signature each. Anybody who has
the core's key can check them, without a store and without trusting whoever shows them.

Bytes: a version (1), then for each side (ours, theirs; ours may be empty) its size and the body of
a data message with request id 0, with the manifest. Integers are those of the wire. The messages'
format: holepunchto/hypercore 11; corestore/PROTOCOL.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from corestore.encoding import Reader, Writer
from corestore.errors import DecodeError, InvalidProof
from corestore.manifest import Manifest, ManifestVerifier
from corestore.replication import messages
from corestore.replication.messages import Data, MessageType
from corestore.tree.types import Head, NoNodes, Proof
from corestore.tree.verify import verify

if TYPE_CHECKING:
    from corestore.keys import Key
    from corestore.tree.types import Node

VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class ForkEvidence:
    """Two signed histories of one core and one fork.

    Attributes:
      ours: what we had; None if our copy was too sparse to prove it.
      theirs: what a peer showed.
    """

    fork: int
    manifest: Manifest | None
    ours: Proof | None
    theirs: Proof

    def encode(self) -> bytes:
        """As bytes, to be kept or shown."""
        writer = Writer()
        writer.uint(VERSION)
        for proof in (self.ours, self.theirs):
            body = b""
            if proof is not None:
                _, body = messages.encode(Data(0, proof, self.manifest))
            writer.buffer(body)
        return writer.finish()

    @classmethod
    def decode_untrusted(cls, data: bytes) -> ForkEvidence:
        """Undo `encode`. Raises DecodeError; says nothing about truth: `check` does."""
        reader = Reader(data)
        if reader.uint() != VERSION:
            raise DecodeError("evidence of a fork")
        ours, theirs = (_decode(reader.buffer()) for _ in range(2))
        if theirs is None:
            raise DecodeError("evidence of a fork")
        mine = None if ours is None else ours.proof
        return cls(theirs.proof.fork, theirs.manifest, mine, theirs.proof)

    def check(self, key: Key) -> None:
        """Prove it again.

        Raises:
          VerificationError: it does not show that the signers of core *key* have signed two
            histories of one fork.
        """
        if self.ours is None:
            raise InvalidProof("one side of the evidence is missing")
        verifier = ManifestVerifier(self.manifest or Manifest.default(key), key)
        found: list[dict[int, Node]] = []
        for proof in (self.ours, self.theirs):
            if proof.upgrade is None or proof.fork != self.fork:
                raise InvalidProof("the evidence is not of one fork")
            verify(proof, Head(proof.fork), nodes=NoNodes(), verifier=verifier)
            parts = (proof.upgrade.nodes, proof.hash.nodes if proof.hash else ())
            found.append({node.index: node for part in parts for node in part})
        mine, other = found
        if all(other.get(index, node) == node for index, node in mine.items()):
            raise InvalidProof("the two histories may be one")


def _decode(body: bytes) -> Data | None:
    if not body:
        return None
    message = messages.decode(MessageType.DATA, body)
    if not isinstance(message, Data):
        raise DecodeError("evidence of a fork")
    return message
