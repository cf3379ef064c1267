"""Tables of probes: what each mixer can do side by side, and of each probe the accuracy at every level."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from wfbench.analysis.capability import (
    CapabilityLine,
    CapabilityResult,
    CapabilitySetting,
    Crossing,
    Crossings,
    ProbeLine,
    ProbeResult,
    ProbeSetting,
)
from wfbench.analysis.interval import Interval
from wfbench.analysis.lines import group
from wfbench.records import ProbeCell, ProbeRow
from wfbench.report.accuracy_notes import repeats_notes
from wfbench.report.columns import Column, Table, constant_columns, interval_ends, make_table, sureness_columns
from wfbench.report.naming import flat, suffixes
from wfbench.report.strength import strength_columns, strength_notes
from wfbench.report.words import (
    REFUSED,
    environment_notes,
    macs_notes,
    number,
    percent,
    plural,
    rule_notes,
    with_half_width,
    with_interval,
)

#: Of a capacity: what is counted, and what stands in the place of a bound below the smallest number.
UNITS = {"recall": "pairs", "needle": "tokens", "flood": "reach"}
NOT_TRAINED = "not trained"
#: Why a floor has no interval.
COMPUTED = "a floor is computed from the generator, not measured"
#: What each probe asks, for the notes.
ASKS = {
    "recall": "Recall: a canvas holds n pairs of key and value at random places, and asks for the values of keys. Pairs "
    "(90 %): how many pairs can be on the canvas until fewer than 90 % of the answers are right.",
    "needle": "Needle: one token of the canvas is marked, and its value is asked for. Tokens (90 %): how many tokens, all "
    "others distractors, the canvas can have until fewer than 90 % of the answers are right; training is on the smallest.",
    "flood": "Flood: two walks begin at marks of two kinds, and every token of them is asked which mark it leads to. Reach "
    "(90 %): how many steps along a walk a token can be from its mark until fewer than 90 % of the answers are right, on the "
    "longest walks. Some steps need no following: see the floors of near tokens and of straight distance.",
    "majority": "Majority: which of the colours on the canvas is the most frequent one; the level is its lead over an equal "
    "share.",
    "shift": "Shift: every token is asked for the symbol half a grid away. Steps to 90 %: the first evaluation in training at "
    "which 90 % of the answers are right; “at most” where that is the first of all, before which nothing was looked at.",
    "hop": "Hop: arrows lead from symbol to symbol, and the symbol after k steps is asked for. Steps (90 %): the largest k up "
    "to which 90 % of the answers are right, by seed.",
}
#: What of the canvas the distractors of needle are, where the last level is 1.
_ALL_OTHERS = "all others distractors"


@dataclass(frozen=True)
class _Floor:
    """A line of a probe's table that no mixer has: an accuracy that needs no such ability."""

    label: str
    value: Callable[[ProbeCell], float | None]


FLOORS = (
    _Floor("floor: guessing", lambda cell: cell.chance),
    _Floor("floor: near tokens", lambda cell: cell.local_floor),
    _Floor("floor: set of answers", lambda cell: cell.set_floor),
    _Floor("floor: straight distance", lambda cell: cell.straight_floor),
)


def capability_tables(results: Sequence[CapabilityResult]) -> list[Table]:
    """The probes side by side, a table for each model."""
    ends = suffixes([[result.setting] for result in results])
    return [_capability_table(f"capability{end}", result) for result, end in zip(results, ends, strict=True)]


def probe_tables(results: Sequence[ProbeResult]) -> list[Table]:
    """A table of accuracies for each setting of each probe."""
    ends: dict[int, str] = {}
    for found in group(results, lambda result: result.setting.probe).values():
        ends |= {id(result): end for result, end in zip(found, suffixes([[one.setting] for one in found]), strict=True)}
    return [_probe_table(f"probe-{result.setting.probe}{ends[id(result)]}", result) for result in results]


# --- side by side


