"""What the experiment on grow-and-prune is made of.

| module     | holds |
|------------|-------|
| `networks` | the networks, their data, what is pruned, operations of each layer |
| `methods`  | every method as an optimizer, or as an epoch of copies |
| `protocol` | both phases of a trial, at equal budgets |
| `claims`   | rows and figures of the report |
"""
