"""What the experiment of networks that are friendly to few bits is made of.

| module     | holds |
|------------|-------|
| `networks` | the variants, their norms, the penalty of depthwise kernels |
| `dead`     | dead channels: how many there are, appended ones |
| `ranges`   | ranges of inputs from data, networks with a width |
| `protocol` | training, accuracies, noise of layers, as stages of a run |
| `claims`   | rows and figures of the report |
"""