def _capability_table(name: str, result: CapabilityResult) -> Table:
    title = f"Capability: {_shared_words(result.setting)}"
    lines = [line for probe in result.probes for line in probe.lines]
    runs = [(line.label, run) for line in lines for run in line.runs]
    first = result.probes[0].setting
    notes = [
        *dict.fromkeys(map(asks, result.probes)),
        *_capacity_notes(lines),
        *_trained_notes(result.probes),
        *_interval_notes(lines, accuracies=any(found.setting.probe in ("majority", "shift") for found in result.probes)),
        "Global layers: how many layers let a token depend on far ones.",
        f"Parameters, MMACs of one canvas and seconds of training are those of {first.probe} ({_grid(first.image_size)} "
        "tokens), or of the first probe to its right that the line has.",
        *_partly_solved_notes(result.probes),
        *_leak_notes(lines),
        *repeats_notes(sum(found.repeats for found in result.probes)),
        *macs_notes(runs),
        *rule_notes(run.chosen for _, run in runs),
        *_changed_notes(lines),
        *environment_notes(run.environment for _, run in runs),
    ]
    return replace(make_table("capability", name, title, _capability_columns(result), result.lines, notes), result=result)


def _mmacs(row: ProbeRow) -> str | None:
    """A row's MACs in millions; None where there are neither they nor a bound."""
    if row.macs is None and row.macs_at_least is not None:
        return f"≥ {number(row.macs_at_least / 1e6)}"
    return None if row.macs is None else number(row.macs / 1e6)


def _capability_columns(result: CapabilityResult) -> list[Column[CapabilityLine]]:
    """In the order of the CSV."""
    return [
        *constant_columns(flat(result.setting)),
        Column("mixer", lambda line: line.any.runs[0].mixer),
        Column("label", lambda line: line.label, "mixer", words=True),
        Column("local_conv", lambda line: line.any.runs[0].local_conv),
        Column("mixer_digest", lambda line: line.any.runs[0].mixer_digest),
        *(column for place in range(len(result.probes)) for column in _probe_columns(result, place)),
        Column("global_layers", lambda line: line.any.runs[0].global_layers),
        Column("", lambda line: f"{line.any.runs[0].global_layers} of {line.any.runs[0].depth}", "global layers"),
        Column("parameters", lambda line: line.any.runs[0].parameters, "params (M)", lambda count: number(count / 1e6)),
        Column("macs", lambda line: line.any.runs[0].macs),
        Column("", lambda line: _mmacs(line.any.runs[0]), "MMACs"),
        *sureness_columns(lambda line: line.any.runs[0]),
        Column(
            "train_seconds",
            lambda line: line.any.train_seconds,
            "train (s)",
            lambda found: with_half_width(found, number),
            interval_ends("train_seconds"),
        ),
        Column("seed_count", _least_seeds),
        Column("", _seeds_in_words, "seeds"),
    ]


def _probe_columns(result: CapabilityResult, place: int) -> list[Column[Any]]:
    """What one probe says of each line."""
    probe, ends = result.probes[place], _ends(result)
    name, end = probe.setting.probe, ends[place]
    key, words = f"{name}{end.replace('-', '_')}", f"{name}{end.replace('-', ' ')}"

    def of(line: CapabilityLine) -> ProbeLine | None:
        return line.lines[place]

    columns: list[Column[Any]] = [
        Column(f"{key}_solved", lambda line: None if of(line) is None else of(line).solved),  # type: ignore[union-attr]
        Column(f"{key}_seeds", lambda line: " ".join(str(run.seed) for run in of(line).runs) if of(line) else None),  # type: ignore[union-attr]
    ]
    match name:
        case "recall" | "needle" | "flood":
            if name == "recall":
                columns.append(Column(f"{key}_untrained", lambda line: None if (own := of(line)) is None else own.untrained))
            for budget in [budget for budget in probe.budgets if any(budget in line.capacity for line in probe.lines)]:
                several = len(probe.budgets) > 1
                heading = f"{words}: {UNITS[name]} (90 %){f', {budget:,} steps' if several else ''}"
                columns += crossing_columns(f"{key}_capacity_{budget}", heading, name, of, _at(budget))
        case "majority":
            at = len([cell for cell in probe.cells if cell.grid == probe.setting.image_size]) - 1
            columns.append(_share(f"{key}_accuracy", f"{words}, {cell_words(probe, at)} (%)", of, _last(at)))
            columns.append(_share(f"{key}_mean", "", of, lambda line: line.mean))
        case "shift":
            columns.append(_share(f"{key}_accuracy", f"{words} (%)", of, lambda line: line.mean))
            columns += crossing_columns(f"{key}_steps", f"{words}: steps to 90 %", name, of, lambda line: line.learnt)
        case "hop":
            columns += [
                Column(f"{key}_by_seed", lambda line: _by_seed(of(line).hops.values()) if of(line) else None),  # type: ignore[union-attr]
                Column("", lambda line: _shown(of(line), _hops_in_words), f"{words}: steps (90 %)", words=True),
            ]

    def mark(line: CapabilityLine) -> str:
        own, failed = of(line), gate_in_words(line)
        return f" ({failed})" if failed and own is not None and not own.leaks and name != "recall" else ""

    return [replace(column, mark=mark) for column in columns]


