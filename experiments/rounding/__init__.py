"""What the experiment of rounding without data is made of.

| module     | holds |
|------------|-------|
| `options`  | what they share with other experiments on trained networks |
| `networks` | the networks, their batch norms, what their layers' inputs look like |
| `layers`   | errors of layers on real inputs, bounds, quantized trees |
| `protocol` | training, accuracies, times, as stages of a run |
| `claims`   | rows and figures of the report |
"""
