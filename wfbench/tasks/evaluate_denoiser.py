"""``wfbench eval`` of a denoiser: its held-out loss."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from wfbench import records
from wfbench.records import DenoisingRow, DiTRow
from wfbench.tasks import hub
from wfbench.tasks.common import writable_dir
from wfbench.tasks.draw_samples import load_model
from wfbench.tasks.identity import check_data
from wfbench.tasks.jobs import dit
from wfbench.tasks.run_directory import read_result, recorded_row


@dataclass(frozen=True)
class HeldOutResult:
    """A held-out loss: its row, and how far, at the most, a term lies from what the trainer recorded, relative to it."""

    row: DenoisingRow
    difference: float


def evaluate_denoiser(run: Path, weights: str, *, device: torch.device, out: Path | None = None) -> HeldOutResult:
    """The held-out loss of a finished run's "raw" or "ema" weights, on its recipe's data; a row of it goes to ``out``.

    Raises:
        InputError: for a run that is not finished, is no denoiser's, or has no such weights; for data that cannot be.
    """
    model, recipe, sha256 = load_model(run, weights, device)
    job = replace(dit.prepare(recipe), model=model)
    check_data(run, job.dataset, "val")
    found = job.evaluation(model)
    row = DenoisingRow(
        environment=records.stamp(device.type),
        **job.run_fields(read_result(run).recipe_digest),
        **job.held_out_figures(found, "ema_" if weights == "ema" else ""),
        weights_sha256=sha256,
    )
    recorded = recorded_row(run, weights, DiTRow)
    pairs = zip((*row.mse, *row.vb), (*recorded.mse, *recorded.vb), strict=True)
    records.append(writable_dir(out or hub.results_of(run, "eval")) / "records.jsonl", [row])
    return HeldOutResult(row, max(abs(a - b) / abs(b) for a, b in pairs))
