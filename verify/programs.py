"""Compiled programs of a reduced network, one set for each shape.

A search hands in arrays of few shapes, so each program compiles a handful of times.
`COUNTS` is what the tests watch.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from core.types import Array, PyTree
from verify import alpha as va
from verify import reduce
from verify.beta import Domains
from verify.network import Network, network
from verify.problem import Config
from verify.properties import Spec
from verify.regions import Region
from verify.relaxing import Hidden
from verify.rounds import BetaConfig, Round, RoundConfig, split_round


class Shape(NamedTuple):
    """Sizes of a reduced network: flat input, neurons by layer, outputs, type."""

    inputs: int
    neurons: tuple[int, ...]
    outputs: int
    dtype: str

    def macs(self) -> int:
        """Multiply-accumulates of one backward pass of one row."""
        before, total = self.inputs, 0
        for n in (*self.neurons, self.outputs):
            total += before * n
            before += n
        return total

    def holds(self, other: "Shape") -> bool:
        """Whether a network of shape `other` can be padded to this one."""
        same = (self.inputs, self.outputs, self.dtype, len(self.neurons)) == (
            other.inputs,
            other.outputs,
            other.dtype,
            len(other.neurons),
        )
        pairs = zip(self.neurons, other.neurons, strict=False)
        return same and all(a >= b for a, b in pairs)


@dataclasses.dataclass(frozen=True, eq=False)
class Programs:
    """The jitted functions of one shape.

    Attributes:
      shape: see there.
      network: the dense form as a network.
      traces: how often each function was compiled, by name.
      slowest: seconds of the slowest first call, compilation included.
    """

    shape: Shape
    network: Network
    traces: dict[str, int]
    slowest: list[float] = dataclasses.field(default_factory=lambda: [0.0])

    def is_ready(self, parents: int, config: RoundConfig) -> bool:
        """Whether a round of that many parents is compiled."""
        return _round_name(parents, config) in self.traces

    @functools.partial(jax.jit, static_argnums=(0, 6))
    def root(
        self,
        params: PyTree,
        region: Region,
        spec: Spec,
        hidden: Hidden,
        start: tuple[va.Slopes, Array, Array],
        config: va.AlphaConfig,
    ) -> va.AlphaState:
        """Runs `alpha.optimize` from slopes, a learning rate, and a number of steps."""
        name = f"root{spec.C.shape[0]}"
        self.traces[name] = self.traces.get(name, 0) + 1
        weights = self.network.prepare(params)
        slopes, rate, steps = start
        return va.optimize(
            self.network,
            weights,
            region,
            spec,
            hidden,
            config,
            slopes,
            learning_rate=rate,
            enough=0.01,
            margin=True,
            steps=steps,
            lost=params["lost"],
        )

    @functools.partial(jax.jit, static_argnums=(0, 4, 5))
    def start(
        self,
        params: PyTree,
        region: Region,
        hidden: Hidden,
        rows: int,
        config: va.AlphaConfig,
    ) -> va.Slopes:
        """Runs `alpha.init_slopes`."""
        weights = self.network.prepare(params)
        return va.init_slopes(self.network, weights, region, hidden, rows, config)

    @functools.partial(jax.jit, static_argnums=(0, 7))
    def round(
        self,
        params: PyTree,
        region: Region,
        hidden: Hidden,
        bias: tuple[Array, ...],
        parents: Domains,
        parent_lower: Array,
        config: RoundConfig,
    ) -> tuple[Round, Array]:
        """Runs `split_round`; also the margin of the rows at each child's point."""
        name = _round_name(parent_lower.shape[0], config)
        self.traces[name] = self.traces.get(name, 0) + 1
        return self._round(params, region, hidden, bias, parents, parent_lower, config)

    @functools.partial(jax.jit, static_argnums=(0, 4))
    def rounds(
        self,
        forms: Any,
        parents: Domains,
        parent_lower: Array,
        config: RoundConfig,
    ) -> tuple[Round, Array]:
        """Runs a round of several networks, in lanes; see `verify.together`.

        Args:
          forms: `together.Forms` of the network of each lane.
          parents: of each lane, with leading axes [L, P].
          parent_lower: [L, P].
          config: of the rounds.
        """
        name = f"rounds{parent_lower.shape[0]}x{parent_lower.shape[1]}"
        self.traces[name] = self.traces.get(name, 0) + 1

        def lane(form: Any, parents: Domains, lower: Array):
            return self._round(
                form.params,
                form.region,
                form.hidden,
                form.bias,
                parents,
                lower,
                config,
            )

        return jax.vmap(lane)(forms, parents, parent_lower)

    def _round(self, params, region, hidden, bias, parents, parent_lower, config):
        weights = self.network.prepare(params)
        found = split_round(
            self.network,
            weights,
            region,
            hidden,
            bias,
            parents,
            parent_lower,
            config,
            params["lost"],
        )
        flat = found.point.reshape(-1, found.point.shape[-1])
        y = jax.vmap(functools.partial(reduce.apply, params))(flat)
        margins = jnp.einsum("bmn,bn->bm", found.domains.C, y) + found.domains.d
        return found, margins.max(-1).reshape(found.lower.shape)


def _round_name(parents: int, config: RoundConfig) -> str:
    return f"round{parents}x{2**config.levels}"


@functools.lru_cache(maxsize=64)
def programs(shape: Shape) -> Programs:
    """Returns the programs of a shape, the same ones each time."""
    dtype = jnp.dtype(shape.dtype)

    def struct(*sizes: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sizes, dtype)

    before, layers = shape.inputs, []
    for n in shape.neurons:
        layers.append({"matrix": struct(before, n), "bias": struct(n)})
        before += n
    output = {"matrix": struct(before, shape.outputs), "bias": struct(shape.outputs)}
    params = {"layers": layers, "output": output, "lost": struct()}
    return Programs(shape, network(reduce.apply, params, struct(shape.inputs)), {})


def round_config(config: Config, levels: int = 1) -> RoundConfig:
    """Returns the part of a search's configuration that a round needs."""
    bound = BetaConfig(
        config.steps,
        config.learning_rate_alpha,
        config.learning_rate_beta,
        config.decay,
        config.method == "beta",
    )
    return RoundConfig(
        bound, config.heuristic, config.candidates, config.reduce_op, levels
    )
