"""What tests ask of drives."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import hyperfs


async def snapshot(drive: hyperfs.Drive) -> dict[bytes, bytes | str | None]:
    """Everything in a drive: path -> content of a file, None for a directory, a link's target."""
    found: dict[bytes, bytes | str | None] = {b"/": None}
    async for each in drive.walk():
        entry = each.entry
        if entry.is_dir:
            found[each.path] = None
        elif entry.target is not None:
            found[each.path] = entry.target.decode()
        else:
            data = await drive.read(each.path)
            assert len(data) == entry.size
            found[each.path] = data
    return found


async def contents(file: hyperfs.OpenFile) -> bytes:
    """All bytes of an open file, read in odd pieces."""
    out = b""
    while piece := await file.read(len(out), 70_001):
        out += piece
    return out
