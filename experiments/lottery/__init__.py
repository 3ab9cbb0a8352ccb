"""What the lottery ticket experiment is made of.

| module     | holds |
|------------|-------|
| `networks` | LeNet-300-100, and ResNet-8 with and without skips, at any width |
| `training` | one training run as a pure function of rate, key and masks |
| `plans`    | from options to what is trained |
| `trials`   | dense networks, tickets and controls as stages of a run |
| `claims`   | verdicts, rows and figures |
"""
