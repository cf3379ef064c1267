"""Held-out losses and scores of denoisers as typed results."""

from __future__ import annotations

import pytest
from test_report import CPU

from wfbench.analysis.denoising import Bin, held_out_losses, sample_scores
from wfbench.records import DiTRow, ScoreRow

PLAIN = {"environment": CPU, "model": "dit-s-2", "pos_embed": "sincos", "recipe": "dit", "recipe_digest": "abc"}
PLAIN |= {"dataset": "digits", "image_size": (8, 8), "dtype": "float32", "weights": "raw"}


def denoiser(mixer: str = "softmax", seed: int = 0, loss: float = 0.1, minute: int = 0, **changes: object) -> DiTRow:
    fields: dict[str, object] = {
        "created": f"2025-01-01T00:{minute:02}:00+00:00",
        "mixer": mixer,
        "seed": seed,
        "space": "pixel",
        "loss": loss,
        "edges": (0, 500, 1000),
        "mse": (2 * loss, loss),
        "vb": (0.5, 0.25),
        "samples": 100,
        "noise_seed": 0,
        "epochs": 2,
        "steps": 20,
        "batch": 10,
        "parameters": 1000,
        "macs": 2000.0,
        "ema_decay": None,
        "best_loss": loss / 2,
        "train_curve": ((1, 0.5), (2, 0.4)),
        "held_out_curve": ((1, 0.3), (2, loss)),
        "train_seconds": 10.0 + seed,
        "images_per_second": 100.0,
        "data_wait_share": 0.0,
    }
    return DiTRow(**(PLAIN | fields | changes))


def score(mixer: str = "softmax", seed: int = 0, value: float = 10.0, minute: int = 0, **changes: object) -> ScoreRow:
    fields: dict[str, object] = {
        "created": f"2025-01-01T00:{minute:02}:00+00:00",
        "mixer": mixer,
        "seed": seed,
        "weights_sha256": "f" * 64,
        "sampler": "ddpm",
        "steps": 250,
        "cfg": 1.0,
        "cfg_channels": None,
        "decoder": "pixel",
        "sample_seed": 0,
        "samples_sha256": "e" * 64,
        "samples": 500,
        "metric": "proxy-FD",
        "value": value,
        "extractor": "digits-extractor",
        "reference": "digits, train",
    }
    return ScoreRow(**(PLAIN | fields | changes))


def test_losses_are_means_over_the_newest_runs_of_each_seed() -> None:
    rows = [denoiser(seed=seed, loss=0.1 + seed / 10) for seed in range(3)] + [denoiser("linear", loss=0.5)]
    (found,) = held_out_losses([*rows, denoiser(seed=2, loss=0.6, minute=5)])
    linear, softmax = found.lines
    assert (linear.label, softmax.label) == ("linear", "softmax")
    assert softmax.loss.value == pytest.approx((0.1 + 0.2 + 0.6) / 3)
    assert softmax.mse == {Bin(0, 499): pytest.approx(0.6), Bin(500, 999): pytest.approx(0.3)}
    assert softmax.vb == {Bin(0, 499): 0.5, Bin(500, 999): 0.25}
    assert (softmax.best_loss, softmax.train_seconds) == (pytest.approx(0.15), 11)
    assert [run.seed for run in found.runs] == [0, 0, 1, 2]


def test_losses_of_other_noise_are_another_result() -> None:
    found = held_out_losses([denoiser(), denoiser(noise_seed=1), denoiser(weights="ema")])
    assert [(result.setting.weights, result.setting.noise_seed) for result in found] == [("ema", 0), ("raw", 0), ("raw", 1)]


def test_scores_stand_together_by_protocol_and_metric() -> None:
    rows = [score(seed=seed, value=10.0 + seed) for seed in range(2)] + [score("linear"), score(samples=100), score(cfg=1.5)]
    found = sample_scores(rows)
    assert [result.protocol.cfg for result in found] == [1.0, 1.5]
    assert [(line.metric.samples, line.label, len(line.rows)) for line in found[0].lines] == [
        (100, "softmax", 1),
        (500, "linear", 1),
        (500, "softmax", 2),
    ]
    assert found[0].lines[2].value.value == 10.5
