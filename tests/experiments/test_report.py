import itertools
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from matplotlib import rcParams
from PIL import Image

from core.errors import DataFormatError, WorkdirError
from experiments import report, results
from experiments.report import html, plots, results_md, text
from experiments.results import Figure, Outcome, Row, Series
from tests.experiments.outcomes import EXPERIMENT, HOSTILE, INFO, OUTCOME, outcomes

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Checks that tags nest, and collects attributes, ids and text."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.open, self.attributes, self.words, self.tags = [], [], [], set()
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def check_page(source):
    page = Page(source)
    assert not page.tags & {"script", "link", "img", "iframe", "object", "image"}
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "xlink:href", "data", "action"):
            assert value.startswith("#")
    style = source[source.index("<style>") : source.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert all(u.startswith("#") for u in re.findall(r"url\(([^)]*)\)", source))
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    return page


@pytest.fixture
def run(tmp_path):
    results.write(tmp_path, EXPERIMENT, INFO, OUTCOME)
    return tmp_path


def test_the_page_stands_alone_and_says_it_all(run):
    path = report.write_html(run)
    assert path == run / "report.html"
    words = " ".join(check_page(path.read_text()).words)
    for part in (
        *("toy", "arXiv:1804.03294", "quick", "0, 1, 2", "mnist_5k", "cpu: test"),
        *("1 min 02 s", "98.31 ± 0.05 %", "98.01 %", "98.40 %", "not finite", "yes"),
        *("simulated", "3600", "Gradual pruning", "1 of 3 claims", "0.04,0.07"),
    ):
        assert part in words


def test_a_report_is_made_from_results_json_alone_and_again(run):
    first = report.write_html(run).read_bytes()
    assert report.write_html(run / "results.json").read_bytes() == first
    assert sorted(p.name for p in run.iterdir()) == ["report.html", "results.json"]


def test_drawing_leaves_the_settings_of_matplotlib(run):
    before = dict(rcParams)
    report.write_html(run)
    assert dict(rcParams) == before


def test_hostile_text_is_shown_as_text(tmp_path):
    row = Row(HOSTILE, HOSTILE, 1.0, unit=HOSTILE)
    series = [Series(HOSTILE, [HOSTILE], [1.0]), Series("_b", ["$"], [2.0])]
    figure = Figure(HOSTILE, "bar", HOSTILE, HOSTILE, series)
    info = INFO._replace(mode=HOSTILE, device=HOSTILE, config={HOSTILE: HOSTILE})
    outcome = Outcome([row], [figure], [HOSTILE], [HOSTILE])
    results.write(tmp_path, EXPERIMENT, info, outcome)
    page = check_page(report.write_html(tmp_path).read_text())
    assert "".join(page.words).count(HOSTILE) >= 8
    markdown = report.write_results_md([tmp_path], tmp_path / "R.md").read_text()
    assert "<script" not in re.sub(r"(?<!\\)`[^`]*`", "", markdown)
    table = [line for line in markdown.splitlines() if line.startswith("| ")]
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 7 for line in table)


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(outcomes())
def test_any_outcome_has_a_page(outcome):
    document = json.loads(json.dumps(_document(outcome)))
    check_page(html.render(document))
    results_md.render([document])


def _document(outcome):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return results.write(folder, EXPERIMENT, INFO, outcome)


@pytest.mark.parametrize("log", [False, True])
def test_every_kind_is_drawn(log):
    for figure in _document(OUTCOME)["figures"]:
        figure = {**figure, "log_x": log, "log_y": log}
        drawn = plots.svg(figure, plots.Palette([figure]), "p0")
        assert drawn.startswith("<svg")
        assert "currentColor" in drawn
        assert "http" not in drawn


def test_a_label_has_one_colour_in_all_figures_and_no_other_has_it():
    names = [f"method {index}" for index in range(20)]
    figures = [
        {"series": [{"label": name} for name in part]}
        for part in (names[:12], names[3:])
    ]
    palette = plots.Palette(figures)
    styles = [palette.style(name) for name in names]
    assert len(set(styles)) == len(names)
    assert plots.Palette(figures).style("method 7") == styles[7]


def test_svg_bytes_repeat():
    figure = _document(OUTCOME)["figures"][0]
    one, two = (plots.svg(figure, plots.Palette([figure]), "a") for _ in range(2))
    assert one == two
    assert one.replace("a-", "b-") == plots.svg(figure, plots.Palette([figure]), "b")


