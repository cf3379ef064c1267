"""The table of claims: what each says, what the records say to it, and whether it was registered before the runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wfbench.analysis.claims import (
    Answer,
    AnsweredClaim,
    AnyClaim,
    Best,
    Better,
    Capability,
    ClaimsResult,
    Crossover,
    Exponent,
    FirstLook,
    Price,
    Registration,
    Within,
)
from wfbench.analysis.claims.runs import ResultRow
from wfbench.analysis.claims.scaling import exponent_place
from wfbench.analysis.lines import SMALL_SIDE, group, label
from wfbench.records import CrossoverRow, FitRow, ProbeRow
from wfbench.report.capability import NOT_TRAINED, crossings_in_words
from wfbench.report.columns import Column, Table, make_table
from wfbench.report.words import DASH, number, pixels, plural, probability, spread_note

_NEW_PLAN, _FIRST_LOOK = "new plan", "first look"
#: A share that is shown as 100.00 %.
_CEILING = 0.99995

_ORDER = (
    *("claim", "says", "holds if", "verdict", "estimate", "power"),
    *("seeds needed", "costs", "why", "pre-registered"),
)


def claims_tables(results: Sequence[ClaimsResult]) -> list[Table]:
    """A table for each file of claims; where there are several, their names hold the start of the file's SHA-256."""
    several = len(results) > 1
    return [_table(f"claims-{result.claims.sha256[:8]}" if several else "claims", result) for result in results]


def _table(name: str, result: ClaimsResult) -> Table:
    title = claims_title(result)
    notes = [*_notes(result), *spread_note(result.p_spread)]
    return make_table("claims", name, title, _columns(result), result.answered, notes, order=_ORDER)


def claims_title(result: ClaimsResult) -> str:
    """The title of a file's table."""
    file = result.claims.file
    return f"Claims: recipe {file.recipe}, {plural(len(file.seeds), 'seed')}"


def _columns(result: ClaimsResult) -> list[Column[AnsweredClaim]]:
    """In the order of the CSV."""
    return [
        Column("id", lambda line: line.claim.id, "claim", words=True),
        Column("kind", lambda line: line.claim.kind),
        Column("line", lambda line: line.claim.line),
        Column("says", lambda line: line.claim.says, "says", words=True),
        Column("", condition, "holds if", words=True),
        Column("verdict", lambda line: line.answer.verdict, "verdict", words=True),
        Column("", lambda line: line, "estimate", estimate_in_words),
        Column("estimate", lambda line: line.answer.estimate),
        Column("low", lambda line: line.answer.low),
        Column("high", lambda line: line.answer.high),
        Column("holds_above", lambda line: region(line.claim)[0]),
        Column("holds_below", lambda line: region(line.claim)[1]),
        Column("power", lambda line: line.answer.power, "power", probability),
        Column("why", _why, "why", words=True),
        Column("rows", lambda line: len(line.answer.rows)),
        Column("pre_registered", lambda line: line.registration.is_before_the_runs),
        Column("registration", lambda line: registration_in_words(line.registration), "pre-registered", words=True),
        Column("claims_sha256", lambda line: result.claims.sha256),
        Column("seeds", lambda line: line.answer.seeds or None),
        Column("paired", lambda line: line.answer.is_paired if line.answer.seeds else None),
        Column("", lambda line: line.answer, "seeds needed", _seeds_needed, optional=True),
        Column("", lambda line: line.answer, "costs", _costs, optional=True),
        *_price_columns("estimate", lambda answer: answer.if_estimate),
        *_price_columns("effect", lambda answer: answer.if_effect),
        Column("first_look", lambda line: _first_look(line.answer), sparse=True),
    ]


def _first_look(answer: Answer) -> str | None:
    return None if answer.first_look is None else first_look_in_words(answer.first_look)


