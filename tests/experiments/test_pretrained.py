"""Pretrained ResNets: the accuracy stated beside the files, and errors by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.errors import DataFormatError, DataUnavailableError, UnknownNameError
from experiments import data
from experiments.models import (
    MODELS,
    PRETRAINED,
    PRETRAINED_MEAN,
    PRETRAINED_STD,
    create,
    from_torch,
    load_pretrained,
)

SHAPE = (32, 32, 3)


@pytest.fixture(scope="session")
def folder(data_root):
    path = data_root / "pretrained"
    if not path.is_dir():
        pytest.skip(f"no pretrained networks at {path}")
    return path


def correct(name, images, labels, folder, batch=500, dtype=jnp.float32) -> int:
    """Returns how many images the network of that name gets right."""
    model = create(PRETRAINED[name].model, dtype=dtype)
    variables = load_pretrained(name, folder)

    @jax.jit
    def predict(variables, images):
        x = data.normalize(images, PRETRAINED_MEAN, PRETRAINED_STD)
        return model.apply(variables, x).argmax(-1)

    batches = range(0, len(images), batch)
    found = [predict(variables, jnp.asarray(images[i : i + batch])) for i in batches]
    return int((np.concatenate(found) == labels).sum())


def torch_arrays(name="resnet20", seed=0) -> dict[str, np.ndarray]:
    """Returns random weights of a ResNet in torch's names and layouts, by hand."""
    rng = np.random.default_rng(seed)
    arrays = {}

    def conv(name, out, channels):
        arrays[f"{name}.weight"] = rng.normal(size=(out, channels, 3, 3)) * 0.1

    def norm(name, size):
        for leaf in ("weight", "bias", "running_mean"):
            arrays[f"{name}.{leaf}"] = rng.normal(size=size)
        arrays[f"{name}.running_var"] = rng.uniform(1, 2, size=size)

    conv("conv1", 16, 3)
    norm("bn1", 16)
    before = 16
    for stage, width in enumerate((16, 32, 64), start=1):
        for block in range((int(name.removeprefix("resnet")) - 2) // 6):
            at = f"layer{stage}.{block}"
            conv(f"{at}.conv1", width, before)
            norm(f"{at}.bn1", width)
            conv(f"{at}.conv2", width, width)
            norm(f"{at}.bn2", width)
            before = width
    arrays["linear.weight"] = rng.normal(size=(10, 64))
    arrays["linear.bias"] = rng.normal(size=10)
    return {key: value.astype(np.float32) for key, value in arrays.items()}


@pytest.fixture
def archive(tmp_path):
    """Writes arrays to an .npz file and returns its path."""

    def write(arrays, name="weights.npz"):
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    return write


@pytest.mark.data
@pytest.mark.parametrize("name", PRETRAINED)
def test_accuracy_on_lossless_images(name, folder):
    """README of the files: 92.5, 92.5 and 94.5 % of 200, exactly."""
    with np.load(folder / "cifar10_lossless_200.npz") as clean:
        images, labels = clean["image"], clean["label"]
    found = correct(name, images, labels, folder, batch=200)
    assert found == PRETRAINED[name].clean
    assert found == {"resnet20": 185, "resnet20_jpeg": 185, "resnet56": 189}[name]


@pytest.mark.data
def test_accuracy_in_bfloat16(folder):
    with np.load(folder / "cifar10_lossless_200.npz") as clean:
        images, labels = clean["image"], clean["label"]
    found = correct("resnet20", images, labels, folder, 200, jnp.bfloat16)
    assert abs(found - 185) <= 3


@pytest.fixture(scope="module")
def jpeg_split(data_root):
    try:
        return data.load("cifar10", data_dir=data_root / "tensorflow_datasets").test
    except DataUnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.data
def test_accuracy_on_the_first_jpeg_images(jpeg_split, folder):
    """868 of the first 1,000, of 8,751 in all; two may lie at a decision boundary.

    The experiment squant measures all 10,000.
    """
    images, labels = jpeg_split.images[:1000], jpeg_split.labels[:1000]
    assert abs(correct("resnet20_jpeg", images, labels, folder) - 868) <= 2


def test_every_row_is_a_model():
    assert all(info.model in MODELS for info in PRETRAINED.values())


@pytest.mark.parametrize("name", ["resnet20", "resnet32", "resnet56"])
def test_conversion_fits_the_network(name, archive):
    arrays = torch_arrays(name)
    variables = load_pretrained(archive(arrays))
    like = jax.eval_shape(create(name).init, jax.random.key(0), jnp.zeros((1, *SHAPE)))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, like)
    assert jax.tree.structure(variables) == jax.tree.structure(like)
    params, stats = variables["params"], variables["batch_stats"]
    kernel = params["layer2_0"]["conv1"]["kernel"]
    weight = arrays["layer2.0.conv1.weight"]
    assert kernel[1, 2, 3, 4] == weight[4, 3, 1, 2]
    assert params["linear"]["kernel"][5, 6] == arrays["linear.weight"][6, 5]
    assert params["bn1"]["scale"][3] == arrays["bn1.weight"][3]
    assert stats["bn1"]["var"][3] == arrays["bn1.running_var"][3]
    assert stats["layer1_2"]["bn2"]["mean"][1] == arrays["layer1.2.bn2.running_mean"][1]


