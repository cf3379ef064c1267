"""The findings in short: for each question one or a few sentences, made from results; `answers` has every line of them.

The demo prints them, the page begins with them, and the README's come from the reports in results/.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from wfbench.analysis.ablation import AblationResult
from wfbench.analysis.capability import CapabilityResult, ProbeLine, ProbeResult
from wfbench.analysis.claims import Answer, ClaimsResult, FirstLook
from wfbench.analysis.denoising import Losses
from wfbench.analysis.design import is_paired_design
from wfbench.analysis.differences import Comparison
from wfbench.analysis.interval import Interval
from wfbench.analysis.line_results import names
from wfbench.analysis.lines import label
from wfbench.analysis.results import Results
from wfbench.analysis.scaling import Crossovers
from wfbench.analysis.seed_differences import SeedFamily
from wfbench.analysis.seeds import AccuracyResult
from wfbench.analysis.segmentation import SegmentationResult
from wfbench.report.ablation import FIGURES
from wfbench.report.capability import cell_words, crossings_in_words, gate_in_words, share_in_words, under_in_words
from wfbench.report.columns import escape_markdown
from wfbench.report.crossover import crossing_in_words, sure_from, sure_up_to
from wfbench.report.differences import signed_points
from wfbench.report.naming import differing
from wfbench.report.seed_differences import signed_number
from wfbench.report.words import number, number_with_half_width, percent, pixels, plural, with_half_width

#: So many names or values a sentence lists; of more it says the first ones and how many there are.
MOST = 6
#: Of the charts of the page, the one that shows a finding.
ChartKind = Literal["probes", "accuracy", "cost", ""]

_NO_RUNS, _NO_PROFILE = "without runs yet", "without a profile yet"
_STORES = {"recall": "pairs of key and value", "needle": "tokens", "flood": "steps along a walk"}


class Finding(NamedTuple):
    """What the results say to one question.

    Attributes:
        question: the question.
        sentences: the answer; each sentence names what it is of.
        chart: which charts of the page show it.
    """

    question: str
    sentences: tuple[str, ...]
    chart: ChartKind = ""


def findings(results: Results) -> list[Finding]:
    """What the results say, in short; questions without an answer are left out."""
    found = [
        Finding("What can it do?", tuple(_can_do(results.capabilities)), "probes"),
        Finding("How accurate is it?", tuple(_accurate(results)), "accuracy"),
        Finding("From which image side is it faster?", tuple(map(_faster, results.costs.crossovers)), "cost"),
        Finding("What was claimed, and does it hold?", tuple(map(_claimed, results.claims))),
        Finding("What in it does the work?", tuple(sentence for one in results.ablations for sentence in _works(one))),
        Finding("How sure is that?", tuple(_sure(results))),
    ]
    return [finding for finding in found if finding.sentences]


def to_markdown(found: Sequence[Finding]) -> str:
    """The findings as a section of Markdown, a line for each sentence; empty without any."""
    if not found:
        return ""
    lines = (f"- {escape_markdown(sentence)}\n" for finding in found for sentence in finding.sentences)
    return "## In short\n\n" + "".join(lines)


def _listed(words: Sequence[str], most: int = MOST) -> str:
    """Words as a list: "a, b and c"; of many the first, and how many more there are."""
    if len(words) > most:
        words = [*words[: most - 1], f"{len(words) - most + 1} more"]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _plain(dataset: str) -> str:
    """A data set's name without what is said of it in parentheses; `answers` has that too."""
    return dataset.partition(" (")[0].capitalize() if dataset[0].islower() else dataset.partition(" (")[0]


def _verb(names: Sequence[str], one: str, several: str) -> str:
    return f"{_listed(names)} {one if len(names) == 1 else several}"


# --- what can it do?


def _can_do(capabilities: Sequence[CapabilityResult]) -> Iterable[str]:
    asked = Counter(probe.setting.probe for result in capabilities for probe in result.probes)
    models = {result.setting.model for result in capabilities}
    for result in capabilities:
        gates = {id(own): gate_in_words(line) for line in result.lines for own in line.lines}
        for probe in result.probes:
            lines = [_gated(line, gates.get(id(line), "")) for line in probe.lines if not line.leaks]
            several = asked[probe.setting.probe] > 1
            by = f" by {probe.setting.model}" if several and len(models) > 1 else ""
            own = {one.setting.recipe for one in result.probes if one.setting.probe == probe.setting.probe}
            by += f" (recipe {probe.setting.recipe})" if several and len(own) > 1 else ""
            if lines:
                yield _probed(lines, probe, by)


