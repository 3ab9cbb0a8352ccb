"""Margins of the provided networks beside those of auto_LiRPA, image by image.

    python -m benchmarks.verify_reference [--images=5] [--networks=mnist_6_100,..]

The first table compares intervals and plain CROWN with the reference bounds below
`LATHE_DATA` on every network they are given for, and alpha-CROWN with CROWN. The second
one averages margins of mnist_cnn_a_adv over images, beside auto_LiRPA's published ones.
Takes about five minutes on 2 CPU cores.
"""

import argparse
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import _timing, _verify_work
from core.errors import DataUnavailableError
from experiments.verification import images, networks
from verify import AlphaConfig, CrownConfig, Region, bound, network
from verify.properties import Spec

FILES = {
    "mnistfc_256x2": "mnistfc/mnist-net_256x2.onnx",
    "oval_base": "oval21/cifar_base_kw.onnx",
    "resnet_2b": "cifar10_resnet/resnet_2b.onnx",
}
"""Networks of `vnncomp2021`; the others are of `sdp` and `eran`."""
NETWORKS = (
    *("mnist_6_100", "mnist_9_100", "mnist_conv_small", "mnist_cnn_a_adv"),
    *("cifar_cnn_a_adv", "cifar_cnn_a_mix"),
    *FILES,
)
RELATIVE, ABSOLUTE = 2e-5, 3e-4
"""Tolerances of a margin: those of the reference are 1e-5 and about 1e-4."""
KEYS = {"IBP": "interval", "CROWN": "CROWN"}
"""Names of the reference's methods, and ours."""
ALPHA = AlphaConfig(steps=20, hidden=False)
AVERAGED = "mnist_cnn_a_adv"
QUOTED: dict[str, tuple[float, float]] = {
    "interval": (-61.30, -71.27),
    "CROWN-IBP": (-29.55, -34.74),
    "CROWN": (-3.76, -6.71),
    "alpha-CROWN, hidden bounds fixed": (-3.24, -5.78),
    "alpha-CROWN, hidden bounds optimised": (-0.85, -3.17),
}
"""Mean margin and mean least margin, auto_LiRPA 0.7.0; alpha-CROWN by 20 iterations."""
COLUMNS = (
    "network",
    "bounds",
    "images",
    "margins",
    "least",
    "largest error",
    "share of tolerance",
    "mean margin",
    "quoted mean",
    "mean least",
    "quoted least",
)
NOTE = f"""\
`largest error` is the largest distance of a margin to auto_LiRPA's, `share of
tolerance` the largest one over {ABSOLUTE:g} + {RELATIVE:g} |margin|: equal where it is
below 1. CROWN is the plain one of the reference, hidden bounds not intersected with
intervals; for alpha-CROWN (slopes of the margins alone, 20 iterations) `least` is the
least gain over the CROWN that it begins from. The last rows
are of bounds as a search computes them, hidden bounds intersected, lowered by what
float32 may round; `quoted` are the means that auto_LiRPA 0.7.0 has for images of the
same set, not the same number of them."""


class Given(NamedTuple):
    """A region and the rows of its margins, float32."""

    region: Region
    C: np.ndarray


def reference(name: str) -> Mapping[str, np.ndarray]:
    """Returns the reference bounds of a network."""
    with np.load(networks.provided("reference_bounds", f"{name}.npz")) as file:
        return dict(file)


def given(
    name: str, found: Mapping[str, np.ndarray], count: int
) -> tuple[networks.Network, list[Given]]:
    """Returns a network and the first regions of its reference."""
    if name in FILES:
        onnx = _verify_work.competition(FILES[name])
        props = [onnx.parents[1] / Path(p) for p in found["vnnlib"][:count]]
        problems = [_verify_work.of_competition(onnx, p) for p in props]
        rows = found["C"][:count]
        net = _verify_work.loaded(onnx)
    else:
        entry = images.published(name)
        net = _verify_work.loaded(entry.onnx)
        data = images.inputs(entry.inputs)
        how = images.Setting(entry.eps, "linf", entry.mean, entry.std)
        chosen = found["index"][:count]
        labels = [int(data.labels[k]) for k in chosen]
        pixels = [data.pixels[k] for k in chosen]
        problems = [
            images.problem(net, x, y, how) for x, y in zip(pixels, labels, strict=True)
        ]
        rows = [
            np.concatenate([c.spec.C for c in p.property.clauses]) for p in problems
        ]
    regions = [p.property.clauses[0].region for p in problems]
    single = functools.partial(np.asarray, dtype=np.float32)
    boxes = [jax.tree.map(single, region) for region in regions]
    return net, [Given(*each) for each in zip(boxes, map(single, rows), strict=True)]