def test_a_png_holds_all_figures(tmp_path):
    plots.png(_document(OUTCOME)["figures"], tmp_path / "all.png")
    pixels = np.asarray(Image.open(tmp_path / "all.png").convert("L"))
    height, width = pixels.shape
    halves = (
        (slice(0, height // 2), slice(height // 2, None)),
        (
            slice(0, width // 2),
            slice(width // 2, None),
        ),
    )
    for vertical, horizontal in itertools.product(*halves):
        assert (pixels[vertical, horizontal] < 128).sum() > 500


@pytest.fixture
def runs(tmp_path):
    made = []
    for name, mode in (("b", "full"), ("a", "paper"), ("b", "quick"), ("a", "other")):
        experiment = type("E", (), {**vars(EXPERIMENT), "name": name})
        folder = tmp_path / f"{name}-{mode}"
        results.write(folder, experiment, INFO._replace(mode=mode), OUTCOME)
        made.append(folder)
    return made


def test_results_md_has_one_section_for_each_run_in_a_fixed_order(runs, tmp_path):
    target = tmp_path / "docs" / "RESULTS.md"
    assert report.write_results_md(runs, target) == target
    first = target.read_bytes()
    heads = re.findall(r"^## (.*)$", first.decode(), re.MULTILINE)
    assert heads == ["a, paper mode", "a, other mode", "b, quick mode", "b, full mode"]
    for order in (reversed(runs), [*runs, runs[0]]):
        report.write_results_md(order, target)
        assert target.read_bytes() == first


def test_results_md_keeps_sections_of_other_commands_if_asked(runs, tmp_path):
    every, target = tmp_path / "every.md", tmp_path / "R.md"
    report.write_results_md(runs, every)
    report.write_results_md(runs[:3], target)
    report.write_results_md(runs[1:], target, keep=True)  # two of them again
    assert target.read_bytes() == every.read_bytes()
    report.write_results_md(runs[1:2], target)
    assert len(re.findall(r"^## ", target.read_text(), re.MULTILINE)) == 1


def test_results_md_says_how_it_was_made(runs, tmp_path):
    page = report.write_results_md(runs[:1], tmp_path / "R.md").read_text()
    assert "Generated by `python launch.py report" in page.splitlines()[0]
    for part in (
        "`python launch.py b --mode=full --seeds=0,1,2`",
        "| accuracy | LeNet | 98.40 % | 98.31 ± 0.05 % | 98.01 % | yes |",
        "| accuracy | rho=10 | 98.40 % | not finite | not finite | no |",
        "| energy (simulated) | Eyeriss | — | 1.500e-05 J | — | — |",
        *("Seeds: 0, 1, 2", "Data: mnist\\_5k", "cpu: test", "1 min 02 s"),
        "- Gradual pruning is ahead at 126x.",
    ):
        assert part.replace("mnist\\_5k", "mnist_5k") in page
    assert str(tmp_path) not in page


def test_results_md_is_written_from_good_runs_only(runs, tmp_path):
    (runs[1] / "results.json").write_text("{}")
    with pytest.raises(DataFormatError, match="experiment"):
        report.write_results_md(runs, tmp_path / "R.md")
    with pytest.raises(WorkdirError):
        report.write_results_md([tmp_path / "nothing"], tmp_path / "R.md")
    assert not (tmp_path / "R.md").exists()


@pytest.mark.parametrize(
    ("value", "std", "shown"),
    [
        (98.3142, 0.0512, "98.31 ± 0.05"),
        (98.3142, 0.1234, "98.31 ± 0.12"),
        (98.3142, 0.0, "98.31 ± 0"),
        (98.3142, None, "98.31"),
        (12345.6, 210.0, "12,346 ± 210"),
        (266200, None, "266,200"),
        (430500.0, None, "430,500"),
        (98.0, None, "98.00"),
        (3600, None, "3600"),
        (1e-7, None, "1.000e-07"),
        (0.0, None, "0"),
        (None, 1.0, "not finite"),
        (22.95, None, "22.95"),
    ],
)
def test_numbers_are_shown_with_the_digits_they_deserve(value, std, shown):
    assert text.spread(value, std) == shown


def test_one_seed_shows_no_deviation():
    row = {"measured": 98.0, "std": 0.0, "unit": "%"}
    assert text.measured(row, seeds=1) == "98.00 %"
    assert text.measured(row, seeds=2) == "98.00 ± 0 %"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.2, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_durations(seconds, shown):
    assert text.duration(seconds) == shown


def test_the_verdict_counts_what_was_judged():
    def verdict(*holds, checks=()):
        rows = [{"holds": each} for each in holds]
        return text.verdict(rows + [{"holds": c, "check": True} for c in checks])

    assert verdict(True, None, False) == "1 of 2 claims reproduced"
    assert verdict(None) == verdict() == "No claim was judged"
    # What correct code gives by construction is no claim.
    both = "0 of 1 claim reproduced; 1 of 2 checks passed"
    assert verdict(False, checks=(True, False, None)) == both
    alone = "No claim was judged; 1 of 1 check passed"
    assert verdict(checks=(True,)) == alone
