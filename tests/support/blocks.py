"""A metadata log in a list, which can pretend that blocks are elsewhere."""

from __future__ import annotations

from hyperfs.index import BlocksMissing, Index, NodeCache, build_commit, header_block


class Blocks:
    """A `BlockReader` over a list; `away` are the blocks that are not local."""

    def __init__(self) -> None:
        self.blocks: list[bytes] = [header_block()]
        self.away: set[int] = set()
        self.reads = 0
        self.rounds: list[tuple[int, ...]] = []

    def block(self, index: int) -> bytes:
        if index in self.away:
            raise BlocksMissing((index,))
        self.reads += 1
        return self.blocks[index]

    def fetching(self, operation):
        """Run *operation*, fetching what it misses and repeating it, as a drive does."""
        while True:
            try:
                return operation()
            except BlocksMissing as error:
                wanted = error.indices
            assert wanted
            assert self.away.issuperset(wanted)
            self.away.difference_update(wanted)
            self.rounds.append(wanted)


class Log(Blocks):
    """A log that commits are made on."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = NodeCache()
        self.index: Index | None = None

    def commit(self, changes, *, time_ns=0, content_length=0, next_id=2, files=0, size=0) -> Index:
        added = build_commit(
            self.index,
            changes,
            first_block=len(self.blocks),
            time_ns=time_ns,
            content_length=content_length,
            next_id=next_id,
            files=files,
            bytes=size,
        )
        self.blocks += added
        self.index = self.view()
        return self.index

    def view(self, root=None, *, cache=None) -> Index:
        """The version that ends in block *root*, by default the newest."""
        block = len(self.blocks) - 1 if root is None else root
        return Index(block, self, self.cache if cache is None else cache)
