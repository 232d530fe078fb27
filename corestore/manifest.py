"""Who may sign a core: the manifest, whose hash is the core's key.

A manifest lists signers and how many of them (the quorum) must sign a head. Its hash is the key, so
whoever has the key can check the manifest that a peer sends, and with it every signature. Three
kinds of cores are about:

- version 1 and later: signers sign (key, tree hash, length, fork); a signature is a container of
  the signers' own, each of which may be over a longer log if the manifest allows *patches*;
- version 0: signers sign (their namespace, tree hash, length, fork); with one signer the signature
  is the bare 64 bytes, with several a container of an older form;
- *compat* cores, from before manifests: the key is the only signer's public key, which signs (tree
  hash, length, fork), and the signature is the bare 64 bytes.

A *prologue* names the first blocks of a log by their tree hash; up to there no signature is needed,
and a manifest with a prologue and no signers makes a core that never changes.

Format: holepunchto/hypercore 11, manifests and multi-signatures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

from corestore import crypto
from corestore.encoding import Reader, Writer, encode_uint
from corestore.errors import DecodeError, InvalidProof, InvalidSignature, NotWritable
from corestore.keys import Key
from corestore.tree.types import Head, Node, Prologue
from corestore.tree.verify import extend

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from corestore.keys import KeyPair

__all__ = [
    "DEFAULT_VERSION",
    "MAX_SIGNERS",
    "Manifest",
    "ManifestVerifier",
    "PartialSignature",
    "Prologue",
    "Signable",
    "Signer",
    "assemble",
    "derive",
    "manifest_key",
    "sign",
    "sign_partial",
    "signable",
    "signed_bytes",
]

# Version 1 is the newest that hypercore 10 reads.
DEFAULT_VERSION: Final = 1
_MAX_VERSION: Final = 3
# Ours: a quorum of more would take seconds to verify, and nobody has one.
MAX_SIGNERS: Final = 256
_MAX_LINKED: Final = 4096

_PATCH, _PROLOGUE, _LINKED, _USER_DATA = 1, 2, 4, 8
_SIGNER_BYTES: Final = 1 + crypto.HASH_BYTES + crypto.PUBLIC_KEY_BYTES
_NODE_BYTES: Final = 2 + crypto.HASH_BYTES
# No upgrade has more nodes than this (two a bit of the length), and a container shares them.
_MAX_PART_NODES: Final = 128
_MAX_PATCH_NODES: Final = _MAX_PART_NODES * MAX_SIGNERS


class Signable(Protocol):
    """What is signed: a head, or a batch that is to become one."""

    @property
    def fork(self) -> int: ...
    @property
    def length(self) -> int: ...
    def tree_hash(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Signer:
    """One who may sign: an Ed25519 public key, in a namespace that tells its uses apart."""

    public_key: bytes
    namespace: bytes = crypto.DEFAULT_NAMESPACE


@dataclass(frozen=True, slots=True)
class Manifest:
    """Who may sign a core.

    Attributes:
      quorum: how many of the signers must sign.
      allow_patch: signers may have signed a longer log than the one they vouch for.
      linked, user_data: what version 2 added; carried along, as they are part of the hash.
    """

    version: int = DEFAULT_VERSION
    allow_patch: bool = False
    quorum: int = 1
    signers: tuple[Signer, ...] = ()
    prologue: Prologue | None = None
    linked: tuple[bytes, ...] | None = None
    user_data: bytes | None = None

    @classmethod
    def default(cls, public_key: bytes, namespace: bytes = crypto.DEFAULT_NAMESPACE) -> Manifest:
        """The manifest of a core with one signer."""
        return cls(signers=(Signer(public_key, namespace),))

    @classmethod
    def of_signers(cls, signers: Sequence[Signer], *, quorum: int | None = None) -> Manifest:
        """The manifest of a core with several signers; a majority of them unless *quorum* says.

        Raises:
          ValueError: the quorum is negative or more than there are signers.
        """
        if quorum is None:
            quorum = len(signers) // 2 + 1 if signers else 0
        if not 0 <= quorum <= len(signers):
            raise ValueError(f"a quorum of {quorum} out of {len(signers)}")
        return cls(quorum=quorum, signers=tuple(signers))

    def encode(self) -> bytes:
        """The bytes whose hash is the key."""
        writer = Writer()
        writer.uint(self.version)
        if self.version == 0:
            self._write_version_0(writer)
            return writer.finish()
        flags = (
            (_PATCH if self.allow_patch else 0)
            | (_PROLOGUE if self.prologue is not None else 0)
            | (_LINKED if self.linked is not None else 0)
            | (_USER_DATA if self.user_data is not None else 0)
        )
        writer.uint(flags).uint(0).uint(self.quorum).array(self.signers, _write_signer)
        if self.prologue is not None:
            writer.fixed(self.prologue.hash).uint(self.prologue.length)
        if self.linked is not None:
            writer.array(self.linked, Writer.fixed)
        if self.user_data is not None:
            writer.buffer(self.user_data)
        return writer.finish()

    def _write_version_0(self, writer: Writer) -> None:
        writer.uint(0)
        if self.prologue is not None and not self.signers:
            writer.uint(0).fixed(self.prologue.hash)
        elif self.quorum == 1 and len(self.signers) == 1 and not self.allow_patch:
            writer.uint(1)
            _write_signer(writer, self.signers[0])
        else:
            writer.uint(2).uint(_PATCH if self.allow_patch else 0).uint(self.quorum)
            writer.array(self.signers, _write_signer)

    @classmethod
    def decode(cls, data: bytes | memoryview) -> Manifest:
        """Undo `encode`. Bytes after it are ignored.

        Raises:
          DecodeError: it is not a manifest, of a version or with hashes or signatures we do not
            know, or of more than `MAX_SIGNERS` signers.
        """
        return cls.read(Reader(data))

    @classmethod
    def read(cls, reader: Reader) -> Manifest:
        """As `decode`, from a larger structure."""
        at = reader.at
        version = reader.uint()
        if version == 0:
            return cls._read_version_0(reader)
        if version > _MAX_VERSION:
            raise DecodeError("manifest of version 0 to 3", at)
        flags = reader.uint()
        _read_zero(reader, "manifest with BLAKE2b hashes")
        quorum = reader.uint()
        signers = _read_signers(reader)
        prologue = linked = user_data = None
        if flags & _PROLOGUE:
            prologue = Prologue(reader.fixed(crypto.HASH_BYTES), reader.uint())
        if flags & _LINKED:
            at = reader.at
            linked = tuple(reader.array(_read_hash, item_bytes=crypto.HASH_BYTES))
            if len(linked) > _MAX_LINKED:
                raise DecodeError(f"at most {_MAX_LINKED} linked cores", at)
        if flags & _USER_DATA:
            user_data = reader.buffer()
        return cls(version, bool(flags & _PATCH), quorum, signers, prologue, linked, user_data)

    @classmethod
    def _read_version_0(cls, reader: Reader) -> Manifest:
        _read_zero(reader, "manifest with BLAKE2b hashes")
        at = reader.at
        kind = reader.uint()
        if kind == 0:
            prologue = Prologue(reader.fixed(crypto.HASH_BYTES), 0)
            return cls(version=0, quorum=0, prologue=prologue)
        if kind == 1:
            return cls(version=0, signers=(_read_signer(reader),))
        if kind != 2:
            raise DecodeError("manifest of type 0 to 2", at)
        flags = reader.uint()
        quorum = reader.uint()
        return cls(0, bool(flags & _PATCH), quorum, _read_signers(reader))


def manifest_key(manifest: Manifest) -> Key:
    """The key of the core with this manifest, unless it is a compat core."""
    return Key(crypto.hash_bytes(crypto.MANIFEST, manifest.encode()))


def derive(manifest: Manifest, salt: bytes, key: bytes) -> Manifest:
    """The manifest of a second core that belongs to the core *key* and has the same signers.

    Each signer's namespace becomes a hash of *salt*, *key* and the old one, so that the two cores
    have different keys. Prologue, linked cores and user data are not taken over.
    """
    signers = tuple(
        Signer(signer.public_key, crypto.hash_bytes(salt, key, signer.namespace))
        for signer in manifest.signers
    )
    return replace(manifest, signers=signers, prologue=None, linked=None, user_data=None)


# -- signing -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PartialSignature:
    """One signer's part of a signature, over a log that is *patch* blocks longer than the rest.

    `nodes` are the upgrade from the shorter log to the longer one.
    """

    signer: int
    signature: bytes
    patch: int = 0
    nodes: tuple[Node, ...] = ()

    def encode(self) -> bytes:
        """The bytes to send to whoever commits (corestore/PROTOCOL.md, 5.12)."""
        writer = Writer()
        _write_part(writer, self)
        return writer.array(self.nodes, _write_node).finish()

    @classmethod
    def decode_untrusted(cls, data: bytes | memoryview) -> PartialSignature:
        """Undo `encode`. Whether it is anybody's signature turns out when it is committed.

        Raises:
          DecodeError: it is no part of a signature.
        """
        reader = Reader(data)
        part = _read_part(reader)
        at = reader.at
        nodes = reader.array(_read_node, item_bytes=_NODE_BYTES)
        if len(nodes) > _MAX_PART_NODES:
            raise DecodeError("part of a signature with a bounded number of nodes", at)
        return replace(part, nodes=tuple(nodes))


def signable(context: bytes | None, tree_hash: bytes, length: int, fork: int) -> bytes:
    """The bytes a signer signs.

    *context* is the core's key from version 1 on, the signer's namespace in version 0, and None
    for a compat core.
    """
    return b"".join(
        (
            crypto.TREE,
            context or b"",
            tree_hash,
            length.to_bytes(8, "little"),
            fork.to_bytes(8, "little"),
        )
    )


def sign(manifest: Manifest, key: bytes, key_pair: KeyPair, batch: Signable) -> bytes:
    """The signature of *batch*, complete: *key_pair* alone must be a quorum.

    Raises:
      NotWritable: the key pair is none of the manifest's signers, or the quorum needs more than
        one (see `sign_partial` and `assemble`).
    """
    check_signer(manifest, key, key_pair)
    part = sign_partial(manifest, key, key_pair, batch)
    return part.signature if is_compat(manifest, key) else assemble(manifest, [part])


def check_signer(manifest: Manifest, key: bytes, key_pair: KeyPair) -> None:
    """Whether `sign` can sign. Raises NotWritable as that."""
    if all(signer.public_key != key_pair.public_key for signer in manifest.signers):
        raise NotWritable("the key pair is not a signer of this core")
    if manifest.quorum > 1 and not is_compat(manifest, key):
        raise NotWritable(f"this core needs the signatures of {manifest.quorum}")


def sign_partial(
    manifest: Manifest, key: bytes, key_pair: KeyPair, batch: Signable
) -> PartialSignature:
    """One signer's part of the signature of *batch*.

    Raises:
      NotWritable: the key pair is none of the manifest's signers.
    """
    for index, signer in enumerate(manifest.signers):
        if signer.public_key == key_pair.public_key:
            message = signed_bytes(manifest, key, signer, batch)
            return PartialSignature(index, key_pair.sign(message))
    raise NotWritable("the key pair is not a signer of this core")


def signed_bytes(manifest: Manifest, key: bytes, signer: Signer, batch: Signable) -> bytes:
    """What *signer* signs of *batch*: the same for all signers, except in version 0."""
    context = _context(manifest, key, signer)
    return signable(context, batch.tree_hash(), batch.length, batch.fork)


def assemble(manifest: Manifest, parts: Sequence[PartialSignature]) -> bytes:
    """One signature of the signers' parts, those of the quorum first.

    Raises:
      ValueError: a patch in a version 0 core (nobody writes those any more).
    """
    if manifest.version == 0:
        if len(manifest.signers) == 1 and not manifest.allow_patch:
            return parts[0].signature
        if any(part.patch for part in parts):
            raise ValueError("a version 0 signature with a patch is not written here")
        items = [b"\x00" + encode_uint(p.signer) + p.signature for p in parts]
        return encode_uint(len(parts)) + b"".join(items) + b"\x00"
    patch = {node.index: node for part in parts for node in reversed(part.nodes)}
    writer = Writer().uint(len(parts))
    for part in parts:
        _write_part(writer, part)
    ordered = dict.fromkeys(node.index for part in parts for node in part.nodes)
    writer.array([patch[index] for index in ordered], _write_node)
    return writer.finish()


def is_compat(manifest: Manifest, key: bytes) -> bool:
    """Whether the core *key* is one from before manifests: its key is its signer's."""
    return len(manifest.signers) == 1 and manifest.signers[0].public_key == key


