"""Predictions: times that follow the model are found exactly, intervals cover, and what is not known is said."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mixers import MixerError
from wfbench import models, records, report
from wfbench.analysis import prediction
from wfbench.analysis.lines import label
from wfbench.analysis.prediction import (
    LEAST_GROUPS,
    Calibration,
    HeldOut,
    Measured,
    Place,
    Predictor,
    accuracy_of,
    conformal_half_width,
    half_width_of,
    hold_out,
    predictions,
    question_of,
    ratio_half_width_of,
)
from wfbench.cli import app
from wfbench.errors import InputError
from wfbench.measure import count_flops, scaling
from wfbench.measure.scaling import Crossover
from wfbench.measure.work import Work, microbenchmarks, work_of, work_of_model
from wfbench.records import HeldOutRow, MicrobenchmarkRow, PredictedCrossoverRow, PredictionRow, ProfileRow
from wfbench.tasks import predict as task

HERE = records.stamp("cpu")
RESULTS = Path(__file__).parents[1] / "results" / "profile"


def meta_model(mixer: str, side: int = 64, **options):
    with torch.device("meta"):
        return models.create("vit-tiny", mixer, side, depth=2, **options), torch.zeros(1, 3, side, side)


@pytest.mark.parametrize("mixer", ["softmax", "linear", "weightformer", "random", "xca"])
def test_the_work_by_kind_adds_up_to_the_counted_macs_and_bytes(mixer):
    model, x = meta_model(mixer)
    work = work_of_model(model, [x])
    count = count_flops(models.create("vit-tiny", mixer, 64, depth=2), (1, 3, 64, 64), path="auto")
    assert sum(work.macs.values()) == count.macs
    assert sum(work.bytes.values()) == count.bytes_moved
    assert work.alive == count.bytes_alive
    assert work.unknown == ()


def test_an_operator_of_no_kind_is_named_and_attention_can_be_taken_apart():
    model, x = meta_model("fnet")
    assert work_of_model(model, [x]).unknown == ("_fft_c2c",)
    model, x = meta_model("softmax")
    fused, apart = (work_of_model(model, [x], fused_attention=fused) for fused in (True, False))
    assert fused.macs["attention"] == apart.macs["batched product"] > 0
    assert apart.bytes["function"] > fused.bytes["function"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_kind_has_microbenchmarks_of_one_operator(device):
    kinds = set()
    for benchmark in microbenchmarks(device):
        work = benchmark.work(torch.float32)
        assert work.calls == 1, benchmark.name
        kinds |= set(work.bytes)
    assert kinds == {
        *("product", "batched product", "convolution", "depthwise convolution", "attention"),
        *("function", "normalisation", "pointwise", "reduction", "move"),
    }
    first = next(iter(microbenchmarks("cpu")))
    assert first.call(torch.float32, "cpu")().shape == (196, 768)


def test_a_grouped_convolution_is_no_depthwise_one():
    def work(groups):
        x, w = torch.empty(1, 8, 9, 7, device="meta"), torch.empty(8, 8 // groups, 3, 3, device="meta")
        return work_of(lambda: torch.nn.functional.conv2d(x, w, groups=groups), [x, w]).macs

    assert work(8) == {"depthwise convolution": 8 * 7 * 5 * 9}
    assert work(2) == {"convolution": 8 * 4 * 7 * 5 * 9}


# --- what is fitted


def grid(mixers=6, resolutions=(49, 196, 784, 1764, 3136), sizes=("a",), noise=0.0, own=0.0, seed=0):
    """Cells whose times are sums of three parts, times a factor of each mixer."""
    draws = np.random.default_rng(seed)
    rates, cells = np.array([2e-6, 3e-12, 4e-10]), []
    for m in range(mixers):
        amount, factor = draws.uniform(0.5, 2, size=3), math.exp(own * draws.normal())
        for s, size in enumerate(sizes):
            for n in resolutions:
                parts = amount * np.array([100, 1e5 * n * (1 + n / 500), 2e3 * n]) * (1 + s)
                value = float(parts @ rates) * factor * math.exp(noise * draws.normal())
                cells.append(Measured(Place(f"m{m}", size, n, parts), value))
    return cells


def test_times_that_follow_the_model_are_found_exactly_and_the_rates_are_the_machine_s():
    cells = grid()
    calibration = Calibration(cells)
    assert calibration.rates == pytest.approx([2e-6, 3e-12, 4e-10], rel=1e-6)
    for question in ("resolution", "beyond", "mixer"):
        found = hold_out(cells, (), question)
        assert found
        assert max(abs(cell.log_error) for cell in found) < 1e-6
    assert hold_out(cells, (), "size") == ()


def test_a_mixer_s_own_factor_is_learnt_from_its_own_cells():
    cells = grid(own=0.4, mixers=12)
    known, unknown = (accuracy_of(hold_out(cells, (), question)) for question in ("resolution", "mixer"))
    assert known.median_error < unknown.median_error / 1.5


def test_microbenchmarks_tell_the_rate_of_what_no_cell_has():
    cells = [Measured(Place(c.place.mixer, c.place.size, c.place.tokens, c.place.parts * [1, 1, 0]), 0.0) for c in grid()]
    rates = np.array([2e-6, 3e-12, 4e-10])
    cells = [Measured(c.place, float(c.place.parts @ rates)) for c in cells]
    new = Place("new", "a", 784, np.array([100, 1e8, 1e6]))
    assert "no microbenchmark" in Predictor.of(cells).predict(new).why_none
    micro = [(np.array([1.0, 0, bytes_]), 2e-6 + 4e-10 * bytes_) for bytes_ in (1e5, 1e6)]
    assert Predictor.of(cells, micro).predict(new).value.estimate == pytest.approx(float(new.parts @ rates), rel=1e-3)


def test_what_was_not_measured_is_told_apart():
    cells = grid(sizes=("a", "b"))[:-5]  # the last mixer is not measured at size b

    def question(mixer, size, tokens):
        return question_of(Place(mixer, size, tokens, np.ones(3)), cells)

    assert question("m0", "a", 400) == "resolution"
    assert question("m0", "a", 3137) == question("m0", "b", 48) == "beyond"
    assert question("m5", "b", 784) == question("new", "a", 784) == "mixer"
    assert question("m0", "c", 784) == "size"


@pytest.mark.parametrize(("errors", "width"), [(18, None), (19, 19), (39, 38), (100, 96)])
def test_the_width_is_the_conformal_quantile(errors, width):
    assert conformal_half_width([(-1) ** k * k for k in range(1, errors + 1)]) == width


def test_intervals_cover_as_often_as_they_say():
    """New mixers of the same kind: 95 % of their values lie within the intervals that the others give."""
    held = []
    for seed in range(12):
        cells = grid(mixers=30, noise=0.05, own=0.3, seed=seed, resolutions=(49, 196, 784))
        known, new = cells[:-15], cells[-15:]
        predictor = Predictor(Calibration(known), hold_out(known, (), "mixer"))
        for cell in new:
            value = predictor.predict(cell.place).value
            held.append(value.low <= cell.value <= value.high)
    assert 0.9 <= np.mean(held) <= 0.99
    accuracy = accuracy_of(predictor.held_out)
    assert accuracy.coverage == pytest.approx(0.95, abs=0.03)
    halved = [abs(cell.log_error) <= accuracy.half_width / 2 for cell in predictor.held_out]
    assert np.mean(halved) < 0.85, "an interval of half the width would be seen"


def test_out_of_the_calibrated_range_there_is_a_reason_and_no_number():
    predictor = Predictor.of(grid(noise=0.02, mixers=8))

    def why(mixer, size, tokens):
        return predictor.predict(Place(mixer, size, tokens, np.array([100, 1e5 * tokens, 2e3 * tokens]))).why_none

    assert why("m0", "a", 400) == why("m0", "a", 4 * 3136) == ""
    assert re.search("12,545 tokens, and it is tried from 49 to 12,544", why("m0", "a", 4 * 3136 + 1))
    assert "from 49 to" in why("m0", "a", 40)
    assert "only measured lines" in why("new", "a", 4000)
    assert why("new", "a", 784) == ""
    assert "0 sizes could be predicted with a size left out, of 5 that an interval needs" in why("m0", "b", 784)
    assert (
        "2 mixers could be predicted with a resolution left out, of 5"
        in Predictor.of(grid(mixers=2)).predict(grid()[1].place).why_none
    )


@pytest.mark.parametrize(("size", "mixer", "factor"), [("a", "new", [1, 5, 1]), ("b", "m0", [1, 1, 5]), ("b", "m0", [5, 5, 5])])
def test_nothing_is_predicted_whose_work_is_many_times_the_measured(size, mixer, factor):
    cells = grid(mixers=5, sizes=tuple("acdef"), resolutions=(49, 784), noise=0.02)
    predictor = Predictor(Calibration(cells), (*hold_out(cells, (), "mixer"), *hold_out(cells, (), "size")))
    most = np.max([cell.place.parts for cell in cells], axis=0)
    assert predictor.predict(Place(mixer, size, 784, most)).why_none == ""
    why = predictor.predict(Place(mixer, size, 784, most * factor)).why_none
    assert re.search(r"out of the calibrated range: its work, or a part of it, is [5-7]\.\d times the most measured", why)


def held(errors, question="mixer", step=1.0):
    """Held-out cells from (mixer, size, tokens, log error)."""
    return [HeldOut(question, mixer, size, tokens, step, 1.0, math.exp(error)) for mixer, size, tokens, error in errors]


def test_many_cells_of_few_mixers_give_no_interval_and_two_backends_are_one_mixer():
    def cells(*names):
        return held([(name, "a", tokens, 0.1) for name in names for tokens in range(10)])

    names = [f"m{i}" for i in range(LEAST_GROUPS - 1)]
    assert half_width_of(cells(*names)) is half_width_of(cells(*names, "m0 [flash]", "m0 [math]")) is None
    width = half_width_of(cells(*names, "new"))
    assert width == pytest.approx(2.571 * 0.1, rel=1e-3), "t of five mixers"
    assert accuracy_of(cells(*names, "new")).groups == LEAST_GROUPS
    by_size = held([("m", f"size {i}", 1, 0.1) for i in range(LEAST_GROUPS)], "size")
    assert half_width_of(by_size) == pytest.approx(width)
    assert ratio_half_width_of(cells(*names)) is None


def test_the_width_covers_a_new_mixer_though_the_errors_of_each_are_alike():
    draws, covered, by_cells = np.random.default_rng(0), [], []
    for _ in range(400):
        *known, new = 0.3 * draws.normal(size=8)
        found = held([(f"m{i}", "a", tokens, error) for i, error in enumerate(known) for tokens in range(5)])
        covered.append(abs(new) <= half_width_of(found))
        by_cells.append(abs(new) <= conformal_half_width([cell.log_error for cell in found]))
    assert 0.93 <= np.mean(covered) <= 0.98
    assert np.mean(by_cells) < 0.91, "the quantile of cells alone would be seen"


def test_a_prediction_far_beyond_is_as_sure_as_the_cells_that_were_held_out_as_far():
    cells = grid(mixers=6, resolutions=(49, 196, 784))
    near = held([(f"m{i}", "a", 784, 0.01) for i in range(6)], "beyond", 2.0)
    far = held([(f"m{i}", "a", 784, 0.2) for i in range(6)], "beyond", 4.0)
    predictor = Predictor(Calibration(cells), (*near, *far))

    def factor(tokens):
        value = predictor.predict(Place("m0", "a", tokens, cells[2].place.parts * tokens / 784)).value
        return math.log(value.high / value.estimate)

    assert factor(4 * 784) == pytest.approx(half_width_of(far))
    assert factor(4 * 784) > 1.2 * factor(2 * 784)
    few = Predictor(Calibration(cells), (*near, *far[:2])).predict(Place("m0", "a", 4 * 784, cells[2].place.parts * 4))
    assert "2 mixers could be predicted with the largest resolutions left out at 4 times the tokens or more" in few.why_none


def test_of_a_size_that_was_not_measured_both_times_are_predicted_and_their_errors_do_not_cancel():
    found = held([(mixer, f"s{i}", 49, error) for i in range(6) for mixer, error in (("a", 0.1), ("b", -0.1))], "size")
    predictor = Predictor(Calibration(grid()), tuple(found))
    width = predictor._ratio_width("size", 1.0, alone=True)
    assert width == pytest.approx(ratio_half_width_of(found)) == pytest.approx(2 * half_width_of(found))


def test_rates_that_cannot_be_fitted_are_one_message(monkeypatch):
    def fails(*_):
        raise RuntimeError("Maximum number of iterations reached.")

    monkeypatch.setattr(prediction, "nnls", fails)
    with pytest.raises(InputError, match=r"no rates of this machine[\s\S]*30 cells"):
        Calibration(grid())


def test_a_crossover_is_found_where_the_times_cross_with_an_interval_from_ratios():
    rates = np.array([2e-6, 3e-12, 4e-10])
    cells = grid(mixers=8, noise=0.03)

    def parts(n, quadratic):
        return np.array([100, 1e5 * n * (1 + n / 300 if quadratic else 4), 2e3 * n])

    for name, quadratic in (("softmax", True), ("linear", False)):
        cells += [
            Measured(Place(name, "a", n, parts(n, quadratic)), float(parts(n, quadratic) @ rates)) for n in (49, 196, 784)
        ]
    predictor, tokens = Predictor.of(cells), [49, 196, 400, 784, 880, 920, 1200, 1764, 3136]
    ours, theirs = ([Place(name, "a", n, parts(n, name == "softmax")) for n in tokens] for name in ("linear", "softmax"))
    found = predictor.crossover(ours, theirs)
    assert found.verdict == "at"
    assert found.tokens == pytest.approx(900, rel=0.1)
    assert found.interval.low < 900 < found.interval.high
    assert predictor.crossover(theirs, ours).verdict == "none"
    beyond = [Place("linear", "a", 20_000, parts(20_000, False))], [Place("softmax", "a", 20_000, parts(20_000, True))]
    assert "out of the calibrated range" in predictor.crossover(*beyond)


# --- the command


WORKS = task.Works()  # what was counted once


@pytest.fixture(scope="module")
def measured() -> list:
    """Rows of a small profile whose times follow the work of its cells."""
    rows = []
    for mixer in ("softmax", "linear", "xca", "static", "weightformer", "random"):
        for side in (32, 48, 64, 96, 128):
            work = WORKS.of(profile_row(mixer, side))
            seconds = 1e-6 * work.calls + 2e-11 * sum(work.macs.values()) + 1e-10 * sum(work.bytes.values())
            rows.append(profile_row(mixer, side, median=seconds, memory_bytes=1e6 + 1.1 * work.alive, memory_status="ok"))
    return rows


def profile_row(mixer: str, side: int, **changes) -> ProfileRow:
    fields = {
        "environment": HERE,
        "model": "vit-tiny",
        "mixer": mixer,
        "session": "s",
        "variant": "depth 1",
        "resolution": (side, side),
        "tokens": (side // 16) ** 2,
        "batch": 1,
        "mode": "infer",
        "dtype": "float32",
        "sdpa_backend": "chosen by PyTorch",
        "path": "auto",
        "protocol": "isolated-v1",
        "order_seed": 0,
        "status": "ok",
    }
    return ProfileRow(**(fields | changes))


def test_predictions_are_rows_with_tables_and_a_measured_crossover_stands_beside_the_predicted(measured):
    made = task.predict(task.profile_in(measured), [], task.PredictRequest(resolutions=(96, 128), measured_to=64), works=WORKS)
    cells = [row for row in made if isinstance(row, PredictionRow)]
    times = {(row.mixer, row.resolution[0]): row for row in cells if row.quantity == "latency"}
    truth = {(row.mixer, row.resolution[0]): row.median for row in measured}
    assert len(times) == 12
    assert all(row.value == pytest.approx(truth[key], rel=0.02) for key, row in times.items() if not row.why_none)
    found = [row for row in made if isinstance(row, HeldOutRow)]
    assert {row.quantity for row in found} == {"latency", "memory"}
    tables = {table.name: table for table in report.tables([*measured, *made])}
    assert {"held_out", "predictions"} <= tables.keys()
    assert len(tables["predictions"].frame) == 12
    [result] = predictions(made)
    assert {trial.quantity for trial in result.trials} == {"latency", "memory"}
    assert all(isinstance(row, PredictedCrossoverRow) for row in result.crossovers)
    again = [type(row).model_validate_json(row.model_dump_json()) for row in made]
    assert again == made


class MadeUp(task.Works):
    """Work that nobody counts."""

    def of(self, row: ProfileRow) -> Work:
        return Work(100, {"product": 1000 * row.tokens}, {"product": 100 * row.tokens}, 10 * row.tokens)

    def changed(self, row: ProfileRow) -> str:
        return ""


def plain(*mixers) -> list:
    """Rows of the preset itself, whose times grow with the tokens."""
    return [profile_row(m, side, variant="", median=1e-3 * (side // 16) ** 2) for m in mixers for side in (32, 48, 64)]


def test_a_crossover_needs_no_baseline_among_the_mixers_that_are_asked_for(monkeypatch):
    monkeypatch.setattr(task, "_PLACES", 3)
    request = task.PredictRequest(mixers=("xca",), resolutions=(96,))
    made = task.predict(task.profile_in(plain("softmax", "xca")), [], request, works=MadeUp())
    [found] = [row for row in made if isinstance(row, PredictedCrossoverRow)]
    assert (found.mixer, found.baseline) == ("xca", "softmax")
    assert {row.mixer for row in made if isinstance(row, PredictionRow)} == {"xca"}


def test_a_crossover_without_an_upper_end_is_a_row_and_stands_in_the_table():
    rows, open_ = plain("softmax", "static"), Crossover("none", None, scaling.Interval(100.0, math.inf))
    call = task._call(rows)
    made = [task._crossover_row(rows[0], open_, "softmax", call, 400, open_)]
    assert [type(row).model_validate_json(row.model_dump_json()) for row in made] == made
    [table] = [table for table in report.tables(made) if table.kind == "predicted_crossover"]
    assert table.frame["from (tokens)"].tolist() == ["no place looked at [100, ∞]"]
    assert table.frame["measured, from (tokens)"].tolist() == ["no place [100, ∞]"]
    at = task._crossover_row(rows[0], Crossover("at", 200.0, scaling.Interval(100.0, math.inf)), "softmax", call, 400, None)
    [table] = [table for table in report.tables([at]) if table.kind == "predicted_crossover"]
    assert table.data["tokens_high"].tolist() == [math.inf]


def test_without_a_measured_baseline_it_is_said_that_there_are_no_crossovers():
    rows, said = plain("xca"), []
    request = task.PredictRequest(resolutions=(96,))
    made = task.predict(task.profile_in(rows), [], request, works=MadeUp(), say=said.append)
    assert not any(isinstance(row, PredictedCrossoverRow) for row in made)
    assert said == ["no crossovers: softmax was not measured; name another baseline by --baseline"]
    with pytest.raises(InputError, match=r"the baseline was not measured[\s\S]*--baseline softmax[\s\S]*xca"):
        task.check(task.profile_in(rows), task.PredictRequest(baseline="softmax"), works=MadeUp())


def test_rows_and_titles_name_the_machine_of_the_profile(monkeypatch):
    monkeypatch.setattr(task, "_PLACES", 2)
    there = HERE.model_copy(update={"device": "Another CPU", "threads": 7})
    rows = [row.model_copy(update={"environment": there}) for row in plain("softmax", "static")]
    made = task.predict(task.profile_in(rows), [], task.PredictRequest(resolutions=(96,)), works=MadeUp())
    assert {(row.device, row.threads, row.protocol) for row in made} == {("Another CPU", 7, "isolated-v1")}
    titles = [table.title for table in report.tables(made)]
    assert len(titles) == 3
    assert all(title.endswith(": Another CPU, 7 threads, isolated-v1, from cells up to 16 tokens") for title in titles)


def test_every_call_has_tables_of_its_own_and_of_calls_that_ask_the_same_the_newest_is_shown(monkeypatch):
    monkeypatch.setattr(task, "_PLACES", 2)
    profiles = task.profile_in(plain("softmax", "static"))

    def call(command, minute, **asked):
        made = task.predict(profiles, [], task.PredictRequest(**{"resolutions": (96,)} | asked), works=MadeUp())
        said = {"command": command, "created": f"2026-01-01T00:0{minute}:00+00:00"}
        return [row.model_copy(update=said) for row in made]

    few, first, again = call("few", 3, measured_to=48), call("first", 1), call("again", 2)
    shown = {table.name: table for table in report.tables([*again, *few, *first])}
    kinds = ("held_out", "predictions", "predicted_crossover")
    assert set(shown) == {f"{kind}-from-cells-up-to-{tokens}-tokens" for kind in kinds for tokens in (9, 16)}
    assert len({table.title for table in shown.values()}) == 6
    for kind in kinds:
        all_, some = (shown[f"{kind}-from-cells-up-to-{tokens}-tokens"].notes for tokens in (16, 9))
        assert "Made by: few (2026-01-01T00:03:00+00:00)." in some
        assert "Made by: again (2026-01-01T00:02:00+00:00)." in all_
        assert any("Left out: first (2026-01-01T00:01:00+00:00)." in note for note in all_)
    other = call("other", 4, resolutions=(80,))
    titles = [table.title for table in report.tables([*first, *other]) if table.kind == "predictions"]
    assert [title.rpartition(", ")[2] for title in titles] == ["call 1 of 2", "call 2 of 2"]


class Refusing(MadeUp):
    """Work of mixers that do not take every grid."""

    def of(self, row: ProfileRow) -> Work:
        if row.mixer == "xca" and row.tokens == 25:
            raise MixerError("no such grid", got="5x5", expected="an even grid", remedy="another")
        if row.mixer == "linear" and row.tokens > 16:
            raise NotImplementedError("no such operator on meta")
        return super().of(row)


def test_what_a_mixer_refuses_is_left_out_with_a_reason_and_the_others_stay():
    profiles, said = task.profile_in(plain("softmax", "xca", "linear")), []
    request = task.PredictRequest(resolutions=(96,))
    made = task.predict(profiles, [], request, works=task.check(profiles, request, works=Refusing()), say=said.append)
    why = {row.mixer: row.why_none for row in made if isinstance(row, PredictionRow)}
    reason = "it cannot be made or counted here: NotImplementedError: no such operator on meta"
    assert why["linear"] == reason
    assert not any("cannot be made" in why[mixer] for mixer in ("softmax", "xca"))
    assert {row.mixer: row.looked_to for row in made if isinstance(row, PredictedCrossoverRow)} == {"xca": 36, "linear": 16}
    assert said == [
        f"crossover of linear: looked for at 3 of 5 sides: {reason}",
        "crossover of xca: looked for at 4 of 5 sides: it cannot be made or counted here: "
        "no such grid: got 5x5, expected an even grid; another",
    ]
    with pytest.raises(InputError, match=rf"none of the cells can be predicted[\s\S]*vit-tiny, linear at 96 px: {reason}"):
        task.check(profiles, task.PredictRequest(mixers=("linear",), resolutions=(96,)), works=Refusing())


def test_a_mixer_that_reads_a_number_from_a_tensor_has_a_reason_and_no_traceback(tmp_path):
    text = "import torch\n\n\nclass M(torch.nn.Module):\n    def __init__(self, dim):\n        super().__init__()\n\n"
    (tmp_path / "m.py").write_text(text + "    def forward(self, x, grid):\n        return x * x.mean().item()\n")
    works, row = task.Works(), profile_row(f"{tmp_path / 'm.py'}:M", 32)
    assert re.match(r"it cannot be made or counted here: \w+Error: ", works.changed(row))


def test_a_line_that_cannot_have_a_side_is_left_out_there_and_named():
    larger = profile_row("softmax", 64, variant="patch 32", tokens=4, median=1e-3)
    profiles, said = task.profile_in([*plain("softmax", "xca"), larger]), []
    request = task.PredictRequest(resolutions=(80,))
    works = task.check(profiles, request, works=MadeUp())
    made = task.predict(profiles, [], request, works=works, say=said.append)
    assert [(row.mixer, row.variant) for row in made if isinstance(row, PredictionRow)] == [("softmax", ""), ("xca", "")]
    assert re.fullmatch(r"left out: vit-tiny, softmax, patch 32 at 80 px: .*80x80 with patch size 32.*", said[0])
    with pytest.raises(InputError, match=r"none of the cells[\s\S]*patch 32 at 81 px[\s\S]*xca at 81 px"):
        task.check(profiles, task.PredictRequest(resolutions=(81,)), works=MadeUp())


@pytest.mark.parametrize(
    ("change", "word"), [({"parameters": 1}, "1 parameters in the record"), ({"macs": 1.0}, "1 MACs of an image in the record")]
)
def test_a_line_whose_model_has_changed_since_is_left_out_and_named(change, word, measured):
    own = [row for row in measured if row.mixer in ("static", "xca")]
    rows = [row.model_copy(update=change) if row.mixer == "xca" else row for row in own]
    said = []
    request = task.PredictRequest(resolutions=(128,), measured_to=64)
    made = task.predict(task.profile_in(rows), [], request, works=WORKS, say=said.append)
    assert len(said) == 2  # and that the baseline was not measured, but in a variant
    assert said[0].startswith(f"left out: vit-tiny, xca, depth 1: {word}")
    assert "xca" not in {row.mixer for row in made if isinstance(row, PredictionRow | HeldOutRow)}
    with pytest.raises(InputError, match=r"not those of the code here[\s\S]*xca"):
        task.check(task.profile_in(rows), task.PredictRequest(mixers=("xca",)), works=WORKS)


def test_the_parameters_and_macs_of_today_s_models_are_those_that_a_profile_counts(measured):
    model, works = models.create("vit-tiny", "weightformer", 64, depth=1), task.Works()
    count = count_flops(model, (1, 3, 64, 64), path="auto")
    row = next(row for row in measured if row.mixer == "weightformer" and row.resolution == (64, 64))
    same = {"parameters": sum(p.numel() for p in model.parameters()), "macs": count.macs, "batch": 4}
    assert works.changed(row.model_copy(update=same)) == ""


def test_cells_of_several_sessions_are_used_and_those_that_were_measured_again_are_named(measured):
    earlier = {"session": "old", "created": "2020-01-01T00:00:00+00:00"}
    again, alone = measured[0].model_copy(update=earlier), measured[0].model_copy(update=earlier | {"mixer": "identity"})
    profiles = task.profile_in([*measured, again, alone])
    assert {(row.mixer, row.session) for p in profiles for row in p.cells} >= {("identity", "old")}
    assert sum(row.session == "old" for p in profiles for row in p.cells) == 1
    (said,) = task.left_out(profiles)
    assert said == f"left out: 1 cells of session old of vit-tiny, of {label(again)}: measured again later"
    assert task.left_out(task.profile_in(measured)) == []


def test_the_newest_microbenchmark_counts_wherever_it_stands():
    def micro(created, median):
        fields = {"name": "n", "dtype": "float32", "calls": 1, "macs": {}, "bytes": {}}
        return MicrobenchmarkRow(environment=HERE, created=created, round_medians=(median,), **fields)

    profiles = task.profile_in([profile_row("softmax", 32, median=1.0)])
    rows = [micro("2026-02-01T00:00:00+00:00", 2.0), micro("2026-01-01T00:00:00+00:00", 1.0)]
    assert task.micro_of(rows, profiles) == task.micro_of(rows[::-1], profiles) == rows[:1]


def test_records_of_several_batches_need_a_batch():
    rows = [row.model_copy(update={"token_budget": 64, "batch": 64 // row.tokens}) for row in plain("static")]
    with pytest.raises(InputError, match=r"several batches[\s\S]*--batch"):
        task.check(task.profile_in(rows), task.PredictRequest(), works=MadeUp())
    task.check(task.profile_in(rows), task.PredictRequest(batch=2, resolutions=(32,)), works=MadeUp())


def test_microbenchmarks_of_a_gpu_are_refused_without_one(measured, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    there = HERE.model_copy(update={"device": "A GPU", "device_type": "cuda"})
    with pytest.raises(InputError, match=r"no CUDA device here[\s\S]*A GPU"):
        task.calibrate(task.profile_in([row.model_copy(update={"environment": there}) for row in measured])[0])


def test_a_cell_that_was_measured_is_not_predicted_and_it_is_said(measured):
    said, request = [], task.PredictRequest(mixers=("xca",), resolutions=(128, 96, 128))
    made = task.predict(task.profile_in(measured), [], request, works=WORKS, say=said.append)
    assert not any(isinstance(row, PredictionRow) for row in made)
    assert said[0] == "measured, see the tables of the profile: vit-tiny, xca, depth 1 at 128, 96 px"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "train"}, r"not predicted[\s\S]*training steps"),
        ({"compiled": True}, r"not predicted[\s\S]*compiled"),
        ({"model": "vit-tiny of cifar10"}, r"not predicted[\s\S]*models of a recipe"),
        ({"model": "dit-s-2"}, r"denoisers are not predicted[\s\S]*dit-s-2"),
        ({"status": "oom", "median": None}, "nothing to predict from"),
    ],
)
def test_a_profile_that_cannot_be_predicted_from_is_refused(change, message, measured):
    with pytest.raises(InputError, match=message):
        task.profile_in([row.model_copy(update=change) for row in measured])


def test_two_machines_are_refused(measured):
    other = measured[0].environment.model_copy(update={"device": "another"})
    with pytest.raises(InputError, match=r"several machines[\s\S]*another"):
        task.profile_in([*measured, *(row.model_copy(update={"environment": other}) for row in measured)])
    with pytest.raises(InputError, match="of another machine than the profile"):
        task.calibrate(task.profile_in([row.model_copy(update={"environment": other}) for row in measured])[0])


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "vit-tny"], r"unknown model[\s\S]*vit-tiny"),
        (["--mixer", "sofmax"], "softmax"),
        (["--baseline", "mala"], "the baseline was not measured"),
        (["--resolution", "0"], "--resolution must be positive"),
        (["--batch", "-1"], "--batch must be positive"),
        (["--measured-to", "8"], r"nothing to predict from[\s\S]*no cell up to 8 px"),
    ],
)
def test_bad_input_is_one_message(words, message, measured, tmp_path):
    records.append(tmp_path / "in" / "records.jsonl", measured)
    result = CliRunner().invoke(app, ["predict", str(tmp_path / "in"), "--out", str(tmp_path / "out"), *words])
    assert result.exit_code == 2, result.output
    assert re.search(message, result.output)
    assert not (tmp_path / "out" / "records.jsonl").exists()


@pytest.mark.slow
def test_the_committed_profile_is_predicted_as_well_as_is_said(tmp_path):
    done = CliRunner().invoke(app, ["predict", str(RESULTS), "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in (tmp_path / "records.jsonl").open()]
    errors = {
        question: np.median([abs(row["predicted"] / row["measured"] - 1) for row in rows if row.get("question") == question])
        for question in ("resolution", "mixer")
    }
    assert errors["resolution"] <= 0.15
    assert errors["mixer"] <= 0.30


@pytest.mark.slow
def test_microbenchmarks_are_timed_here_and_used(measured, tmp_path):
    here = records.stamp("cpu")
    own = [row.model_copy(update={"environment": here}) for row in measured]
    rows = task.calibrate(task.profile_in(own)[0])
    assert len(rows) == len(list(microbenchmarks("cpu")))
    assert all(min(row.round_medians) > 0 for row in rows)
    made = task.predict(task.profile_in(own), task.micro_of(rows, task.profile_in(own)), task.PredictRequest())
    assert {row.microbenchmarks for row in made if isinstance(row, PredictionRow)} == {len(rows)}