def _gated(line: ProbeLine, failed: str) -> ProbeLine:
    """A line whose name says in other probes that it failed the gate of recall."""
    return replace(line, label=f"{line.label} ({failed})") if failed and line.runs[0].probe != "recall" else line


def _probed(lines: Sequence[ProbeLine], probe: ProbeResult, by: str) -> str:
    """One probe, over all its lines; ``by`` stands behind its name and says of which model or recipe they are."""
    name, seeds = probe.setting.probe, _seeds({len(line.runs) for line in lines})
    if name in _STORES:
        return f"{name.capitalize()}{by}, after {_steps(lines)} of training ({seeds} of each): {_capacities(lines, name)}."
    if name == "shift":
        found = [f"{line.label} {share_in_words(line.mean)}" for line in _best_first(lines)]
        return f"Shift{by}, right answers in % ({seeds} of each): {_all_of(found)}."
    if name == "hop":
        found = [f"{line.label} {_range(line.hops.values())}" for line in lines]
        return f"Hop{by}, steps of a chain that are followed ({seeds} of each): {_all_of(found)}."
    own = [place for place, cell in enumerate(probe.cells) if cell.grid == probe.setting.image_size]
    hardest = own[-1]
    values = [(line.label, line.accuracies[line.end][hardest]) for line in lines]
    known = sorted(((value, label) for label, value in values if value is not None), key=lambda pair: -pair[0].estimate)
    words = [f"{label} {share_in_words(value)}" for value, label in known]
    chance = percent(probe.cells[hardest].chance)
    where = cell_words(probe, hardest)
    return f"{name.capitalize()}{by}, right answers in % at {where} ({seeds} of each; guessing has {chance}): {_all_of(words)}."


def _steps(lines: Sequence[ProbeLine]) -> str:
    """The steps of training: those that were planned, since a run that solves all ends early."""
    return f"{max(line.end for line in lines):,} steps"


def _seeds(counts: Iterable[int]) -> str:
    low, high = min(counts := set(counts)), max(counts)
    return plural(high, "seed") if low == high else f"{low} to {high} seeds"


def _range(values: Iterable[int]) -> str:
    low, high = min(values := list(values)), max(values)
    return f"{low}" if low == high else f"{low} to {high}"


def _best_first(lines: Sequence[ProbeLine]) -> list[ProbeLine]:
    return sorted(lines, key=lambda line: -line.mean.estimate)


def _all_of(words: Sequence[str]) -> str:
    """Values in falling order: all of a few, else the first and the last ones."""
    if len(words) <= MOST + 2:
        return ", ".join(words)
    return f"{', '.join(words[:4])}, … {', '.join(words[-2:])} ({len(words)} mixers)"


def _capacities(lines: Sequence[ProbeLine], probe: str) -> str:
    """Lines by what they store: those beyond what was asked, numbers, those below what was asked, and what did not learn."""
    beyond: dict[float, list[str]] = {}
    numbers: list[tuple[float, str]] = []
    under: dict[float, list[str]] = {}
    none: list[str] = []
    unknown: list[str] = []
    blind: list[str] = []
    guessed: list[str] = []
    unit = _STORES[probe]
    for line in lines:
        found = line.capacity.get(line.end)
        if found is None:
            unknown.append(line.label)
        elif found.bound is not None and found.bound.censored == "above":
            beyond.setdefault(found.bound.value, []).append(line.label)
        elif line.is_blind:
            blind.append(line.label)
        elif not line.is_trained:
            none.append(line.label)
        elif found.bound is not None and found.bound.censored == "below":
            under.setdefault(found.bound.value, []).append(line.label)
        elif line.is_no_more_than_the_set(line.end):
            guessed.append(line.label)
        else:
            order = found.mean.estimate if found.mean is not None else max(one.low for one in found.by_seed.values())
            numbers.append((-order, f"{line.label} {crossings_in_words(found, probe)}"))
    parts = [
        f"{_verb(names, 'has', 'have')} at least {most:,.0f} {unit}, the most that was asked"
        for most, names in sorted(beyond.items(), reverse=True)
    ]
    parts += [f"{_all_of([words for _, words in sorted(numbers)])}{'' if beyond else f' {unit}'}"] if numbers else []
    parts += [f"{_verb(names, 'is', 'are')} {under_in_words(least, probe)}" for least, names in sorted(under.items())]
    if guessed:
        floor = next(line.set_capacity for line in lines if line.set_capacity is not None)
        given = f"{number(floor)}, which answering any value on the canvas gives, without looking up"
        parts.append(f"of {_listed(guessed)} no more is shown than {given}")
    parts += [f"{_verb(none, 'has', 'have')} not learnt it"] if none else []
    parts += [f"{_verb(blind, 'only guesses', 'only guess')}, since no layer reaches it"] if blind else []
    parts += [f"{_verb(unknown, 'was', 'were')} not evaluated then"] if unknown else []
    return "; ".join(parts)