def _context(manifest: Manifest, key: bytes, signer: Signer) -> bytes | None:
    if is_compat(manifest, key):
        return None
    return signer.namespace if manifest.version == 0 else key


# -- verifying -----------------------------------------------------------------------------------


class ManifestVerifier:
    """Verifies heads of one core: the `Verifier` of `corestore.tree`.

    Without a manifest the core is taken for a compat core, as a peer that sends an upgrade without
    one means it to be. `manifest` is the one in use, `compat` whether the core is of that kind.

    Raises:
      InvalidSignature: the manifest is not that of the core *key*.
    """

    def __init__(self, manifest: Manifest | None, key: bytes) -> None:
        if manifest is None:
            manifest = Manifest.default(key)
        self.manifest = manifest
        self.key = Key(key)
        self.compat = is_compat(manifest, key)
        if not self.compat and manifest_key(manifest) != key:
            raise InvalidSignature("the manifest is not the one this key stands for")

    @property
    def prologue(self) -> Prologue | None:
        """What every history of the core starts from. A compat core has none."""
        return None if self.compat or self.manifest.version == 0 else self.manifest.prologue

    def verify(self, head: Head) -> None:
        """Raises InvalidSignature unless a quorum of the signers signed *head*."""
        if not self._is_valid(head):
            raise InvalidSignature(f"the head of {head.length} blocks is not signed as it must be")

    def _is_valid(self, head: Head) -> bool:
        manifest = self.manifest
        prologue = self.prologue
        if prologue is not None and head.length <= prologue.length:
            return head.length == prologue.length and head.tree_hash() == prologue.hash
        if self.compat or (
            manifest.version == 0 and len(manifest.signers) == 1 and not manifest.allow_patch
        ):
            return self._signed_by(0, head.signature, head.tree_hash(), head.length, head.fork)
        if not 0 < manifest.quorum <= len(manifest.signers):
            return False
        try:
            parts, patch = _read_container(head.signature, manifest.version)
        except DecodeError:
            return False
        if len(parts) < manifest.quorum:
            return False
        return self._is_quorum(parts[: manifest.quorum], patch, head)

    def _is_quorum(
        self, parts: Sequence[PartialSignature], patch: Mapping[int, Node], head: Head
    ) -> bool:
        tree_hash = head.tree_hash()
        seen = set()
        for part in parts:
            if part.signer >= len(self.manifest.signers) or part.signer in seen:
                return False
            seen.add(part.signer)
            signed, length = tree_hash, head.length
            if part.patch:
                if not self.manifest.allow_patch:
                    return False
                try:
                    roots = extend(head.roots, head.length, part.patch, patch)
                except InvalidProof:
                    return False
                signed, length = crypto.tree_hash(roots), head.length + part.patch
            if not self._signed_by(part.signer, part.signature, signed, length, head.fork):
                return False
        return True

    def _signed_by(
        self, signer: int, signature: bytes, tree_hash: bytes, length: int, fork: int
    ) -> bool:
        who = self.manifest.signers[signer]
        context = _context(self.manifest, self.key, who)
        return crypto.verify(who.public_key, signable(context, tree_hash, length, fork), signature)