def _price_columns(name: str, price: Callable[[Answer], Price | None]) -> list[Column[AnsweredClaim]]:
    """The CSV's columns of one price of an answer."""

    def of(line: AnsweredClaim, field: Callable[[Price], float | None]) -> float | None:
        found = price(line.answer)
        return None if found is None else field(found)

    return [
        Column(f"seeds_needed_{name}", lambda line: of(line, lambda found: found.needed.seeds)),
        Column(f"more_than_{name}", lambda line: of(line, lambda found: found.needed.more_than)),
        Column(f"new_plan_{name}", lambda line: None if (found := price(line.answer)) is None else found.needed.is_new_plan),
        Column(f"runs_more_{name}", lambda line: of(line, lambda found: found.runs)),
        Column(f"cost_seconds_{name}", lambda line: of(line, lambda found: found.seconds)),
    ]


def _seeds_needed(answer: Answer) -> str:
    """How many seeds in all, or of a new plan: if the estimate is true, and if the stated effect is."""

    def show(price: Price) -> str:
        more_than = f"> {price.needed.more_than:,}" if price.needed.more_than is not None else DASH
        count = more_than if price.needed.seeds is None else f"{price.needed.seeds:,}"
        return f"{count} ({_NEW_PLAN})" if price.needed.is_new_plan else count

    if answer.first_look is not None:
        return f"{answer.first_look.seeds:,} ({_FIRST_LOOK})"
    if answer.if_estimate is None or answer.if_effect is None:
        return DASH
    return f"{show(answer.if_estimate)} / {show(answer.if_effect)}"


def _costs(answer: Answer) -> str:
    """What these seeds cost: hours of training more, for the same two cases."""

    def show(price: Price) -> str:
        if price.seconds is None:
            return DASH
        return ("" if price.needed.more_than is None else "> ") + f"{number(price.seconds / 3600, digits=2)} h"

    if answer.first_look is not None:
        return first_look_in_words(answer.first_look)
    if answer.if_estimate is None or answer.if_effect is None:
        return DASH
    return f"{show(answer.if_estimate)} / {show(answer.if_effect)} more"


def first_look_in_words(look: FirstLook) -> str:
    """What a first look takes: "10 runs, about 1.2 h"."""
    about = "about " if look.untimed else ""
    hours = "" if look.seconds is None else f", {about}{number(look.seconds / 3600, digits=2)} h"
    return f"{plural(look.runs, 'run')}{hours}"


def condition(line: AnsweredClaim) -> str:
    """What must be true of the estimate for the claim to hold."""
    words = _condition(line.claim)
    compares = isinstance(line.claim, Better | Within | Best)
    of_levels = compares and any(isinstance(row, ProbeRow) and len(row.trained) > 1 for row in line.runs)
    return f"{words}, of mean accuracies over the trained levels" if of_levels else words


def _condition(claim: AnyClaim) -> str:
    match claim:
        case Better():
            return f"{claim.line} − {claim.than} > {_signed(claim.by)} points"
        case Within():
            return f"|{claim.line} − {claim.of}| < {claim.margin:g} points"
        case Best():
            return f"{claim.line} > each of {', '.join(claim.among)}"
        case Capability():
            return _capability_condition(claim)
        case Exponent():
            low = "" if claim.at_least is None else f"{claim.at_least:g} ≤ "
            high = "" if claim.at_most is None else f" ≤ {claim.at_most:g}"
            return f"{low}exponent of {'MACs' if claim.quantity == 'macs' else 'latency'}{high}"
        case Crossover():
            return f"faster than {claim.than} from {claim.side} px on"


def _capability_condition(claim: Capability) -> str:
    """What must be true of a line in a probe."""
    what = {
        "capacity": "pairs at 90 %",
        "n90": "tokens at 90 %",
        "reach": "steps along a walk at 90 %",
        "hops": "steps of a chain at 90 %",
        "steps": "training steps to 90 %",
        "accuracy": _accuracy_condition(claim),
        "solved": "seeds that solve it",
    }[claim.statistic]
    after = "" if claim.budget is None else f" after {claim.budget:,} steps"
    sign, bar = "≥" if claim.is_lower else "≤", f"{claim.threshold:g}"
    if claim.ratio is not None:
        return f"{claim.probe}{after}: {what} of {claim.line} {sign} {bar} × that of {claim.ratio.to}"
    return (
        f"{claim.probe}{after}: {what} of {claim.line} {sign} {bar}{' %' if claim.statistic in ('accuracy', 'solved') else ''}"
    )


