"""Answers in sentences: what each mixer can do, what was claimed, how accurate and fast it is, and what in it does the work.

Every sentence is made from results, none is typed: what the tables say in numbers, for a reader who wants the answer first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from wfbench.analysis.ablation import AblationLine, AblationResult
from wfbench.analysis.capability import CapabilityLine, CapabilityResult, Crossings, ProbeLine, ProbeResult, set_floor
from wfbench.analysis.claims import AnsweredClaim, Capability, ClaimsResult, Crossover, Exponent, Price
from wfbench.analysis.claims.answer import PER_CENT
from wfbench.analysis.denoising import Losses
from wfbench.analysis.differences import Comparison
from wfbench.analysis.interval import Interval
from wfbench.analysis.line_results import names
from wfbench.analysis.lines import label
from wfbench.analysis.results import Results
from wfbench.analysis.scaling import Crossing, Crossovers
from wfbench.analysis.seed_differences import SeedFamily
from wfbench.analysis.seeds import AccuracyResult
from wfbench.analysis.segmentation import SegmentationResult
from wfbench.records import CrossoverRow, ProbeRow
from wfbench.report.ablation import FIGURES
from wfbench.report.accuracy import accuracy_title
from wfbench.report.capability import (
    cell_words,
    crossings_in_words,
    gate_in_words,
    range_in_words,
    share_in_words,
    under_in_words,
)
from wfbench.report.cells_in_words import ratio_with_ends
from wfbench.report.claims import (
    at_ceiling_in_words,
    bounds_in_words,
    claims_title,
    condition,
    estimate_in_words,
    first_look_in_words,
    first_runs_in_words,
    remedies_in_words,
)
from wfbench.report.columns import escape_markdown
from wfbench.report.crossover import crossing_in_words, row_in_words
from wfbench.report.denoising import losses_title
from wfbench.report.differences import comparison_in_words, signed_points
from wfbench.report.naming import title_of
from wfbench.report.seed_differences import signed_number
from wfbench.report.segmentation import segmentation_title
from wfbench.report.words import (
    number,
    number_with_half_width,
    percent,
    pixels,
    plural,
    strength_in_words,
    with_half_width,
    with_interval,
)

#: What a capacity counts, by probe.
_COUNTED = {"recall": "pairs", "needle": "tokens", "flood": "steps along a walk"}


class Question(NamedTuple):
    """A question with its answers.

    Attributes:
        title: the question.
        about: what was measured, in a line.
        sentences: the answers.
    """

    title: str
    about: str
    sentences: tuple[str, ...]


def answers(results: Results) -> list[Question]:
    """What the results say, a sentence for each finding; questions without an answer are left out."""
    found = [
        *map(_capability, results.capabilities),
        *map(_claims, results.claims),
        *map(_accuracy, results.accuracy),
        *map(_segmentation, results.segmentation),
        *map(_losses, results.losses),
        *(_cost(result, results) for result in results.costs.crossovers),
        *map(_ablation, results.ablations),
    ]
    return [question for question in found if question.sentences]


def to_markdown(questions: Sequence[Question]) -> str:
    """The questions as sections of Markdown."""
    return "\n".join(_section(question) for question in questions)


def _section(question: Question) -> str:
    lines = "".join(f"- {escape_markdown(sentence)}\n" for sentence in question.sentences)
    return f"## {question.title}\n\n{escape_markdown(question.about)}\n\n{lines}"


# --- what can it do?


def _capability(result: CapabilityResult) -> Question:
    names = ", ".join(dict.fromkeys(probe.setting.probe for probe in result.probes))
    about = f"Probes ({names}) of {result.setting.model} with {plural(result.setting.depth, 'layer')}, trained on each probe."
    return Question("What can it do?", about, tuple(_can_do(line, result.probes) for line in result.lines))


def _can_do(line: CapabilityLine, probes: Sequence[ProbeResult]) -> str:
    run = line.any.runs[0]
    layers = "" if run.global_layers is None else f", {run.global_layers} of {run.depth} layers global"
    cost = f"{number(run.parameters, 1e-6)} M parameters" + ("" if run.macs is None else f", {number(run.macs, 1e-6)} MMACs")
    failed = gate_in_words(line)
    parts = [
        _in_probe(own, probe) + (f", {failed}" if failed and probe.setting.probe != "recall" and not own.leaks else "")
        for own, probe in zip(line.lines, probes, strict=True)
        if own is not None
    ]
    return f"{line.label} ({cost}{layers}): {'; '.join(parts)}."


def _in_probe(line: ProbeLine, probe: ProbeResult) -> str:
    name, seeds = probe.setting.probe, plural(len(line.runs), "seed")
    if line.leaks:
        return f"{name}: refused, since the leak check failed"
    if name in _COUNTED:
        found = line.capacity.get(line.end)
        after = f"after {line.end:,} steps of training"
        if found is None:
            return f"{name}: not evaluated {after} ({seeds})"
        return f"{name}: {_stored(line, found, name)} {after} ({seeds}{_what_more(line, found)})"
    if line.learnt is not None:
        is_one = line.learnt.mean is not None or line.learnt.bound is not None
        found_at_look = crossings_in_words(line.learnt, name) if is_one else range_in_words(line.learnt, name)
        steps = f"{found_at_look} steps{'' if is_one else ' by seed'}, looked at every {line.looks_apart:,}"
        return f"{name}: {share_in_words(line.mean)} %, 90 % after {steps} ({seeds})"
    place = max(place for place, cell in enumerate(probe.cells) if cell.grid == probe.setting.image_size)
    found_at = line.accuracies[line.end][place]
    value = "not evaluated" if found_at is None else f"{share_in_words(found_at)} %"
    chance = percent(probe.cells[place].chance)
    return f"{name}: {value} at {cell_words(probe, place)}, where guessing has {chance} % ({seeds})"


def _stored(line: ProbeLine, found: Crossings, probe: str) -> str:
    """A capacity, or that the accuracy is too low at the smallest number already."""
    if line.is_blind and (found.bound is None or found.bound.censored == "below"):
        return "no layer reaches what is asked for, so that it only guesses,"
    if not line.is_trained:
        return "not trained (under 90 % at one pair)"
    if found.bound is not None and found.bound.censored == "below":
        return f"{under_in_words(found.bound.value, probe)}, the fewest that were asked,"
    words = f"{crossings_in_words(found, probe)} {_COUNTED[probe]}"
    if line.is_no_more_than_the_set(line.end) and line.set_capacity is not None:
        words += f" (answering any value on the canvas, without looking up, gives {number(line.set_capacity)})"
    return words


def _what_more(line: ProbeLine, found: Crossings) -> str:
    """What it would take to know more of a capacity."""
    if found.bound is not None and found.bound.censored == "above":
        return "; more would need a larger canvas"
    earlier = [line.capacity[budget] for budget in line.budgets[:-1] if budget in line.capacity]
    if earlier and _is_above(found, earlier[-1]):
        return "; still rising, so longer training would find more"
    return "; one seed says nothing of others" if len(line.runs) == 1 else ""


def _is_above(later: Crossings, earlier: Crossings) -> bool:
    """Whether the interval of a capacity lies above that of an earlier number of steps, or above all that had then."""
    low = None if later.mean is None else later.mean.low
    high = None if earlier.mean is None else earlier.mean.high
    if earlier.bound is not None and earlier.bound.censored == "below":
        high = earlier.bound.value
    return low is not None and high is not None and low > high


# --- what was claimed?


def _claims(result: ClaimsResult) -> Question:
    title = f"What was claimed of {result.claims.file.recipe}, and does it hold?"
    return Question(title, f"{claims_title(result)}.", tuple(map(_claim, result.answered)))


def _claim(line: AnsweredClaim) -> str:
    answer, found = line.answer, _found(line)
    parts = [plural(answer.seeds, "seed")] if answer.seeds else []
    parts += [] if line.registration.is_before_the_runs else ["not pre-registered"]
    sure = f" ({', '.join(parts)})" if parts else ""
    what = condition(line) + (f"; found {found}" if found else "")
    more = [_needs_no_ability(line), first_runs_in_words(line), *([_price(line)] if answer.verdict == "undecidable" else [])]
    said = "".join(f" {words[0].upper()}{words[1:]}." for words in more if words)
    return f"“{line.claim.says}” {answer.verdict.capitalize()}: {what}{sure}.{said}"


def _needs_no_ability(line: AnsweredClaim) -> str:
    """Of a supported claim on an accuracy of recall, that answering any value on the canvas has it too; else empty."""
    claim, rows = line.claim, [run for run in line.runs if isinstance(run, ProbeRow) and run.probe == "recall"]
    if not isinstance(claim, Capability) or line.answer.verdict != "supported" or claim.at_least is None or not rows:
        return ""
    if claim.statistic == "accuracy" and claim.level is not None:
        floors = [set_floor(cell) for cell in rows[0].trained if cell.level == claim.level]
        if floors and floors[0] is not None and PER_CENT * floors[0] >= claim.at_least:
            known = "Answering any value on the canvas, without looking up, is right in"
            return f"{known} {percent(floors[0])} % there, so it shows no more than that"
    return ""


def _found(line: AnsweredClaim) -> str:
    """What the records give: the estimate with its ends, the bounds that lines have instead, or where a crossover is sure."""
    answer = line.answer
    if answer.estimate is not None:
        if (answer.low, answer.high) == (-PER_CENT, PER_CENT):  # the first looks of a plan of many allow little error
            alone = replace(line, answer=replace(answer, low=None, high=None))
            return f"{estimate_in_words(alone)} points, with an interval that excludes nothing at this look"
        return f"{estimate_in_words(line)}{_unit(line)}"
    if isinstance(line.claim, Capability):
        return "; ".join(bounds_in_words(line.claim, answer))
    return row_in_words(answer.profile) if isinstance(answer.profile, CrossoverRow) else ""


def _unit(line: AnsweredClaim) -> str:
    match line.claim:
        case Exponent():
            return ""
        case Crossover():
            return " px"
        case Capability() as claim:
            return "" if claim.is_factor else " %"
        case _:
            return " points"


def _price(line: AnsweredClaim) -> str:
    """What would decide a claim."""
    answer, ceiling = line.answer, at_ceiling_in_words(line)
    if ceiling:
        return f"No number of seeds decides it, since {ceiling}"
    if answer.if_estimate is not None and answer.if_effect is not None:
        why = {price.needed.why_none for price in (answer.if_estimate, answer.if_effect)}
        if "" not in why:
            return f"No number of seeds decides it: {', '.join(sorted(why))}"
        return (
            f"To decide it: {_seeds(answer.if_estimate)} if the estimate is true, {_seeds(answer.if_effect)} if the stated "
            "effect is"
        )
    if answer.first_look is not None:
        look = answer.first_look
        at = f"a first look at {plural(look.seeds, 'seed')} of each line"
        guess = look.untimed and look.seconds is not None
        also = f" if those of {' and '.join(look.untimed)} take as long as the others on average" if guess else ""
        return f"To answer it: {first_look_in_words(look)}{also}, for {at}"
    if answer.remedies:
        return f"To decide it: {remedies_in_words(answer)}"
    return f"No price: {answer.why_none}" if answer.why_none else "No price is known"


def _seeds(price: Price) -> str:
    needed = price.needed
    if needed.why_none:
        return f"no number of seeds ({needed.why_none})"
    count = f"more than {needed.more_than:,} seeds" if needed.seeds is None else plural(needed.seeds, "seed")
    count = f"a new plan of {count}" if needed.is_new_plan else count
    if price.seconds is None:
        return count
    return f"{count} ({'over ' if needed.seeds is None else ''}{number(price.seconds / 3600, digits=2)} h more)"


# --- how accurate?


def _accuracy(result: AccuracyResult) -> Question:
    title = "How accurate is it, and is the difference real?"
    sentences, called = [], names(result.lines)
    for line in result.lines:
        words, comparison = f"{called[line]}: {with_half_width(line.accuracy, percent)} %", result.comparison(line)
        words += f" ({plural(len(line.seeds), 'seed')})"
        sentences.append(f"{words}." if comparison is None else f"{words}, {_against(comparison, result.asked.baseline)}.")
    alone = " A single seed ranks nothing." if any(len(line.seeds) == 1 for line in result.lines) else ""
    return Question(title, f"{accuracy_title(result)}.{alone}", tuple(sentences))


def _against(comparison: Comparison, baseline: str) -> str:
    words = f"{comparison_in_words(comparison)}{' than' if comparison.sided != 'not distinguishable' else ' from'} "
    detectable = ""
    if comparison.sided == "not distinguishable" and comparison.detectable is not None:
        detectable = f"; these seeds find differences from {percent(comparison.detectable)} points"
    return f"{words}{baseline}: {signed_points(comparison.difference)} points{detectable}"


def _segmentation(result: SegmentationResult) -> Question:
    title = "How accurate is it on dense prediction, and is the difference real?"
    values = {line.label: f"mIoU {with_half_width(line.miou, percent)} % ({_seeds_of(line.runs)})" for line in result.lines}
    return Question(title, f"{segmentation_title(result)}.", _held_against(values, result.family, _in_points))


def _losses(result: Losses) -> Question:
    title = "How well does it denoise, and is the difference real?"
    values = {line.label: f"{number_with_half_width(line.loss)} ({_seeds_of(line.runs)})" for line in result.lines}
    found = _held_against(values, result.family, lambda difference: f": {signed_number(difference)}")
    return Question(title, f"{losses_title(result)}.", found)


def _seeds_of(runs: Sequence[object]) -> str:
    return plural(len(runs), "seed")


def _in_points(difference: Interval) -> str:
    return f": {signed_points(difference)} points"


def _held_against(values: Mapping[str, str], family: SeedFamily, show: Callable[[Interval], str]) -> tuple[str, ...]:
    """A sentence for each line: its value, what the test against the baseline says, and the difference as ``show`` has it."""
    sentences = []
    for name, value in values.items():
        against = family.differences.get(name)
        if against is None:
            sentences.append(f"{name}: {value}.")
        else:
            than = "from" if against.finding == "not distinguishable" else "than"
            how = "" if family.is_paired else " (unpaired)"
            words = f"{against.finding} {than} {family.baseline}{show(against.difference)}{how}"
            sentences.append(f"{name}: {value}, {words}.")
    return tuple(sentences)


# --- how fast, from which resolution?


def _cost(result: Crossovers, results: Results) -> Question:
    title = "From which resolution is it faster, and how much?"
    sentences = tuple(_crossing(crossing, result, results) for crossing in result.crossings)
    return Question(title, f"{title_of([result.profile.setting])}.", sentences)


def _crossing(crossing: Crossing, result: Crossovers, results: Results) -> str:
    words = f"{label(crossing.line)} against {label(crossing.baseline)}: {crossing_in_words(crossing)}"
    cells = [
        (side, cell)
        for found in results.costs.speed_ups
        if found.profile.session == crossing.session
        for line, by_side in found.lines.items()
        if line == crossing.line
        for side, cell in by_side.items()
        if cell.speedup is not None
    ]
    if not cells:
        return f"{words}."
    side, cell = max(cells, key=lambda entry: math.prod(entry[0]))
    assert cell.speedup is not None
    return f"{words}; at {pixels(side)} px its speed-up is {ratio_with_ends(cell.speedup.ratio)}."


# --- what does the work?


def _ablation(result: AblationResult) -> Question:
    setting = result.setting
    about = (
        f"Change of {FIGURES[setting.metric][0]} on {setting.dataset}, {setting.model}, recipe {setting.recipe}, in trained "
        "networks with one part taken away."
    )
    whole = _of_all_layers(result.lines)
    return Question("What in it does the work?", about, tuple(_ablated(line, result) for line in whole))


def _of_all_layers(lines: Iterable[AblationLine]) -> list[AblationLine]:
    """Of each network and part the change of all layers at once, or of the only layer that has it."""
    found: dict[tuple[str, str, str], AblationLine] = {}
    for line in lines:  # all layers together come first
        if line.what != "mean":
            found.setdefault((line.label, line.slot, line.what), line)
    return list(found.values())


def _ablated(line: AblationLine, result: AblationResult) -> str:
    is_share = FIGURES[result.setting.metric][1]
    difference = line.difference
    change = (
        f"{signed_points(difference)} points"
        if is_share
        else with_interval(difference.estimate, difference.low, difference.high, number)
    )
    part = {"fc1": "dynamic Linear", "mixer": "mixer"}[line.slot]
    taken = {
        "branch": "without the token mixers",
        "zero": f"with the prediction of the {part} set to 0",
        "other": f"with the prediction of the {part} from another image",
        "mean": "",
    }[line.what]
    strength = _strength(line)
    over = plural(len(line.runs), "seed") if line.is_over_seeds else "one seed, interval over images"
    return f"{line.label}, {taken}: {change} ({over}){_says(difference, is_share=is_share)}{strength}."


def _says(difference: Interval, *, is_share: bool) -> str:
    if difference.low is None or difference.high is None:
        return ""
    if difference.low == difference.high:
        alike = "no sample changes" if not difference.estimate else "every sample changes alike"
        return f", {alike}, so that nothing says how sure it is"
    if difference.low > 0 or difference.high < 0:
        return ", a real difference"
    largest = max(abs(difference.low), abs(difference.high))
    bound = f"{percent(largest)} points" if is_share else number(largest)
    return f", no effect found, and one of more than {bound} is unlikely"


def _strength(line: AblationLine) -> str:
    if line.strength is None or line.what != "zero":
        return ""
    if math.isinf(line.strength.total.estimate):
        return "; the layer has no static part beside it"
    before = "" if line.before is None else f", {strength_in_words(line.before.total)} before training"
    own = strength_in_words(line.strength.own)
    return f"; its strength |X Ŵ| / |X W₀| is {strength_in_words(line.strength.total)} (the image's own {own}{before})"
