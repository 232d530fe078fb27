"""`Pages`: an async iterator over what comes a page at a time."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

T = TypeVar("T")


class Pages(Generic[T]):
    """Iterates over what *page* returns, again and again, until that is None.

    It holds no resource: leaving a loop over it is enough, where an async generator would have to
    be closed. After an exception, and when cancelled, it goes on where it was. What is *held* lives
    as long as it does.
    """

    def __init__(
        self, page: Callable[[], Awaitable[Iterable[T] | None]], *, held: object = None
    ) -> None:
        self._page = page
        self._held = held
        self._ready: deque[T] = deque()

    def __aiter__(self) -> Pages[T]:
        return self

    async def __anext__(self) -> T:
        while not self._ready:
            page = await self._page()
            if page is None:
                raise StopAsyncIteration
            self._ready.extend(page)
        return self._ready.popleft()