# -- layouts -------------------------------------------------------------------------------------


def _write_signer(writer: Writer, signer: Signer) -> None:
    writer.uint(0).fixed(signer.namespace).fixed(signer.public_key)


def _write_node(writer: Writer, node: Node) -> None:
    writer.uint(node.index).uint(node.size).fixed(node.hash)


def _read_zero(reader: Reader, what: str) -> None:
    at = reader.at
    if reader.uint():
        raise DecodeError(what, at)


def _read_hash(reader: Reader) -> bytes:
    return reader.fixed(crypto.HASH_BYTES)


def _read_signer(reader: Reader) -> Signer:
    _read_zero(reader, "Ed25519 signer")
    namespace = reader.fixed(crypto.HASH_BYTES)
    return Signer(reader.fixed(crypto.PUBLIC_KEY_BYTES), namespace)


def _read_signers(reader: Reader) -> tuple[Signer, ...]:
    at = reader.at
    signers = reader.array(_read_signer, item_bytes=_SIGNER_BYTES)
    if len(signers) > MAX_SIGNERS:
        raise DecodeError(f"at most {MAX_SIGNERS} signers", at)
    return tuple(signers)


def _read_node(reader: Reader) -> Node:
    return Node(reader.uint(), reader.uint(), reader.fixed(crypto.HASH_BYTES))


