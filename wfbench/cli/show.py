"""``wfbench show``: what a name or a path is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wfbench.cli import complete
from wfbench.cli.errors import speaks_plainly

if TYPE_CHECKING:
    from wfbench.tasks.catalogue import RecipeEntry


@speaks_plainly
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="RUN|RECIPE|SWEEP|MIXER|MODEL",
            help="The directory of a run, a recipe or a sweep (name or YAML file), a mixer, or a preset.",
            autocompletion=complete.anything,
        ),
    ],
    kind: Annotated[
        str | None, typer.Option("--as", help="run, recipe, sweep, mixer or model, where a name is of several things.")
    ] = None,
) -> None:
    """Show what a name is: a run's state and result, a recipe in full with its comments, a mixer with options and cost."""
    from wfbench.errors import InputError

    if kind is not None and kind not in _SHOWN:
        raise InputError("unknown kind", got=f"--as {kind}", expected=", ".join(_SHOWN), remedy="choose one of these")
    kinds = [kind] if kind is not None else _kinds_of(name)
    if not kinds:
        raise _nothing(name)
    if len(kinds) > 1:
        raise InputError(
            "which one?",
            got=f"{name}: {' and '.join(f'a {found}' for found in kinds)}",
            expected="the name of one thing",
            remedy=" or ".join(f"wfbench show {name} --as {found}" for found in kinds),
        )
    _SHOWN[kinds[0]](name)


def _kinds_of(name: str) -> list[str]:
    """What a name is; a path of a YAML file is a sweep where it has what only a sweep has."""
    import mixers
    from mixers.options import split_options
    from wfbench import models, shipped, strict

    kinds = ["run"] if _is_run(name) else []
    if name.endswith((".yaml", ".yml")):
        data = strict.read_yaml(shipped.find(name, "recipes"), "recipe")
        return ["sweep" if {"mixers", "recipes", "seeds", "vary"} & set(data) else "recipe"]
    kinds += [what for what in ("recipe", "sweep") if name in shipped.names(f"{what}s")]
    if split_options(name)[0] in mixers.names() or ":" in name:
        kinds.append("mixer")
    return kinds + (["model"] if name in models.PRESETS else [])


def _is_run(name: str) -> bool:
    try:
        return Path(name, "config.yaml").is_file()
    except (OSError, ValueError):
        return False


def _nothing(name: str) -> Exception:
    """The error for a name of nothing; of a directory, with the runs below it, and of a mixer's file without its class."""
    import difflib

    import mixers
    from wfbench import models, shipped
    from wfbench.errors import InputError

    expected = "a run's directory, a recipe, a sweep, a mixer or a preset"
    path = Path(name)
    if path.is_dir():
        runs = [str(run) for run in complete.run_directories(path)]
        remedy = f"name a run in it: {', '.join(runs[:3])}{', ...' if runs[3:] else ''}" if runs else "check the path"
        return InputError("a directory that is no run", got=name, expected=expected, remedy=remedy)
    if path.suffix == ".py":
        return InputError("a file of mixers", got=name, expected="one of its classes", remedy=f"{name}:CLASS")
    known = {*mixers.names(), *models.PRESETS, *shipped.names("recipes"), *shipped.names("sweeps")}
    near = difflib.get_close_matches(name, sorted({*known, *complete.runs("")}), n=3)
    remedy = f"did you mean {' or '.join(near)}?" if near else "see wfbench recipes, wfbench mixers and wfbench models"
    return InputError("nothing of that name", got=repr(name), expected=expected, remedy=remedy)


def _show_run(name: str) -> None:
    from wfbench.tasks.catalogue import describe_run
    from wfbench.tasks.run_directory import in_words

    entry = describe_run(Path(name))
    recipe, row = entry.recipe, entry.result
    state = {"finished": "finished", "running": "a process works on it", "stopped": "stopped, or not begun"}[entry.state]
    if row is None:
        state += f", {entry.epochs_done} of {recipe.epochs} epochs done"
    lines: dict[str, object] = {
        "run": entry.place,
        "state": state,
        "recipe": f"{recipe.name} (task {recipe.task}), seed {recipe.seed}",
        "model": f"{recipe.model.name} with {row.mixer if row is not None else recipe.model.mixer or 'its own mixer'}",
    }
    if row is None:
        lines["to go on"] = f"wfbench train --resume --out {entry.place}"
    else:
        lines |= {
            "result": f"{in_words(row)}, of {row.dataset}",
            "trained": f"{row.epochs} epochs, {row.steps:,} steps of {row.batch:,}, {row.dtype}, {row.train_seconds:,.0f} s",
            "parameters": f"{row.parameters:,}",
            "GMACs": f"{row.macs / 1e9:.4g} an image" if row.macs is not None else row.macs_error,
            "made on": f"{row.environment.device}, {row.created}, revision {row.environment.git_revision}",
            "by": row.command,
            "tables": f"wfbench report {entry.place}",
        }
    beside = [file for file in ("metrics.jsonl", "model.safetensors", "ema.safetensors", "eval", "ablation")]
    lines["beside it"] = ", ".join(file for file in beside if (entry.place / file).exists()) or "nothing"
    _say(lines)


