"""Which blocks are held: by us, or, as far as it told us, by a peer.

A bitfield is made of pages of 4096 blocks, as storage keeps them. Only pages that are neither
empty nor full are kept, each as one Python integer whose bit i is block i of the page; full pages
are kept as runs. So ten million contiguous blocks cost what one block costs, a range touches the
two pages at its ends, and a question about a page is a few operations on one integer.

The memory of a bitfield that a peer fills is bounded: past `max_pages` irregular pages, or as many
separate runs, `LimitExceeded` is raised.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Final

from corestore.encoding import MAX_SAFE_INTEGER
from corestore.errors import DecodeError, LimitExceeded

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

PAGE_BLOCKS: Final = 4096
PAGE_BYTES: Final = PAGE_BLOCKS // 8
# One message of the wire covers at most this many blocks.
MAX_WIRE_BLOCKS: Final = 1 << 21
# 16384 irregular pages are 67 million blocks, or 4 TB of 64 KiB ones, and 9 MiB of memory.
MAX_REMOTE_PAGES: Final = 16384

_SHIFT: Final = 12
_MASK: Final = PAGE_BLOCKS - 1
_FULL: Final = (1 << PAGE_BLOCKS) - 1


class Bitfield:
    """A set of block indexes, from 0 to 2**53 - 1.

    Attributes:
      contiguous_length: how many blocks are held from 0 without a gap; kept up to date by `set`.
    """

    __slots__ = ("_ends", "_max_pages", "_order", "_pages", "_starts", "contiguous_length")

    def __init__(self, *, max_pages: int | None = None) -> None:
        self._max_pages = max_pages
        # Irregular pages by number, and their numbers in order.
        self._pages: dict[int, int] = {}
        self._order: list[int] = []
        # Runs of full pages, `_starts[i].._ends[i]`, in order, never touching each other.
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.contiguous_length = 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Bitfield):
            return NotImplemented
        return (self._pages, self._starts, self._ends) == (
            other._pages,
            other._starts,
            other._ends,
        )

    __hash__ = None  # type: ignore[assignment]  # it changes, and compares by value

    # -- questions -------------------------------------------------------------------------------

    def get(self, index: int) -> bool:
        """Whether block *index* is held."""
        if index < self.contiguous_length:
            return index >= 0
        page = self._pages.get(index >> _SHIFT)
        if page is not None:
            return bool(page >> (index & _MASK) & 1)
        return self._in_run(index >> _SHIFT)

    def count(self, start: int, end: int) -> int:
        """How many blocks of `start..end` are held."""
        total = 0
        for _, bits, width in self._segments(start, end):
            total += width if bits == -1 else bits.bit_count()
        return total

    def has_all(self, start: int, end: int) -> bool:
        """Whether every block of `start..end` is held."""
        if end <= self.contiguous_length:
            return True
        return self.first(False, start, end) is None

    def first(self, held: bool, start: int, end: int | None = None) -> int | None:
        """The first block of `start..end` that is held, or is not; without *end* up to forever.

        None if there is none.
        """
        found = self._first_held(start) if held else self._first_missing(start)
        if found is None or (end is not None and found >= end):
            return None
        return found

    def runs(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The held blocks of `start..end`, as half-open ranges in order that do not touch.

        The bitfield must not change while the iterator is in use.
        """
        run_start = run_end = -1
        for at, bits, width in self._segments(start, end):
            if bits == -1:
                if at == run_end:
                    run_end = at + width
                else:
                    if run_end > run_start:
                        yield run_start, run_end
                    run_start, run_end = at, at + width
                continue
            while bits:
                zeros = (bits & -bits).bit_length() - 1
                bits >>= zeros
                at += zeros
                ones = (~bits & bits + 1).bit_length() - 1
                bits >>= ones
                if at == run_end:
                    run_end = at + ones
                else:
                    if run_end > run_start:
                        yield run_start, run_end
                    run_start, run_end = at, at + ones
                at += ones
        if run_end > run_start:
            yield run_start, run_end

    @property
    def end(self) -> int:
        """One past the last block held; 0 if none is."""
        last_page = self._order[-1] if self._order else -1
        if self._ends and self._ends[-1] > last_page:
            return self._ends[-1] << _SHIFT
        if last_page < 0:
            return 0
        return (last_page << _SHIFT) + self._pages[last_page].bit_length()

    # -- changes ---------------------------------------------------------------------------------

    def set(self, start: int, end: int, held: bool = True) -> bool:
        """Make blocks `start..end` held or not; returns whether that changed anything.

        Raises:
          ValueError: the range is reversed or not within 0..2**53 - 1.
          LimitExceeded: the bitfield has a bound and passed it; some of the range may be set.
        """
        if not 0 <= start <= end <= MAX_SAFE_INTEGER:
            raise ValueError(f"not a range of blocks: {start}..{end}")
        if start == end or (held and end <= self.contiguous_length):
            return False
        if not held and start < self.contiguous_length:
            self.contiguous_length = start
        first, last = start >> _SHIFT, (end - 1) >> _SHIFT
        if first == last:
            mask = ((1 << (end - start)) - 1) << (start & _MASK)
            changed = self._merge(first, mask, held)
        else:
            changed = False
            if start & _MASK:
                changed = self._merge(first, _FULL >> (start & _MASK) << (start & _MASK), held)
                first += 1
            if end & _MASK:
                changed |= self._merge(last, (1 << (end & _MASK)) - 1, held)
                last -= 1
            if first <= last:
                changed |= self._set_pages(first, last + 1, held)
        if changed and held and start <= self.contiguous_length < end:
            self.contiguous_length = self._first_missing(end)
        return changed

    # -- pages -----------------------------------------------------------------------------------

    def page(self, number: int) -> bytes:
        """The 512 bytes of a page, the lowest bit of the first byte being its first block."""
        bits = self._pages.get(number)
        if bits is None:
            return (b"\xff" if self._in_run(number) else b"\x00") * PAGE_BYTES
        return bits.to_bytes(PAGE_BYTES, "little")

    def load_page(self, number: int, data: bytes) -> None:
        """Replace a page by 512 bytes as `page` gives them.

        Raises:
          ValueError: it is not 512 bytes.
        """
        if len(data) != PAGE_BYTES:
            raise ValueError(f"a page has {PAGE_BYTES} bytes, this has {len(data)}")
        self._replace(number << _SHIFT, int.from_bytes(data, "little"), PAGE_BLOCKS)

    # -- the wire --------------------------------------------------------------------------------

    def wire(self, start: int, end: int) -> bytes:
        """The bits of `start..end` as a message carries them: 32-bit words, lowest bit first.

        *start* is rounded down and *end* up to a multiple of 32. At most 2**21 blocks.
        """
        start &= ~31
        end = (end + 31) & ~31
        if not 0 <= start <= end or end - start > MAX_WIRE_BLOCKS:
            raise ValueError(f"not a range for one message: {start}..{end}")
        first = start >> _SHIFT
        data = b"".join(self.page(n) for n in range(first, (end + _MASK) >> _SHIFT))
        skip = (start - (first << _SHIFT)) >> 3
        return data[skip : skip + ((end - start) >> 3)]

    def write_wire(self, start: int, data: bytes | memoryview) -> None:
        """Replace the bits from block *start* on by those of a message.

        Raises:
          DecodeError: *start* is not a multiple of 32 or there are more than 2**21 bits.
          LimitExceeded: the bitfield has a bound and passed it.
        """
        width = len(data) * 8
        if start & 31 or width & 31 or width > MAX_WIRE_BLOCKS:
            raise DecodeError("bitfield of whole words")
        if start < 0 or start + width > MAX_SAFE_INTEGER:
            raise DecodeError("bitfield within 53 bits")
        at = 0
        while at < len(data):
            # As far as the end of the page.
            size = min(PAGE_BYTES - (start >> 3) % PAGE_BYTES, len(data) - at)
            self._replace(start, int.from_bytes(data[at : at + size], "little"), size * 8)
            at += size
            start += size * 8

    def _replace(self, start: int, bits: int, width: int) -> None:
        """Replace *width* bits within one page."""
        number = start >> _SHIFT
        shift = start & _MASK
        mask = ((1 << width) - 1) << shift
        before = self._bits(number)
        after = before & ~mask | bits << shift
        if after == before:
            return
        self._put(number, after)
        if start <= self.contiguous_length:
            self.contiguous_length = start  # what lies before is as it was
            self.contiguous_length = self._first_missing(start)

    # -- within ----------------------------------------------------------------------------------

    def _in_run(self, number: int) -> bool:
        at = bisect_right(self._starts, number)
        return at > 0 and number < self._ends[at - 1]

    def _run_end(self, number: int) -> int:
        """The end of the run that a page is in; the page itself if it is in none."""
        at = bisect_right(self._starts, number)
        return max(number, self._ends[at - 1]) if at else number

    def _bits(self, number: int) -> int:
        bits = self._pages.get(number)
        if bits is None:
            return _FULL if self._in_run(number) else 0
        return bits

    def _merge(self, number: int, mask: int, held: bool) -> bool:
        before = self._bits(number)
        after = before | mask if held else before & ~mask
        if after == before:
            return False
        self._put(number, after)
        return True

    def _put(self, number: int, bits: int) -> None:
        """Make a page's bits these, in the right form."""
        pages = self._pages
        if number in pages:
            if bits and bits != _FULL:
                pages[number] = bits
                return
            del pages[number]
            del self._order[bisect_left(self._order, number)]
            if bits:
                self._add_run(number, number + 1)
            return
        if bits == _FULL:
            self._add_run(number, number + 1)
            return
        if self._in_run(number):
            self._remove_run(number, number + 1)
        if bits:
            if self._max_pages is not None and len(pages) >= self._max_pages:
                self.contiguous_length = min(self.contiguous_length, number << _SHIFT)
                raise LimitExceeded(f"more than {self._max_pages} irregular pages of a bitfield")
            pages[number] = bits
            order = self._order
            if not order or number > order[-1]:
                order.append(number)
            else:
                order.insert(bisect_left(order, number), number)

    def _set_pages(self, first: int, end: int, held: bool) -> bool:
        """Fill or empty whole pages; returns whether that changed anything."""
        low, high = bisect_left(self._order, first), bisect_left(self._order, end)
        changed = low < high
        for number in self._order[low:high]:
            del self._pages[number]
        del self._order[low:high]
        if held:
            return self._add_run(first, end) or changed
        return self._remove_run(first, end) or changed

    def _add_run(self, start: int, end: int) -> bool:
        starts, ends = self._starts, self._ends
        low = bisect_left(ends, start)  # the first run that ends at or after start
        high = bisect_right(starts, end)  # past the last run that starts at or before end
        if low < high:
            if high == low + 1 and starts[low] <= start and end <= ends[low]:
                return False
            start = min(start, starts[low])
            end = max(end, ends[high - 1])
        elif self._max_pages is not None and len(starts) >= self._max_pages:
            # The caller has taken out the irregular pages among them.
            self.contiguous_length = min(self.contiguous_length, start << _SHIFT)
            raise LimitExceeded(f"more than {self._max_pages} runs of a bitfield")
        starts[low:high] = [start]
        ends[low:high] = [end]
        return True

    def _remove_run(self, start: int, end: int) -> bool:
        starts, ends = self._starts, self._ends
        low = bisect_right(ends, start)  # the first run that ends after start
        high = bisect_left(starts, end)  # past the last run that starts before end
        if low >= high:
            return False
        new_starts, new_ends = [], []
        if starts[low] < start:
            new_starts.append(starts[low])
            new_ends.append(start)
        if ends[high - 1] > end:
            new_starts.append(end)
            new_ends.append(ends[high - 1])
        if len(new_starts) > 1 and len(starts) == self._max_pages:
            # There is no room to split it: what lies behind is forgotten.
            del new_starts[1], new_ends[1]
        starts[low:high] = new_starts
        ends[low:high] = new_ends
        return True

    def _first_missing(self, start: int) -> int:
        if start < self.contiguous_length:
            start = self.contiguous_length
        number, shift = start >> _SHIFT, start & _MASK
        while True:
            bits = self._pages.get(number)
            if bits is not None:
                bits >>= shift
                ones = (~bits & bits + 1).bit_length() - 1
                if shift + ones < PAGE_BLOCKS:
                    return (number << _SHIFT) + shift + ones
                number += 1
            else:
                at = bisect_right(self._starts, number)
                if not at or number >= self._ends[at - 1]:
                    return (number << _SHIFT) + shift
                number = self._ends[at - 1]
            shift = 0

    def _first_held(self, start: int) -> int | None:
        if start < self.contiguous_length:
            return start
        number, shift = start >> _SHIFT, start & _MASK
        bits = self._pages.get(number)
        if bits is not None:
            bits >>= shift
            if bits:
                return start + (bits & -bits).bit_length() - 1
        elif self._in_run(number):
            return start
        number += 1
        found = None
        at = bisect_left(self._order, number)
        if at < len(self._order):
            number_found = self._order[at]
            bits = self._pages[number_found]
            found = (number_found << _SHIFT) + (bits & -bits).bit_length() - 1
        at = bisect_left(self._starts, number)
        if at < len(self._starts) and (found is None or self._starts[at] << _SHIFT < found):
            found = self._starts[at] << _SHIFT
        return found

    def _segments(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """What is not empty of `start..end`, in order, as (first block, bits, number of blocks).

        Bits -1 stand for a run of held blocks of any length; otherwise bit 0 is the first block.
        """
        if end <= start:
            return
        first, last = start >> _SHIFT, (end - 1) >> _SHIFT
        order, starts, ends = self._order, self._starts, self._ends
        page_at = bisect_left(order, first)
        run_at = bisect_right(ends, first)
        while True:
            number = order[page_at] if page_at < len(order) else last + 1
            run = starts[run_at] if run_at < len(starts) else last + 1
            if number > last and run > last:
                return
            if run < number:
                low = max(run << _SHIFT, start)
                high = min(ends[run_at] << _SHIFT, end)
                run_at += 1
                yield low, -1, high - low
                continue
            page_at += 1
            low = max(number << _SHIFT, start)
            high = min((number + 1) << _SHIFT, end)
            bits = self._pages[number] >> (low & _MASK)
            if high & _MASK:
                bits &= (1 << (high - low)) - 1
            yield low, bits, high - low


def first_gap(
    fields: Collection[Bitfield], start: int, end: int, *, within: Bitfield | None = None
) -> int | None:
    """The first block of `start..end` that none of *fields* holds, and *within*, if given, does.

    A page takes as long as any other, however the blocks of many bitfields lie between each other.
    """
    number, shift = start >> _SHIFT, start & _MASK
    while (number << _SHIFT) + shift < end:
        if within is not None:
            found = within.first(True, (number << _SHIFT) + shift, end)
            if found is None:
                return None
            number, shift = found >> _SHIFT, found & _MASK
        bits = 0 if within is None else _FULL & ~within._bits(number)
        for field in fields:
            bits |= field._bits(number)
        bits >>= shift
        if bits != _FULL >> shift:
            index = (number << _SHIFT) + shift + (~bits & bits + 1).bit_length() - 1
            return index if index < end else None
        number, shift = number + 1, 0
        for field in fields:
            number = field._run_end(number)
    return None