def test_batch_counters_are_left_out():
    arrays = {**torch_arrays(), "bn1.num_batches_tracked": np.int64(7)}
    assert "params" in from_torch(arrays, create("resnet20"), SHAPE)


def test_unknown_names_and_missing_files(tmp_path, monkeypatch):
    with pytest.raises(UnknownNameError, match="did you mean resnet20"):
        load_pretrained("resnet2")
    with pytest.raises(DataUnavailableError, match="LATHE_DATA"):
        load_pretrained("resnet20", tmp_path)
    with pytest.raises(DataUnavailableError, match="no file"):
        load_pretrained(tmp_path / "absent.npz")
    monkeypatch.setenv("LATHE_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(DataUnavailableError, match="elsewhere"):
        load_pretrained("resnet20")


@pytest.mark.parametrize("kept", [0, 10, 1000, 100_000, -1])
def test_truncated_files(kept, archive):
    path = archive(torch_arrays())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataFormatError, match="cannot be read"):
        load_pretrained(path)


def test_other_files(tmp_path, archive):
    path = tmp_path / "other.npz"
    path.write_text("these are no weights")
    with pytest.raises(DataFormatError, match="cannot be read"):
        load_pretrained(path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataFormatError, match="single array"):
        load_pretrained(path)
    with pytest.raises(DataFormatError, match="cannot be read"):
        load_pretrained(archive({"conv1.weight": np.array([{}], dtype=object)}))
    with pytest.raises(DataFormatError, match="0 residual blocks"):
        load_pretrained(archive({"image": np.zeros(3)}))


def test_damaged_bytes(archive):
    path = archive(torch_arrays())
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(DataFormatError, match="cannot be read"):
        load_pretrained(path)


def test_wrong_names_shapes_and_values(archive, tmp_path):
    good = torch_arrays()
    missing = {key: value for key, value in good.items() if key != "bn1.bias"}
    with pytest.raises(DataFormatError, match=r"lacks 1 names \(bn1\.bias\)"):
        load_pretrained(archive(missing))
    with pytest.raises(DataFormatError, match=r"1 too many \(extra\)"):
        load_pretrained(archive({**good, "extra": np.zeros(2)}))
    renamed = {**missing, "bn1.beta": good["bn1.bias"]}
    with pytest.raises(DataFormatError, match=r"nearest is bn1\.beta"):
        load_pretrained(archive(renamed))
    wide = {**good, "linear.weight": np.zeros((100, 64), np.float32)}
    with pytest.raises(DataFormatError, match=r"linear\.weight of shape"):
        load_pretrained(archive(wide))
    integers = {**good, "linear.bias": np.zeros(10, np.int32)}
    with pytest.raises(DataFormatError, match="int32"):
        load_pretrained(archive(integers))
    nan = {**good, "linear.bias": np.full(10, np.nan, np.float32)}
    with pytest.raises(DataFormatError, match="NaN"):
        load_pretrained(archive(nan))
    archive(torch_arrays("resnet32"), "cifar10_resnet20.npz")
    with pytest.raises(DataFormatError, match="too many"):
        load_pretrained("resnet20", tmp_path)
