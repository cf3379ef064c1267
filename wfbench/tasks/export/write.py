"""A directory with an export: all its files, or none of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wfbench import files, records
from wfbench.errors import InputError, writing
from wfbench.locks import locked
from wfbench.records import ExportRow
from wfbench.records.export import Format
from wfbench.records.row import Environment, Strict, command_line, now
from wfbench.tasks.export.network import TOLERANCE, Network
from wfbench.tasks.export.programs import write_program
from wfbench.tasks.weights import WeightsMetadata

#: What a directory holds beside an export, and by which a later one knows that it may take its place.
ABOUT = "export.json"


class Input(Strict):
    """What the exported model takes.

    Attributes:
        names: of its inputs.
        shapes: of each of them; None where any number may stand.
        mean, std: of input channels, as its images were normalised; None for random weights.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int | None, ...], ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


class About(Strict):
    """``export.json``: what stands beside it, where it is from, and how it was checked.

    Attributes:
        to: the format.
        environment: the stamp of the machine, the libraries and the revision.
        created, command: as in rows.
        files: each file's SHA-256.
        input: what the model takes.
        weights: what the weights say of themselves; None for random ones.
        row: how it was checked; None for a folder in the Hub's layout, which holds the weights themselves.
    """

    to: str
    environment: Environment
    created: str
    command: str
    files: dict[str, str]
    input: Input
    weights: WeightsMetadata | None = None
    row: ExportRow | None = None


def export_program(network: Network, to: Format, out: Path, batch: int | None) -> About:
    """Write a model as a program into a directory, checked against the eager model.

    Args:
        network: the model.
        to: the format.
        out: the directory, which another export in it is taken from.
        batch: images in a call; None: any number.

    Raises:
        ExportError: if the model cannot be exported so, or the outputs differ; nothing is left then.
        InputError: for a directory that holds something else, or cannot be written.
    """

    def write(part: Path) -> ExportRow:
        said = {} if network.about is None else network.about.model_dump(mode="json")
        return program_row(network, to, part, batch, said)

    return write_export(network, to, out, write, batch)


def program_row(network: Network, to: Format, place: Path, batch: int | None, said: Mapping[str, Any]) -> ExportRow:
    """Write a checked program into a directory; its row. With the mixer, ``said`` goes into the program's file."""
    found = write_program(network, to, place, batch, {**said, "mixer": network.fields["mixer"]})
    return export_row(
        network,
        to,
        batch,
        difference=found.difference,
        batches=found.batches,
        packages=found.packages,
        opset=found.opset,
    )


def export_row(network: Network, to: Format, batch: int | None, *, why: str = "", **found: Any) -> ExportRow:
    """The row of an export, or with ``why`` of one that there is not."""
    return ExportRow(
        environment=records.stamp(),
        **network.fields,
        to=to,
        exports=not why,
        why=why,
        image_size=network.image_size,
        batch=batch,
        dtype=network.dtype,
        parameters=sum(p.numel() for p in network.model.parameters()),
        tolerance=TOLERANCE[network.dtype],
        **found,
    )


def write_export(
    network: Network, to: str, out: Path, write: Callable[[Path], ExportRow | None], batch: int | None = None
) -> About:
    """Have files written aside, and put them into ``out`` together, with `ABOUT` last.

    Raises:
        InputError: for a directory that holds something else, or cannot be written.
    """
    with locked(out):
        check_place(out)
        told = {"expected": "a writable directory with room", "remedy": "make room, or choose another directory"}
        with writing("the export", out, **told), files.part_directory(out, "export") as part:
            row = write(part)
            names = sorted(file.name for file in part.iterdir())
            about = About(
                to=to,
                environment=records.stamp() if row is None else row.environment,
                created=now(),
                command=command_line(),
                files={name: files.sha256(part / name) for name in names},
                input=_input(network, batch),
                weights=network.about,
                row=row,
            )
            (part / ABOUT).write_text(about.model_dump_json(indent=2) + "\n")
            before = _files_of(out)
            (out / ABOUT).unlink(missing_ok=True)  # what is replaced file by file is no export meanwhile
            for name in (*names, ABOUT):
                os.replace(part / name, out / name)
            for name in before - set(names):
                (out / name).unlink(missing_ok=True)
    return about


def check_place(out: Path) -> None:
    """Refuse a directory in which an export would stand among other files, or in their place.

    Raises:
        InputError: naming one of them.
    """
    ours = {*_files_of(out), ABOUT}
    there = [path.name for path in out.iterdir()] if out.is_dir() else []
    others = sorted(name for name in there if name not in ours and not name.startswith("."))
    if others:
        raise InputError(
            "the directory holds something else",
            got=f"{out} with {others[0]}",
            expected="a new directory, or one that holds an export, which is replaced",
            remedy="choose another directory",
        )


def _files_of(out: Path) -> set[str]:
    """The files of the export that a directory holds; none where it holds none that can be read."""
    try:
        about = About.model_validate_json((out / ABOUT).read_bytes())
    except (OSError, ValueError):
        return set()
    return {Path(name).name for name in about.files}


def _input(network: Network, batch: int | None) -> Input:
    shapes = tuple((batch, *x.shape[1:]) for x in network.inputs(1))
    data = None if network.recipe is None else network.recipe.data
    return Input(
        names=network.input_names,
        shapes=shapes,
        mean=None if data is None else tuple(data.mean),
        std=None if data is None else tuple(data.std),
    )
