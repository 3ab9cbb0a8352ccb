"""Experiments: one absl script per paper, and what they share.

| module         | holds |
|----------------|-------|
| `registry`     | every experiment by name, its paper, claim, modes and data |
| `options`      | a config dataclass is an experiment's flags |
| `cli`, `commands`, `commandline` | `launch.py`, `python -m experiments.NAME` |
| `workdir`, `checkpoints` | work folders: stages, metrics, resuming |
| `results`, `report`, `sweep` | results.json, report.html, docs/RESULTS.md, ablations |
| `data`         | data sets as typed arrays |
| `models`       | flax networks and pretrained weights |
| `training`     | one jitted epoch, on one device or all |
| `pruning`      | what the pruning experiments share |
| `compilation`  | compiled programs kept for the next run |
| `verification` | `launch.py verify`, and what the verification experiments share |

An experiment is a module with an `EXPERIMENT`; see CONTRIBUTING.md to add one.
"""
