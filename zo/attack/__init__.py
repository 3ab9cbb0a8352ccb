"""Black-box attacks: images that a network gets wrong, from its answers alone.

What is visible is logits (`logit_attack`), or the class alone (`decision_attack`). A
query is one image through the network, and the test whether an image is wrong yet is a
query too. Steps are counted before they are taken, so no budget is ever exceeded.

    found = zo.attack.logit_attack(
        key, logits, images, labels, zo.hge_adam(0.02), budget=5000
    )

`logits(images [m, h, w, c]) -> [m, classes]` is vmapped over the points of an estimate.
Images are in a box; the change of them is what is optimised. One image is attacked
alone; several given together get one change for all, which is the universal form: then
each value of the loss is as many queries. `search` is the loop of `logit_attack` for
other methods.

Many images, each alone: `jax.lax.map` over them. `jax.vmap` gives the same results, and
counts of queries as if every attack had ended alone; but it shows all of them to the
network until the last one ends.

References: Chen et al., arXiv 1708.03999 (loss); Cheng et al., arXiv 1807.04457
(decisions); the objective over several images as in arXiv 1910.06513.
"""

from zo.attack.decisions import HALVING, Boundary, Decide, decision_attack
from zo.attack.logits import Logits, Move, logit_attack, search
from zo.attack.threat import UNTARGETED, AttackResult, Threat

__all__ = [
    "HALVING",
    "UNTARGETED",
    "AttackResult",
    "Boundary",
    "Decide",
    "Logits",
    "Move",
    "Threat",
    "decision_attack",
    "logit_attack",
    "search",
]
