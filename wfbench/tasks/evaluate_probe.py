"""``wfbench eval`` of a run on a probe: accuracy on the held-out canvases, also of other levels and grids."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from wfbench import recipe as recipes
from wfbench import records
from wfbench.errors import InputError
from wfbench.records import ProbeEvalRow, ProbeRow
from wfbench.tasks.common import dtype_name, other_machine
from wfbench.tasks.identity import changes, check_data, read_identity
from wfbench.tasks.jobs import probe
from wfbench.tasks.run_directory import read_recipe, read_result, recorded_row, try_directory
from wfbench.tasks.weights import WEIGHTS, read_weights
from wfbench.training import checkpoint

#: What of a run's probe may be other in an evaluation.
_FREE = ("data.probe.levels=", "data.probe.grids=", "data.probe.held_out=")


@dataclass(frozen=True)
class ProbeResult:
    """One evaluation.

    Attributes:
        row: its figures.
        recorded: for the unchanged evaluation, what the trainer recorded; else None.
        notes: what is other than when the run was trained, in words.
    """

    row: ProbeEvalRow
    recorded: ProbeRow | None
    notes: tuple[str, ...] = ()

    @property
    def is_same(self) -> bool | None:
        """Whether these figures are exactly the trainer's; None if there are none to compare with."""
        return None if self.recorded is None else (self.row.cells, self.row.loss) == (self.recorded.cells, self.recorded.loss)

    @property
    def elsewhere(self) -> str:
        """How the trainer's machine differs from this one, so that figures may differ by rounding; empty if it does not."""
        return "" if self.recorded is None else other_machine(self.row.environment, self.recorded.environment)


def evaluate_probe_run(
    run: Path, overrides: tuple[str, ...] = (), *, device: torch.device, out: Path | None = None
) -> ProbeResult:
    """Evaluate a finished run again; the row goes to ``out``, by default ``eval/`` of the run.

    Args:
        run: the run directory.
        overrides: ``data.probe.levels``, ``grids`` and ``held_out``, where they are to be other than in training.
        device: where to.
        out: where the row goes.

    Raises:
        InputError: for a run that is not finished, another setting, or a level or grid that cannot be.
        MixerError: for a mixer that cannot work on a grid.
    """
    wrong = [setting for setting in overrides if not setting.startswith(_FREE)]
    if wrong:
        raise InputError(
            "only the canvases that it is evaluated on can be changed for a run on a probe",
            got=wrong[0],
            expected=", ".join(f"{name}…" for name in _FREE),
            remedy=f"leave it out, or train another run with it: wfbench train --set {wrong[0]}",
        )
    final, recipe = read_result(run), recipes.override(read_recipe(run), overrides)
    tensors, sha256 = read_weights(run / WEIGHTS["raw"])
    job = probe.prepare(recipe.model_copy(update={"model": recipe.model.model_copy(update={"init_weights": None})}))
    checkpoint.load_weights(job.model, tensors, str(run / WEIGHTS["raw"]))
    job.model.to(device).eval()
    then = read_identity(run)
    if then is not None and not overrides:
        check_data(run, job.dataset, "val")
    code = [] if then is None else changes(then, job.identity, ("mixer code", "model code"))
    try_directory(out or run / "eval")
    figures = job.evaluation(job.model)
    row = ProbeEvalRow(
        environment=records.stamp(device.type),
        **job.run_fields(final.recipe_digest),
        weights_sha256=sha256,
        dataset=job.dataset.name,
        trained_size=job.image_size,
        dtype=dtype_name(recipe),
        probe=job.dataset.section.name,
        cells=job.cells(figures),
        canvases=job.dataset.section.held_out,
        loss=job.scores({"": figures}).metrics["loss"],
    )
    records.append((out or run / "eval") / "records.jsonl", [row])
    notes = tuple(f"evaluated with other code than the run's: {line}" for line in code)
    return ProbeResult(row, None if overrides else recorded_row(run, "raw", ProbeRow), notes)