def _write_part(writer: Writer, part: PartialSignature) -> None:
    writer.uint(part.signer).fixed(part.signature).uint(part.patch)


def _read_part(reader: Reader) -> PartialSignature:
    return PartialSignature(reader.uint(), reader.fixed(crypto.SIGNATURE_BYTES), reader.uint())


def _read_part_version_0(reader: Reader) -> PartialSignature:
    flags = reader.uint()
    signer = reader.uint()
    signature = reader.fixed(crypto.SIGNATURE_BYTES)
    patch = 0
    if flags & 1:
        reader.uint()
        patch = reader.uint()
        reader.array(Reader.uint)
    return PartialSignature(signer, signature, patch)


def _read_container(
    signature: bytes, version: int
) -> tuple[list[PartialSignature], dict[int, Node]]:
    """The parts of a multi-signature, and the nodes of their patches by index."""
    reader = Reader(signature)
    read = _read_part_version_0 if version == 0 else _read_part
    parts = reader.array(read, item_bytes=crypto.SIGNATURE_BYTES + 2)
    at = reader.at
    nodes = reader.array(_read_node, item_bytes=_NODE_BYTES)
    if len(parts) > MAX_SIGNERS or len(nodes) > _MAX_PATCH_NODES:
        raise DecodeError("signature of a bounded number of parts", at)
    return parts, {node.index: node for node in nodes}
