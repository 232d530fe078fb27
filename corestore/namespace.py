"""`Namespace`: a store's cores by name, by key and by discovery key, and the streams that replicate
them.

The store itself is the root namespace. A name leads to the same core for ever in one namespace, and
to another core in each other one. Names are local: readers know cores by key.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict, Unpack, overload

import trio

from corestore import crypto
from corestore.codec import BINARY, Value, find_codec
from corestore.core import Hypercore
from corestore.errors import CoreNotFound
from corestore.keyring import namespace_of
from corestore.keys import DiscoveryKey, Key, KeyPair, derive_namespace
from corestore.lease import HOLD, Hold
from corestore.link import Link, replicate
from corestore.manifest import Manifest, manifest_key
from corestore.state import ENCRYPTION_KEY
from corestore.storage.base import CoreRecord
from corestore.transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from corestore.codec import Codec, EncodingName
    from corestore.driver import Driver
    from corestore.events import Broadcast, Subscription
    from corestore.handle import CoreHandle
    from corestore.keyring import KeyRing
    from corestore.lease import Reason
    from corestore.state import CoreState
    from corestore.storage.base import Storage

DEFAULT_NAME: Final = "default"


class CoreOptions(TypedDict, total=False):
    """How `Namespace.get` is told which core is meant, and what to do with it."""

    name: str | bytes | None
    key: Key | bytes | str | None
    discovery_key: DiscoveryKey | bytes | None
    manifest: Manifest | None
    key_pair: KeyPair | None
    encryption_key: bytes | None
    create: bool


@dataclass(frozen=True, slots=True)
class CoreOpened:
    """A core was opened by `get` that was not open before.

    Attributes:
      core: the handle that `get` returned.
      namespace: where it was asked for.
      options: what `get` was given. They may hold secrets.
    """

    # Of whatever values the encoding says.
    core: Hypercore[Any]
    namespace: Namespace
    options: CoreOptions


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """Numbers about a store. Bytes count since it was opened, over all its links."""

    cores_open: int
    links: int
    bytes_received: int
    bytes_sent: int


@dataclass(frozen=True, slots=True)
class Parts:
    """What all namespaces of one store share."""

    storage: Storage
    driver: Driver
    keys: KeyRing
    events: Broadcast[CoreOpened]
    # Not derived from the primary key: a peer cannot tell that two sessions are one store.
    session_key_pair: KeyPair
    # What a recovery cut back, and the lengths before.
    shortened: tuple[tuple[DiscoveryKey, int], ...]


class Namespace:
    """A view of a store in which names mean other cores: a default core of its own, key pairs of
    its own. Everything else is the store's. Owns nothing."""

    def __init__(self, parts: Parts, namespace: bytes) -> None:
        self._parts = parts
        self._storage = parts.storage
        self._driver = parts.driver
        self._keys = parts.keys
        self._events = parts.events
        self._namespace = namespace

    # -- keys -------------------------------------------------------------------------------------

    @property
    def primary_key(self) -> bytes:
        """The 32 secret bytes everything of ours derives from."""
        return self._keys.primary_key

    def namespace(self, name: str | bytes) -> Namespace:
        """The namespace called *name* inside this one."""
        return Namespace(self._parts, derive_namespace(self._namespace, name))

    def raw_namespace(self, namespace: bytes) -> Namespace:
        """The namespace with these 32 bytes, whatever its name."""
        if len(namespace) != 32:
            raise ValueError("a namespace has 32 bytes")
        return Namespace(self._parts, namespace)

    def key_pair(self, name: str | bytes) -> KeyPair:
        """The key pair called *name*: always the same one."""
        encoded = name.encode() if isinstance(name, str) else name
        return self._keys.derive(self._namespace, encoded)

    def is_secret(self, value: bytes) -> bool:
        """Whether 32 bytes are a secret of this store, given where a key belongs: the primary key,
        the seed of a key pair that signs one of its cores, or an encryption key."""
        storage = self._storage
        if value == storage.primary_key or value in storage.core_values(ENCRYPTION_KEY):
            return True
        public_key = KeyPair.from_seed(value).public_key
        return any(
            signer.public_key == public_key
            for record in storage.records()
            if record.signer is not None and record.manifest is not None
            for signer in Manifest.decode(record.manifest).signers
        )

    # -- cores ------------------------------------------------------------------------------------

    @overload
    async def default(self, *, encoding: Literal["binary"] = ...) -> Hypercore: ...
    @overload
    async def default(self, *, encoding: Literal["utf-8"]) -> Hypercore[str]: ...
    @overload
    async def default(self, *, encoding: Literal["json"]) -> Hypercore[object]: ...
    @overload
    async def default(self, *, encoding: Codec[Value]) -> Hypercore[Value]: ...

    async def default(self, *, encoding: EncodingName | Codec[Any] = "binary") -> Hypercore[Any]:
        """The core to begin with: found again without knowing anything."""
        return await self._get({"name": DEFAULT_NAME}, find_codec(encoding))

    @overload
    async def get(
        self, *, encoding: Literal["binary"] = ..., **options: Unpack[CoreOptions]
    ) -> Hypercore: ...
    @overload
    async def get(
        self, *, encoding: Literal["utf-8"], **options: Unpack[CoreOptions]
    ) -> Hypercore[str]: ...
    @overload
    async def get(
        self, *, encoding: Literal["json"], **options: Unpack[CoreOptions]
    ) -> Hypercore[object]: ...
    @overload
    async def get(
        self, *, encoding: Codec[Value], **options: Unpack[CoreOptions]
    ) -> Hypercore[Value]: ...

    async def get(
        self, *, encoding: EncodingName | Codec[Any] = "binary", **options: Unpack[CoreOptions]
    ) -> Hypercore[Any]:
        """A handle on a core, open.

        By *name*: the core with the key pair of that name, writable. By *key*: that core, writable
        if its key pair is known here or given. By *discovery_key*: a core this store knows. By
        *manifest* or *key_pair* alone: the core they stand for. With nothing: a new core.

        Args:
          manifest: who may sign, if it is not the key pair alone; with *key* they must fit.
          key_pair: what signs; kept with the core.
          encryption_key: 32 bytes; blocks are encrypted with it when appended, decrypted when read.
            Kept with the core once a block bears it out, or at once with an empty core of ours, so
            it needs to be given once. Without it an encrypted core can be replicated and served,
            and its blocks are read as they are stored.
          create: False refuses to make a core known to the store that was not.
          encoding: what the blocks of this handle are: "binary" (bytes), "utf-8" (str), "json", or
            an object that encodes and decodes them. Other handles may have others.

        Raises:
          ValueError: the arguments contradict each other, *key* is none, or an unknown encoding.
          CoreNotFound: the core is not known here, and *create* or *discovery_key* forbid more.
          WrongEncryptionKey: the core is encrypted with another key, or not at all.
          OSError, StorageError: the store cannot be read or written.
          trio.ClosedResourceError: the store is closed.
        """
        return await self._get(options, find_codec(encoding))

    async def _get(self, options: CoreOptions, codec: Codec[Value]) -> Hypercore[Value]:
        await trio.lowlevel.checkpoint()
        self._check_open()
        state = self._find(**options)
        first = state.handles == 0
        core = Hypercore(self._driver, state, codec)
        if first:
            self._events.send(CoreOpened(core, self, options))
        return core

    def _find(
        self,
        *,
        name: str | bytes | None = None,
        key: Key | bytes | str | None = None,
        discovery_key: DiscoveryKey | bytes | None = None,
        manifest: Manifest | None = None,
        key_pair: KeyPair | None = None,
        encryption_key: bytes | None = None,
        create: bool = True,
    ) -> CoreState:
        if sum(value is not None for value in (name, key, discovery_key)) > 1:
            raise ValueError("a core is named in one way: by name, by key or by discovery key")
        if discovery_key is not None:
            return self._find_known(DiscoveryKey(discovery_key), encryption_key)
        if name is not None:
            if key_pair is not None:
                raise ValueError("a name stands for its own key pair")
            key_pair = self.key_pair(name)
        elif key is None and manifest is None and key_pair is None:
            if not create:
                raise CoreNotFound("no core was named")
            key_pair = self.key_pair(crypto.random_bytes(32))
        wanted = None if key is None else Key.parse(key)
        record = _record(wanted, manifest, key_pair)
        return self._find_or_create(record, key_pair, encryption_key, create=create)

    def cores(self, *, namespace: Namespace | str | bytes | None = None) -> Iterator[DiscoveryKey]:
        """The discovery keys of all cores this store knows, or of those whose names are in
        *namespace* (a view, or the name of one in this one), in the order they became known."""
        if namespace is None:
            return self._storage.cores()
        if not isinstance(namespace, Namespace):
            namespace = self.namespace(namespace)
        wanted = namespace._namespace
        return (
            record.key.discovery_key
            for record in self._storage.records()
            if namespace_of(record) == wanted
        )

    @property
    def recovered(self) -> list[tuple[Hypercore, int]]:
        """Cores of ours that lost blocks nobody had seen when the machine stopped, and how long
        they were. The handles are the caller's to close."""
        found = [(self._find_known(key), length) for key, length in self._parts.shortened]
        return [(Hypercore(self._driver, state, BINARY), length) for state, length in found]

    async def remove(self, discovery_key: DiscoveryKey) -> None:
        """Forget a core and everything in it.

        Raises:
          ValueError: somebody has it open.
          CoreNotFound: the store does not know it.
        """
        await trio.lowlevel.checkpoint()
        self._check_open()
        self._driver.remove(discovery_key)

    def encryption_key(self, discovery_key: DiscoveryKey) -> bytes | None:
        """The encryption key that is kept with a core; None if there is none, or no such core."""
        storage = self._storage.open_core(discovery_key)
        return None if storage is None else storage.user_data(ENCRYPTION_KEY)

    def held_for(self, discovery_key: DiscoveryKey) -> Reason | None:
        """Why a core is not signed here, without opening it; None if it is, or is not known."""
        storage = self._storage.open_core(discovery_key)
        kept = None if storage is None else storage.user_data(HOLD)
        return None if kept is None else Hold.decode(kept).reason

    def _find_known(
        self, discovery_key: DiscoveryKey, encryption_key: bytes | None = None
    ) -> CoreState:
        state = self._driver.find(discovery_key)
        if state is None:
            raise CoreNotFound(f"no core with discovery key {discovery_key} is known here")
        self._encrypt(state, encryption_key)
        return state

    def _find_or_create(
        self,
        record: CoreRecord,
        key_pair: KeyPair | None,
        encryption_key: bytes | None,
        *,
        create: bool,
    ) -> CoreState:
        discovery_key = record.key.discovery_key
        if key_pair is not None:
            record = CoreRecord(record.key, record.manifest, self._keys.note(key_pair))
        if not create and self._driver.find(discovery_key) is None:
            raise CoreNotFound(f"core {record.key} is not known here")
        state = self._driver.create(record)
        self._encrypt(state, encryption_key)
        return state

    def _encrypt(self, state: CoreState, encryption_key: bytes | None) -> None:
        if encryption_key is None:
            return
        state.use_encryption_key(encryption_key)
        commit = state.encryption_commit()
        if commit is not None:
            self._driver.commit([(state, commit)])

    # -- writing together -------------------------------------------------------------------------

    def transaction(self, *cores: CoreHandle, makes_room: bool = False) -> Transaction:
        """Append to *cores* together: `async with store.transaction(a, b) as tx`.

        Their commit locks are taken in this order and held until the end; peers see the last core
        first. See `Transaction`. With *makes_room* it may take, on a full disk, the room (up to
        1.5 MiB) that the store keeps for giving room back: for what says that more is to be cleared
        than it adds.

        Raises:
          NotWritable: the secret key of one of them is not here.
          StorageLocked: another process writes one of them (on entering).
        """
        return Transaction(self._driver, cores, makes_room=makes_room)

    async def sync(self) -> None:
        """Wait until everything committed so far is durable, and shown to peers.

        Raises:
          StorageError: it failed; the store must be opened again.
          trio.ClosedResourceError: the store is closed, and durable since.
        """
        self._check_open()
        await self._driver.sync()

    # -- what is kept beside the cores ------------------------------------------------------------

    def user_data(self, key: str) -> bytes | None:
        """A value kept in the store, or None."""
        return self._storage.user_data(key)

    def set_user_data(self, key: str, value: bytes | None) -> None:
        """Set or delete (None) a value, in a transaction of its own. Durable after `sync`."""
        self._check_open()
        self._driver.sync_group.check()
        self._storage.set_user_data(key, value)
        self._driver.sync_group.committed(publish=False)

    def user_data_items(self, prefix: str) -> list[tuple[str, bytes]]:
        """All values whose key starts with *prefix*, sorted by key."""
        return self._storage.user_data_items(prefix)

    # -- peers ------------------------------------------------------------------------------------

    async def replicate(
        self,
        stream: trio.abc.Stream,
        *,
        initiator: bool,
        key_pair: KeyPair | None = None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Replicate all cores, those opened later too, with the peer at the other end of *stream*.

        Runs until the stream ends or is broken, and closes it. Exactly one side is the *initiator*
        (of the handshake): with TCP the one that dialled. A peer that breaks the rules is dropped,
        which is logged and ends this like any other end. Cores that only one side knows are not
        spoken of; keys are never sent. A stream that is attached already, by this or by a core's
        `replicate`, is joined and not used twice; a second stream to one peer is wasteful and does
        no harm.

        Args:
          key_pair: what we prove to the peer to be; the store's own for this session by default.
          task_status: started when the handshake is done, or at the latest at the end.

        Raises:
          ValueError: the stream is attached in the other role.
          trio.ClosedResourceError: the store is closed.
        """
        self._check_open()
        await replicate(
            self._driver,
            stream,
            initiator=initiator,
            key_pair=key_pair or self._parts.session_key_pair,
            task_status=task_status,
        )

    def link(
        self, stream: trio.abc.Stream, *, initiator: bool, key_pair: KeyPair | None = None
    ) -> Link:
        """What `replicate` runs, not yet running: for those who keep count of their links."""
        return Link(
            self._driver,
            stream,
            initiator=initiator,
            key_pair=key_pair or self._parts.session_key_pair,
        )

    @contextmanager
    def finding_peers(self) -> Iterator[None]:
        """While held, peers are being looked for, and every core's `update` waits for them."""
        self._driver.start_finding()
        try:
            yield
        finally:
            self._driver.stop_finding()

    def events(self) -> Subscription[CoreOpened]:
        """Subscribe to cores being opened from now on: use it in `with`."""
        self._check_open()
        return self._events.subscribe()

    def statistics(self) -> StoreStatistics:
        """Numbers about this store."""
        driver = self._driver
        return StoreStatistics(
            cores_open=sum(state.handles > 0 for state in driver.states.values()),
            links=len(driver.links),
            bytes_received=driver.bytes_received,
            bytes_sent=driver.bytes_sent,
        )

    def _check_open(self) -> None:
        if self._driver.closed:
            raise trio.ClosedResourceError("this store is closed")


def _record(key: Key | None, manifest: Manifest | None, key_pair: KeyPair | None) -> CoreRecord:
    """The record of the core that is meant, without its signer.

    Raises:
      ValueError: the arguments contradict each other.
    """
    if key_pair is not None:
        if manifest is None and (key is None or key != key_pair.public_key):
            manifest = Manifest.default(key_pair.public_key)
        signers: Sequence[bytes] = [key] if key == key_pair.public_key and key is not None else []
        if manifest is not None:
            signers = [signer.public_key for signer in manifest.signers]
        if key_pair.public_key not in signers:
            raise ValueError("the key pair is not a signer of this core")
    if manifest is None:
        assert key is not None
        return CoreRecord(key)
    if key is None:
        key = manifest_key(manifest)
    elif manifest_key(manifest) != key:
        raise ValueError("the manifest or key pair is not the one this key stands for")
    return CoreRecord(key, manifest.encode())
