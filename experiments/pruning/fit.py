"""One training phase as a stage of a run: resumable, logged, with a final state."""

import zlib
from collections.abc import Callable
from typing import Any

import jax

from core.errors import CheckpointError
from experiments.data import Split
from experiments.training import TrainState, check_metrics, copy_state
from experiments.training.epoch import Epoch
from experiments.workdir import Run

Watch = Callable[[TrainState], dict[str, jax.Array]]
"""Scalars of a state, on the device."""


BAR = ("accuracy", "train_loss")
"""What a progress bar shows: test accuracy in %, and the loss of the epoch."""


def stage_key(seed: int, stage: str) -> jax.Array:
    """Returns the random key of a stage, the same in every session."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(stage.encode()))


def fit(
    run: Run,
    stage: str,
    state: TrainState,
    epoch: Epoch,
    split: Split,
    epochs: int,
    *,
    key: jax.Array,
    watch: Watch,
    every: bool = True,
    finish: Callable[[TrainState], dict[str, Any]] = lambda state: {},
) -> tuple[TrainState, dict[str, Any]]:
    """Trains for `epochs` epochs, or takes what an earlier run trained.

    Args:
      run: the work folder.
      stage: name of the stage.
      state: where training starts; it stays usable.
      epoch: from `make_epoch`.
      split: the training data on the device.
      epochs: passes over the data, at least 1.
      key: of this stage; epoch `e` uses `fold_in(key, e)`.
      watch: what to log of the state after each epoch, and to return at the end.
      every: whether to watch each epoch; the last one alone if not.
      finish: more results of the stage, from its final state.

    Returns:
      The final state, and the stage's result: what `watch` and `finish` returned.

    Raises:
      NonFiniteError: training diverged.
      CheckpointError: the stage is finished but its final state was damaged.
    """
    checkpoints = run.checkpoints(stage)

    def train() -> dict[str, Any]:
        done, now = checkpoints.restore(state) or (0, copy_state(state))
        seen: dict[str, Any] | None = None
        with run.progress(stage, epochs, "epoch", initial=done) as bar:
            for e in range(done, epochs):
                now, metrics = epoch(now, split, jax.random.fold_in(key, e))
                metrics = {f"train_{name}": value for name, value in metrics.items()}
                last = e + 1 == epochs
                watched = watch(now) if every or last else {}
                shown = check_metrics(metrics | watched, stage=stage, epoch=e + 1)
                seen = {name: shown[name] for name in watched}
                run.log(stage, e + 1, **shown)
                checkpoints.save(e + 1, now, force=last)
                # All of them would not fit a line.
                bar.update(1, **{k: shown[k] for k in BAR if k in shown})
        if seen is None:  # an earlier run stopped right before the result
            seen = check_metrics(watch(now), stage=stage, epoch=epochs)
        return seen | finish(now)

    result = run.stage(stage, train)
    found = checkpoints.restore(state)
    if found is None:
        raise CheckpointError(
            f"stage {stage} is finished but the checkpoint of its result is damaged; "
            f"remove {run.dir / 'stages' / stage}.json to train it again"
        )
    return found[1], result
