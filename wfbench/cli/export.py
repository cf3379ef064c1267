"""``wfbench export``: models that leave the bench, checked against what they are inside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from wfbench.cli.errors import speaks_plainly
from wfbench.cli.mixer_option import several_mixers
from wfbench.cli.mixer_set import HELP as MIXER_SET
from wfbench.cli.mixer_set import with_settings

if TYPE_CHECKING:
    from wfbench.records.export import Format
    from wfbench.tasks.export.network import Network

#: What --to takes.
FORMATS = ("torch", "onnx", "hub", "timm-csv")


@speaks_plainly
def export(
    target: Annotated[
        str,
        typer.Argument(metavar="RUN|MODEL|RECORDS", help="A run's directory, hf:ORG/NAME, or a model's name; or records."),
    ],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Where the export goes: a new directory, or one with an export.")],
    to: Annotated[
        str | None,
        typer.Option(
            help="torch: an exported program. onnx (extra export). hub: a run as a folder for the Hub. timm-csv: of records."
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Of a model: write no program, but a row for each mixer: does it export, or why not?"),
    ] = False,
    weights: Annotated[str, typer.Option(help="Of a run: raw, or ema for the averaged ones.")] = "raw",
    mixer: Annotated[
        list[str] | None,
        several_mixers("Of a model: its mixer; with --check repeat it, by default every registered one."),
    ] = None,
    mixer_set: Annotated[list[str] | None, typer.Option("--mixer-set", help=MIXER_SET)] = None,
    local_conv: Annotated[str | None, typer.Option(help="Of a model: none or dwc. Without it: as in the model.")] = None,
    pos: Annotated[
        str | None, typer.Option(help="Of a model: none, learned, sincos or rope2d. Without it: as in the model.")
    ] = None,
    every: Annotated[int | None, typer.Option(help="Of a model: one layer in so many carries the mixer.")] = None,
    offset: Annotated[
        int | None, typer.Option(help="The first of these layers, from 0. Default with --every: 1, or 0 with --every 1.")
    ] = None,
    between: Annotated[str | None, typer.Option(help="The mixer that fills the other layers: static, linear, ...")] = None,
    classes: Annotated[int | None, typer.Option(help="Of a model: classes. Default: the model's own.")] = None,
    image_size: Annotated[int | None, typer.Option(help="A side of the input in pixels. Default: the model's own.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images in a call. Default: 1.")] = None,
    dynamic_batch: Annotated[bool, typer.Option("--dynamic-batch", help="Any number of images in a call.")] = False,
    dtype: Annotated[str, typer.Option(help="float32, or with --to torch bfloat16 or float16.")] = "float32",
    seed: Annotated[int | None, typer.Option(help="Of a model's random weights. Default: 0.", min=0, max=2**63 - 1)] = None,
) -> None:
    """Export a model, read the export back, and compare its outputs with the model's; if they differ, nothing is left.

    Beside the export stands export.json: where it is from, what it takes, how it was compared. A model's weights are random.
    timm-csv writes the inference cells of profiles in the columns and units of timm's benchmark-infer-*.csv.

    With --check every mixer is exported to torch and onnx (or to --to alone) and thrown away; rows go to DIR/records.jsonl, of
    which `wfbench report` makes the columns "exports to".
    """
    from wfbench.errors import InputError

    if to is not None and to not in FORMATS:
        from wfbench.errors import did_you_mean

        raise InputError("unknown format", got=f"--to {to}", expected=", ".join(FORMATS), remedy=did_you_mean(to, FORMATS))
    if check and to == "hub":
        raise InputError(
            "--check is of programs",
            got="--check --to hub",
            expected="--check, with --to torch or onnx, or with neither",
            remedy="leave --to out",
        )
    if to is None and not check:
        raise InputError(
            "to which format?", got="neither --to nor --check", expected=f"--to {' or '.join(FORMATS)}", remedy="add --to torch"
        )
    if to == "timm-csv":
        of_networks: dict[str, object] = {
            "--check": check,
            "--mixer": mixer,
            "--mixer-set": mixer_set,
            "--local-conv": local_conv,
            "--pos": pos,
        }
        of_networks |= {"--every": every, "--offset": offset, "--between": between, "--classes": classes, "--batch": batch}
        of_networks |= {"--image-size": image_size, "--dynamic-batch": dynamic_batch, "--seed": seed}
        of_networks |= {"--dtype": None if dtype == "float32" else dtype, "--weights": None if weights == "raw" else weights}
        _refuse(of_networks, "a network's", "--to timm-csv, which takes what the records have")
        return _timm(Path(target), out)
    if target.startswith("hf:"):
        from wfbench.tasks.hub import located

        target = str(located(Path(target)))
    of_run = _is_run(target)
    of_model: dict[str, object] = {
        "--mixer": mixer,
        "--mixer-set": mixer_set,
        "--local-conv": local_conv,
        "--pos": pos,
        "--every": every,
    }
    of_model |= {"--offset": offset, "--between": between, "--classes": classes, "--seed": seed, "--check": check}
    if of_run:
        _refuse(of_model, "a model's", "a run, which has its own")
    else:
        _refuse({} if weights == "raw" else {"--weights": weights}, "a run's", "a model, whose weights are random")
    names = with_settings(mixer or [], mixer_set)
    overrides = {"local_conv": local_conv, "pos_embed": pos, "every": every, "offset": offset, "between": between}
    given = {key: value for key, value in overrides.items() if value is not None}

    def network_of(name: str | None) -> Network:
        from wfbench.tasks.export.network import of_preset

        return of_preset(target, name, image_size, classes, seed=seed or 0, dtype=dtype, **given)

    if check:
        _refuse({"--batch": batch, "--dynamic-batch": dynamic_batch}, "an export", "--check, which tries any batch")
        return _check(names, cast("Format | None", to), out, network_of)
    if len(names) > 1:
        raise InputError(
            "an export is of one model",
            got=f"{len(names)} mixers",
            expected="one --mixer",
            remedy="call it for each; --check takes several",
        )
    if dynamic_batch and batch is not None or (batch is not None and batch < 1):
        got = f"--batch {batch}{' --dynamic-batch' if dynamic_batch else ''}"
        raise InputError(
            "impossible batch", got=got, expected="--batch of 1 or more, or --dynamic-batch", remedy="give one of the two"
        )
    from wfbench.tasks.export.network import of_run as open_run
    from wfbench.tasks.export.programs import check_packages
    from wfbench.tasks.export.write import check_place, export_program

    if to == "hub":
        trained = None if image_size is None else str(image_size)
        _refuse({"--batch": batch, "--dynamic-batch": dynamic_batch, "--image-size": trained}, "a program's", "--to hub")
        _refuse({} if dtype == "float32" else {"--dtype": dtype}, "a program's", "--to hub")
        return _hub(target, weights, out, None if of_run else network_of)
    chosen = cast("Format", to)
    check_packages(chosen, dtype)
    check_place(out)
    if of_run:
        network = open_run(Path(target), weights, image_size=image_size, dtype=dtype)
    else:
        network = network_of(names[0] if names else None)
    about = export_program(network, chosen, out, None if dynamic_batch else batch or 1)
    assert about.row is not None
    row = about.row
    shapes = ", ".join(f"{name} {_shape(shape)}" for name, shape in zip(about.input.names, about.input.shapes, strict=True))
    typer.echo(
        f"{row.model} with {row.mixer} ({row.weights} weights) as {', '.join(about.files)} in {out}: takes {shapes} in "
        f"{row.dtype}; read back, its outputs differ from the model's by {row.difference:.2g} of the largest (allowed: "
        f"{row.tolerance:g})"
    )
    for note in network.notes:
        typer.echo(f"note: {note}", err=True)


def _hub(target: str, weights: str, out: Path, network_of: Any) -> None:
    from wfbench.tasks.export.hub import export_hub, figures
    from wfbench.tasks.export.network import of_run as open_run

    network = open_run(Path(target), weights) if network_of is None else network_of(None)
    about = export_hub(network, Path(target), out)
    assert network.row is not None
    said = ", ".join(f"{each.what} {each.text}" for each in figures(network.row))
    typer.echo(f"{network.row.model} with {network.row.mixer} as {', '.join(about.files)} in {out}: {said}")
    for note in network.notes:
        typer.echo(f"note: {note}", err=True)


def _timm(source: Path, out: Path) -> None:
    """Write the inference cells of profiles as timm's CSV."""
    from wfbench import files
    from wfbench.analysis.results import analyse
    from wfbench.errors import InputError, writing
    from wfbench.locks import locked
    from wfbench.report import collect
    from wfbench.report.timm_csv import check_own, timm_files

    rows, torn = collect([source])
    made = timm_files(analyse(rows).costs)
    if not made:
        raise InputError(
            "no inference was profiled",
            got=f"{source}, without a row of a profile with --mode infer",
            expected="the records of a `wfbench profile`",
            remedy="wfbench profile",
        )
    for name in made:
        check_own(out / name)
    with locked(out), writing("timm's CSV", out, expected="a writable directory", remedy="choose another directory"):
        for name, text in made.items():
            files.write_whole(out / name, text)
    for message in torn:
        typer.echo(f"warning: {message}", err=True)
    typer.echo(f"{len(made)} files in {out}: {', '.join(made)}")