# --- how accurate?


def _accurate(results: Results) -> Iterable[str]:
    kinds: list[tuple[Sequence[Any], Callable[[Any, str], str]]] = [
        (results.accuracy, _accuracy),
        (results.segmentation, _segmentation),
        (results.losses, _losses),
    ]
    for found, in_words in kinds:
        shown = [result for result in found if result.lines]
        for result in shown:
            alike = [other.setting for other in shown if _plain(other.setting.dataset) == _plain(result.setting.dataset)]
            apart = differing(result.setting, alike, ("recipe", "model", "image_size", "epochs"))
            yield in_words(result, ", ".join([_plain(result.setting.dataset), *apart]))


def _accuracy(result: AccuracyResult, data: str) -> str:
    lines = sorted(result.lines, key=lambda line: -line.accuracy.estimate)
    seeds = _seeds({len(line.seeds) for line in lines})
    where = f"{data}, accuracy in % ({seeds} of each)"
    called = names(result.lines)
    compared = [(called[line], comparison) for line in lines if (comparison := result.comparison(line)) is not None]
    if not compared:
        words = [f"{called[line]} {with_half_width(line.accuracy, percent)}" for line in lines]
        simple = [f"{row.name} has {percent(row.accuracy)}" for row in result.simple_classifiers]
        beside = f"; {_listed(simple)}" if simple else ""
        return f"{where}: {_all_of(words)}{beside}."
    baselines = [line for line in lines if line.label == result.asked.baseline]
    begin = "".join(f"{called[line]} {with_half_width(line.accuracy, percent)}; " for line in baselines)
    return f"{where}: {begin}{_against(compared)}{_unpaired(result, compared)}."


def _unpaired(result: AccuracyResult, compared: Sequence[tuple[str, Comparison]]) -> str:
    """Which differences were not taken seed by seed, and why; empty where all were."""
    names = [name for name, comparison in compared if not comparison.is_paired]
    if not names:
        return ""
    which = "unpaired" if len(names) == len(compared) else f"{_listed(names)} unpaired"
    return f"; {which}, since seeds differ" if is_paired_design(result.runs) else f"; {which}: runs of an earlier version"


def _against(compared: Sequence[tuple[str, Comparison]]) -> str:
    """Lines held against the baseline, by what the test says; differences in points."""
    groups: dict[str, list[str]] = {}
    for name, comparison in compared:
        sided = comparison.sided
        shown = name if sided == "not distinguishable" else f"{name} {signed_points(comparison.difference)}"
        groups.setdefault(sided, []).append(shown)
    return "; ".join(f"{sided}: {_listed(groups[sided])}" for sided in groups)


def _segmentation(result: SegmentationResult, data: str) -> str:
    lines = sorted(result.lines, key=lambda line: -line.miou.estimate)
    words = [f"{line.label} {with_half_width(line.miou, percent)}" for line in lines]
    seeds = _seeds({len(line.runs) for line in lines})
    where = f"{data}, mIoU in % ({seeds} of each)"
    return f"{where}: {_all_of(words)}{_found(result.family, signed_points)}."


def _losses(result: Losses, data: str) -> str:
    lines = sorted(result.lines, key=lambda line: line.loss.estimate)
    words = [f"{line.label} {number_with_half_width(line.loss)}" for line in lines]
    seeds = _seeds({len(line.runs) for line in lines})
    where = f"{data}, {result.setting.weights} weights, held-out loss ({seeds} of each)"
    return f"{where}: {_all_of(words)}{_found(result.family, signed_number)}."


