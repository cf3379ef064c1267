"""Answers in sentences: each is made from the records, with how sure it is and what more would take."""

from __future__ import annotations

from pathlib import Path

import pytest
from probe_rows import LEAKS, probe_row, stored
from test_claims import BETTER, FASTER, TODAY, paired_runs, recorded, stated
from test_report import cell, crossover, small_report, train

from wfbench import records, report
from wfbench.analysis.results import analyse
from wfbench.records import AblationRow, AnyRow, Chosen, Strength
from wfbench.report.answers import answers, to_markdown
from wfbench.report.findings import findings
from wfbench.report.findings import to_markdown as in_short


def said(rows: list[AnyRow], title: str) -> list[str]:
    return [
        sentence for question in answers(analyse(rows)) if question.title.startswith(title) for sentence in question.sentences
    ]


def recall(mixer: str, **by_step: float) -> list[AnyRow]:
    """Three seeds that store so many pairs after so many steps, 3 % apart."""
    steps = {int(name.removeprefix("after_")): pairs for name, pairs in by_step.items()}
    return [
        probe_row(
            mixer=mixer,
            seed=seed,
            by_step={step: stored(pairs * (1 + 0.03 * (seed - 1))) for step, pairs in steps.items()},
            budgets=tuple(steps),
        )
        for seed in range(3)
    ]


def test_a_capacity_has_its_interval_its_steps_and_its_seeds() -> None:
    (sentence,) = said(recall("linear", after_100=4.0), "What can it do")
    assert sentence.startswith("linear (0.100 M parameters, 12.0 MMACs, 2 of 2 layers global): recall: 4.00 [3.71, 4.31] pairs")
    assert "after 100 steps of training (3 seeds)" in sentence


@pytest.mark.parametrize(("later", "rises"), [(8.0, True), (4.1, False)])
def test_a_capacity_that_still_rises_says_that_longer_training_would_find_more(later: float, rises: bool) -> None:
    (sentence,) = said(recall("linear", after_100=4.0, after_300=later), "What can it do")
    assert ("still rising, so longer training would find more" in sentence) is rises


def test_a_bound_says_what_would_tell_more_and_a_mixer_that_did_not_learn_has_no_capacity() -> None:
    rows: list[AnyRow] = [probe_row(mixer="softmax", by_step={100: [1.0] * 5}), probe_row(mixer="wf", by_step={100: [0.3] * 5})]
    softmax, other = said(rows, "What can it do")
    assert "recall: at least 16 pairs after 100 steps of training (1 seed; more would need a larger canvas)" in softmax
    assert (
        "recall: not trained (under 90 % at one pair) after 100 steps of training (1 seed; one seed says nothing of others)"
        in other
    )
    gated, passed = said([*rows, probe_row("majority", "wf"), probe_row("majority", "softmax")], "What can it do")[::-1]
    assert gated.endswith("where guessing has 3.12 % (1 seed), not trained.")
    assert passed.endswith("where guessing has 3.12 % (1 seed).")


def test_a_probe_whose_leak_check_failed_is_refused_in_words_too() -> None:
    (sentence,) = said([probe_row(leak_check=LEAKS)], "What can it do")
    assert "recall: refused, since the leak check failed" in sentence
    assert "pairs" not in sentence


def test_other_probes_say_their_hardest_level_and_their_steps() -> None:
    rows: list[AnyRow] = [
        *(probe_row("majority", seed=seed, by_step={100: [1.0, 0.9, 0.5 + 0.01 * seed]}) for seed in range(3)),
        *(probe_row("shift", seed=seed, by_step={100: [0.2], 200: [0.95]}) for seed in range(3)),
        *(probe_row("needle", seed=seed, by_step={100: [1.0, 1.0, 1.0, 1.0, 0.5]}) for seed in range(3)),
    ]
    (sentence,) = said(rows, "What can it do")
    assert "majority: 51.00 ± 2.60 % at lead 0.05, where guessing has 3.12 % (3 seeds)" in sentence
    assert "shift: 95.00 ± " in sentence
    assert "90 % after 200 steps, looked at every 100 (3 seeds)" in sentence
    assert "needle: 242 tokens after 100 steps of training" in sentence
    some: list[AnyRow] = [
        probe_row("shift", seed=seed, by_step={100: [0.2 + 0.75 * (seed == 0)], 200: [0.95]}) for seed in range(3)
    ]
    (sentence,) = said(some, "What can it do")
    assert "90 % after at most 100 to 200 steps by seed, looked at every 100 (3 seeds)" in sentence


