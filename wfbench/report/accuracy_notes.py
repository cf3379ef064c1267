"""What stands below an accuracy table."""

from __future__ import annotations

from wfbench.analysis.lines import SMALL_SIDE
from wfbench.analysis.seeds import AccuracyResult, AccuracySetting
from wfbench.report.differences import difference_notes
from wfbench.report.strength import strength_notes
from wfbench.report.words import environment_notes, macs_notes, pixels, plural


def accuracy_notes(setting: AccuracySetting, result: AccuracyResult) -> list[str]:
    """All notes of a table with lines."""
    first, varying = result.lines[0].identity, result.varying_fields
    shared = [
        f"{field} {getattr(first, field)}" for field in ("pretraining", "weights", "batch", "steps") if field not in varying
    ]
    runs = [(line.label, row) for line in result.lines for row in line.seeds]
    return [
        f"Every accuracy was measured here, none is published: top-1 of the last epoch at {pixels(setting.image_size)} px, "
        f"{', '.join([plural(setting.epochs, 'epoch'), *shared])}.",
        "Lines are in alphabetical order.",
        *seeds_notes(result),
        *difference_notes(result),
        *simple_notes(result),
        *digits_notes(result),
        *strength_notes(result.runs),
        *macs_notes(runs),
        *repeats_notes(result.repeats),
        *(f"{label}, seed {row.seed}: resumed with other code: {row.code_changed}." for label, row in runs if row.code_changed),
        *(f"{label}, seed {row.seed}: resumed in another way: {'; '.join(row.ways)}." for label, row in runs if row.ways),
        *environment_notes(row.environment for _, row in runs),
    ]


def simple_notes(result: AccuracyResult) -> list[str]:
    """Which lines are simple classifiers, and whether they were judged on the same samples."""
    simple, samples = result.simple_classifiers, {line.identity.samples for line in result.lines}
    if not simple:
        return []
    names = ", ".join(row.name for row in simple)
    notes = [f"Simple classifiers, no token mixers, and without an interval since they have no seeds: {names}."]
    if samples and {row.samples for row in simple} != samples:
        notes.append("The sample counts differ, so these accuracies are not all of the same held-out samples.")
    return notes


def _no_interval_notes(result: AccuracyResult) -> list[str]:
    """Why a mean over several seeds has no interval."""
    fields = {"loss": "loss", "images_per_second": "images/s", "data_wait_share": "data wait (%)", "train_seconds": "train (s)"}
    lines: dict[tuple[str, str], list[str]] = {}
    for line in result.lines:
        for field, heading in fields.items():
            if len(line.seeds) > 1 and (why := getattr(line, field).why_none):
                lines.setdefault((heading, why), []).append(line.label)
    return [f"No interval of {heading} ({', '.join(labels)}): {why}." for (heading, why), labels in lines.items()]


def repeats_notes(count: int) -> list[str]:
    """That rows were left out, of which there is a later one."""
    if not count:
        return []
    return [f"{plural(count, 'earlier row')} of the same cell {'was' if count == 1 else 'were'} left out: the latest counts."]


def seeds_notes(result: AccuracyResult) -> list[str]:
    """What intervals, or their absence, and the size of the images mean for whoever reads the accuracies."""
    if result.setting is None:
        return []
    counts = {len(line.seeds) for line in result.lines}
    notes = []
    if counts != {1}:
        notes.append(
            "± is the half-width of the 95% t-interval of the mean over the seeds; that of an accuracy is no smaller than the "
            "binomial interval of the held-out images allows."
        )
        notes += _no_interval_notes(result)
    if 1 in counts:
        notes.append("A single seed has no interval, so it ranks nothing.")
    if max(result.setting.image_size) <= SMALL_SIDE:
        notes.append(
            "Small images reward convolutions: they show whether a mixer trains, and differences within a family, "
            "not the rank on ImageNet or at high resolution."
        )
    return notes


def digits_notes(result: AccuracyResult) -> list[str]:
    """What the digits are good for."""
    if not result.dataset.startswith("digits"):
        return []
    return ["Digits check the machinery and rank nothing: logistic regression and nearest neighbour do as well."]
