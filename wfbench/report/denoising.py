"""Tables of denoisers: the held-out loss, and scores of samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wfbench.analysis.denoising import SHARES_OF_SAMPLES, Bin, Losses, LossLine, ScoreLine, Scores
from wfbench.analysis.interval import Interval
from wfbench.report.columns import (
    Column,
    Table,
    constant_columns,
    interval_ends,
    make_table,
    schedule_columns,
    sureness_columns,
)
from wfbench.report.naming import flat, suffixes
from wfbench.report.seed_differences import (
    difference_columns,
    difference_heading,
    difference_notes,
    interval_notes,
    with_half_width,
)
from wfbench.report.strength import strength_columns, strength_headings, strength_notes
from wfbench.report.words import DASH, environment_notes, macs_notes, macs_of, number, pixels, plural, rule_notes

_ONCE = "computed once"  # why a number has no interval
#: Scores that are shown per cent.
_SHARES = ("precision", "recall", "proxy precision", "proxy recall", "class agreement", "memorised share")


def loss_tables(results: Sequence[Losses]) -> list[Table]:
    """A table of held-out losses for each setting."""
    ends = suffixes([[result.setting] for result in results])
    return [_loss_table(f"denoising{end}", result) for result, end in zip(results, ends, strict=True)]


def losses_title(result: Losses) -> str:
    """The title of a result's table."""
    setting = result.setting
    what = f"{setting.dataset}, {setting.model} at {pixels(setting.image_size)} ({setting.space}), {setting.weights} weights"
    return f"Held-out denoising loss: {what}, recipe {setting.recipe}"


