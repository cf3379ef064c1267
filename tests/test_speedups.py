"""Speed-ups: paired by round, with an interval, or with the reason why there is none."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from test_report import cell, failed, lines, notes

from wfbench import report
from wfbench.analysis.cost import costs
from wfbench.analysis.ratio import SpeedUp, rounds_needed, speed_up
from wfbench.measure.rounds import rounds_mean
from wfbench.records import AnyRow, HarnessRow, ProfileRow
from wfbench.report import Table, figures
from wfbench.report.page import charts

ROOT = Path(__file__).parent.parent
#: Rounds in which the machine slows down.
SLOWER = (1.0, 2.0, 4.0)


def timed(mixer: str, rounds: Sequence[float], side: int = 224, **changes: object) -> ProfileRow:
    """A cell with these medians of rounds."""
    return cell(mixer, side, float(np.median(rounds)), round_medians=tuple(rounds), samples=tuple(rounds), **changes)


def ratio(*rows: ProfileRow) -> SpeedUp:
    """The speed-up of the first cell."""
    (profile,) = costs(rows).profiles
    found = speed_up(profile.profile, next(row for row in profile.profile.cells if row == rows[0]))
    assert found is not None
    return found


def named(rows: Sequence[AnyRow]) -> dict[str, Table]:
    return {table.name: table for table in report.tables(rows)}


def test_what_a_round_does_to_both_cancels() -> None:
    found = ratio(timed("linear", SLOWER), timed("softmax", [2 * t for t in SLOWER])).ratio
    assert (found.estimate, found.low, found.high) == pytest.approx((2, 2, 2))


def test_the_interval_is_that_of_the_mean_logarithm_of_the_ratios() -> None:
    ours, theirs = (1.0, 1.1, 1.3, 0.9), (2.0, 2.9, 2.3, 2.5)
    logs = [math.log(t / o) for o, t in zip(ours, theirs, strict=True)]
    low, high = stats.t.interval(0.95, 3, np.mean(logs), stats.sem(logs))
    found = ratio(timed("linear", ours), timed("softmax", theirs))
    assert (found.ratio.low, found.ratio.high) == pytest.approx((math.exp(low), math.exp(high)))
    assert found.ratio.estimate == pytest.approx(2.4 / 1.05), "of the latencies shown, which are medians"
    assert found.rounds == 4


def test_the_interval_holds_what_is_reported() -> None:
    ours = (1.0, 1.0, 1.0, *[0.1] * 4)
    found = ratio(timed("linear", ours), timed("softmax", (1.0, *[1.05] * 3, *[0.1] * 3))).ratio
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.estimate <= found.high
    assert found.estimate in (found.low, found.high), "the ratio of medians lies outside the interval of the mean here"


def test_rounds_are_paired_by_their_numbers() -> None:
    ours = timed("linear", (1.0, 4.0, 8.0), round_numbers=(0, 2, 3))
    theirs = timed("softmax", (2.0, 50.0, 8.0, 16.0), round_numbers=(0, 1, 2, 3))
    found = ratio(ours, theirs)
    assert found.rounds == 3
    assert found.ratio.low == pytest.approx(2), "round 1, which only one of them has, shifts nothing"


def test_with_a_token_budget_images_are_compared() -> None:
    found = ratio(timed("linear", SLOWER, batch=2, token_budget=784), timed("softmax", SLOWER, batch=4, token_budget=784)).ratio
    assert (found.estimate, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("ours", "theirs", "why"),
    [
        (timed("linear", (1.0, 2.0)), timed("softmax", SLOWER), "2 rounds in common with the baseline, of at least 3"),
        (
            timed("linear", (1.0,), rounds_reason="far behind"),
            timed("softmax", SLOWER),
            r"1 round .*\(far behind\)",
        ),
        (timed("linear", SLOWER), cell("softmax"), "recorded before rounds were kept"),
        (timed("softmax", SLOWER), timed("linear", SLOWER), "it is the baseline"),
    ],
)
def test_a_speed_up_without_an_interval_says_why(ours: ProfileRow, theirs: ProfileRow, why: str) -> None:
    found = ratio(ours, theirs)
    assert found.ratio.low is None
    assert found.rounds_needed is None
    assert re.search(why, found.ratio.why_none)


def test_a_failed_cell_and_a_failed_baseline_have_none() -> None:
    for rows in ([timed("linear", SLOWER), failed("softmax", 224)], [failed("linear", 224), timed("softmax", SLOWER)]):
        (profile,) = costs(rows).profiles
        assert [made.speedup for made in profile.cells if made.line.mixer == "linear"] == [None]


@pytest.mark.parametrize("deviation", [0.005, 0.05, 0.2, 1.0])
def test_so_many_rounds_as_are_needed_give_ten_per_cent_and_one_fewer_does_not(deviation: float) -> None:
    logs = np.array([-1.0, 0.0, 1.0]) * deviation
    found = rounds_mean(np.exp(logs).tolist())
    assert found is not None
    needed = rounds_needed(found)

    def half_width(rounds: int) -> float:
        return math.expm1(stats.t.ppf(0.975, rounds - 1) * deviation / math.sqrt(rounds))

    assert half_width(needed) <= 0.1 + 1e-9
    assert needed == 3 or half_width(needed - 1) > 0.1


def test_the_precision_that_was_asked_for_is_that_of_the_note() -> None:
    noisy = (1.0, 1.3, 0.8, 1.1)
    rows: list[AnyRow] = [
        timed(name, t, side) for side in (224, 448) for name, t in (("softmax", (2.0,) * 4), ("noisy", noisy))
    ]
    assert "not known to about 10 %" in notes(named(rows)["speedup"])
    place = {"environment": rows[0].environment, "session": "first", "protocol": rows[0].protocol}  # type: ignore[union-attr]
    seconds = {"wall_seconds": 1.0, "call_seconds": 1.0, "count_seconds": 1.0, "fixed_seconds": None}
    call = HarnessRow(**place, **seconds, processes=1, load=(0.0, 0.0), precision=0.02)
    assert "not known to about 2 %" in notes(named([*rows, call])["speedup"])
    wide = call.model_copy(update={"precision": 0.9})
    assert "not known to about" not in notes(named([*rows, wide])["speedup"])


def test_speed_ups_are_over_the_baseline_of_the_newest_call_of_the_session() -> None:
    rows: list[AnyRow] = [
        timed(name, (t,) * 4, side) for side in (224, 448) for name, t in (("linear", 4.0), ("pool", 1.0), ("softmax", 2.0))
    ]
    place = {"environment": rows[0].environment, "session": "first", "protocol": rows[0].protocol}  # type: ignore[union-attr]
    seconds = {"wall_seconds": 1.0, "call_seconds": 1.0, "count_seconds": 1.0, "fixed_seconds": None}
    calls = [
        HarnessRow(**place, **seconds, processes=1, load=(0.0, 0.0), baseline=baseline, created=f"2026-01-0{day}")
        for day, baseline in ((2, "linear"), (1, "pool"))
    ]
    for kept in (rows, [row for row in rows if row.mixer != "softmax"]):  # type: ignore[union-attr]
        made = named([*kept, *calls])
        assert made["speedup"].title.startswith("Speed-up over linear: ")
        assert lines(made["speedup"], "224 px")[:2] == ["1.00×", "4.00× [4.00, 4.00]"]
        assert lines(made["profile"], "speed-up over linear")[:2] == ["1.00×", "1.00×"]
        assert "linear has a speed-up of 1 without an interval: it is the baseline." in notes(made["speedup"])


def test_tables_name_the_interval_and_what_would_make_it_narrow() -> None:
    noisy, quiet = (1.0, 1.3, 0.8, 1.1), (1.0, 1.001, 0.999, 1.0)
    rows = [timed(name, t, side) for side in (224, 448) for name, t in (("softmax", (2.0,) * 4), ("quiet", quiet))]
    rows += [timed("noisy", noisy, 224), timed("noisy", quiet, 448), timed("once", (1.0,), 224)]
    made = named(rows)
    for table, column in ((made["speedup"], "224 px"), (made["profile"], "speed-up over softmax")):
        shown = dict(zip(lines(table), lines(table, column), strict=False))
        assert shown["quiet"] == "2.00× [2.00, 2.00]"
        assert shown["once"] == "2.00×"
        assert shown["softmax"] == "1.00×"
        needed = rounds_needed(rounds_mean([2 / t for t in noisy])) - 4
        assert f"noisy at 224 px ({needed} more)." in notes(table)
        assert "quiet at" not in notes(table)
        assert "No interval of the speed-up of once at 224 px: 1 round in common" in notes(table)
    raw = made["speedup"].data.set_index("mixer")
    assert raw.loc["noisy", "speedup_224_low"] < raw.loc["noisy", "speedup_224"] < raw.loc["noisy", "speedup_224_high"]
    assert raw["speedup_224_low"].isna().to_dict() == {"noisy": False, "once": True, "quiet": False, "softmax": True}
    profile = made["profile"].data
    assert list(profile.loc[profile["mixer"] == "quiet", "speedup_high"]) == pytest.approx([2.0, 2.0], rel=0.01)


def test_where_no_speed_up_has_an_interval_one_reason_does() -> None:
    rows = [cell(name, side) for name in ("linear", "pool", "softmax") for side in (224, 448)]
    assert "No speed-up has an interval: recorded before rounds were kept." in named(rows)["speedup"].notes


def test_rounds_of_one_process_are_named() -> None:
    rows = [timed(name, SLOWER, side, protocol="interleaved-v1") for name in ("linear", "softmax") for side in (224, 448)]
    assert "All rounds ran in one process" in notes(named(rows)["speedup"])
    apart = [row.model_copy(update={"protocol": "isolated-v1"}) for row in rows]
    assert "one process" not in notes(named(apart)["speedup"])


def test_the_plot_and_the_chart_show_the_interval() -> None:
    ours = (1.0, 1.1, 1.3, 0.9)
    rows = [timed(name, t, side) for side in (224, 448) for name, t in (("softmax", (2.0,) * 4), ("linear", ours))]
    tables = report.tables(rows)
    (result,) = costs(rows).speed_ups
    (table,) = [table for table in tables if table.kind == "speedup"]
    figure = figures.speedup(result, table, figures.mixer_styles(tables))
    assert figure is not None
    (bars,) = figure.axes[0].collections
    found = ratio(rows[1], rows[0]).ratio
    assert bars.get_segments()[0][:, 1] == pytest.approx([found.low, found.high])
    (chart,) = charts(tables, [])
    (choice,) = [choice for choice in chart.y if choice.field == "speedup"]
    point = next(point for point in chart.points if point["mixer"] == "linear")
    assert choice.low is not None
    assert choice.high is not None
    assert (point[choice.low], point[choice.high]) == pytest.approx((found.low, found.high))


@pytest.mark.parametrize(("mixer", "side"), [("static", 1120), ("weightformer", 1344), ("weightformer", 224)])
def test_the_committed_profile_has_the_ratios_of_its_rounds(mixer: str, side: int) -> None:
    rows, _ = report.collect([ROOT / "results" / "profile"])
    cells = {
        (row.mixer, row.sdpa_backend): dict(zip(row.round_numbers, row.round_medians, strict=True))
        for row in rows
        if isinstance(row, ProfileRow) and row.resolution == (side, side) and not row.variant
    }
    theirs = cells["softmax", "flash"]
    ours = next(cell for (name, _), cell in cells.items() if name == mixer)
    logs = [math.log(theirs[k] / ours[k]) for k in sorted(ours.keys() & theirs.keys())]
    half = stats.t.ppf(0.975, len(logs) - 1) * stats.sem(logs)
    ratio = statistics.median(theirs.values()) / statistics.median(ours.values())
    low, high = (math.exp(statistics.mean(logs) + sign * half) for sign in (-1, 1))
    table = named(rows)["speedup"]
    shown = re.findall(r"[0-9.]+", lines(table, f"{side} px")[lines(table).index(mixer)])
    assert [float(number) for number in shown] == pytest.approx([ratio, min(low, ratio), max(high, ratio)], rel=5e-3)
