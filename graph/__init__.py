"""A JAX function as a graph of operators; ONNX models as JAX functions.

| name | what |
|------|------|
| `trace(fn, *example_args)` | the graph of a function, at the shapes of arguments |
| `evaluate(graph, *args)` | what the function returns, by running its graph |
| `evaluate_numpy(graph, *args)` | the same in numpy and float64, without JAX |
| `recognise(graph)` | spelled-out relu, leaky relu, softmax as one node each |
| `expand(graph, expansions)` | the graph with operators written by simpler ones |
| `composite(fn)` | a function whose calls stay one node |
| `intercept(fn, paths, ...)` | the function with what meets its kernels replaced |
| `onnx.load(path)` | an ONNX model as `fn(params, x)` and its parameters |
| `Graph`, `Node`, `Value`, `Notes` | types |
| `COMPOSITES`, `PATTERNS` | registries |

A graph is what a verifier or a cost model walks: nodes in topological order, each with
the name of its JAX primitive (or of a composite, such as relu), its parameters and the
line of the program that it comes from. Parameters keep their paths.

Example, the operators of a layer:

    def layer(params, x):
        return jax.nn.relu(x @ params["kernel"] + params["bias"])

    found = graph.trace(layer, params, x)
    [node.op for node in found.nodes]         # dot_general, add, relu
    [value.path for value in found.argument(0)]   # bias, kernel
    print(found)                              # one line for each operator

Loops are unrolled and constants folded. What the data decide, a `while` loop or a
branch, is a `GraphError` that names the operator and its line.
"""

import importlib
from typing import Any

from graph.composites import COMPOSITES, composite
from graph.graph import Graph, Node, Value, evaluate
from graph.patterns import PATTERNS, recognise
from graph.products import Notes, intercept
from graph.reference import evaluate_numpy
from graph.trace import expand, trace

__all__ = [
    "COMPOSITES",
    "PATTERNS",
    "Graph",
    "Node",
    "Notes",
    "Value",
    "composite",
    "evaluate",
    "evaluate_numpy",
    "expand",
    "intercept",
    "recognise",
    "trace",
]


def __getattr__(name: str) -> Any:
    # graph.onnx needs the onnx package, which the rest of the room does not.
    if name == "onnx":
        return importlib.import_module("graph.onnx")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
