"""The same network as the same ONNX bytes.

tf2onnx takes the names of values from counters and optimises by walking through sets, so that two exports of one
network differ: always in their names, now and then in their nodes. Here its sets keep their order; and values are
named, and nodes ordered, by the walk from the outputs back to the inputs alone.
"""

import sys
from collections.abc import Iterable, Iterator, MutableSet
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx


class OrderedSet(MutableSet[Any]):
    """A set that is walked through in the order of insertion, with the methods that tf2onnx uses."""

    def __init__(self, items: Iterable[Any] = ()) -> None:
        self._items = dict.fromkeys(items)

    def __contains__(self, item: object) -> bool:
        return item in self._items

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def add(self, value: Any) -> None:
        self._items[value] = None

    def discard(self, value: Any) -> None:
        self._items.pop(value, None)

    def update(self, *others: Iterable[Any]) -> None:
        for other in others:
            self._items.update(dict.fromkeys(other))

    def union(self, *others: Iterable[Any]) -> "OrderedSet":
        joined = OrderedSet(self)
        joined.update(*others)
        return joined

    def intersection(self, other: Iterable[Any]) -> "OrderedSet":
        return OrderedSet(item for item in self if item in other)

    def __and__(self, other: Iterable[Any]) -> "OrderedSet":
        return self.intersection(other)

    def difference(self, other: Iterable[Any]) -> "OrderedSet":
        return OrderedSet(item for item in self if item not in other)

    def issubset(self, other: Iterable[Any]) -> bool:
        return all(item in other for item in self)


@contextmanager
def ordered_sets(package: str) -> Iterator[None]:
    """Let `set(...)` in the loaded modules of `package` keep the order of insertion."""
    modules: list[Any] = [module for name, module in sys.modules.items() if name.partition(".")[0] == package]
    for module in modules:
        module.set = OrderedSet  # shadows the built-in one
    try:
        yield
    finally:
        for module in modules:
            del module.set


def rewrite(path: Path, output: str) -> None:
    """Replace an ONNX file by its canonical form: its one output is called `output`, every first axis batch."""
    model = onnx.load(path)
    [result] = model.graph.output
    names = {value.name: value.name for value in model.graph.input} | {result.name: output}
    _canonise(model.graph, names, [0])
    model.graph.name, model.graph.doc_string, model.doc_string = "network", "", ""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    path.write_bytes(model.SerializeToString(deterministic=True))


def _canonise(graph: onnx.GraphProto, outer: dict[str, str], counter: list[int]) -> None:
    """Order and rename `graph` in place; `outer` maps what it sees of the graph around it to new names."""
    inputs = {value.name for value in graph.input}
    tensors = {tensor.name: tensor for tensor in graph.initializer if tensor.name not in inputs}
    nodes = _ordered(graph)
    new = dict(outer)
    for value in (*graph.input, *graph.output):
        new[value.name] = new.get(value.name) or _next(counter)
    used = []
    for node in nodes:
        for name in _read_by(node):
            if name in tensors and name not in new:
                new[name] = _next(counter)
                used.append(tensors[name])
        for name in node.output:
            if name and name not in new:
                new[name] = _next(counter)
    used += [tensors[value.name] for value in graph.output if value.name in tensors]
    for node in nodes:
        for inner in _subgraphs(node):
            inner.name = "body"
            _canonise(inner, new, counter)
        renamed = [[new.get(name, name) for name in names] for names in (node.input, node.output)]
        node.input[:], node.output[:] = renamed
        node.name = node.doc_string = ""
    for named in (*used, *graph.input, *graph.output):
        named.name = new[named.name]
    kept_nodes, kept_tensors = [_copy(node) for node in nodes], [_copy(tensor) for tensor in used]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(kept_nodes)
    graph.initializer.extend(kept_tensors)


def _ordered(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the nodes that the outputs need, each after those that it needs, in the order of the walk to them."""
    made_by = {name: node for node in graph.node for name in node.output if name}
    ordered: list[onnx.NodeProto] = []
    done: set[int] = set()
    waiting = [(made_by[value.name], False) for value in reversed(graph.output) if value.name in made_by]
    while waiting:
        node, ready = waiting.pop()
        if id(node) in done:
            continue
        if ready:
            done.add(id(node))
            ordered.append(node)
            continue
        waiting.append((node, True))
        needed = [made_by[name] for name in _read_by(node) if name in made_by]
        waiting += [(other, False) for other in reversed(needed) if id(other) not in done]
    return ordered


def _read_by(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names that a node reads, those that its subgraphs read among them."""
    yield from (name for name in node.input if name)
    for inner in _subgraphs(node):
        own = {value.name for value in (*inner.input, *inner.initializer)}
        own |= {name for each in inner.node for name in each.output}
        read = [name for each in _ordered(inner) for name in _read_by(each)]
        yield from (name for name in (*read, *(value.name for value in inner.output)) if name not in own)


def _subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]


def _next(counter: list[int]) -> str:
    counter[0] += 1
    return f"v{counter[0]}"


def _copy(message: onnx.NodeProto | onnx.TensorProto) -> onnx.NodeProto | onnx.TensorProto:
    copied = type(message)()
    copied.CopyFrom(message)
    return copied
