"""Options: one dataclass is config, flags, ranges and help."""

import contextlib
import dataclasses

import pytest
from absl import flags
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InputError, LatheError, UnknownNameError
from experiments import options
from experiments.options import option


@dataclasses.dataclass(frozen=True)
class Config:
    rate: float = option(0.1, "rate", low=0.0, high=1.0, low_open=True)
    steps: int = option(10, "steps", unit="steps", low=1)
    on: bool = option(False, "on")
    rule: str = option("plain", "rule", choices=("plain", "momentum"))
    keep: tuple[float, ...] = option((0.5, 0.25), "keep", low=0.0, high=1.0)
    sizes: tuple[int, ...] = option((3,), "sizes", low=1)
    names: tuple[str, ...] = option((), "names")
    rules: tuple[str, ...] = option(("a",), "rules", choices=("a", "b"))
    rates: tuple[float, ...] = option((), "rates", choices=(12.0, 22.9))


def parsed(*argv):
    values = flags.FlagValues()
    options.define_flags(Config, values)
    values(["program", *argv])
    return options.given_flags(Config, values)


def test_defaults_presets_and_flags_in_that_order():
    preset = {"steps": 20, "rate": 0.2}
    assert options.build(Config) == Config()
    assert options.build(Config, preset) == Config(steps=20, rate=0.2)
    found = options.build(Config, preset, parsed("--steps=30", "--on"))
    assert found == Config(steps=30, rate=0.2, on=True)


def test_an_explicit_flag_wins_even_where_it_equals_the_default():
    assert options.build(Config, {"steps": 20}, parsed("--steps=10")).steps == 10
    assert options.build(Config, {"on": True}, parsed("--noon")).on is False


def test_lists_and_types():
    found = options.build(
        Config, None, parsed("--keep=1,0.5,1e-2", "--sizes=4, 5,", "--names=a,b")
    )
    assert found.keep == (1.0, 0.5, 0.01)
    assert all(type(value) is float for value in found.keep)
    assert found.sizes == (4, 5)
    assert found.names == ("a", "b")
    assert options.build(Config, {"keep": [1, 0]}).keep == (1.0, 0.0)
    assert type(options.build(Config, {"rate": 1}).rate) is float


def test_an_integer_may_be_written_with_an_exponent():
    assert options.build(Config, None, {"steps": "6e4"}).steps == 60_000


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("rate", "1.5", "> 0 and <= 1"),
        ("rate", "0", "> 0 and <= 1"),
        ("rate", "1" * 400, "> 0 and <= 1"),
        ("rules", "a,b,a", "a twice"),
        ("steps", "-" + "1" * 400, ">= 1"),
        ("rate", "nan", "number > 0"),
        ("rate", "x", "got x; expected a number > 0 and <= 1"),
        ("rate", True, "number"),
        ("steps", "1.5", "an integer >= 1"),
        ("steps", 2.0, "an integer"),
        ("steps", "inf", "an integer"),
        ("keep", "0.5,2", ">= 0 and <= 1"),
        ("keep", "0.5,x", "comma list of numbers"),
        ("keep", 0.5, "comma list of numbers"),
        ("rule", "momentun", "Did you mean momentum?"),
        ("on", "perhaps", "true or false"),
    ],
)
def test_wrong_values_are_named(name, value, words):
    for preset, flag in (({name: value}, {}), ({}, {name: value})):
        with pytest.raises(InputError) as caught:
            options.build(Config, preset, flag)
        assert str(caught.value).startswith(f"--{name}: ")
        assert words in str(caught.value)


def test_numbers_get_no_nearest_choice():
    with pytest.raises(InputError) as caught:
        options.build(Config, {"rates": (12.9,)})
    assert str(caught.value).endswith("any of 12.0, 22.9")


def test_unknown_names_come_with_the_nearest():
    with pytest.raises(UnknownNameError, match="step'; did you mean steps"):
        options.build(Config, {"step": 3})


@given(
    st.builds(
        Config,
        rate=st.floats(0, 1, exclude_min=True),
        steps=st.integers(1, 10**12),
        on=st.booleans(),
        rule=st.sampled_from(["plain", "momentum"]),
        keep=st.lists(st.floats(0, 1)).map(tuple),
        sizes=st.lists(st.integers(1, 10**6)).map(tuple),
    )
)
def test_what_show_writes_is_read_back(config):
    known = options.options_of(Config)
    texts = {name: item.show(getattr(config, name)) for name, item in known.items()}
    assert options.build(Config, None, texts) == config
    assert options.build(
        Config, None, parsed(*(f"--{k}={v}" for k, v in texts.items()))
    )


@given(
    st.text(max_size=12), st.sampled_from([f.name for f in dataclasses.fields(Config)])
)
def test_any_text_is_a_value_or_a_named_error(text, name):
    with contextlib.suppress(LatheError):
        assert isinstance(options.build(Config, None, {name: text}), Config)


def test_configs_that_cannot_be_flags_are_refused():
    @dataclasses.dataclass(frozen=True)
    class Plain:
        x: int = 3

    @dataclasses.dataclass(frozen=True)
    class Odd:
        x: complex = option(1j, "x")

    with pytest.raises(TypeError, match=r"Plain\.x"):
        options.options_of(Plain)
    with pytest.raises(TypeError, match=r"Odd\.x"):
        options.options_of(Odd)
