"""``wfbench data``: data made ready for training."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from wfbench.cli.errors import speaks_plainly
from wfbench.cli.usage import PlainGroup

data = typer.Typer(name="data", cls=PlainGroup, help="Make data ready for training.", no_args_is_help=True)


@data.callback()
def _data() -> None:
    pass


@data.command("extract-latents")
@speaks_plainly
def extract_latents(
    vae: Annotated[Path, typer.Option(help="A directory of diffusers' AutoencoderKL; nothing is downloaded.")],
    out: Annotated[Path, typer.Option(help="Where the shards go; of an extraction that was stopped, to go on.")],
    path: Annotated[Path | None, typer.Option("--data", help="The images: a folder with train/ and val/.")] = None,
    source: Annotated[str, typer.Option(help="What --data is, as data.source in a recipe.")] = "folder",
    split: Annotated[str, typer.Option(help="train or val.")] = "train",
    image_size: Annotated[int, typer.Option(help="Side in pixels that images are cropped to.")] = 256,
    shard_size: Annotated[int, typer.Option(help="Images in a shard.")] = 1024,
    batch: Annotated[int, typer.Option(help="Images that are encoded at once.")] = 32,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    rank: Annotated[int, typer.Option(envvar="RANK", help="Which of --processes this is, from 0.")] = 0,
    processes: Annotated[int, typer.Option(envvar="WORLD_SIZE", help="How many calls share the work; torchrun sets both.")] = 1,
) -> None:
    """Encode every image and its mirror image once, so that a DiT of latents trains without the autoencoder.

    The same call again goes on where it stopped. The call that writes the last shard writes the manifest.
    """
    import json

    from wfbench import recipe as recipes
    from wfbench.data import open_dataset
    from wfbench.data.codecs import VAECodec
    from wfbench.data.latents import Extraction
    from wfbench.errors import InputError
    from wfbench.tasks.common import choose_device

    if split not in ("train", "val"):
        raise InputError("unknown split", got=repr(split), expected="train or val", remedy="choose one of the two")
    codec = VAECodec(vae, choose_device(device))
    typer.echo(f"autoencoder: {vae} (SHA-256 {codec.digest})")
    given = [f"data.source={source}", *([f"data.path={json.dumps(str(path))}"] if path else [])]
    dataset = open_dataset(recipes.load("digits", given).data)
    images = getattr(dataset, split)
    work = Extraction(images, f"{dataset.name}, {split}", codec, image_size, shard_size, batch, dataset.classes)
    with counting(len(range(rank, work.shards, processes)) * shard_size, "images") as done:
        manifest = work.run(out, rank=rank, processes=processes, done=done)
    typer.echo(f"{manifest}: {len(images):,} images" if manifest else f"{out}: shards of other processes are still missing")


@contextmanager
def counting(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, a line every ten seconds elsewhere."""
    from wfbench.cli.progress import Told

    if not sys.stdout.isatty():
        told, seen = Told(), [0]

        def line(more: int) -> None:
            seen[0] += more
            told(f"{seen[0]:,} of at most {total:,} {what}")

        yield line
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    with Progress(BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()) as progress:
        task = progress.add_task("", total=total)
        yield lambda more: progress.advance(task, more)
