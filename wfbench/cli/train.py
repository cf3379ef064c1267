"""``wfbench train``: one run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wfbench.cli import complete
from wfbench.cli.errors import speaks_plainly
from wfbench.cli.mixer_option import one_mixer
from wfbench.cli.mixer_set import HELP as MIXER_SET
from wfbench.cli.mixer_set import with_settings
from wfbench.signals import stopping

if TYPE_CHECKING:
    from wfbench.recipe import ModelSection, Recipe
    from wfbench.training import Trackers


#: Groups of the options in --help.
_MODEL, _TRAINING, _RUN, _MACHINE = "The model", "The training", "The run", "The machine"


@speaks_plainly
def train(
    mixer: Annotated[
        str | None,
        one_mixer(
            "A registered mixer, or path/to/file.py:Class.",
            "one call for each; or wfbench sweep --mixer NAME --mixer NAME",
            _MODEL,
        ),
    ] = None,
    mixer_set: Annotated[list[str] | None, typer.Option("--mixer-set", help=MIXER_SET, rich_help_panel=_MODEL)] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="A recipe's name, or a YAML file. Default: digits.", autocompletion=complete.recipes, rich_help_panel=_TRAINING
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Where the images are: a path, or SOURCE:PATH for another source than the recipe's, or 'digits'.",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="The preset, as wfbench models lists them. Without it: as in the recipe.",
            autocompletion=complete.models,
            rich_help_panel=_MODEL,
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Without it: as in the recipe.", rich_help_panel=_TRAINING)] = None,
    lr: Annotated[
        float | None, typer.Option(help="The highest learning rate. Without it: as in the recipe.", rich_help_panel=_TRAINING)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images of one step. Without it: as in the recipe.", rich_help_panel=_TRAINING)
    ] = None,
    local_conv: Annotated[
        str | None,
        typer.Option(
            help="none or dwc: a depthwise convolution beside the mixer. Without it: as in the recipe.", rich_help_panel=_MODEL
        ),
    ] = None,
    pos: Annotated[
        str | None,
        typer.Option(help="Position: none, learned, sincos or rope2d. Without it: as in the recipe.", rich_help_panel=_MODEL),
    ] = None,
    every: Annotated[
        int | None,
        typer.Option(
            help="One layer in so many carries the mixer. Without it: as the mixer or the recipe has it.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    offset: Annotated[
        int | None,
        typer.Option(
            help="The first of these layers, from 0. Default with --every: 1, or 0 with --every 1.", rich_help_panel=_MODEL
        ),
    ] = None,
    between: Annotated[
        str | None,
        typer.Option(
            help="The mixer that fills the other layers: static, linear, ...",
            autocompletion=complete.mixers,
            rich_help_panel=_MODEL,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a recipe key: optim.weight_decay=0.1; repeat it.", rich_help_panel=_TRAINING),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of weights, order and augmentation.", rich_help_panel=_TRAINING)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory. Default: runs/RECIPE-MIXER-sSEED.", rich_help_panel=_RUN)
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out exactly where it was saved.", rich_help_panel=_RUN)
    ] = False,
    allow_changed_code: Annotated[
        bool,
        typer.Option(
            "--allow-changed-code",
            help="With --resume: go on though the mixer's code was changed, and note it.",
            rich_help_panel=_RUN,
        ),
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.", rich_help_panel=_MACHINE)] = "auto",
    nproc: Annotated[
        int | None,
        typer.Option(help="So many processes on this machine, by torchrun: one for each GPU.", min=1, rich_help_panel=_MACHINE),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print what would be done, and stop.", rich_help_panel=_RUN)
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write the curves for TensorBoard.", rich_help_panel=_RUN)
    ] = False,
    wandb: Annotated[
        str | None, typer.Option(help="Also send the curves to this project of Weights & Biases.", rich_help_panel=_RUN)
    ] = None,
) -> None:
    """Train one mixer; without more, softmax attention on the embedded digits.

    SIGTERM, SIGUSR1 and SIGHUP finish the step, save, and exit with code 75, so that a scheduler can queue the same command
    again with --resume; Ctrl-C does the same with code 130.
    """
    from wfbench import recipe as recipes
    from wfbench.cli.launch import is_launcher, launch

    short: dict[str, tuple[str, object]] = {
        "--mixer": ("model.mixer", mixer),
        "--model": ("model.name", model),
        "--local-conv": ("model.local_conv", local_conv),
        "--pos": ("model.pos_embed", pos),
        "--every": ("model.every", every),
        "--offset": ("model.offset", offset),
        "--between": ("model.between", between),
        "--epochs": ("epochs", epochs),
        "--lr": ("optim.lr", lr),
        "--batch-size": ("batch_size", batch_size),
        "--seed": ("seed", seed),
    }
    overrides = [*(settings or []), *_in_full(short, settings or [])]
    if resume and out is not None and recipe is None:
        from wfbench.tasks.run_directory import read_recipe

        resolved = recipes.override(read_recipe(out), overrides)
    else:
        resolved = recipes.load("digits" if recipe is None else recipe, overrides)
    if mixer_set:
        (name,) = with_settings([resolved.model.mixer] if resolved.model.mixer else [], mixer_set)
        resolved = recipes.override(resolved, [f"model.mixer={json.dumps(name)}"])
    if data is not None:
        resolved = recipes.override(resolved, recipes.data_settings(data, resolved.data.source, settings or []))
    if model in complete.MODELS and "LOCAL_RANK" not in os.environ:  # of several processes, the one that starts them says it
        _say_own_sizes(resolved)
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


def _in_full(short: Mapping[str, tuple[str, object]], settings: Sequence[str]) -> list[str]:
    """Options that are short for settings, as these; None is an option that was not given.

    Raises:
        InputError: for a setting that --set names too.
    """
    from wfbench.errors import InputError

    named = {text.partition("=")[0].strip(): text for text in settings}
    given = {option: pair for option, pair in short.items() if pair[1] is not None}
    for option, (key, value) in given.items():
        if key in named:
            raise InputError(
                "one setting twice",
                got=f"{option} {value} and --set {named[key]}",
                expected=f"one of the two: {option} is short for --set {key}",
                remedy="drop one",
            )
    return [f"{key}={_as_yaml(value)}" for key, value in given.values()]


def _as_yaml(value: object) -> str:
    """A value as a setting has it: of a number that is none, what the recipe then refuses by its name."""
    return repr(value).replace("nan", ".nan").replace("inf", ".inf") if isinstance(value, float) else json.dumps(value)


def _say_own_sizes(recipe: Recipe) -> None:
    """Say what a recipe has in place of the preset's, which --model does not change."""
    own = {key: getattr(recipe.model, key) for key in ("embed_dim", "depth", "num_heads", "mlp_ratio")}
    said = [f"{key} = {value}" for key, value in own.items() if value is not None]
    if said:
        first = said[0].partition(" ")[0]
        typer.echo(
            f"note: not of {recipe.model.name} but of the recipe or --set: {', '.join(said)}; "
            f"--set model.{first}=null and so on take the preset's",
            err=True,
        )


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
