"""The registry of experiments, and the contract that each one fulfils."""

import dataclasses

import pytest

from core import errors
from core.errors import UnknownNameError
from experiments import cli, papers, registry
from experiments.options import build, option
from experiments.registry import EXPERIMENTS, Mode, Paper, Registry
from tests.experiments.toy_experiment import EXPERIMENT as TOY

PAPERS = [value for value in vars(papers).values() if isinstance(value, Paper)]


@pytest.mark.parametrize("name", list(EXPERIMENTS))
def test_contract(name):
    experiment = registry.get(name)
    registry.check(experiment)
    words = registry.command(experiment)
    assert "--help" not in words
    (own, given), rest = cli.parse(words[3:], registry.RunFlags, experiment.config)
    mode = experiment.mode(build(registry.RunFlags, given=own).mode)
    build(experiment.config, mode.overrides, given)
    assert rest == []


def test_the_toy_fulfils_the_contract():
    registry.check(TOY)
    assert registry.command(TOY)[:3] == ["python", "launch.py", "toy"]


@dataclasses.dataclass
class Thawed:
    rate: float = option(0.1, "rate")


@dataclasses.dataclass(frozen=True)
class Clash:
    seeds: int = option(1, "clashes")


@dataclasses.dataclass(frozen=True)
class Mute:
    rate: float = option(0.1, "")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "Toy-1"}, "snake"),
        ({"claim": "two\nlines"}, "claim"),
        ({"modes": {"quick": Mode(1)}}, "no mode 'full'"),
        ({"modes": {**TOY.modes, "paper": Mode(0)}}, "minutes"),
        ({"modes": {**TOY.modes, "paper": Mode(1, {"rate": 7})}}, "rate"),
        ({"modes": {**TOY.modes, "paper": Mode(1, {"rat": 7})}}, "did you mean rate"),
        ({"data": ()}, "data"),
        ({"config": Thawed}, "frozen"),
        ({"config": Clash}, "'seeds' is a flag of every experiment"),
        ({"config": Mute}, "help"),
    ],
)
def test_what_breaks_the_contract_is_named(changes, words):
    with pytest.raises(ValueError, match=words):
        registry.check(dataclasses.replace(TOY, **changes))


def test_experiments_are_imported_when_asked_for():
    found = Registry({"toy": "tests.experiments.toy_experiment", "gone": "no.such"})
    assert list(found) == ["gone", "toy"]
    assert len(found) == 2
    assert "gone" in found
    assert found["toy"] is TOY
    with pytest.raises(ModuleNotFoundError):
        found["gone"]
    found.add("plaything", "tests.experiments.toy_experiment")
    with pytest.raises(ValueError, match="holds 'toy', not 'plaything'"):
        found["plaything"]


def test_unknown_names():
    with pytest.raises(UnknownNameError, match="did you mean admm_pruning"):
        registry.get("admm_prunning")
    with pytest.raises(UnknownNameError, match="did you mean full"):
        TOY.mode("fulll")


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.key)
def test_bibtex_of_every_paper(paper):
    text = paper.bibtex()
    assert text.count("{") == text.count("}")
    assert f"{{{paper.key},\n" in text
    assert f"title = {{{{{paper.title}}}}}" in text
    assert " and ".join(paper.authors) in text


def test_bibtex_kinds():
    venue = Paper("k", "T", ("A B",), 2020, None, "ICML 2020").bibtex()
    assert venue.startswith("@inproceedings{k,")
    assert "booktitle = {ICML 2020}" in venue
    assert "arxiv" not in venue.lower()
    journal = Paper("k", "T", ("A B",), 2020, "1.2", "TNNLS", "article").bibtex()
    assert "@article" in journal
    assert "journal = {TNNLS}" in journal
    assert "eprint = {1.2}" in journal
    assert Paper("k", "T", ("A B",), 2020, "1.2").bibtex().startswith("@misc")


def test_far_names_and_numbers_get_the_whole_list_if_it_is_short():
    def words(name, known):
        return str(errors.unknown_name("thing", name, known))

    assert words("zebra", ["lion", "ant"]).endswith("expected one of ant, lion")
    assert words("--foo", ["--rho"]).endswith("expected one of --rho")
    assert words("--rh", ["--rho", "--l1"]).endswith("did you mean --rho?")
    assert words("12", ["12.5", "40"]).endswith("expected one of 12.5, 40")
    assert "expected" not in words("zebra", [f"name{i}" for i in range(13)])


def test_a_run_reaches_a_mode_by_every_entry_that_counts():
    experiment = EXPERIMENTS["progressive_admm"]
    overrides = experiment.mode("full").overrides
    full = build(experiment.config, overrides)
    names = ("dataset", "epochs", "stage_epochs")
    assert experiment.reaches(full, *names, examples=full.examples)
    assert not experiment.reaches(full, *names, examples=full.examples - 1)
    for changed in (
        {"dataset": "mnist_5k"},
        {"epochs": full.epochs - 1},
        # More of the one does not make up for less of the other.
        {"stage_epochs": (full.stage_epochs[0] + 1, full.stage_epochs[1] - 1)},
    ):
        other = build(experiment.config, {**overrides, **changed})
        assert not experiment.reaches(other, *names, examples=full.examples)
    quick = build(experiment.config)
    assert experiment.reaches(quick, *names, mode="quick", examples=0)


def test_a_list_has_a_number_for_each_meaning():
    config = EXPERIMENTS["shape_and_prove"].config
    with pytest.raises(errors.InputError, match=r"--epochs: got 1,2.* three numbers"):
        config(epochs=(1, 2))
