"""A file system whose plain operations are awaited: they wait for index blocks that are missing."""

from __future__ import annotations

import inspect

# Neither look anything up nor wait.
_AT_ONCE = {"forget", "remember", "path_of", "path_of_handle", "statfs", "attributes", "complete"}


class Waiting:
    """As the file system *fs*, each operation a coroutine."""

    def __init__(self, fs) -> None:
        self._fs = fs

    def __getattr__(self, name) -> object:
        found = getattr(self._fs, name)
        if not inspect.ismethod(found) or name in _AT_ONCE or inspect.iscoroutinefunction(found):
            return found

        async def complete(*args, **kwargs):
            answer = await self._fs.complete(found, *args, **kwargs)
            return await answer if inspect.iscoroutine(answer) else answer

        return complete