def crossing_columns(
    key: str,
    heading: str,
    probe: str,
    of: Callable[[Any], ProbeLine | None],
    crossings: Callable[[ProbeLine], Crossings | None],
    *,
    optional: bool = False,
) -> list[Column[Any]]:
    """A capacity, or steps to 90 %, in the CSV and in words.

    Args:
        key: its name in the CSV.
        heading: what people read above it.
        probe: of which it is.
        of: from a line of the table to its line of the probe.
        crossings: the capacity of that.
        optional: whether it is left out where no line has one.
    """

    def found(line: Any) -> Crossings | None:
        own = of(line)
        return None if own is None or own.leaks else crossings(own)

    def mean(line: Any) -> Interval | None:
        own = found(line)
        return None if own is None else own.mean

    def by_seed(line: Any) -> str | None:
        own = found(line)
        return None if own is None else _by_seed(_raw(one, probe) for one in own.by_seed.values())

    def shown(line: Any) -> str | None:
        return _shown(of(line), lambda own: None if (c := crossings(own)) is None else crossings_in_words(c, probe))

    return [
        Column(key, mean, ends=interval_ends(key), sparse=optional),
        Column(f"{key}_by_seed", by_seed, sparse=optional),
        Column("", shown, heading, words=True, optional=optional),
    ]


def _share(
    key: str, heading: str, of: Callable[[Any], ProbeLine | None], value: Callable[[ProbeLine], Interval | None]
) -> Column[Any]:
    def found(line: Any) -> Interval | None:
        own = of(line)
        return None if own is None or own.leaks else value(own)

    return Column(key, found, heading, share_in_words, interval_ends(key), ranks=bool(heading))


def _shown(line: ProbeLine | None, words: Callable[[ProbeLine], str | None]) -> str | None:
    """A line's cell; of one whose leak check failed, that it is refused."""
    return None if line is None else REFUSED if line.leaks else words(line)


def _at(budget: int) -> Callable[[ProbeLine], Crossings | None]:
    return lambda line: line.capacity.get(budget)


def _last(place: int) -> Callable[[ProbeLine], Interval | None]:
    return lambda line: line.accuracies[line.end][place]


def _ends(result: CapabilityResult) -> list[str]:
    """What tells several settings of one probe apart; empty where there is one."""
    ends: dict[int, str] = {}
    for found in group(range(len(result.probes)), lambda place: result.probes[place].setting.probe).values():
        ends |= dict(zip(found, suffixes([[result.probes[place].setting] for place in found]), strict=True))
    return [ends[place] for place in range(len(result.probes))]


def _counts(line: CapabilityLine) -> list[int]:
    return sorted({len(found.runs) for found in line.lines if found is not None})


def _least_seeds(line: CapabilityLine) -> int:
    return _counts(line)[0]


def _seeds_in_words(line: CapabilityLine) -> str:
    *fewer, most = _counts(line)
    return "".join(f"{count}/" for count in fewer[:1]) + plural(most, "seed")


# --- words


def asks(result: ProbeResult) -> str:
    """What a probe asks, in the words of `ASKS`; of needle with the share of distractors that its last level has."""
    words, setting = ASKS[result.setting.probe], result.setting
    hardest = [cell.level for cell in result.cells if cell.grid == setting.image_size][-1]
    if setting.probe != "needle" or hardest == 1:
        return words
    return words.replace(_ALL_OTHERS, f"{percent_words(hardest)} of the others distractors")