def _accuracy_condition(claim: Capability) -> str:
    if claim.distance is not None:
        return f"accuracy at {plural(claim.distance, 'step')} from the mark"
    if claim.grid is not None:
        return f"accuracy on {claim.grid[0]}×{claim.grid[1]} tokens"
    if claim.level is not None:
        return f"accuracy at level {claim.level:g}"
    return "accuracy" if claim.probe == "shift" else "mean accuracy over the trained levels"  # shift has one level


def region(claim: AnyClaim) -> tuple[float | None, float | None]:
    """The points of accuracy between which a claim of accuracy holds, None where there is no end."""
    match claim:
        case Better():
            return claim.by, None
        case Within():
            return -claim.margin, claim.margin
        case Best():
            return 0.0, None
        case _:
            return None, None


def estimate_in_words(line: AnsweredClaim) -> str:
    """The estimate with its interval; an end that lies outside what was measured is three dots."""
    answer, digits = line.answer, 0 if isinstance(line.claim, Crossover) else 2

    def show(value: float | None) -> str:
        return "…" if value is None else f"{value:.{digits}f}".replace("-", "−")

    estimate = DASH if answer.estimate is None else show(answer.estimate)
    if answer.low is None and answer.high is None:
        return estimate
    return f"{estimate} [{show(answer.low)}, {show(answer.high)}]"


def _why(line: AnsweredClaim) -> str:
    """What decided the claim, or why nothing could, and whether tables show other runs."""
    parts = [_why_of(line.claim, line.answer), at_ceiling_in_words(line) or _no_price(line.answer), first_runs_in_words(line)]
    return "; ".join(part for part in parts if part)


def _no_price(answer: Answer) -> str:
    """Why no number of seeds decides a claim if the estimate is true, where nothing else has said it."""
    why = "" if answer.if_estimate is None or answer.why_none else answer.if_estimate.needed.why_none
    return f"no number of seeds decides it if the estimate is true: {why}" if why else ""


def at_ceiling_in_words(line: AnsweredClaim) -> str:
    """That what is compared is all at 100 %, where no number of seeds tells it apart; empty where it is not."""
    compares = isinstance(line.claim, Better | Within | Best)
    if not compares or line.answer.verdict != "undecidable" or not line.answer.seeds:
        return ""
    if not line.runs or any(row.result < _CEILING for row in line.runs):
        return ""
    what = "probe" if all(isinstance(row, ProbeRow) for row in line.runs) else "task"
    return f"all lines are at 100 %: the {what} is too easy to tell them apart"


def first_runs_in_words(line: AnsweredClaim) -> str:
    """That the claim is decided by other runs than those that tables show; empty where it is not."""
    parts = []
    for name, later in group(line.shown_instead, label).items():
        first = [row for row in line.runs if label(row) == name]
        parts.append(f"decided by the first runs of {name}{_at_rates(first)}; the table shows later ones{_at_rates(later)}")
    return "; ".join(parts)


def _at_rates(rows: Sequence[ResultRow]) -> str:
    rates = sorted({row.chosen.lr for row in rows if row.chosen is not None})
    return f", at rate {' and '.join(f'{rate:g}' for rate in rates)}" if rates else ""


def _why_of(claim: AnyClaim, answer: Answer) -> str:
    match claim:
        case Exponent():
            return _why_exponent(claim, answer)
        case Crossover():
            return _why_crossover(claim, answer)
        case _ if answer.why_none:
            return answer.why_none
        case Capability():
            return _why_capability(claim, answer)
        case Better():
            return f"power at a true difference of {_points(claim.effect)}"
        case Within():
            return "power at no difference"
        case Best():
            effect = _points(claim.effect)
            return f"the lead over {answer.rival}, the nearest; power at a true lead of {effect} over each"


def _why_capability(claim: Capability, answer: Answer) -> str:
    """The bounds that seeds have instead of numbers, and of which truth the power is."""
    parts = bounds_in_words(claim, answer)
    if answer.power is not None:
        up = claim.beyond if claim.is_lower else 1 / claim.beyond if claim.is_factor else -claim.beyond
        truth = claim.threshold * up if claim.is_factor else claim.threshold + up
        parts.append(f"power at a true {'value' if claim.ratio is None else 'ratio'} of {truth:g}")
    elif answer.estimate is not None and answer.low is None:
        parts.append("the same with every seed")
    return "; ".join(parts)


