"""What the experiments that train networks in number formats are made of.

| module     | holds |
|------------|-------|
| `options`  | what their configs share |
| `networks` | the networks, and a module whose layers are quantized |
| `arms`     | what is compared: layers of a network, and how it is trained |
| `sets`     | ADMM towards levels, rows of MSQ by several orders |
| `protocol` | float training, training with rounding, ADMM, as stages of a run |
| `claims`   | rows and figures |
| `study`    | errors of formats on distributions, by exact integrals |
| `esb`, `msq`, `ant` | the arms and the claims of each paper |
"""
