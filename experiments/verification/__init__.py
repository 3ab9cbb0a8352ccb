"""The verifier at the front door: one property, a benchmark, a test set.

| module      | holds |
|-------------|-------|
| `command`   | `launch.py verify`: which of its three forms, flags, help |
| `single`    | a property of a network: the competition's result line |
| `benchmark` | a table of instances |
| `robust`    | robustness over the images of a test set |
| `search`    | the search's flags, and one problem as plain numbers |
| `networks`, `instances`, `images` | what is decided, from files |
| `cases`     | many decisions in one work folder, and their table |
| `sdp`, `competition` | protocols and claims of the experiments |
"""

from experiments.verification.command import resume_run, verify_command

__all__ = ["resume_run", "verify_command"]
