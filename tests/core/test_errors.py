import pytest

from core import errors


@pytest.mark.parametrize(
    ("value", "kw"),
    [
        (-0.1, {"low": 0}),
        (1.1, {"high": 1}),
        (0.0, {"low": 0, "low_open": True}),
        (float("nan"), {}),
        (float("nan"), {"low": 0, "high": 1}),
    ],
)
def test_out_of_range_says_given_and_expected(value, kw):
    with pytest.raises(errors.InputError, match=r"ratio: got .*; expected a number"):
        errors.check_range("ratio", value, **kw)


def test_bounds_are_inside():
    errors.check_range("ratio", 0.0, 0, 1)
    errors.check_range("ratio", 1.0, 0, 1)


def test_unknown_name_lists_the_nearest():
    e = errors.unknown_name("experiment", "adm_pruning", ["admm_pruning", "zzz"])
    assert isinstance(e, errors.LatheError)
    assert "admm_pruning" in str(e)
    assert "zzz" not in str(e)
    many = [f"n{i}_admm" for i in range(20)]
    assert "n0_admm, n10_admm, n11_admm?" in str(errors.unknown_name("x", "admm", many))
    assert "look there" in str(errors.unknown_name("x", "zz", many, "look there"))


def test_user_errors_are_also_the_builtin_kind():
    assert issubclass(errors.InputError, ValueError)
    assert issubclass(errors.UnknownNameError, LookupError)