def _found(family: SeedFamily, show: Callable[[Interval], str]) -> str:
    """Which lines differ from the baseline for sure, by how much, and whether seed by seed."""
    sure: dict[str, list[str]] = {}
    for name, difference in family.differences.items():
        sure.setdefault(difference.finding, []).append(f"{name} {show(difference.difference)}")
    if not sure:
        return ""
    how = "" if family.is_paired else " (unpaired)"
    return f"; against {family.baseline}{how} " + "; ".join(f"{finding}: {_listed(names)}" for finding, names in sure.items())


# --- from which side is it faster?


def _faster(result: Crossovers) -> str:
    """Where the lines of a profile overtake the baseline."""
    setting, first = result.profile.setting, result.crossings[0]
    plain = [crossing for crossing in result.crossings if not crossing.line.variant] or result.crossings
    at = sorted((crossing for crossing in plain if crossing.verdict == "at"), key=lambda crossing: crossing.side or math.inf)
    always = [f"{label(crossing.line)}{sure_from(crossing)}" for crossing in plain if crossing.verdict == "always"]
    never = [f"{label(crossing.line)}{sure_up_to(crossing)}" for crossing in plain if crossing.verdict == "none"]
    parts = [_all_of([f"{label(crossing.line)} {crossing_in_words(crossing)}" for crossing in at])] if at else []
    sides = f"{first.smallest_side}–{first.largest_side} px"
    parts += [f"at every side measured ({sides}): {_listed(always)}"] if always else []
    parts += [f"at none ({sides}): {_listed(never)}"] if never else []
    what = "a training step" if setting.mode == "train" else "inference"
    where = f"{setting.model}, {what} on {setting.device} with {plural(setting.threads, 'thread')}"
    where = where if setting.device != "cuda" and setting.threads else f"{setting.model}, {what} on {setting.device}"
    none = "" if any(crossing.has_interval for crossing in plain) else "; no interval, for which four sides are needed"
    return f"{where}, faster than {label(first.baseline)}: {'; '.join(parts)}{none}."


# --- what was claimed?


def _claimed(result: ClaimsResult) -> str:
    verdicts: dict[str, list[Answer]] = {}
    for line in result.answered:
        verdicts.setdefault(_verdict(line.answer), []).append(line.answer)
    counts = [f"{len(found)} {verdict}" for verdict, found in sorted(verdicts.items())]
    prices = _prices(verdicts.get("undecidable", []))
    first = _first_looks([look for answer in verdicts.get(_NO_RUNS, []) if (look := answer.first_look) is not None])
    what = f"Of {plural(len(result.answered), 'claim')} about recipe {result.claims.file.recipe}"
    return f"{what}, {_listed(counts)}{prices}{first}."


def _verdict(answer: Answer) -> str:
    if answer.first_look is not None:
        return _NO_RUNS
    return _NO_PROFILE if answer.remedies == ("a profile",) else answer.verdict


def _first_looks(looks: Sequence[FirstLook]) -> str:
    """What the claims without runs take to be looked at."""
    if not looks:
        return ""
    runs = sorted({look.runs for look in looks})
    hours = [number(seconds / 3600, digits=2) for seconds in sorted(look.seconds for look in looks if look.seconds is not None)]
    cost = f"{' to '.join(map(str, dict.fromkeys((runs[0], runs[-1]))))} {'run' if runs == [1] else 'runs'}"
    each = " each" if len(looks) > 1 else ""
    if len(hours) == len(looks):
        guess = any(look.untimed for look in looks)
        cost += f" or {'about ' if guess else ''}{' to '.join(dict.fromkeys((hours[0], hours[-1])))} h of training"
    return f"; a first look at {'it' if len(looks) == 1 else 'those'} without runs takes {cost}{each}"