def _show_recipe(name: str) -> None:
    from wfbench import recipe as recipes
    from wfbench.cli.commented import commented
    from wfbench.tasks.catalogue import describe_recipe

    entry = describe_recipe(name)
    typer.echo(commented(entry.file.read_text(encoding="utf-8"), recipes.load(name)))
    typer.echo("\n".join(f"# {line}" for line in _cost_of(entry)))


def _cost_of(entry: RecipeEntry) -> list[str]:
    """What a recipe costs, in lines."""
    from wfbench.cli.recipes import in_tmacs
    from wfbench.tasks.catalogue import PASSES

    steps = "as many as the data say" if entry.steps is None else f"{entry.steps:,}"
    if entry.params is None or entry.macs is None:
        model = f"not counted: {entry.why_no_cost}"
    else:
        model = f"{entry.params:,} parameters, {entry.macs / 1e9:.4g} GMACs an image, with a head of {entry.classes:,} classes"
    whole = None if entry.work is None else f"{in_tmacs(entry.work)} TMACs, each step as {PASSES} forward passes"
    return [
        f"File:     {entry.file}",
        f"Supply:   {', '.join(entry.supply) or 'nothing, the data come with the bench'}",
        f"Steps:    {steps}, {entry.epochs} epochs in batches of {entry.batch:,}",
        f"Model:    {entry.model} with {entry.mixer}: {model}",
        f"Training: {whole or f'{PASSES} x {entry.epochs} x the training images x the GMACs of one'}",
    ]


def _show_sweep(name: str) -> None:
    from wfbench.tasks.catalogue import describe_sweep

    entry = describe_sweep(name)
    typer.echo(entry.file.read_text(encoding="utf-8").rstrip())
    made = f"{entry.lines} lines, {entry.seeds} seeds, recipes {', '.join(entry.recipes)}: {entry.runs} runs"
    typer.echo(f"# File:     {entry.file}\n# Makes:    {made}; {entry.claims or 'no'} claims")


def _show_mixer(name: str) -> None:
    from wfbench.tasks.catalogue import describe_mixer

    entry = describe_mixer(name)
    spec = entry.spec
    layers = "every layer" if spec.every == 1 else f"layer i where i % {spec.every} == {spec.offset}"
    lines: dict[str, object] = {
        "mixer": spec.name,
        "formula": spec.formula,
        "source": spec.source,
        "status": spec.status,
        "complexity": spec.complexity if spec.complexity != "undeclared" else "undeclared; wfbench verify measures it",
        "carried by": layers,
        "tokens are": spec.layout or "undeclared",
        "takes": ", ".join(_taken(spec.prefix_tokens, spec.rotary, spec.needs_grid)) or "nothing beside tokens and their grid",
        "options": ", ".join(f"{key}={value}" for key, value in entry.options.items()) or "none",
        "parameters": f"{entry.params:,} in a layer of a ViT-Tiny, with the FFN's first Linear",
    }
    if entry.macs is None:
        lines["MACs"] = "not declared; wfbench verify counts them"
    else:
        lines["MACs"] = ", ".join(f"{macs:,} on {h}x{w} tokens" for (h, w), macs in entry.macs.items()) + ", of the same"
    _say(lines)
    typer.echo(f"\n{entry.docstring}")
    typer.echo(f"\nwfbench verify '{name}' shows what holds; wfbench train --mixer '{name}' trains it.")


def _taken(prefix_tokens: bool, rotary: bool, needs_grid: bool) -> list[str]:
    can = {"a class token": prefix_tokens, "rotation of q and k": rotary, "the grid at construction": needs_grid}
    return [what for what, whether in can.items() if whether]


def _show_model(name: str) -> None:
    from wfbench.tasks.catalogue import describe_model

    entry = describe_model(name)
    _say(
        {
            "model": entry.name,
            "task": " or ".join(entry.tasks),
            "mixer": f"{entry.mixer}, or any other by --mixer",
            "input": f"{entry.channels} channels of {'x'.join(map(str, entry.image_size))}, in patches of {entry.patch_size}",
            "blocks": f"{entry.blocks}, {entry.width} channels, {entry.heads} heads, FFN {entry.mlp_ratio:g} times as wide",
            "parameters": f"{entry.params:,}, with a head of {entry.classes:,} classes",
            "GMACs": f"{entry.macs / 1e9:.4g} an image at that size",
        }
    )
    typer.echo(f"wfbench profile --model {name} measures it by resolution; wfbench train --model {name} trains it.")


def _say(lines: Mapping[str, object]) -> None:
    width = max(map(len, lines)) + 2
    for key, value in lines.items():
        typer.echo(f"{key + ':':<{width}}{value}")


_SHOWN: dict[str, Callable[[str], None]] = {
    "run": _show_run,
    "recipe": _show_recipe,
    "sweep": _show_sweep,
    "mixer": _show_mixer,
    "model": _show_model,
}