def bounds_in_words(claim: Capability, answer: Answer) -> list[str]:
    """Of each line of a claim whose seeds have bounds instead of numbers: "xca: below 96, the smallest number asked"."""
    found = []
    for line, crossings in answer.crossings.items():
        if crossings.mean is not None:
            continue
        words, bound = crossings_in_words(crossings, claim.probe), crossings.bound
        if words == NOT_TRAINED:
            words += " (under 90 % at one pair)"
        elif bound is not None and claim.statistic != "steps":
            words += f", the {'largest' if bound.censored == 'above' else 'smallest'} number asked"
        found.append(f"{line}: {words}")
    return found


def _why_exponent(claim: Exponent, answer: Answer) -> str:
    fit = answer.profile
    if not isinstance(fit, FitRow):
        return "; ".join([answer.why_none, *_remedies(answer)])
    place = exponent_place(claim, fit)
    if place is None:
        return "; ".join([f"{answer.why_none}, only {', '.join(map(pixels, fit.sides))}", *_remedies(answer)])
    return answer.why_none or "; ".join([f"at {pixels(fit.sides[place])} px", *fit.doubts, *_remedies(answer)])


def _why_crossover(claim: Crossover, answer: Answer) -> str:
    row = answer.profile
    if not isinstance(row, CrossoverRow):
        return "; ".join([answer.why_none, *_remedies(answer)])
    measured = f"measured from {row.smallest_side} to {row.largest_side} px"
    if row.interval and not row.smallest_side <= claim.side <= row.largest_side:
        return "; ".join([f"only {measured}", *_remedies(answer)])
    found = {"always": "faster at every side", "none": "slower at the last side", "at": "in between"}[row.verdict]
    return "; ".join([answer.why_none or found, measured, *_remedies(answer)])


def _remedies(answer: Answer) -> list[str]:
    """What would decide a claim about a profile, if it is undecidable."""
    return [f"to decide it: {remedies_in_words(answer)}"] if answer.remedies else []


def remedies_in_words(answer: Answer) -> str:
    """The remedies of an undecidable claim about a profile."""
    return ", ".join(answer.remedies)


def registration_in_words(found: Registration) -> str:
    """ "yes", or "no" and what speaks against calling an answer pre-registered."""
    if not found.is_recorded:
        others = f"the claims {', '.join(sha256[:12] for sha256 in found.other_files)}" if found.other_files else "no claims"
        return f"no: the records hold {others}, not this file"
    if found.older:
        return f"no: {found.older} of {plural(found.used, 'row')} are older than the claims"
    return f"no: {plural(found.begun, 'run')} had begun when it was recorded" if found.begun else "yes"


def _notes(result: ClaimsResult) -> list[str]:
    file, count = result.claims.file, len(result.claims.file.of_accuracy)
    budget = [plural(file.budget.epochs, "epoch")]
    budget += [f"{file.budget.match} matched"] if file.budget.match else ["models as they are"]
    budget += [f"{file.budget.trials} trials of tuning for each line"] if file.budget.trials else ["no tuning"]
    notes = [
        f"The claims of SHA-256 {result.claims.sha256[:12]} ask for seeds {', '.join(map(str, file.seeds))} of recipe "
        f"{file.recipe}: {', '.join(budget)}. Runs with another budget or other seeds do not count.",
        "“Undecidable” is no finding: with these runs the claim may be true or false.",
    ]
    if small := [side for side in result.image_sides if side <= SMALL_SIDE]:
        notes.append(
            f"Images of {max(small)} px cannot decide which mixer is best on ImageNet, at high resolution or after long "
            "training: they have few tokens, and reward convolutions. They show what these runs, and differences within a "
            "family, are like."
        )
    if count:
        notes += _accuracy_notes(result, count)
    if result.later_runs:
        again = dict.fromkeys(f"{label(row)} seed {row.seed} ({row.created})" for row in result.later_runs)
        notes.append(f"The first run of a line and seed counts. Later ones do not: {', '.join(again)}.")
    if profiles := dict.fromkeys(row.session for line in result.answered for row in line.answer.later):
        notes.append(f"The first complete profile of a line counts. Later ones do not: {', '.join(profiles)}.")
    if len(file.claims) > count:
        notes.append("Claims of scaling are held against their own 95% intervals, each for itself; they have no power printed.")
    return notes


