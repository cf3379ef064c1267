"""Random numbers by key."""

from __future__ import annotations

import numpy as np
from scipy import stats

from wfbench.data.draws import splitmix64, uniforms


def test_the_generator_gives_its_published_numbers() -> None:
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert splitmix64(np.array([1234567], dtype=np.uint64), 5)[0].tolist() == expected


def test_numbers_follow_from_the_key_alone() -> None:
    together = uniforms([(1, 2, 3), (1, 2, 4), (1, 3, 3)], 50)
    assert np.array_equal(uniforms([(1, 2, 4)], 50)[0], together[1])
    assert np.array_equal(uniforms([(1, 2, 4)], 10)[0], together[1, :10])
    assert len(np.unique(together)) == 150
    assert not np.array_equal(uniforms([(1, 2)], 5), uniforms([(2, 1)], 5))
    assert not np.array_equal(uniforms([(0, 1)], 5), uniforms([(1, 0)], 5))


def test_they_are_uniform_and_independent_over_neighbouring_keys() -> None:
    u = uniforms([(0, 0, i, 1) for i in range(20_000)], 8)
    assert u.min() >= 0
    assert u.max() < 1
    for column in u.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-4
        assert abs(np.corrcoef(column[:-1], column[1:])[0, 1]) < 4 / 20_000**0.5
    assert np.abs(np.corrcoef(u.T) - np.eye(8)).max() < 4.5 / 20_000**0.5
    for other in (uniforms([(1, 0, i, 1) for i in range(20_000)], 8), uniforms([(0, 0, i, 2) for i in range(20_000)], 8)):
        assert abs(np.corrcoef(u[:, 0], other[:, 0])[0, 1]) < 4 / 20_000**0.5
    pairs, _, _ = np.histogram2d(u[:, 0], u[:, 1], bins=16, range=[[0, 1], [0, 1]])
    assert stats.chisquare(pairs.ravel()).pvalue > 1e-4
