"""What the cells of a profile say together: scaling with tokens, speed-ups over the baseline, and crossovers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from wfbench.analysis.cells import Profile, Size, line_key, placed
from wfbench.records import AnyRow, CrossoverRow, FitRow
from wfbench.report.cells_in_words import in_backend, raw_line, raw_settings
from wfbench.report.parts import (
    BASELINE,
    CHOSEN_BACKEND,
    DASH,
    Line,
    Table,
    group,
    height_width,
    label,
    latest,
    make_table,
    number,
    pixels,
    suffixes,
    title_of,
    with_interval,
)

_SEVERAL = "The session holds several settings, and a row does not say which of them it means."
_DEPTH = 2  # so many parts has the name of a module that a breakdown shows


def scaling_tables(rows: Iterable[AnyRow], profiles: Sequence[Profile]) -> list[Table]:
    """The curves through each mixer's cells: exponents, and what the time at each side is made of."""
    found = placed((row for row in rows if isinstance(row, FitRow)), profiles)
    ends = suffixes([[profile.setting for profile in places] for places, _ in found])
    return [_scaling_table(f"scaling{end}", places, fits) for (places, fits), end in zip(found, ends, strict=True)]


def _scaling_table(name: str, places: Sequence[Profile], fits: Sequence[FitRow]) -> Table:
    fits = latest(fits, line_key) if len(places) == 1 else sorted(fits, key=line_key)
    notes = [
        "The curve t = a + b N + c N² goes through the times of one image at N tokens: a is overhead, b N linear work, c N² "
        "quadratic work, each with its share of the curve's time. The exponent is the curve's own, d log t / d log N, with its "
        "95% interval; beside it stands that of the counted MACs' own curve. No mixer's exponent is that of its attention "
        "alone, since the rest of the model is in the time.",
        "Typical distance of a cell from the curve: "
        + ", ".join(f"{label(fit)} {number(fit.spread, 100, digits=2)} %" for fit in fits)
        + ".",
        *(f"{label(fit)}: {doubt}." for fit in fits for doubt in fit.doubts),
        *([_SEVERAL] if len(places) > 1 else []),
        f"Session {fits[0].session}.",
    ]
    lines = [line for fit in fits for line in _scaling_lines(places, fit)]
    return make_table(name, f"Scaling: {title_of([profile.setting for profile in places])}", lines, notes)


def _scaling_lines(places: Sequence[Profile], fit: FitRow) -> list[Line]:
    """A line for each side of one mixer."""
    lines: list[Line] = []
    sides = zip(fit.sides, fit.tokens, fit.exponents, fit.exponents_low, fit.exponents_high, fit.macs_exponents, strict=True)
    for side, tokens, exponent, low, high, macs_exponent in sides:
        parts = (fit.a, fit.b * tokens, fit.c * tokens**2)
        shares = [part / sum(parts) if sum(parts) > 0 else None for part in parts]
        cells = {
            "mixer": label(fit),
            "px": pixels(side),
            "tokens": f"{tokens:,}",
            "latency exponent": with_interval(exponent, low, high, _exponent),
            "MACs exponent": DASH if macs_exponent is None else _exponent(macs_exponent),
            **{
                f"{part} (%)": DASH if share is None else f"{100 * share:.1f}"
                for part, share in zip(("overhead a", "linear bN", "quadratic cN²"), shares, strict=True)
            },
        }
        raw = {
            "session": fit.session,
            "created": fit.created,
            **raw_settings(places),
            **raw_line(fit),
            **height_width(side),
            "tokens": tokens,
            "latency_exponent": exponent,
            "latency_exponent_low": low,
            "latency_exponent_high": high,
            "macs_exponent": macs_exponent,
            **dict(zip(("share_overhead", "share_linear", "share_quadratic"), shares, strict=True)),
            "a": fit.a,
            "b": fit.b,
            "c": fit.c,
            "spread": fit.spread,
            "freedom": fit.freedom,
            "doubts": "; ".join(fit.doubts),
        }
        lines.append((cells, raw))
    return lines


def _exponent(value: float) -> str:
    return f"{value:.2f}"


def speedup_tables(profiles: Iterable[Profile]) -> list[Table]:
    """Speed-ups by side, where the baseline and another line were timed at several: one side is the profile's own column."""
    found = [
        profile
        for profile in profiles
        if len(_baseline_backends(profile)) > 1 and len({line_key(row) for row in profile.cells}) > 1
    ]
    ends = suffixes([[profile.setting] for profile in found])
    return [_speedup_table(f"speedup{end}", profile) for profile, end in zip(found, ends, strict=True)]


def _baseline_backends(profile: Profile) -> dict[Size, str]:
    """The attention backend of the baseline's fastest cell, at each side where it was timed."""
    fastest = {row.resolution: profile.baseline(row.resolution) for row in profile.cells}
    return {side: row.sdpa_backend for side, row in sorted(fastest.items()) if row is not None}


def _speedup_table(name: str, profile: Profile) -> Table:
    sides = sorted({row.resolution for row in profile.cells})
    backends = _baseline_backends(profile)
    lines: list[Line] = []
    for members in group(profile.cells, line_key).values():
        at = {row.resolution: row for row in members}
        shown = {"mixer": label(members[0])}
        speedups: dict[str, object] = {}
        for side in sides:
            row = at.get(side)
            speedup = None if row is None else profile.speedup(row)
            failed = DASH if row is None or row.status == "ok" else row.status
            shown[f"{pixels(side)} px"] = failed if speedup is None else f"{number(speedup)}×"
            speedups |= {f"speedup_{pixels(side)}": speedup, f"baseline_backend_{pixels(side)}": backends.get(side)}
        settings = raw_settings([profile])
        lines.append((shown, {"session": profile.session, **settings, **raw_line(members[0]), **speedups}))
    same = f" with the same {profile.setting.factors}" if profile.setting.factors else ""
    times = "times" if profile.setting.token_budget is None else "times per image"
    missing = [pixels(side) for side in sides if side not in backends]
    notes = [
        f"Ratios of the {times}, within this session: how many times faster than {BASELINE}{same}{in_backend(profile)}.",
        f"{BASELINE}'s backend: {_by_side(backends)}.",
        *([f"{BASELINE} has no time at {', '.join(missing)} px."] if missing else []),
        f"Session {profile.session}.",
    ]
    return make_table(name, f"Speed-up over {BASELINE}: {title_of([profile.setting])}", lines, notes)


