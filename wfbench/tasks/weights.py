"""Files of weights: the final ones of a run, and those that others give."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from wfbench import files
from wfbench import recipe as recipes
from wfbench.errors import InputError, did_you_mean
from wfbench.recipe import Recipe
from wfbench.records.row import Strict
from wfbench.tasks import hub
from wfbench.tasks.identity import Identity

#: The file of the final weights, raw or averaged, in a run directory.
WEIGHTS = {"raw": "model.safetensors", "ema": "ema.safetensors"}


#: The key of the metadata in a file's header. One key alone: safetensors writes several in a random order, and files of equal
#: weights would differ.
_KEY = "wfbench"


class WeightsMetadata(Strict):
    """What a file of weights says of them: it stands in the file's header, and so travels with it.

    Attributes:
        classes: names, in the order of the head's outputs.
        mixer: as in rows.
        mixer_digest, model_digest, data_digest: as in `wfbench.records.TracedRow`.
        recipe, recipe_digest, seed: as in rows.
        grid: rows and columns of tokens that they were trained on; None in files of earlier versions.
    """

    classes: tuple[str, ...]
    mixer: str
    mixer_digest: str | None
    model_digest: str | None
    data_digest: str | None
    recipe: str
    recipe_digest: str
    seed: int
    grid: tuple[int, int] | None = None

    @classmethod
    def of(
        cls, recipe: Recipe, mixer: str, classes: tuple[str, ...], identity: Identity | None, grid: tuple[int, int]
    ) -> WeightsMetadata:
        """Of a run's final weights."""
        return cls(
            classes=classes,
            mixer=mixer,
            mixer_digest=None if identity is None else identity.mixer_digest,
            model_digest=None if identity is None else identity.model_digest,
            data_digest=None if identity is None else identity.data_digest,
            recipe=recipe.name,
            recipe_digest=recipes.digest(recipe),
            seed=recipe.seed,
            grid=grid,
        )

    def dump(self) -> dict[str, str]:
        """As text for the header."""
        return {_KEY: self.model_dump_json()}


def read_metadata(path: Path) -> WeightsMetadata | None:
    """What a file of weights says of them; None for a file that was not written by `wfbench train`, or by an earlier version.

    Raises:
        InputError: if it is no safetensors file, or its metadata cannot be read.
    """
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(_KEY)
        return None if text is None else WeightsMetadata.model_validate_json(text)
    except (OSError, SafetensorError) as e:
        raise _unreadable(path, e) from e
    except ValidationError as e:
        raise InputError(
            "cannot read what the weights say of themselves",
            got=f"{path}: {e.errors()[0]['msg']}",
            expected="the metadata that `wfbench train` of this version writes",
            remedy="use the version of wfbench that wrote them, or save the tensors again without metadata",
        ) from e


def check_weights(run: Path, weights: str, recipe: Recipe) -> None:
    """Refuse weights that a run does not have.

    Raises:
        InputError: for others than "raw" and "ema", or averaged ones of a run that averaged none.
    """
    if weights not in WEIGHTS:
        raise InputError(
            "unknown weights", got=repr(weights), expected=" or ".join(WEIGHTS), remedy=did_you_mean(weights, WEIGHTS)
        )
    if weights == "ema" and recipe.ema is None:
        raise InputError(
            "the run has no averaged weights",
            got=f"{run} with ema: null",
            expected="a run of a recipe with ema",
            remedy="use --weights raw",
        )


def weights_file(run: Path, weights: str) -> Path:
    """The file of the "raw" or "ema" weights of a run, or of a folder in the Hub's layout.

    Raises:
        InputError: for a folder that holds the other ones.
    """
    folder = hub.read_config(run)
    if folder is None:
        return run / WEIGHTS[weights]
    if folder.weights != weights:
        raise InputError(
            "the folder holds other weights",
            got=f"--weights {weights} of {hub.name_of(run) or run}",
            expected=folder.weights,
            remedy=f"use --weights {folder.weights}",
        )
    return run / hub.WEIGHTS_FILE


def located_file(name: str | Path) -> tuple[Path, str]:
    """The file that is meant where weights are accepted, and what records call it.

    Args:
        name: a safetensors file, a folder in the Hub's layout, or ``hf:ORG/NAME``, which is fetched if need be.

    Raises:
        InputError: as `wfbench.tasks.hub.fetch`.
    """
    if hub.is_name(name):
        found = hub.fetch(name)
        return found.place / hub.WEIGHTS_FILE, found.name
    path = Path(name)
    return (path / hub.WEIGHTS_FILE, path.resolve().name) if hub.is_folder(path) else (path, path.name)


def read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a safetensors file, and its SHA-256.

    Raises:
        InputError: if it is no such file.
    """
    try:
        return load_file(path), files.sha256(path)
    except (OSError, SafetensorError) as e:
        raise _unreadable(path, e) from e


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(
        "cannot read the weights",
        got=f"{path}: {getattr(error, 'strerror', None) or error}",
        expected="a safetensors file; nothing is downloaded but by the name hf:ORG/NAME, and nothing is unpickled",
        remedy="check the path; other formats can be converted with the package safetensors",
    )
