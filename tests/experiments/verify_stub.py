"""A verifier that says what a test wants, of networks that are not there."""

import json

import jax.numpy as jnp
import numpy as np

from experiments.verification import networks, search
from experiments.verification.networks import Network
from verify.problem import Verdict

PROPERTY = """
(declare-const X_0 Real) (declare-const X_1 Real)
(declare-const Y_0 Real) (declare-const Y_1 Real)
(assert (>= X_0 0)) (assert (<= X_0 1)) (assert (>= X_1 0)) (assert (<= X_1 1))
(assert (<= Y_0 Y_1))
"""
"""Of a network with two inputs and two outputs."""


def verdict(status, **more):
    """Returns a verdict with some numbers."""
    values = {"lower": 0.5, "domains": 3, "seconds": 0.1, "phase": "branch"}
    return Verdict(status, **{**values, **more})


class Stub:
    """Stands for the verifier and for reading networks.

    Attributes:
      answers: what is said of a problem, by its name: a verdict, an error to raise,
        or a function of problem and config; "unsat" where there is nothing.
      decided: names of the problems that were asked about.
      configs: their configs.
      loaded: names of the files that were read.
    """

    def __init__(self, monkeypatch):
        self.answers, self.decided, self.configs, self.loaded = {}, [], [], []
        monkeypatch.setattr(networks, "load_network", self._load)
        monkeypatch.setattr(search, "decide", self._decide)

    def _load(self, path):
        self.loaded.append(path.name)
        if "broken" in path.name:
            raise ZeroDivisionError("a bug in a network")
        params = {"w": jnp.eye(2)}
        return Network(lambda p, x: x @ p["w"], params, (1, 2), 2, path.stem)

    def _decide(self, problem, config, progress=None):
        self.decided.append(problem.name)
        self.configs.append(config)
        found = self.answers.get(problem.name, verdict("unsat"))
        if callable(found):
            found = found(problem, config)
        if isinstance(found, BaseException):
            raise found
        return found


def provided(folder, monkeypatch, name="tiny"):
    """Makes a tiny `sdp` collection, one image in four misclassified by the stub."""
    root = folder / "data"
    (root / "verify/sdp").mkdir(parents=True)
    (root / "verify/eran").mkdir()
    entry = {
        "file": f"{name}.onnx",
        "inputs": "tiny.npz",
        "eps_pixel": 0.1,
        "mean": [0.5],
        "std": [0.25],
    }
    text = json.dumps({"networks": {name: entry}})
    (root / "verify/sdp/sdp.json").write_text(text)
    (root / "verify/eran/eran.json").write_text('{"networks": {}}')
    pixels = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]], np.float32)
    np.savez(
        root / "verify/sdp/tiny.npz",
        x_nhwc_01=pixels.reshape(4, 1, 2, 1),
        y=np.array([0, 1, 1, 1]),
    )
    monkeypatch.setenv("LATHE_DATA", str(root))
