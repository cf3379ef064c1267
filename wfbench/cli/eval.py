"""``wfbench eval``: trained weights on held-out images, by the trainer's own evaluator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from wfbench.cli import complete
from wfbench.cli.dense import say_recorded, show_dense
from wfbench.cli.errors import speaks_plainly
from wfbench.cli.mixer_option import one_mixer
from wfbench.cli.probe_eval import show_probe


@speaks_plainly
def evaluate(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|WEIGHTS",
            help="A run directory, a folder in the Hub's layout, or hf:ORG/NAME; or weights alone with --recipe.",
            autocompletion=complete.weights,
        ),
    ],
    weights: Annotated[str, typer.Option(help="Of a run: raw, or ema for the averaged ones.")] = "raw",
    recipe: Annotated[
        str | None, typer.Option(help="Of a file: the recipe whose model and data it has.", autocompletion=complete.recipes)
    ] = None,
    mixer: Annotated[str | None, one_mixer("Of a file: the mixer, if not the recipe's.", "one call for each")] = None,
    data: Annotated[str | None, typer.Option(help="Other images: a path, or SOURCE:PATH.")] = None,
    resolution: Annotated[list[int] | None, typer.Option(help="A side in pixels; repeat it. Default: the model's own.")] = None,
    mapping: Annotated[
        Path | None, typer.Option(help="A JSON file of other labels: class folder, or file name, to the model's classes.")
    ] = None,
    samples: Annotated[Path | None, typer.Option(help="Of a denoiser: a samples.npz of `wfbench sample`, to score.")] = None,
    inception: Annotated[
        Path | None, typer.Option(help="With --samples: a file of Inception's weights, for FID and IS; nothing is downloaded.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="What FID compares with: an npz, or a folder of images. Default: the training images.")
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Override a key: data.eval_resize=shorter")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where results go. Default: eval/ beside the weights; of the Hub, runs/eval/.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Evaluate weights: top-1, top-5, loss, figures by class, and every prediction; at several resolutions, if asked for.

    Of dense prediction: mIoU, pixel accuracy, loss. Of a denoiser: the held-out loss by t; with --samples, the scores of
    these samples instead.

        The unchanged evaluation of a run is compared with what its trainer recorded; if they differ though the machine is the
        same, the exit code is 1.
    """
    import json

    from wfbench import recipe as recipes
    from wfbench.errors import InputError
    from wfbench.recipe import data_settings
    from wfbench.tasks.common import choose_device
    from wfbench.tasks.evaluate_weights import EvalRequest, evaluate_weights
    from wfbench.tasks.hub import WEIGHTS_FILE, is_folder, located
    from wfbench.tasks.run_directory import read_recipe

    path = located(path)
    if recipe is not None and is_folder(path):  # weights alone, of another maker
        path = path / WEIGHTS_FILE
    if weights not in ("raw", "ema"):
        raise InputError("unknown weights", got=f"--weights {weights}", expected="raw or ema", remedy="choose one of the two")
    given = {"--samples": samples, "--inception": inception, "--reference": reference}
    averaged = {"--weights": None if weights == "raw" else weights}
    if path.is_dir() and read_recipe(path).task == "dit":
        from wfbench.cli.denoiser import show_held_out, show_scores

        other = {"--recipe": recipe, "--mixer": mixer, "--data": data, "--set": settings}
        _refuse(other | {"--resolution": resolution, "--mapping": mapping}, "a classifier")
        if samples is not None:
            _refuse(averaged, "the held-out loss, and not of samples, which have their own")
            return show_scores(path, samples, inception, reference, device, out)
        _refuse(given, "samples, given by --samples")
        return show_held_out(path, weights, device, out)
    if path.is_dir() and read_recipe(path).task == "dense":
        _refuse({**given, "--recipe": recipe, "--mixer": mixer, "--mapping": mapping}, "another kind of run")
        if read_recipe(path).data.probe is not None:
            _refuse(averaged, "a run with averaged weights, which no probe has")
            _refuse({"--resolution": resolution, "--data": data}, "images; for other canvases --set data.probe.grids=…")
            return show_probe(path, tuple(settings or ()), device, out)
        where = [] if data is None else data_settings(data, read_recipe(path).data.source, settings or [])
        asked = [*(settings or []), *where]
        return show_dense(path, weights, tuple(resolution or ()), tuple(asked), device, out)
    _refuse(given, "a denoiser's run")
    if path.is_file():
        _refuse(averaged, "a run; a file has the weights that it has")
    overrides = list(settings or [])
    overrides += [] if mixer is None else [f"model.mixer={json.dumps(mixer)}"]
    if data is not None and (recipe is not None or path.is_dir()):  # else there is no source, and the evaluation says why
        known = recipes.load(recipe) if recipe is not None else read_recipe(path)
        overrides += data_settings(data, known.data.source, settings or [])
    request = EvalRequest(path, weights, recipe, tuple(overrides), tuple(resolution or ()), mapping, out)
    results = evaluate_weights(request, device=choose_device(device))
    for result in results:
        row, (height, width) = result.row, result.row.image_size
        top5 = "" if row.top5 is None else f", top-5 {100 * row.top5:.2f} %"
        loss = "" if row.loss is None else f", loss {row.loss:.6f}"
        left = f", {row.unlabelled} without a label left out" if row.unlabelled else ""
        typer.echo(
            f"{row.mixer} ({row.weights} weights) at {height}x{width}: {100 * row.accuracy:.2f} % of {row.samples} held-out "
            f"samples{top5}{loss}{left}; normalised by mean {list(row.mean)}, std {list(row.std)}; in {result.where}"
        )
        if result.recorded is not None:
            there = result.recorded
            say_recorded(
                result.same is True, f"{100 * there.accuracy:.2f} % of {there.samples}, loss {there.loss:.6f}", result.elsewhere
            )
    for note in results[0].notes:
        typer.echo(f"note: {note}", err=True)
    if any(result.same is False and not result.elsewhere for result in results):
        raise typer.Exit(1)


def _refuse(options: Mapping[str, object], whose: str) -> None:
    """Refuse options that are of something else."""
    from wfbench.errors import InputError

    used = [name for name, value in options.items() if value]
    if used:
        raise InputError(
            f"an option that is of {whose}", got=", ".join(used), expected="none of these here", remedy="leave it out"
        )