def compare(name: str, count: int) -> Iterator[dict[str, Any]]:
    """Yields the rows of a network: intervals, CROWN, alpha-CROWN.

    Args:
      name: one of `NETWORKS`.
      count: images.
    """
    wanted = reference(name)
    net, cases = given(name, wanted, count)
    built = network(net.fn, net.params, cases[0].region.lower)
    on = functools.partial(bound, net.fn, built=built)

    @jax.jit
    def bounds(params: Any, case: Given) -> tuple[jax.Array, ...]:
        spec = Spec(case.C, np.zeros(case.C.shape[0], np.float32))
        at = functools.partial(on, params, case.region, spec)
        plain = CrownConfig(intersect=False)
        least = at(method="crown").lower
        best = at(method="alpha-crown", alpha_config=ALPHA).lower
        interval = at(method="interval").lower
        return (
            interval,
            at(method="crown", crown_config=plain).lower,
            best - least,
            least,
        )

    found = [jax.tree.map(np.asarray, bounds(net.params, case)) for case in cases]
    ours = [np.stack(each) for each in zip(*found, strict=True)]
    row = {"network": name, "images": len(cases), "margins": ours[0].size}
    for own, (key, method) in zip(ours, KEYS.items(), strict=False):
        theirs = wanted[key][: len(cases)]
        error = np.abs(own.astype(np.float64) - theirs)
        yield {
            **row,
            "bounds": method,
            "least": float(own.min()),
            "largest error": f"{error.max():.1e}",
            "share of tolerance": float(
                (error / (ABSOLUTE + RELATIVE * np.abs(theirs))).max()
            ),
        }
    gain, least = ours[2:]
    share = np.maximum(-gain, 0) / (ABSOLUTE + RELATIVE * np.abs(least))
    yield {
        **row,
        "bounds": "alpha-CROWN over CROWN",
        "least": float(gain.min()),
        "share of tolerance": float(share.max()),
    }


def averages(name: str, count: int) -> Iterator[dict[str, Any]]:
    """Yields mean margins over the first images, beside the quoted ones.

    Args:
      name: of the network.
      count: images, those that are classified rightly.
    """
    for method, run, _ in _verify_work.methods(name, count):
        lower = np.stack([np.asarray(each)[:9] for each in run()])
        mean, least = QUOTED[method]
        yield {
            "network": name,
            "bounds": method,
            "images": count,
            "margins": lower.size,
            "mean margin": float(lower.mean()),
            "quoted mean": mean,
            "mean least": float(lower.min(1).mean()),
            "quoted least": least,
        }


def main() -> None:
    """Prints the table; with --json also writes it. Exits with 1 on a difference."""
    parser = argparse.ArgumentParser(description="Bounds beside those of auto_LiRPA.")
    parser.add_argument("--images", type=int, default=5, help="of each network")
    parser.add_argument("--averaged", type=int, default=30, help=f"of {AVERAGED}")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="comma list")
    parser.add_argument("--json", help="file for the rows")
    args = parser.parse_args()
    names = args.networks.split(",")
    if not 1 <= args.images <= 5 or args.averaged < 0 or not set(names) <= {*NETWORKS}:
        known = ", ".join(NETWORKS)
        parser.error(f"expected 1 to 5 images and networks among {known}")
    rows: list[dict[str, Any]] = []
    try:
        for name in names:
            own = list(compare(name, args.images))
            print(_timing.table(own, COLUMNS[:7]), flush=True)
            rows += own
        if args.averaged:
            rows += averages(AVERAGED, args.averaged)
    except DataUnavailableError as error:
        parser.exit(2, f"{error}\n")
    print("\nall together")
    _timing.finish(args.json, rows, COLUMNS, note=NOTE)
    print(f"\n{NOTE}")
    if not all(row.get("share of tolerance", 0) <= 1 for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
