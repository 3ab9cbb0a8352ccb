"""Registry of experiments: what each one is, costs and needs.

An experiment is a module of this package with a module-level `EXPERIMENT`; its
name stands in `EXPERIMENTS` and the module is imported when it is asked for. The
list, the help, the README's table and the reports are made from these values, and
`check` is the contract that each of them fulfils.
"""

import dataclasses
import importlib
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from core.errors import LatheError, unknown_name
from experiments import options

if TYPE_CHECKING:
    from experiments.results import Outcome
    from experiments.workdir import Run

RUNS = "runs"
"""Folder of the default work folders."""


@dataclasses.dataclass(frozen=True)
class RunFlags:
    """The flags of every experiment; no option may take one of their names."""

    mode: str = options.option("quick", "sizes to run")
    workdir: str = options.option(
        "", f"work folder; empty means {RUNS}/NAME-MODE. A run that was stopped goes on"
    )
    seeds: tuple[int, ...] = options.option(
        (), "one repetition each; empty means the mode's", low=0, high=2**32 - 1
    )
    data_dir: str = options.option(
        "", "folder of prepared data sets; empty means the environment's TFDS_DATA_DIR"
    )
    checkpoint_secs: float = options.option(
        30.0, "least time between checkpoints", unit="seconds", low=0.0
    )


@dataclasses.dataclass(frozen=True)
class Paper:
    """A paper, as its citation needs it.

    Attributes:
      key: of the BibTeX entry.
      title: in full.
      authors: 'Given Family', in order.
      year: of publication.
      arxiv: identifier such as '1804.03294', or None.
      venue: conference or journal, or '' for a preprint.
      kind: BibTeX's word for the venue, 'inproceedings' or 'article'.
    """

    key: str
    title: str
    authors: tuple[str, ...]
    year: int
    arxiv: str | None = None
    venue: str = ""
    kind: str = "inproceedings"

    @property
    def url(self) -> str:
        """Where the paper is, or ''."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else ""

    def bibtex(self) -> str:
        """Returns the BibTeX entry."""
        fields = {
            "title": f"{{{self.title}}}",
            "author": " and ".join(self.authors),
            "year": str(self.year),
        }
        if self.venue:
            name = "journal" if self.kind == "article" else "booktitle"
            fields[name] = self.venue
        if self.arxiv:
            fields |= {"eprint": self.arxiv, "archivePrefix": "arXiv", "url": self.url}
        kind = self.kind if self.venue else "misc"
        lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
        return "\n".join([f"@{kind}{{{self.key},", *lines, "}"])


@dataclasses.dataclass(frozen=True)
class Mode:
    """A size at which an experiment runs.

    Attributes:
      minutes: expected time.
      overrides: option values that differ from the defaults, by name.
      device: what the time was measured on.
      seeds: seeds where the command line gives none.
    """

    minutes: float
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    device: str = "2 CPU cores"
    seeds: tuple[int, ...] = (0,)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One reproduced paper.

    Attributes:
      name: on the command line; also the module's name.
      paper: what it reproduces.
      claim: the paper's claim in one line.
      config: a frozen dataclass of options.
      modes: by name; 'quick' and 'full' at least.
      data: names of the data sets it may read.
      run: `run(run, config) -> Outcome`; every long part of it is a `run.stage`.
    """

    name: str
    paper: Paper
    claim: str
    config: type
    modes: Mapping[str, Mode]
    data: tuple[str, ...]
    run: Callable[["Run", Any], "Outcome"]

    def mode(self, name: str) -> Mode:
        """Returns the mode called `name`.

        Args:
          name: such as 'quick'.

        Raises:
          UnknownNameError: this experiment has no such mode.
        """
        if name not in self.modes:
            raise unknown_name(f"mode of {self.name}", name, self.modes)
        return self.modes[name]

    def reaches(
        self, config: Any, *names: str, mode: str = "full", **sizes: int
    ) -> bool:
        """Returns whether a run is as large as a mode at least, so that it is judged.

        Text has to be the same, numbers at least as large, lists entry by entry.

        Args:
          config: of the run.
          names: options that count.
          mode: such as 'full'.
          **sizes: what there is (such as images), by the option that the mode gives.
        """
        meant = options.build(self.config, self.mode(mode).overrides)
        given = {name: getattr(config, name) for name in names} | sizes
        return all(_reaches(v, getattr(meant, name)) for name, v in given.items())


def _reaches(given: Any, meant: Any) -> bool:
    if isinstance(meant, str):
        return given == meant
    if isinstance(meant, tuple):
        return len(given) == len(meant) and all(map(_reaches, given, meant))
    return given >= meant


