"""What the tasks share: devices, counted models, writable places."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from mixers import MixerError
from wfbench.errors import InputError, writing
from wfbench.measure.flops import CountError, FlopCount, count_flops
from wfbench.measure.latency import is_out_of_memory
from wfbench.models import AnyModel, Config
from wfbench.models.schedule import schedule_of
from wfbench.recipe import Recipe
from wfbench.records import FACTORS, Environment


def factors_of(config: Config) -> dict[str, Any]:
    """What every row about a model says of its configuration: the mixer and the factors of the skeleton."""
    return {name: getattr(config, name) for name in ("mixer", *FACTORS)}


def check_carried(config: Config) -> None:
    """Refuse a model in which no layer carries its mixer: by its own schedule it begins beyond the last one.

    `wfbench.models` refuses such a schedule where it was chosen. A mixer's own is refused here, wherever a model is made to be
    trained or measured under the mixer's name.

    Raises:
        InputError: for such a model.
    """
    own = schedule_of(config)
    if own.offset >= config.depth:
        raise InputError(
            "no layer carries the mixer",
            got=f"mixer {config.mixer!r}, by its own schedule in one layer of {own.every} from layer {own.offset} on (counted "
            f"from 0), with depth {config.depth}",
            expected=f"a depth of at least {own.offset + 1}",
            remedy="choose a deeper model, or the mixer in every layer: --every 1",
        )


def choose_device(name: str) -> torch.device:
    """ "auto" (CUDA where there is one), "cpu" or "cuda".

    Raises:
        InputError: for another name, or CUDA where there is none.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise InputError("unknown device", got=repr(name), expected="auto, cpu or cuda", remedy="choose one of these")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "no CUDA device", got="--device cuda", expected="a GPU that PyTorch can use", remedy="use --device cpu or auto"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def own_gpu(device: torch.device) -> torch.device:
    """Of several processes that torchrun started on a host, this one's GPU; else the device as it is."""
    if device.type != "cuda" or "LOCAL_RANK" not in os.environ:
        return device
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())


def try_count(
    model: AnyModel,
    shape: tuple[int, int, int, int],
    path: str = "released",
    *,
    fused_attention: bool = True,
) -> tuple[FlopCount | None, str | None]:
    """The model's counts on an evaluation path, or why there are none."""
    try:
        return count_flops(model, shape, path, fused_attention=fused_attention), None
    except (CountError, InputError, MixerError) as e:
        return None, " ".join(str(e).split())
    except Exception as e:  # a mixer that cannot be counted (on the meta device, by the tracer) may still run
        if is_out_of_memory(e):
            raise
        return None, f"it cannot be counted: {type(e).__name__}: {' '.join(str(e).split())[:300]}"


def counted_fields(count: FlopCount | None, error: str | None) -> dict[str, Any]:
    """What a row says of its MACs; a lower bound is never in the field of the number."""
    if count is None:
        return {"macs": None, "macs_error": error}
    bound = count.macs if count.number is None else None
    return {"macs": count.number, "macs_error": count.why_bound, "macs_sure": count.sure, "macs_at_least": bound}


def error_in_short(error: BaseException) -> str:
    """An error in a line: of bad input its message, of another also its kind."""
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, InputError | MixerError) else f"{type(error).__name__}: {text}".rstrip(": ")


def try_on_meta(build: Callable[[], object]) -> None:
    """Build a model on the meta device, to find what is wrong with a request before work begins.

    Raises:
        InputError, MixerError: for bad input. Any other error of a mixer is left to where the model is built for its work.
    """
    try:
        with torch.device("meta"):
            build()
    except (InputError, MixerError):
        raise
    except Exception:  # code of a mixer, which may be unfit for the meta device alone
        return


def dtype_name(recipe: Recipe) -> str:
    """The recipe's precision, as rows name it."""
    name = recipe.compute.precision
    return "float32" if name == "float32" else f"{name} autocast"


def precision_of(recipe: Recipe, device: torch.device) -> AbstractContextManager[object]:
    """The recipe's precision, for matrix products of what runs inside."""
    name = recipe.compute.precision
    return nullcontext() if name == "float32" else torch.autocast(device.type, getattr(torch, name))


def other_machine(here: Environment, there: Environment) -> str:
    """How another machine differs from this one in what the last digits of a sum depend on; empty if it does not."""

    def known(place: Environment) -> dict[str, object]:
        chosen = {key: getattr(place, key) for key in ("device", "threads", "tf32")}
        return chosen | {package: place.versions.get(package) for package in ("torch", "torchvision", "timm")}

    ours, theirs = known(here), known(there)
    return ", ".join(f"{key} {theirs[key]} (here {ours[key]})" for key in ours if ours[key] != theirs[key])


def writable_dir(path: Path) -> Path:
    """The directory, made and tried.

    Raises:
        InputError: if it cannot be made or written into.
    """
    with writing("the output", path, expected="a writable directory", remedy="choose another --out"):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    return path


def slug(name: str) -> str:
    """A name for a directory: the class of ``path/to/file.py:Class``, else the name itself, with its options."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name.rsplit(":", 1)[-1]).rstrip("-")
