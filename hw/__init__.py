"""Hardware as jittable cost functions over an operator table.

| workloads | |
|------|------|
| `workload(fn, params, x, density=, bits=, pattern=)` | the operator table |
| `design(table, bits=, density=)` | the same with other formats, within `jit` |
| `distinct(table)` | equal rows put together |
| `Workload`, `PATTERNS` | a row for each operator; names of sparsity patterns |

| costs | |
|------|------|
| `cost(table, target)` | latency, energy, resources, what bounds each row |
| `explain(table, target)` | why: bounds, shares, what would have to change |
| `roofline(table, target)` | products under a roof, as numbers to plot |
| `pareto(points)` | which designs no other one beats |
| `summary(cost)` | totals in Python numbers |
| `Cost`, `Explanation`, `Roofline`, `Target`, `Terms` | types |

| targets | |
|------|------|
| `TARGETS`, `get(name)` | CPUs, GPUs, FPGAs, arrays, memories that multiply |
| `constants(target)`, `constants_table(target)` | each with unit and source |
| `replace(target, ...)` | a target with other constants |
| `targets` (a module) | their classes: `Processor`, `Fpga`, `Msq`, `Systolic`, ... |
| `calibrate()` | `host` fitted to the machine at hand |

| arithmetic of memories | |
|------|------|
| `capram` (a module) | charge, 7-bit converters, mismatch, calibration |
| `memristor` (a module) | conductances, differential pairs, noise, drift |
| `behaviour.through(fn, product)` | any network with its products computed so |

Example, what four bits and a quarter of the weights buy on an FPGA:

    table = hw.workload(fn, params, x, bits=4, density=0.25, pattern="block")
    found = hw.cost(table, hw.get("fpga_zcu102"))
    found.latency_s, found.energy_j, found.feasible
    print(hw.explain(table, hw.get("fpga_zcu102")))

Costs are pure functions: differentiate them in bits and densities, vmap them over
designs. All of them but the calibrated `host` are simulated.
"""

from hw import behaviour, capram, memristor, targets
from hw.calibration import Calibration, calibrate
from hw.constants import constants, constants_table, replace
from hw.cost import Cost, Target, Terms, cost, pareto, summary
from hw.explain import Explanation, Roofline, explain, roofline
from hw.patterns import PATTERNS
from hw.targets import TARGETS, get
from hw.workload import Workload, design, distinct, workload

__all__ = [
    "PATTERNS",
    "TARGETS",
    "Calibration",
    "Cost",
    "Explanation",
    "Roofline",
    "Target",
    "Terms",
    "Workload",
    "behaviour",
    "calibrate",
    "capram",
    "constants",
    "constants_table",
    "cost",
    "design",
    "distinct",
    "explain",
    "get",
    "memristor",
    "pareto",
    "replace",
    "roofline",
    "summary",
    "targets",
    "workload",
]