def test_too_little_on_the_smallest_canvas_is_said_as_that_and_not_as_not_learnt() -> None:
    (needle,) = said([probe_row("needle", seed=seed, by_step={100: [0.4] * 5}) for seed in range(3)], "What can it do")
    assert "needle: under 90 % among 96 tokens, the fewest that were asked, after 100 steps of training (3 seeds)" in needle
    (flood,) = said([probe_row("flood", by_step={100: [0.4] * 5})], "What can it do")
    assert "flood: under 90 % at 1 step, the fewest that were asked, after 100 steps" in flood
    seeds = [
        probe_row("needle", seed=seed, by_step={100: [1.0, 1.0, value, 0.4, 0.4]}) for seed, value in enumerate((1.0, 0.4))
    ]
    (some,) = said(list(seeds), "What can it do")
    assert "needle: 1 of 2 seeds below 96: from below 96 to 110 tokens after 100 steps" in some


def test_a_step_that_a_run_was_not_evaluated_at_is_said_as_that() -> None:
    early = probe_row(seed=1, by_step={150: [1.0] * 5}, stopped=True, budgets=(100,))
    rows: list[AnyRow] = [probe_row(by_step={100: [1.0] * 5}), early]
    (sentence,) = said(rows, "What can it do")
    assert "recall: not evaluated after 100 steps of training (2 seeds)" in sentence
    (short,) = findings(analyse(rows))
    assert short.sentences[0].endswith("linear was not evaluated then.")


def test_a_reach_is_in_steps_along_the_walk() -> None:
    rows: list[AnyRow] = [
        probe_row("flood", seed=seed, by_step={100: [1.0, 0.8, 1.0, 0.9 + 0.01 * seed, 0.5]}) for seed in range(1, 4)
    ]
    (sentence,) = said(rows, "What can it do")
    assert "flood: " in sentence
    assert "] steps along a walk after 100 steps of training (3 seeds)" in sentence


def test_an_undecidable_claim_stands_beside_its_price(tmp_path: Path) -> None:
    found = stated(tmp_path, BETTER)
    (sentence,) = said([recorded(found), *paired_runs(0.01, pool=0.901, softmax=0.9)], "What was claimed")
    assert sentence.startswith("“dynamic beats static” Undecidable: pool − softmax > 0 points; found ")
    assert "To decide it: " in sentence
    assert sentence.count("seeds (") == 2
    (sure,) = said([recorded(found), *paired_runs(0.0005, pool=0.95, softmax=0.9)], "What was claimed")
    assert "Supported" in sure
    assert "To decide it" not in sure


@pytest.mark.slow
def test_a_claim_that_no_number_of_seeds_decides_says_why(tmp_path: Path) -> None:
    found = stated(tmp_path, BETTER)
    rows = [recorded(found), *paired_runs(0.0, pool=0.9, softmax=0.9)]
    (sentence,) = said(rows, "What was claimed")
    assert "Undecidable" in sentence
    assert "No number of seeds decides it: the seeds do not differ." in sentence
    (short,) = [found for found in findings(analyse(rows)) if found.question.startswith("What was claimed")]
    assert short.sentences == (
        "Of 1 claim about recipe small, 1 undecidable; no number of seeds that was looked at decides it: the "
        "seeds do not differ.",
    )


PROBE_HEAD = "recipe: probe-{name}\nseeds: [0, 1, 2]\nbudget: {{epochs: 60}}\nclaims:\n"


def test_a_claim_of_lines_with_bounds_says_them_and_whose_first_runs_decide_it(tmp_path: Path) -> None:
    claim = "  - {id: a, says: diluted, kind: capability, line: xca, probe: needle, statistic: n90, "
    found = stated(tmp_path, claim + "ratio: {to: softmax, at_most: 0.5}}\n", head=PROBE_HEAD.format(name="needle"))

    def chosen(rate: float) -> Chosen:
        return Chosen(mlp_ratio=4.0, depth=2, lr=rate)

    rows: list[AnyRow] = [recorded(found)]
    for seed in range(3):
        rows.append(probe_row("needle", "softmax", seed, chosen=chosen(0.0016)))
        rows.append(probe_row("needle", "xca", seed, {100: [0.4] * 5}, chosen=chosen(0.0048)))
    (sentence,) = said(rows, "What was claimed of probe-needle")
    bounds = "found xca: below 96, the smallest number asked; softmax: at least 384, the largest number asked (3 seeds)."
    price = "No number of seeds decides it: what was not trained has no capacity, and longer training may give it one."
    assert sentence == f"“diluted” Undecidable: needle: tokens at 90 % of xca ≤ 0.5 × that of softmax; {bounds} {price}"
    again = "2026-02-01T00:00:00+00:00"
    for seed in range(3):
        rows.append(probe_row("needle", "xca", seed, created=again, chosen=chosen(0.0016)))
    (sentence,) = said(rows, "What was claimed of probe-needle")
    decided = "ecided by the first runs of xca, at rate 0.0048; the table shows later ones, at rate 0.0016"
    assert sentence.endswith(f"{bounds} D{decided}. {price}")
    (table,) = [table for table in report.tables(rows) if table.kind == "claims"]
    assert table.frame["why"][0].startswith(
        "not trained: xca is under 90 % at 96, the smallest number asked, with seed 0, 1, 2;"
    )
    assert table.frame["why"][0].endswith(f"; d{decided}")


