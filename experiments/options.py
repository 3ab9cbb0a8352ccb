"""Options of an experiment: one frozen dataclass is its config and its flags.

    @dataclasses.dataclass(frozen=True)
    class Config:
        rho: float = option(1e-3, "penalty at the start", low=0.0, low_open=True)
        epochs: int = option(20, "length of training", unit="epochs", low=1)
        keep: tuple[float, ...] = option((0.04, 0.07), "kept in each layer", high=1.0)

Every field becomes an absl flag of its name. A value comes from the flag where it
was given, else from the mode's preset, else from the field's default; wherever it
comes from it is checked against the field's range.
"""

import dataclasses
import functools
import math
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from absl import flags

from core.errors import InputError, describe, nearest, unknown_name

_KINDS: dict[Any, tuple[type, bool]] = {
    int: (int, False),
    float: (float, False),
    bool: (bool, False),
    str: (str, False),
    tuple[int, ...]: (int, True),
    tuple[float, ...]: (float, True),
    tuple[str, ...]: (str, True),
}


@dataclasses.dataclass(frozen=True)
class Option:
    """What one field of a config may hold, and how a person writes it.

    Attributes:
      name: the field's and the flag's name.
      kind: int, float, bool or str.
      many: whether the value is a tuple of `kind` (a comma list as text).
      default: the value where nobody gave another.
      help: one phrase.
      unit: of the number, for help.
      low: smallest number allowed, or None.
      high: largest number allowed, or None.
      low_open: whether `low` itself is excluded.
      choices: all values allowed, or None.
    """

    name: str
    kind: type
    many: bool
    default: Any
    help: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    low_open: bool = False
    choices: tuple[Any, ...] | None = None

    def parse(self, text: str) -> Any:
        """Returns the checked value that `text` writes.

        Args:
          text: as on the command line; comma-separated where `many`.

        Raises:
          InputError: not of the kind, or outside of the range.
        """
        if not self.many:
            return self.check(self._word(text))
        words = [word.strip() for word in text.split(",") if word.strip()]
        return self.check(tuple(self._word(word) for word in words))

    def check(self, value: Any) -> Any:
        """Returns `value` in the field's type.

        Args:
          value: a Python value, from a preset or already parsed.

        Raises:
          InputError: not of the kind, or outside of the range.
        """
        if not self.many:
            return self._check(value)
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise self._error(value)
        checked = tuple(self._check(item) for item in value)
        if self.choices and len(set(checked)) < len(checked):
            twice = next(item for item in checked if checked.count(item) > 1)
            found = describe(f"{twice} twice", f"{self.expected()}, each once")
            raise InputError(f"--{self.name}: {found}")
        return checked

    def show(self, value: Any) -> str:
        """Returns `value` as the command line takes it."""
        if self.many:
            return ",".join(str(item) for item in value)
        return str(value).lower() if self.kind is bool else str(value)

    def expected(self) -> str:
        """Returns what a value must be, in words."""
        if self.choices:
            start = "a comma list of any of " if self.many else "one of "
            return start + ", ".join(map(str, self.choices))
        if self.kind is bool:
            return "true or false"
        if self.kind is str:
            return "a comma list" if self.many else "text"
        show = "{:.0f}".format if self.kind is int else "{:g}".format
        sign = ">" if self.low_open else ">="
        low = "" if self.low is None else f"{sign} {show(self.low)}"
        high = "" if self.high is None else f"<= {show(self.high)}"
        noun = "integer" if self.kind is int else "number"
        noun = f"comma list of {noun}s" if self.many else noun
        article = "an" if noun[0] == "i" else "a"
        return f"{article} {noun} {' and '.join(filter(None, (low, high)))}".rstrip()

    def _word(self, word: str) -> Any:
        try:
            if self.kind is int and not word.lstrip("+-").isdigit():
                number = float(word)  # 6e4 is an integer too
                return int(number) if number.is_integer() else number
            if self.kind is bool:
                return {"true": True, "false": False}[word.lower()]
            return self.kind(word)
        except (ValueError, OverflowError, KeyError):
            raise self._error(word) from None

    def _check(self, value: Any) -> Any:
        whole = isinstance(value, int) and not isinstance(value, bool)
        fits = whole or isinstance(value, float) if self.kind is float else whole
        if not (fits if self.kind in (int, float) else isinstance(value, self.kind)):
            raise self._error(value)
        if self.choices is not None and value not in self.choices:
            raise self._error(value)
        if self.kind in (int, float) and not self._in_range(value):
            raise self._error(value)
        return self.kind(value)

    def _in_range(self, value: float) -> bool:
        if self.kind is float:
            try:
                value = float(value)
            except OverflowError:  # an integer that no float holds
                return False
            if not math.isfinite(value):
                return False
        low = self.low is None or value >= self.low
        high = self.high is None or value <= self.high
        return low and high and not (self.low_open and value == self.low)

    def _error(self, value: Any) -> InputError:
        words = map(str, self.choices or ()) if self.kind is str else ()
        near = nearest(str(value), words, 1)
        remedy = f"Did you mean {near[0]}?" if near else ""
        return InputError(f"--{self.name}: {describe(value, self.expected(), remedy)}")