def _accuracy_notes(result: ClaimsResult, count: int) -> list[str]:
    """How claims of accuracy are decided."""
    looks = result.claims.file.looks
    notes = [
        f"Differences are in points of {result.measure}. Each end of an interval is a one-sided bound, at the level "
        f"1 − 5%/{count} for {plural(count, 'claim')} of {result.measure}, so that the chance of any false answer among them "
        "is 5% at the most. Power is the probability that a claim is supported where the true difference is its effect (of "
        "“within”: where it is 0), if the deviation over seeds is the true one; of “best” it is a lower bound."
    ]
    if any(isinstance(line.claim, Capability) for line in result.answered):
        notes.append(
            "What a line can do in a probe is decided over seeds: numbers of pairs and tokens, and ratios (seed by seed), on "
            "their log2, so that estimates are geometric means; accuracies in per cent; the share of seeds that solve a "
            "probe by exact binomial bounds. A seed of which only a bound is known counts as that bound where it makes the "
            "verdict harder, and else not at all; where all seeds have the same bound, it decides by itself, without a "
            "statement of its error. No estimate is made from bounds. Under 90 % at the smallest number asked is no bound: a "
            "seed that was not trained to do that decides nothing."
        )
    if any(isinstance(row, ProbeRow) for line in result.answered for row in line.runs):
        notes.append(
            "The bounds of accuracies in a probe, and of their differences, hold the error over its canvases too, which all "
            "seeds share: more seeds do not make it smaller."
        )
    if any(line.answer.if_estimate for line in result.answered):
        notes.append(
            "Seeds needed: at how many in all of each line, the first of the planned numbers that are still to come, an "
            "undecidable claim would be decided with a power of 80 %, if the estimate were the true difference / if the stated "
            "effect were (of “within”: no difference), and the measured deviation the true one. Costs: the hours of training "
            "more of all its lines, by their measured seconds per run, without evaluation."
        )
    looks_ahead = [line.answer.first_look for line in result.answered if line.answer.first_look is not None]
    if looks_ahead:
        guess = any(look.untimed and look.seconds is not None for look in looks_ahead)
        notes.append(
            f"“{_FIRST_LOOK.capitalize()}”: runs are missing before the claim can be looked at for the first time, at so many "
            "seeds of each line. Costs: these runs"
            + (", and their training if a line without runs takes as long as the others do on average." if guess else ".")
        )
    prices = [price for line in result.answered for price in (line.answer.if_estimate, line.answer.if_effect)]
    if any(price is not None and price.needed.is_new_plan for price in prices):
        notes.append(
            f"“{_NEW_PLAN.capitalize()}”: not within this plan, in which no number of seeds that is still to come has that "
            "power. So many seeds would have it in a new file of claims that are answered once, with all of them. They are new "
            "ones, and the costs are those of all their runs: seeds that have been seen decide no claim that is stated "
            "afterwards."
        )
    if looks:
        notes.append(
            f"Claims are answered at {', '.join(map(str, looks))} seeds, as was planned before the runs, and the first answer "
            "stands. The error of 5% is spent over these looks, little of it at the first (Lan and DeMets, after O'Brien and "
            "Fleming), so the bounds of early looks are wide."
        )
    answered = [line for line in result.answered if line.answer.seeds]
    unpaired = [line.claim.id for line in answered if not line.answer.is_paired]
    if len(unpaired) < len(answered):
        notes.append("Differences are taken seed by seed (paired), each on its own standard deviation over the seeds.")
    if unpaired:
        which = "" if len(unpaired) == len(answered) else f" ({', '.join(unpaired)})"
        notes.append(
            f"Unpaired{which}: the runs are of an older version, in which models of one seed did not begin equal, so their "
            "differences are on the standard deviation pooled over all lines that the file names."
        )
    return notes


def _points(value: float) -> str:
    return f"{value:g} point{'' if value == 1 else 's'}"


def _signed(value: float) -> str:
    return f"{value:g}".replace("-", "−")