def test_lines_that_are_all_at_100_percent_are_not_told_apart_by_seeds(tmp_path: Path) -> None:
    claim = "  - {id: a, says: better, kind: better, line: xca, than: softmax}\n"
    found = stated(tmp_path, claim, head=PROBE_HEAD.format(name="majority"))

    def of(value: float) -> str:
        rows = [probe_row("majority", m, s, {100: [1.0, 1.0, value]}) for m in ("xca", "softmax") for s in range(3)]
        (sentence,) = said([recorded(found), *rows], "What was claimed")
        return sentence

    assert "xca − softmax > 0 points, of mean accuracies over the trained levels; found 0.00 [−0.54, 0.54] points" in of(1.0)
    assert of(1.0).endswith(
        "No number of seeds decides it, since all lines are at 100 %: the probe is too easy to tell them apart."
    )
    assert "the difference would lie exactly at the claim's threshold (0)) if the estimate is true" in of(0.9)


def test_a_mean_over_levels_is_called_that(tmp_path: Path) -> None:
    claim = "  - {id: a, says: few, kind: capability, line: xca, probe: majority, statistic: accuracy, at_most: 50}\n"
    found = stated(tmp_path, claim, head=PROBE_HEAD.format(name="majority"))
    rows = [probe_row("majority", "xca", seed, {100: [0.2, 0.3, 0.1]}) for seed in range(3)]
    (sentence,) = said([recorded(found), *rows], "What was claimed")
    assert "Supported: majority: mean accuracy over the trained levels of xca ≤ 50 %; found 20.00 [" in sentence


def test_a_crossover_at_every_side_says_from_where_it_is_sure(tmp_path: Path) -> None:
    found = stated(tmp_path, FASTER)
    row = crossover("pool", "always", side_high=260.0, **TODAY)
    (sentence,) = said([recorded(found), row], "What was claimed")
    sure = "found faster at every measured side (224–896 px); sure (95 %) only from 260 px on"
    assert sentence.startswith(f"“faster” Supported: faster than softmax from 500 px on; {sure}")


def test_claims_without_runs_are_not_called_undecidable_in_short(tmp_path: Path) -> None:
    (short,) = findings(analyse([recorded(stated(tmp_path, BETTER))]))
    assert short.sentences == (
        "Of 1 claim about recipe small, 1 without runs yet; a first look at it without runs takes 10 runs.",
    )


def test_a_claim_without_runs_has_the_price_of_its_first_look(tmp_path: Path) -> None:
    """Runs that last 100 s of softmax: of linear, of which there is none, the same is assumed, and said."""
    claims = "  - {id: a, says: more, kind: better, line: linear, than: softmax, effect: 1}\n"
    claims += "  - {id: b, says: same, kind: better, line: pool, than: softmax, effect: 1}\n"
    found = stated(tmp_path, claims)
    rows = [train("softmax", seed, 0.9, train_seconds=100.0, recipe="small") for seed in range(5)]
    rows += [train("pool", 0, 0.9, train_seconds=1000.0, recipe="small")]
    first, second = said([recorded(found), *rows], "What was claimed")
    assert (
        "To answer it: 5 runs, about 0.76 h if those of linear take as long as the others on average, for a first look at "
        "5 seeds of each line." in first
    )
    assert "To answer it: 4 runs, 1.1 h, for a first look at 5 seeds of each line." in second
    short = next(one for one in findings(analyse([recorded(found), *rows])) if "claim" in one.sentences[0])
    assert short.sentences == (
        "Of 2 claims about recipe small, 2 without runs yet; a first look at those without runs takes 4 to 5 runs or about "
        "0.76 to 1.1 h of training each.",
    )


def test_a_claim_about_a_profile_that_is_missing_asks_for_one(tmp_path: Path) -> None:
    found = stated(tmp_path, FASTER)
    (sentence,) = said([recorded(found)], "What was claimed")
    assert sentence.endswith("To decide it: a profile.")
    (short,) = findings(analyse([recorded(found)]))
    assert short.sentences == ("Of 1 claim about recipe small, 1 without a profile yet.",)


def test_accuracies_say_against_what_and_from_where_a_difference_would_be_found() -> None:
    spread = {"softmax": (0.0, 0.002, 0.001, 0.0), "pool": (0.05, 0.05, 0.052, 0.051), "linear": (0.0, 0.02, -0.01, 0.004)}
    rows = [train(mixer, seed, 0.9 + add) for mixer, adds in spread.items() for seed, add in enumerate(adds)]
    linear, pool, softmax = said(list(rows), "How accurate is it, and")
    assert "better than softmax: +5.00 [" in pool
    assert "not distinguishable from softmax: " in linear
    assert "these seeds find differences from " in linear
    assert softmax.endswith("(4 seeds).")


