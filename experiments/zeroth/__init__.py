"""What the experiments on zeroth-order optimisation share.

| module | what it is |
|---|---|
| `arms` | the methods that are compared, each made from a rate |
| `problems` | stochastic problems whose gradients have a law over coordinates |
| `runs` | methods on problems, all rates and seeds in one program |
| `synthetic` | rows and figures of `hge_synthetic` |
| `victims` | networks that are attacked, and their images |
| `attacks` | attacks of every method, at equal budgets |
| `scales` | a network of integers, and its scales |
"""
