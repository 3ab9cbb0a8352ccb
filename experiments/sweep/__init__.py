"""Sweeps: an experiment over a grid of its options and several seeds.

    python launch.py sweep admm_pruning --grid='rho=1e-3,1e-2;weight_decay=0,5e-5' \
        --seeds=0,1,2 --executor=local --workers=2

| name | what it is |
| --- | --- |
| `sweep` | runs a grid and writes its tables and plots |
| `parse_grid` | the text of `--grid` as values of each axis |
| `FILE` | the file that marks a folder as a sweep's |
| `EXECUTORS` | `local` processes, or `slurm` through submitit |

Each seed of each cell is a run of its own, `DIR/CELL/seedN`, started by its own
command: what is finished is not run again when the sweep is repeated, what was
killed goes on from its checkpoint, and what fails costs no other. Beside a run's
folder, `seedN.out` and `seedN.err` hold what it printed. The sweep writes
`sweep.md`, `sweep.csv`, `sweep.png` and `report.html` into DIR.
"""

from experiments.sweep.executors import EXECUTORS
from experiments.sweep.grid import parse_grid
from experiments.sweep.main import FILE, sweep

__all__ = ["EXECUTORS", "FILE", "parse_grid", "sweep"]
