"""Numbers and facts in words, as every table says them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from wfbench.analysis.interval import Interval
from wfbench.records import Environment, ProfileRow
from wfbench.records.training import Chosen, TrainingRow

DASH = "–"
REFUSED = "refused"
_UNLIKE = 0.01  # p under which the spreads are said to differ: over many tables, 5% would say it too often


def pixels(size: tuple[int, int]) -> str:
    """An image size: one number for a square."""
    return str(size[0]) if size[0] == size[1] else f"{size[0]}×{size[1]}"


def gmacs(count: float | None, missing: str = REFUSED) -> str:
    """MACs (or FLOPs) in units of 10⁹."""
    return missing if count is None else number(count, 1e-9, digits=4)


#: The rows that say what one forward pass costs.
_Counted = TrainingRow | ProfileRow


def macs_of(row: _Counted, scale: float = 1e-9, missing: str = REFUSED) -> str:
    """A row's MACs, times a scale: a number, "≥ 1.23" for a lower bound, or what to say where there is neither."""
    if row.macs is None and row.macs_at_least is not None:
        return f"≥ {number(row.macs_at_least, scale, digits=4)}"
    return missing if row.macs is None else number(row.macs, scale, digits=4)


def percent(fraction: float) -> str:
    """A fraction in per cent."""
    return f"{100 * fraction:.2f}"


def number(value: float | None, scale: float = 1.0, digits: int = 3) -> str:
    """A number with three significant digits, and all digits before the decimal point; a dash for none."""
    if value is None:
        return DASH
    value *= scale
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:,.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def with_interval(value: float | None, low: float | None, high: float | None, show: Callable[[float], str]) -> str:
    """A number and, in brackets, its 95% interval where there is one: "12.3 [12.1, 12.6]"; a dash for no number."""
    if value is None:
        return DASH
    return show(value) if low is None or high is None else f"{show(value)} [{show(low)}, {show(high)}]"


def with_half_width(value: Interval, show: Callable[[float], str]) -> str:
    """A number and half the width of its 95% interval, where there is one: "97.22 ± 0.51"."""
    return show(value.estimate) + ("" if value.half_width is None else f" ± {show(value.half_width)}")


def number_with_half_width(value: Interval) -> str:
    """A number with three significant digits and half the width of its 95% interval to the same place: "0.0795 ± 0.0031".

    An interval that is narrower than that place has one significant digit, and the number as many places.
    """
    half = value.half_width
    if half is None or not (math.isfinite(half) and half > 0 and math.isfinite(value.estimate) and value.estimate):
        return number(value.estimate)
    places = max(0, 2 - math.floor(math.log10(abs(value.estimate))), -math.floor(math.log10(half)))
    return f"{value.estimate:,.{places}f} ± {half:,.{places}f}"


def strength_in_words(strength: Interval) -> str:
    """The strength of a predicted part with two significant digits, and half the width of its interval where there is one.

    One that is infinite says why: no static part.
    """
    if math.isinf(strength.estimate):
        return strength.why_none
    return with_half_width(strength, lambda value: f"{value:.2g}")


def probability(value: float) -> str:
    """A probability in per cent, which is never rounded to certainty."""
    return "> 99 %" if value > 0.99 else "< 1 %" if value < 0.01 else f"{100 * value:.0f} %"


def rule_in_words(match: str, match_to: str, trials: int) -> str:
    """What a sweep made equal for all lines; "" for nothing."""
    unit = {"params": "parameters", "macs": "MACs"}
    matched = [f"{unit[match]} matched to {match_to}"] if match else []
    return ", ".join([*matched, *([f"rate tuned in {plural(trials, 'trial')}"] if trials else [])])


def rule_notes(choices: Iterable[Chosen | None]) -> list[str]:
    """What sweeps made equal for all lines of a table, from what they chose for its runs."""
    rules = dict.fromkeys(
        rule_in_words(one.match or "", one.match_to or "", len(one.rates or ())) for one in choices if one is not None
    )
    return [f"Of every line: {rule}." for rule in rules if rule]


def short_digest(digest: str | None) -> str:
    """The first 8 characters of a digest, of each of those that are joined by "+"."""
    return "not recorded" if digest is None else "+".join(part[:8] for part in digest.split("+"))


def plural(count: int, noun: str) -> str:
    """So many of a thing."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def macs_notes(counts: Iterable[tuple[str, _Counted]]) -> list[str]:
    """How sure the MACs are, from (line, row): why there are none, or a bound, one note per reason; which are not declared."""
    refused: dict[str, dict[str, None]] = {}
    bounds: dict[str, dict[str, None]] = {}
    counted: dict[str, None] = {}
    for line, row in counts:
        if row.macs is None:
            reasons = refused if row.macs_at_least is None else bounds
            reasons.setdefault(row.macs_error or "no reason was recorded", {})[line] = None
        elif row.macs_sure == "counted":
            counted[line] = None
    return [
        *(f"GMACs {REFUSED} ({', '.join(lines)}): {reason}" for reason, lines in refused.items()),
        *(
            f"GMACs with ≥ ({', '.join(lines)}) are a lower bound, and no number to compare: {reason}."
            for reason, lines in bounds.items()
        ),
        *([f"GMACs counted, not declared ({', '.join(counted)}): two counts agree, without a closed form."] if counted else []),
    ]


def environment_notes(environments: Iterable[Environment]) -> list[str]:
    """What the environments of one table do not share, since lines that were timed differently do not compare."""
    entries = [_flat_environment(environment) for environment in environments]
    differing = {}
    for field in dict.fromkeys(field for entry in entries for field in entry):
        values = list(dict.fromkeys(entry.get(field, "none") for entry in entries))
        if len(values) > 1:
            differing[field] = values
    if not differing:
        return []
    parts = "; ".join(f"{field}: {', '.join(values)}" for field, values in differing.items())
    return [f"The lines come from different environments, so their times may not compare. {parts}."]


def _flat_environment(environment: Environment) -> dict[str, str]:
    fields = environment.model_dump(exclude={"versions"})
    return {name.replace("_", " "): str(value) for name, value in fields.items()} | environment.versions


def spread_note(p: float | None) -> list[str]:
    """What to say where lines whose deviation is pooled do not spread alike, by Brown and Forsythe's p; else nothing."""
    if p is None or p >= _UNLIKE:
        return []
    return [
        f"The lines' spreads over seeds differ (Brown and Forsythe's p = {p:.2g}), and pooling assumes that they do not: "
        "intervals of lines that spread widely are too short, those of the others too long."
    ]
