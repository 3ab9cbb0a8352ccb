"""Paired differences and the rules that judge them; smaller images."""

import math

import numpy as np
import pytest

from core.errors import InputError
from experiments.data import Split
from experiments.differences import difference
from experiments.images import shrunk


def test_a_difference_is_paired_by_seed():
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(2, 5))
    found = difference(left, right)
    gaps = left - right
    assert found.mean == pytest.approx(gaps.mean())
    assert found.error == pytest.approx(gaps.std(ddof=1) / math.sqrt(5))
    # The spread of seeds that both sides share is no error of the difference.
    assert difference(left + 1, left).error == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(InputError, match="same seeds"):
        difference([1.0], [1.0, 2.0])


@pytest.mark.parametrize(
    ("mean", "at_least", "better"),
    [(-1.1, False, False), (-0.9, True, False), (1.9, True, False), (2.1, True, True)],
)
def test_rules_count_standard_errors(mean, at_least, better):
    spread = math.sqrt(3)  # of three seeds, so that the standard error is 1
    found = difference([mean - spread, mean, mean + spread], [0.0] * 3)
    assert found.error == pytest.approx(1.0)
    assert (found.at_least(), found.better()) == (at_least, better)
    assert (found.at_least(False), found.better(False)) == (None, None)


def test_few_seeds_are_not_judged_and_lost_runs_do_not_hold():
    for few in (difference([9.0], [1.0]), difference([9.0, 9.1], [1.0, 1.0])):
        assert (few.at_least(), few.better()) == (None, None)
    assert difference([9.0], [1.0]).text == "one seed"
    lost = difference([9.0, math.nan, 9.0], [1.0] * 3)
    assert (lost.at_least(), lost.better()) == (False, False)


def test_shrinking_takes_means_of_squares_and_rounds_halves_up():
    images = np.arange(32, dtype=np.uint8).reshape(1, 4, 4, 2) * 7
    labels = np.zeros(1, np.int32)
    out = shrunk(Split(images, labels), 2).images
    expected = images.reshape(1, 2, 2, 2, 2, 2).astype(float).mean((2, 4))
    np.testing.assert_array_equal(out, np.floor(expected + 0.5))
    half = np.array([0, 1, 0, 1], np.uint8).reshape(1, 2, 2, 1)
    assert shrunk(Split(half, labels), 2).images.item() == 1
    assert shrunk(Split(images, labels), 1).images is images
    with pytest.raises(InputError, match="divisor of 4 and 4"):
        shrunk(Split(images, labels), 3)