def gate_in_words(line: CapabilityLine) -> str:
    """What a line that failed the gate, one pair of recall, says beside its other probes; "" for one that did not fail."""
    failed, seeds = line.untrained
    if not failed:
        return ""
    return NOT_TRAINED if failed == seeds else f"recall: {failed} of {plural(seeds, 'seed')} {NOT_TRAINED}"


def under_in_words(smallest: float, probe: str) -> str:
    """That an accuracy is under 90 % at the smallest number: "under 90 % among 96 tokens"."""
    where = {"recall": "at", "needle": "among", "flood": "at"}[probe]
    return f"under 90 % {where} {plural(round(smallest), {'recall': 'pair', 'needle': 'token', 'flood': 'step'}[probe])}"


def share_in_words(found: Interval) -> str:
    """An accuracy in per cent: "97.22 ± 0.51"."""
    return with_half_width(found, percent)


def crossing_in_words(crossing: Crossing, probe: str) -> str:
    """One run's capacity or steps: "9.13", "at least 64", "not trained", "more than 3,000", "at most 200"."""
    if not crossing.censored:
        return number(crossing.value)
    if crossing.censored == "above":
        return f"{'more than' if probe == 'shift' else 'at least'} {crossing.value:,.0f}"
    if probe == "shift":
        return f"at most {crossing.value:,.0f}"
    return NOT_TRAINED if probe == "recall" and crossing.value == 1 else f"below {crossing.value:,.0f}"


def crossings_in_words(found: Crossings, probe: str) -> str:
    """A line's: the mean with its interval, the bound that all seeds have, or how many have which bound, and the range."""
    if found.mean is not None:
        return with_interval(found.mean.estimate, found.mean.low, found.mean.high, number)
    if found.bound is not None:
        return crossing_in_words(found.bound, probe)
    ordered = sorted(found.by_seed.values(), key=lambda crossing: (crossing.low, crossing.high))
    bounds = dict.fromkeys(crossing for crossing in ordered if crossing.censored)
    seeds = len(ordered)
    parts = [f"{ordered.count(bound)} of {seeds} seeds {crossing_in_words(bound, probe)}" for bound in bounds]
    return f"{', '.join(parts)}: from {range_in_words(found, probe)}"


def range_in_words(found: Crossings, probe: str) -> str:
    """From the smallest seed's to the largest: "below 96 to 110", "at most 200 to 400"."""
    ordered = sorted(found.by_seed.values(), key=lambda crossing: (crossing.low, crossing.high))
    low, high = (_end_in_words(crossing, probe) for crossing in (ordered[0], ordered[-1]))
    return f"{low} to {high}"


def _end_in_words(crossing: Crossing, probe: str) -> str:
    """An end of a range over seeds, which a bound leaves open."""
    is_below = crossing.censored == "below" and probe != "shift"
    return f"below {crossing.value:,.0f}" if is_below else crossing_in_words(crossing, probe)


def cell_words(result: ProbeResult, place: int) -> str:
    """What a cell is: "n = 4", "lead 0.1", "96 tokens, distractors 25 %", "1,536 tokens", "k = 2", "L = 32, 8 steps".

    On another grid than that of training, and where several have as many tokens, the grid is said: "n = 4 (12×18)".
    """
    cell = result.cells[place]
    on_grid = "" if cell.grid == result.setting.image_size else f" ({_grid(cell.grid)})"
    match result.setting.probe:
        case "recall":
            return f"n = {cell.level:g}{on_grid}"
        case "majority":
            return f"lead {cell.level:g}{on_grid}"
        case "hop":
            return f"k = {cell.level:g}{on_grid}"
        case "flood":
            return f"L = {cell.level:g}{on_grid}" + ("" if cell.distance is None else f", {plural(cell.distance, 'step')}")
        case "needle" if cell.grid == result.setting.image_size:
            return f"{cell.tokens:,} tokens, distractors {percent_words(cell.level)}"
        case _:
            alike = {other.grid for other in result.cells if other.tokens == cell.tokens}
            return f"{cell.tokens:,} tokens" + (f" ({_grid(cell.grid)})" if len(alike) > 1 else "")


