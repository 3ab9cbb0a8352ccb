"""`python launch.py toy --mode=quick`: a second; rows of a made-up claim.

A tiny experiment for tests of the front door: gradient descent on a quadratic, in
stages, with checkpoints and metrics; it is also a script of its own.
"""

import dataclasses
import time
from functools import partial

from experiments import cli
from experiments.options import option
from experiments.registry import Experiment, Mode, Paper
from experiments.results import Figure, Outcome, Row, Series


@dataclasses.dataclass(frozen=True)
class Config:
    """Options."""

    rate: float = option(0.1, "learning rate", low=0.0, high=1.0, low_open=True)
    steps: int = option(12, "length of training", unit="steps", low=1)
    layers: tuple[int, ...] = option((3, 2), "sizes", low=1)
    verbose: bool = option(False, "say more")
    rule: str = option("plain", "update rule", choices=("plain", "momentum"))
    sleep: float = option(0.0, "pause after each step", unit="seconds", low=0.0)
    fail: str = option("", "raise this kind of error")


def _fail(kind):
    from core.errors import DataUnavailableError

    if kind == "user":
        raise DataUnavailableError("got no data;\nexpected some. Try mnist_5k")
    if kind == "bug":
        raise ZeroDivisionError("a bug")
    if kind == "interrupt":
        raise KeyboardInterrupt


def _descend(run, config, seed, rate, name):
    import jax
    import jax.numpy as jnp

    @jax.jit
    def step_once(state):
        key, noise = jax.random.split(state["key"])
        noise = jax.random.normal(noise, (config.layers[0],))
        x = state["x"] - rate * (2 * state["x"] + 0.1 * noise)
        return {"key": key, "x": x, "none": None}

    start = jax.random.normal(jax.random.key(seed), (config.layers[0],))
    state = {"key": jax.random.key(seed), "x": start, "none": None}
    step, checkpoints = 0, run.checkpoints(name)
    if found := checkpoints.restore(state):
        step, state = found
    with run.progress(name, config.steps, initial=step) as bar:
        while step < config.steps:
            state = step_once(state)
            step += 1
            with (run.dir / "executed.log").open("a") as file:
                file.write(f"{name} {step}\n")
            loss = jnp.sum(state["x"] ** 2)
            run.log(name, step, loss=loss, seed=seed)
            bar.update(1, loss=loss)
            checkpoints.save(step, state, force=step == config.steps)
            time.sleep(config.sleep)
    return {"loss": jnp.sum(state["x"] ** 2), "x": state["x"]}


def run(run, config):
    """Two stages for each seed."""
    _fail(config.fail)
    rows, curves = [], []
    for seed in run.seeds:
        for kind, rate in (("slow", config.rate / 2), ("fast", config.rate)):
            name = f"{kind}-s{seed}"
            found = run.stage(name, partial(_descend, run, config, seed, rate, name))
            rows.append(Row("loss", name, found["loss"], paper=0.0, holds=True))
            curves.append(Series(name, range(3), found["x"][:3]))
    figure = Figure("weights", "line", "index", "weight", curves)
    return Outcome(rows, [figure], ["a note"])


EXPERIMENT = Experiment(
    name="toy",
    paper=Paper("toy2020", "Toys", ("Ada Lovelace", "Alan Turing"), 2020, "2001.00001"),
    claim="Descent descends.",
    config=Config,
    modes={
        "quick": Mode(0.1, {"steps": 6}),
        "full": Mode(1, {"steps": 40}, seeds=(0, 1)),
    },
    data=("none (made up)",),
    run=run,
)

if __name__ == "__main__":
    cli.main(EXPERIMENT)