def test_a_single_seed_ranks_nothing() -> None:
    (question,) = answers(analyse([train("softmax"), train("pool", accuracy=0.95)]))
    assert question.about.endswith("A single seed ranks nothing.")
    assert question.sentences == ("pool: 95.00 % (1 seed).", "softmax: 90.00 % (1 seed).")


def test_a_crossover_has_the_speed_up_at_the_largest_side() -> None:
    sides = (224, 320, 448, 560, 672)
    rows: list[AnyRow] = [cell("softmax", side, 1e-3 + (side / 224) ** 4 / 1e3) for side in sides]
    rows += [cell("linear", side, 1e-3 + (side / 224) ** 2 * 4 / 1e3) for side in sides]
    (sentence,) = said(rows, "From which resolution")
    assert sentence.startswith("linear against softmax: from 448 px")
    assert "; at 672 px its speed-up is 2.22×" in sentence


def ablated(what: str, difference: float, seed: int = 0, reach: float = 0.002, **more: object) -> AblationRow:
    fields: dict[str, object] = {
        "environment": records.stamp("cpu"),
        "metric": "accuracy",
        "what": what,
        "slot": "fc1",
        "layer": None,
        "value": 0.44 + difference,
        "unchanged": 0.44,
        "low": difference - reach,
        "high": difference + reach,
        "model": "vit-tiny",
        "mixer": "weightformer",
        "recipe": "cifar10",
        "recipe_digest": "digest",
        "dataset": "CIFAR-10",
        "seed": seed,
        "image_size": (32, 32),
        "weights": "raw",
        "weights_sha256": "weights",
        "samples": 10_000,
        "dtype": "float32",
    }
    return AblationRow(**(fields | more))  # type: ignore[arg-type]


def test_what_does_nothing_says_how_large_an_effect_is_ruled_out() -> None:
    nothing, something = said([ablated("zero", 0.0005), ablated("other", -0.2)], "What in it does the work")
    assert "weightformer, with the prediction of the dynamic Linear set to 0: +0.05 [−0.15, +0.25] points" in nothing
    assert "no effect found, and one of more than 0.25 points is unlikely" in nothing
    assert "one seed, interval over images" in nothing
    assert "−20.00 [−20.20, −19.80] points (one seed, interval over images), a real difference" in something


def test_a_change_without_any_spread_says_that_nothing_says_how_sure_it_is() -> None:
    nothing, alike = said([ablated("zero", 0.0, reach=0.0), ablated("other", -0.2, reach=0.0)], "What in it does the work")
    assert nothing.endswith(", no sample changes, so that nothing says how sure it is.")
    assert alike.endswith(", every sample changes alike, so that nothing says how sure it is.")


def test_the_only_layer_that_predicts_stands_for_all() -> None:
    strength = Strength(layer=1, slot="fc1", total=0.2, common=0.05, own=0.19)
    (sentence,) = said([ablated("zero", -0.1, layer=1, strength=strength)], "What in it does the work")
    assert "its strength |X Ŵ| / |X W₀| is 0.2 (the image's own 0.19)" in sentence
    none = Strength(layer=1, slot="fc1", total=None, common=None, own=None)
    (sentence,) = said([ablated("zero", -0.1, layer=1, strength=none)], "What in it does the work")
    assert sentence.endswith("; the layer has no static part beside it.")
    (sentence,) = said([ablated("zero", -0.1, layer=1, strength=strength, strength_before=none)], "What in it does the work")
    assert sentence.endswith("(the image's own 0.19, no static part before training).")


def test_answers_are_written_beside_the_tables_and_into_the_page_and_do_not_stay_behind(tmp_path: Path) -> None:
    rows = small_report()
    paths = report.write(rows, tmp_path)
    assert tmp_path / "answers.md" in paths
    text = (tmp_path / "answers.md").read_text()
    results = analyse(rows)
    assert text == report.in_words(answers(results), findings(results))
    assert text.startswith(in_short(findings(results)))
    page = (tmp_path / "page.html").read_text()
    assert answers(analyse(rows))[0].sentences[0] in page
    assert page.index('id="short"') < page.index('id="answers"') < page.index('id="accuracy"')
    report.write([], tmp_path)
    assert not (tmp_path / "answers.md").exists()


def test_marks_of_markdown_are_words_in_a_sentence() -> None:
    found = to_markdown(answers(analyse(recall("a|b*<i>", after_100=4.0))))
    assert "- a\\|b\\*&lt;i> (" in found
