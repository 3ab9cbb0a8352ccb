"""The training loop that every experiment runs: one jitted scan per epoch.

Data lie on the device as uint8; permutation, augmentation, normalisation, the step
and its metrics all run there, and nothing returns to the host before the epoch ends.
The same code trains on one device and on all local ones.

| name | what it is |
|---|---|
| `TrainState` | step, parameters, model state, optimizer state |
| `init_state`, `restart`, `copy_state` | make one, give it a new optimizer, keep one |
| `make_epoch` | epoch(state, split, key) -> (state, metrics), donates `state` |
| `make_train_step` | the step inside, for loops of one's own |
| `make_evaluate` | accuracy and loss of every example |
| `check_metrics` | metrics as floats, or `NonFiniteError` |
| `put`, `data_mesh` | a split on the device, a mesh over all local devices |
| `crop_and_flip` | the augmentation of CIFAR |

    model, optimizer = create("lenet5"), optax.adam(1e-3)
    state = init_state(model, optimizer, jax.random.key(0), (28, 28, 1))
    data = {"mean": dataset.mean, "std": dataset.std}
    epoch = make_epoch(model, optimizer, batch_size=128, **data)
    evaluate = make_evaluate(model, batch_size=500, **data)
    train, test = put(dataset.train), put(dataset.test)
    for i in range(5):
        state, metrics = epoch(state, train, jax.random.key(i))
        shown = check_metrics(metrics, stage="dense", epoch=i)
    accuracy = evaluate(state.params, state.model_state, test)["accuracy"]
"""

from experiments.training.augment import crop_and_flip
from experiments.training.devices import data_mesh, put
from experiments.training.epoch import make_epoch, make_evaluate
from experiments.training.state import (
    TrainState,
    check_metrics,
    copy_state,
    init_state,
    restart,
)
from experiments.training.step import cross_entropy, l2_penalty, make_train_step

__all__ = [
    "TrainState",
    "check_metrics",
    "copy_state",
    "crop_and_flip",
    "cross_entropy",
    "data_mesh",
    "init_state",
    "l2_penalty",
    "make_epoch",
    "make_evaluate",
    "make_train_step",
    "put",
    "restart",
]
