"""What verification is compared with: Marabou, run here, and figures of others, quoted.

The quoted figures were measured by others on another machine: auto_LiRPA 0.7.0 and the
alpha-beta-CROWN complete verifier of December 2025 with PyTorch 2.13, in float32 and
per CPU-second of both cores, on a machine of 95 GFLOP per CPU-second in a 2048 x 2048
product. They are scaled by that product before they stand in a table.
"""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from verify import Problem

QUOTED_GFLOP = 95.0
"""Of a CPU-second of the machine that the quoted figures are from."""

QUOTED: dict[tuple[str, str], float] = {
    ("mnist_cnn_a_adv", "batch 64"): 157,
    ("mnist_cnn_a_adv", "batch 128"): 151,
    ("mnist_cnn_a_adv", "batch 256"): 179,
    ("mnist_cnn_a_adv", "batch 512"): 186,
    ("mnist_cnn_a_adv", "round of 256"): 163,
    ("cifar_base_kw", "batch 64"): 161,
    ("cifar_base_kw", "batch 128"): 203,
    ("cifar_base_kw", "batch 256"): 226,
    ("cifar_base_kw", "batch 512"): 249,
    ("cifar_base_kw", "round of 256"): 214,
    ("mnist_cnn_a_adv", "interval"): 1 / 0.0004,
    ("mnist_cnn_a_adv", "CROWN-IBP"): 1 / 0.0016,
    ("mnist_cnn_a_adv", "CROWN"): 1 / 0.049,
    ("mnist_cnn_a_adv", "alpha-CROWN, hidden bounds fixed"): 1 / 0.12,
    ("mnist_cnn_a_adv", "alpha-CROWN, hidden bounds optimised"): 1 / 1.35,
    ("acasxu", "least"): 2400,
    ("acasxu", "most"): 5700,
}
"""Sub-domains, images or boxes per CPU-second, unscaled."""


def marabou(onnx: Path, problem: Problem, timeout_s: int) -> Callable[[], str]:
    """Returns a call that decides a property of boxes with Marabou on one thread.

    Args:
      onnx: the network's file.
      problem: the same network; each clause is a query.
      timeout_s: of each query.

    Returns:
      A function that returns "sat", "unsat" or "timeout".

    Raises:
      ImportError: maraboupy is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other formats that it could read
        from maraboupy import Marabou, MarabouCore, MarabouUtils

    options = Marabou.createOptions(
        numWorkers=1, verbosity=0, timeoutInSeconds=timeout_s
    )

    def query(clause: Any) -> str:
        with _quiet():
            net = Marabou.read_onnx(str(onnx))
        lower, upper = np.ravel(clause.region.lower), np.ravel(clause.region.upper)
        for at, low, high in zip(net.inputVars[0].ravel(), lower, upper, strict=True):
            net.setLowerBound(int(at), float(low))
            net.setUpperBound(int(at), float(high))
        outputs = net.outputVars[0].ravel()
        for row, d in zip(clause.spec.C, clause.spec.d, strict=True):
            unsafe = MarabouUtils.Equation(MarabouCore.Equation.LE)
            for coefficient, at in zip(row, outputs, strict=True):
                unsafe.addAddend(float(coefficient), int(at))
            unsafe.setScalar(-float(d))
            net.addEquation(unsafe)
        with _quiet():
            return net.solve(verbose=False, options=options)[0].lower()

    def decide() -> str:
        answers = []
        for clause in problem.property.clauses:
            answers.append(query(clause))
            if answers[-1] == "sat":
                return "sat"
        return "unsat" if set(answers) == {"unsat"} else "timeout"

    return decide


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what a library writes to standard output out of the table."""
    kept = os.dup(1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        try:
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)
