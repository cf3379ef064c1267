"""Folders in the Hugging Face Hub's layout: read from a disk, or by the explicit name hf:ORG/NAME from the Hub.

Such a folder holds ``README.md``, ``config.json`` and ``model.safetensors``. What `wfbench export --to hub` writes can be read
as a run: its recipe and its result stand in ``config.json``. Of a named repository the last two are fetched into the local
cache, and never any other; where HF_HUB_OFFLINE is set, what lies in the cache is taken, and nothing is fetched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from wfbench import strict
from wfbench.errors import InputError
from wfbench.records.row import Strict

#: What the name of a repository begins with.
SCHEME = "hf:"
CONFIG, WEIGHTS_FILE = "config.json", "model.safetensors"
#: ``hf:ORG/NAME``, or with a revision: a branch, a tag, or a commit.
_NAME = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


class MixerFile(Strict):
    """The file or the installed package that a mixer of one's own is from; it is not copied.

    Attributes:
        name: as `--mixer` takes it.
        file: its name; of an installed package, the module.
        digest: of its code, as in rows.
        package: the installed package that the mixer is from, with its version where that is known; None for a file.
    """

    name: str
    file: str
    digest: str | None
    package: str | None = None


class HubConfig(Strict):
    """What ``config.json`` says to this bench, under the key "wfbench".

    Attributes:
        version: of wfbench.
        weights: whether they are a run's "raw" or "ema" ones.
        classes: names, in the order of the head's outputs.
        recipe: the run's, without the places of its data.
        result: the row that its trainer recorded of these weights.
        mixer_files: those that the mixer is from, if it is none of the package.
    """

    version: str
    weights: Literal["raw", "ema"]
    classes: tuple[str, ...]
    recipe: dict[str, Any]
    result: dict[str, Any]
    mixer_files: tuple[MixerFile, ...] = ()


@dataclass(frozen=True)
class Fetched:
    """A repository at one commit.

    Attributes:
        place: the folder of its files, in the local cache.
        repo: ORG/NAME.
        revision: the commit's hash.
    """

    place: Path
    repo: str
    revision: str

    @property
    def name(self) -> str:
        """By which it is found again, at this commit."""
        return f"{SCHEME}{self.repo}@{self.revision}"


def is_name(text: str | Path) -> bool:
    """Whether a text names a repository of the Hub."""
    return str(text).startswith(SCHEME)


def fetch(name: str | Path) -> Fetched:
    """The weights of a repository, and their ``config.json`` if it has one; from the local cache, or else fetched into it.

    Args:
        name: ``hf:ORG/NAME``, or ``hf:ORG/NAME@REVISION``; without a revision the newest commit of "main".

    Raises:
        InputError: for another name, a repository, revision or file that is not there, or that cannot be reached.
    """
    found = _NAME.fullmatch(str(name))
    if found is None:
        raise InputError(
            "not the name of a repository",
            got=str(name),
            expected="hf:ORG/NAME or hf:ORG/NAME@REVISION",
            remedy="write both the owner and the name, as the Hub's page has them",
        )
    import huggingface_hub

    repo, revision = found["repo"], found["revision"]
    try:
        place = Path(huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=[CONFIG, WEIGHTS_FILE]))
    except Exception as e:  # of the Hub, of the network, of the cache: each has classes of its own
        raise _missing(str(name), f"{type(e).__name__}: {' '.join(str(e).split())[:300]}") from e
    if not (place / WEIGHTS_FILE).is_file():
        raise _missing(str(name), f"no {WEIGHTS_FILE} at {place.name[:12]}")
    return Fetched(place, repo, place.name)


def located(path: Path) -> Path:
    """The folder of a named repository, fetched if need be; any other path as it is.

    Raises:
        InputError: as `fetch`.
    """
    return fetch(path).place if is_name(path) else path


def name_of(place: Path) -> str | None:
    """The name, with its commit, of a repository whose folder in the local cache this is; None for any other path."""
    repo = re.fullmatch(r"models--([\w.-]+?)--([\w.-]+)", place.parent.parent.name)
    if place.parent.name != "snapshots" or repo is None:
        return None
    return f"{SCHEME}{repo[1]}/{repo[2]}@{place.name}"


def is_folder(path: Path) -> bool:
    """Whether a path is a folder in the Hub's layout, and no run directory."""
    return (path / CONFIG).is_file() and (path / WEIGHTS_FILE).is_file() and not (path / "config.yaml").exists()


def read_config(path: Path) -> HubConfig | None:
    """What a folder in the Hub's layout says to this bench; None for any other path.

    Raises:
        InputError: for a folder in that layout that `wfbench export` has not written, or that cannot be read.
    """
    if not is_folder(path):
        return None
    expected = "the config.json that `wfbench export --to hub` writes"
    data = strict.read_json(path / CONFIG, "folder's config", expected)
    own = data.get("wfbench") if isinstance(data, dict) else None
    if own is None:
        raise InputError(
            "the folder does not say how its weights were trained",
            got=f"{name_of(path) or path}: no key wfbench in {CONFIG}",
            expected=expected,
            remedy="for weights alone, give the file model.safetensors with --recipe, or model.init_weights",
        )
    try:
        return HubConfig.model_validate(own)
    except ValidationError as e:
        problem = e.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise InputError(
            "cannot read the folder's config",
            got=f"{path / CONFIG}: {where}: {problem['msg']}",
            expected=expected,
            remedy="fetch or export the folder again",
        ) from e


def results_of(path: Path, kind: str) -> Path:
    """Where the results about a run go by default: into its directory; about a folder of the Hub into ``runs/``."""
    if not is_folder(path):
        return path / kind
    name = name_of(path)
    return Path("runs") / kind / (path.resolve().name if name is None else re.sub(r"[/@]", "-", name.removeprefix(SCHEME)))


def _missing(name: str, why: str) -> InputError:
    return InputError(
        "the weights cannot be had from the Hub",
        got=f"{name}: {why}",
        expected=f"a repository with {WEIGHTS_FILE}, in the local cache or within reach",
        remedy="check the name and the revision; offline (HF_HUB_OFFLINE), what lies in the local cache alone is taken",
    )