def _by_side(backends: Mapping[Size, str]) -> str:
    """Backends with their sides: "flash at 224, 448 px; math at 672 px"."""
    sides: dict[str, list[str]] = {}
    for side, backend in sorted(backends.items()):
        sides.setdefault(backend, []).append(pixels(side))
    return "; ".join(f"{backend} at {', '.join(where)} px" for backend, where in sides.items())


def crossover_tables(rows: Iterable[AnyRow], profiles: Sequence[Profile]) -> list[Table]:
    """Where each mixer becomes faster than the baseline."""
    found = placed((row for row in rows if isinstance(row, CrossoverRow)), profiles)
    ends = suffixes([[profile.setting for profile in places] for places, _ in found])
    return [_crossover_table(f"crossover{end}", places, crossed) for (places, crossed), end in zip(found, ends, strict=True)]


def _crossover_table(name: str, places: Sequence[Profile], rows: Sequence[CrossoverRow]) -> Table:
    notes = [
        "The side of a square image from which a mixer is faster than the baseline: where the curves through their cells "
        "cross, or, for fewer than four sides, interpolated between measured ones."
    ]
    if len(places) == 1:
        rows = latest(rows, lambda row: (line_key(row), row.baseline))
        notes += _backend_notes(places[0], rows)
    else:
        rows = sorted(rows, key=line_key)
        notes.append("The session holds several settings, and a crossover does not say which of them it means.")
    if any(row.interval for row in rows):
        notes.append("Brackets and 95% give the interval of that side, from the distance of the cells to their curves.")
    notes.append(f"Session {rows[0].session}.")
    title = f"Crossover: {title_of([profile.setting for profile in places])}"
    return make_table(name, title, [_crossover_line(places, row) for row in rows], notes)


def _backend_notes(profile: Profile, rows: Iterable[CrossoverRow]) -> list[str]:
    """The baseline's attention backends by side; the mixers are named where they were not compared with the same ones."""
    mixers: dict[str, list[str]] = {}
    for row in rows:
        if row.baseline_backends:
            mixers.setdefault(_backends_of(profile, row), []).append(label(row))
    return [
        f"The baseline's backend{' (' + ', '.join(names) + ')' if len(mixers) > 1 else ''}: {text}."
        for text, names in mixers.items()
    ]


def _backends_of(profile: Profile, row: CrossoverRow) -> str:
    """A crossover names the backends of the sides at which both were timed, and not the sides themselves."""
    timed = sorted(cell.resolution for cell in profile.cells if line_key(cell) == line_key(row) and profile.speedup(cell))
    if len(timed) != len(row.baseline_backends):
        return f"{', '.join(row.baseline_backends)}, in the order of the sides"
    return _by_side(dict(zip(timed, row.baseline_backends, strict=True)))


def _crossover_line(places: Sequence[Profile], row: CrossoverRow) -> Line:
    baseline = label(row.model_copy(update={"mixer": row.baseline, "variant": "", "sdpa_backend": CHOSEN_BACKEND}))
    kept = row.model_dump(include={"baseline", "verdict", "side", "interval", "side_low", "side_high"})
    sides = {"smallest_side": row.smallest_side, "largest_side": row.largest_side}
    backends = {"baseline_label": baseline, "baseline_backends": "; ".join(row.baseline_backends)}
    cells = {"mixer": label(row), "baseline": baseline, "crossover": _verdict(row)}
    start = {"session": row.session, "created": row.created, **raw_settings(places)}
    return cells, {**start, **raw_line(row), **backends, **kept, **sides}


def _verdict(row: CrossoverRow) -> str:
    """A crossover in words."""
    if row.verdict == "always":
        judged = "by the curves, faster at every side" if row.interval else "faster at every measured side"
        found, unsure = f"{judged} ({row.smallest_side}–{row.largest_side} px)", _unsure_always(row)
    elif row.verdict == "none" or row.side is None:
        found, unsure = f"none up to {row.largest_side} px", _unsure_none(row)
    else:
        low = f"below {row.smallest_side}" if row.side_low is None else f"{row.side_low:.0f}"
        high = f"beyond {row.largest_side}" if row.side_high is None else f"{row.side_high:.0f}"
        return f"from {row.side:.0f} px" + (f" [{low}, {high}]" if row.interval else "")
    return f"{found}; 95%: {unsure}" if row.interval else found


def _unsure_always(row: CrossoverRow) -> str:
    """The interval of a crossover that lies below the measured sides: only its upper end says something."""
    return f"maybe only beyond {row.largest_side} px" if row.side_high is None else f"from at most {row.side_high:.0f} px"


def _unsure_none(row: CrossoverRow) -> str:
    """The interval of a crossover that lies beyond the measured sides: only its lower end says something."""
    if row.side_high is not None:  # from there on the mixer is surely slower, as far as was measured
        return f"beyond {row.largest_side} px"
    return f"maybe from below {row.smallest_side} px" if row.side_low is None else f"from at least {row.side_low:.0f} px"
