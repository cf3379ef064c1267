"""Tuning tables: what every mixer was allowed, how its accuracy follows the rate, and how often it diverged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from wfbench.analysis.interval import Interval
from wfbench.analysis.tuning import RateResult, TunedLine, TuningResult
from wfbench.records import TrialRow
from wfbench.report.columns import Column, Table, make_table
from wfbench.report.naming import flat, suffixes, title_of
from wfbench.report.words import number, number_with_half_width, percent, plural, with_half_width

#: What the CSV holds of each trial, in the order of the record.
_FIELDS = ("seed", "lr", "recipe_lr", "status", "message", "accuracy", "loss", "samples", "validation")


def tuning_tables(results: Sequence[TuningResult]) -> list[Table]:
    """For each recipe whose lines were tuned: the trials of every line."""
    ends = suffixes([[result.setting] for result in results])
    return [_table(f"tuning{end}", result) for result, end in zip(results, ends, strict=True)]


def _table(name: str, result: TuningResult) -> Table:
    title = f"Tuning: {title_of([result.setting._replace(recipe_digest='')])}"
    raw = _raw_columns(result), [(line, row) for line in result.lines for row in line.trials]
    columns = _columns(result)
    return replace(make_table("tuning", name, title, columns, result.lines, _notes(result), raw=raw), result=result)


def _columns(result: TuningResult) -> list[Column[TunedLine]]:
    """The columns for people: an accuracy for each rate, of denoisers a loss."""
    show = number_with_half_width if result.measure == "loss" else _share_in_words

    def figure(rate: float) -> Column[TunedLine]:
        return Column(
            "",
            lambda line: _of_rate(line.rates.get(rate)),
            f"{rate:g}",
            lambda found: found if isinstance(found, str) else show(found),
        )

    return [
        Column("", lambda line: line.label, "mixer", words=True),
        Column("", lambda line: str(len(line.trials)), "trials"),
        Column("", _diverged_in_words, "diverged"),
        Column("", lambda line: line.best, "best rate", number),
        *map(figure, dict.fromkeys(rate for line in result.lines for rate in line.rates)),
    ]


def _raw_columns(result: TuningResult) -> list[Column[tuple[TunedLine, TrialRow]]]:
    """The columns of the CSV, which has a line for each trial."""

    def constant(name: str, value: object) -> Column[tuple[TunedLine, TrialRow]]:
        return Column(name, lambda trial: value)

    def recorded(field: str) -> Column[tuple[TunedLine, TrialRow]]:
        why = "each is of one trial" if field in ("accuracy", "loss") else ""
        return Column(field, lambda trial: getattr(trial[1], field), why_none=why)

    shared = (constant(name, value) for name, value in flat(result.setting).items())
    return [*shared, Column("mixer", lambda trial: trial[0].label), *map(recorded, _FIELDS)]


def _diverged_in_words(line: TunedLine) -> str:
    return f"{line.diverged} ({100 * line.diverged / len(line.trials):.0f} %)"


def _of_rate(found: RateResult | None) -> Interval | str | None:
    """The accuracy or loss of a rate, or how many of its trials diverged."""
    return None if found is None else found.result or f"{plural(found.diverged, 'trial')} diverged"


def _share_in_words(found: Interval) -> str:
    return with_half_width(found, percent)


def _notes(result: TuningResult) -> list[str]:
    is_loss = result.measure == "loss"
    edge, untried = [line.label for line in result.at_the_edge], [line for line in result.lines if line.untried]
    notes = [
        f"Every line has the same rates, about the recipe's own of {result.recipe_rate:g}, each with seed "
        f"{', '.join(map(str, result.seeds))}, judged on {percent(result.validation)} % of the training images, which these "
        "trials were not trained on; of a probe, on canvases of their own. The held-out images were not looked at, and the "
        "final seeds are others.",
        f"Each column of a rate is the mean {'held-out loss' if is_loss else f'{result.measure} in %'} of its trials. "
        f"The best rate has the {'lowest' if is_loss else 'highest (of equal ones the fewest steps, then the lowest loss)'}, "
        "and no trial that diverged: a loss that is not finite, or at the end more than twice that of guessing.",
        f"The {result.measure} of a rate has no interval: each is of a single seed."
        if len(result.seeds) == 1
        else "± is the half-width of the 95% t-interval of the mean over the trials of a rate"
        + ("." if is_loss else ", no smaller than the binomial interval of their images allows."),
    ]
    if edge:
        notes.append(
            f"The best rate is the last of the grid, and a better one may lie beyond: {', '.join(edge)}. More trials for all "
            "lines would say."
        )
    if untried:
        missing = ", ".join(f"{line.label} {plural(line.untried, 'rate')}" for line in untried)
        notes.append(f"Not all trials are done, and no rate is chosen before they are; without a trial: {missing}.")
    return notes
