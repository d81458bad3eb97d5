"""Graphs of ONNX: a network as torch writes it, and a sampler as a loop around one copy of it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from vfn.interop.graphs import sizes_of

if TYPE_CHECKING:
    from vfn.interop.graph_export import Exported, Runner

PREFIX = "step_"
BATCH = "batch"


def onnx_bytes(made: "Exported") -> bytes:
    """A file of ONNX.

    Args:
        made: what is exported.

    Returns:
        its content.
    """
    from vfn.interop.graph_export import BATCHES, metadata

    example = made.example(BATCHES[0])
    if made.step is None:
        model = _traced(made.module, example, made.inputs, [True] * len(example), "prediction")
    else:
        assert made.times is not None
        assert made.factors is not None
        given = (example[0], made.times[:1].double(), made.factors[0].float(), *example[1:])
        names = ("z", "t", "factors", *made.inputs[1:])
        free = [True, False, False, *[True] * len(example[1:])]
        model = _looped(made, _traced(made.step, given, names, free, "x0"))
    import onnx

    onnx.helper.set_model_props(model, metadata(made))
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _traced(
    module: nn.Module,
    example: Sequence[Tensor],
    names: Sequence[str],
    free: Sequence[bool],
    output: str,
) -> Any:
    """A module as torch exports it; ``free``: inputs whose first size is the batch."""
    fixed = 2 if output == "prediction" else 3
    program = torch.onnx.export(
        module.eval(), tuple(example), dynamo=True, verbose=False,
        dynamic_shapes=sizes_of(free, fixed, torch.export.Dim(BATCH)),
        input_names=list(names), output_names=[output],
    )  # fmt: skip
    assert program is not None
    return program.model_proto


def _looped(made: "Exported", step: Any) -> Any:
    """A loop over evaluations, whose state are the noise and all predictions up to now."""
    from onnx import TensorProto, compose, helper, numpy_helper

    assert made.plan is not None
    assert made.times is not None
    assert made.factors is not None
    count = len(made.times)
    step = compose.add_prefix(step, PREFIX)
    ranks = [1] * 4
    constants = {
        "states": made.plan.states.float().reshape(count, count + 1, *ranks),
        "picture": made.plan.picture.float().reshape(count + 1, *ranks),
        "times": made.times.double().reshape(count, 1),
        "factors": made.factors.float(),
        "places": torch.eye(count + 1)[1:].reshape(count, count + 1, *ranks),
        "count": torch.tensor(count),
        "go_on": torch.tensor(True),
        "first": torch.tensor([0]),
        "more": torch.tensor([count]),
    }
    node, info = helper.make_node, helper.make_tensor_value_info
    channels, height, width = made.trained.shape.size
    picture: list[Any] = [BATCH, channels, height, width]
    history: list[Any] = [count + 1, *picture]
    inner = [
        node("Gather", ["states", "k"], ["weights"], axis=0),
        node("Mul", ["weights", "known"], ["weighted"]),
        node("ReduceSum", ["weighted", "first"], [f"{PREFIX}z"], keepdims=0),
        node("Gather", ["times", "k"], [f"{PREFIX}t"], axis=0),
        node("Gather", ["factors", "k"], [f"{PREFIX}factors"], axis=0),
        *[node("Identity", [name], [f"{PREFIX}{name}"]) for name in made.inputs[1:]],
        *step.graph.node,
        node("Gather", ["places", "k"], ["place"], axis=0),
        node("Mul", ["place", f"{PREFIX}x0"], ["placed"]),
        node("Add", ["known", "placed"], ["known_next"]),
        node("Identity", ["go"], ["go_next"]),
    ]
    body = helper.make_graph(
        inner, "evaluation",
        [info("k", TensorProto.INT64, []), info("go", TensorProto.BOOL, []),
         info("known", TensorProto.FLOAT, history)],
        [info("go_next", TensorProto.BOOL, []), info("known_next", TensorProto.FLOAT, history)],
    )  # fmt: skip
    outer = [
        node("Unsqueeze", ["noise", "first"], ["noise_first"]),
        node("Shape", ["noise"], ["size"]),
        node("Concat", ["more", "size"], ["size_of_more"], axis=0),
        node("ConstantOfShape", ["size_of_more"], ["nothing"]),
        node("Concat", ["noise_first", "nothing"], ["begun"], axis=0),
        node("Loop", ["count", "go_on", "begun"], ["all"], body=body),
        node("Mul", ["picture", "all"], ["parts"]),
        node("ReduceSum", ["parts", "first"], ["pictures"], keepdims=0),
    ]
    legend = made.trained.shape.legend
    labels: tuple[Any, list[Any]] = (TensorProto.INT64, [BATCH])
    if legend.tags:
        labels = (TensorProto.FLOAT, [BATCH, len(legend.names)])
    given = {
        "noise": (TensorProto.FLOAT, picture),
        "labels": labels,
        "guidance": (TensorProto.FLOAT, [BATCH]),
    }
    arrays = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    graph = helper.make_graph(
        outer, "sampler",
        [info(name, *given[name]) for name in made.inputs],
        [info("pictures", TensorProto.FLOAT, picture)],
        [*arrays, *step.graph.initializer],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=step.opset_import, ir_version=step.ir_version)


def onnx_runner(content: bytes, inputs: Sequence[str]) -> "Runner":
    """A file of ONNX as a function, by onnxruntime on the CPU.

    Args:
        content: of the file.
        inputs: their names, in the order of the arguments.

    Returns:
        the function.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(*given: Tensor) -> Tensor:
        arrays = {name: value.numpy() for name, value in zip(inputs, given, strict=True)}
        return torch.from_numpy(np.asarray(session.run(None, arrays)[0]))

    return run
