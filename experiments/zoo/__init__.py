"""What the experiment of number formats side by side is made of.

| module     | holds |
|------------|-------|
| `formats`  | the formats of each width, kernels quantized by them |
| `protocol` | accuracies, noise, cost, as stages of a run |
| `claims`   | rows and figures of the report |
"""
