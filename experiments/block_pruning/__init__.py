"""What the block-pruning experiment is made of.

| module     | holds |
|------------|-------|
| `networks` | the networks, what is pruned of them, and how they run packed |
| `methods`  | the patterns that are compared, each with its packed form |
| `protocol` | training, pruning at equal budgets, timing |
| `claims`   | rows and figures of the report |
"""
