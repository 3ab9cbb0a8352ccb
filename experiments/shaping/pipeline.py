"""A network trained, pruned and put on levels, and what is measured of it."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import optax

import admm
import gap
import quant
from core import trees
from core.types import PyTree
from experiments import admm_pruning, models
from experiments.pruning.fit import fit, stage_key
from experiments.pruning.networks import LENET300
from experiments.pruning.protocol import Protocol, Trial
from experiments.shaping import measures
from experiments.training import TrainState, make_epoch, restart
from experiments.workdir import Run

KERNELS = ".*/kernel"
RHO = (1e-3, 10.0)
"""ADMM's penalty towards levels, first and last."""
RATE = 1e-3
"""Adam's, while weights are drawn to their levels."""


class Shaped(NamedTuple):
    """One network before or after.

    Attributes:
      accuracy: on the test split, %; with rounded inputs after quantization.
      sizes: weights of each kernel, by path.
      left: those that are not 0.
      stored: bytes of each kernel, by path; see `measures.stored_bits`.
      certified: counts of images by verdict: "verified", "falsified", "open", and
        "wrong" for those that were no counterexample's worth.
      cost: totals on every target, by its name; see `hw.summary`.
    """

    accuracy: float
    sizes: Mapping[str, int]
    left: Mapping[str, int]
    stored: Mapping[str, float]
    certified: Mapping[str, int]
    cost: Mapping[str, Mapping[str, Any]]


Found = Mapping[int, Mapping[str, Shaped]]
"""By seed, "before" and "after"."""


def run_all(run: Run, config: Any) -> dict[int, dict[str, Shaped]]:
    """Shapes a network for each seed and measures it before and after.

    Args:
      run: the work folder.
      config: of the experiment.
    """
    made = Protocol(
        run,
        admm_pruning.Config(
            dataset=config.dataset,
            methods=("admm",),
            lenet300_rates=(config.rate,),
            lenet300_epochs=config.epochs,
        ),
    )
    found = {}
    for seed in run.seeds:
        before, dense = made.trained(Trial(LENET300, seed, "dense", 1.0))
        pruned, _ = made.trained(Trial(LENET300, seed, "admm", config.rate))
        after = quantized(made, pruned, seed, config)
        found[seed] = {
            "before": _measured(
                made, before.params, dense["accuracy"], None, config, seed
            ),
            "after": _measured(
                made, after, None, (config.bits, config.input_bits), config, seed
            ),
        }
    return found


def quantized(made: Protocol, pruned: TrainState, seed: int, config: Any) -> PyTree:
    """Returns weights on levels.

    ADMM draws the weights that are left to the levels of MSQ; those that were pruned
    stay 0, which is a level of both of its formats.

    Args:
      made: what pruned the network.
      pruned: its state.
      seed: of the stage.
      config: of the experiment.
    """
    stage = f"{LENET300.name}-s{seed}-quantize"
    mix = quant.RowMix(config.bits, config.share)
    drawn = admm.admm(
        optax.adam(RATE),
        [(KERNELS, mix)],
        interval=made.steps_per_epoch,
        rho=admm.rising_rho(*RHO, max(config.quantize_epochs - 1, 1)),
    )
    masks = jax.tree_util.tree_map_with_path(
        lambda path, w: w != 0 if trees.path_str(path).endswith("kernel") else None,
        pruned.params,
    )
    optimizer = gap.masked(drawn, masks)
    epoch = make_epoch(
        models.create(LENET300.model),
        optimizer,
        batch_size=made.config.batch_size,
        mean=made.dataset.mean,
        std=made.dataset.std,
    )
    state, _ = fit(
        made.run,
        stage,
        restart(pruned, optimizer),
        epoch,
        made.train,
        config.quantize_epochs,
        key=stage_key(seed, stage),
        watch=functools.partial(_watch, made, mix),
    )
    return admm.project(state.params, [(KERNELS, mix)])


def _watch(
    made: Protocol, mix: quant.RowMix, state: TrainState
) -> dict[str, jax.Array]:
    """Test accuracy in %, of the weights and of the levels nearest to them."""
    evaluate = made.evaluate(LENET300)
    on_levels = admm.project(state.params, [(KERNELS, mix)])
    both = [
        evaluate(params, state.model_state, made.test)
        for params in (state.params, on_levels)
    ]
    return {
        "accuracy": 100 * both[0]["accuracy"],
        "loss": both[0]["loss"],
        "projected_accuracy": 100 * both[1]["accuracy"],
    }


def _measured(
    made: Protocol,
    params: PyTree,
    accuracy: float | None,
    formats: tuple[int, int] | None,
    config: Any,
    seed: int,
) -> Shaped:
    """Measures a network; its accuracy too, with rounded inputs, if none is given."""
    fn = measures.classifier(LENET300.model, made.dataset)
    rows = gap.summary(params, [(KERNELS, True)])
    sizes = {row.path: row.size for row in rows}
    left = {row.path: row.kept for row in rows}
    bits = formats[0] if formats else 32
    name = f"{LENET300.name}-s{seed}-{bits}bits"
    if accuracy is None:

        def rounded() -> dict[str, float]:
            split = made.dataset.train
            run = measures.rounded(fn, params, split, config.input_bits)
            return {"accuracy": measures.accuracy(run, params, made.dataset.test)}

        accuracy = float(made.run.stage(f"{name}-accuracy", rounded)["accuracy"])
    certified = made.run.stage(
        f"{name}-certify",
        lambda: measures.certify(fn, params, made.dataset.test, config),
    )
    stored = {
        path: measures.stored_bits(kernel, bits) / 8
        for path, kernel in zip(*trees.flatten(params)[:2], strict=True)
        if path in sizes
    }
    densities = {path: left[path] / sizes[path] for path in sizes}
    cost = made.run.stage(
        f"{name}-price",
        lambda: measures.price(
            fn, params, densities, config.batch, formats=formats, share=config.share
        ),
    )
    return Shaped(accuracy, sizes, left, stored, certified, cost)
