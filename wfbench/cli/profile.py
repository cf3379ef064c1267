"""``wfbench profile``: cost against resolution."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wfbench.cli import complete
from wfbench.cli.errors import needs, speaks_plainly
from wfbench.cli.mixer_option import several_mixers
from wfbench.cli.mixer_set import HELP as MIXER_SET
from wfbench.cli.mixer_set import with_settings
from wfbench.locks import locked

#: Groups of the options in --help.
_MODEL, _CALL, _AGAINST, _MORE, _HOW = (
    "The models",
    "The call that is measured",
    "What it is held against",
    "What is measured beside MACs and latency",
    "How it is measured",
)


@speaks_plainly
def profile(
    mixer: Annotated[
        list[str] | None, several_mixers("A mixer; repeat it. Default: softmax linear weightformer.", _MODEL)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="The model the mixers go into. Default: vit-tiny.", autocompletion=complete.models, rich_help_panel=_MODEL
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="The model of a recipe, with its sizes, classes and decoder, instead of --model.",
            autocompletion=complete.recipes,
            rich_help_panel=_MODEL,
        ),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(help="With --recipe: the classes of its data, where these are in files.", rich_help_panel=_MODEL),
    ] = None,
    mixer_set: Annotated[list[str] | None, typer.Option("--mixer-set", help=MIXER_SET, rich_help_panel=_MODEL)] = None,
    resolution: Annotated[
        list[int] | None,
        typer.Option(
            help="A side in pixels; repeat it. Default: 224 448 672 896. DiTs work on latents of 1/8 of it.",
            rich_help_panel=_CALL,
        ),
    ] = None,
    pixel_space: Annotated[
        bool,
        typer.Option("--pixel-space", help="A DiT works on the RGB image itself, not on a latent.", rich_help_panel=_MODEL),
    ] = False,
    local_conv: Annotated[
        str | None,
        typer.Option(
            help="none or dwc: a depthwise convolution beside every mixer. Without it: as in the model.", rich_help_panel=_MODEL
        ),
    ] = None,
    pos: Annotated[
        str | None,
        typer.Option(
            help="Position of every mixer: none, learned, sincos or rope2d. Without it: as in the model.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    every: Annotated[
        int | None,
        typer.Option(
            help="One layer in so many carries the mixer, of every mixer; the baseline is also measured without it.",
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
    mode: Annotated[
        str, typer.Option(help="infer, or train: forward, backward and optimiser step.", rich_help_panel=_CALL)
    ] = "infer",
    batch: Annotated[int, typer.Option(help="Images in a call.", rich_help_panel=_CALL)] = 1,
    tokens: Annotated[
        int | None, typer.Option(help="Tokens in a call at every resolution, instead of --batch.", rich_help_panel=_CALL)
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16 or float16; in training by autocast.", rich_help_panel=_CALL)
    ] = "float32",
    compiled: Annotated[
        bool, typer.Option("--compile", help="Run the models through torch.compile.", rich_help_panel=_CALL)
    ] = False,
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Weights and images in channels-last order.", rich_help_panel=_CALL)
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.", rich_help_panel=_HOW)] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(help="Threads of one operator; by default PyTorch's number.", min=1, max=1024, rich_help_panel=_HOW),
    ] = None,
    baseline: Annotated[
        str,
        typer.Option(
            help="The mixer that speed-ups and crossovers are held against.",
            autocompletion=complete.mixers,
            rich_help_panel=_AGAINST,
        ),
    ] = "softmax",
    attention: Annotated[
        str,
        typer.Option(
            help="best: softmax with each backend of its attention, forced and named. auto: PyTorch's choice.",
            rich_help_panel=_AGAINST,
        ),
    ] = "best",
    alternatives: Annotated[
        bool,
        typer.Option(
            "--alternatives", help="Also the baseline with larger patches, and with half the layers.", rich_help_panel=_AGAINST
        ),
    ] = False,
    saturate: Annotated[
        bool, typer.Option("--saturate", help="Also find the batch at which images/s stop growing.", rich_help_panel=_MORE)
    ] = False,
    max_batch: Annotated[
        int | None, typer.Option(help="The largest batch that --saturate tries. Default: 1024.", rich_help_panel=_MORE)
    ] = None,
    breakdown: Annotated[
        bool, typer.Option("--breakdown", help="Also list MACs by module and operator.", rich_help_panel=_MORE)
    ] = False,
    isolate: Annotated[
        bool, typer.Option(help="A fresh process for every cell and round, or one for all.", rich_help_panel=_HOW)
    ] = True,
    memory: Annotated[
        bool | None,
        typer.Option(
            "--memory/--no-memory",
            help="Measure peak memory, in fresh processes. Default: not with --no-isolate.",
            rich_help_panel=_MORE,
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(help="How often the grid is measured. Default: 10; 20 with --no-isolate.", rich_help_panel=_HOW),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            help="How long a cell is sampled in each round. Default: 1; 0.05 with --no-isolate.", rich_help_panel=_HOW
        ),
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="Seconds after which an isolated cell is stopped. Default: 120.", rich_help_panel=_HOW)
    ] = None,
    precision: Annotated[
        float | None,
        typer.Option(
            help="More rounds of cells whose speed-up is known less well than this: 0.1 is 10 %.", rich_help_panel=_HOW
        ),
    ] = None,
    more_minutes: Annotated[
        float | None,
        typer.Option(help="With --precision: minutes of more rounds, at most. Default: 10.", rich_help_panel=_HOW),
    ] = None,
    order_seed: Annotated[int, typer.Option(help="Seed of the order of cells within a round.", rich_help_panel=_HOW)] = 0,
    force: Annotated[bool, typer.Option("--force", help="Measure again what has been measured.", rich_help_panel=_HOW)] = False,
    out: Annotated[Path, typer.Option(help="Where records, tables and plots go.", rich_help_panel=_HOW)] = Path("runs/profile"),
) -> None:
    """Measure MACs, latency and peak memory by resolution, and say how they scale and where mixers cross.

    What is in the records of --out already, of the same setting, machine and code, is not measured again: a call that was
    interrupted is continued by the same call. Cells that failed stay failed; --force measures everything again.
    """
    from wfbench import recipe as recipes
    from wfbench.cli.progress import cell_table
    from wfbench.cli.report import write_and_show
    from wfbench.errors import InputError
    from wfbench.measure.latency import INTERLEAVED, ISOLATED
    from wfbench.tasks.common import choose_device, writable_dir
    from wfbench.tasks.profile.request import ROUNDS, ProfileRequest
    from wfbench.tasks.profile.run import profile as measure

    mixer = with_settings(mixer or [], mixer_set)
    given = {key: tuple(value) for key, value in (("mixers", mixer), ("resolutions", resolution)) if value}
    if model is not None and recipe is not None:
        raise InputError(
            "a recipe has a model of its own",
            got=f"--model {model} --recipe {recipe}",
            expected="one of the two",
            remedy="drop one",
        )
    if max_batch is not None and not saturate:
        raise needs("--max-batch", "--saturate")
    if more_minutes is not None and precision is None:
        raise needs("--more-minutes", "--precision")
    if budget is not None and not isolate:
        raise needs("--budget", "--isolate")
    chosen = {"max_batch": max_batch, "more_minutes": more_minutes, "seconds": seconds, "budget": budget}
    of = None if recipe is None else recipes.load(recipe)
    request = ProfileRequest(
        model=of.model.name if of is not None else model or "vit-tiny",
        recipe=of,
        classes=classes,
        local_conv=local_conv,
        pos_embed=pos,
        every=every,
        offset=offset,
        between=between,
        pixel_space=pixel_space,
        batch=batch,
        tokens=tokens,
        mode=mode,  # type: ignore[arg-type]
        dtype=dtype,
        compile=compiled,
        channels_last=channels_last,
        device=choose_device(device).type,
        threads=threads,
        baseline=baseline,
        attention=attention,  # type: ignore[arg-type]
        alternatives=alternatives,
        isolate=isolate,
        memory=memory,
        saturate=saturate,
        breakdown=breakdown,
        rounds=rounds if rounds is not None else ROUNDS[ISOLATED if isolate else INTERLEAVED],
        precision=precision,
        order_seed=order_seed,
        force=force,
        **given,  # type: ignore[arg-type]
        **{key: value for key, value in chosen.items() if value is not None},  # type: ignore[arg-type]
    )
    request.cells()  # bad input is refused before anything is written
    writable_dir(out)
    with locked(out):
        with cell_table() as watch:
            measure(request, out / "records.jsonl", watch)
        write_and_show([out], out)
