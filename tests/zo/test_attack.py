"""Attacks on a linear network, where the least change is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zo
from core.errors import InputError, ShapeError
from tests.relaxed import relaxed
from zo import attack

SHAPE = (3, 4, 1)
W = jnp.asarray(np.random.default_rng(0).normal(size=(12, 3)), jnp.float32)
IMAGES = jnp.asarray(np.random.default_rng(1).uniform(0.3, 0.7, (4, *SHAPE)), "float32")


def logits(images):
    return images.reshape(len(images), -1) @ W


LABELS = logits(IMAGES).argmax(-1)


def sgd(rate=0.05, **options):
    found = zo.zo_sgd(rate, samples=4, **{"mu": 0.01, **options})
    return zo.Optimizer(found.estimator, relaxed(found.transform))


def l2_of(image, label):
    """The distance to the nearest other class, without a box."""
    scores = np.asarray(logits(image[None])[0])
    gaps = [
        (scores[label] - scores[j]) / np.linalg.norm(W[:, label] - W[:, j])
        for j in range(3)
        if j != label
    ]
    return min(gaps)


@functools.cache
def attacked(threat, budget=600):
    def one(key, image, label):
        return attack.logit_attack(
            key, logits, image, label, sgd(), budget=budget, threat=threat
        )

    labels = (LABELS + 1) % 3 if threat.targeted else LABELS
    keys = jax.random.split(jax.random.key(0), 4)
    return labels, jax.jit(jax.vmap(one))(keys, IMAGES, labels)


@pytest.mark.parametrize("targeted", [False, True])
def test_attacks_from_logits(targeted):
    threat = attack.Threat(targeted=targeted, distance=0.01)
    labels, found = attacked(threat)
    classes = logits(found.images).argmax(-1)
    wrong = (classes == labels) if targeted else (classes != labels)
    assert found.success.all()
    np.testing.assert_array_equal(wrong, found.success)
    assert found.images.shape == IMAGES.shape
    assert 0 <= found.images.min() <= found.images.max() <= 1
    np.testing.assert_array_equal(found.first, found.queries)
    assert found.queries.max() <= 600
    assert set(np.asarray(found.queries) % 9) == {1}  # 1, and 8 + 1 a step
    change = np.asarray(found.images - IMAGES).reshape(4, -1)
    np.testing.assert_allclose(
        found.l2[:, 0], np.linalg.norm(change, axis=1), rtol=1e-4
    )
    np.testing.assert_allclose(found.linf[:, 0], np.abs(change).max(1), rtol=1e-5)
    if not targeted:
        least = [l2_of(x, int(y)) for x, y in zip(IMAGES, LABELS, strict=True)]
        assert np.all(np.asarray(found.l2[:, 0]) >= np.asarray(least) * 0.999)


def test_changes_stay_within_the_radius_and_budgets_are_kept():
    threat = attack.Threat(radius=1e-3)
    _, found = attacked(threat, 100)
    assert not found.success.any()
    assert np.all(found.first == -1)
    assert np.all(found.queries == 100)  # 1 + 11 steps of 9
    assert found.linf.max() <= 1.001e-3


def test_a_network_that_is_wrong_takes_one_query():
    found = attack.logit_attack(
        jax.random.key(0),
        logits,
        IMAGES[0],
        (LABELS[0] + 1) % 3,
        sgd(),
        budget=50,
    )
    assert (bool(found.success), int(found.queries)) == (True, 1)
    np.testing.assert_array_equal(found.images, IMAGES[0])


def shown(calls, images):
    """The network, counting images that it is shown."""
    count = len(images)
    jax.debug.callback(lambda _: calls.append(count), images[0, 0, 0, 0])
    return logits(images)


def test_universal_changes_and_what_they_cost():
    calls = []
    images, labels = IMAGES[:2], LABELS[:2]
    b = 2

    @jax.jit
    def run(key):
        network = functools.partial(shown, calls)
        return attack.logit_attack(key, network, images, labels, sgd(), budget=300 * b)

    found = run(jax.random.key(0))
    jax.effects_barrier()
    assert found.success
    assert found.fraction == 1
    assert sum(calls) == found.queries <= 300 * b
    change = found.images - images
    inside = (found.images > 0).all(0) & (found.images < 1).all(0)
    spread = jnp.where(inside, jnp.ptp(change, axis=0), 0)
    assert spread.max() < 1e-6  # one change for all


@pytest.mark.parametrize("targeted", [False, True])
def test_attacks_from_decisions(targeted):
    calls = []
    label = (LABELS[0] + 1) % 3 if targeted else LABELS[0]
    start = jnp.ones((2, *SHAPE)) * jnp.asarray([0.0, 1.0]).reshape(2, 1, 1, 1)
    if targeted:
        push = (W[:, int(label)] - W.mean(1)).reshape(SHAPE)
        start = jnp.clip(IMAGES[:2] + 0.5 * push[None], 0, 1)
    threat = attack.Threat(targeted=targeted, low=-5.0, high=5.0)

    @jax.jit
    def run(key):
        return attack.decision_attack(
            key,
            lambda images: shown(calls, images).argmax(-1),
            IMAGES[0],
            label,
            sgd(0.05),
            budget=4_000,
            threat=threat,
            boundary=attack.Boundary(reach=20.0),
            towards=None if not targeted else start,
        )

    found = run(jax.random.key(0))
    jax.effects_barrier()
    wrong = logits(found.images[None]).argmax(-1)[0]
    assert (wrong == label) if targeted else (wrong != label)
    assert sum(calls) == found.queries <= 4_000
    least = l2_of(IMAGES[0], int(LABELS[0]))
    assert found.l2[0] >= 0.99 * least
    if not targeted:
        assert found.l2[0] < 1.7 * least


def test_a_decision_attack_ends_where_it_is_near_enough():
    run = functools.partial(
        attack.decision_attack,
        jax.random.key(0),
        lambda images: logits(images).argmax(-1),
        IMAGES[0],
        LABELS[0],
        sgd(0.02),
        budget=2_000,
        threat=attack.Threat(low=-5.0, high=5.0),
    )
    near = jax.jit(lambda: run(within=100.0))()
    assert near.success
    assert near.queries == near.first == 32 * 10 + 1  # the start alone
    assert near.l2[0] <= 100


def test_a_decision_attack_is_judged_by_the_image_in_the_box():
    """A long ray in a narrow box is an image that is nearer."""
    threat = attack.Threat(low=0.29, high=0.71)

    @jax.jit
    def run(key, within):
        return attack.decision_attack(
            key,
            lambda images: logits(images).argmax(-1),
            IMAGES[2],
            LABELS[2],
            sgd(0.01, mu=0.002),
            budget=700,
            threat=threat,
            boundary=attack.Boundary(starts=4),
            within=within,
        )

    keys = jax.random.split(jax.random.key(0), 8)
    start = jax.lax.map(lambda key: run(key, 100.0), keys)
    assert start.success.all()
    # Clipping has shortened what is shown: this is near enough, though no ray is.
    there = jax.lax.map(lambda each: run(*each), (keys, 1.001 * start.l2[:, 0]))
    assert there.success.all()
    assert np.all(there.queries == 4 * 10 + 1)
    within = 0.98 * start.l2[:, 0]
    found = jax.lax.map(lambda each: run(*each), (keys, within))
    np.testing.assert_array_equal(found.success, found.l2[:, 0] <= within)
    assert found.success.any()
    assert np.all(found.l2 <= start.l2)  # the nearest image that was seen


def test_the_first_success_of_a_decision_attack_is_counted():
    # Two images nearby of the same class, then one of another, farther than `reach`.
    push = (W[:, int(LABELS[1])] - W[:, int(LABELS[0])]).reshape(SHAPE)
    start = jnp.stack([IMAGES[0], IMAGES[0] + 1e-3, IMAGES[0] + 10 * push])
    assert logits(start).argmax(-1).tolist()[2] != int(LABELS[0])
    found = attack.decision_attack(
        jax.random.key(0),
        lambda images: logits(images).argmax(-1),
        IMAGES[0],
        LABELS[0],
        sgd(0.02),
        budget=1_000,
        threat=attack.Threat(low=-99.0, high=99.0),
        boundary=attack.Boundary(reach=0.1),
        towards=start,
    )
    assert found.success
    assert found.first == 1 + 2 * 10 + 2 < found.queries


def test_answers_that_are_no_numbers_are_no_success():
    for broken in (
        lambda images: jnp.nan * logits(images),
        lambda images: logits(images).at[:, 1].set(jnp.inf),
    ):
        found = attack.logit_attack(
            jax.random.key(0), broken, IMAGES[0], LABELS[0], sgd(), budget=28
        )
        assert (bool(found.success), int(found.first)) == (False, -1)
        assert found.failures == found.queries == 28


def test_success_is_by_the_margin():
    threat = attack.Threat(kappa=2.0)
    found = jax.jit(
        lambda key: attack.logit_attack(
            key, logits, IMAGES[0], LABELS[0], sgd(), budget=900, threat=threat
        )
    )(jax.random.key(0))
    assert found.success
    scores, label = np.asarray(logits(found.images[None])[0]), int(LABELS[0])
    assert scores[label] - np.delete(scores, label).max() <= -2.0
    for scores, label, holds in (
        ([0.0, 1.9], 0, False),
        ([0.0, 2.0], 0, True),
        ([0.0, 9.0], 7, False),
        ([0.0, 9.0], -1, False),
    ):
        found = threat.succeeds(jnp.asarray([scores]), jnp.asarray([label]))
        assert bool(found[0]) is holds


def test_margins():
    threat = attack.Threat(kappa=0.5)
    scores = jnp.asarray([[3.0, 1.0, 2.0], [0.0, 4.0, 1.0]])
    labels = jnp.asarray([0, 0])
    np.testing.assert_allclose(threat.margin(scores, labels), [1.0, -0.5])
    wanted = attack.Threat(targeted=True, kappa=9.0)
    np.testing.assert_allclose(wanted.margin(scores, labels), [-1.0, 4.0])


def test_bad_input_is_named():
    key, x, y = jax.random.key(0), IMAGES[0], LABELS[0]
    decide = lambda images: logits(images).argmax(-1)  # noqa: E731
    with pytest.raises(InputError, match="10 of one step"):
        attack.logit_attack(key, logits, x, y, sgd(), budget=9)
    with pytest.raises(InputError, match="of one step"):
        attack.decision_attack(key, decide, x, y, sgd(), budget=400)
    with pytest.raises(InputError, match="Take zo_sgd"):
        attack.decision_attack(key, decide, x, y, zo.zo_svrg(0.1), budget=9999)
    with pytest.raises(ShapeError, match="one image"):
        attack.decision_attack(key, decide, IMAGES, LABELS, sgd(), budget=9999)
    with pytest.raises(ShapeError, match="labels of"):
        attack.logit_attack(key, logits, IMAGES, y, sgd(), budget=99)
    for label in (-1, 3):
        with pytest.raises(InputError, match="classes, from 0"):
            attack.logit_attack(key, logits, x, label, sgd(), budget=99)
    with pytest.raises(InputError, match="integers"):
        attack.logit_attack(key, logits, x, jnp.float32(1), sgd(), budget=99)
    for image in (255 * x, x.at[0, 0, 0].set(jnp.nan)):
        with pytest.raises(InputError, match="the network's own range"):
            attack.logit_attack(key, logits, image, y, sgd(), budget=99)
    for options in ({"low": 1.0}, {"kappa": -1.0}, {"radius": 0.0}, {"distance": -1.0}):
        with pytest.raises(InputError):
            attack.Threat(**options)
    with pytest.raises(InputError, match="widen"):
        attack.Boundary(widen=1.0)


def test_svrg_attacks_within_its_budget():
    made = zo.zo_svrg(0.05, samples=4, period=5, mu=0.01)
    optimizer = zo.SVRG(
        made.estimator, relaxed(made.transform), snapshot=made.snapshot, period=5
    )
    threat = attack.Threat(radius=1e-3)

    @jax.jit
    def run(key):
        return attack.logit_attack(
            key, logits, IMAGES[0], LABELS[0], optimizer, budget=300, threat=threat
        )

    found = run(jax.random.key(0))
    # 1, and rounds of 24 + 5 (16 + 1): two are 218, then 24 and three steps of 17.
    assert found.queries == 1 + 2 * 109 + 24 + 3 * 17
