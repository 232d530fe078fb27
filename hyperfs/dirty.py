"""`DirtyRanges`: bytes written to an open file and not yet stored, wherever in it they lie.

They are kept in segments, sorted by offset, none overlapping another. A small write makes a segment
that grows in place while further ones follow it, so a program that writes line by line costs an
append each. A large one is kept as the object it came in. Finding a segment takes a binary search;
making one in the middle moves pointers only.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_Buffer = bytes | bytearray | memoryview

# A write of this size or more is kept as it came; copying it would take some 10 us.
KEEP_BYTES: Final = 64 * 1024
# A segment grows to this at most, so that cutting one copies no more.
SEGMENT_BYTES: Final = 1024 * 1024
# What a segment takes besides its bytes, counted as dirty too: or many scattered writes of a byte
# each would fill the memory long before their bytes reached any bound.
SEGMENT_OVERHEAD: Final = 128


class DirtyRanges:
    """Byte ranges of a file that are to be laid over what is stored of it.

    Reading copies what it returns, but `ranges` and `runs` hand out the buffers themselves: those
    are never changed afterwards, whatever is written later.
    """

    __slots__ = ("_buffers", "_bytes", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._buffers: list[_Buffer] = []
        self._bytes = 0

    def __bool__(self) -> bool:
        """Whether there is any byte."""
        return bool(self._starts)

    @property
    def byte_length(self) -> int:
        """How many bytes there are."""
        return self._bytes

    @property
    def size_bytes(self) -> int:
        """The memory it takes: its bytes, and `SEGMENT_OVERHEAD` for each segment."""
        return self._bytes + SEGMENT_OVERHEAD * len(self._starts)

    def write(self, offset: int, data: _Buffer) -> None:
        """Lay *data* over what is there from *offset* on. Kept as it is when large and `bytes`."""
        length = len(data)
        if not length:
            return
        end = offset + length
        starts = self._starts
        at = bisect_right(starts, offset)
        covers = at < len(starts) and starts[at] < end
        if at:
            start = starts[at - 1]
            buffer = self._buffers[at - 1]
            written = start + len(buffer)
            covers = covers or written > offset
            if type(buffer) is bytearray:
                if end <= written:
                    buffer[offset - start : end - start] = data
                    return
                if (
                    offset == written
                    and length < KEEP_BYTES
                    and len(buffer) + length <= SEGMENT_BYTES
                    and not covers
                ):
                    buffer += data
                    self._bytes += length
                    return
        if covers:
            self._clear(offset, end)
            at = bisect_left(starts, offset)
        starts.insert(at, offset)
        self._buffers.insert(at, bytes(data) if length >= KEEP_BYTES else bytearray(data))
        self._bytes += length

    def truncate(self, size: int) -> None:
        """Drop what lies at *size* and after it."""
        if self._starts:
            self._clear(size, max(size, self._starts[-1] + len(self._buffers[-1])))

    def overlapping(self, start: int, end: int) -> list[tuple[int, bytes]]:
        """What is there of the offsets *start* to *end*: copies, in order, one for each run."""
        low, high = self._span(start, end)
        out: list[tuple[int, bytes]] = []
        parts: list[memoryview] = []
        run_start = run_end = start
        for at in range(low, high):
            segment = self._starts[at]
            view = memoryview(self._buffers[at])
            first = max(segment, start)
            view = view[first - segment : end - segment]
            if parts and first == run_end:
                parts.append(view)
            else:
                if parts:
                    out.append((run_start, b"".join(parts)))
                parts = [view]
                run_start = first
            run_end = first + len(view)
        if parts:
            out.append((run_start, b"".join(parts)))
        return out

    def ranges(self) -> list[tuple[int, memoryview]]:
        """All of it: offset and bytes of each run without a gap, in order.

        A run of several segments is copied into one buffer; `runs` does without.
        """
        return [(offset, run[:]) for offset, run in self.runs()]

    def runs(self) -> list[tuple[int, Run]]:
        """All of it: offset and bytes of each run without a gap, in order; nothing is copied."""
        out: list[tuple[int, Run]] = []
        parts: list[memoryview] = []
        run_start = run_end = 0
        for at, start in enumerate(self._starts):
            buffer = self._buffers[at]
            if type(buffer) is not memoryview:
                # What is handed out must not change: nothing is appended to a view.
                buffer = self._buffers[at] = memoryview(buffer).toreadonly()
            if parts and start == run_end:
                parts.append(buffer)
            else:
                if parts:
                    out.append((run_start, Run(parts)))
                parts = [buffer]
                run_start = start
            run_end = start + len(buffer)
        if parts:
            out.append((run_start, Run(parts)))
        return out

    def _span(self, start: int, end: int) -> tuple[int, int]:
        """The segments with bytes from *start* to *end*: the first, and the one after the last."""
        low = bisect_right(self._starts, start)
        if low and self._starts[low - 1] + len(self._buffers[low - 1]) > start:
            low -= 1
        return low, max(low, bisect_left(self._starts, end))

    def _clear(self, start: int, end: int) -> None:
        """Forget the bytes from *start* to *end*."""
        low, high = self._span(start, end)
        if low == high:
            return
        starts: list[int] = []
        buffers: list[_Buffer] = []
        first, first_buffer = self._starts[low], self._buffers[low]
        last, last_buffer = self._starts[high - 1], self._buffers[high - 1]
        for buffer in self._buffers[low:high]:
            self._bytes -= len(buffer)
        tail = _part(last_buffer, end - last, len(last_buffer)) if end > last else last_buffer
        if first < start:
            starts.append(first)
            buffers.append(_part(first_buffer, 0, start - first))
        if len(tail):
            starts.append(end)
            buffers.append(tail)
        for buffer in buffers:
            self._bytes += len(buffer)
        self._starts[low:high] = starts
        self._buffers[low:high] = buffers


class Run:
    """Bytes without a gap that lie in several buffers; a slice of it is one buffer.

    A slice within one buffer is a view of it, one over several a copy.
    """

    __slots__ = ("_length", "_parts", "_starts")

    def __init__(self, parts: Sequence[memoryview]) -> None:
        self._parts = parts
        self._starts: list[int] = []
        self._length = 0
        for part in parts:
            self._starts.append(self._length)
            self._length += len(part)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, key: slice) -> memoryview:
        """The bytes of the slice, whose step is 1."""
        if len(self._parts) == 1 and key.step is None:
            return self._parts[0][key]
        start, end, step = key.indices(self._length)
        if step != 1:
            raise ValueError("a run is cut into whole pieces")
        if start >= end:
            return memoryview(b"")
        low = bisect_right(self._starts, start) - 1
        high = bisect_left(self._starts, end)
        parts = [
            self._parts[at][max(0, start - self._starts[at]) : end - self._starts[at]]
            for at in range(low, high)
        ]
        return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))


def _part(buffer: _Buffer, start: int, end: int) -> _Buffer:
    """A part of a segment; one that may grow stays one, one that holds much more is copied out."""
    if type(buffer) is bytearray:
        return buffer[start:end]
    whole = buffer.obj if type(buffer) is memoryview else buffer
    assert isinstance(whole, bytes | bytearray)
    # A view keeps all of its object in memory: at most twice what is counted.
    view = memoryview(buffer)[start:end]
    return view if 2 * (end - start) >= len(whole) else bytes(view)
