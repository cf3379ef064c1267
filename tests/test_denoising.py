"""Held-out losses and scores of denoisers as typed results."""

from __future__ import annotations

import numpy as np
import pytest
from test_report import CPU, lines, notes

from wfbench import report
from wfbench.analysis.denoising import Bin, held_out_losses, sample_scores
from wfbench.analysis.results import analyse
from wfbench.analysis.seed_differences import compare_seeds, over_seeds
from wfbench.records import DiTRow, ScoreRow
from wfbench.report import Asked
from wfbench.report.answers import answers
from wfbench.report.findings import findings

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
    assert softmax.loss.estimate == pytest.approx((0.1 + 0.2 + 0.6) / 3)
    mse = {found: mean.estimate for found, mean in softmax.mse.items()}
    assert mse == {Bin(0, 499): pytest.approx(0.6), Bin(500, 999): pytest.approx(0.3)}
    assert {found: mean.estimate for found, mean in softmax.vb.items()} == {Bin(0, 499): 0.5, Bin(500, 999): 0.25}
    assert (softmax.best_loss, softmax.train_seconds.estimate) == (pytest.approx(0.15), 11)
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
    assert found[0].lines[2].value.estimate == 10.5


# --- over seeds, against the baseline

UNPAIRED, PAIRED = 5, 6  # versions of rows
SEEDS = np.array([0.0, 0.02, -0.01, 0.015])


def losses(version: int, **shifts: float) -> list[DiTRow]:
    """Losses that go up and down together from seed to seed, with a little beside."""
    draws = np.random.default_rng(0)
    return [
        denoiser(mixer, seed, 0.1 + shift + SEEDS[seed] + 1e-4 * draws.normal(), schema_version=version)
        for mixer, shift in shifts.items()
        for seed in range(4)
    ]


def test_the_half_width_is_that_of_the_t_interval_over_seeds() -> None:
    (found,) = held_out_losses([denoiser(seed=seed, loss=loss) for seed, loss in enumerate((0.1, 0.2, 0.6))])
    (line,) = found.lines
    deviation = np.std([0.1, 0.2, 0.6], ddof=1)
    assert line.loss_deviation == pytest.approx(deviation)
    assert line.loss.half_width == pytest.approx(4.30265 * deviation / 3**0.5, rel=1e-4)  # t with 2 degrees of freedom
    assert over_seeds([0.1]).why_none == "a single seed"
    assert over_seeds([0.0, 0.0]).why_none == "the seeds do not differ"
    assert over_seeds([0.0, float("nan")]).why_none == "a value is not finite"
    shares = over_seeds([0.0, 0.0], samples=500)
    assert shares.high == pytest.approx(3.84146 / (500 + 3.84146), rel=1e-3)  # Wilson's upper end for none of 500


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("better", "shift", "finding"),
    [("less", -1.0, "better"), ("less", 1.0, "worse"), ("more", 1.0, "better"), ("neither", -1.0, "lower")],
)
@pytest.mark.parametrize("is_paired", [True, False])
def test_the_sign_of_a_difference_and_which_side_is_better(better: str, shift: float, finding: str, is_paired: bool) -> None:
    base = {seed: value for seed, value in enumerate(SEEDS)}
    ours = {seed: value + shift + 0.001 * seed for seed, value in base.items()}
    family = compare_seeds({"softmax": base, "pool": ours, "alone": {0: 1.0}}, "softmax", better, is_paired=is_paired)
    assert family.differences.keys() == {"pool"}
    found = family.differences["pool"]
    assert (found.finding, family.is_paired) == (finding, is_paired)
    assert found.difference.estimate == pytest.approx(shift + 0.0015)
    assert found.difference.low < found.difference.estimate < found.difference.high


def test_losses_of_the_paired_design_are_compared_seed_by_seed() -> None:
    (paired,), (old,) = (held_out_losses(losses(v, softmax=0.0, linear=0.002)) for v in (PAIRED, UNPAIRED))
    assert paired.family.differences["linear"].finding == "worse"
    assert old.family.differences["linear"].finding == "not distinguishable"
    assert (paired.family.is_paired, old.family.is_paired) == (True, False)
    (short,), (earlier,) = (findings(analyse(losses(v, softmax=0.0, linear=0.002))) for v in (PAIRED, UNPAIRED))
    assert "; against softmax worse: linear +0.0020 [+0.00" in short.sentences[0]
    assert "; against softmax (unpaired) not distinguishable: linear +0.0020 [−0.0" in earlier.sentences[0]
    long = answers(analyse(losses(UNPAIRED, softmax=0.0, linear=0.002)))[0].sentences[0]
    assert "not distinguishable from softmax: +0.0020 [−0.0" in long
    assert long.endswith("] (unpaired).")
    some = [row for row in losses(PAIRED, softmax=0.0, linear=0.002) if (row.mixer, row.seed) != ("linear", 3)]
    assert not held_out_losses(some)[0].family.is_paired, "other seeds"


def test_a_score_of_an_older_training_is_not_paired_though_it_was_scored_today() -> None:
    rows = [score(mixer, seed, 10 + SEEDS[seed]) for mixer in ("softmax", "linear") for seed in range(4)]
    assert not sample_scores(rows)[0].lines[0].family.is_paired
    known = [row.model_copy(update={"mixer_digest": row.mixer}) for row in rows]
    assert sample_scores(known)[0].lines[0].family.is_paired


def test_runs_by_other_code_of_the_mixer_are_another_line() -> None:
    rows = [denoiser(seed=seed, mixer_digest="one" if seed < 2 else "two") for seed in range(3)]
    assert [line.label for line in held_out_losses(rows)[0].lines] == ["softmax (code one)", "softmax (code two)"]
    assert len(held_out_losses([denoiser(data_digest="one"), denoiser(seed=1, data_digest="two")])) == 2


def test_the_tables_say_what_is_compared_and_which_side_is_better() -> None:
    (table,) = report.tables(losses(UNPAIRED, softmax=0.0, linear=0.2))
    assert lines(table, "verdict") == ["worse", "baseline"]
    assert lines(table, "difference to softmax")[0].startswith("+0.20 [+0.1")
    assert "±" in lines(table, "held-out loss")[0]
    assert "half-width of the 95% t-interval" in notes(table)
    assert "unpaired, by Dunnett's test of 1 line" in notes(table)
    assert "Less is better" in notes(table)
    assert {"loss_low", "loss_high", "loss_sd", "difference_low"} <= set(table.data)
    (table,) = report.tables([denoiser(), denoiser("linear")])
    assert "verdict" not in table.frame
    assert "No interval, since there is a single seed." in notes(table)
    (table,) = report.tables(losses(UNPAIRED, pool=0.0, linear=0.2))
    assert "Nothing was compared with the baseline softmax: there is no such line." in notes(table)
    (table,) = report.tables(losses(UNPAIRED, pool=0.0, linear=0.2), Asked(baseline="pool"))
    assert lines(table, "verdict") == ["worse", "baseline"]
    rows = [score(mixer, seed, value + SEEDS[seed]) for mixer, value in (("softmax", 5), ("linear", 9)) for seed in range(4)]
    rows += [row.model_copy(update={"metric": "memorised share", "value": 0.0}) for row in rows]
    (table,) = report.tables(rows)
    assert "Less is better, so a difference below 0 is for the line: proxy-FD." in notes(table)
    assert "Neither more nor less is better: memorised share." in notes(table)
    assert dict(zip(lines(table, "metric"), lines(table, "value"), strict=True))["memorised share (%)"] == "0 ± 0.76"
