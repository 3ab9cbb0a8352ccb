"""Claims of "at least equal" by a stated margin."""

import math

import numpy as np
import pytest

from experiments.differences import EQUAL, MARGIN_RULES, difference, lead_row, within


def lead(mean, error, seeds=3):
    """Paired differences of a mean and a standard error."""
    spread = error * math.sqrt(seeds * (seeds - 1) / 2)
    gaps = np.zeros(seeds) + mean
    gaps[:2] += [spread, -spread]
    found = difference(gaps, np.zeros(seeds))
    assert found.error == pytest.approx(error)
    return found


@pytest.mark.parametrize(
    ("mean", "error", "holds"),
    [
        (-0.4, 0.01, True),  # lower, but within what counts as equal
        (-0.4, 5.0, True),
        (-0.6, 0.2, False),
        (-0.6, 0.4, None),  # the seeds cannot tell
        (2.0, 0.1, True),
        (math.nan, 0.1, False),
    ],
)
def test_what_is_lower_by_the_margin_and_by_two_errors_does_not_hold(
    mean, error, holds
):
    found = lead(0.0, error)._replace(mean=mean)
    assert found.not_worse() is holds
    row = lead_row("accuracy", "here", found, EQUAL)
    assert (row.metric, row.holds) == (f"accuracy ({EQUAL})", holds)
    assert found.not_worse(judged=False) is None


def test_the_margin_is_what_counts_as_equal_on_the_data():
    """On MNIST, where networks reach 98 %, 0.4 points less are no tie."""
    found = lead(-0.4, 0.01)
    row = lead_row("accuracy", "here", found, EQUAL, margin=0.1)
    assert (row.metric, row.holds) == (f"accuracy ({within(0.1)})", False)
    kept = lead_row("accuracy", "here", found, EQUAL)
    assert kept.holds is True
    assert kept.setting.endswith("lower by more than two s.e.")
    unclear = lead_row("accuracy", "here", lead(-0.4, 0.3), EQUAL)
    assert "lower" not in unclear.setting


def test_exact_ties_are_not_refused():
    """Minus one standard error refuses one in five of them."""
    draws = np.random.default_rng(0).normal(size=(2_000, 3)) * 0.5
    found = [difference(row, np.zeros(3)) for row in draws]
    assert np.mean([f.at_least() is False for f in found]) > 0.15
    assert np.mean([f.not_worse() is False for f in found]) < 0.05


def test_other_rules_are_as_they_were():
    better = lead_row("accuracy", "here", lead(0.5, 0.1), "better")
    assert (better.metric, better.holds) == ("accuracy (better)", True)
    assert lead_row("accuracy", "here", lead(0.5, 0.1)).holds is None
    for few in (difference([9.0], [1.0]), difference([9.0, 9.1], [1.0, 1.0])):
        assert few.not_worse() is None
    assert EQUAL.capitalize() in MARGIN_RULES
