"""Does a mixer export? A row for each mixer and format: it is exported, and the outputs are compared with the eager model's."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import mixers
from mixers import MixerError
from wfbench.errors import ExportError, InputError
from wfbench.records import ExportRow
from wfbench.records.export import Format
from wfbench.tasks.export.network import Network
from wfbench.tasks.export.write import export_row, program_row
from wfbench.tasks.identity import mixer_digest

#: The batch of a model that does not export for any.
_FIXED = 2


def check_exports(
    names: Sequence[str],
    formats: Sequence[Format],
    network_of: Callable[[str | None], Network],
    told: Callable[[str], object] = lambda line: None,
) -> Iterator[ExportRow]:
    """A row for each mixer and format, as soon as it is known; programs are written aside and thrown away.

    A model is exported for any batch and, where that fails, for a batch of 2: then the row says why. One that cannot be made
    has a row that says so, and the others go on.

    Args:
        names: the mixers.
        formats: what they are exported to.
        network_of: makes the network of a mixer, of None that of the model's own.
        told: hears of each mixer before it is tried.

    Raises:
        InputError, MixerError: where not even the model's own network can be made.
    """
    for name in names:
        told(name)
        try:
            network = network_of(name)
        except Exception as e:  # whatever a mixer does that this model, or its size, does not suit
            why = _why(e)
            own = network_of(None)
            yield from (_unmade(own, name, to, why) for to in formats)
            continue
        for to in formats:
            told(f"{name} to {to}")
            yield check_export(network, to)


def _why(error: Exception) -> str:
    """In a line."""
    lines = [" ".join(line.split()) for line in str(error).splitlines()[:2]]
    said = ", ".join(line.removeprefix("got: ") for line in lines if line)[:300]
    is_input = isinstance(error, (InputError, MixerError))
    return f"it cannot be made here: {said if is_input and said else f'{type(error).__name__}: {said}'}"


def _unmade(own: Network, name: str, to: Format, why: str) -> ExportRow:
    """The row of a mixer of which there is no network, with the model's own in its place."""
    row = export_row(own, to, None, why=why)
    return row.model_copy(update={"mixer": name, "mixer_digest": _digest_of(name), "parameters": None})


def _digest_of(name: str) -> str | None:
    try:
        return mixer_digest(name)
    except (InputError, MixerError):
        return None


def check_export(network: Network, to: Format) -> ExportRow:
    """Whether a network exports to a format, as a row."""
    try:
        return _tried(network, to, None)
    except ExportError as e:
        any_batch = e.reason
    try:
        row = _tried(network, to, _FIXED)
    except ExportError as e:
        return export_row(network, to, _FIXED, why=e.reason, why_fixed_batch=any_batch)
    return row.model_copy(update={"why_fixed_batch": any_batch})


def all_mixers() -> list[str]:
    """The registered mixers and those of installed packages that load."""
    found = []
    for name in mixers.names():
        try:
            mixers.spec(name)
        except (MixerError, InputError):
            continue
        found.append(name)
    return found


def _tried(network: Network, to: Format, batch: int | None) -> ExportRow:
    with tempfile.TemporaryDirectory(prefix="wfbench-export-") as place:
        return program_row(network, to, Path(place), batch, {})
