"""Named constants of targets: value, unit, where it comes from."""

import dataclasses
import functools
import math
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import numpy as np

from core.errors import InputError, describe, unknown_name
from core.text import columns

Origin = Literal["published", "remembered", "derived", "fitted", "chosen", "design"]
"""Printed somewhere; quoted from memory; arithmetic on what is printed; fitted to a
measurement or to a published row; our own estimate; what a designer decides."""
T = TypeVar("T")
_NOT_VALIDATED = "not validated: no published row was predicted with it"


class Given(NamedTuple):
    """The value of a constant and where it comes from.

    Attributes:
      value: a number, or an array of numbers.
      origin: how far to trust it.
      source: paper, data sheet or reasoning.
    """

    value: Any
    origin: Origin
    source: str


class Constant(NamedTuple):
    """A row of `constants`."""

    name: str
    value: Any
    unit: str
    meaning: str
    origin: str
    source: str
    most: float


class Provenance:
    """What a target is called and where its constants come from.

    All are equal, so that targets of a class share what is compiled and can be stacked:
    nothing here decides a cost. Within `jit` it may be that of another target.

    Attributes:
      name: of the target.
      origins: name, origin and source of each constant.
      validated: by which published rows that no constant was fitted to, and how far
        off those are; '' by none.
    """

    def __init__(
        self, name: str, origins: tuple[tuple[str, str, str], ...], validated: str
    ):
        self.name, self.origins, self.validated = name, origins, validated

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Provenance)

    def __hash__(self) -> int:
        return hash(Provenance)


def unit(text: str, meaning: str, most: float = math.inf) -> Any:
    """Returns a field of a target: a constant with a unit ('1' if it has none).

    Args:
      text: the unit.
      meaning: in a few words.
      most: the largest value that makes sense: 1 for a share.
    """
    return dataclasses.field(metadata={"unit": text, "meaning": meaning, "most": most})


def target(*meta: str):
    """Returns a decorator that makes a class of targets: a pytree of its constants.

    Args:
      *meta: fields that are no constants but decide the structure, static under jit.
    """

    def decorate(cls: type[T]) -> type[T]:
        made = dataclasses.dataclass(frozen=True, eq=False, kw_only=True)(cls)
        names = [f.name for f in dataclasses.fields(made)]  # type: ignore[arg-type]
        static = ("provenance", *meta)
        data = [n for n in names if n not in static]
        register = functools.partial(
            jax.tree_util.register_dataclass, data_fields=data, meta_fields=static
        )
        return register(made)

    return decorate


def make(
    cls: type[T], name: str, given: dict[str, Given], validated: str = "", **meta: Any
) -> T:
    """Returns a target of a class.

    Args:
      cls: decorated with `target`.
      name: of the target.
      given: a value and its source for each constant.
      validated: by which published rows and with what outcome, '' by none.
      **meta: its static fields.

    Raises:
      InputError: a constant that is missing, or one that the class does not have.
    """
    wanted = {f.name for f in dataclasses.fields(cls) if "unit" in f.metadata}  # type: ignore[arg-type]
    if wanted != set(given):
        wrong = sorted(wanted ^ set(given))
        raise InputError(
            f"{name}: {describe(f'constants without {wrong}', f'{sorted(wanted)}')}"
        )
    values = {key: _plain(each.value) for key, each in given.items()}
    origins = tuple((key, each.origin, each.source) for key, each in given.items())
    made = Provenance(name, origins, validated)
    return cls(provenance=made, **values, **meta)  # type: ignore[call-arg]


def replace(
    item: T,
    origin: Origin = "design",
    source: str = "",
    name: str | None = None,
    **values: Any,
) -> T:
    """Returns a target with other constants, and where they come from.

    What validated the old constants says nothing of the new ones.

    Args:
      item: any target.
      origin: of the new values.
      source: of the new values.
      name: of the new target; that of the old one by default.
      **values: by the constant's name; a static field may be given too.

    Raises:
      UnknownNameError: no such constant.
    """
    fields = {f.name: f for f in dataclasses.fields(item)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise unknown_name("constant", key, fields)
    changed = {k for k in values if "unit" in fields[k].metadata}
    old: Provenance = item.provenance  # type: ignore[attr-defined]
    origins = tuple(
        (key, origin, source) if key in changed else (key, before, text)
        for key, before, text in old.origins
    )
    validated = "" if changed else old.validated
    made = Provenance(name or old.name, origins, validated)
    values = {k: _plain(v) if k in changed else v for k, v in values.items()}
    return dataclasses.replace(item, provenance=made, **values)  # type: ignore[type-var]


def with_values(item: T, values: dict[str, Any]) -> T:
    """Returns a target with other values, such as tracers; where they are from stays.

    Args:
      item: any target.
      values: by the constant's name.
    """
    return dataclasses.replace(item, **values)  # type: ignore[type-var]


def constants(item: Any) -> list[Constant]:
    """Returns every constant of a target with its unit and source."""
    origins = {key: (kind, text) for key, kind, text in item.provenance.origins}
    return [
        Constant(
            f.name,
            getattr(item, f.name),
            f.metadata["unit"],
            f.metadata["meaning"],
            *origins[f.name],
            f.metadata["most"],
        )
        for f in dataclasses.fields(item)
        if "unit" in f.metadata
    ]


def constants_table(item: Any) -> str:
    """Returns the constants as a table of text, and what validates them."""
    rows = [("constant", "value", "unit", "origin", "source")]
    for each in constants(item):
        value = np.asarray(each.value)
        text = f"{value:g}" if value.ndim == 0 else " ".join(f"{v:g}" for v in value)
        rows.append((each.name, text, each.unit, each.origin, each.source))
    good = item.provenance.validated
    return f"{columns(rows)}\n{f'compared with {good}' if good else _NOT_VALIDATED}"


def _plain(value: Any) -> Any:
    """Python floats stay; sequences become float32 arrays, one leaf each."""
    if isinstance(value, tuple | list | np.ndarray):
        return np.asarray(value, np.float32)
    return float(value) if isinstance(value, int | float) else value