def _prices(answers: Sequence[Answer]) -> str:
    """What it would take to decide the open claims, if what was found is true: each of them counts once."""
    known = sorted(
        price.seconds
        for answer in answers
        if (price := answer.if_estimate) is not None and price.seconds is not None and price.needed.seeds is not None
    )
    unknown = [price.needed for answer in answers if (price := answer.if_estimate) is not None and price.needed.seeds is None]
    why = " or ".join(dict.fromkeys(one.why_none or f"more than {one.more_than:,} seeds are needed" for one in unknown))
    hopeless = len(unknown)
    by_cells = sum(answer.if_estimate is None and bool(answer.remedies) for answer in answers)
    unpriced = len(answers) - len(known) - hopeless - by_cells
    hours = list(dict.fromkeys(number(seconds / 3600, digits=2) for seconds in (*known[:1], *known[-1:])))
    more = f"{' to '.join(hours)} h of training more"
    if len(answers) == 1:
        if known:
            return f"; {more} would decide it, if the estimate is true"
        if hopeless:
            return f"; no number of seeds that was looked at decides it: {why}"
        return "; more cells of a profile would decide it" if by_cells else ""
    own = f"takes {more} (if the estimate is true)" if len(known) == 1 else f"take {more} each (if the estimates are true)"
    parts = [f"{len(known)} {own}"] if known else []
    if hopeless:
        parts.append(f"{hopeless} {'is' if hopeless == 1 else 'are'} decided by no number of seeds looked at ({why})")
    if by_cells:
        parts.append(f"{by_cells} {'needs' if by_cells == 1 else 'need'} more cells of a profile")
    if unpriced and parts:
        parts.append(f"{unpriced} {'has' if unpriced == 1 else 'have'} no price")
    return f"; of the {len(answers)} undecidable ones {_listed(parts)}" if parts else ""


# --- what does the work?


def _works(result: AblationResult) -> Iterable[str]:
    """Of each network, what becomes of it with the prediction of all its layers set to 0."""
    seen, is_share = set(), FIGURES[result.setting.metric][1]
    for line in result.lines:  # all layers together come first
        key = line.label, line.slot
        if line.what != "zero" or key in seen:
            continue
        seen.add(key)
        part = {"fc1": "dynamic Linear", "mixer": "mixer"}[line.slot]
        change = f"{signed_points(line.difference)} points" if is_share else f"{_loss(line.difference)} of loss"
        where = f"{line.label} on {_plain(result.setting.dataset)}"
        yield f"{where}, the prediction of its {part} set to 0: {change} ({_seeds({len(line.runs)})})."


def _loss(difference: Interval) -> str:
    ends = "" if difference.low is None else f" [{number(difference.low)}, {number(difference.high)}]"
    return f"{number(difference.estimate)}{ends}"


# --- how sure?


def _sure(results: Results) -> Iterable[str]:
    """What single seeds and rounds leave open, and what more would cost."""
    return dict.fromkeys(_doubts(results))


def _doubts(results: Results) -> Iterable[str]:
    single = {
        probe.setting.probe: math.fsum(run.train_seconds for line in probe.lines for run in line.runs)
        for result in results.capabilities
        for probe in result.probes
        if all(len(line.runs) == 1 for line in probe.lines)
    }
    single |= {
        result.dataset.partition(" (")[0]: math.fsum(row.train_seconds for row in result.runs)
        for result in results.accuracy
        if result.lines and all(len(line.seeds) == 1 for line in result.lines)
    }
    if single:
        minutes = number(max(1.0, 4 * math.fsum(single.values()) / 60), digits=2)
        yield (
            f"One seed of each mixer ranks nothing ({_listed(list(single))}): another seed may turn the order round. "
            f"Four more of each would take {minutes} minutes of training on such a core, and give intervals."
        )
    for result in results.costs.profiles:
        rounds = {len(row.round_medians) for cell in result.cells if (row := cell.row).round_medians}
        if rounds and len(result.cells) > 1:
            sides = sorted({cell.row.resolution for cell in result.cells})
            many = f"medians of {_range(rounds)} rounds" if max(rounds) > 1 else "those of a single round"
            yield (
                f"Times from {pixels(sides[0])} to {pixels(sides[-1])} px are {many} on this one machine"
                f"{_brackets(results, over_rounds=max(rounds) > 1)}; another machine has other crossovers."
            )


def _brackets(results: Results, *, over_rounds: bool) -> str:
    """What the brackets of sides and of speed-ups are from; empty where there are none."""
    fitted = any(crossing.has_interval for result in results.costs.crossovers for crossing in result.crossings)
    side, rounds = "brackets of a side come from the cells' distances to their curves", "of a speed-up from rounds"
    if not fitted:
        return "; brackets come from rounds" if over_rounds else ""
    return f"; {side}, those {rounds}" if over_rounds else f"; {side}"