def _is_run(target: str) -> bool:
    """Whether the target is a directory, and no model's name.

    Raises:
        InputError: if it is neither.
    """
    from wfbench.errors import InputError, did_you_mean
    from wfbench.models import PRESETS

    if target in PRESETS:
        return False
    if not Path(target).is_dir():
        remedy = did_you_mean(target, PRESETS)
        raise InputError(
            "no such run or model", got=target, expected=f"a run directory, or one of {', '.join(PRESETS)}", remedy=remedy
        )
    return True


def _check(names: list[str], to: Format | None, out: Path, network_of: Any) -> None:
    from rich.console import Console

    import mixers
    from wfbench import records
    from wfbench.cli.progress import Told
    from wfbench.locks import locked
    from wfbench.report import tables
    from wfbench.tasks.common import writable_dir
    from wfbench.tasks.export.check import all_mixers, check_exports
    from wfbench.tasks.export.programs import check_packages

    formats: list[Format] = ["torch", "onnx"] if to is None else [to]
    for each in formats:
        check_packages(each)
    chosen = names or all_mixers()
    for name in names:
        mixers.spec(name)
    network_of(None)  # bad input is refused before anything is written
    writable_dir(out)
    rows, told = [], Told()
    with locked(out):
        for row in check_exports(chosen, formats, network_of, told):
            records.append(out / "records.jsonl", [row])
            rows.append(row)
    told.end()
    console = Console(width=None if Console().is_terminal else 160)
    for table in tables(rows):
        console.print(table.to_rich())


def _refuse(options: Mapping[str, object], whose: str, what: str) -> None:
    """Refuse options that are of something else."""
    from wfbench.errors import InputError

    used = [name for name, value in options.items() if value not in (None, False, [])]
    if used:
        raise InputError(
            f"an option that is {whose}", got=", ".join(used), expected=f"none of these for {what}", remedy="leave it out"
        )


def _shape(shape: tuple[int | None, ...]) -> str:
    return "×".join("any" if side is None else str(side) for side in shape)
