"""Every optax transform of this room by name."""

from gap.grow_and_prune import cyclic
from gap.initial import at_init, snip, static_random
from gap.rewiring import rewire, rigl, set_
from gap.tracking import track_explored
from gap.transforms import add_l1, masked, prune

TRANSFORMS = {
    "masked": masked,
    "prune": prune,
    "add_l1": add_l1,
    "static_random": static_random,
    "at_init": at_init,
    "snip": snip,
    "rewire": rewire,
    "rigl": rigl,
    "set_": set_,
    "cyclic": cyclic,
    "track_explored": track_explored,
}
"""Every transform of this room by name; one contract test walks it."""
