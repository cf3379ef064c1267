"""Claims: written before the runs, hashed, and answered: supported, contradicted or undecidable."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from test_report import CPU, cell, crossover, lines, train
from typer.testing import CliRunner

from wfbench import recipe, records, report
from wfbench.analysis.claims import Answer, Claims, OpenClaim, claims_results, decide, open_claims, read_claims, registration
from wfbench.cli import app
from wfbench.errors import InputError
from wfbench.records import AnyRow, Chosen, ClaimsRow, FitRow
from wfbench.report import Asked, figures
from wfbench.report.claims import registration_in_words
from wfbench.tasks.sweep import load_request
from wfbench.tasks.sweep import registration as recording

HEAD = "recipe: small\nseeds: [0, 1, 2, 3, 4]\nbudget: {epochs: 20}\nclaims:\n"
BETTER = "  - {id: a, says: dynamic beats static, kind: better, line: pool, than: softmax}\n"
SEEDS = np.array([-0.003, 0.002, 0.0, 0.001, 0.0])  # a deviation of 0.19 points


def stated(tmp_path: Path, *claims: str, head: str = HEAD) -> Claims:
    file = tmp_path / "claims.yaml"
    file.write_text(head + "".join(claims))
    return read_claims(file)


UNPAIRED, PAIRED = 5, 6  # versions of rows


def runs(version: int = UNPAIRED, **means: float) -> list[AnyRow]:
    return [
        train(name.replace("_", "-"), seed, mean + SEEDS[seed], minute=5, schema_version=version, samples=10_000)
        for name, mean in means.items()
        for seed in range(5)
    ]


def from_array(names: Sequence[str], accuracies: np.ndarray, version: int = UNPAIRED) -> list[AnyRow]:
    """Runs from an array (lines, seeds)."""
    return [
        train(name, seed, float(accuracy), minute=5, schema_version=version, samples=10_000)
        for name, by_seed in zip(names, accuracies, strict=True)
        for seed, accuracy in enumerate(by_seed)
    ]


def paired_runs(deviation: float, seeds: int = 5, draw: int = 0, **means: float) -> list[AnyRow]:
    """Runs that share what is peculiar to their seed (1 point), and differ by ``deviation`` beside it."""
    draws = np.random.default_rng(draw)
    common = draws.normal(0, 0.01, seeds)
    values = [mean + common + draws.normal(0, deviation, seeds) for mean in means.values()]
    return from_array(list(means), np.array(values), PAIRED)


def only(tmp_path: Path, rows: list[AnyRow], claim: str, head: str = HEAD) -> Answer:
    (found,) = decide(stated(tmp_path, claim, head=head).file, rows).values()
    return found


# --- accuracy


@pytest.mark.parametrize(
    ("pool", "verdict"), [(0.92, "supported"), (0.88, "contradicted"), (0.901, "undecidable"), (0.8995, "undecidable")]
)
def test_better(pool: float, verdict: str, tmp_path: Path) -> None:
    found = only(tmp_path, runs(softmax=0.90, pool=pool), BETTER)
    assert found.verdict == verdict
    assert found.estimate == pytest.approx(100 * (pool - 0.90))
    assert found.low < found.estimate < found.high
    assert found.power > 0.99, "a point at a deviation of 0.19"


def test_better_by_a_margin_is_another_claim(tmp_path: Path) -> None:
    rows = runs(softmax=0.90, pool=0.92)
    more = "  - {id: a, says: by 3 points, kind: better, line: pool, than: softmax, by: 3, effect: 4}\n"
    assert only(tmp_path, rows, BETTER).verdict == "supported"
    assert only(tmp_path, rows, more).verdict == "contradicted"


@pytest.mark.parametrize(
    ("pool", "verdict"), [(0.90, "supported"), (0.893, "supported"), (0.88, "contradicted"), (0.89, "undecidable")]
)
def test_no_worse_than_by_a_margin(pool: float, verdict: str, tmp_path: Path) -> None:
    claim = "  - {id: a, says: no worse, kind: better, line: pool, than: softmax, by: -1, effect: 0}\n"
    found = only(tmp_path, runs(softmax=0.90, pool=pool), claim)
    assert found.verdict == verdict
    assert found.power > 0.99


@pytest.mark.parametrize(
    ("pool", "margin", "verdict"),
    [
        (0.901, 1.0, "supported"),
        (0.92, 1.0, "contradicted"),
        (0.88, 1.0, "contradicted"),
        (0.909, 1.0, "undecidable"),
        (0.90, 0.1, "undecidable"),
    ],
)
def test_within(pool: float, margin: float, verdict: str, tmp_path: Path) -> None:
    claim = f"  - {{id: a, says: as good as, kind: within, line: pool, of: softmax, margin: {margin}}}\n"
    found = only(tmp_path, runs(softmax=0.90, pool=pool), claim)
    assert found.verdict == verdict
    assert (found.power > 0.9) == (margin == 1.0)


@pytest.mark.parametrize(("xca", "verdict"), [(0.89, "supported"), (0.93, "contradicted"), (0.9195, "undecidable")])
def test_best_of_a_family_is_decided_by_its_nearest_rival(xca: float, verdict: str, tmp_path: Path) -> None:
    claim = "  - {id: a, says: the best, kind: best, line: pool, among: [softmax, xca, linear]}\n"
    found = only(tmp_path, runs(softmax=0.90, pool=0.92, linear=0.88, xca=xca), claim)
    assert found.verdict == verdict
    assert found.rival == ("softmax" if xca == 0.89 else "xca")
    assert found.power is not None


def test_the_seeds_of_the_file_decide_and_no_others(tmp_path: Path) -> None:
    rows = [*runs(softmax=0.90, pool=0.92), *(train("pool", seed, 0.1, minute=5) for seed in (7, 8))]
    assert only(tmp_path, rows, BETTER).estimate == pytest.approx(2.0)
    some = [row for row in rows if not (row.mixer == "pool" and row.seed in (3, 4))]
    found = only(tmp_path, some, BETTER)
    assert (found.verdict, found.why_none) == ("undecidable", "no run of pool with seed 3, 4")


def test_the_first_run_of_a_seed_counts_and_later_ones_are_named(tmp_path: Path) -> None:
    rows = runs(softmax=0.90, pool=0.901)
    again = [train("pool", seed, 0.95 + SEEDS[seed], minute=9, samples=10_000) for seed in range(5)]
    found = stated(tmp_path, BETTER)
    answers = [decide(found.file, kept)["a"] for kept in (rows, [*rows, *again], [*again, *rows])]
    assert {said.verdict for said in answers} == {"undecidable"}
    assert {said.estimate for said in answers} == {answers[0].estimate}
    assert {row.created for row in answers[2].rows} == {at_minute(5)}
    notes = " ".join(report.tables([*rows, *again, recorded(found)])[0].notes)
    assert f"pool seed 4 ({at_minute(9)})" in notes
    assert "Later ones" not in " ".join(report.tables([*rows, recorded(found)])[0].notes)


def test_of_runs_that_began_in_one_second_the_first_recorded_counts(tmp_path: Path) -> None:
    rows = [*runs(softmax=0.90, pool=0.92), *runs(pool=0.88)]
    assert only(tmp_path, rows, BETTER).estimate == pytest.approx(2.0)


def test_runs_before_the_registration_are_not_replaced_by_later_ones(tmp_path: Path) -> None:
    """Else claims could be written to the results, and the same seeds run again."""
    found = stated(tmp_path, BETTER)
    rows = [*runs(softmax=0.90, pool=0.92), recorded(found, minute=7)]
    again = [row.model_copy(update={"created": at_minute(9)}) for row in rows[:10]]
    (result,) = claims_results([*rows, *again])
    assert result.answered[0].registration.older == 10
    assert len(result.later_runs) == 10


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 40},
        {"recipe": "another"},
        {"weights": "ema"},
        {"validation": 0.2},
        {"chosen": Chosen(match="params", match_to="softmax", budget=1, residual=0.0, mlp_ratio=4.0, depth=4, lr=1e-3)},
        {"chosen": Chosen(rates=(1e-3, 2e-3), mlp_ratio=4.0, depth=4, lr=1e-3)},
    ],
)
def test_runs_with_another_budget_do_not_count(changes: dict, tmp_path: Path) -> None:
    rows = [*runs(softmax=0.90), *(train("pool", seed, 0.95, minute=5, **changes) for seed in range(5))]
    found = only(tmp_path, rows, BETTER)
    assert found.verdict == "undecidable"
    assert "no run of pool" in found.why_none


def test_the_pooled_lines_are_all_among_the_rows_and_their_spreads_are_compared(tmp_path: Path) -> None:
    both = stated(tmp_path, BETTER, BETTER.replace("id: a", "id: b").replace("line: pool", "line: xca"))
    rows = runs(softmax=0.90, pool=0.92, xca=0.92)
    found = decide(both.file, rows)
    assert len(found["a"].rows) == len(found["b"].rows) == 15
    alike = " ".join(report.tables([*rows, recorded(both)])[0].notes)
    assert "spreads over seeds differ" not in alike
    spread = (0.3, 0.7, 0.35, 0.65, 0.5)
    wide = [row if row.mixer != "xca" else row.model_copy(update={"accuracy": spread[row.seed]}) for row in rows]
    assert "spreads over seeds differ" in " ".join(report.tables([*wide, recorded(both)])[0].notes)


def test_a_contradiction_of_within_may_come_from_either_side(tmp_path: Path) -> None:
    claim = "  - {id: a, says: as good as, kind: within, line: pool, of: softmax, margin: 0.01}\n"
    file, draws, wrong = stated(tmp_path, claim).file, np.random.default_rng(2), 0
    for _ in range(600):
        accuracy = draws.normal([[0.90009], [0.9]], 0.003, (2, 5))  # the claim is true, just so
        rows = [
            train(n, s, accuracy[i, s], minute=5, schema_version=UNPAIRED)
            for i, n in enumerate(("pool", "softmax"))
            for s in range(5)
        ]
        wrong += decide(file, rows)["a"].verdict == "contradicted"
    assert wrong / 600 < 0.05 + 3 * (0.05 * 0.95 / 600) ** 0.5  # 0.1 with two bounds of 5% each


# --- the paired design


def test_runs_of_the_paired_design_are_compared_seed_by_seed(tmp_path: Path) -> None:
    rows = paired_runs(0.001, softmax=0.90, pool=0.906)
    found = only(tmp_path, rows, BETTER)
    by_seed = [100 * (b.accuracy - a.accuracy) for a, b in zip(rows[:5], rows[5:], strict=True)]
    assert (found.verdict, found.is_paired) == ("supported", True)
    assert found.estimate == pytest.approx(np.mean(by_seed))
    half = 2.132 * np.std(by_seed, ddof=1) / 5**0.5  # the 95% quantile of t with 4 degrees of freedom
    assert (found.low, found.high) == pytest.approx((found.estimate - half, found.estimate + half), rel=1e-3)
    old = only(tmp_path, [row.model_copy(update={"schema_version": UNPAIRED}) for row in rows], BETTER)
    assert (old.verdict, old.is_paired, old.estimate) == ("undecidable", False, pytest.approx(found.estimate))
    mixed = [row.model_copy(update={"schema_version": UNPAIRED}) if row.mixer == "pool" else row for row in rows]
    assert not only(tmp_path, mixed, BETTER).is_paired


def test_a_paired_claim_uses_the_runs_of_its_own_lines_and_a_note_names_the_unpaired_ones(tmp_path: Path) -> None:
    both = stated(tmp_path, BETTER, BETTER.replace("id: a", "id: b").replace("line: pool", "line: xca"))
    rows = [*paired_runs(0.001, softmax=0.90, pool=0.906), *runs(xca=0.90)]
    found = decide(both.file, rows)
    assert {row.mixer for row in found["a"].rows} == {"softmax", "pool"}
    assert {row.mixer for row in found["b"].rows} == {"softmax", "pool", "xca"}
    notes = " ".join(report.tables([*rows, recorded(both)])[0].notes)
    assert "seed by seed (paired)" in notes
    assert "Unpaired (b):" in notes


# --- the price of an answer


def test_an_undecidable_claim_has_the_price_of_an_answer_beside_it(tmp_path: Path) -> None:
    claim = BETTER.replace("}", ", effect: 0.5}")
    rows = paired_runs(0.005, softmax=0.90, pool=0.902)
    seconds = {"softmax": 360.0, "pool": 720.0}
    rows = [row.model_copy(update={"train_seconds": seconds[row.mixer]}) for row in rows]
    found = only(tmp_path, rows, claim)
    assert found.verdict == "undecidable"
    needed = found.if_effect.needed.seeds
    assert needed > 5
    assert found.if_effect.needed.is_new_plan, "the only look has been"
    assert found.if_effect.runs == 2 * needed
    assert found.if_effect.seconds == pytest.approx(needed * (360 + 720))
    assert found.if_estimate.needed.seeds != needed
    (table,) = (t for t in report.tables([*rows, recorded(stated(tmp_path, claim))]) if t.kind == "claims")
    (words,), (cost,) = lines(table, "seeds needed"), lines(table, "costs")
    assert words.split(" / ")[1] == f"{needed} (new plan)"
    assert cost.endswith(" more")
    assert float(cost.removesuffix(" h more").split(" / ")[1]) == pytest.approx(needed * 0.3, rel=0.06)
    sure = only(tmp_path, paired_runs(0.0001, softmax=0.90, pool=0.902), claim)
    assert (sure.verdict, sure.if_estimate, sure.if_effect) == ("supported", None, None)


def test_a_price_within_the_plan_is_the_runs_that_the_look_still_lacks(tmp_path: Path) -> None:
    gains = np.tile([0.012, -0.008, 0.004, -0.004, 0.006], 2)  # 0.2 points, with a deviation of 0.8
    ten = from_array(("softmax", "pool"), np.stack([np.full(10, 0.9), 0.9 + gains]), PAIRED)
    rows = [row for row in ten if row.seed < 5 or (row.mixer, row.seed) == ("pool", 7)]
    found = only(tmp_path, rows, BETTER, head=LOOKS)
    assert (found.verdict, found.seeds) == ("undecidable", 5)
    assert (found.if_effect.needed.seeds, found.if_effect.needed.is_new_plan) == (10, False)
    seconds = {row.mixer: row.train_seconds for row in rows}
    assert found.if_effect.runs == 5 + 4, "seed 7 of pool has been run"
    assert found.if_effect.seconds == pytest.approx(5 * seconds["softmax"] + 4 * seconds["pool"])
    assert found.if_estimate.needed.is_new_plan
    (table,) = (t for t in report.tables([*rows, recorded(stated(tmp_path, BETTER, head=LOOKS))]) if t.kind == "claims")
    assert lines(table, "seeds needed")[0].endswith(" (new plan) / 10")
    assert any("not within this plan" in note for note in table.notes)


@pytest.mark.slow
def test_as_many_seeds_as_are_said_to_be_needed_decide_in_80_percent(tmp_path: Path) -> None:
    claim = BETTER.replace("}", ", effect: 0.5}")
    five = from_array(("softmax", "pool"), 0.9 + 0.003 * np.random.default_rng(4).normal(size=(2, 5)), PAIRED)
    difference = np.array([100 * (b.accuracy - a.accuracy) for a, b in zip(five[:5], five[5:], strict=True)])
    needed = only(tmp_path, five, claim).if_effect.needed.seeds
    draws, found = np.random.default_rng(5), 0
    file = stated(tmp_path, claim, head=HEAD.replace("[0, 1, 2, 3, 4]", str(list(range(needed))))).file
    for _ in range(400):
        spread = difference.std(ddof=1) / 100
        accuracy = np.stack([np.full(needed, 0.9), 0.905 + spread * draws.normal(size=needed)])
        found += decide(file, from_array(("softmax", "pool"), accuracy, PAIRED))["a"].verdict == "supported"
    assert found / 400 == pytest.approx(0.8, abs=0.07)


@pytest.mark.parametrize(
    ("changes", "remedies"),
    [
        ({"freedom": 3}, ("more sides",)),
        ({"freedom": 9}, ("more rounds",)),
        ({"freedom": 9, "spread": 0.9}, ("more sides",)),
        ({"freedom": 3, "doubts": ("the range is too short",)}, ("larger sides", "more sides")),
    ],
)
def test_an_undecidable_claim_about_a_profile_says_what_would_decide_it(
    changes: dict, remedies: tuple[str, ...], tmp_path: Path
) -> None:
    noisy = [cell("pool", side, 0.1, median_low=0.08, median_high=0.12) for side in (224, 448) if changes["freedom"] == 9]
    rows = [fit("pool", 1.1, 0.2, **changes), *noisy]
    assert only(tmp_path, rows, LINEAR).remedies == remedies
    (table,) = (t for t in report.tables([*rows, recorded(stated(tmp_path, LINEAR))]) if t.kind == "claims")
    assert f"to decide it: {', '.join(remedies)}" in lines(table, "why")[0]
    assert only(tmp_path, [fit("pool", 1.0, 0.05)], LINEAR).remedies == ()
    beyond = FASTER.replace("500", "2000")
    assert only(tmp_path, [crossover("pool", "at", 400.0, **TODAY)], beyond).remedies == ("larger sides",)


# --- looks

LOOKS = "recipe: small\nseeds: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\nlooks: [5, 10]\nbudget: {epochs: 20}\nclaims:\n"


def test_the_first_look_that_decides_stands_and_open_claims_need_the_next(tmp_path: Path) -> None:
    second = BETTER.replace("id: a", "id: b").replace("line: pool", "line: xca")
    file = stated(tmp_path, BETTER, second, head=LOOKS).file
    ten = paired_runs(0.001, seeds=10, softmax=0.90, pool=0.92, xca=0.8999)
    five = [row for row in ten if row.seed < 5]
    assert open_claims(file, []) == tuple(
        OpenClaim(i, (n, "softmax"), (0, 1, 2, 3, 4)) for i, n in (("a", "pool"), ("b", "xca"))
    )
    found = decide(file, five)
    assert [(a.verdict, a.seeds) for a in found.values()] == [("supported", 5), ("undecidable", 5)]
    assert open_claims(file, five) == (OpenClaim("b", ("xca", "softmax"), tuple(range(10))),)
    worse = [row.model_copy(update={"accuracy": 0.5}) if (row.mixer, row.seed > 4) == ("pool", True) else row for row in ten]
    found = decide(file, worse)
    assert [(a.verdict, a.seeds) for a in found.values()] == [("supported", 5), ("undecidable", 10)], "an answer stands"
    assert open_claims(file, ten) == ()


def test_a_look_before_the_last_asks_for_more_than_a_single_test(tmp_path: Path) -> None:
    rows = paired_runs(0.001, softmax=0.90, pool=0.906)
    once, early = only(tmp_path, rows, BETTER), only(tmp_path, rows, BETTER, LOOKS)
    assert once.estimate == early.estimate
    assert early.low < once.low
    assert early.power < once.power
    some = only(tmp_path, [row for row in rows if row.seed < 4], BETTER, LOOKS)
    assert some.why_none == "no run of pool with seed 4; no run of softmax with seed 4"


def test_bounds_of_few_seeds_go_no_further_than_accuracies_do(tmp_path: Path) -> None:
    rows = paired_runs(0.02, seeds=2, softmax=0.90, pool=0.91)
    found = only(tmp_path, rows, BETTER, head=LOOKS.replace("[5, 10]", "[2, 10]"))
    assert (found.verdict, found.low, found.high) == ("undecidable", -100, 100)


def test_seeds_that_were_tuned_to_several_rates_are_no_line(tmp_path: Path) -> None:
    tuned = {"chosen": Chosen(rates=(1e-3, 2e-3), mlp_ratio=4.0, depth=4, lr=1e-3)}
    other = {"chosen": Chosen(rates=(1e-3, 2e-3), mlp_ratio=4.0, depth=4, lr=2e-3)}
    head = HEAD.replace("{epochs: 20}", "{epochs: 20, trials: 2}")
    rows = [row.model_copy(update=tuned) for row in runs(softmax=0.90)]
    pool = [row.model_copy(update=tuned if row.seed < 3 else other) for row in runs(pool=0.92)]
    assert "several rates" in only(tmp_path, [*rows, *pool], BETTER, head).why_none
    same = [row.model_copy(update={"chosen": other["chosen"]}) for row in pool]
    assert only(tmp_path, [*rows, *same], BETTER, head).verdict == "supported"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"mixer_digest": "edited"}, "several versions of its mixer's code"),
        ({"model_digest": "edited"}, "2 settings"),
        ({"data_digest": "another folder"}, "2 settings"),
    ],
)
def test_runs_by_other_code_or_on_other_data_are_not_mixed(changes: dict, why: str, tmp_path: Path) -> None:
    rows = runs(softmax=0.90, pool=0.92)
    edited = [row.model_copy(update=changes) if (row.mixer, row.seed) == ("pool", 3) else row for row in rows]
    found = only(tmp_path, edited, BETTER)
    assert found.verdict == "undecidable"
    assert why in found.why_none


def test_runs_of_several_settings_are_not_mixed(tmp_path: Path) -> None:
    rows = [
        *runs(softmax=0.90),
        *(train("pool", seed, 0.95 + SEEDS[seed], recipe_digest="other", samples=10_000) for seed in range(5)),
    ]
    assert "2 settings" in only(tmp_path, rows, BETTER).why_none
    same = [train(mixer, seed, 0.9, minute=5) for mixer in ("pool", "softmax") for seed in range(5)]
    assert "do not differ" in only(tmp_path, same, BETTER).why_none


def test_claims_on_runs_of_two_widths_are_not_answered_by_the_first(tmp_path: Path) -> None:
    """Claims name lines, and the lines of both widths have the same names."""

    def of(width: int, **accuracies: float) -> list[AnyRow]:
        return [
            row.model_copy(update={"recipe_digest": f"of {width}", "command": f"{row.command} --set model.embed_dim={width}"})
            for row in runs(**accuracies)
        ]

    narrow, wide = of(32, pool=0.95, softmax=0.90), of(64, pool=0.90, softmax=0.95)
    assert only(tmp_path, narrow, BETTER).why_none == ""
    why = only(tmp_path, [*narrow, *wide], BETTER).why_none
    assert why.endswith("small of vit-tiny (embed_dim=32); small of vit-tiny (embed_dim=64)")


@pytest.mark.slow
def test_false_answers_over_a_file_are_at_most_5_percent(tmp_path: Path) -> None:
    """Eight lines that are all alike: every claim of a difference is false, and each may be wrong either way."""
    names = [f"m{i}" for i in range(8)]
    claims = [f"  - {{id: b{n}, says: x, kind: better, line: {n}, than: softmax}}\n" for n in names]
    claims += ["  - {id: best, says: x, kind: best, line: m0, among: [m1, m2, m3]}\n"]
    file, draws, wrong, uncorrected = stated(tmp_path, *claims).file, np.random.default_rng(0), 0, 0
    for _ in range(300):
        accuracy = draws.normal(0.9, 0.003, (9, 5))
        rows = [
            train(n, s, accuracy[i, s], minute=5, schema_version=UNPAIRED)
            for i, n in enumerate([*names, "softmax"])
            for s in range(5)
        ]
        said = decide(file, rows).values()
        wrong += any(found.verdict == "supported" for found in said)
        uncorrected += any(found.low + 0.5 * (found.estimate - found.low) > 0 for found in said)
    assert wrong / 300 < 0.05 + 3 * (0.05 * 0.95 / 300) ** 0.5
    assert uncorrected / 300 > 0.1, "the check sees intervals of half the length"


def test_power_is_as_printed(tmp_path: Path) -> None:
    claim = "  - {id: a, says: x, kind: better, line: pool, than: softmax, effect: 0.5}\n"
    file, draws, found, printed = stated(tmp_path, claim).file, np.random.default_rng(1), 0, []
    for _ in range(400):
        accuracy = draws.normal([[0.905], [0.9]], 0.003, (2, 5))
        rows = [
            train(n, s, accuracy[i, s], minute=5, schema_version=UNPAIRED)
            for i, n in enumerate(("pool", "softmax"))
            for s in range(5)
        ]
        said = decide(file, rows)["a"]
        found += said.verdict == "supported"
        printed.append(said.power)
    assert found / 400 == pytest.approx(np.median(printed), abs=0.1)


# --- scaling


def fit(mixer: str, value: float, half: float, **changes: object) -> FitRow:
    fields = {
        "environment": CPU,
        "created": "2025-01-01T00:05:00+00:00",
        "session": "first",
        "model": "vit-tiny",
        "mixer": mixer,
        "sides": ((224, 224), (448, 448)),
        "tokens": (196, 784),
        "a": 0.001,
        "b": 1e-5,
        "c": 0.0,
        "spread": 0.01,
        "freedom": 3,
        "exponents": (0.5, value),
        "exponents_low": (0.4, value - half),
        "exponents_high": (0.6, value + half),
        "macs_exponents": (1.0, 1.0),
    }
    return FitRow(**(fields | changes))


@pytest.mark.parametrize(
    ("value", "half", "verdict"), [(1.0, 0.05, "supported"), (1.5, 0.1, "contradicted"), (1.1, 0.2, "undecidable")]
)
def test_exponents(value: float, half: float, verdict: str, tmp_path: Path) -> None:
    claim = "  - {id: a, says: linear, kind: exponent, line: pool, at_most: 1.15}\n"
    found = only(tmp_path, [fit("pool", value, half)], claim)
    assert (found.verdict, found.estimate, found.power) == (verdict, value, None)
    assert found.profile.sides[-1] == (448, 448)
    at = claim.replace("at_most", "side: 224, at_most")
    assert only(tmp_path, [fit("pool", value, half)], at).estimate == 0.5
    exact = claim.replace("at_most", "quantity: macs, at_most")
    assert only(tmp_path, [fit("pool", value, half)], exact).verdict == "supported"


LINEAR = "  - {id: a, says: linear, kind: exponent, line: pool, at_most: 1.15}\n"


def test_of_several_profiles_the_first_complete_one_counts_and_later_ones_are_named(tmp_path: Path) -> None:
    first, again = fit("pool", 1.1, 0.2), fit("pool", 1.0, 0.05, session="second", created=at_minute(6))
    for rows in ([first, again], [again, first]):
        found = only(tmp_path, rows, LINEAR)
        assert (found.verdict, found.profile, found.later) == ("undecidable", first, (again,))
    same = fit("pool", 1.0, 0.05, created=at_minute(7))
    assert only(tmp_path, [first, same], LINEAR).profile == first, "more calls in one session are later looks, too"
    notes = " ".join(report.tables([first, again, recorded(stated(tmp_path, LINEAR))])[0].notes)
    assert "Later ones do not: second." in notes
    assert only(tmp_path, [], LINEAR).why_none == "no profile of pool"
    batches = [fit("pool", 1.0, 0.1, batch=batch, created=at_minute(batch)) for batch in (1, 2)]
    assert "2 profiles of pool in one session" in only(tmp_path, batches, LINEAR).why_none


def test_a_profile_that_lacks_the_claims_side_is_not_complete(tmp_path: Path) -> None:
    claim = LINEAR.replace("at_most", "side: 896, at_most")
    small, large = fit("pool", 1.5, 0.1), fit("pool", 1.0, 0.1, created=at_minute(6), sides=((448, 448), (896, 896)))
    assert only(tmp_path, [small, large], claim).profile == large
    assert only(tmp_path, [small], claim).why_none == "no cell at 896 px"


def test_a_profile_from_before_the_registration_does_not_answer_if_there_is_a_newer_one(tmp_path: Path) -> None:
    old, new = fit("pool", 1.0, 0.05), fit("pool", 1.5, 0.1, session="second", created=at_minute(9))
    begun_before = fit("pool", 1.0, 0.05, session="third", created=at_minute(8))
    rows = [old, new, begun_before, cell("pool", minute=1, session="third"), recorded(stated(tmp_path, LINEAR), minute=7)]
    (line,) = claims_results(rows)[0].answered
    assert (line.answer.verdict, line.registration.is_before_the_runs) == ("contradicted", True)
    (line,) = claims_results([old, rows[-1]])[0].answered
    assert (line.answer.verdict, line.registration.is_before_the_runs) == ("supported", False)


TODAY = {"interval": True, "interval_method": "surely slower to surely faster"}
FASTER = "  - {id: a, says: faster, kind: crossover, line: pool, from: 500}\n"


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        ({"verdict": "at", "side": 400.0, "side_low": 380.0, "side_high": 420.0}, "supported"),
        ({"verdict": "at", "side": 700.0, "side_low": 650.0, "side_high": 750.0}, "contradicted"),
        ({"verdict": "at", "side": 480.0, "side_low": 400.0, "side_high": 600.0}, "undecidable"),
        ({"verdict": "at", "side": 550.0, "side_low": 500.0, "side_high": 600.0}, "contradicted"),
        ({"verdict": "at", "side": 450.0, "side_low": 400.0, "side_high": 500.0}, "supported"),
        ({"verdict": "at", "side": 700.0, "side_high": 750.0}, "undecidable"),  # near twice: surely slower nowhere
        ({"verdict": "always", "side_high": 224.0}, "supported"),
        ({"verdict": "none", "side_low": 896.0}, "contradicted"),
        ({"verdict": "none"}, "undecidable"),
        ({"verdict": "none", "side_low": 700.0}, "contradicted"),
        ({"verdict": "none", "side_low": 400.0}, "undecidable"),
        ({"verdict": "always"}, "undecidable"),
        ({"verdict": "always", "side_high": 224.0, "largest_side": 448}, "undecidable"),
        ({"verdict": "always", "side_high": 600.0, "smallest_side": 600}, "undecidable"),
        ({"verdict": "at", "side": 400.0, "interval": False, "interval_method": None}, "undecidable"),
    ],
)
def test_crossovers(row: dict, verdict: str, tmp_path: Path) -> None:
    assert only(tmp_path, [crossover("pool", **(TODAY | row))], FASTER).verdict == verdict


def test_an_exponent_is_computed_anew_from_its_cells(tmp_path: Path) -> None:
    old = fit("pool", 2.0, 0.01, created=at_minute(9))
    wobbles = {224: 1.0002, 448: 1.0, 672: 1.0002, 896: 1.0, 1120: 1.0002, 1344: 1.0}
    cells = [cell("pool", side, wobble * 1e-5 * side**2) for side, wobble in wobbles.items()]
    found = only(tmp_path, [old, *cells], LINEAR)
    assert (found.verdict, found.profile.sides[-1]) == ("supported", (1344, 1344))
    assert found.estimate == pytest.approx(1.0, abs=0.03)
    assert only(tmp_path, [old, *cells[:3]], LINEAR).estimate == 2.0, "three cells are too few for a curve"


def test_a_crossover_of_the_old_definition_is_computed_anew_from_its_cells(tmp_path: Path) -> None:
    """Lines that come near each other twice: the old interval holds all of that, and below it the mixer is surely faster."""
    old = crossover("pool", "always", interval=True, side_low=600.0, created=at_minute(9))
    assert "older definition" in only(tmp_path, [old], FASTER).why_none
    sides = (224, 448, 672, 896)
    theirs = {side: 0.001 + 2e-5 * (side / 16) ** 2 for side in sides}
    cells = [cell(mixer, s, scale * theirs[s]) for mixer, scale in (("softmax", 1), ("pool", 0.5)) for s in sides]
    slow = [cell("softmax", side, 9.0, sdpa_backend="math") for side in sides]  # the fastest backend is what counts
    found = only(tmp_path, [old, *cells, *slow], FASTER)
    assert (found.verdict, found.profile.interval_method) == ("supported", "surely slower to surely faster")
    later = [cell("pool", side, 9.0, minute=10) for side in sides]  # of a later call
    assert only(tmp_path, [old, *cells, *later], FASTER).verdict == "supported"
    assert only(tmp_path, [old, *cells[:3]], FASTER).verdict == "undecidable", "three cells are too few"
    slower = [
        row if row.mixer == "softmax" else row.model_copy(update={"median": 2 * theirs[row.resolution[0]]}) for row in cells
    ]
    assert only(tmp_path, [old, *slower], FASTER).verdict == "contradicted"


def test_a_curve_is_as_old_as_its_oldest_cell(tmp_path: Path) -> None:
    found = stated(tmp_path, "  - {id: a, says: linear, kind: exponent, line: pool, at_most: 1.15}\n")
    early, late = cell("pool", 448, 0.1, minute=1), cell("pool", 224, 0.1, minute=8)
    rows = [early, late, fit("pool", 1.0, 0.05, session=early.session, created=at_minute(9)), recorded(found, minute=5)]
    (table,) = (table for table in report.tables(rows) if table.name == "claims")
    assert lines(table, "verdict") == ["supported"]
    assert lines(table, "pre-registered") == ["no: 1 of 3 rows are older than the claims"]


def at_minute(minute: int) -> str:
    return f"2025-01-01T00:{minute:02}:00+00:00"


# --- registration


def recorded(found: Claims, minute: int = 0, **changes: object) -> ClaimsRow:
    fields = {"environment": CPU, "created": f"2025-01-01T00:{minute:02}:00+00:00", "sha256": found.sha256}
    return ClaimsRow(**(fields | {"text": found.text, "begun": 0} | changes))


def test_a_claim_is_pre_registered_only_if_the_file_is_unchanged_and_older_than_every_run(tmp_path: Path) -> None:
    found, rows = stated(tmp_path, BETTER), runs(softmax=0.90, pool=0.92)

    def words(file: Claims, *kept: ClaimsRow) -> str:
        said = registration(file.sha256, kept, rows)
        assert said.is_before_the_runs == (registration_in_words(said) == "yes")
        return registration_in_words(said)

    assert words(found, recorded(found)) == "yes"
    assert "10 of 10 rows are older" in words(found, recorded(found, minute=9))
    assert "1 run had begun" in words(found, recorded(found, begun=1))
    other = stated(tmp_path, BETTER.replace("beats", "does not beat"))
    assert f"the claims {found.sha256[:12]}, not this file" in words(other, recorded(found))
    assert "no claims" in words(found)


def test_the_table_and_the_page_answer_the_claims_that_the_records_hold(tmp_path: Path) -> None:
    found = stated(
        tmp_path, BETTER, BETTER.replace("id: a", "id: b").replace("line: pool, than: softmax", "line: softmax, than: pool")
    )
    rows = [*runs(softmax=0.90, pool=0.92), recorded(found)]
    table = next(table for table in report.tables(rows) if table.name == "claims")
    assert lines(table, "verdict") == ["supported", "contradicted"]
    assert lines(table, "pre-registered") == ["yes", "yes"]
    assert "5%/2" in " ".join(table.notes)
    report.write(rows, tmp_path / "out")
    page = (tmp_path / "out" / "page.html").read_text()
    assert 'id="claims"' in page
    assert "dynamic beats static" in page
    assert (tmp_path / "out" / "claims.tex").read_text().isascii()


def test_the_figure_shows_each_claim_of_accuracy_on_the_region_where_it_holds(tmp_path: Path) -> None:
    found = stated(
        tmp_path,
        BETTER,
        "  - {id: b, says: no worse, kind: better, line: pool, than: softmax, by: -1, effect: 0}\n",
        "  - {id: c, says: as good as, kind: within, line: pool, of: softmax, margin: 1.5}\n",
        "  - {id: d, says: linear, kind: exponent, line: pool, at_most: 1.1}\n",
        "  - {id: e, says: not run, kind: better, line: xca, than: softmax}\n",
    )
    rows = [*runs(softmax=0.90, pool=0.92), recorded(found)]
    (result,) = claims_results(rows)
    (table,) = (table for table in report.tables(rows) if table.name == "claims")
    figure = figures.claims(result, table)
    (axes,) = figure.axes
    left, right = axes.get_xlim()
    regions = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches]
    assert regions == [pytest.approx(ends) for ends in ((0, right), (-1, right), (-1.5, 1.5))]
    assert left < -1.5 < 1.5 < right
    assert [text.get_text() for text in axes.texts][-3:] == ["supported", "supported", "contradicted"]
    markers = [container[0] for container in axes.containers if len(container) == 3]
    assert [float(marker.get_xdata()[0]) for marker in markers] == pytest.approx([2.0] * 3)
    assert [marker.get_marker() for marker in markers] == ["o", "o", "X"]
    (without_runs,) = claims_results([recorded(found)])
    assert figures.claims(without_runs, table) is None
    assert "32 px cannot decide" in " ".join(table.notes)
    report.write([*runs(softmax=0.90, pool=0.92), recorded(found)], tmp_path / "out")
    assert (tmp_path / "out" / "claims.png").is_file()
    assert "](claims.png)" in (tmp_path / "out" / "tables.md").read_text()
    assert 'class="maps claims"' in (tmp_path / "out" / "page.html").read_text()


def test_a_file_that_was_changed_is_not_called_pre_registered(tmp_path: Path) -> None:
    found = stated(tmp_path, BETTER)
    records.append(tmp_path / "records.jsonl", [*runs(softmax=0.90, pool=0.92), recorded(found)])

    def said() -> str:
        done = CliRunner().invoke(app, ["report", str(tmp_path), "--claims", str(tmp_path / "claims.yaml")])
        assert done.exit_code == 0, done.output
        return (tmp_path / "claims.csv").read_text()

    assert ",True,yes," in said()
    (tmp_path / "claims.yaml").write_text(found.text.replace("pool, than", "pool, by: 0.1, than"))
    assert ",False," in said()
    assert "not this file" in said()


def test_a_record_whose_text_was_changed_is_refused(tmp_path: Path) -> None:
    found = stated(tmp_path, BETTER)
    bad = recorded(found, text=found.text.replace("beats", "does not beat"))
    with pytest.raises(InputError, match="recorded claims were changed"):
        report.tables([bad])
    assert report.tables([recorded(found)], Asked())[0].name == "claims"


def test_a_sweep_records_claims_once_and_refuses_another_version_after_runs_began(tmp_path: Path) -> None:
    stated(tmp_path, BETTER)
    file, out = tmp_path / "claims.yaml", tmp_path / "out"
    assert "before the first run" in recording.record(file, out)
    assert "recorded 20" in recording.record(file, out)
    assert len(records.read(out / "records.jsonl")[0]) == 1
    file.write_text(file.read_text().replace("beats", "surpasses"))
    assert "before the first run" in recording.record(file, out), "as long as nothing has begun"
    (out / "run").mkdir()
    (out / "run" / "config.yaml").touch()
    file.write_text(file.read_text().replace("surpasses", "equals"))
    with pytest.raises(InputError, match="changed after runs began"):
        recording.record(file, out)
    late = tmp_path / "late"
    (late / "run").mkdir(parents=True)
    (late / "run" / "config.yaml").touch()
    assert "not pre-registered" in recording.record(file, late)
    assert records.read(late / "records.jsonl")[0][0].begun == 1


def test_claims_about_another_recipe_are_another_file_and_not_another_version(tmp_path: Path) -> None:
    stated(tmp_path, BETTER)
    file, out = tmp_path / "claims.yaml", tmp_path / "out"
    recording.record(file, out)
    (out / "run").mkdir()
    (out / "run" / "config.yaml").write_text("name: small\n")
    other = tmp_path / "other.yaml"
    other.write_text(file.read_text().replace("recipe: small", "recipe: probe-recall"))
    assert "before the first run" in recording.record(other, out)
    other.write_text(other.read_text().replace("beats", "surpasses"))
    assert "before the first run" in recording.record(other, out), "no run of its recipe has begun"
    (out / "run2").mkdir()
    (out / "run2" / "config.yaml").write_text("name: probe-recall\n")
    other.write_text(other.read_text().replace("surpasses", "equals"))
    with pytest.raises(InputError, match="changed after runs began"):
        recording.record(other, out)


# --- bad files


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD + BETTER.replace("than:", "then:"), ["unknown claims file key", "did you mean than"]),
        (HEAD + BETTER.replace("kind: better", "kind: nicer"), ["'better'", "'within'"]),
        (HEAD + BETTER.replace("}", ", effect: 0}"), ["effect (0) must be more than by (0)"]),
        (HEAD + BETTER + BETTER, ["two claims have the id a"]),
        (HEAD.replace("[0, 1, 2, 3, 4]", "[0]") + BETTER, ["seeds"]),
        (HEAD.replace("[0, 1, 2, 3, 4]", "[0, 0]") + BETTER, ["named twice"]),
        (HEAD.replace("{epochs: 20}", "{epoch: 20}") + BETTER, ["did you mean epochs"]),
        (HEAD + "  - {id: a, says: x, kind: exponent, line: pool}\n", ["at_least or at_most"]),
        (HEAD + "  - {id: a, says: x, kind: exponent, line: pool, at_least: 2, at_most: 1}\n", ["at_least (2) is more than"]),
        (HEAD + BETTER.replace("than: softmax", "than: pool"), ["pool is compared with itself"]),
        (HEAD + "  - {id: a, says: x, kind: within, line: pool, of: pool, margin: 1}\n", ["pool is compared with itself"]),
        (HEAD + "  - {id: a, says: x, kind: best, line: pool, among: [pool, xca]}\n", ["pool is compared with itself"]),
        (HEAD + "  - {id: a, says: x, kind: best, line: pool, among: [xca, xca]}\n", ["named twice"]),
        (HEAD + "  - {id: a, says: x, kind: crossover, line: xca, than: xca, from: 9}\n", ["xca is compared with itself"]),
        (LOOKS.replace("[5, 10]", "[5, 9]") + BETTER, ["looks are rising", "all 10"]),
        (LOOKS.replace("[5, 10]", "[1, 10]") + BETTER, ["looks are rising"]),
        (LOOKS.replace("[5, 10]", "[5, 5, 10]") + BETTER, ["looks are rising"]),
        ("seeds: [5, 6]\n" + HEAD + BETTER, ["the key seeds stands twice"]),
        ("claims: [", ["cannot read the claims file"]),
        ("- 1", ["not a claims file"]),
    ],
)
def test_a_bad_file_is_one_message(text: str, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "claims.yaml").write_text(text)
    with pytest.raises(InputError) as said:
        read_claims(tmp_path / "claims.yaml")
    for word in words:
        assert word in str(said.value)


def test_the_claims_on_cifar10_speak_of_the_lines_seeds_and_epochs_of_their_sweep() -> None:
    root = Path(__file__).parent.parent
    wanted = load_request(root / "sweeps" / "cifar10.yaml", {})
    assert wanted.claims is not None
    file = read_claims(root / wanted.claims).file
    made = set()
    for line in wanted.mixers:
        name = line.mixer if line.every is None else f"{line.mixer} / {line.every} + {line.between}"
        made.add(f"{name} + DWC" if line.local_conv == "dwc" else name)
    assert set(file.lines) <= made, "those of claims about a profile are not trained"
    assert file.seeds == wanted.seeds
    assert [file.recipe] == list(wanted.recipes)
    assert file.budget.epochs == recipe.load(file.recipe).epochs
