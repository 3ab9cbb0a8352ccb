"""What the pruning experiments share: networks, budgets, methods, claims.

| module     | holds |
|------------|-------|
| `networks` | the networks pruned, their per-layer targets and MACs |
| `fit`      | one training phase as a resumable stage |
| `methods`  | every pruning method as an optimizer for the pruning phase |
| `protocol` | pretraining, pruning and retraining at equal budgets |
| `claims`   | rows and figures of the report |
"""
