"""What ``wfbench eval`` says of a denoiser: its held-out loss by t, or the scores of its samples."""

from __future__ import annotations

from pathlib import Path

import typer

#: A larger distance from what the trainer recorded, relative, is no matter of rounding.
ROUNDING = 1e-3


def show_held_out(run: Path, weights: str, device: str, out: Path | None) -> None:
    """Evaluate the weights of a run and print the loss by t; exit with 1 if the trainer recorded another."""
    from wfbench.tasks.common import choose_device
    from wfbench.tasks.evaluate_denoiser import evaluate_denoiser

    result = evaluate_denoiser(run, weights, device=choose_device(device), out=out)
    row = result.row
    typer.echo(
        f"{row.mixer} ({row.weights} weights): held-out denoising loss {row.loss:.6f} over {row.samples} samples, each once in "
        f"each bin of t; noise seed {row.noise_seed}, {row.dtype}"
    )
    for low, high, mse, vb in zip(row.edges, row.edges[1:], row.mse, row.vb, strict=False):
        typer.echo(f"  t {low:>3} to {high - 1:>3}: mse {mse:.6f}, vb {vb:.6f} bits")
    if result.difference > ROUNDING:
        typer.echo(f"what the trainer recorded: NOT the same, by {result.difference:.2g} in one term")
        raise typer.Exit(1)
    typer.echo(f"what the trainer recorded: the same{f' up to {result.difference:.2g}' if result.difference else ''}")


def show_scores(
    run: Path, samples: Path, inception: Path | None, reference: Path | None, device: str, out: Path | None
) -> None:
    """Score samples and print each score beside the same figure of real images, and what could not be had."""
    from wfbench.tasks.common import choose_device
    from wfbench.tasks.score_samples import ScoreRequest, score

    rows, missing = score(ScoreRequest(run, samples, inception, reference, out), device=choose_device(device))
    for row in rows:
        spread = "" if row.spread is None else f" ± {row.spread:.4g}"
        real = "" if row.real is None else f"; of {row.real_samples} held-out images {row.real:.4g}"
        by = f" by {row.extractor} {row.extractor_sha256[:12]}".rstrip()
        typer.echo(f"{row.metric} {row.value:.4g}{spread} of {row.samples} samples{by}, against {row.reference}{real}")
    for line in missing:
        typer.echo(f"not scored: {line}")
    if rows:
        row = rows[0]
        channels = "" if row.cfg == 1 else f" on {row.cfg_channels or 'all'} channels"
        typer.echo(
            f"protocol: {row.sampler}, {row.steps} steps, cfg {row.cfg:g}{channels}, decoder {row.decoder}, "
            f"{row.weights} weights, {row.dtype}, seed {row.sample_seed}"
        )
