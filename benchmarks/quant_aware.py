"""Quantization-aware training steps beside the float step and beside qwix.

    python -m benchmarks.quant_aware [--turns=9] [--networks=lenet5,resnet20]

All rows of a network train the same flax module at batch 128 with the same optimizer;
`x float` is the CPU time over that of the float step, the median of the turns' ratios.
`ours` quantizes weights to 8 bits a channel and inputs to 8 bits a tensor, with scales
fitted at every step; `learned` trains the scales of the inputs beside the weights;
`SP2` has weights of 4 bits; `weights alone` leaves inputs as they are. qwix's
QtProvider multiplies int8 numbers, which XLA does slowly on CPU; its OdmlQatProvider
rounds floats, as ours.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import quant
from benchmarks import _peers, _timing

BATCH = 128
NOTE = """\
A ratio below 1 is XLA's: on CPU a convolution and its gradients take less time when
what is convolved was rounded first. In `weights alone` nothing is."""
MODELS = {
    "lenet5": (_peers.FlaxLeNet5, (28, 28, 1)),
    "resnet20": (_peers.FlaxResNet20, (32, 32, 3)),
}
COLUMNS = ("row", "ms", "CPU ms", "x float", "first call s", "recompiled")


def steps(
    apply: Callable[..., Any], variables: Any, images: Any, labels: Any, scales: Any
) -> Callable[[], Any]:
    """Returns a call that makes one step of momentum.

    Args:
      apply: `apply(variables, scales, images)`; returns logits and statistics.
      variables: of flax, "params" and perhaps "batch_stats".
      images: [n, h, w, c].
      labels: int [n].
      scales: a pytree trained beside the parameters.
    """
    optimizer = optax.sgd(1e-3, momentum=0.9)

    def loss(trained: Any, rest: Any, images: Any, labels: Any) -> Any:
        params, scales = trained
        logits, stats = apply({"params": params, **rest}, scales, images)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return each.mean(), stats

    def step(trained: Any, rest: Any, state: Any, *batch: Any) -> Any:
        grad = jax.value_and_grad(loss, has_aux=True)
        (value, rest), grads = grad(trained, rest, *batch)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(trained, updates), rest, state, value

    jitted = jax.jit(step, donate_argnums=(0, 1, 2))
    variables, scales = jax.tree.map(jnp.array, (variables, scales))
    rest = {k: v for k, v in variables.items() if k != "params"}
    trained = variables["params"], scales
    held = [trained, rest, optimizer.init(trained)]

    def run() -> Any:
        *held[:], value = jitted(*held, images, labels)
        return value

    return run


def ours(model: Any, variables: Any, images: Any) -> dict[str, Any]:
    """Returns (apply, scales) of our rows."""

    def plain(variables: Any, images: Any) -> Any:
        return model.apply(
            variables,
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(1)},
        )

    inputs = quant.Quantizer(
        quant.Uniform(8, signed=False),
        calibration=quant.calibration.MinMax(),
        gradient="lsq",
    )

    def rules(fmt: quant.Format) -> Any:
        layer = quant.Layer(quant.Quantizer(fmt, quant.CHANNEL), inputs)
        return [("params/.*/kernel", layer)]

    eight, sp2 = rules(quant.Uniform(8)), rules(quant.SumOfPowers(4))
    kernels = quant.Layer(quant.Quantizer(quant.Uniform(8), quant.CHANNEL))
    alone = [("params/.*/kernel", kernels)]
    fixed = quant.calibrate(plain, eight, variables, [(images,)])
    learned = fixed._replace(weights={})
    return {
        "float": (lambda v, _, x: plain(v, x), {}),
        "ours": (lambda v, _, x: quant.aware(plain, eight)(v, x), {}),
        "ours, learned": (lambda v, s, x: quant.aware(plain, eight, s)(v, x), learned),
        "ours, weights alone": (lambda v, _, x: quant.aware(plain, alone)(v, x), {}),
        "ours, SP2": (lambda v, _, x: quant.aware(plain, sp2)(v, x), {}),
    }


def peers(model: Any) -> dict[str, Any]:
    """Returns the models of qwix, by row; none if it is not installed."""
    try:
        import qwix
    except ImportError:
        return {}
    rules = [qwix.QtRule(module_path=".*", weight_qtype="int8", act_qtype="int8")]
    return {
        "qwix, QtProvider": qwix.quantize_model(model, qwix.QtProvider(rules)),
        "qwix, OdmlQatProvider": qwix.quantize_model(
            model, qwix.OdmlQatProvider(rules)
        ),
    }


def measure(name: str, turns: int) -> list[dict[str, Any]]:
    """Returns the rows of one network, with `COLUMNS` as keys."""
    make, shape = MODELS[name]
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(BATCH, *shape)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 10, BATCH))
    model = make()
    variables = model.init(jax.random.key(0), images[:1])
    runs = {
        label: steps(apply, variables, images, labels, scales)
        for label, (apply, scales) in ours(model, variables, images).items()
    }
    others = peers(model)
    for label, peer in others.items():
        own = peer.init(jax.random.key(0), images)
        mutable = [k for k in own if k != "params"]
        run = functools.partial(
            peer.apply,
            train=True,
            mutable=mutable,
            rngs={"dropout": jax.random.key(1)},
        )
        runs[label] = steps(lambda v, _, x, run=run: run(v, x), own, images, labels, {})
    timings = _timing.alternate(
        [_timing.Candidate(label, run) for label, run in runs.items()], turns=turns
    )
    rows = [
        {
            "row": f"{name}: {label}",
            **timing.cells,
            "x float": timing.cpu_ratio(timings["float"]),
        }
        for label, timing in timings.items()
    ]
    return rows if others else [*rows, {"row": f"{name}: qwix (not installed)"}]


def main() -> None:
    """Prints the table; with --json also writes it."""
    parser = argparse.ArgumentParser(description="Quantization-aware steps, timed.")
    parser.add_argument("--turns", type=int, default=9, help="timed calls of each row")
    parser.add_argument("--networks", default="lenet5,resnet20", help="comma list")
    parser.add_argument("--json", help="file for the rows")
    args = parser.parse_args()
    names = args.networks.split(",")
    if args.turns < 1 or not set(names) <= set(MODELS):
        parser.error(f"expected turns >= 1 and networks among {', '.join(MODELS)}")
    rows = [row for name in names for row in measure(name, args.turns)]
    print(f"training steps at batch {BATCH}, weights and inputs quantized")
    print(NOTE)
    _timing.finish(args.json, rows, COLUMNS, batch=BATCH, note=NOTE)


if __name__ == "__main__":
    main()
