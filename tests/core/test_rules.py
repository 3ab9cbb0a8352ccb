import pytest
from hypothesis import given

from core import rules, trees
from core.errors import RuleError
from tests import strategies

TREE = {"fc1": {"kernel": 0, "bias": 0}, "fc2": {"kernel": 0, "bias": 0}}


def test_first_match_wins_and_none_means_untreated():
    specs = rules.match([("fc1/kernel", None), (".*/kernel", 0.5)], TREE)
    assert trees.by_path(specs) == {"fc2/kernel": 0.5}
    assert specs["fc1"]["kernel"] is None


def test_whole_paths_are_matched():
    with pytest.raises(RuleError):
        rules.match([("fc1", 0.5)], TREE)


def test_a_rule_without_a_leaf_lists_the_nearest_paths():
    with pytest.raises(RuleError, match=r"nearest paths are fc1/kernel") as e:
        rules.match([("fc1/kernle", 0.5)], TREE)
    assert "fc1/kernle" in str(e.value)


def test_a_later_rule_may_be_shadowed_but_must_match():
    specs = rules.match([(".*", 1), ("fc2/bias", 2)], TREE)
    assert set(trees.by_path(specs).values()) == {1}


@pytest.mark.parametrize("bad", [["fc1"], [("fc1", 1, 2)], [(1, 0.5)]])
def test_a_rule_is_a_pair(bad):
    with pytest.raises(RuleError, match="pair"):
        rules.match(bad, TREE)


def test_a_broken_expression_is_named():
    with pytest.raises(RuleError, match=r"'\*\.kernel'"):
        rules.match([("*.kernel", 0.5)], TREE)


@given(strategies.trees())
def test_a_catch_all_reaches_every_leaf(tree):
    specs = rules.match([(".*", "x")], tree)
    assert trees.paths(specs) == trees.paths(tree)
