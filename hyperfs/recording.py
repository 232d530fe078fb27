"""What a commit writes into the index: the records of its layer and of the files it has frozen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hyperfs.pace import Pace
from hyperfs.records import Entry, entry_key, group_range, pack_entry, shared_key
from hyperfs.writer import SHARED

if TYPE_CHECKING:
    from hyperfs.content import ContentMap
    from hyperfs.delta import Delta
    from hyperfs.staging import Layer, StagedRecord
    from hyperfs.view import View
    from hyperfs.writer import OpenFile

_GROUPS_PAGE: Final = 256


@dataclass(slots=True)
class FrozenFile:
    """An open file at the instant a commit (or a flush) began.

    `base` is its content then, `delta` what lies over it (None: only attributes changed), `result`
    the content with the delta appended.
    """

    file: OpenFile
    entry: Entry
    key: bytes | None
    base: ContentMap
    delta: Delta | None
    result: ContentMap

    @classmethod
    def of(cls, file: OpenFile) -> FrozenFile:
        """Freeze *file* as it is now."""
        delta = file.freeze()
        location = file.location
        key: bytes | None = None
        if location is SHARED:
            key = shared_key(file.id)
        elif isinstance(location, tuple):
            key = entry_key(*location)
        return cls(file, file.attributes, key, file.content, delta, file.content)

    def record(self) -> Entry:
        """The file's record."""
        entry, content = self.entry, self.result
        stored = content.inline, content.extents, content.grouped
        return Entry(*entry[:6], content.size, *entry[7:11], *stored, entry.blob)


async def index_changes(
    view: View | None,
    layer: Layer,
    frozen: dict[int, FrozenFile],
    records: dict[bytes, StagedRecord | None],
) -> tuple[dict[bytes, bytes | None], int, int]:
    """What changes in the index of *view*, and by how much the counts of names and bytes grow.
    *records*, those that were staged in *layer*, become what is recorded.

    Raises BlocksMissing, DecodeError, of a damaged index.
    """
    pace = Pace()
    changes: dict[bytes, bytes | None] = {}
    files = size = 0
    for each in frozen.values():
        if each.key is not None:
            records.setdefault(each.key, each.entry)
    for key, record in records.items():
        opened = frozen.get(record.id) if type(record) is Entry else None
        if opened is not None:
            record = records[key] = opened.record()
        old = None if view is None else view.find(key)
        if type(old) is Entry:
            files -= 1
            size -= old.size
        if type(record) is Entry:
            files += 1
            size += record.size
        if record is not None or old is not None:
            # Else it was made and removed within one commit.
            changes[key] = None if record is None else pack_entry(record)
        await pace.keep()
    for each in frozen.values():
        for key, group in each.result.group_changes(view):
            changes[key] = group
            await pace.keep()
    if view is not None:
        for id in layer.forgotten:
            start, end = group_range(id)
            while page := view.index.scan(start, end, _GROUPS_PAGE):
                changes.update(dict.fromkeys((key for key, _ in page), None))
                start = page[-1][0] + b"\0"
                await pace.keep()
    return changes, files, size
