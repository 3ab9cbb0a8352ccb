"""What the experiments that train towards constraint sets are made of.

| module | holds |
|--------|-------|
| `progressive`, `progressive_rows` | pruning in steps, levels down to one bit |
| `rank` | trained rank pruning beside decompositions after training |
| `recurrent`, `recurrent_rows` | circulant LSTM and GRU: training, FFTs, two phases |
| `speech` | spoken digits as log-mel frames |
| `crossbars`, `crossbar_rows` | pruning, purification and levels for memristor arrays |
| `structured` | filters, channels and shapes, compacted and timed |
"""