def _loss_table(name: str, result: Losses) -> Table:
    setting, runs = result.setting, [(line.label, run) for line in result.lines for run in line.runs]
    notes = [
        f"Mean of mse + vb over {setting.samples:,} held-out samples, each seen once in every bin of t, with fixed noise.",
        *interval_notes([value for line in result.lines for value in _means(line)]),
        *difference_notes([result.family]),
        *(["Less is better, so a difference below 0 is for the line."] if result.family.differences else []),
        "The best epoch's loss, the mse by bin and the training time are means over the seeds, for information: they are no "
        "result.",
        "The mse of small t is high for every denoiser: there the noise is hardly to be told from the image.",
        *rule_notes(run.chosen for _, run in runs),
        *strength_notes(run for _, run in runs),
        *macs_notes(runs),
        *environment_notes(run.environment for _, run in runs),
    ]
    title = losses_title(result)
    bins = list(result.lines[0].mse)
    shown = [bins[place] for place in sorted({0, len(bins) // 4, len(bins) // 2}) if place < len(bins)]
    order = ["mixer", "seeds", "parameters (M)", "GMACs", "held-out loss"]
    order += [difference_heading(result.family.baseline), "verdict", "best epoch's"]
    order += [*map(_mse_heading, shown), *strength_headings(), "training (s)"]
    return make_table("denoising", name, title, _loss_columns(result, bins), result.lines, notes, order=order)


def _loss_columns(result: Losses, bins: Sequence[Bin]) -> list[Column[LossLine]]:
    """In the order of the CSV."""
    by_bin = [column for found in bins for column in _bin_columns(found)]
    return [
        *constant_columns(flat(result.setting)),
        Column("mixer", lambda line: line.runs[0].mixer),
        Column("label", lambda line: line.label, "mixer", words=True),
        Column("local_conv", lambda line: line.runs[0].local_conv),
        Column("pos_embed", lambda line: line.runs[0].pos_embed),
        *schedule_columns(lambda line: line.runs[0]),
        Column("seeds", lambda line: " ".join(str(run.seed) for run in line.runs)),
        Column("seed_count", lambda line: len(line.runs), "seeds"),
        Column("parameters", lambda line: line.runs[0].parameters, "parameters (M)", lambda count: number(count, 1e-6)),
        Column("macs", lambda line: line.runs[0].macs),
        *sureness_columns(lambda line: line.runs[0]),
        Column("", lambda line: macs_of(line.runs[0]), "GMACs"),
        _mean("loss", lambda line: line.loss, "held-out loss", 4, ranks=True),
        Column("loss_sd", lambda line: line.loss_deviation),
        *difference_columns(result.family.baseline, lambda line: result.family, lambda line: line.label),
        Column(
            "",
            lambda line: line.best_loss,
            "best epoch's",
            lambda loss: number(loss, digits=4),
            ranks=True,
            why_none="the lowest of many epochs looks better than it is",
        ),
        _mean("vb", lambda line: line.mean_vb),
        *by_bin,
        *strength_columns(result.lines, lambda line: line.runs),
        _mean("train_seconds", lambda line: line.train_seconds, "training (s)"),
    ]


def _bin_columns(found: Bin) -> list[Column[LossLine]]:
    name = f"t{found.first}_{found.last}"
    return [
        _mean(f"mse_{name}", lambda line: line.mse.get(found), _mse_heading(found), ranks=True),
        _mean(f"vb_{name}", lambda line: line.vb.get(found)),
    ]


def _mean(
    key: str, value: Callable[[LossLine], Interval | None], heading: str = "", digits: int = 3, *, ranks: bool = False
) -> Column[LossLine]:
    """A mean over the seeds."""
    return Column(key, value, heading, lambda mean: with_half_width(mean, digits), ends=interval_ends(key), ranks=ranks)


def _means(line: LossLine) -> list[Interval]:
    """All means over the seeds that have an interval, or may lack one."""
    return [line.loss, *line.mse.values(), *line.vb.values(), line.mean_vb, line.train_seconds]


def _mse_heading(found: Bin) -> str:
    return f"mse, t {found.first}–{found.last}"


def score_tables(results: Sequence[Scores]) -> list[Table]:
    """A table of scores for each protocol."""
    ends = suffixes([[result.protocol] for result in results])
    return [_score_table(f"scores{end}", result) for result, end in zip(results, ends, strict=True)]


def _score_table(name: str, result: Scores) -> Table:
    key = result.protocol
    channels = "" if key.cfg == 1 else f" on {key.cfg_channels or 'all'} channels"
    protocol = f"{key.sampler}, {key.steps} steps, cfg {key.cfg:g}{channels}, decoder {key.decoder}, {key.weights} weights"
    notes = [
        f"Every line: {protocol}, {key.dtype}, noise seed {key.sample_seed}, recipe digest {key.digest}.",
        "Lines compare where metric, samples, extractor and reference are the same. The column real has the same figure of "
        "held-out images: the floor of a distance, the ceiling of an agreement.",
        *interval_notes([line.value for line in result.lines]),
        *_share_notes(result),
        *difference_notes([line.family for line in result.lines]),
        *_direction_notes(result),
    ]
    if any(line.metric.name.startswith("proxy") for line in result.lines):
        notes.append(
            "proxy-FD is a Fréchet distance on a small classifier's features: no FID, and comparable with no published one."
        )
    title = f"Scores of samples: {key.dataset}, {key.model} at {pixels(key.image_size)}, recipe {key.recipe}; {protocol}"
    difference = difference_heading(result.lines[0].family.baseline)
    order = ("metric", "samples", "mixer", "value", difference, "verdict", "real", "seeds", "extractor", "against")
    return make_table("scores", name, title, _score_columns(result), result.lines, notes, order=order)


def _score_columns(result: Scores) -> list[Column[ScoreLine]]:
    """In the order of the CSV."""
    return [
        *constant_columns(flat(result.protocol)),
        Column("metric", lambda line: line.metric.name),
        Column("", lambda line: f"{line.metric.name}{_scale(line)[1]}", "metric", words=True),
        Column("samples", lambda line: line.metric.samples, "samples", lambda count: f"{count:,}"),
        Column("mixer", lambda line: line.rows[0].mixer),
        *schedule_columns(lambda line: line.rows[0]),
        Column("label", lambda line: line.label, "mixer", words=True),
        Column("", lambda line: with_half_width(line.value, 3, _scale(line)[0]), "value", ranks=True),
        Column("value", lambda line: line.value, ends=interval_ends("value")),
        Column("value_sd", lambda line: line.deviation),
        *difference_columns(
            result.lines[0].family.baseline, lambda line: line.family, lambda line: line.label, lambda line: _scale(line)[0]
        ),
        Column("seed_count", lambda line: len(line.rows), "seeds", lambda count: plural(count, "seed")),
        Column("real", lambda line: line.rows[0].real, why_none=_ONCE),
        Column("real_samples", lambda line: line.rows[0].real_samples),
        Column("", _real, "real", why_none=_ONCE),
        Column("extractor", lambda line: line.rows[0].extractor),
        Column("extractor_sha256", lambda line: line.rows[0].extractor_sha256),
        Column("", _extractor, "extractor", words=True),
        Column("reference", lambda line: line.rows[0].reference, "against", words=True),
        Column("reference_samples", lambda line: line.rows[0].reference_samples),
    ]


def _scale(line: ScoreLine) -> tuple[float, str]:
    """By what a score is multiplied to be shown, and its unit."""
    return (100, " (%)") if line.metric.name in _SHARES else (1, "")


def _real(line: ScoreLine) -> str:
    first = line.rows[0]
    return DASH if first.real is None else f"{number(first.real, _scale(line)[0])} of {first.real_samples:,}"


def _extractor(line: ScoreLine) -> str:
    return f"{line.rows[0].extractor} {line.rows[0].extractor_sha256[:8]}".rstrip()


def _share_notes(result: Scores) -> list[str]:
    """Of which scores the intervals also know the number of samples."""
    names = dict.fromkeys(line.metric.name for line in result.lines if line.metric.name in SHARES_OF_SAMPLES)
    what = "are shares of the samples: no interval is narrower than the binomial one of so many samples."
    return [f"{', '.join(names)} {what}"] if names else []


def _direction_notes(result: Scores) -> list[str]:
    """Of which scores less or more is better; the others describe samples and rank nothing."""
    by_direction = {
        better: dict.fromkeys(line.metric.name for line in result.lines if line.family.better == better)
        for better in ("less", "more", "neither")
    }
    words = {
        "less": "Less is better, so a difference below 0 is for the line",
        "more": "More is better",
        "neither": "Neither more nor less is better",
    }
    compared = any(line.family.differences for line in result.lines)
    found = [f"{words[better]}: {', '.join(names)}." for better, names in by_direction.items() if names]
    return [*found, "The correction for the number of lines is within each score of so many samples."] if compared else []
