"""A training phase as a stage: what is watched, how often, and what comes back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import admm_pruning
from experiments.data import Split
from experiments.pruning.fit import fit
from experiments.training import TrainState
from experiments.workdir import Run

SPLIT = Split(np.zeros((2, 1)), np.zeros(2, np.int32))


def epoch(state, split, key):
    """Adds 1 to the only parameter."""
    del split, key
    params = jax.tree.map(lambda w: w + 1, state.params)
    return state._replace(params=params), {"loss": params["w"]}


def trained(folder, watch, epochs=3, **options):
    run = Run(
        folder, experiment="admm_pruning", config=admm_pruning.Config(), mode="quick"
    )
    state = TrainState(jnp.int32(0), {"w": jnp.float32(0)}, {}, ())
    with run:
        return fit(
            run, "part", state, epoch, SPLIT, epochs, key=jax.random.key(0),
            watch=watch, finish=lambda s: {"end": float(s.params["w"])}, **options,
        )  # fmt: skip


@pytest.mark.parametrize(("every", "times"), [(True, [1, 2, 3]), (False, [3])])
def test_each_state_is_watched_once(tmp_path, every, times):
    seen = []

    def watch(state):
        seen.append(int(state.params["w"]))
        return {"double": 2 * state.params["w"]}

    state, result = trained(tmp_path, watch, every=every)
    assert float(state.params["w"]) == 3
    assert seen == times
    # What was watched of the last state, and no metric of training.
    assert result == {"double": 6.0, "end": 3.0}


def test_a_stage_that_stopped_before_its_result_is_watched_again(tmp_path):
    whole = trained(tmp_path, lambda s: {"double": 2 * s.params["w"]})[1]
    (tmp_path / "stages" / "part.json").unlink()
    again = trained(tmp_path, lambda s: {"double": 2 * s.params["w"]})[1]
    assert again == whole
