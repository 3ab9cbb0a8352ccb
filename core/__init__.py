"""What several rooms need and nothing else.

| module      | holds |
|-------------|-------|
| `errors`    | named errors and the checks that raise them |
| `rules`     | `(path regex, spec)` lists matched against a pytree |
| `trees`     | paths of leaves, and maps over trees with `None` leaves |
| `gemm`      | the matrix view of dense, conv and recurrent kernels |
| `selection` | exact top-k masks of large arrays |
| `numerics`  | finite checks at boundaries |
| `text`      | tables as text |
| `types`     | names of types |

The list is closed: a helper that only one room uses lives in that room.
"""
