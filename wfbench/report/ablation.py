"""The table of ablations: what trained networks reach with something taken away, and how strong their predictions are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from wfbench.analysis.ablation import AblationLine, AblationResult, Part
from wfbench.analysis.interval import Interval
from wfbench.analysis.strength import NO_STATIC
from wfbench.report.accuracy_notes import repeats_notes
from wfbench.report.columns import Column, Table, constant_columns, interval_ends, make_table
from wfbench.report.naming import flat, suffixes
from wfbench.report.strength import no_static_notes
from wfbench.report.words import (
    number,
    number_with_half_width,
    percent,
    pixels,
    plural,
    strength_in_words,
    with_half_width,
)

#: What is taken away, in words.
REMOVED = {
    "branch": "branch",
    "zero": "prediction: 0",
    "mean": "prediction: mean",
    "other": "prediction: other image",
}
#: A figure in words, and whether it is shown in per cent.
FIGURES = {
    "accuracy": ("accuracy (%)", True),
    "miou": ("mIoU (%)", True),
    "pixel_accuracy": ("pixel accuracy (%)", True),
    "loss": ("held-out loss", False),
}


def ablation_tables(results: Sequence[AblationResult]) -> list[Table]:
    """A table for each setting and figure."""
    ends = suffixes([[result.setting] for result in results])
    return [_table(f"ablation{end}", result) for result, end in zip(results, ends, strict=True)]


def layer_in_words(layer: int | None) -> str:
    """A block by its number, from 0."""
    return "all" if layer is None else str(layer)


def _table(name: str, result: AblationResult) -> Table:
    setting = result.setting
    what = f"{setting.dataset}, {setting.model} at {pixels(setting.image_size)} px, {setting.weights} weights"
    title = f"Ablation: {FIGURES[setting.metric][0]}, {what}, recipe {setting.recipe}"
    table = make_table("ablation", name, title, _columns(result), result.lines, _notes(result))
    return replace(table, result=result)


def _notes(result: AblationResult) -> list[str]:
    setting, single = result.setting, [line for line in result.lines if not line.is_over_seeds]
    notes = [
        f"Trained networks with one thing taken away, on the same {setting.samples:,} held-out samples; a difference is "
        "changed minus unchanged. Nothing is trained again: it says what these networks rest on, not what others would reach.",
        "Taken away is the token mixer's branch, or the predicted part of a layer, which is set to 0, to its mean over the "
        "samples, or to what is predicted for another sample. “All” is in every layer that has it, at once; layers are blocks, "
        "from 0.",
    ]
    if single:
        notes.append(
            "Of a single seed, brackets hold the 95% interval over images, paired, for these very weights: it says nothing of "
            "other seeds."
        )
    if len(single) < len(result.lines):
        notes.append(
            "Of several seeds, brackets hold the 95% t-interval over the seeds' differences, no narrower than that over images."
        )
    if setting.metric == "loss":
        notes.append("A higher loss is worse. The mean prediction is one over samples and steps t.")
    if any(line.strength is not None for line in result.lines):
        notes.append(
            "Strength is |X Ŵ| / |X W₀|: what the prediction changes in the layer's output, beside the output without it and "
            "without its bias, by the Frobenius norm over all tokens. The image's own is of the prediction minus its mean over "
            "the images. Before training it is of the initial weights."
        )
    runs = [run for line in result.lines for run in line.runs]
    notes += no_static_notes(part for run in runs for part in (run.strength, run.strength_before) if part is not None)
    strengths = [part.total for line in result.lines for part in (line.strength, line.before) if part is not None]
    means = [found for line in result.lines for found in (line.value, line.unchanged)] + strengths
    if any(found.half_width is not None for found in means):
        notes.append("± is the half-width of the 95% t-interval of the mean over training seeds.")
    notes += repeats_notes(result.repeats)
    reasons = dict.fromkeys(found.why_none for found in means if found.why_none not in ("", NO_STATIC))
    return [*notes, *(f"No interval of values and strengths where there is {why}." for why in reasons)]


def _columns(result: AblationResult) -> list[Column[AblationLine]]:
    """In the order of the CSV."""
    heading, is_share = FIGURES[result.setting.metric]

    def show(value: Interval) -> str:
        return with_half_width(value, percent) if is_share else number_with_half_width(value)

    def signed(difference: Interval) -> str:
        def one(value: float) -> str:
            text = f"{100 * value:+.2f}" if is_share else ("+" if value > 0 else "") + number(value)
            return text.replace("-", "−")

        ends = "" if difference.low is None or difference.high is None else f" [{one(difference.low)}, {one(difference.high)}]"
        return one(difference.estimate) + ends

    return [
        *constant_columns(flat(result.setting)),
        Column("mixer", lambda line: line.runs[0].mixer),
        Column("label", lambda line: line.label, "mixer", words=True),
        Column("what", lambda line: line.what),
        Column("", lambda line: REMOVED[line.what], "taken away", words=True),
        Column("slot", lambda line: line.slot, "slot", words=True),
        Column("layer", lambda line: None if line.layer is None else str(line.layer)),  # its name, no measurement
        Column("", lambda line: layer_in_words(line.layer), "layer"),
        Column("seed_count", lambda line: len(line.runs), "seeds", lambda count: plural(count, "seed")),
        Column("seeds", lambda line: " ".join(str(row.seed) for row in line.runs)),
        Column("unchanged", lambda line: line.unchanged, f"{heading}, unchanged", show, interval_ends("unchanged")),
        Column("value", lambda line: line.value, heading, show, interval_ends("value")),
        Column("difference", lambda line: line.difference, "difference", signed, interval_ends("difference")),
        Column(
            "interval_over",
            lambda line: "seeds" if line.is_over_seeds else "images",
            "interval over",
            words=True,
            files_only=True,
        ),
        _strength("strength_before", "strength before", lambda line: line.before, "total"),
        _strength("strength", "strength", lambda line: line.strength, "total"),
        _strength("strength_common_before", "", lambda line: line.before, "common"),
        _strength("strength_common", "in common", lambda line: line.strength, "common"),
        _strength("strength_own_before", "", lambda line: line.before, "own"),
        _strength("strength_own", "image's own", lambda line: line.strength, "own"),
    ]


def _strength(key: str, heading: str, part: Callable[[AblationLine], Part | None], field: str) -> Column[AblationLine]:
    def value(line: AblationLine) -> Interval | None:
        found = part(line)
        return None if found is None else getattr(found, field)

    return Column(key, value, heading, strength_in_words, interval_ends(key), optional=True)
