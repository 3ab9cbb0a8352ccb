"""What the experiment of widths that learn within a budget is made of.

| module     | holds |
|------------|-------|
| `networks` | the networks, what shares a width, a network at frozen widths |
| `joint`    | an epoch that trains weights and widths |
| `protocol` | training, allocation, fine-tuning, baselines, as stages of a run |
| `claims`   | rows and figures of the report |
"""
