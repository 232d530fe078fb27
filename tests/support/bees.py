"""Hyperbees written for tests, byte by byte as the reference writes them (without batches)."""

from __future__ import annotations

import bisect


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _message(*fields):
    return b"".join(varint(n << 3 | 2) + varint(len(data)) + data for n, data in fields)


# Keys of a node.
LEAST, MOST = 4, 8


class _Node:
    def __init__(self, keys=(), children=(), pointer=None) -> None:
        self.keys = list(keys)  # (key, seq)
        self.children = list(children)
        self.pointer = pointer  # None: changed


class BeeWriter:
    """`blocks` is the log, `values` the dictionary it holds."""

    def __init__(self) -> None:
        self.blocks = []
        self.values = {}
        self._root = _Node()

    def header(self, metadata=b""):
        metadata = () if metadata is None else ((2, metadata),)
        self.blocks.append(_message((1, b"hyperbee"), *metadata))

    def put(self, key, value):
        self.values[key] = value
        self._put(key, len(self.blocks))
        self._append(key, value)

    def delete(self, key):
        if key not in self.values:
            return
        del self.values[key]
        self._delete(key)
        self._append(key, None)

    def _put(self, key, seq):
        path = []
        node = self._root
        while True:
            node.pointer = None
            names = [name for name, _ in node.keys]
            at = bisect.bisect_left(names, key)
            if at < len(names) and names[at] == key:
                node.keys[at] = (key, seq)
                return
            if not node.children:
                break
            path.append((node, at))
            node = node.children[at]
        node.keys.insert(at, (key, seq))
        while len(node.keys) > MOST:
            right = _Node(node.keys[LEAST + 1 :], node.children[LEAST + 1 :])
            median = node.keys[LEAST]
            node.keys, node.children = node.keys[:LEAST], node.children[: LEAST + 1]
            if path:
                parent, at = path.pop()
            else:
                parent, at = _Node([], [node]), 0
                self._root = parent
            parent.keys.insert(at, median)
            parent.children.insert(at + 1, right)
            node = parent

    def _delete(self, key):
        path = [self._root]
        while True:
            node = path[-1]
            names = [name for name, _ in node.keys]
            at = bisect.bisect_left(names, key)
            if at < len(names) and names[at] == key:
                break
            path.append(node.children[at])
        if not node.children:
            del node.keys[at]
        else:
            lefts, rights = [node.children[at]], [node.children[at + 1]]
            while lefts[-1].children:
                lefts.append(lefts[-1].children[-1])
            while rights[-1].children:
                rights.append(rights[-1].children[0])
            if len(lefts[-1].keys) < len(rights[-1].keys):
                path += rights
                node.keys[at] = rights[-1].keys.pop(0)
            else:
                path += lefts
                node.keys[at] = lefts[-1].keys.pop()
        for node in path:
            node.pointer = None
        while len(path) > 1 and len(path[-1].keys) < LEAST:
            node = path.pop()
            if not self._fill(path[-1], path[-1].children.index(node)):
                break
        if not self._root.keys and self._root.children:
            self._root = self._root.children[0]

    @staticmethod
    def _fill(parent, at) -> bool:
        """Give the child at *at* more keys. Whether that took one of the parent's for good."""
        node = parent.children[at]
        left = parent.children[at - 1] if at else None
        right = parent.children[at + 1] if at + 1 < len(parent.children) else None
        if left and len(left.keys) > LEAST:
            node.keys.insert(0, parent.keys[at - 1])
            if left.children:
                node.children.insert(0, left.children.pop())
            parent.keys[at - 1] = left.keys.pop()
            left.pointer = None
            return False
        if right and len(right.keys) > LEAST:
            node.keys.append(parent.keys[at])
            if right.children:
                node.children.append(right.children.pop(0))
            parent.keys[at] = right.keys.pop(0)
            right.pointer = None
            return False
        if left:
            at, right = at - 1, node
        else:
            left = node
        left.keys += [parent.keys.pop(at), *right.keys]
        left.children += right.children
        left.pointer = None
        del parent.children[at + 1]
        return True

    def _append(self, key, value):
        seq = len(self.blocks)
        levels = []

        def place(node):
            node.pointer = (seq, len(levels))
            levels.append(None)
            number = node.pointer[1]
            for child in node.children:
                if child.pointer is None:
                    place(child)
            fields = [(1, b"".join(varint(at) for _, at in node.keys))]
            pointers = [part for child in node.children for part in child.pointer]
            fields.append((2, b"".join(map(varint, pointers))))
            levels[number] = _message(*[field for field in fields if field[1]])

        self._root.pointer = None
        place(self._root)
        index = b"".join(_message((1, level)) for level in levels)
        fields = [(1, index), (2, key)]
        self.blocks.append(_message(*fields, *([(3, value)] if value is not None else [])))
