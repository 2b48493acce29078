"""Prune an ONNX file to the requested outputs, since ONNX Runtime runs every node of a graph.

It works on the bytes, since the base install has no `onnx`: a message is a sequence of fields, each a key
(number and kind) and a value.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator

_GRAPH = 7  # of the model
_NODE, _INITIALIZER, _OUTPUT = 1, 5, 12  # of the graph
_INPUTS, _OUTPUTS, _KIND = 1, 2, 4  # of a node
_NAME = {_INITIALIZER: 8, _OUTPUT: 1}  # where these keep their name
_NESTED = (b"If", b"Loop", b"Scan")  # nodes with graphs of their own, which may read anything
_ENCODER = b"model.encoder."  # how the names of an encoder's weights begin
_ENDS = (b"Add", b"Relu", b"Clip")  # what may follow an encoder's last weights
_MAPS = (*_ENDS, b"Conv", b"BatchNormalization", b"DequantizeLinear")  # what makes the maps that it hands out
_FLOAT_TENSOR = b"\x12\x04\x0a\x02\x08\x01"  # the type of an output: a tensor of float32 of any shape
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
    if not kept or kept == every or _nested(fields):
        return data
    return _rebuilt(around, fields, kept)


def part_sha256(data: bytes, answers: Collection[str]) -> str:
    """Identifies what computes these outputs: their nodes and weights, in order, byte for byte.

    Heads that were added to a file, and its header, change nothing here. Empty where the graph lacks an
    output, or has graphs inside.

    Raises:
        ValueError: these are no fields.
    """
    fields = _graph(data)[1]
    every = {_name(value, _OUTPUT) for number, value, _ in fields if number == _OUTPUT}
    if not answers or not set(answers) <= every or _nested(fields):
        return ""
    used, needed = _needed(fields, answers)
    digest = hashlib.sha256()
    for i, (number, value, raw) in enumerate(fields):
        if i in used or (number == _INITIALIZER and _name(value, number).encode() in needed):
            digest.update(raw)
    return digest.hexdigest()


def encoder_maps(data: bytes) -> list[str]:
    """Names of the tensors that the encoder hands out to the heads, in the order in which they are computed.

    The encoder is what leads to the nodes with weights named `model.encoder...`, and the additions and
    activations that end it.

    Raises:
        ValueError: these are no fields.
    """
    fields = _graph(data)[1]
    nodes = [_node(value) for number, value, _ in fields if number == _NODE]
    constants = {_name(value, number).encode() for number, value, _ in fields if number == _INITIALIZER}
    weights = {n for n in constants if n.startswith(_ENCODER)}
    for inputs, out, _ in nodes:  # 8-bit weights are made float first
        if inputs & weights and inputs <= constants:
            constants |= out
            weights |= out
    inside, needed = set[int](), set[bytes]()
    for i in reversed(range(len(nodes))):
        if nodes[i][0] & weights or nodes[i][1] & needed:
            inside.add(i)
            needed |= nodes[i][0]
    made = {name for i in inside for name in nodes[i][1]}
    readers: dict[bytes, list[int]] = {}
    for i, (inputs, _, _) in enumerate(nodes):
        for name in inputs:
            readers.setdefault(name, []).append(i)
    for i, (inputs, out, kind) in enumerate(nodes):
        values, own = inputs - constants, inputs & constants
        ends = kind in _ENDS and values <= made and any(readers[n] == [i] for n in values)
        if i not in inside and ends and not any(n.startswith(b"model.") for n in own - weights):
            inside.add(i)
            made |= out
    computed = set(weights)  # from an encoder's weight: not a picture that is made 8-bit and float again
    for inputs, out, _ in nodes:
        if inputs & computed:
            computed |= out
    handed = (n for i in sorted(inside) if nodes[i][2] in _MAPS for n in (nodes[i][1] & computed) - constants)
    return [n.decode() for n in handed if any(i not in inside for i in readers.get(n, ()))]


def expose(data: bytes, tensors: Collection[str]) -> bytes:
    """The file with these float tensors as its outputs, in that order, and what they need.

    Raises:
        ValueError: these are no fields, or the graph has graphs inside.
    """
    around, fields = _graph(data)
    if _nested(fields):
        raise ValueError("a graph with graphs inside")
    added = list[tuple[int, memoryview, memoryview]]()
    for name in tensors:
        text = name.encode()
        value = memoryview(bytes([_NAME[_OUTPUT] << 3 | _BYTES]) + _varint(len(text)) + text + _FLOAT_TENSOR)
        key = memoryview(_varint(_OUTPUT << 3 | _BYTES) + _varint(len(value)) + value)
        added.append((_OUTPUT, value, key))
    return _rebuilt(around, [f for f in fields if f[0] != _OUTPUT] + added, set(tensors))


def _nested(fields: list[tuple[int, memoryview, memoryview]]) -> bool:
    """Whether a node has a graph of its own."""
    return any(_node(value)[2] in _NESTED for number, value, _ in fields if number == _NODE)


def _rebuilt(
    around: tuple[bytes, bytes], fields: list[tuple[int, memoryview, memoryview]], kept: Collection[str]
) -> bytes:
    """A file of these fields of a graph, with these of its outputs and what they need."""
    used, needed = _needed(fields, kept)
    graph = b"".join(
        bytes(raw)
        for i, (number, value, raw) in enumerate(fields)
        if (number == _NODE and i in used)
        or (number == _INITIALIZER and _name(value, number).encode() in needed)
        or (number == _OUTPUT and _name(value, number) in kept)
        or number not in (_NODE, _INITIALIZER, _OUTPUT)
    )
    return around[0] + _varint(_GRAPH << 3 | _BYTES) + _varint(len(graph)) + graph + around[1]


def _needed(
    fields: list[tuple[int, memoryview, memoryview]], kept: Collection[str]
) -> tuple[set[int], set[bytes]]:
    """(numbers of the fields of the nodes that these outputs need, names of the tensors that they read)."""
    nodes = [_node(value) if number == _NODE else None for number, value, _ in fields]
    needed = {n.encode() for n in kept}
    used = set[int]()
    for i in reversed(range(len(fields))):  # a node comes after those that it reads
        node = nodes[i]
        if node and needed & node[1]:
            used.add(i)
            needed |= node[0]
    return used, needed


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
        key, at = _read_varint(view, at)
        value = view[:0]
        if key & 7 == _BYTES:
            n, at = _read_varint(view, at)
            value, at = view[at : at + n], at + n
        elif key & 7 == 0:
            _, at = _read_varint(view, at)
        elif key & 7 in (1, 5):
            at += 8 if key & 7 == 1 else 4
        else:
            raise ValueError(f"a field of kind {key & 7}")
        if at > len(view):
            raise ValueError("a field reaches beyond the end")
        yield key >> 3, value, view[start:at]


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
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