def percent_words(share: float) -> str:
    """A share in whole per cent where it is one: "25 %", "6.25 %"."""
    return f"{100 * share:g} %"


def _hops_in_words(line: ProbeLine) -> str:
    found = sorted(line.hops.values(), reverse=True)
    seeds = len(found)
    if len(set(found)) == 1:
        return f"{found[0] or 'none'} ({plural(seeds, 'seed')})"
    return ", ".join(f"{reached or 'none'} ({found.count(reached)} of {seeds} seeds)" for reached in dict.fromkeys(found))


def _raw(crossing: Crossing, probe: str) -> str:
    signs = {"": "", "above": ">", "below": "<="} if probe == "shift" else {"": "", "above": ">=", "below": "<"}
    return signs[crossing.censored] + f"{crossing.value:.6g}"


def _shared_words(setting: CapabilitySetting | ProbeSetting) -> str:
    """What all lines share, in words."""
    parts = [setting.model, plural(setting.depth, "layer"), setting.device, setting.dtype]
    parts += [f"weights {setting.weights}"] if setting.weights != "raw" else []
    parts += [f"from {setting.pretraining}"] if setting.pretraining != "none" else []
    return ", ".join(parts)


def _by_seed(values: Iterable[object]) -> str:
    return " ".join(map(str, values))


