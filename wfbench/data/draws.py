"""Random numbers by key, for a whole batch at once: those of a sample follow from its own key and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def uniforms(keys: Sequence[Sequence[int]], number: int) -> np.ndarray:
    """Numbers uniform in [0, 1) for each of some keys: (keys, number), float64.

    A key is a few whole numbers from 0, such as (seed, epoch, index); keys of one call have equal lengths. Each number is one
    output of SplitMix64 whose state follows from the key. NumPy's generators would have to be made anew for every sample, which
    costs more than the numbers.

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014), figure 16.
    """
    words = np.array(keys, dtype=np.uint64)
    state = np.zeros(len(words), dtype=np.uint64)
    for column in words.T:
        state = _mixed(state + _GOLDEN) ^ column
    bits = splitmix64(_mixed(state + _GOLDEN), number)
    return (bits >> np.uint64(11)) * 2.0**-53


def splitmix64(state: np.ndarray, number: int) -> np.ndarray:
    """The first outputs of SplitMix64 from each state (n,), uint64: (n, number), uint64."""
    steps = np.arange(1, number + 1, dtype=np.uint64) * _GOLDEN  # modulo 2^64, as all that follows
    return _mixed(state[:, None] + steps)


def _mixed(z: np.ndarray) -> np.ndarray:
    """The output function: a bijection of 64-bit words in which every bit of the input moves every bit of the output."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