def option(
    default: Any,
    help: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    low_open: bool = False,
    choices: Iterable[Any] | None = None,
) -> Any:
    """Returns a dataclass field that is also a flag.

    Args:
      default: int, float, bool, str, or a tuple of one of int, float and str.
      help: one phrase for `--help`.
      unit: of the number, for `--help`: 'epochs', 'seconds', ...
      low: smallest number allowed, or None.
      high: largest number allowed, or None.
      low_open: whether `low` itself is excluded.
      choices: all values allowed, or None.

    Returns:
      A `dataclasses.field`; the field's annotation says its kind.
    """
    about = {
        "help": help,
        "unit": unit,
        "low": low,
        "high": high,
        "low_open": low_open,
        "choices": None if choices is None else tuple(choices),
    }
    return dataclasses.field(default=default, metadata={"option": about})


@functools.cache
def check_filled(config: object, *names: str) -> None:
    """Raises `InputError` where one of these options, a list, is empty."""
    for name in names:
        if not getattr(config, name):
            raise InputError(f"--{name}: {describe('nothing', 'at least one')}")


def check_length(config: object, name: str, *meanings: str) -> None:
    """Raises `InputError` unless an option, a list, has a number for each meaning."""
    given = getattr(config, name)
    if len(given) != len(meanings):
        count = ("no", "one", "two", "three", "four")[len(meanings)]
        wanted = f"{count} numbers: {', '.join(meanings)}"
        raise InputError(f"--{name}: {describe(','.join(map(str, given)), wanted)}")


def options_of(config_cls: type) -> dict[str, Option]:
    """Returns the options of a config class, by name, in the order of its fields.

    Args:
      config_cls: a dataclass whose fields are all made by `option`.

    Raises:
      TypeError: a field that is no option, or an annotation that no flag can hold.
    """
    hints = typing.get_type_hints(config_cls)
    found = {}
    for field in dataclasses.fields(config_cls):
        where = f"{config_cls.__name__}.{field.name}"
        if "option" not in field.metadata:
            raise TypeError(f"{where} is not made by option(...)")
        if hints[field.name] not in _KINDS:
            raise TypeError(f"{where}: no flag holds a {hints[field.name]}")
        kind, many = _KINDS[hints[field.name]]
        found[field.name] = Option(
            field.name, kind, many, field.default, **field.metadata["option"]
        )
    return found


def define_flags(config_cls: type, flag_values: flags.FlagValues) -> None:
    """Defines one absl flag for each field of a config class.

    Args:
      config_cls: a dataclass of options.
      flag_values: where to; nothing is defined globally.
    """
    for name, item in options_of(config_cls).items():
        if item.kind is bool:
            flags.DEFINE_boolean(name, None, item.help, flag_values=flag_values)
        else:
            flags.DEFINE_string(name, None, item.help, flag_values=flag_values)


def given_flags(config_cls: type, flag_values: flags.FlagValues) -> dict[str, Any]:
    """Returns the fields that the command line gave, as `build` takes them."""
    names = options_of(config_cls)
    return {n: flag_values[n].value for n in names if flag_values[n].present}


def build(
    config_cls: type,
    mode_overrides: Mapping[str, Any] | None = None,
    given: Mapping[str, Any] | None = None,
) -> Any:
    """Returns a checked config.

    Args:
      config_cls: a dataclass of options.
      mode_overrides: values of the mode's preset, by field.
      given: values of explicit flags, by field, as text or as Python values; they
        go before the preset's.

    Returns:
      An instance of `config_cls`.

    Raises:
      InputError: a value of the wrong kind or outside of its range.
      UnknownNameError: a name that is no field of the config.
    """
    options = options_of(config_cls)
    values: dict[str, Any] = {name: item.default for name, item in options.items()}
    for name, value in {**(mode_overrides or {}), **(given or {})}.items():
        if name not in options:
            raise unknown_name("option", name, options)
        values[name] = value
    return config_cls(**{n: _value(options[n], v) for n, v in values.items()})


def _value(item: Option, value: Any) -> Any:
    text = isinstance(value, str) and (item.many or item.kind is not str)
    return item.parse(value) if text else item.check(value)
