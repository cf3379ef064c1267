"""Who a number belongs to: the code of the mixer and of the models, and the data, that a run was made with.

A run directory holds both from before the first step: `identity.json`, the digests; `data.json.gz`, what the data consisted of.
A run of an earlier version has neither, and then nothing is compared.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

import mixers
from wfbench import models
from wfbench.data import Dataset, DenseDataset, Latents, Listing, ProbeDataset
from wfbench.errors import InputError
from wfbench.records.identity import class_files, digest_files, digest_text, imported_versions, package_files
from wfbench.records.row import Strict
from wfbench.tasks import hub
from wfbench.training import checkpoint

#: Whose files are followed wherever a mixer is from.
_LIBRARIES = ("mixers",)
IDENTITY, LISTING = "identity.json", "data.json.gz"


class Digests(Protocol):
    """What is compared: an `Identity`, or a row of a run. None means that it was not recorded."""

    @property
    def mixer_digest(self) -> str | None:
        """Of the mixer's code."""
        ...

    @property
    def model_digest(self) -> str | None:
        """Of the models' code."""
        ...

    @property
    def data_digest(self) -> str | None:
        """Of the data."""
        ...


class Identity(Strict):
    """The digests of a run, as its rows have them (see `wfbench.records.TracedRow`)."""

    mixer_digest: str | None
    model_digest: str | None
    data_digest: str | None
    code_changed: str | None = None
    #: What the weights began from, as the row says it; None where it was not recorded.
    pretraining: str | None = None


def identify(mixer: str, dataset: Dataset | Latents | DenseDataset | ProbeDataset, between: str | None = None) -> Identity:
    """The identity of what runs now: this mixer, and what stands between its layers, as their code is, on these data.

    Raises:
        InputError: if a file of the data cannot be read.
    """
    return Identity(mixer_digest=mixer_digest(mixer, between), model_digest=model_digest(), data_digest=dataset.listing.digest)


def mixer_digest(mixer: str, between: str | None = None) -> str | None:
    """A digest of a mixer's layers: their source, what that imports of its own, and the versions of packages it imports.

    None if there is no source. Files of the layers' own package, and beside their file, count by what they hold; installed
    packages that are imported count by their version.

    Args:
        mixer: a registered name, an entry point, or ``path/to/file.py:Class``.
        between: the mixer that was chosen for the layers between; the digest is then of both.

    Raises:
        MixerError: for an unknown mixer.
    """
    found = [class_files(mixers.layers(name), _LIBRARIES) for name in (mixer, between) if name is not None]
    digests = [digest_files(files, imported_versions(files, _LIBRARIES)) for files in found if files is not None]
    if len(digests) < len(found):
        return None
    return digests[0] if between is None else digest_text(" ".join(digests))


def model_digest() -> str:
    """A digest of the source of `wfbench.models`."""
    return digest_files(package_files(models))


def changes(then: Digests, now: Digests, what: Sequence[str] = ("mixer code", "model code", "data")) -> list[str]:
    """Which of ``what`` are other now, with both digests; what was not recorded is not compared."""
    names = {"mixer code": "mixer_digest", "model code": "model_digest", "data": "data_digest"}
    pairs = {name: (getattr(then, names[name]), getattr(now, names[name])) for name in what}
    return [f"{name} {a} then, {b} now" for name, (a, b) in pairs.items() if a and b and a.rpartition("+")[2] != b]


def write_identity(out: Path, identity: Identity, listing: Listing) -> None:
    """Write both files into a run directory, whole.

    Raises:
        InputError: if they cannot be written.
    """
    with checkpoint.whole(out / LISTING) as part:
        part.write_bytes(gzip.compress(listing.dumps().encode(), mtime=0))
    checkpoint.write_whole(out / IDENTITY, identity.model_dump_json(indent=2) + "\n")


def read_identity(out: Path) -> Identity | None:
    """The identity of a run; None for a run of an earlier version, which has none.

    Raises:
        InputError: if it cannot be read.
    """
    path = out / IDENTITY
    if (folder := hub.read_config(out)) is not None:
        names = ("mixer_digest", "model_digest", "data_digest", "code_changed")
        return Identity(**{name: folder.result.get(name) for name in names})
    try:
        return Identity.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as e:
        raise _unreadable(path, e) from e


