"""Files of weights: the final ones of a run, and those that others give."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from wfbench import files
from wfbench.errors import InputError

#: The file of the final weights, raw or averaged, in a run directory.
WEIGHTS = {"raw": "model.safetensors", "ema": "ema.safetensors"}


def read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a safetensors file, and its SHA-256.

    Raises:
        InputError: if it is no such file.
    """
    try:
        return load_file(path), files.sha256(path)
    except (OSError, SafetensorError) as e:
        raise InputError(
            "cannot read the weights",
            got=f"{path}: {getattr(e, 'strerror', None) or e}",
            expected="a safetensors file; nothing is downloaded, and nothing is unpickled",
            remedy="check the path; other formats can be converted with the package safetensors",
        ) from e
