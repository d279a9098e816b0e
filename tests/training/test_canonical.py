import itertools

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from medloop.training import canonical


def write(path, names, order):
    """Write (x + 1) * 2 + (x + 1), summed three times over in a loop, under other names and in another order."""
    one, two, add, mul, total, looped, steps, yes = names
    body = helper.make_graph(
        [
            helper.make_node("Add", [f"{total}_in", total], [f"{total}_out"]),  # reads `total` of the graph around it
            helper.make_node("Identity", ["go_in"], ["go_out"]),
        ],
        f"body_of_{total}",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info(f"{total}_in", TensorProto.FLOAT, [None, 2]),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info(f"{total}_out", TensorProto.FLOAT, [None, 2]),
        ],
    )
    nodes = [
        helper.make_node("Add", ["x", one], [add], name=f"node_{add}"),
        helper.make_node("Mul", [add, two], [mul]),
        helper.make_node("Add", [mul, add], [total]),
        helper.make_node("Loop", [steps, yes, total], [looped], body=body),
        helper.make_node("Identity", [one], ["nobody_reads_this"]),
    ]
    tensors = [
        numpy_helper.from_array(np.float32(1), one),
        numpy_helper.from_array(np.float32(2), two),
        numpy_helper.from_array(np.int64(3), steps),
        numpy_helper.from_array(np.bool_(True), yes),
    ]
    graph = helper.make_graph(
        [nodes[i] for i in order],
        "some graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["unk__7", 2])],
        [helper.make_tensor_value_info(looped, TensorProto.FLOAT, ["unk__8", 2])],
        [tensors[i] for i in order[:4]] if 4 not in order[:4] else tensors,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8), path)


def test_one_network_becomes_the_same_bytes_whatever_its_names_and_order(tmp_path):
    names = ["one", "two", "add", "mul", "total", "looped", "steps", "yes"]
    found = set()
    for i, order in enumerate(itertools.permutations(range(5))):
        if i % 11 == 0:
            write(tmp_path / "model.onnx", [f"{name}__{i}" for name in names[i % 3 :] + names[: i % 3]], order)
            canonical.rewrite(tmp_path / "model.onnx", "logits")
            found.add((tmp_path / "model.onnx").read_bytes())
    assert len(found) == 1


def test_the_rewritten_network_is_valid_and_computes_the_same(tmp_path):
    write(tmp_path / "model.onnx", list("abcdefgh"), range(5))
    canonical.rewrite(tmp_path / "model.onnx", "logits")
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model)
    assert len(model.graph.node) == 4
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["x", "logits"]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    x = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], np.float32)
    np.testing.assert_allclose(session.run(["logits"], {"x": x})[0], 4 * ((x + 1) * 2 + (x + 1)))


def test_sets_of_a_package_keep_their_order_while_asked_to():
    import json.decoder

    items = [f"item {i}" for i in range(50)]
    with canonical.ordered_sets("json"):
        ordered = json.decoder.set(items)
        assert list(ordered) == items
        assert list(ordered & set(items[::-2])) == items[1::2]
        assert list(ordered - {items[0]} | {"more"}) == [*items[1:], "more"]
        assert (ordered.issubset(items), ordered.issubset(items[1:])) == (True, False)
        assert list(ordered.union(["more"]).difference(items)) == ["more"]
        assert list(ordered.intersection(items[3:5])) == items[3:5]
    assert not hasattr(json.decoder, "set")