def check_code_and_data(out: Path, now: Identity, listing: Listing, *, allow_changed_code: bool = False) -> Identity | None:
    """See that a run that is resumed goes on with its own code and data.

    Args:
        out: the run directory.
        now: of the resume.
        listing: of the data that the resume has.
        allow_changed_code: take other code, and note it.

    Returns:
        The run's identity, with the note; None if the run has none.

    Raises:
        InputError: for other data, naming the differences; for other initial weights; for other code, unless that is allowed.
    """
    then = read_identity(out)
    if then is None:
        return None
    if then.data_digest != now.data_digest:
        raise InputError(
            "the run was trained on other data",
            got=f"{out}: {_data_differences(out, listing)}",
            expected=f"the data that it was begun with (digest {then.data_digest})",
            remedy="restore the data, or train on these in another --out",
        )
    if then.pretraining not in (None, now.pretraining):
        raise InputError(
            "the run was begun from other initial weights",
            got=f"{out}: {now.pretraining}",
            expected=f"{then.pretraining}, of which its steps were made",
            remedy="restore the file of model.init_weights, or train from this one in another --out",
        )
    changed = changes(then, now, ("mixer code", "model code"))
    if changed and not allow_changed_code:
        raise InputError(
            "the run was begun with other code",
            got=f"{out}: {'; '.join(changed)}",
            expected="the code that it was begun with",
            remedy="restore the code, or --allow-changed-code to go on with a note in the record, or choose another --out",
        )
    return then if not changed else _note_change(then, now, changed)


def check_data(run: Path, dataset: Dataset | Latents | DenseDataset | ProbeDataset, *parts: str) -> None:
    """See that parts of the data are those that a run was trained with; of a run that recorded none, nothing is checked.

    Args:
        run: the run directory.
        dataset: as it is now.
        parts: "train", "val".

    Raises:
        InputError: naming the differences.
    """
    then = read_identity(run)
    if then is None or then.data_digest == dataset.listing.digest:
        return
    if hub.is_folder(run):
        raise InputError(
            "the data are not those that the weights were trained with",
            got=f"{dataset.name} (digest {dataset.listing.digest})",
            expected=f"data of digest {then.data_digest}; {run} does not list them",
            remedy="give their place by --data, if they lie elsewhere than the recipe says",
        )
    found = read_listing(run).part(*parts).differences(dataset.listing.part(*parts))
    if found:
        raise InputError(
            "the data are not those that the run was trained with, though they have their place",
            got=f"{dataset.name}: {'; '.join(found)}",
            expected=f"the data of {run} (digest {then.data_digest})",
            remedy="restore them; or, to evaluate a classifier on these, name them by --data",
        )


def read_listing(run: Path) -> Listing:
    """What the data of a run consisted of when it began.

    Raises:
        InputError: if it cannot be read.
    """
    path = run / LISTING
    try:
        return Listing.loads(gzip.decompress(path.read_bytes()).decode())
    except (OSError, EOFError, ValueError, zlib.error) as e:
        raise _unreadable(path, e) from e


def _data_differences(out: Path, listing: Listing) -> str:
    """In words; without the run's own list of files, which may be lost, only that there are some."""
    try:
        return "; ".join(read_listing(out).differences(listing))
    except InputError:
        return f"data of digest {listing.digest}"


def _note_change(then: Identity, now: Identity, changed: Sequence[str]) -> Identity:
    def joined(a: str | None, b: str | None) -> str | None:
        return a if a is None or b is None or a.rpartition("+")[2] == b else f"{a}+{b}"

    return Identity(
        mixer_digest=joined(then.mixer_digest, now.mixer_digest),
        model_digest=joined(then.model_digest, now.model_digest),
        data_digest=then.data_digest,
        code_changed="; ".join([*([then.code_changed] if then.code_changed else []), *changed]),
        pretraining=then.pretraining,
    )


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(
        "cannot read what a run was made with",
        got=f"{path}: {' '.join(str(error).split())[:200]}",
        expected="the file as `wfbench train` wrote it",
        remedy="put it back; without it nothing says that code and data are still the run's",
    )
