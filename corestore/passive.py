"""The cores nobody here has open: served to peers who ask, and kept ready up to a bound.

The bound is kept loosely towards peers. A peer that follows a core opens its channel again as soon
as we close it, so with a cache smaller than what is followed, closing at once would leave both with
nothing else to do. So cores with channels leave now and then only, and in between there may be
`CACHE_EXCESS` times as many.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from corestore.keys import DiscoveryKey
    from corestore.state import CoreState

# Cores kept unless the store is opened with another bound.
PASSIVE_CORES: Final = 1000
# So many times the bound may be in use between two times of tidying up; who asks for more is told
# that there is none.
CACHE_EXCESS: Final = 8


class PassiveCores:
    """An LRU of at most *size* cores; see the module for "at most"."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._states: OrderedDict[DiscoveryKey, CoreState] = OrderedDict()

    def __len__(self) -> int:
        return len(self._states)

    @property
    def full(self) -> bool:
        """Whether no peer should get another core loaded."""
        return len(self._states) >= CACHE_EXCESS * max(self._size, 1)

    def add(self, state: CoreState) -> None:
        """Nobody has *state* open any more, or yet; it counts as just used."""
        self._states[state.discovery_key] = state

    def used(self, state: CoreState) -> None:
        """A peer asked for *state*; nothing if somebody here has it open."""
        if state.discovery_key in self._states:
            self._states.move_to_end(state.discovery_key)

    def discard(self, state: CoreState) -> None:
        """*state* is open now, or gone."""
        self._states.pop(state.discovery_key, None)

    def surplus(self, *, writing: Collection[CoreState], channels: bool) -> Iterator[CoreState]:
        """What is beyond the bound, that used longest ago first: to be discarded one by one.

        Passed over are cores peers have channels for, unless *channels*, those in *writing*, and
        those with something yet to be published.
        """
        count = len(self._states) - self._size
        if count <= 0:
            return
        for state in list(self._states.values()):
            if count <= 0:
                return
            idle = channels or not (state.peers or state.finding or state.asked)
            if idle and state not in writing and state.head == state.published:
                count -= 1
                yield state
