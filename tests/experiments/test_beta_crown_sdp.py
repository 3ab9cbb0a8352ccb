"""The `beta_crown_sdp` experiment: its methods, its rows, what it judges when."""

import dataclasses
import json
import signal
import time

import pytest

from experiments import beta_crown_sdp, cli
from experiments.beta_crown_sdp import Config
from experiments.verification import sdp, sdp_rows
from experiments.verification.sdp import Key
from tests.experiments.verify_stub import Stub, provided, verdict

NAME = "mnist_cnn_a_adv"


def front(*argv):
    return cli.front_door(("beta_crown_sdp", *map(str, argv)), ("admm_pruning",))


def image(number, status, seconds=1.0, domains=10):
    return {"image": number, "status": status, "seconds": seconds, "domains": domains}


def images(**counts):
    """Rows with so many images of each fate, numbered in a row."""
    fates = [fate for fate, count in counts.items() for _ in range(count)]
    return [image(number, fate) for number, fate in enumerate(fates)]


def outcome(found, **options):
    config = dataclasses.replace(Config(), **options)
    keyed = {Key(NAME, method, 0): rows for method, rows in found.items()}
    return sdp_rows.outcome(keyed, config)


def row(outcome, metric, word):
    (one,) = [r for r in outcome.rows if r.metric == metric and word in r.setting]
    return one


def test_names_are_those_of_the_protocol():
    assert tuple(sdp.METHODS) == beta_crown_sdp.ALL
    assert tuple(sdp_rows.REFERENCES) == beta_crown_sdp.NETWORKS
    for method in sdp.METHODS.values():
        assert method.flags.restarts == 0 or method.branches or method.title == "PGD"


def test_the_papers_share_is_judged_on_its_images_and_time_only():
    paper = images(verified=142, falsified=42, open=11, misclassified=5)
    pgd = images(open=153, falsified=42, misclassified=5)
    found = {"pgd": pgd, "beta_kfsb": paper}
    judged = outcome(found, images=200, timeout_s=180.0)
    verified = row(judged, "verified", "kFSB, 200 images, 180 s")
    assert (verified.measured, verified.paper, verified.holds) == (71.0, 70.5, True)
    bound = row(judged, "upper bound", "PGD")
    assert (bound.measured, bound.paper, bound.holds) == (76.5, 76.5, True)
    assert row(judged, "time an image", "kFSB").paper == 21.1
    assert not any("not judged" in note for note in judged.notes)
    short = outcome(found, images=200, timeout_s=60.0)
    assert row(short, "verified", "200 images").holds is None
    assert any("not judged" in note for note in short.notes)
    weak = {"beta_kfsb": images(verified=140, open=60)}
    missed = outcome(weak, images=200, timeout_s=180.0)
    assert row(missed, "verified", "200 images").holds is False


def test_the_reference_is_compared_on_its_images_within_its_time():
    rows = images(verified=20, falsified=4, open=5, misclassified=1, more=20)
    rows = [{**r, "status": "verified"} if r["status"] == "more" else r for r in rows]
    fine = outcome({"beta_kfsb": rows})
    for fate, count in (("verified", 20), ("falsified", 4), ("open", 5)):
        one = row(fine, fate, "first 30 images, 60 s")
        assert (one.measured, one.baseline) == (count, count)
        assert one.holds is (True if fate == "verified" else None)
    slow = [{**r, "seconds": 61.0} if r["image"] == 3 else r for r in rows]
    late = outcome({"beta_kfsb": slow}, timeout_s=180.0)
    assert row(late, "verified", "first 30").holds is False
    for options in ({"timeout_s": 30.0}, {}):
        few = rows if options else rows[:29]
        none = outcome({"beta_kfsb": few}, **options)
        assert not [r for r in none.rows if "first 30" in r.setting]


