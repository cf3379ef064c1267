"""``wfbench train``: one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wfbench.cli.errors import speaks_plainly
from wfbench.cli.mixer_set import HELP as MIXER_SET
from wfbench.cli.mixer_set import with_settings
from wfbench.signals import stopping

if TYPE_CHECKING:
    from wfbench.recipe import ModelSection, Recipe
    from wfbench.training import Trackers


@speaks_plainly
def train(
    mixer: Annotated[str | None, typer.Option(help="A registered mixer, or path/to/file.py:Class.")] = None,
    mixer_set: Annotated[list[str] | None, typer.Option("--mixer-set", help=MIXER_SET)] = None,
    recipe: Annotated[str | None, typer.Option(help="A recipe's name, or a YAML file. Default: digits.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Where the images are: a path, or SOURCE:PATH for another source than the recipe's, or 'digits'."),
    ] = None,
    local_conv: Annotated[
        str | None, typer.Option(help="none or dwc: a depthwise convolution beside the mixer. Without it: as in the recipe.")
    ] = None,
    pos: Annotated[
        str | None, typer.Option(help="Position: none, learned, sincos or rope2d. Without it: as in the recipe.")
    ] = None,
    every: Annotated[
        int | None,
        typer.Option(help="One layer in so many carries the mixer. Without it: as the mixer or the recipe has it."),
    ] = None,
    offset: Annotated[int | None, typer.Option(help="The first of these layers, from 0. Default with --every: 1.")] = None,
    between: Annotated[str | None, typer.Option(help="The mixer that fills the other layers: static, linear, ...")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Override a recipe key: optim.lr=1e-3")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, order and augmentation.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory. Default: runs/RECIPE-MIXER-sSEED.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out exactly where it was saved.")] = False,
    allow_changed_code: Annotated[
        bool,
        typer.Option("--allow-changed-code", help="With --resume: go on though the mixer's code was changed, and note it."),
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    nproc: Annotated[
        int | None, typer.Option(help="So many processes on this machine, by torchrun: one for each GPU.", min=1)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, print what would be done, and stop.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write the curves for TensorBoard.")] = False,
    wandb: Annotated[str | None, typer.Option(help="Also send the curves to this project of Weights & Biases.")] = None,
) -> None:
    """Train one mixer; without more, softmax attention on the embedded digits.

    SIGTERM, SIGUSR1 and SIGHUP finish the step, save, and exit with code 75, so that a scheduler can queue the same command
    again with --resume; Ctrl-C does the same with code 130.
    """
    from wfbench import recipe as recipes
    from wfbench.cli.launch import is_launcher, launch

    overrides = list(settings or [])
    short: dict[str, object] = {"mixer": mixer, "local_conv": local_conv, "pos_embed": pos}
    short |= {"every": every, "offset": offset, "between": between}
    overrides += [f"model.{key}={json.dumps(value)}" for key, value in short.items() if value is not None]
    overrides += [] if seed is None else [f"seed={seed}"]
    if resume and out is not None and recipe is None:
        from wfbench.tasks.run_directory import read_recipe

        resolved = recipes.override(read_recipe(out), overrides)
    else:
        resolved = recipes.load("digits" if recipe is None else recipe, overrides)
    if mixer_set:
        (name,) = with_settings([resolved.model.mixer] if resolved.model.mixer else [], mixer_set)
        resolved = recipes.override(resolved, [f"model.mixer={json.dumps(name)}"])
    if data is not None:
        resolved = recipes.override(resolved, recipes.data_settings(data, resolved.data.source))
    out = out or _run_directory(resolved)
    if allow_changed_code and not resume:
        from wfbench.errors import InputError

        raise InputError(
            "--allow-changed-code is for a resume",
            got="no --resume",
            expected="--resume --allow-changed-code",
            remedy="add --resume, or leave it out",
        )
    if dry_run:
        from wfbench.cli.dry_run import show
        from wfbench.tasks.dry_run import dry_run as check_run

        show(check_run(resolved, out, resume=resume, processes=nproc, allow_changed_code=allow_changed_code))
    elif is_launcher(nproc):
        from wfbench.tasks.dry_run import dry_run as check_run

        if not (resume and (out / "result.json").is_file()):  # bad input is said once, not by every process
            check_run(resolved, out, resume=resume, processes=nproc, allow_changed_code=allow_changed_code)
        launch(nproc or 1, out)
    else:
        from wfbench.training import Trackers

        trackers = Trackers(tensorboard, wandb)
        with stopping("stopped outside its training steps; what is saved is whole, and the same command with --resume goes on"):
            _train(resolved, out, resume=resume, device=device, trackers=trackers, allow_changed_code=allow_changed_code)


def _train(resolved: Recipe, out: Path, *, resume: bool, device: str, trackers: Trackers, allow_changed_code: bool) -> None:
    from wfbench.cli.progress import quiet, watching
    from wfbench.tasks import jobs
    from wfbench.tasks.common import choose_device
    from wfbench.tasks.run_directory import in_words
    from wfbench.training import distributed

    trackers.check()
    own = distributed.join(choose_device(device))
    try:
        name = resolved.model.mixer or resolved.model.name
        with watching(name, resolved.epochs) if distributed.is_main() else quiet() as watch:
            row = jobs.train(
                resolved,
                out,
                watch,
                device=own,
                resume=resume,
                trackers=trackers,
                allow_changed_code=allow_changed_code,
            )
        if distributed.is_main():
            typer.echo(
                f"{row.mixer}: {in_words(row)} of {row.samples} held-out samples after {row.epochs} epochs; "
                f"{row.train_seconds:.1f} s, {row.images_per_second:.0f} images/s, "
                f"{100 * row.data_wait_share:.0f} % waiting for data"
            )
            if row.code_changed is not None:
                typer.echo(f"resumed with other code: {row.code_changed}")
            typer.echo(f"run directory: {out}")
    finally:
        distributed.leave()


def _run_directory(recipe: Recipe) -> Path:
    from wfbench.tasks.common import slug

    name = recipe.model.mixer or recipe.model.name
    return Path("runs") / f"{recipe.name}-{slug(name)}{_factors(recipe.model)}-s{recipe.seed}"


def _factors(section: ModelSection) -> str:
    """The factors that the recipe chooses, for the name of the run directory."""
    from wfbench.tasks.common import slug

    chosen: dict[str, object] = {"local": section.local_conv, "pos": section.pos_embed}
    chosen |= {"every": section.every, "from": section.offset, "between": section.between and slug(section.between)}
    return "".join(f"-{key}-{value}" for key, value in chosen.items() if value is not None)
