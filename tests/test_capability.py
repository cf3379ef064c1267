"""What probes say of a mixer: crossings of 90 % and their bounds, intervals over seeds, tables, figures, claims."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from probe_rows import LEAKS, LEVELS, probe_row, stored
from scipy import stats
from test_every_figure import faults
from typer.testing import CliRunner

from wfbench import recipe, report
from wfbench.analysis.capability import (
    Crossing,
    Crossings,
    accuracy_interval,
    canvas_error,
    capabilities,
    falls_through,
    probe_results,
)
from wfbench.analysis.claims import Answer, OpenClaim, claims_results, decide, open_claims, read_claims
from wfbench.analysis.claims.capability import BLIND, BOUNDED, UNTRAINED
from wfbench.analysis.lines import label
from wfbench.analysis.results import analyse
from wfbench.analysis.seeds_needed import TOO_FEW_SAMPLES, seeds_for_share
from wfbench.cli import app
from wfbench.errors import InputError
from wfbench.records import AnyRow, ProbeRow, Strength
from wfbench.report import Asked, make
from wfbench.report.figures.capability import curve, places
from wfbench.report.findings import findings, to_markdown
from wfbench.report.page import charts
from wfbench.tasks.probe import QUICK, ProbeRequest, known, steps_of
from wfbench.tasks.sweep import Line, SweepRequest, registration
from wfbench.tasks.sweep.combinations import drafts

# --- one run


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ([1, 1, 0.8, 0.1], Crossing(2**1.5)),  # halfway between 2 and 4
        ([0.95, 0.85, 0.1, 0.1], Crossing(2**0.5)),
        ([1, 0.9, 0.5, 0.1], Crossing(2)),  # exactly at a level
        ([1, 0.88, 0.96, 0.0], Crossing(2 ** (2 + 0.02 / 0.92))),  # 0.88 and 0.96 are pooled to 0.92
        ([0.9, 0.9, 0.9, 0.9], Crossing(8, "above")),
        ([1, 1, 0.85, 0.97], Crossing(8, "above")),  # pooled to 0.91
        ([0.89, 1, 1, 1], Crossing(1, "below")),  # not trained, whatever follows
        ([0.03, 0.03, 0.03, 0.03], Crossing(1, "below")),
    ],
)
def test_where_accuracy_falls_through_90_percent(accuracies: Sequence[float], expected: Crossing) -> None:
    found = falls_through((1, 2, 4, 8), accuracies)
    assert found.censored == expected.censored
    assert found.value == pytest.approx(expected.value)


def test_the_hand_made_rows_store_as_many_pairs_as_they_say() -> None:
    for pairs in (1.5, 3.0, 6.0, 10.0):
        assert falls_through(LEVELS["recall"], stored(pairs)).value == pytest.approx(pairs)


# --- over seeds


def lines_of(*rows: ProbeRow):  # type: ignore[no-untyped-def]
    (result,) = probe_results(rows)
    return {line.label: line for line in result.lines}


def test_a_capacity_is_the_geometric_mean_with_a_t_interval_in_log2() -> None:
    pairs = (3.0, 6.0, 10.0)
    line = lines_of(*(probe_row(seed=seed, by_step={800: stored(n)}) for seed, n in enumerate(pairs)))["linear"]
    logs = np.log2(pairs)
    half = stats.t.ppf(0.975, 2) * logs.std(ddof=1) / 3**0.5
    mean = line.capacity[800].mean
    assert mean.estimate == pytest.approx(2 ** logs.mean())
    assert mean.low == pytest.approx(2 ** (logs.mean() - half))
    assert mean.high == pytest.approx(2 ** (logs.mean() + half))
    assert mean.estimate != pytest.approx(np.mean(pairs)), "an arithmetic mean is seen"


def test_nothing_is_computed_from_bounds() -> None:
    def of(*found: Crossing) -> Crossings:
        return Crossings.of(dict(enumerate(found)))

    top, none, six = Crossing(16, "above"), Crossing(1, "below"), Crossing(6.0)
    assert of(top, top).bound == top
    assert of(none, none).bound == none
    for mixed in (of(top, six), of(none, six), of(top, none)):
        assert mixed.mean is None
        assert mixed.bound is None
    assert of(six).mean.why_none == "a single seed"


@pytest.mark.parametrize(
    ("accuracies", "words"),
    [
        ([[1] * 5] * 3, "at least 16"),
        ([[0.4] * 5] * 3, "not trained"),
        ([[1] * 5, [1] * 5, stored(6.0)], "2 of 3 seeds at least 16: from 6.00 to at least 16"),
        ([[0.4] * 5, stored(3.0), stored(6.0)], "1 of 3 seeds not trained: from below 1 to 6.00"),
        ([stored(4.0)] * 2, "4.00"),
        ([stored(6.0)], "6.00"),
        ([stored(3.0), stored(6.0)], "4.24 [0.0519, 347]"),
    ],
)
def test_a_cell_of_the_table_says_what_is_known_of_a_capacity(accuracies: Sequence[Sequence[float]], words: str) -> None:
    table = report.tables([probe_row(seed=seed, by_step={800: values}) for seed, values in enumerate(accuracies)])[0]
    assert table.name == "capability"
    assert table.frame["recall: pairs (90 %)"][0] == words


def test_an_accuracy_is_known_by_its_spread_over_seeds_and_over_canvases() -> None:
    wide = accuracy_interval([0.5, 0.7, 0.6], [0.05] * 3)
    assert wide.half_width == pytest.approx(math.hypot(stats.t.ppf(0.975, 2) * 0.1 / 3**0.5, stats.norm.ppf(0.975) * 0.05))
    for values in ([0.6, 0.6, 0.6], [0.6]):
        assert accuracy_interval(values, [0.02] * len(values)).half_width == pytest.approx(1.96 * 0.02, rel=1e-3)
    assert canvas_error(0.5, None, 400) == pytest.approx(0.025)
    assert canvas_error(0.5, 0.01, 400) == 0.01
    # Of 512 canvases, all answered alike, Wilson's interval leaves z² / (512 + z²) unknown; one bad canvas leaves no less.
    z = stats.norm.ppf(0.975)
    for accuracy, recorded in ((1.0, 0.0), (0.9992, 0.0004), (0.0, 0.0)):
        assert canvas_error(accuracy, recorded, 512) == pytest.approx(z / (512 + z**2))


def test_each_budget_is_reported_and_a_run_that_ended_early_counts_from_then_on() -> None:
    rows = [
        probe_row("recall", "softmax", 0, {400: [1] * 5, 500: [1] * 5}, stopped=True, budgets=(800, 2000)),
        probe_row("recall", "linear", 0, {800: stored(3.0), 2000: stored(6.0)}, budgets=(800, 2000)),
        # of budgets beyond the end of the training nothing is reported, but of the end
        probe_row("recall", "xca", 0, {800: stored(1.5)}, budgets=(2000,)),
    ]
    lines = lines_of(*rows)
    assert lines["softmax"].budgets == (800, 2000)
    assert lines["softmax"].capacity[800].bound == Crossing(16, "above")
    assert [found.mean.estimate for found in lines["linear"].capacity.values()] == pytest.approx([3.0, 6.0])
    assert lines["xca"].budgets == (800,)
    table = report.tables(rows)[0]
    assert table.frame["recall: pairs (90 %), 800 steps"].tolist() == ["3.00", "at least 16", "1.50"]
    assert table.frame["recall: pairs (90 %), 2,000 steps"].tolist() == ["6.00", "at least 16", "–"]


def test_of_needle_the_tokens_at_the_last_level_count_and_those_of_a_mixer_for_one_grid_are_a_bound() -> None:
    falls = lines_of(probe_row("needle", by_step={800: [0.2, 0.3, 1.0, 0.8, 0.1]}))["linear"].capacity[800]
    assert falls.by_seed[0].value == pytest.approx((96 * 216) ** 0.5), "halfway in log2, between 96 and 216 tokens"
    fixed = lines_of(probe_row("needle", by_step={800: [1, 1, 1, None, None]}))["linear"].capacity[800]
    assert fixed.bound == Crossing(96, "above")


def on_grids(row: ProbeRow, *grids: tuple[int, int]) -> ProbeRow:
    """A row whose last cells are on other grids."""
    first = len(row.cells) - len(grids)
    others = tuple(cell.model_copy(update={"grid": grid}) for cell, grid in zip(row.cells[first:], grids, strict=True))
    return row.model_copy(update={"cells": row.cells[:first] + others})


def test_grids_with_as_many_tokens_count_both_and_have_columns_of_their_own() -> None:
    row = on_grids(probe_row("needle", by_step={800: [1, 1, 1, 0.9, 0.7]}), (12, 18), (18, 12))
    assert lines_of(row)["linear"].capacity[800].by_seed[0].value == pytest.approx((96 * 216) ** 0.5), "1 and 0.8, the mean"
    (table,) = [table for table in report.tables([row]) if table.name == "probe-needle"]
    cells = {heading: table.frame[heading][0].partition(" ")[0] for heading in table.frame if "216" in heading}
    assert cells == {"216 tokens (12×18) (%)": "90.00", "216 tokens (18×12) (%)": "70.00"}
    elsewhere = on_grids(probe_row("recall", by_step={800: [1, 1, 1, 0.9, 0.7]}), (12, 18))
    last = elsewhere.cells[4].model_copy(update={"level": 8})
    elsewhere = elsewhere.model_copy(update={"cells": (*elsewhere.cells[:4], last)})
    (table,) = [table for table in report.tables([elsewhere]) if table.name == "probe-recall"]
    assert {"n = 8 (%)", "n = 8 (12×18) (%)"} <= set(table.frame)


def test_shift_counts_steps_and_hop_the_steps_that_all_easier_ones_lead_to() -> None:
    found = lines_of(probe_row("shift", by_step={200: [0.5], 400: [0.9], 600: [1.0]}))["linear"].learnt
    assert found.by_seed[0] == Crossing(400)
    first = lines_of(probe_row("shift", by_step={200: [0.95], 400: [1.0]}))["linear"].learnt
    assert first.bound == Crossing(200, "below"), "nothing was looked at before"
    never = lines_of(probe_row("shift", by_step={200: [0.5], 400: [0.8]}))["linear"].learnt
    assert never.bound == Crossing(400, "above")
    rows = [probe_row("shift", seed=seed, by_step={200: [values], 400: [1.0]}) for seed, values in enumerate((0.95, 0.95, 0.5))]
    table = report.tables(rows)[0]
    assert table.frame["shift: steps to 90 %"][0] == "2 of 3 seeds at most 200: from at most 200 to 400"
    assert table.data["shift_steps_by_seed"][0] == "<=200 <=200 400"
    line = lines_of(probe_row("hop", by_step={9: [1, 0.95, 0.4]}), probe_row("hop", seed=1, by_step={9: [0.8, 0.95, 0.95]}))
    assert line["linear"].hops == {0: 2, 1: 0}


def with_cells(row: ProbeRow, cells: slice) -> ProbeRow:
    """A row of some of its cells alone."""
    curve = tuple(look.model_copy(update={"accuracies": look.accuracies[cells]}) for look in row.curve)
    return row.model_copy(update={"cells": row.cells[cells], "curve": curve})


def test_where_one_pair_was_not_asked_for_nothing_is_said_of_it() -> None:
    row = with_cells(probe_row(by_step={800: [0.4] * 5}), slice(2, None))  # from four pairs on
    assert lines_of(row)["linear"].is_trained
    table = report.tables([row])[0]
    assert table.frame["recall: pairs (90 %)"][0] == "below 4"
    assert not any("Not trained" in note for note in table.notes)


def test_notes_say_what_was_asked() -> None:
    tables = report.tables(suite())
    assert any("how many tokens, all others distractors" in note for note in tables[0].notes)
    few = with_cells(probe_row("needle"), slice(0, 2))
    assert any("how many tokens, 25 % of the others distractors" in note for note in report.tables([few])[0].notes)
    several = {table.name for table in tables if any("other numbers of steps" in note for note in table.notes)}
    assert several == {"probe-recall"}, "the only one with two budgets"


def test_seeds_that_solve_a_probe_are_counted_and_trials_are_not() -> None:
    rows = [probe_row(seed=seed, by_step={9: values}) for seed, values in enumerate([[1] * 5, [0.99] * 5, [1, 1, 1, 1, 0.98]])]
    trial = probe_row(seed=7, validation=0.2)
    assert lines_of(*rows, trial)["linear"].solved == 2
    (table,) = [table for table in report.tables([*rows, trial]) if table.name == "probe-recall"]
    assert table.frame["solved"][0] == "2 of 3"
    assert any("linear: recall, 2 of 3 solved" in note for note in report.tables(rows)[0].notes)


# --- tables


def suite() -> list[ProbeRow]:
    """All probes, two mixers, three seeds."""
    rows = []
    for seed in range(3):
        for mixer, pairs in (("linear", 3.0 + seed), ("softmax", 16.0)):
            values = stored(pairs) if pairs < 16 else [1.0] * 5
            rows.append(probe_row("recall", mixer, seed, {800: stored(2.0 + seed / 9), 2000: values}, budgets=(800, 2000)))
            rows.append(probe_row("needle", mixer, seed, {800: [1, 1, 1, 0.95 - seed / 99, 0.3]}))
            rows.append(probe_row("majority", mixer, seed, {400: [1, 0.9, 0.6 + seed / 50]}))
            rows.append(probe_row("shift", mixer, seed, {200: [0.4], 400: [0.95]}))
            rows.append(probe_row("hop", mixer, seed, {6000: [1, 0.95, 0.4]}))
            rows.append(probe_row("flood", mixer, seed, {400: [1, 0.8, 1, 0.95, 0.6 + seed / 50]}))
    return rows


def test_all_probes_of_a_mixer_stand_in_one_line_though_their_positions_differ() -> None:
    tables = report.tables(suite())
    assert [table.name for table in tables] == [
        "capability",
        *(f"probe-{name}" for name in ("recall", "needle", "flood", "majority", "shift", "hop")),
    ]
    assert tables[0].frame["mixer"].tolist() == ["linear", "softmax"]
    assert tables[0].frame["global layers"].tolist() == ["2 of 2"] * 2
    assert tables[0].frame["majority, lead 0.05 (%)"][0] == "62.00 ± 5.03"
    assert "needle: tokens (90 %)" in tables[0].frame
    for table in tables:
        assert "–" not in table.frame[table.frame["mixer"] == "linear"].to_numpy()
        assert faults(table) == []


def test_a_single_seed_says_that_it_is_one() -> None:
    tables = report.tables([row for row in suite() if row.seed == 0])
    assert all(any("single seed" in note for note in table.notes) for table in tables)
    assert all(faults(table) == [] for table in tables)
    assert "± " in tables[0].frame["majority, lead 0.05 (%)"][0], "the canvases' interval"


def test_the_floors_stand_below_the_mixers() -> None:
    table = report.tables(suite())[1]
    assert table.frame["mixer"].tolist()[2:] == ["floor: guessing", "floor: near tokens", "floor: set of answers"]
    assert table.frame["n = 4 (%)"].tolist()[2:] == ["3.12", "3.12", "25.00"]
    assert table.data["set_floor_4"].tolist() == [0.25] * 4, "two mixers after two budgets"
    assert table.data["budget"].tolist() == [800, 2000] * 2
    assert "at this floor by construction" in " ".join(table.notes)


def test_a_run_whose_leak_check_failed_is_refused() -> None:
    rows = [probe_row("majority", mixer, leak_check=LEAKS) for mixer in ("linear", "softmax")]
    good = probe_row("majority", "pool")
    tables = report.tables([*rows, good])
    for table in tables:
        row = table.frame[table.frame["mixer"] == "linear"]
        assert "100.00" not in "".join(map(str, row.to_numpy().ravel()))
        assert any("linear: refused, since the leak check failed" in note for note in table.notes)
        assert any("±" in str(cell) for cell in table.frame[table.frame["mixer"] == "pool"].to_numpy().ravel())


@pytest.mark.parametrize(("learnt", "said"), [(0, "not trained"), (1, "recall: 2 of 3 seeds not trained")])
def test_a_mixer_that_fails_the_gate_says_so_in_its_other_cells(learnt: int, said: str) -> None:
    rows = suite()
    for seed in range(3):
        one = stored(3.0) if seed < learnt else [0.4] * 5
        rows.append(probe_row("recall", "xca", seed, {800: [0.4] * 5, 2000: one}, budgets=(800, 2000)))
        rows.append(probe_row("needle", "xca", seed, {800: [1] * 5}))
        rows.append(probe_row("majority", "xca", seed, {400: [1, 1, 1]}))
        rows.append(probe_row("shift", "xca", seed, {200: [0.4], 400: [0.95]}))
    table = report.tables(rows)[0]
    failed, *others = (table.frame[table.frame["mixer"] == name].iloc[0] for name in ("xca", "linear", "softmax"))
    assert failed["majority, lead 0.05 (%)"] == f"100.00 ± 0.78 ({said})"
    assert failed["needle: tokens (90 %)"] == f"at least 384 ({said})"
    assert failed["shift: steps to 90 %"] == f"400 ({said})"
    assert failed["recall: pairs (90 %), 800 steps"] == "not trained"
    assert not any("not trained" in str(cell) for line in others for cell in line)
    assert table.data["recall_untrained"].tolist() == [0, 0, 3 - learnt]
    assert any(note.startswith(f"Not trained (xca{', 2 of 3 seeds' if learnt else ''})") for note in table.notes)
    assert faults(table) == []
    (line,) = [line for line in capabilities(probe_results(rows))[0].lines if line.label == "xca"]
    assert line.untrained == (3 - learnt, 3)


def test_positions_are_named_where_they_are_not_the_probes_own() -> None:
    assert label(probe_row("recall")) == "linear"
    assert label(probe_row("shift")) == "linear"
    assert label(probe_row("recall", pos_embed="sincos")) == "linear, sincos"
    assert label(probe_row("shift", pos_embed="none")) == "linear, no position"
    assert label(probe_row("recall", local_conv="dwc")) == "linear + DWC"
    assert label(probe_row("flood")) == "linear"
    assert label(probe_row("flood", local_conv="none")) == "linear, no DWC"


def test_other_code_of_a_mixer_is_another_line_also_between_probes() -> None:
    rows = [probe_row("recall", mixer_digest="a" * 40), probe_row("majority", mixer_digest="b" * 40)]
    (result,) = capabilities(probe_results(rows))
    assert [line.label for line in result.lines] == ["linear (code aaaaaaaa)", "linear (code bbbbbbbb)"]
    assert [[found is not None for found in line.lines] for line in result.lines] == [[True, False], [False, True]]


def test_runs_of_other_settings_do_not_mix_and_of_a_seed_the_newest_counts() -> None:
    old = probe_row(by_step={9: [0.2] * 5}, created="2020-01-01T00:00:00+00:00")
    table = report.tables([probe_row(), old])[1]
    assert table.frame["n = 1 (%)"][0].startswith("100.00")
    assert "1 earlier row of the same cell was left out: the latest counts." in table.notes
    quick = probe_row(recipe_digest="quick", epochs=8, by_step={800: stored(3.0)})
    names = [table.name for table in report.tables([probe_row(by_step={6000: [1] * 5}), quick])]
    assert len([name for name in names if name.startswith("probe-recall")]) == 2
    assert len([name for name in names if name == "capability"]) == 1


# --- figures


@pytest.mark.slow
def test_a_figure_goes_through_the_cells_and_its_bands_are_the_intervals(tmp_path: Path) -> None:
    rows = suite()
    found = {result.setting.probe: result for result in probe_results(rows)}
    assert [x for x, _ in places(found["recall"])] == [1, 2, 4, 8, 16]
    assert [x for x, _ in places(found["needle"])] == [96, 216, 384]
    assert [x for x, _ in places(found["flood"])] == [1, 4, 15]
    points = curve(found["shift"], found["shift"].lines[0])
    assert [x for x, _ in points] == [200, 400]
    written = report.write(rows, tmp_path)
    names = ("recall", "needle", "flood", "majority", "shift", "hop")
    assert {path.name for path in written} >= {f"probe-{name}.png" for name in names}
    page = (tmp_path / "page.html").read_text()
    assert "Probes: what can it do?" in page
    (chart,) = charts(report.tables(rows), [])
    assert len(chart.x) == 6
    in_chart = [point["accuracy"] for point in chart.points if point["mixer"] == "linear" and "probe_0" in point]
    assert in_chart == pytest.approx([100 * value.estimate for _, value in curve(found["recall"], found["recall"].lines[0])])
    assert all("low" in point for point in chart.points if not point["mixer"].startswith("floor"))


# --- claims

HEAD = "recipe: probe-{probe}\nseeds: [{seeds}]\nbudget: {{epochs: 60}}\nclaims:\n"


def answer(tmp_path: Path, rows: Sequence[AnyRow], claim: str, probe: str = "recall", seeds: int = 3) -> Answer:
    file = tmp_path / "claims.yaml"
    head = HEAD.format(probe=probe, seeds=", ".join(map(str, range(seeds))))
    file.write_text(
        f"{head}  - {{id: a, says: x, {claim if 'kind' in claim else f'kind: capability, probe: {probe}, {claim}'}}}\n"
    )
    claims = read_claims(file)
    (found,) = decide(claims.file, list(rows)).values()
    (table,) = [t for t in report.tables(rows, Asked(claims=claims)) if t.kind == "claims"]
    assert table.frame["verdict"][0] == found.verdict
    assert faults(table) == []
    assert claims_results(list(rows), claims)[0].measure == "accuracy"
    return found


def recalls(**mixers: Sequence[float]) -> list[AnyRow]:
    """Runs of recall that store so many pairs, by seed; 16 and more: all, under 1: none."""
    return [
        probe_row("recall", mixer, seed, {6000: [1.0] * 5 if n >= 16 else stored(n) if n >= 1 else [0.3] * 5})
        for mixer, pairs in mixers.items()
        for seed, n in enumerate(pairs)
    ]


SIX = (5.8, 6.0, 6.3)


@pytest.mark.parametrize(
    ("pairs", "claim", "verdict"),
    [
        (SIX, "at_least: 5", "supported"),
        (SIX, "at_least: 8", "contradicted"),
        (SIX, "at_least: 6", "undecidable"),
        (SIX, "at_most: 8", "supported"),
        (SIX, "at_most: 5", "contradicted"),
        ((16, 16, 16), "at_least: 16", "supported"),
        ((16, 16, 16), "at_least: 17", "undecidable"),
        ((16, 16, 16), "at_most: 8", "contradicted"),
        ((16, 16, 16), "at_most: 32", "undecidable"),
        # under 90 % at one pair: not trained, which is no capacity
        ((0, 0, 0), "at_least: 2", "undecidable"),
        ((0, 0, 0), "at_most: 1", "undecidable"),
        ((0, 2.9, 3.0), "at_most: 8", "undecidable"),
        # one seed has only a bound: it counts as 16 against "at least", and as nothing against "at most"
        ((16, 15.9, 15.8), "at_least: 12", "supported"),
        ((16, 15.9, 15.8), "at_most: 24", "undecidable"),
        ((0, 6.0, 6.1), "at_least: 1", "undecidable"),
        ((0, 16, 6), "at_least: 4", "undecidable"),
    ],
)
def test_a_claim_of_capacity(tmp_path: Path, pairs: Sequence[float], claim: str, verdict: str) -> None:
    found = answer(tmp_path, recalls(linear=pairs), f"line: linear, statistic: capacity, {claim}")
    assert found.verdict == verdict
    exact = all(1 <= n < 16 for n in pairs)
    assert (found.estimate is not None) == exact
    if exact:
        assert found.estimate == pytest.approx(2 ** np.log2(pairs).mean())
        assert found.low < found.estimate < found.high
        t = stats.t.isf(0.05, 2) * np.log2(pairs).std(ddof=1) / 3**0.5
        assert math.log2(found.high) - math.log2(found.estimate) == pytest.approx(t)


def test_an_undecidable_claim_has_its_price(tmp_path: Path) -> None:
    found = answer(tmp_path, recalls(linear=(5.0, 6.0, 8.0)), "line: linear, statistic: capacity, at_least: 5")
    assert found.verdict == "undecidable"
    assert found.if_estimate.needed.seeds > 3
    assert found.if_effect.needed.seeds is not None
    assert found.if_estimate.seconds == pytest.approx(found.if_estimate.runs * 101.0)
    rows = recalls(linear=(16, 16, 6), softmax=(5, 16, 16))
    bounds = answer(tmp_path, rows, "line: linear, statistic: capacity, ratio: {to: softmax, at_least: 4}")
    assert bounds.if_estimate.needed.why_none == bounds.if_effect.needed.why_none == BOUNDED


def test_a_seed_with_a_bound_on_the_wrong_side_leaves_a_claim_without_a_price(tmp_path: Path) -> None:
    """With a seed that stores more than was asked, a mean of at most 14 can never be shown, whatever the seeds to come."""
    rows = recalls(linear=(4.0, 5.0, 16))
    found = answer(tmp_path, rows, "line: linear, statistic: capacity, at_most: 14")
    assert (found.verdict, found.power) == ("undecidable", None)
    assert found.if_estimate.needed.why_none == found.if_effect.needed.why_none == BOUNDED
    least = answer(tmp_path, rows, "line: linear, statistic: capacity, at_least: 4")
    assert least.if_estimate.needed.seeds > 3, "that it is more than 4 can be shown with the bound in the place of the value"
    assert least.power > 0


def test_no_looks_follow_where_bounds_exclude_both_verdicts(tmp_path: Path) -> None:
    head = "recipe: probe-recall\nseeds: [0, 1, 2, 3, 4, 5]\nlooks: [3, 6]\nbudget: {epochs: 60}\nclaims:\n"
    claim = "  - {id: a, says: x, kind: capability, probe: recall, line: linear, statistic: capacity, "
    (tmp_path / "claims.yaml").write_text(f"{head}{claim}ratio: {{to: softmax, at_least: 4}}}}\n")
    file = read_claims(tmp_path / "claims.yaml").file
    assert not open_claims(file, recalls(linear=(16, 16, 6), softmax=(5, 16, 16)))
    (still,) = open_claims(file, recalls(linear=(16, 16, 6), softmax=(5, 6, 7)))
    assert still.seeds == (0, 1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("statistic: accuracy, at_least: 100", "100 % is shown by no number"),
        ("statistic: solved, at_least: 100", "100 % is shown by no number"),
        ("statistic: accuracy, at_least: 99, effect: 2", "there are 1 points left, not 2"),
        ("statistic: accuracy, at_most: 3, effect: 4", "there are 3 points left, not 4"),
    ],
)
def test_a_truth_beyond_all_accuracies_is_refused(words: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        answer(tmp_path, recalls(linear=(4.0, 5.0, 6.0)), f"line: linear, {words}")


def test_the_stated_effect_ends_at_what_an_accuracy_can_be(tmp_path: Path) -> None:
    """At least 99 %: the truth is 100 % then, and not 104."""
    rows = [probe_row("majority", "pool", seed, {100: [value] * 3}) for seed, value in enumerate((0.985, 0.999, 0.99))]
    found = answer(tmp_path, rows, "line: pool, statistic: accuracy, at_least: 99", "majority")
    assert found.power < 0.5
    low = answer(tmp_path, rows, "line: pool, statistic: accuracy, at_least: 90", "majority")
    assert low.power is None or low.power > found.power


@pytest.mark.parametrize("words", ["at_most: 50", "at_least: 50"])
def test_a_value_exactly_at_the_threshold_is_named_in_the_claim_s_unit(words: str, tmp_path: Path) -> None:
    rows = [probe_row("majority", "pool", seed, {100: [value] * 3}) for seed, value in enumerate((0.25, 0.5, 0.75))]
    found = answer(tmp_path, rows, f"line: pool, statistic: accuracy, {words}", "majority")
    assert found.if_estimate.needed.why_none == "it would lie exactly at the claim's threshold (50)"


def test_nothing_right_is_zero_and_not_minus_zero(tmp_path: Path) -> None:
    rows = [probe_row("majority", "pool", seed, {100: [0.0] * 3}) for seed in range(3)]
    found = answer(tmp_path, rows, "line: pool, statistic: accuracy, at_most: 50", "majority")
    assert math.copysign(1, found.estimate) == 1


@pytest.mark.parametrize(
    ("levels", "accuracies", "value", "censored"),
    [
        ([1, 2, 4, 8], [1.0, 0.85, 0.95, 0.5], 4.0, ""),
        ([1, 2, 4], [0.9, 0.85, 0.95], 4.0, "above"),
        ([1, 2], [0.9, 0.5], 1.0, ""),
        ([1, 2], [0.7 + 0.2, 0.9], 2.0, "above"),
    ],
)
def test_accuracies_whose_mean_is_the_threshold_but_for_rounding_pass(
    levels: list[float], accuracies: list[float], value: float, censored: str
) -> None:
    found = falls_through(levels, accuracies)
    assert (found.value, found.censored) == (pytest.approx(value), censored)


def test_a_line_that_was_not_trained_has_no_capacity_and_no_number_of_seeds_gives_it_one(tmp_path: Path) -> None:
    found = answer(tmp_path, recalls(linear=(0, 6.0, 0)), "line: linear, statistic: capacity, at_most: 8")
    assert found.why_none == (
        "not trained: linear is under 90 % at 1, the smallest number asked, with seed 0, 2; longer training may decide it, "
        "more seeds do not"
    )
    assert found.if_estimate.needed.why_none == found.if_effect.needed.why_none == UNTRAINED
    assert (found.estimate, found.power, found.seeds) == (None, None, 3)
    for claim in ("n90, at_most: 300", "n90, at_least: 100", "n90, ratio: {to: softmax, at_most: 0.5}"):
        rows = [
            probe_row("needle", mixer, seed, {800: values})
            for mixer, values in (("linear", [0.4] * 5), ("softmax", [1.0] * 5))
            for seed in range(3)
        ]
        failed = answer(tmp_path, rows, f"line: linear, statistic: {claim}", "needle")
        assert failed.verdict == "undecidable"
        assert "not trained: linear is under 90 % at 96" in failed.why_none
    dull = answer(tmp_path, recalls(linear=(0, 0, 0)), "line: linear, statistic: accuracy, level: 1, at_most: 50")
    assert dull.verdict == "supported", "accuracies are what they are"


def test_what_cannot_see_is_not_called_untrained(tmp_path: Path) -> None:
    rows = [probe_row("recall", "pool", seed, {6000: [0.04] * 5}, reaches=False) for seed in range(3)]
    found = answer(tmp_path, rows, "line: pool, statistic: capacity, at_most: 8")
    assert found.why_none.endswith(f"with seed 0, 1, 2; {BLIND}")
    assert found.if_estimate.needed.why_none == BLIND


def test_no_seeds_are_added_to_what_was_not_trained(tmp_path: Path) -> None:
    head = "recipe: probe-recall\nseeds: [0, 1, 2, 3, 4, 5]\nlooks: [3, 6]\nbudget: {epochs: 60}\nclaims:\n"
    claim = "  - {id: a, says: x, kind: capability, probe: recall, line: linear, statistic: capacity, at_least: 6}\n"
    (tmp_path / "claims.yaml").write_text(head + claim)
    file = read_claims(tmp_path / "claims.yaml").file
    assert open_claims(file, recalls(linear=SIX)) == (OpenClaim("a", ("linear",), tuple(range(6))),)
    assert open_claims(file, recalls(linear=(0, 6.0, 6.1))) == ()


@pytest.mark.parametrize(
    ("ours", "theirs", "ratio", "verdict"),
    [
        ((12, 13, 14), (3, 3.2, 3.6), "at_least: 2", "supported"),
        ((12, 13, 14), (3, 3.2, 3.6), "at_most: 2", "contradicted"),
        ((12, 13, 14), (3, 3.2, 3.6), "at_least: 8", "contradicted"),
        ((16, 16, 16), (3, 3.2, 3.6), "at_least: 4", "supported"),
        ((16, 16, 16), (3, 3.2, 3.6), "at_least: 6", "undecidable"),
        ((16, 16, 16), (0, 0, 0), "at_least: 16", "undecidable"),
        ((16, 16, 16), (0, 3.2, 3.6), "at_least: 2", "undecidable"),
        ((16, 16, 16), (16, 16, 16), "at_least: 1", "undecidable"),
        ((0, 0, 0), (3, 3.2, 3.6), "at_least: 1", "undecidable"),
        ((0, 0, 0), (3, 3.2, 3.6), "at_most: 1", "undecidable"),
    ],
)
def test_a_claim_of_a_ratio(tmp_path: Path, ours: Sequence[float], theirs: Sequence[float], ratio: str, verdict: str) -> None:
    rows = recalls(softmax=ours, linear=theirs)
    found = answer(tmp_path, rows, f"line: softmax, statistic: capacity, ratio: {{to: linear, {ratio}}}")
    assert found.verdict == verdict


def test_a_ratio_is_taken_seed_by_seed(tmp_path: Path) -> None:
    """Seeds go up and down together: the ratio is known far better than either capacity."""
    theirs = (2.5, 3.5, 7.0)
    claim = "line: softmax, statistic: capacity, ratio: {to: linear, at_least: 1.5}"
    paired = recalls(softmax=[2 * n + s / 100 for s, n in enumerate(theirs)], linear=theirs)
    assert answer(tmp_path, paired, claim).verdict == "supported"
    crossed = recalls(softmax=[2 * n for n in theirs], linear=theirs[::-1])
    assert answer(tmp_path, crossed, claim).verdict == "undecidable"


@pytest.mark.parametrize(
    ("values", "claim", "verdict"),
    [
        ((0.95, 0.96, 0.955), "level: 0.05, at_least: 90", "supported"),
        ((0.95, 0.96, 0.955), "level: 0.05, at_most: 90", "contradicted"),
        ((1.0, 1.0, 1.0), "level: 0.05, at_least: 99", "supported"),  # canvases say how sure it is
        ((0.991, 0.991, 0.991), "level: 0.05, at_least: 99", "undecidable"),
        ((0.95, 0.96, 0.955), "level: 0.1, at_least: 99", "supported"),
        ((0.95, 0.96, 0.955), "at_least: 99", "contradicted"),  # the mean over levels is about 98.5
        ((0.95, 0.96, 0.955), "level: 0.3, at_least: 50", "undecidable"),  # no such level
        ((0.95, 0.96, 0.955), "level: 0.05, budget: 77, at_least: 50", "undecidable"),  # not evaluated then
    ],
)
def test_a_claim_of_accuracy(tmp_path: Path, values: Sequence[float], claim: str, verdict: str) -> None:
    rows = [probe_row("majority", seed=seed, by_step={400: [1, 1, value]}) for seed, value in enumerate(values)]
    assert answer(tmp_path, rows, f"line: linear, statistic: accuracy, {claim}", "majority").verdict == verdict


def test_bounds_of_an_accuracy_end_where_accuracies_do(tmp_path: Path) -> None:
    def of(value: float, claim: str) -> Answer:
        rows = [probe_row("majority", seed=seed, by_step={400: [1, 1, value]}) for seed in range(3)]
        return answer(tmp_path, rows, f"line: linear, statistic: accuracy, level: 0.05, {claim}", "majority")

    for claim in ("at_least: 50", "at_most: 50"):
        perfect, none, half = (of(value, claim) for value in (1.0, 0.0, 0.5))
        assert perfect.estimate == perfect.high == 100
        assert 0 < perfect.low < 100
        assert none.estimate == none.low == 0
        assert 0 < none.high < 100
        assert 0 < half.low < 50 < half.high < 100


def test_a_claim_of_the_seeds_that_solve_a_probe(tmp_path: Path) -> None:
    def of(solved: int, claim: str) -> Answer:
        rows = [probe_row("shift", seed=seed, by_step={9: [1.0 if seed < solved else 0.2]}) for seed in range(8)]
        return answer(tmp_path, rows, f"line: linear, statistic: solved, {claim}", "shift", seeds=8)

    assert of(8, "at_least: 60").verdict == "supported"
    assert of(0, "at_least: 60").verdict == "contradicted"
    assert of(0, "at_most: 50").verdict == "supported"
    found = of(6, "at_least: 50")
    assert found.verdict == "undecidable"
    assert found.estimate == 75
    assert found.low == pytest.approx(100 * stats.binomtest(6, 8).proportion_ci(0.9).low)
    assert found.if_estimate.needed.seeds == seeds_for_share(0.75, 0.5, 0.05).seeds > 8


def test_the_seeds_that_decide_a_share_have_the_power() -> None:
    n = seeds_for_share(0.9, 0.5, 0.05).seeds
    for count, enough in ((n, True), (n - 1, False)):
        needed = next(k for k in range(count + 2) if stats.binom.sf(k - 1, count, 0.5) <= 0.05)
        assert (stats.binom.sf(needed - 1, count, 0.9) >= 0.8) == enough
    assert seeds_for_share(0.2, 0.5, 0.05).seeds == seeds_for_share(0.8, 0.5, 0.05).seeds
    assert seeds_for_share(0.5, 0.5, 0.05).why_none


def test_the_claims_on_accuracies_speak_of_probes_too_and_runs_that_ended_early_are_of_the_same_setting(tmp_path: Path) -> None:
    rows = [
        probe_row(
            "majority", mixer, seed, {400 - 200 * (mixer == "softmax"): [1, 1, value + seed / 200]}, stopped=mixer == "softmax"
        )
        for mixer, value in (("softmax", 0.9), ("linear", 0.5))
        for seed in range(3)
    ]
    claim = "kind: better, line: softmax, than: linear"
    found = answer(tmp_path, rows, claim, "majority")
    assert "settings" not in found.why_none
    assert found.estimate == pytest.approx(100 * 0.4 / 3)
    assert found.verdict == "supported"
    leaky = [row.model_copy(update={"leak_check": LEAKS}) for row in rows]
    assert "leak check" in answer(tmp_path, leaky, claim, "majority").why_none


#: In points, of the means of two lines over three levels of 512 canvases, all answered alike: by Wilson's z² / (n + z²).
CANVASES = 100 * math.sqrt(2 / 3) * stats.norm.ppf(0.975) / (512 + stats.norm.ppf(0.975) ** 2)


def alike(**mixers: Sequence[float]) -> list[AnyRow]:
    """Runs of majority with these accuracies at its levels, for every seed."""
    return [
        probe_row("majority", mixer, seed, {400: values}, error=0.0) for mixer, values in mixers.items() for seed in range(3)
    ]


def test_the_canvases_say_how_sure_a_difference_is_where_seeds_are_alike(tmp_path: Path) -> None:
    rows = alike(softmax=[1.0] * 3, linear=[1.0] * 3)
    reach = stats.norm.isf(0.05) * CANVASES

    def within(margin: float) -> Answer:
        return answer(tmp_path, rows, f"kind: within, line: softmax, of: linear, margin: {margin}", "majority")

    found = within(reach + 0.001)
    assert (found.verdict, found.why_none) == ("supported", "")
    assert (found.low, found.high) == pytest.approx((-reach, reach))
    open_ = within(reach - 0.001)
    assert open_.verdict == "undecidable"
    assert open_.if_effect.needed.why_none == TOO_FEW_SAMPLES, "more seeds are no more canvases"


def test_a_gap_below_what_the_canvases_show_is_no_lead(tmp_path: Path) -> None:
    rows = alike(softmax=[1.0] * 3, linear=[1.0, 1.0, 0.9985])
    found = answer(tmp_path, rows, "kind: better, line: softmax, than: linear", "majority")
    assert found.estimate == pytest.approx(0.05)
    assert found.verdict == "undecidable"
    assert found.low == pytest.approx(0.05 - stats.norm.isf(0.05) * CANVASES)
    asked = Asked(claims=read_claims(tmp_path / "claims.yaml"))
    (table,) = [table for table in report.tables(rows, asked) if table.kind == "claims"]
    assert table.frame["why"][0].endswith(f"no number of seeds decides it if the estimate is true: {TOO_FEW_SAMPLES}")
    best = answer(tmp_path, rows, "kind: best, line: softmax, among: [linear]", "majority")
    assert (best.verdict, best.low) == ("undecidable", pytest.approx(found.low))
    clear = alike(softmax=[1.0] * 3, linear=[1.0, 1.0, 0.95])
    assert answer(tmp_path, clear, "kind: better, line: softmax, than: linear", "majority").verdict == "supported"


def test_an_accuracy_that_is_claimed_has_the_error_of_its_seeds_and_canvases(tmp_path: Path) -> None:
    values = (0.93, 0.95, 0.97)
    rows = [probe_row("majority", seed=seed, by_step={400: [1, 1, value]}, error=0.01) for seed, value in enumerate(values)]
    found = answer(tmp_path, rows, "line: linear, statistic: accuracy, level: 0.05, at_least: 90", "majority")
    reach = math.hypot(stats.t.isf(0.05, 2) * 2 / 3**0.5, stats.norm.isf(0.05) * 1.0)
    assert found.low == pytest.approx(95 - reach)


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ("statistic: capacity", "exactly one of at_least, at_most and ratio"),
        ("statistic: capacity, at_least: 1, at_most: 2", "exactly one of"),
        ("statistic: n90, at_least: 1", "n90 is a statistic of needle"),
        ("statistic: reach, at_least: 1", "reach is a statistic of flood"),
        ("statistic: capacity, level: 2, at_least: 1", "level is of the statistic accuracy"),
        ("statistic: capacity, distance: 2, at_least: 1", "distance is of the statistic accuracy"),
        ("statistic: accuracy, distance: 2, at_least: 1", "distance is of the probe flood"),
        ("statistic: accuracy, grid: [8, 8], at_least: 1", "grid of needle"),
        ("statistic: accuracy, level: 2, distance: 2, at_least: 1", "at one of distance, level"),
        ("statistic: hops, at_least: 1", "hops is a statistic of hop"),
        ("statistic: steps, at_least: 1", "steps is a statistic of shift"),
        ("kind: capability, probe: shift, statistic: steps, budget: 200, at_least: 1", "no budget"),
        ("statistic: capacity, ratio: {to: linear, at_least: 2}", "compared with itself"),
        ("statistic: capacity, ratio: {to: softmax}", "exactly one of at_least and at_most"),
        ("statistic: accuracy, at_least: 101", "in per cent"),
        ("statistic: solved, at_least: 50, budget: 800", "at the end"),
        ("statistic: capacity, at_least: 2, effect: 0.5", "a factor above 1"),
    ],
)
def test_claims_that_mean_nothing_are_refused(tmp_path: Path, claim: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        answer(tmp_path, [], f"line: linear, {claim}")


def by_seed(probe: str, *values: Sequence[float | None], mixer: str = "linear") -> list[AnyRow]:
    """A run for each list of what its cells hold at the end."""
    return [probe_row(probe, mixer, seed, {400: found}) for seed, found in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "claim", "verdict"),
    [
        ([[1, 0.95, 0.4]] * 3, "at_least: 2", "supported"),
        ([[1, 0.95, 0.4]] * 3, "at_most: 2", "supported"),
        ([[1, 0.95, 0.4]] * 3, "at_least: 3", "contradicted"),
        ([[1, 0.95, 0.4]] * 3, "at_most: 1", "contradicted"),
        ([[1, 1, 1]] * 3, "at_least: 3", "supported"),
        ([[1, 1, 1]] * 3, "at_most: 3", "undecidable"),  # the largest that was asked
        ([[0.5, 1, 1], [1, 1, 1], [1, 1, 1]], "at_least: 1", "undecidable"),  # not trained
        ([[1, 1, 0], [1, 0, 0], [1, 1, 0]], "at_least: 1", "undecidable"),
        ([[1, 1, 0], [1, 0, 0], [1, 1, 0]], "at_most: 8", "supported"),
        ([[1, 0, 1]] * 3, "at_least: 2", "contradicted"),
    ],
)
def test_a_claim_of_the_steps_of_hop(tmp_path: Path, values: Sequence[Sequence[float]], claim: str, verdict: str) -> None:
    found = answer(tmp_path, by_seed("hop", *values), f"line: linear, statistic: hops, {claim}", "hop")
    assert found.verdict == verdict
    if values[0] != values[1] and values[0][0] == 1:
        assert found.estimate == pytest.approx(2 ** (2 / 3)), "the geometric mean of 2, 1 and 2"
    if claim.endswith("2"):
        assert found.why_none == ""


@pytest.mark.parametrize(
    ("claim", "verdict"),
    [
        ("at_most: 400", "supported"),
        ("at_least: 400", "supported"),
        ("at_least: 600", "contradicted"),
        ("ratio: {to: softmax, at_most: 0.5}", "supported"),
        ("ratio: {to: softmax, at_most: 0.4}", "contradicted"),
    ],
)
def test_a_claim_of_the_steps_of_training_to_90_percent(tmp_path: Path, claim: str, verdict: str) -> None:
    looks = {"linear": {200: [0.5], 400: [0.9], 800: [1.0]}, "softmax": {200: [0.5], 400: [0.8], 800: [1.0]}}
    rows = [probe_row("shift", mixer, seed, by_step) for mixer, by_step in looks.items() for seed in range(3)]
    assert answer(tmp_path, rows, f"line: linear, statistic: steps, {claim}", "shift").verdict == verdict


def test_steps_that_were_never_reached_are_a_bound(tmp_path: Path) -> None:
    rows = [probe_row("shift", seed=seed, by_step={200: [0.5], 400: [0.6]}) for seed in range(3)]
    late, soon = (
        answer(tmp_path, rows, f"line: linear, statistic: steps, {claim}: 300", "shift") for claim in ("at_least", "at_most")
    )
    assert (late.verdict, soon.verdict) == ("supported", "contradicted")
    first = [probe_row("shift", seed=seed, by_step={200: [0.95], 400: [1.0]}) for seed in range(3)]
    assert answer(tmp_path, first, "line: linear, statistic: steps, at_most: 200", "shift").verdict == "supported"
    assert answer(tmp_path, first, "line: linear, statistic: steps, at_most: 100", "shift").verdict == "undecidable"


@pytest.mark.parametrize(
    ("probe", "values", "claim", "found"),
    [
        ("flood", [1, 0.8, 1, 0.95, 0.6], "distance: 4, at_least: 90", ("supported", 95)),
        ("flood", [1, 0.8, 1, 0.95, 0.6], "distance: 15, at_least: 90", ("contradicted", 60)),
        ("flood", [1, 0.8, 1, 0.95, 0.6], "distance: 7, at_least: 90", ("undecidable", "at a distance of 7")),
        ("needle", [1, 1, 1, 0.95, 0.3], "grid: [12, 18], at_least: 90", ("supported", 95)),
        ("needle", [1, 1, 1, 0.95, 0.3], "grid: [16, 24], at_most: 50", ("supported", 30)),
        ("needle", [1, 1, 1, None, None], "grid: [16, 24], at_most: 50", ("undecidable", "on 16×24 tokens")),
    ],
)
def test_a_claim_of_accuracy_at_a_distance_or_on_another_grid(
    tmp_path: Path, probe: str, values: Sequence[float | None], claim: str, found: tuple[str, object]
) -> None:
    said = answer(tmp_path, by_seed(probe, *[values] * 3), f"line: linear, statistic: accuracy, {claim}", probe)
    assert said.verdict == found[0]
    if isinstance(found[1], str):
        assert said.why_none.endswith(found[1])
    else:
        assert said.estimate == pytest.approx(found[1])


def test_runs_of_another_probe_do_not_answer(tmp_path: Path) -> None:
    rows = [row.model_copy(update={"recipe": "probe-needle"}) for row in recalls(linear=SIX)]
    found = answer(tmp_path, rows, "line: linear, statistic: n90, at_least: 100", "needle")
    assert "the runs are of recall, not of the probe needle" in found.why_none


# --- the command

RUNNER = CliRunner()
TINY = (
    "epochs=2",
    "optim.warmup_epochs=1",
    "eval_every=1",
    "model.embed_dim=16",
    "model.num_heads=2",
    "data.probe.budgets=[4]",
)
TINY += ("data.probe.train=64", "data.probe.held_out=16", "data.probe.levels=[1,2]", "data.probe.keys=8", "data.probe.values=8")
TINY += ("model.in_channels=16",)


@pytest.mark.slow  # two processes train
def test_the_command_trains_reports_and_does_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wfbench.tasks.probe.QUICK", {"recall": TINY})
    words = ["probe", "--quick", "--mixer", "linear", "--mixer", "static", "--out", str(tmp_path), "--device", "cpu"]
    first = RUNNER.invoke(app, words)
    assert first.exit_code == 0, first.output
    said = " ".join(first.output.split())
    assert "not trained" in said
    assert "Quick: recall after 4 of 6,000 steps, and one seed" in said
    assert str(tmp_path / "probe-recall.png") in first.output.replace("\n", "")
    assert (tmp_path / "page.html").is_file()
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    assert len(made) == 2
    again = RUNNER.invoke(app, words)
    assert again.exit_code == 0, again.output
    assert "2 finished" in again.output
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")} == made


def test_what_the_command_asks_the_sweep_for() -> None:
    plain = ProbeRequest.of([], [], None, quick=False, tune=True)
    assert [one.recipes for one in plain.sweeps] == [(f"probe-{name}",) for name in ("majority", "recall", "needle", "shift")]
    assert all(one.seeds == (1, 2, 3) and not one.settings for one in plain.sweeps)
    assert plain.sweeps[0].tune.rates(1.6e-3) == pytest.approx((5.333e-4, 1.6e-3, 4.8e-3))
    quick = ProbeRequest.of([], ["pool", "pool"], None, quick=True, tune=False)
    assert [(one.recipes, one.seeds, one.settings, one.tune) for one in quick.sweeps] == [
        (("probe-recall",), (1,), QUICK["recall"], None)
    ]
    both = ProbeRequest.of(["majority", "recall"], [], 2, quick=True, tune=False)
    assert [one.settings for one in both.sweeps] == [QUICK["majority"], QUICK["recall"]]
    assert steps_of("recall", quick=True) == 800
    assert steps_of("recall", quick=False) == 6000
    assert known() == ["flood", "hop", "majority", "needle", "recall", "shift"]
    for name in known():
        steps = steps_of(name, quick=True)
        assert 2 * steps <= steps_of(name, quick=False), name
        assert recipe.load(f"probe-{name}", QUICK[name]).data.probe.budgets == (steps,), name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["recal"], "did you mean recall?"),
        (["--mixer", "softmx", "--quick"], "did you mean softmax"),
        (["--quick", "--tune"], "exclude each other"),
        (["--seeds", "0"], "1 or more"),
    ],
)
def test_bad_input_is_one_message(words: list[str], said: str, tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["probe", *words, "--out", str(tmp_path / "x")])
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert not (tmp_path / "x").exists()


def test_claims_name_lines_as_the_tables_of_probes_do() -> None:
    for name in ("recall", "shift", "flood"):
        (draft,) = drafts(SweepRequest(mixers=(Line(mixer="linear"),), recipes=(f"probe-{name}",)))
        assert registration.line_name(draft) == "linear"


def test_the_strength_of_predicted_parts_stands_in_a_probes_table() -> None:
    strength = (Strength(layer=1, slot="fc1", total=0.2, common=0.05, own=0.19),)
    rows = [
        probe_row(mixer="wf", seed=seed, strength=strength, strength_before=strength, strength_samples=16) for seed in range(3)
    ]
    made = next(table for table in report.tables([*rows, probe_row(mixer="linear")]) if table.kind == "probe")
    assert made.data["strength_fc1"].dropna().tolist() == pytest.approx([0.2])
    assert made.data["strength_own_fc1"].dropna().tolist() == pytest.approx([0.19])
    assert "strength, fc1" in made.to_markdown()
    assert "on 16 held-out samples" in made.to_markdown()
    assert "strength" not in report.tables([probe_row(mixer="linear")])[1].to_markdown()


def test_a_layer_without_a_static_part_says_so_in_place_of_a_strength() -> None:
    none = (Strength(layer=1, slot="fc1", total=None, common=None, own=None),)
    rows = [probe_row(mixer="wf", seed=seed, strength=none, strength_before=none, strength_samples=16) for seed in range(2)]
    made = next(table for table in report.tables(rows) if table.kind == "probe")
    assert made.frame["strength, fc1"].tolist()[0] == "no static part"
    assert made.data["strength_own_fc1"].tolist() == [math.inf]
    assert any(note.startswith("No static part: without its prediction") for note in made.notes)


# --- what needs no looking up


def recall(mixer: str, *twos: float) -> list[ProbeRow]:
    """Five levels, of which the second is given by seed; the set of answers alone gives 1, 1/2, 1/4 and so on."""
    return [probe_row("recall", mixer, seed, {100: [1.0, two, two / 2, two / 4, two / 8]}) for seed, two in enumerate(twos)]


def test_a_capacity_that_the_set_of_answers_gives_is_named_as_that() -> None:
    """It crosses 90 % at 2 ** 0.2 pairs, as the floor does, and shows no looking up."""
    rows = [*recall("xca", 0.5, 0.5, 0.5), *recall("pool", 0.45, 0.6, 0.5), *recall("linear", 0.8, 0.8, 0.81)]
    rows += [probe_row("recall", "softmax", seed) for seed in range(3)]
    results = analyse(rows)
    (probe,) = results.probes
    found = {line.label: (line.set_capacity, line.is_no_more_than_the_set(line.end)) for line in probe.lines}
    assert {name: guessed for name, (_, guessed) in found.items()} == {
        "linear": False,
        "pool": True,
        "softmax": False,
        "xca": True,
    }
    assert [capacity for capacity, _ in found.values()] == [pytest.approx(2**0.2)] * 4
    said = to_markdown(findings(results))
    assert (
        "of pool and xca no more is shown than 1.15, which answering any value on the canvas gives, without looking up" in said
    )
    assert "linear 1.4" in said
    notes = " ".join(note for table in make(rows).tables if table.kind == "probe" for note in table.notes)
    assert (
        "More than that is not shown (by the interval; without one, by no seed) of: pool, 100 steps; xca, 100 steps." in notes
    )


def test_seeds_without_an_interval_count_as_they_are_and_untrained_ones_are_called_that() -> None:
    def guessed(*rows: ProbeRow) -> bool:
        (probe,) = analyse(rows).probes
        return probe.lines[0].is_no_more_than_the_set(probe.lines[0].end)

    low, high = recall("xca", 0.5)[0], recall("xca", 0.95)[0]
    untrained = probe_row("recall", "xca", 1, {100: [0.5, 0.25, 0.2, 0.1, 0.1]})
    assert guessed(low)
    assert not guessed(high)
    assert guessed(low, untrained)
    assert not guessed(untrained)
    assert not guessed(probe_row("majority", "xca"))