def test_rivals_are_compared_within_their_own_time():
    def thrice(*rows):
        return [{**r, "image": 3 * k + r["image"]} for k in range(10) for r in rows]

    mine = [image(0, "verified", 5.0), image(1, "verified", 50.0), image(2, "open")]
    theirs = [image(0, "verified"), image(1, "open", 20.0), image(2, "open", 20.0)]
    few = outcome({"split": theirs, "beta_kfsb": mine})
    assert row(few, "verified within 20 s", "splits without beta").holds is None
    mine, theirs = thrice(*mine), thrice(*theirs)
    found = outcome({"split": theirs, "beta_babsr": theirs, "beta_kfsb": mine})
    one = row(found, "verified within 20 s", "splits without beta")
    assert one.measured == one.baseline == pytest.approx(100 / 3)
    assert one.holds is True
    assert row(found, "verified within 20 s", "BaBSR").holds is None
    assert row(found, "sub-domains an image", "kFSB").measured == 10
    assert row(found, "time an image", "without beta").measured == pytest.approx(41 / 3)
    titles = [figure.kind for figure in found.figures]
    assert titles == ["bar", "line"]


def test_verified_here_and_falsified_there_is_a_failed_claim():
    both = {"pgd": images(falsified=1, open=1), "crown": images(verified=1, open=1)}
    one = row(outcome(both), "both verified and falsified", "all methods")
    assert (one.measured, one.holds) == (1, False)
    fine = {"pgd": images(open=2), "crown": images(verified=1, open=1)}
    assert (
        row(outcome(fine), "both verified and falsified", "all methods").holds is True
    )


def test_seeds_give_a_mean_and_errors_a_note():
    keys = [Key(NAME, "beta_kfsb", seed) for seed in (0, 1)]
    runs = [images(verified=2, open=2), images(verified=1, open=2, error=1)]
    found = sdp_rows.outcome(dict(zip(keys, runs, strict=True)), Config())
    one = row(found, "verified", "4 images")
    assert (one.measured, one.std) == (37.5, pytest.approx(12.5 * 2**0.5))
    assert any(note.startswith("1 decisions failed") for note in found.notes)


def test_a_run_through_the_front_door_is_killed_and_goes_on(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    provided(tmp_path, monkeypatch, NAME)
    stub = Stub(monkeypatch)
    count = 0

    def answer(problem, config):
        nonlocal count
        count += 1
        if count == 5:
            signal.raise_signal(signal.SIGINT)
        return verdict("unsat" if config.method == "beta" else "unknown")

    stub.answers[NAME] = answer
    flags = ["--images=4", "--timeout_s=7", "--rivals_timeout_s=3", "--workdir=w"]
    assert front(*flags) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert front(*flags) == 0
    assert "both verified and falsified" in capsys.readouterr().out
    assert count == 7 * 3 + 1  # one image of four is misclassified
    document = json.loads((tmp_path / "w/results.json").read_text())
    shares = {
        r["setting"]: r["measured"]
        for r in document["rows"]
        if r["metric"] == "verified"
    }
    assert shares[f"{NAME}, beta-CROWN kFSB, 4 images, 7 s"] == 75.0
    assert shares[f"{NAME}, beta-CROWN BaBSR, 4 images, 3 s"] == 75.0
    assert shares[f"{NAME}, alpha-CROWN, 4 images"] == 0.0
    limits = {c.method: c.timeout_s for c in stub.configs}
    assert 6 < limits["alpha"] <= 7
    assert 2 < limits["split"] <= 3
    assert len(list((tmp_path / "w/stages").iterdir())) == 28
    lines = (tmp_path / f"w/{NAME}-beta_kfsb-s0.csv").read_text().splitlines()
    assert len(lines) == 5


def test_without_the_data_it_is_said_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LATHE_DATA", str(tmp_path / "none"))
    start = time.monotonic()
    assert front() == 2
    assert time.monotonic() - start < 1
    assert "LATHE_DATA" in capsys.readouterr().err
    assert front("--methods=", "--workdir=other") == 2
    assert "--methods: got nothing" in capsys.readouterr().err
