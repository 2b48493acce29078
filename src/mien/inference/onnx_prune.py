"""Prune an ONNX file to the requested outputs, since ONNX Runtime runs every node of a graph.

It works on the bytes, since the base install has no `onnx`: a message is a sequence of fields, each a key
(number and kind) and a value.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

_GRAPH = 7  # of the model
_NODE, _INITIALIZER, _OUTPUT = 1, 5, 12  # of the graph
_INPUTS, _OUTPUTS, _KIND = 1, 2, 4  # of a node
_NAME = {_INITIALIZER: 8, _OUTPUT: 1}  # where these keep their name
_NESTED = (b"If", b"Loop", b"Scan")  # nodes with graphs of their own, which may read anything
_BYTES = 2  # the kind of field that has a length and then bytes; others are of fixed size, or whole numbers


def outputs(data: bytes) -> list[str]:
    """Names of the graph's outputs, in order.

    Raises:
        ValueError: these are no fields.
    """
    return [_name(value, _OUTPUT) for number, value, _ in _graph(data)[1] if number == _OUTPUT]


def prune(data: bytes, answers: Collection[str]) -> bytes:
    """The file with only these outputs, and the nodes and weights that they need.

    A graph with nested graphs is returned unchanged, and so is one with none of the outputs, or no others.

    Raises:
        ValueError: these are no fields.
    """
    around, fields = _graph(data)
    every = {_name(value, _OUTPUT) for number, value, _ in fields if number == _OUTPUT}
    kept = every & set(answers)
    nodes = [_node(value) if number == _NODE else None for number, value, _ in fields]
    if not kept or kept == every or any(n and n[2] in _NESTED for n in nodes):
        return data
    needed = {n.encode() for n in kept}
    used = set[int]()
    for i in reversed(range(len(fields))):  # a node comes after those that it reads
        node = nodes[i]
        if node and needed & node[1]:
            used.add(i)
            needed |= node[0]
    graph = b"".join(
        bytes(raw)
        for i, (number, value, raw) in enumerate(fields)
        if (number == _NODE and i in used)
        or (number == _INITIALIZER and _name(value, number).encode() in needed)
        or (number == _OUTPUT and _name(value, number) in kept)
        or number not in (_NODE, _INITIALIZER, _OUTPUT)
    )
    return around[0] + _varint(_GRAPH << 3 | _BYTES) + _varint(len(graph)) + graph + around[1]


def _graph(data: bytes) -> tuple[tuple[bytes, bytes], list[tuple[int, memoryview, memoryview]]]:
    """The bytes before and after the graph, and the graph's fields."""
    view, at = memoryview(data), 0
    for number, value, raw in _fields(view):
        if number == _GRAPH:
            return (data[:at], data[at + len(raw) :]), list(_fields(value))
        at += len(raw)
    raise ValueError("no graph in it")


def _node(value: memoryview) -> tuple[set[bytes], set[bytes], bytes]:
    """Inputs, outputs and kind of a node."""
    found: dict[int, list[bytes]] = {_INPUTS: [], _OUTPUTS: [], _KIND: []}
    for number, inner, _ in _fields(value):
        if number in found:
            found[number].append(bytes(inner))
    return set(found[_INPUTS]) - {b""}, set(found[_OUTPUTS]) - {b""}, b"".join(found[_KIND])


def _name(value: memoryview, of: int) -> str:
    return next((bytes(inner).decode() for number, inner, _ in _fields(value) if number == _NAME[of]), "")


def _fields(view: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """(number, value, key and value) of each field; the value of one without a length is empty."""
    at = 0
    while at < len(view):
        start = at
        key, at = _whole(view, at)
        value = view[:0]
        if key & 7 == _BYTES:
            n, at = _whole(view, at)
            value, at = view[at : at + n], at + n
        elif key & 7 == 0:
            _, at = _whole(view, at)
        elif key & 7 in (1, 5):
            at += 8 if key & 7 == 1 else 4
        else:
            raise ValueError(f"a field of kind {key & 7}")
        if at > len(view):
            raise ValueError("a field reaches beyond the end")
        yield key >> 3, value, view[start:at]


def _whole(view: memoryview, at: int) -> tuple[int, int]:
    """A whole number, seven bits a byte, lowest first; and where it ends."""
    n = shift = 0
    while True:
        if at >= len(view) or shift > 63:
            raise ValueError("a number that does not end")
        n |= (view[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if view[at - 1] < 128:
            return n, at


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes([*out, n])
