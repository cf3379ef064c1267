"""The table of effective receptive fields: the share of the energy outside circles about the central token."""

from __future__ import annotations

from collections.abc import Sequence

from wfbench.analysis.lines import label
from wfbench.analysis.receptive_fields import ReceptiveFields
from wfbench.records import ErfRow
from wfbench.report.columns import Column, Table, constant_columns, make_table, schedule_columns
from wfbench.report.naming import flat, suffixes, title_of
from wfbench.report.words import DASH, number

_NOTES = (
    "Energy is the squared gradient of the central token's features with respect to the pixels, summed over channels and "
    "features and averaged over the images; all of it is 100 %. Radii are in tokens, from the centre of the token's patch. "
    "Reached are the patches that any energy falls on.",
    "The maps show where a model's gradient comes from, not whether that helps.",
)
#: Why its numbers have no intervals.
_WHY_NONE = "each map is of one model, of one seed"


def receptive_field_tables(results: Sequence[ReceptiveFields]) -> list[Table]:
    """A table for each setting."""
    ends = suffixes([[result.setting] for result in results])
    return [_table(f"erf{end}", result) for result, end in zip(results, ends, strict=True)]


def _table(name: str, result: ReceptiveFields) -> Table:
    title = f"Effective receptive field: {title_of([result.setting])}"
    several = len({(row.recipe, row.recipe_digest) for row in result.maps}) > 1
    order = ["mixer", "weights", "seed", *(["recipe"] if several else [])]
    columns = _columns(result)
    order += [column.heading for column in columns if column.heading not in ("", "recipe", *order)]
    return make_table("erf", name, title, columns, result.maps, _NOTES, order=order)


def _columns(result: ReceptiveFields) -> list[Column[ErfRow]]:
    """In the order of the CSV."""
    radii = dict.fromkeys(radius for row in result.maps for radius in row.radii)
    return [
        *constant_columns(flat(result.setting)),
        Column("label", label, "mixer", words=True),
        Column("mixer", lambda row: row.mixer),
        *schedule_columns(lambda row: row),
        Column("weights", lambda row: row.weights, "weights", words=True),
        Column("seed", lambda row: row.seed, "seed"),
        Column("recipe", lambda row: row.recipe),
        Column("recipe_digest", lambda row: row.recipe_digest),
        Column("", lambda row: f"{row.recipe or DASH} {row.recipe_digest or ''}".strip(), "recipe"),
        *(_outside(radius) for radius in radii),
        Column("half_radius", lambda row: row.half_radius, "half within (tokens)", number, why_none=_WHY_NONE),
        Column("reached", lambda row: row.reached, "reached (%)", _share, why_none=_WHY_NONE),
    ]


def _outside(radius: float) -> Column[ErfRow]:
    def value(row: ErfRow) -> float | None:
        return dict(zip(row.radii, row.outside, strict=True)).get(radius)

    return Column(f"outside_{radius:g}", value, f"outside {radius:g} (%)", _share, why_none=_WHY_NONE)


def _share(value: float) -> str:
    return f"{100 * value:.3g}"