ALL_SHOWN = "`python launch.py --list` shows all"
"""What to do about a name that nothing is near to."""


class Registry(Mapping[str, Experiment]):
    """Experiments by name, imported when they are asked for."""

    def __init__(self, modules: Mapping[str, str]):
        self._modules = dict(modules)

    def __getitem__(self, name: str) -> Experiment:
        found = importlib.import_module(self._modules[name]).EXPERIMENT
        if found.name != name:
            raise ValueError(
                f"{self._modules[name]} holds {found.name!r}, not {name!r}"
            )
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._modules

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._modules))

    def __len__(self) -> int:
        return len(self._modules)

    def add(self, name: str, module: str) -> None:
        """Registers the experiment of another package's module.

        Args:
          name: the experiment's.
          module: importable, with an `EXPERIMENT` of that name.
        """
        self._modules[name] = module


EXPERIMENTS = Registry(
    {
        name: f"experiments.{name}"
        for name in (
            "admm_pruning",
            "ant",
            "bcr",
            "beta_crown_sdp",
            "bitwidth",
            "capram",
            "ernn",
            "esb",
            "fpga_vs_mobile",
            "gap",
            "hge_attack",
            "hge_synthetic",
            "hw_tables",
            "lottery_ticket",
            "lpirc_mobilenet",
            "memristor",
            "progressive_admm",
            "quant_zoo",
            "s2ta",
            "shape_and_prove",
            "sp2_msq",
            "squant",
            "structured_admm",
            "trained_rank_pruning",
            "vnncomp",
            "zo_quant",
        )
    }
)


def get(name: str) -> Experiment:
    """Returns an experiment.

    Args:
      name: as in `EXPERIMENTS`.

    Raises:
      UnknownNameError: no such experiment; the message has the nearest names.
    """
    if name not in EXPERIMENTS:
        raise unknown_name("experiment", name, EXPERIMENTS, ALL_SHOWN)
    return EXPERIMENTS[name]


def command(experiment: Experiment) -> list[str]:
    """Returns the command that opens the docstring of an experiment's module.

    Args:
      experiment: its docstring starts with a `python ...` in backquotes.

    Returns:
      The words of the command; the flags begin after the third.

    Raises:
      ValueError: the docstring starts in another way.
    """
    text = sys.modules[experiment.config.__module__].__doc__ or ""
    pattern = rf"`(python (?:-m experiments\.|launch\.py ){experiment.name}\b[^`]*)`"
    match = re.match(pattern, text.lstrip())
    if not match:
        raise ValueError("the module's docstring must start with its `python` command")
    return shlex.split(match.group(1))


def check(experiment: Experiment) -> None:
    """Checks the contract of every experiment.

    Args:
      experiment: a registered one, or one about to be.

    Raises:
      ValueError: what is not fulfilled, all of it.
    """
    wrong = [*_check_text(experiment), *_check_modes(experiment)]
    params = getattr(experiment.config, "__dataclass_params__", None)
    if params is None or not params.frozen:
        wrong.append("config is not a frozen dataclass")
    else:
        wrong += _check_options(experiment)
    if wrong:
        raise ValueError(f"experiment {experiment.name!r}: {'; '.join(wrong)}")


def _check_text(experiment: Experiment) -> Iterator[str]:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", experiment.name):
        yield "name is not lower_snake_case"
    if not experiment.claim.strip() or "\n" in experiment.claim:
        yield "claim is not one line"
    if not experiment.paper.bibtex().startswith("@") or not experiment.paper.authors:
        yield "paper has no BibTeX"
    if not experiment.data:
        yield "names no data (name what it makes itself, if it reads none)"
    try:
        command(experiment)
    except ValueError as error:
        yield str(error)


def _check_modes(experiment: Experiment) -> Iterator[str]:
    for name in ("quick", "full"):
        if name not in experiment.modes:
            yield f"no mode {name!r}"
    for name, mode in experiment.modes.items():
        if not mode.minutes > 0:
            yield f"mode {name!r}: minutes are not positive"
        if not mode.seeds:
            yield f"mode {name!r}: no seeds"


def _check_options(experiment: Experiment) -> Iterator[str]:
    try:
        fields = options.options_of(experiment.config)
    except TypeError as error:
        yield str(error)
        return
    for name, item in fields.items():
        if not item.help.strip() or "\n" in item.help:
            yield f"option {name!r}: help is not one line"
        if name in {*options.options_of(RunFlags), "help"}:
            yield f"option {name!r} is a flag of every experiment"
    for name, mode in experiment.modes.items():
        try:
            hash(options.build(experiment.config, mode.overrides))
        except (LatheError, TypeError) as error:
            yield f"mode {name!r}: {error}"
