"""The accuracy side of wfbench.analysis: typed results of lines over seeds, fronts, overview, resolutions, tuning."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint
from test_comparisons import SAMPLES, seeds
from test_report import ACCURACY, CPU, baseline, cell, evaluated, failed, lines, train

from wfbench.analysis.asked import Asked
from wfbench.analysis.cost import costs
from wfbench.analysis.fronts import Cost, fronts
from wfbench.analysis.interval import Interval
from wfbench.analysis.overview import Overview, overview
from wfbench.analysis.resolutions import resolutions
from wfbench.analysis.seed_differences import over_seeds
from wfbench.analysis.seeds import AccuracyResult, SweepRule, accuracies
from wfbench.analysis.tuning import tunings
from wfbench.analysis.unpaired import against_baseline
from wfbench.records import AnyRow, Chosen, TrialRow
from wfbench.report.accuracy import accuracy_tables
from wfbench.report.resolutions import resolution_tables
from wfbench.report.words import number, number_with_half_width


def result_of(rows: list[AnyRow], **asked: object) -> AccuracyResult:
    (result,) = accuracies(rows, Asked(**asked))
    return result


# --- lines over seeds


def test_a_line_has_the_mean_of_its_seeds_and_the_t_interval() -> None:
    values = [0.90, 0.92, 0.97]
    rows = [train(seed=seed, accuracy=value, train_seconds=10.0 + seed) for seed, value in enumerate(values)]
    (line,) = result_of(rows[::-1]).lines
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert [row.seed for row in line.seeds] == [0, 1, 2]
    assert (line.accuracy.estimate, line.accuracy.low, line.accuracy.high) == pytest.approx((np.mean(values), low, high))
    assert line.train_seconds.estimate == pytest.approx(11.0)
    assert line.identity.mixer == "softmax"


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8, 31])
def test_the_interval_over_seeds_is_the_t_interval(count: int) -> None:
    values = np.random.default_rng(count).normal(0.9, 0.01, count).tolist()
    found = over_seeds(values)
    low, high = stats.t.interval(0.95, count - 1, loc=np.mean(values), scale=stats.sem(values))
    assert (found.estimate, found.low, found.high) == pytest.approx((np.mean(values), low, high), rel=1e-10)


def test_seeds_that_agree_do_not_make_a_certain_accuracy() -> None:
    """Two equal seeds once gave "97.50 ± 0.00"."""
    (result,) = accuracies([train(seed=seed, accuracy=0.975) for seed in range(2)], Asked())
    (line,) = result.lines
    low, _ = proportion_confint(0.975 * 360, 360, method="wilson")
    assert line.accuracy.low == pytest.approx(low)
    assert line.loss.why_none == "the seeds do not differ"
    (table,) = accuracy_tables([result])
    assert table.frame[ACCURACY][0] == f"97.50 ± {100 * (0.975 - low):.2f}"
    assert (table.data["accuracy_low"][0], table.data["accuracy_ci95"][0]) == pytest.approx((low, 0.975 - low))
    assert "No interval of loss (softmax): the seeds do not differ." in table.notes
    (at_size,) = resolutions([evaluated(seed=seed, accuracy=0.975) for seed in range(2)])
    low, _ = proportion_confint(97.5, 100, method="wilson")
    assert at_size.lines[0].sizes[32, 32].accuracy.low == pytest.approx(low)
    assert resolution_tables([at_size])[0].data["accuracy_low"][0] == pytest.approx(low)


def test_every_mean_over_seeds_stands_with_its_interval() -> None:
    rows = [train(seed=s, loss=0.08 + s / 1000, images_per_second=2000 + s, top5=0.99) for s in range(3)]
    (table,) = accuracy_tables(accuracies(rows, Asked()))
    half = stats.t.ppf(0.975, 2) / 3**0.5
    shown = table.frame.iloc[0]
    assert (shown["loss"], shown["images/s"]) == (f"0.0810 ± {half / 1000:.4f}", f"2,001 ± {half:.0f}")
    assert shown["top-5 (%)"].startswith("99.00 ± 1.")
    raw = table.data.iloc[0]
    assert (raw["loss_low"], raw["loss_high"]) == pytest.approx((0.081 - half / 1000, 0.081 + half / 1000))
    assert raw["images_per_second_high"] == pytest.approx(2001 + half)


@pytest.mark.parametrize(
    ("value", "half", "text"),
    [
        (0.0795, 0.0031, "0.0795 ± 0.0031"),
        (345.8, 12.3, "346 ± 12"),
        (1.4, 0.0003, "1.4000 ± 0.0003"),
        (9876.5, 7.9, "9,876 ± 8"),
    ],
)
def test_a_number_and_its_half_width_have_as_many_places(value: float, half: float, text: str) -> None:
    assert number_with_half_width(Interval.around(value, half)) == text
    assert number_with_half_width(Interval(value, why_none="a single seed")) == number(value)


def test_a_single_seed_says_why_it_has_no_interval() -> None:
    (line,) = result_of([train()]).lines
    assert (line.accuracy.estimate, line.accuracy.low, line.accuracy.why_none) == (0.9, None, "a single seed")


def test_of_a_seed_that_ran_twice_the_latest_counts_and_the_result_says_how_many_were_left_out() -> None:
    result = result_of([train(accuracy=0.5, minute=2), train(accuracy=0.75, minute=1)])
    assert (result.lines[0].accuracies, result.repeats) == ([0.5], 1)


def test_every_line_is_compared_within_its_recipe() -> None:
    other = seeds({"pool": [0.5, 0.51], "softmax": [0.9, 0.91]}, recipe_digest="another")
    result = result_of([*seeds(), *other, train("hydra")], margin=0.01)
    expected = against_baseline([SAMPLES["linear"], SAMPLES["pool"]], SAMPLES["softmax"], relevant=0.01, margin=0.01)
    by_name = {(line.label, line.identity.recipe_digest): line for line in result.lines}
    linear = result.comparison(by_name["linear", "0123456789ab"])
    assert linear is not None
    assert (linear.difference.estimate, linear.difference.low, linear.p_equivalent) == (
        expected.comparisons[0].difference,
        expected.comparisons[0].low,
        expected.comparisons[0].p_equivalent,
    )
    family = result.family(by_name["hydra", "0123456789ab"])
    assert family.baseline == by_name["softmax", "0123456789ab"].identity
    assert len(family.members) == 4
    assert result.comparison(by_name["hydra", "0123456789ab"]) is None
    assert result.comparison(by_name["pool", "another"]) != result.comparison(by_name["pool", "0123456789ab"])


def test_why_nothing_is_compared_is_in_the_result() -> None:
    (family,) = result_of(seeds({"linear": [0.9, 0.91], "pool": [0.9, 0.92]})).families
    assert (family.comparisons, family.why_none) == ({}, "there is no such line")
    (family,) = result_of([train()]).families
    assert family.why_none == "", "nothing was asked of a single seed"


def test_what_a_sweep_made_equal_is_part_of_the_setting() -> None:
    chosen = Chosen(match="params", match_to="softmax", mlp_ratio=4.0, depth=4, lr=1e-3, rates=(1e-3, 2e-3))
    plain, swept = accuracies([train(), train(chosen=chosen)], Asked())
    assert plain.setting is not None
    assert plain.setting.rule is None
    assert swept.setting is not None
    assert swept.setting.rule == SweepRule("params", "softmax", 2)
    assert swept.lines[0].identity.rate == 1e-3


def test_runs_by_other_code_of_the_mixer_are_another_line_and_a_column_says_by_which() -> None:
    """`my_mixer.py` was edited between the seeds: once averaged as "39.17 ± 7.06, 2 seeds"."""
    edited = train("my_mixer.py:Mixer", 1, 0.4, mixer_digest="bbbbbbbbbbbb")
    rows = [train("my_mixer.py:Mixer", 0, 0.3, mixer_digest="aaaaaaaaaaaa"), edited, train(mixer_digest="cccccccccccc")]
    result = result_of(rows)
    assert [line.accuracies for line in result.lines] == [[0.3], [0.4], [0.9]]
    (table,) = accuracy_tables([result])
    assert lines(table, "mixer_digest") == ["aaaaaaaa", "bbbbbbbb", "cccccccc"]
    (table,) = accuracy_tables([result_of(rows[1:])])
    assert "mixer_digest" not in table.frame, "mixers differ in their code as they should"
    assert list(table.data["mixer_digest"]) == ["bbbbbbbbbbbb", "cccccccccccc"]
    assert "mixer_digest" not in accuracy_tables([result_of([train()])])[0].data


def test_runs_by_other_code_of_the_models_are_not_compared() -> None:
    rows = [*seeds({"softmax": SAMPLES["softmax"]}, model_digest="a"), *seeds({"pool": SAMPLES["pool"]}, model_digest="b+c")]
    result = result_of(rows)
    assert {family.why_none for family in result.families} == {"there is no such line", ""}
    assert not result.is_compared
    assert not fronts([result], None)
    assert lines(accuracy_tables([result])[0], "model_digest") == ["b+c", "a"]


def test_runs_on_other_data_stand_in_a_table_of_their_own_whose_title_says_so() -> None:
    rows = [train(data_digest=None), train(data_digest="aaaaaaaaaaaa"), train("pool", data_digest="aaaaaaaaaaaa")]
    made = accuracy_tables(accuracies(rows, Asked()))
    assert [lines(table) for table in made] == [["softmax"], ["pool", "softmax"]]
    assert [table.title.rpartition(", ")[2] for table in made] == ["data not recorded", "data aaaaaaaa"]
    assert len({table.name for table in made}) == 2
    (table,) = accuracy_tables(accuracies(rows[1:], Asked()))
    assert "data" not in table.title, "there is no other to tell it from"
    evaluations = resolutions([evaluated(data_digest="aaaaaaaaaaaa"), evaluated(data_digest="bbbbbbbbbbbb", seed=1)])
    assert [table.title.rpartition(", ")[2] for table in resolution_tables(evaluations)] == ["data aaaaaaaa", "data bbbbbbbb"]


def test_a_run_that_went_on_with_other_code_is_named() -> None:
    (table,) = accuracy_tables([result_of([train(seed=3, mixer_digest="a+b", code_changed="mixer a to b")])])
    assert "softmax, seed 3: resumed with other code: mixer a to b." in table.notes


def test_evaluations_of_weights_by_other_code_are_other_lines() -> None:
    (result,) = resolutions([evaluated(seed=seed, mixer_digest=digest) for seed, digest in ((0, "a" * 12), (1, "b" * 12))])
    assert [line.seed_counts for line in result.lines] == [[1], [1]]
    assert lines(resolution_tables([result])[0], "mixer_digest") == ["aaaaaaaa", "bbbbbbbb"]


def test_simple_classifiers_stand_beside_the_lines_of_their_data_set_or_alone() -> None:
    rows = [baseline("b", 0.98, created="2025-01-02"), baseline("b", 0.5, created="2025-01-01"), baseline("c", dataset="x")]
    beside, alone = accuracies([*rows, train()], Asked())
    assert [(row.name, row.accuracy) for row in beside.simple_classifiers] == [("b", 0.98)]
    assert (alone.dataset, alone.setting, alone.lines) == ("x", None, ())


# --- overview


def overview_of(rows: list[AnyRow]) -> Overview | None:
    return overview(accuracies(rows, Asked()), costs(rows).profiles)


def test_a_trained_line_meets_the_fastest_cell_of_its_own_mixer_and_factors() -> None:
    cells = [cell(sdpa_backend=backend, median=median) for backend, median in (("math", 0.03), ("flash", 0.02))]
    found = overview_of([train(), train("pool"), *cells, cell(variant="patch 32", median=1e-3), failed(side=448)])
    assert found is not None
    (line,) = found.lines
    assert line.first is not None
    assert (line.first.line.sdpa_backend, line.trained.label, found.last) == ("flash", "softmax", (448, 448))
    assert line.last is not None
    assert line.last.row.status == "oom"


def test_lines_are_joined_by_what_they_are_and_not_by_their_name() -> None:
    faithful = {"mixer": "weightformer", "model": "weightformer-tiny", "pos_embed": "none"}
    rows = [train(**faithful), train(**(faithful | {"pos_embed": "learned"})), cell(**faithful)]
    found = overview_of(rows)
    assert found is not None
    assert [line.trained.label for line in found.lines] == ["weightformer, no position"], "which the profile does not say"


@pytest.mark.parametrize(("parameters", "side", "same"), [(5_717_416, 32, True), (5, 32, False), (5_717_416, 224, False)])
def test_a_profile_is_of_the_trained_model_if_size_and_parameters_say_so(parameters: int, side: int, same: bool) -> None:
    found = overview_of([train(parameters=parameters), cell(side=side)])
    assert found is not None
    assert found.same_model is same


# --- fronts


def test_a_line_has_a_place_by_each_cost_that_is_known() -> None:
    rows = [*seeds({"linear": SAMPLES["linear"]}, macs=1e9), *seeds({"softmax": SAMPLES["softmax"]}, macs=2e9)]
    rows += [*seeds({"pool": [0.5, 0.51, 0.49]}, macs=None), train("hydra", accuracy=0.99, macs=1e3)]
    (found,) = fronts(accuracies(rows, Asked()), None)
    places = {line.label: found.places[Cost("macs")].get(line.identity) for line in found.lines}
    assert places == {"linear": "on the front", "pool": None, "softmax": "on the front"}, "pool is surely worse than both"
    assert [line.label for line in found.single] == ["hydra"]
    assert set(found.places) == {Cost("macs"), Cost("parameters"), Cost("train_seconds")}


def test_seeds_that_agree_dominate_nobody() -> None:
    """One image of 360 apart, and no spread over two seeds: once "dominated"."""
    rows = seeds({"linear": [0.975, 0.975], "softmax": [351 / 360 - 1 / 360] * 2, "pool": [0.8, 0.8]})
    (found,) = fronts(accuracies(rows, Asked()), None)
    places = {line.label: found.places[Cost("macs")][line.identity] for line in found.lines}
    assert places == {"linear": "undecided", "pool": "dominated", "softmax": "undecided"}


def test_measured_costs_are_those_of_the_overview() -> None:
    rows = [*seeds(parameters=5_717_416), *(cell(mixer, 32, 0.01) for mixer in SAMPLES)]
    accuracy = accuracies(rows, Asked())
    (found,) = fronts(accuracy, overview(accuracy, costs(rows).profiles))
    assert Cost("latency", (32, 32)) in found.places
    (found,) = fronts(accuracy, overview(accuracy, costs([cell(mixer, 64, 0.01) for mixer in SAMPLES]).profiles))
    assert found.is_other_model
    assert not [cost for cost in found.places if cost.size is not None]


# --- other resolutions, tuning


def test_a_line_has_an_accuracy_at_each_size_it_was_evaluated_at() -> None:
    rows = [evaluated(side=side, seed=seed, accuracy=0.4 + 0.1 * seed) for side in (24, 32) for seed in range(3)]
    rows += [evaluated("linear", 24, 0.3), evaluated("linear", 24, 0.31, environment=CPU)]
    (result,) = resolutions(rows)
    linear, softmax = result.lines
    assert (result.sizes, list(linear.sizes)) == (((24, 24), (32, 32)), [(24, 24)])
    assert linear.sizes[24, 24].accuracy.estimate == 0.31, "of the same weights the newest"
    assert linear.sizes[24, 24].accuracy.why_none == "a single seed"
    assert softmax.sizes[32, 32].accuracy.half_width == pytest.approx(stats.t.ppf(0.975, 2) * 0.1 / 3**0.5)
    assert (linear.seed_counts, softmax.seed_counts) == ([1], [3])


def trial(
    lr: float, accuracy: float | None, mixer: str = "pool", seed: int = 0, loss: float = 1.0, steps: int | None = None
) -> TrialRow:
    plain = train(mixer)
    return TrialRow(
        **{field: getattr(plain, field) for field in ("environment", "model", "recipe", "recipe_digest", "dataset")},
        **{"mixer": mixer, "image_size": (32, 32), "epochs": 20, "seed": seed, "lr": lr, "recipe_lr": 2e-3},
        **{"rates": (1e-3, 2e-3, 4e-3), "status": "diverged" if accuracy is None else "ok", "accuracy": accuracy},
        **{"loss": loss, "samples": 100, "validation": 0.1, "steps": steps},
    )


def test_the_best_rate_has_the_highest_mean_and_no_trial_that_diverged() -> None:
    rows = [trial(1e-3, 0.5), trial(2e-3, 0.6), trial(4e-3, 0.9), trial(4e-3, None, seed=1)]
    rows += [trial(rate, 0.5, "linear", loss=loss) for rate, loss in ((1e-3, 1.0), (2e-3, 1.0), (4e-3, 0.9))]
    rows += [trial(1e-3, 0.5, "ttt")]
    (result,) = tunings(rows)
    linear, pool, ttt = result.lines
    assert (pool.best, pool.diverged, pool.rates[4e-3].accuracy) == (2e-3, 1, None)
    assert pool.rates[2e-3].accuracy == Interval(0.6, why_none="a single seed")
    assert linear.best == 4e-3, "of equal accuracies the lower loss"
    assert (ttt.best, ttt.untried) == (None, 2), "no rate is chosen before all are tried"
    assert [line.label for line in result.at_the_edge] == ["linear"]


def test_of_rates_that_solve_a_probe_the_soonest_is_the_best() -> None:
    """The loss of a trial that goes on for longer is lower, and says nothing of the rate."""
    rows = [trial(rate, 1.0, loss=loss, steps=n) for rate, loss, n in ((1e-3, 0.2, 640), (2e-3, 0.02, 800), (4e-3, 0.01, 800))]
    assert tunings(rows)[0].lines[0].best == 1e-3
    rows += [trial(4e-3, 1.0, loss=0.3, steps=480, seed=1), *(trial(rate, 1.0, steps=800, seed=1) for rate in (1e-3, 2e-3))]
    assert tunings(rows)[0].lines[0].best == 4e-3, "by the mean over the trials"
    rows.append(trial(4e-3, 0.9, loss=0.0, steps=1, seed=2))
    rows += [trial(rate, 1.0, steps=800, seed=2) for rate in (1e-3, 2e-3)]
    assert tunings(rows)[0].lines[0].best == 1e-3, "accuracy comes first"
