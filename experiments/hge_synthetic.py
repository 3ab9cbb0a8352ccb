"""`python launch.py hge_synthetic --mode=full`.

HGE (arXiv 2012.11518), a gradient estimate of random directions and of coordinates
drawn by importance, on synthetic problems. Its variance and that of its parts beside
their closed forms; queries to a given loss on noisy quadratics whose gradients have
heavy tails over coordinates, or none (the case in which it should gain nothing); slopes
of convergence over queries on strongly convex, convex and non-convex problems. Every
method has the same budget, mini-batches and grid of rates. What stands for |g_i| are
slopes that the coordinate-wise part measured before ("seen"): our choice.

Quick mode takes about a minute on 2 cores, full mode about twenty with ten seeds. It
prints the queries of each method, the hybrid's gain over the better of ZO-SGD and
ZO-SCD (uniform coordinates), and slopes beside those of theory. The paper's own figures
are not known to us.
"""

import dataclasses
from typing import TYPE_CHECKING

from core.errors import InputError, describe
from experiments import papers
from experiments.options import check_filled, option
from experiments.registry import Experiment, Mode

if TYPE_CHECKING:
    from experiments.results import Outcome
    from experiments.workdir import Run

ARMS = (
    *("sgd", "scd", "sign", "svrg", "adamm", "hge", "hge_ema", "hge_random"),
    *("hge_uniform", "hge_oracle", "importance", "alpha_25", "alpha_50", "alpha_75"),
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the experiment."""

    dimensions: int = option(200, "of the variances and quadratics", low=20)
    probes: int = option(
        20, "directions and coordinates of a step, two queries each", low=4
    )
    draws: int = option(20_000, "estimates of a variance", low=1_000)
    target: float = option(0.02, "share of the first loss to reach", high=0.9, low=1e-6)
    budget: int = option(24_000, "queries of a run", low=1_000)
    arms: tuple[str, ...] = option(
        ("sgd", "scd", "hge"), "methods on quadratics", choices=ARMS
    )
    slope_arms: tuple[str, ...] = option(
        ("sgd", "scd", "hge"), "methods whose slopes are fitted", choices=ARMS
    )
    slope_problems: tuple[str, ...] = option(
        ("strong", "convex", "nonconvex"),
        "problems with decaying steps",
        choices=("strong", "convex", "nonconvex"),
    )
    features: int = option(64, "of logistic regression", low=4)
    rows: int = option(512, "of logistic regression", low=16)
    batch_size: int = option(8, "rows of a mini-batch", low=1)

    def __post_init__(self):
        check_filled(self, "arms")
        missing = {"sgd", "scd", "hge"} - set(self.arms)
        if missing:
            given = ",".join(self.arms)
            wanted = "sgd, scd and hge, which are compared"
            raise InputError(f"--arms: {describe(given, wanted)}")


def run(run: "Run", config: Config) -> "Outcome":
    """Measures what the config asks for; see `experiments.zeroth`."""
    from experiments.results import Outcome
    from experiments.zeroth import arms, problems, runs, synthetic

    sizes = ("dimensions", "probes", "budget", "features", "rows", "batch_size")
    judged = (
        len(run.seeds) >= 10
        and EXPERIMENT.reaches(config, *sizes)
        and config.target <= Config().target
    )
    found = {
        law: run.stage(
            f"variance-{law.replace(' ', '-')}",
            lambda law=law: synthetic.variances(
                law, config.dimensions, config.probes // 2, config.draws
            ),
        )
        for law in synthetic.LAWS
    }
    rows = list(synthetic.variance_rows(found))
    figures, at_edges = [synthetic.variance_figure(found)], []

    def curves(problem: problems.Problem, names: tuple[str, ...], decaying: bool):
        kind = "falling" if decaying else "constant"
        return {
            arms.ARMS[name].title: run.stage(
                f"{problem.name}-{kind}-{name}",
                lambda name=name: runs.curves(
                    problem,
                    name,
                    run.seeds,
                    budget=config.budget,
                    probes=config.probes,
                    size=config.batch_size,
                    decaying=decaying,
                ),
            )
            for name in names
        }

    for law in ("heavy", "isotropic"):
        problem = problems.quadratic(law, config.dimensions)
        each = curves(problem, config.arms, False)
        rows += synthetic.query_rows(problem, each, config.target, judged)
        figures.append(synthetic.curve_figure(problem, each, "constant steps"))
        ends = synthetic.edges(problem, each, config.target)
        at_edges += [f"{problem.title}: {t}" for t in ends]
    made = {
        "strong": lambda: problems.spectrum(config.dimensions),
        "convex": lambda: problems.logistic(True, config.features, config.rows),
        "nonconvex": lambda: problems.logistic(False, config.features, config.rows),
    }
    for name in config.slope_problems:
        problem = made[name]()
        each = curves(problem, config.slope_arms, True)
        rows += synthetic.slope_rows(problem, each, judged)
        figures.append(synthetic.curve_figure(problem, each, "falling steps"))
        at_edges += [f"{problem.title}: {t}" for t in synthetic.edges(problem, each)]
    notes = [
        "Queries are losses of one mini-batch at one point; all of a step share the "
        "mini-batch. A step of every method has as many directions and coordinates, "
        "two queries each; of ZO-SVRG, which asks at its snapshot too, four. Every "
        f"method takes the best of its rates ({len(runs.FACTORS)} a factor of sqrt(2) "
        f"apart on quadratics, {len(runs.FALLING)} a factor of 2 apart for slopes) by "
        "the median over seeds: of the queries to the target on quadratics, of the "
        f"last value for slopes. Every {arms.PERIOD} steps ZO-SVRG takes a snapshot "
        "besides, all coordinates, of all rows (on quadratics, whose data have no end, "
        f"of {problems.SNAPSHOT_BATCHES} mini-batches), all of whose mini-batches "
        "count.",
        "Nine in ten entries of the heavy-tailed gradients are a twentieth of the "
        "others; features of the logistic problems fall as 1 / i. The curvature of the "
        "quadratics whose queries are counted is the same everywhere, and noise keeps "
        "the law of the gradient to the end, where theory speaks of variances. "
        "On such quadratics without noise coordinate-wise steps are exact: ZO-SCD ends "
        "after a pass or two, and nothing here beats it. Losses are means over "
        f"{runs.WINDOW} measurements, {runs.EVERY} steps apart.",
        "HGE by the source of its probabilities: seen, slopes measured before, which "
        "is what the claim is about; ema, a running mean of estimates; random, the "
        "random part of the step before; uniform; oracle, the gradient of the "
        "mini-batch, which nobody has. Probabilities from the random part of the same "
        "step would need two rounds of queries, and are not here. "
        '"Importance alone" is its coordinate-wise part with all queries: where the '
        "law of the gradient lasts, as here, the random part is what the mixture pays "
        "for not depending on it.",
        "Intervals are 95 % bootstrap intervals of medians over seeds. Gains, ties and "
        "slopes are judged with ten seeds and the sizes of full mode. A gain is over "
        "the better of ZO-SGD and ZO-SCD, whose coordinates are uniform; it is at "
        f"least {synthetic.GAIN:g} with an interval above 1; a tie has its median and "
        f"interval within {synthetic.TIE:g}. Slopes are those of the last two thirds "
        "of the queries. Where theory bounds the mean over steps (convex, non-convex) "
        f"one holds up to {synthetic.SLACK:g} above the bound; where it gives a rate "
        f"(strongly convex) within {synthetic.RATE_SLACK:g} of it. Theory is for "
        "methods without signs and moments. Closed forms of variances are computed "
        "apart from the library.",
    ]
    if at_edges:
        notes.append("Best rates at an end of the grid: " + "; ".join(at_edges) + ".")
    return Outcome(rows, figures, notes, ("synthetic",))


EXPERIMENT = Experiment(
    name="hge_synthetic",
    paper=papers.HGE,
    claim="A hybrid of random and importance-sampled coordinate estimates, by slopes "
    "seen before, needs fewer queries than ZO-SGD and uniform ZO-SCD where gradients "
    "have heavy tails",
    config=Config,
    modes={
        "quick": Mode(
            1.0, {"draws": 8_000, "budget": 20_000, "target": 0.05}, seeds=(0, 1, 2)
        ),
        "full": Mode(
            20.0,
            {
                "budget": 60_000,
                "arms": ARMS,
                "slope_arms": (
                    *("sgd", "scd", "sign", "svrg", "adamm", "hge", "hge_ema"),
                    "hge_uniform",
                ),
            },
            seeds=tuple(range(10)),
        ),
    },
    data=("synthetic",),
    run=run,
)


if __name__ == "__main__":
    from experiments import cli

    cli.main(EXPERIMENT)
