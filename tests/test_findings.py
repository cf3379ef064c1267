"""The findings in short, and the plots of a terminal: made from the records, with what single seeds and rounds leave open."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from probe_rows import LEAKS, probe_row
from test_answers import recall
from test_report import baseline, cell, small_report, train

from wfbench import report
from wfbench.analysis.claims import Answer, Price
from wfbench.analysis.results import analyse
from wfbench.analysis.seeds_needed import SeedsNeeded
from wfbench.records import AnyRow
from wfbench.report.findings import _prices, findings, to_markdown
from wfbench.report.terminal import plots


def said(rows: list[AnyRow]) -> dict[str, tuple[str, ...]]:
    return {found.question: found.sentences for found in findings(analyse(rows))}


def test_recall_names_who_reached_the_most_who_stores_less_and_who_did_not_learn() -> None:
    rows = [
        probe_row(mixer="softmax", by_step={100: [1.0] * 5}),
        probe_row(mixer="xca", by_step={100: [1.0] * 5}),
        *recall("linear", after_100=4.0)[:1],
        probe_row(mixer="wf", by_step={100: [0.3] * 5}),
        probe_row(mixer="leaky", leak_check=LEAKS),
    ]
    (sentence,) = said(rows)["What can it do?"]
    assert sentence == (
        "Recall, after 100 steps of training (1 seed of each): softmax and xca have at least 16 pairs of key and value, the "
        "most that was asked; linear 3.88; wf has not learnt it."
    )


def test_of_other_probes_nobody_is_said_not_to_have_learnt_them() -> None:
    rows = [probe_row("needle", mixer, by_step={100: [0.4] * 5}) for mixer in ("static", "wf")]
    (sentence,) = said(rows)["What can it do?"]
    assert sentence == "Needle, after 100 steps of training (1 seed of each): static and wf are under 90 % among 96 tokens."


def test_a_mixer_that_failed_the_gate_of_recall_is_called_so_in_other_probes() -> None:
    rows = [probe_row(mixer="wf", by_step={100: [0.3] * 5}), probe_row("majority", "wf"), probe_row("majority", "softmax")]
    sentence = said(rows)["What can it do?"][1]
    assert sentence.endswith("softmax 100.00 ± 0.78, wf (not trained) 100.00 ± 0.78.")


def test_several_seeds_bring_intervals_and_nothing_is_said_of_single_ones() -> None:
    found = said(recall("linear", after_100=4.0))
    assert found["What can it do?"] == (
        "Recall, after 100 steps of training (3 seeds of each): linear 4.00 [3.71, 4.31] pairs of key and value.",
    )
    assert "How sure is that?" not in found


def test_single_seeds_have_a_price() -> None:
    rows: list[AnyRow] = [train("softmax", train_seconds=60.0), train("linear", train_seconds=90.0), baseline("nearest", 0.98)]
    found = said(rows)
    (accuracy,) = found["How accurate is it?"]
    assert "nearest has 98.00" in accuracy
    (doubt,) = found["How sure is that?"]
    assert "ranks nothing" in doubt
    assert "Four more of each would take 10 minutes" in doubt


def test_compared_lines_stand_by_what_the_test_says() -> None:
    draws = np.random.default_rng(0)
    rows: list[AnyRow] = [
        train(mixer, seed, accuracy + draws.normal(0, 0.002), samples=10_000)
        for mixer, accuracy in (("softmax", 0.5), ("linear", 0.6), ("pool", 0.4), ("xca", 0.501))
        for seed in range(5)
    ]
    (sentence,) = said(rows)["How accurate is it?"]
    assert re.search(r"better: linear \+(9|10)\.\d\d \[", sentence)
    assert re.search(r"worse: pool −(9|10)\.\d\d \[", sentence)
    assert "not distinguishable: xca" in sentence
    (old,) = said([row.model_copy(update={"schema_version": 5}) for row in rows])["How accurate is it?"]
    assert old.endswith("; unpaired: runs of an earlier version.")
    assert "unpaired" not in sentence
    some = [row for row in rows if (row.mixer, row.seed) != ("pool", 4)]
    (fewer,) = said(some)["How accurate is it?"]
    assert fewer.endswith("; pool unpaired, since seeds differ.")


def test_brackets_say_what_they_are_from() -> None:
    (doubt,) = said(crossing("linear", 2.0))["How sure is that?"]
    assert doubt == (
        "Times from 224 to 896 px are medians of 3 rounds on this one machine; brackets of a side come from the cells' "
        "distances to their curves, those of a speed-up from rounds; another machine has other crossovers."
    )
    once = [row.model_copy(update={"round_medians": row.round_medians[1:2]}) for row in crossing("linear", 2.0, (224, 448))]
    (doubt,) = said(once)["How sure is that?"]
    assert doubt == (
        "Times from 224 to 448 px are those of a single round on this one machine; another machine has other crossovers."
    )


def test_open_claims_count_once_each() -> None:
    def priced(seconds: float, **needed: int) -> Answer:
        return Answer("undecidable", if_estimate=Price(SeedsNeeded(**needed), 1, seconds))

    two = [priced(3600.0, seeds=9), priced(7200.0, seeds=4)]
    others = [priced(1e6, more_than=1000), Answer("undecidable", remedies=("more sides",)), Answer("undecidable", "no runs")]
    assert _prices([*two, *others]) == (
        "; of the 5 undecidable ones 2 take 1.0 to 2.0 h of training more each (if the estimates are true), 1 is decided by no "
        "number of seeds looked at (more than 1,000 seeds are needed), 1 needs more cells of a profile and 1 has no price"
    )
    assert _prices(two[:1]) == "; 1.0 h of training more would decide it, if the estimate is true"
    assert _prices(others[2:]) == ""


def crossing(mixer: str, factor: float, sides: tuple[int, ...] = (224, 448, 672, 896)) -> list[AnyRow]:
    """Softmax grows with the square of the tokens, the other with the tokens, and is as fast at ``factor`` × 224 px."""
    rows: list[AnyRow] = []
    for side in sides:
        tokens = (side / 16) ** 2
        softmax, other = 1e-5 * tokens**2, 1e-5 * tokens * (factor * 224 / 16) ** 2
        for name, median in (("softmax", softmax), (mixer, other)):
            rounds = [median * (1 + 0.01 * k) for k in (-1, 0, 1)]
            rows.append(cell(name, side, median, median_low=rounds[0], median_high=rounds[2], round_medians=rounds))
    return rows


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (2.0, "faster than softmax: linear from 44"),
        (0.2, "at every side measured (224–896 px): linear"),
        (9.0, "at none (224–896 px): linear"),
    ],
)
def test_a_crossover_is_said_with_the_machine_and_its_sureness(factor: float, words: str) -> None:
    (sentence,) = said(crossing("linear", factor))["From which image side is it faster?"]
    assert words in sentence
    assert sentence.startswith("vit-tiny, inference on ")


def test_few_sides_have_no_interval_and_say_so() -> None:
    (sentence,) = said(crossing("linear", 2.0, (224, 448, 672)))["From which image side is it faster?"]
    assert "no interval" in sentence


def test_many_lines_are_shortened_and_nothing_is_lost_from_the_answers() -> None:
    rows: list[AnyRow] = [train(f"mixer-{n}", accuracy=0.5 + n / 100) for n in range(12)]
    (sentence,) = said(rows)["How accurate is it?"]
    assert "mixer-11 61.00" in sentence
    assert "(12 mixers)" in sentence
    assert "mixer-5 " not in sentence


def test_answers_begin_in_short(tmp_path: Path) -> None:
    report.write(small_report(), tmp_path)
    text = (tmp_path / "answers.md").read_text()
    assert text.startswith(to_markdown(findings(analyse(small_report()))))
    assert to_markdown([]) == ""


def test_plots_of_a_terminal_show_each_line_and_stay_within_it() -> None:
    rows = [*recall("linear", after_100=4.0), *crossing("linear", 2.0)]
    recalled, latency = plots(analyse(rows), 60)
    for plot, names in ((recalled, ["linear"]), (latency, ["linear", "softmax"])):
        assert all(name in plot for name in names)
        assert max(len(line) for line in _plain(plot).splitlines()) <= 60
    assert plots(analyse([train()]), 60) == []
    many: list[AnyRow] = [cell(f"m{n}", side, 0.1) for n in range(9) for side in (224, 448)]
    assert plots(analyse(many), 60) == []


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_the_overview_has_recall_and_crossover(tmp_path: Path) -> None:
    rows = [*recall("linear", after_100=4.0), *crossing("linear", 2.0)]
    rows += [train(mixer, model="vit-tiny", image_size=(224, 224)) for mixer in ("linear", "softmax")]
    (table,) = [table for table in report.tables(rows) if table.kind == "overview"]
    line = table.frame.set_index("mixer").loc["linear"]
    assert line["recall: pairs (90 %)"].startswith("4.")
    assert line["faster than softmax"].startswith("from 44")
    assert {"recall", "recall_low", "crossover", "side", "side_low", "side_high"} <= set(table.data.columns)
    assert list(table.only(["mixer"]).frame.columns) == ["mixer"]
