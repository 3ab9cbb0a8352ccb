"""Spoken digits as log-mel frames, in the form of images of grey levels.

The Free Spoken Digit Dataset (3,000 recordings, 6 speakers, 8 kHz; CC BY-SA 4.0), split
as its authors do: takes 0 to 4 of each digit and speaker test, the others train.
"""

import numpy as np

from core.errors import DataUnavailableError, describe
from experiments.data import Dataset, Split
from experiments.folders import data_root

WINDOW = 256
"""Samples of a frame, 32 ms."""
HOP = 128
"""Samples between frames, 16 ms."""
BANDS = 26
FRAMES = 48
"""Of a recording, 0.8 s; a longer one loses its end, a shorter one follows silence."""
RANGE = 80.0
"""Decibels below a recording's loudest band that grey levels reach."""
TEST_TAKES = 5


def mel_filters(bands: int, window: int, rate: int) -> np.ndarray:
    """Returns triangles of equal width in mel, float64 [window // 2 + 1, bands]."""
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    f = np.fft.rfftfreq(window, 1 / rate)[:, None]
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (f - low) / (middle - low), (high - f) / (high - middle)
    return np.maximum(np.minimum(rising, falling), 0)


def log_mel(audio: np.ndarray, rate: int) -> np.ndarray:
    """Returns the grey levels of a recording, uint8 [frames, BANDS]; 255 is loudest.

    Args:
      audio: samples [n], of any length.
      rate: of samples, Hz.
    """
    audio = np.pad(audio.astype(np.float64), (0, max(WINDOW - len(audio), 0)))
    frames = np.lib.stride_tricks.sliding_window_view(audio, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW))) ** 2
    level = 10 * np.log10(power @ mel_filters(BANDS, WINDOW, rate) + 1e-9)
    share = np.clip((level - level.max()) / RANGE + 1, 0, 1)
    return np.round(255 * share).astype(np.uint8)


def load() -> Dataset:
    """Returns the recordings, images [n, FRAMES, BANDS, 1].

    Raises:
      DataUnavailableError: there is no such file.
    """
    path = data_root() / "speech_digits" / "fsdd.npz"
    if not path.is_file():
        wanted = "the Free Spoken Digit Dataset, speech_digits/fsdd.npz"
        remedy = "Set LATHE_DATA to the data folder, or take another task."
        raise DataUnavailableError(describe(f"no file at {path}", wanted, remedy))
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    ends = np.cumsum(arrays["length"])
    rate = int(arrays["sample_rate"])
    images = np.zeros((len(ends), FRAMES, BANDS, 1), np.uint8)
    for i, (size, end) in enumerate(zip(arrays["length"], ends, strict=True)):
        frames = log_mel(arrays["audio"][end - size : end], rate)[:FRAMES]
        images[i, FRAMES - len(frames) :, :, 0] = frames
    labels = arrays["label"].astype(np.int32)
    test = arrays["take"] < TEST_TAKES
    pixels = images[~test] / 255
    return Dataset(
        "speech_digits",
        "Free Spoken Digit Dataset (takes 0 to 4 test)",
        Split(images[~test], labels[~test]),
        Split(images[test], labels[test]),
        10,
        (float(pixels.mean()),),
        (float(pixels.std()),),
    )
