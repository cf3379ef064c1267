"""Pareto tables: which mixers are worth their cost, as far as seeds and rounds can tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from wfbench.analysis.fronts import TOLERANCE, Cost, Fronts, Place
from wfbench.analysis.line_results import LineResult, Recipe, recipe_of
from wfbench.report.columns import Column, Table, make_table, schedule_columns
from wfbench.report.words import pixels, short_digest

_WORDS = {"macs": "GMACs", "parameters": "params", "train_seconds": "training time", "latency": "latency", "memory": "memory"}


def front_tables(results: Sequence[Fronts], accuracy: Sequence[Table]) -> list[Table]:
    """A table for each result, called after the table of its accuracies.

    Args:
        results: where the lines stand.
        accuracy: the tables of the accuracy results.
    """
    of_result = {id(table.result): table for table in accuracy}
    return [_table(result, of_result[id(result.accuracy)]) for result in results]


def cost_in_words(cost: Cost) -> str:
    """What a line costs, as a heading has it: "GMACs", "latency at 896 px"."""
    return _WORDS[cost.kind] + ("" if cost.size is None else f" at {pixels(cost.size)} px")


def _table(result: Fronts, accuracy: Table) -> Table:
    name, title = f"pareto{accuracy.name.removeprefix('accuracy')}", accuracy.title.replace("Accuracy:", "Pareto fronts:")
    varying = [field for field in Recipe._fields[1:] if len({getattr(recipe, field) for recipe in result.recipes}) > 1]
    headings = [f"by {cost_in_words(cost)}" for cost in result.places]
    order = ["model", "mixer", *varying, *headings]
    made = make_table("pareto", name, title, _columns(result, varying), result.lines, _notes(result), order=order)
    return replace(made, result=result)


def _columns(result: Fronts, varying: Sequence[str]) -> list[Column[LineResult]]:
    def recipe(field: str) -> Column[LineResult]:
        heading = field if field == "model" or field in varying else ""
        show = short_digest if field == "model_digest" else str
        words = field in ("model", "weights")
        return Column(field, lambda line: getattr(recipe_of(line.identity), field), heading, show, words=words)

    def place(cost: Cost) -> Callable[[LineResult], Place | None]:
        return lambda line: result.places[cost].get(line.identity)

    def words(cost: Cost) -> Column[LineResult]:
        return Column("", lambda line: place(cost)(line) or "not known", f"by {cost_in_words(cost)}", words=True)

    return [
        Column("label", lambda line: line.label, "mixer", words=True),
        Column("mixer", lambda line: line.identity.mixer),
        *schedule_columns(lambda line: line.identity),
        *(recipe(field) for field in Recipe._fields if field in varying or field not in ("pretraining", "model_digest")),
        *(Column(f"by {cost_in_words(cost)}", place(cost)) for cost in result.places),
        *map(words, result.places),
    ]


def _notes(result: Fronts) -> list[str]:
    single = sorted(line.label for line in result.single)
    return [
        "More accuracy for less cost. Dominated: another mixer is surely more accurate (Tukey and Kramer's simultaneous 95% "
        "intervals over seeds, no narrower than the binomial intervals of the held-out images) and surely not dearer. On the "
        "front: every other mixer is surely less accurate or surely dearer. Undecided: seeds, images or rounds do not tell. "
        "Counted costs are told apart exactly, measured ones where their 95% intervals do not overlap, and those without an "
        f"interval (of fewer than three rounds, or memory, which is measured once) where they differ by more than "
        f"{TOLERANCE:.0%}. A mixer whose cost is not known may be cheaper or dearer "
        "than any other.",
        *(
            ["Latency and memory are not here: the profile is of another model than the one that was trained."]
            if result.is_other_model
            else []
        ),
        *([f"A single seed is not ranked: {', '.join(single)}."] if single else []),
    ]