def _grid(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"


# --- one probe


@dataclass(frozen=True)
class _AtBudget:
    """A line of the CSV: a mixer after some steps."""

    line: ProbeLine
    budget: int


def _probe_table(name: str, result: ProbeResult) -> Table:
    setting = result.setting
    title = f"Probe {setting.probe}: {_shared_words(setting)}, {_grid(setting.image_size)} tokens, recipe {setting.recipe}"
    lines = result.lines
    runs = [(line.label, run) for line in lines for run in line.runs]
    last = f"the last of {max(line.end for line in lines):,} steps"
    notes = [
        asks(result),
        f"Accuracy is the share of right answers, in per cent, after {last} (a run that had solved every level in several "
        f"evaluations in a row ended earlier), on {setting.canvases:,} held-out canvases of each level, the same for all "
        f"mixers and seeds.{' The CSV has it after the other numbers of steps too.' if len(result.budgets) > 1 else ''}",
        *_floor_notes(result),
        "Solved: in so many seeds every level of the training has an accuracy of 99 %. Where some seeds solve a probe and "
        "others do not, the mean says little.",
        *(_capacity_notes(lines) if setting.probe in UNITS else []),
        *_trained_notes([result]),
        *_interval_notes(lines, accuracies=True),
        *_leak_notes(lines),
        *strength_notes(run for _, run in runs),
        *repeats_notes(result.repeats),
        *rule_notes(run.chosen for _, run in runs),
        *_changed_notes(lines),
        *environment_notes(run.environment for _, run in runs),
    ]
    known = [floor for floor in FLOORS if any(floor.value(cell) is not None for cell in result.cells)]
    shown: list[ProbeLine | _Floor] = [*lines, *known]
    raw = [_AtBudget(line, budget) for line in lines for budget in line.budgets]
    made = make_table("probe", name, title, _shown_columns(result), shown, notes, raw=(_raw_columns(result), raw))
    return replace(made, result=result)


def _shown_columns(result: ProbeResult) -> list[Column[Any]]:
    """What people read; the floors are the last lines."""

    def accuracy(place: int) -> Callable[[ProbeLine | _Floor], Interval | None]:
        def value(line: ProbeLine | _Floor) -> Interval | None:
            if isinstance(line, _Floor):
                floor = line.value(result.cells[place])
                return None if floor is None else Interval(floor, why_none=COMPUTED)
            return None if line.leaks else line.accuracies[line.end][place]

        return value

    def of_line(value: Callable[[ProbeLine], Any]) -> Callable[[ProbeLine | _Floor], Any]:
        return lambda line: None if isinstance(line, _Floor) else value(line)

    return [
        Column("", lambda line: line.label, "mixer", words=True),
        *(
            Column("", accuracy(place), f"{cell_words(result, place)} (%)", share_in_words, ranks=True)
            for place in range(len(result.cells))
        ),
        Column("", of_line(lambda line: REFUSED if line.leaks else f"{line.solved} of {len(line.runs)}"), "solved"),
        *strength_columns(result.lines, lambda line: line.runs if isinstance(line, ProbeLine) else ()),
        Column("", of_line(lambda line: line.train_seconds), "train (s)", lambda found: with_half_width(found, number)),
        Column("", of_line(lambda line: plural(len(line.runs), "seed")), "seeds"),
    ]


def _raw_columns(result: ProbeResult) -> list[Column[_AtBudget]]:
    """The CSV: a line for each mixer and number of steps."""

    def of_cell(place: int, cell: ProbeCell) -> list[Column[_AtBudget]]:
        key = _key(result, cell)
        return [
            Column(
                f"accuracy_{key}",
                lambda at: None if at.line.leaks else at.line.accuracies[at.budget][place],
                ends=interval_ends(f"accuracy_{key}"),
            ),
            *constant_columns(
                {f"chance_{key}": cell.chance, f"local_floor_{key}": cell.local_floor, f"set_floor_{key}": cell.set_floor}
                | ({} if cell.straight_floor is None else {f"straight_floor_{key}": cell.straight_floor})
            ),
        ]

    return [
        *constant_columns(flat(result.setting)),
        Column("mixer", lambda at: at.line.runs[0].mixer),
        Column("label", lambda at: at.line.label),
        Column("local_conv", lambda at: at.line.runs[0].local_conv),
        Column("pos_embed", lambda at: at.line.runs[0].pos_embed),
        Column("mixer_digest", lambda at: at.line.runs[0].mixer_digest),
        Column("budget", lambda at: at.budget),
        *(column for place, cell in enumerate(result.cells) for column in of_cell(place, cell)),
        Column("solved", lambda at: at.line.solved),
        Column("seed_count", lambda at: len(at.line.runs)),
        Column("seeds", lambda at: _by_seed(run.seed for run in at.line.runs)),
        Column("global_layers", lambda at: at.line.runs[0].global_layers),
        Column("parameters", lambda at: at.line.runs[0].parameters),
        Column("macs", lambda at: at.line.runs[0].macs),
        *strength_columns([_AtBudget(line, line.end) for line in result.lines], lambda at: at.line.runs),
        Column("train_seconds", lambda at: at.line.train_seconds, ends=interval_ends("train_seconds")),
    ]


def _key(result: ProbeResult, cell: ProbeCell) -> str:
    """A cell in the names of the CSV's columns."""
    own = cell.grid == result.setting.image_size
    far = "" if cell.distance is None else f"_at_{cell.distance}"
    return f"{cell.level:g}{far}" if own else f"{cell.level:g}_{cell.grid[0]}x{cell.grid[1]}"


# --- notes


def _floor_notes(result: ProbeResult) -> list[str]:
    knows = any(cell.set_floor is not None for cell in result.cells)
    which = "set of answers: of knowing which answers the canvas holds, but not which belongs to the question"
    is_flood = result.setting.probe == "flood"
    near = "which see a mark where it is near, and else nothing of it" if is_flood else "which see no context"
    straight = "; straight distance: of answering the mark that is nearer as the crow flies" if is_flood else ""
    return [
        "Floors are accuracies that need no such ability. Guessing: of any answer; near tokens: of what stands within reach of "
        f"the layers' 3×3 convolutions, {near}, so that local mixers are at this floor by construction"
        f"{f'; {which}' if knows else ''}{straight}. No interval of them: {COMPUTED}."
    ]


def _capacity_notes(lines: Sequence[ProbeLine]) -> list[str]:
    """What a capacity is, and what its bounds mean."""
    if not any(line.capacity for line in lines):
        return []
    found = [crossings for line in lines for crossings in line.capacity.values()]
    notes = [
        "A number at 90 % is where a falling isotonic curve through the accuracies crosses 90 %, by seed, linear in log2; "
        "brackets hold the 95% t-interval of its geometric mean over seeds. “At least” and “below” are bounds, the largest and "
        "the smallest number that was tried, and no number is computed from them.",
        "It is what the training reached within these steps: a limit of training, not of the mixer's formula.",
    ]
    guessed = {
        line.label: budgets
        for line in lines
        if (budgets := [budget for budget in line.capacity if line.is_no_more_than_the_set(budget)])
    }
    if guessed:
        floor = next(line.set_capacity for line in lines if line.set_capacity is not None)
        named = "; ".join(f"{label}, {', '.join(f'{n:,}' for n in budgets)} steps" for label, budgets in guessed.items())
        notes.append(
            f"Answering any value on the canvas, without looking up, is right in 90 % up to {number(floor)} pairs. More "
            f"than that is not shown (by the interval; without one, by no seed) of: {named}."
        )
    if any(crossings.bound is None and crossings.mean is None for crossings in found):
        notes.append("Where some seeds have only a bound, the cell says how many, and the range over seeds.")
    return notes


def _trained_notes(results: Sequence[ProbeResult]) -> list[str]:
    """Which lines did not learn recall, with how many of their seeds."""
    lines = [line for result in results if result.setting.probe == "recall" for line in result.lines if line.untrained]
    if not lines:
        return []
    named = [
        line.label + (f", {line.untrained} of {plural(len(line.runs), 'seed')}" if line.is_trained else "") for line in lines
    ]
    others = ", and its cells in other probes say so" if len(results) > 1 else ""
    return [
        f"Not trained ({'; '.join(dict.fromkeys(named))}): under 90 % at a single pair of recall, so the mixer has not learnt "
        f"it within these steps, and its capacity is unknown{others}. Nothing that it fails elsewhere shows more than that."
    ]


def _partly_solved_notes(results: Sequence[ProbeResult]) -> list[str]:
    """Where seeds differ by all or nothing."""
    found = [
        f"{line.label}: {result.setting.probe}, {line.solved} of {len(line.runs)} solved"
        for result in results
        for line in result.lines
        if 0 < line.solved < len(line.runs) and not line.leaks
    ]
    if not found:
        return []
    return [
        f"Some seeds solved a probe (99 % at every level of its training) and others did not, so a mean misleads: "
        f"{'; '.join(found)}."
    ]


def _interval_notes(lines: Sequence[ProbeLine], *, accuracies: bool) -> list[str]:
    notes = []
    counts = {len(line.runs) for line in lines}
    if accuracies and counts != {1}:
        notes.append(
            "± is the half-width of the 95% interval over seeds (Student's t) and over canvases, which all seeds share: the "
            "two add up in squares. The unit of sampling is the canvas, whose answers are not independent."
        )
    if 1 in counts:
        notes.append(
            "No interval over seeds, since there is a single seed: it ranks nothing."
            + (" The ± of its accuracy is over canvases alone, and says nothing of other seeds." if accuracies else "")
        )
    why = {line.train_seconds.why_none for line in lines} | {
        found.mean.why_none for line in lines for found in [*line.capacity.values(), line.learnt] if found and found.mean
    }
    notes += [f"No interval where {reason}." for reason in sorted(why - {"", "a single seed"})]
    return notes


def _leak_notes(lines: Sequence[ProbeLine]) -> list[str]:
    """Lines that are refused, and that the check was made."""
    leaky = {line.label: next(run.leak_check for run in line.runs if not run.leak_check.held) for line in lines if line.leaks}
    notes = [
        f"{label}: {REFUSED}, since the leak check failed: a network of convolutions alone has gradient {found.gradient:g} "
        f"from what the answers depend on (0 is expected), and a readout of what is near is right in "
        f"{percent_words(round(found.readout, 4))} (at most {percent_words(round(found.bound, 4))})."
        for label, found in leaky.items()
    ]
    if len(leaky) < len({line.label for line in lines}):
        notes.append("Leak check: passed by every line that is shown; no readout of what is near a question beats its floor.")
    return notes


def _changed_notes(lines: Sequence[ProbeLine]) -> list[str]:
    runs = [(line.label, run) for line in lines for run in line.runs if run.code_changed]
    return [f"{label}, seed {run.seed}: resumed with other code: {run.code_changed}." for label, run in runs]
