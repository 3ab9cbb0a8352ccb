"""Parts of `shape_and_prove`: what is trained, what is measured, what is shown.

| module | what is in it |
| --- | --- |
| `pipeline` | training, pruning and quantization of one network; `Shaped` |
| `measures` | its certified accuracy, its bytes, its price on every target |
| `outcome` | rows and figures, before and after |
"""
