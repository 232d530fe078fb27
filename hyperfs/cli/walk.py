"""Walk a folder of a drive."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hyperfs.cli.access import Access, FileInfo


async def walk(access: Access, top: bytes) -> AsyncIterator[tuple[bytes, FileInfo]]:
    """(path, information) of all below *top*, in name order, folders before their contents."""
    waiting = [top.rstrip(b"/")]
    while waiting:
        folder = waiting.pop()
        after = b""
        folders = []
        while page := await access.list(folder or b"/", after):
            for name, info in page:
                path = folder + b"/" + name
                yield path, info
                if info.is_directory:
                    folders.append(path)
            after = page[-1][0]
        waiting.extend(reversed(folders))
