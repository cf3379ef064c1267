"""Tables of denoisers, and their curves: the held-out loss, and scores of samples, which stand together by protocol alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from wfbench.records import AnyRow, DiTRow, ScoreRow
from wfbench.report.parts import (
    DASH,
    Line,
    Table,
    environment_notes,
    flat,
    gmacs,
    group,
    label,
    latest,
    make_table,
    number,
    pixels,
    plural,
    refused_notes,
    sorted_keys,
    suffixes,
)

#: Scores that are shown per cent.
_SHARES = ("precision", "recall", "proxy precision", "proxy recall", "class agreement", "memorised share")


class _LossKey(NamedTuple):
    """What the lines of one table of held-out losses share."""

    recipe: str
    digest: str
    dataset: str
    space: str
    model: str
    image_size: tuple[int, int]
    weights: str
    noise_seed: int
    samples: int
    dtype: str
    pretraining: str


class _Protocol(NamedTuple):
    """What the lines of one table of scores share: no two protocols stand in one table."""

    recipe: str
    digest: str
    dataset: str
    model: str
    image_size: tuple[int, int]
    weights: str
    sampler: str
    steps: int
    cfg: float
    cfg_channels: int | None
    decoder: str
    dtype: str
    sample_seed: int


def diffusion_tables(rows: Iterable[AnyRow]) -> list[Table]:
    """The tables of held-out losses, then those of scores."""
    rows = list(rows)
    losses, scores = [r for r in rows if isinstance(r, DiTRow)], [r for r in rows if isinstance(r, ScoreRow)]
    return [*_loss_tables(losses), *_score_tables(scores)]


def draw_curves(rows: Iterable[AnyRow], out: Path) -> Iterator[tuple[Path, str]]:
    """Write the held-out loss of every run against its epochs, a plot for each table; yield each path with the table's name."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    groups = group([r for r in rows if isinstance(r, DiTRow)], _loss_key)
    keys = sorted_keys(groups)
    for key, suffix in zip(keys, suffixes([[key] for key in keys]), strict=True):
        figure = Figure(figsize=(8.4, 5.2), layout="constrained")
        axes = figure.subplots()
        lines = group(_newest(groups[key]), label)
        for number_, (name, runs) in enumerate(sorted(lines.items())):
            for k, run in enumerate(runs):
                epochs, losses = zip(*run.held_out_curve, strict=True)
                style = ("-", "--", ":", "-.")[number_ // 10 % 4]
                axes.plot(epochs, losses, style, color=f"C{number_ % 10}", label=name if not k else None, linewidth=1.4)
        axes.set(xlabel="epoch", ylabel=f"held-out denoising loss ({key.weights} weights)", yscale="log")
        axes.set_title(f"{key.dataset}, recipe {key.recipe}; a line for each seed", fontsize=9)
        axes.legend(fontsize=8)
        path = out / f"denoising{suffix}.png"
        figure.savefig(path, dpi=150)
        yield path, f"denoising{suffix}"


def _loss_key(row: DiTRow) -> _LossKey:
    return _LossKey(
        row.recipe,
        row.recipe_digest,
        row.dataset,
        row.space,
        row.model,
        row.image_size,
        row.weights,
        row.noise_seed,
        row.samples,
        row.dtype,
        row.pretraining,
    )


def _newest(rows: Sequence[DiTRow]) -> list[DiTRow]:
    """Of each mixer and seed the newest run."""
    return latest(rows, lambda row: (label(row), row.seed))


def _loss_tables(rows: Sequence[DiTRow]) -> list[Table]:
    groups = group(rows, _loss_key)
    keys = sorted_keys(groups)
    made = []
    for key, suffix in zip(keys, suffixes([[key] for key in keys]), strict=True):
        runs = _newest(groups[key])
        lines = [_loss_line(key, seeds) for _, seeds in sorted(group(runs, label).items())]
        notes = [
            f"Mean of mse + vb over {key.samples:,} held-out samples, each seen once in every bin of t, with fixed noise; "
            "± is the standard deviation over training seeds.",
            "The mse of small t is high for every denoiser: there the noise is hardly to be told from the image.",
            *refused_notes((label(run), run.macs, run.macs_error) for run in runs),
            *environment_notes(run.environment for run in runs),
        ]
        what = f"{key.dataset}, {key.model} at {pixels(key.image_size)} ({key.space}), {key.weights} weights"
        title = f"Held-out denoising loss: {what}, recipe {key.recipe}"
        made.append(make_table(f"denoising{suffix}", title, lines, notes))
    return made


def _loss_line(key: _LossKey, runs: Sequence[DiTRow]) -> Line:
    first, losses = runs[0], [run.loss for run in runs]
    mean, spread = _mean(losses)
    bins = len(first.mse)
    cells = {
        "mixer": label(first),
        "seeds": str(len(runs)),
        "parameters (M)": number(first.parameters, 1e-6),
        "GMACs": gmacs(first.macs),
        "held-out loss": _with_spread(mean, spread, 4),
        "best epoch's": number(_mean([run.best_loss for run in runs])[0], digits=4),
    }
    by_bin: dict[str, object] = {}
    for k in range(bins):
        low, high = first.edges[k], first.edges[k + 1] - 1
        by_bin |= {f"mse_t{low}_{high}": _mean([run.mse[k] for run in runs])[0]}
        by_bin |= {f"vb_t{low}_{high}": _mean([run.vb[k] for run in runs])[0]}
        if k in {0, bins // 4, bins // 2}:
            cells[f"mse, t {low}–{high}"] = number(_mean([run.mse[k] for run in runs])[0])
    cells["training (s)"] = number(_mean([run.train_seconds for run in runs])[0])
    raw: dict[str, object] = {
        **flat(key),
        "mixer": first.mixer,
        "label": label(first),
        "local_conv": first.local_conv,
        "pos_embed": first.pos_embed,
        "seeds": " ".join(str(run.seed) for run in runs),
        "seed_count": len(runs),
        "parameters": first.parameters,
        "macs": first.macs,
        "loss": mean,
        "loss_sd": spread,
        "vb": _mean([sum(run.vb) / bins for run in runs])[0],
        **by_bin,
    }
    return cells, raw


def _score_tables(rows: Sequence[ScoreRow]) -> list[Table]:
    groups = group(rows, _protocol)
    keys = sorted_keys(groups)
    made = []
    for key, suffix in zip(keys, suffixes([[key] for key in keys]), strict=True):
        newest = latest(groups[key], lambda row: (*_compared(row), label(row), row.seed))
        lines = []
        for (metric, samples, _, _), scores in group(newest, _compared).items():
            for name, seeds in sorted(group(scores, label).items()):
                lines.append(_score_line(key, metric, samples, name, seeds))
        channels = "" if key.cfg == 1 else f" on {key.cfg_channels or 'all'} channels"
        proxy = "proxy-FD is a Fréchet distance on a small classifier's features: no FID, and comparable with no published one."
        protocol = f"{key.sampler}, {key.steps} steps, cfg {key.cfg:g}{channels}, decoder {key.decoder}, {key.weights} weights"
        notes = [
            f"Every line: {protocol}, {key.dtype}, noise seed {key.sample_seed}, recipe digest {key.digest}.",
            "Lines compare where metric, samples, extractor and reference are the same. ± is the standard deviation over "
            "training seeds. The column real has the same figure of held-out images: the floor of a distance, the ceiling of "
            "an agreement.",
            *([proxy] if any(row.metric.startswith("proxy") for row in newest) else []),
        ]
        title = f"Scores of samples: {key.dataset}, {key.model} at {pixels(key.image_size)}, recipe {key.recipe}; {protocol}"
        made.append(make_table(f"scores{suffix}", title, lines, notes))
    return made


def _score_line(key: _Protocol, metric: str, samples: int, name: str, rows: Sequence[ScoreRow]) -> Line:
    first = rows[0]
    mean, spread = _mean([row.value for row in rows])
    scale, unit = (100, " (%)") if metric in _SHARES else (1, "")
    real = DASH if first.real is None else f"{number(first.real, scale)} of {first.real_samples:,}"
    by = f"{first.extractor} {first.extractor_sha256[:8]}".rstrip()
    cells = {
        "metric": metric + unit,
        "samples": f"{samples:,}",
        "mixer": name,
        "value": _with_spread(mean * scale, None if spread is None else spread * scale, 3),
        "real": real,
        "seeds": plural(len(rows), "seed"),
        "extractor": by,
        "against": first.reference,
    }
    raw: dict[str, object] = {
        **flat(key),
        "metric": metric,
        "samples": samples,
        "mixer": first.mixer,
        "label": name,
        "value": mean,
        "value_sd": spread,
        "seed_count": len(rows),
        "real": first.real,
        "real_samples": first.real_samples,
        "extractor": first.extractor,
        "extractor_sha256": first.extractor_sha256,
        "reference": first.reference,
        "reference_samples": first.reference_samples,
    }
    return cells, raw


def _compared(row: ScoreRow) -> tuple[str, int, str, str]:
    """What lines of one protocol must also share to be compared."""
    return row.metric, row.samples, row.extractor_sha256, row.reference


def _protocol(row: ScoreRow) -> _Protocol:
    return _Protocol(
        row.recipe,
        row.recipe_digest,
        row.dataset,
        row.model,
        row.image_size,
        row.weights,
        row.sampler,
        row.steps,
        row.cfg,
        row.cfg_channels,
        row.decoder,
        row.dtype,
        row.sample_seed,
    )


def _mean(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and standard deviation of more than one value."""
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _with_spread(mean: float, spread: float | None, digits: int) -> str:
    return number(mean, digits=digits) + ("" if spread is None else f" ± {number(spread, digits=2)}")
