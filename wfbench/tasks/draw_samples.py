"""``wfbench sample``: pictures from a trained denoiser, in parts that are whole or absent, by any number of processes.

Part k holds `PART` samples and belongs to the process whose rank is k modulo their number. Sample i shows class i modulo the
classes, and all its noise follows from (seed, i): so neither batches, nor processes, nor an interruption change it, up to what
rounding does in batches of other sizes. When all parts are there they are put together; ``protocol.json`` comes last, and
where it is the set is whole.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wfbench import files, records
from wfbench import recipe as recipes
from wfbench.data.codecs import Codec, PixelCodec, VAECodec
from wfbench.data.latents import check_process
from wfbench.diffusion import Sampler, sample
from wfbench.errors import InputError, check_finite, did_you_mean, writing
from wfbench.models import DiT
from wfbench.recipe import Recipe
from wfbench.records import PictureRow
from wfbench.strict import read_object
from wfbench.tasks import hub
from wfbench.tasks.common import dtype_name, factors_of, precision_of, writable_dir
from wfbench.tasks.jobs import dit
from wfbench.tasks.run_directory import PUT_BACK, read_recipe, read_result
from wfbench.tasks.weights import check_weights, read_weights, weights_file
from wfbench.training.checkpoint import load_weights

#: Samples in a part.
PART = 64
PROTOCOL, SAMPLES, GRID = "protocol.json", "samples.npz", "grid.png"


@dataclass(frozen=True)
class SampleRequest:
    """What is sampled, and how.

    Attributes:
        run: a run directory of a denoiser.
        num: how many samples.
        sampler: how they are drawn.
        weights: "ema" or "raw".
        seed: of the noise.
        batch: samples at once.
        vae: the autoencoder's directory, for a run on latents; None: the recipe's.
        out: where they go; None: a directory in ``run/samples`` whose name says all of the above.
        rank: of this process, from 0.
        processes: how many share the work, each called with the same settings.
    """

    run: Path
    num: int
    sampler: Sampler
    weights: str = "ema"
    seed: int = 0
    batch: int = 64
    vae: Path | None = None
    out: Path | None = None
    rank: int = 0
    processes: int = 1


#: For an error about a file beside samples.
_WRITTEN = "the JSON that `wfbench sample` wrote"
_ANOTHER = "choose another --out"


def sampler_of(
    recipe: Recipe,
    *,
    name: str | None = None,
    steps: int | None = None,
    cfg: float | None = None,
    cfg_channels: str | None = None,
) -> Sampler:
    """The recipe's sampler, with what is given in place of what it says.

    Raises:
        InputError: for what no sampler can have, or guidance of a model that was trained without the null class.
    """
    section = denoiser(recipe).sampling
    channels = cfg_channels or section.cfg_channels
    if channels not in ("released", "all"):
        raise InputError(
            "unknown channels to guide",
            got=repr(channels),
            expected="released (the first three) or all",
            remedy=did_you_mean(channels, ("released", "all")),
        )
    sampler = Sampler(
        name or section.sampler,  # type: ignore[arg-type]  # Sampler refuses another
        section.steps if steps is None else steps,
        section.cfg if cfg is None else cfg,
        3 if channels == "released" else None,
    )
    if sampler.cfg != 1 and not denoiser(recipe).label_dropout:
        raise InputError(
            "the model was trained without the null class",
            got=f"cfg {sampler.cfg}, label_dropout 0",
            expected="cfg 1",
            remedy="--cfg 1; for guidance, train with diffusion.label_dropout=0.1",
        )
    return sampler


def denoiser(recipe: Recipe) -> recipes.DiffusionSection:
    """What a recipe says of diffusion.

    Raises:
        InputError: for a classifier.
    """
    if recipe.diffusion is None:
        raise InputError(
            "not the run of a denoiser",
            got=f"task: {recipe.task}",
            expected="task: dit",
            remedy="name the run of a denoiser; to train one: wfbench train --recipe dit-digits",
        )
    return recipe.diffusion


def load_model(run: Path, weights: str, device: torch.device) -> tuple[DiT, Recipe, str]:
    """A finished run's model with its "raw" or "ema" weights, its recipe, and the SHA-256 of the weights; no data are opened.

    Raises:
        InputError: for a run that is not finished, is no denoiser's, or has no such weights.
    """
    recipe = read_recipe(run)
    denoiser(recipe)
    read_result(run)
    check_weights(run, weights, recipe)
    path = weights_file(run, weights)
    tensors, sha256 = read_weights(path)
    table, patches = tensors.get("y_embedder.embedding_table.weight"), tensors.get("x_embedder.proj.weight")
    if table is None or patches is None:
        raise InputError(
            "not the weights of a denoiser", got=str(path), expected="a class table and a patch embedding", remedy=PUT_BACK
        )
    latent_channels = patches.shape[1] if recipe.data.source == "latents" else None
    model = dit.build(recipe, len(table) - 1, latent_channels)
    load_weights(model, tensors, str(path))
    return model.to(device).eval(), recipe, sha256


def draw(request: SampleRequest, *, device: torch.device, done: Callable[[int], None] = lambda samples: None) -> Path | None:
    """Draw the samples that belong to this process and are not there yet; put the set together if no other lacks.

    Args:
        request: what and how.
        device: where.
        done: told the samples that are through, a batch at a time; those of parts that were there at once.

    Returns:
        The directory with ``samples.npz`` (NHWC, uint8, ``arr_0``; classes, ``arr_1``), ``grid.png`` and ``protocol.json``;
        None while parts of other processes are missing. A record of the grid, for the report, lies beside them.

    Raises:
        InputError: for a run, an autoencoder or settings that cannot be, or a directory of other settings.
    """
    if request.num < 1 or request.batch < 1:
        got = f"{request.num} samples in batches of {request.batch}"
        raise InputError(
            "nothing can be sampled so",
            got=got,
            expected="at least 1 of each",
            remedy="leave --num and --batch out, for 100 samples in batches of 64",
        )
    check_process(request.rank, request.processes)
    model, recipe, sha256 = load_model(request.run, request.weights, device)
    codec = _codec(request, recipe, model, device)
    protocol = _protocol(request, recipe, model, codec, sha256, device)
    out = request.out or hub.results_of(request.run, "samples") / _name(protocol)
    writable_dir(out)
    if not (out / PROTOCOL).is_file():
        _agree(out, protocol)
        for k in range(request.rank, -(-request.num // PART), request.processes):
            indices = range(k * PART, min((k + 1) * PART, request.num))
            if _is_whole(path := _part(out, k), len(indices)):
                done(len(indices))
            else:
                _save(path, _pictures(request, model, recipe, codec, indices, device, done))
    else:
        _check_samples(out, protocol)
    config = model.config
    picture = PictureRow(
        environment=records.stamp(device.type),
        model=recipe.model.name,
        **factors_of(config),
        caption=f"seed {recipe.seed}, {protocol['weights']} weights, {protocol['sampler']} {protocol['steps']} steps, "
        f"cfg {protocol['cfg']:g}, noise seed {protocol['sample_seed']}; a row for each class",
        picture="",
    )
    return _assemble(out, protocol, model.num_classes, picture)


def _pictures(
    request: SampleRequest,
    model: DiT,
    recipe: Recipe,
    codec: Codec,
    indices: range,
    device: torch.device,
    done: Callable[[int], None],
) -> np.ndarray:
    """Samples as pictures (N, H, W, C), uint8."""
    found = []
    for start in range(indices.start, indices.stop, request.batch):
        chosen = range(start, min(start + request.batch, indices.stop))
        labels = torch.tensor([i % model.num_classes for i in chosen])
        with precision_of(recipe, device):
            x = sample(model, labels, request.sampler, seed=request.seed, indices=chosen)
        check_finite(x, "samples are", f"samples {chosen.start} to {chosen.stop - 1} of the {recipe.name} denoiser")
        pictures = codec.decode(x)
        check_finite(pictures, "decoded samples are", f"samples {chosen.start} to {chosen.stop - 1}")
        found.append(to_uint8(pictures))
        done(len(chosen))
    return np.concatenate(found)


def to_uint8(images: Tensor) -> np.ndarray:
    """Pictures (B, C, H, W) around [-1, 1] as (B, H, W, C) from 0 to 255, to the nearest; what lies outside is clipped."""
    return (images.float() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def _codec(request: SampleRequest, recipe: Recipe, model: DiT, device: torch.device) -> Codec:
    channels = model.config.in_channels
    directory = request.vae or denoiser(recipe).vae
    if recipe.data.source != "latents":
        if request.vae is not None:
            raise InputError(
                "a model of pixels needs no autoencoder",
                got=f"--vae {request.vae}",
                expected="no --vae",
                remedy="leave --vae out",
            )
        return PixelCodec(channels)
    if directory is None:
        raise InputError(
            "the samples are latents, and nothing decodes them",
            got="no --vae, and diffusion.vae = null",
            expected="the directory of an autoencoder",
            remedy="--vae DIRECTORY; nothing is downloaded",
        )
    codec = VAECodec(directory, device)
    if codec.channels != channels:
        got = f"{codec.channels} channels of {directory}"
        raise InputError(
            "the autoencoder has other latents than the model",
            got=got,
            expected=f"{channels} channels",
            remedy="give the autoencoder that encoded the training data",
        )
    return codec


def _protocol(
    request: SampleRequest, recipe: Recipe, model: DiT, codec: Codec, sha256: str, device: torch.device
) -> dict[str, Any]:
    """All that the samples depend on, as scores will say it."""
    sampler = request.sampler
    channels = min(sampler.cfg_channels or codec.channels, codec.channels)
    return {
        "weights": request.weights,
        "weights_sha256": sha256,
        "sampler": sampler.name,
        "steps": sampler.steps,
        "cfg": sampler.cfg,
        "cfg_channels": None if sampler.cfg == 1 or channels == codec.channels else channels,
        "decoder": codec.name + (f" {codec.digest[:12]}" if codec.digest else ""),
        "dtype": dtype_name(recipe),
        "device": device.type,
        "sample_seed": request.seed,
        "samples": request.num,
        "classes": model.num_classes,
        "labels": "i modulo classes",
        "image_size": [side * codec.downsample for side in model.config.image_size],
    }


def _name(protocol: dict[str, Any]) -> str:
    channels = "" if protocol["cfg_channels"] is None else f"x{protocol['cfg_channels']}"
    drawn = f"{protocol['sampler']}{protocol['steps']}-cfg{protocol['cfg']:g}{channels}"
    decoder = protocol["decoder"].replace(" ", "-")
    return f"{protocol['weights']}-{drawn}-{decoder}-n{protocol['samples']}-s{protocol['sample_seed']}"


def _agree(out: Path, protocol: dict[str, Any]) -> None:
    """Write the settings down before any part, or find the same there."""
    path = out / "settings.json"
    if not path.is_file():
        _write_json(path, protocol)
    if wrong := _differences(read_object(path, "samples' settings", _WRITTEN, _ANOTHER), protocol):
        raise _other(out, wrong)


def _check_samples(out: Path, protocol: dict[str, Any]) -> None:
    """See that a directory with a protocol holds its samples, of these settings."""
    there = read_object(out / PROTOCOL, "samples' protocol", _WRITTEN, _ANOTHER)
    if wrong := _differences(there, protocol):
        raise _other(out, wrong)
    samples = out / SAMPLES
    if not samples.is_file() or files.sha256(samples) != there.get("samples_sha256"):
        raise InputError(
            "the samples are not those of their protocol",
            got=f"{samples}: {'another file' if samples.exists() else 'no such file'}",
            expected=f"the file that {out / PROTOCOL} is of",
            remedy=f"put it back; or remove {PROTOCOL}, and they are drawn again",
        )


def _differences(there: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return [f"{key}: {there.get(key)!r} there, {value!r} now" for key, value in now.items() if there.get(key) != value]


def _other(out: Path, wrong: list[str]) -> InputError:
    return InputError(
        "the directory holds samples of other settings",
        got=f"{out}: {'; '.join(wrong)}",
        expected="the settings it was begun with",
        remedy=_ANOTHER,
    )


def _assemble(out: Path, protocol: dict[str, Any], classes: int, picture: PictureRow) -> Path | None:
    """Put the parts together, once, whichever process comes first to find all of them."""
    parts = [_part(out, k) for k in range(-(-protocol["samples"] // PART))]
    with _writing(out):
        with (out / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (out / PROTOCOL).is_file():
                if not all(_is_whole(part, min(PART, protocol["samples"] - k * PART)) for k, part in enumerate(parts)):
                    return None
                images = np.concatenate([np.load(part) for part in parts])
                labels = np.arange(len(images)) % classes
                with files.whole(out / SAMPLES) as part, part.open("wb") as file:
                    np.savez(file, arr_0=images, arr_1=labels)
                _grid(images, classes).save(out / GRID)
                grid = picture.model_copy(update={"picture": base64.b64encode((out / GRID).read_bytes()).decode()})
                files.write_whole(out / "records.jsonl", grid.model_dump_json() + "\n")
                _write_json(out / PROTOCOL, protocol | {"samples_sha256": files.sha256(out / SAMPLES)})
            for rest in (*parts, out / "settings.json"):
                rest.unlink(missing_ok=True)
        (out / ".lock").unlink(missing_ok=True)
    return out


def _grid(images: np.ndarray, classes: int) -> Image.Image:
    """The first samples of the first classes, a row for each class, small pictures enlarged, a grey line between.

    At most 10 of each, and about 1024 pixels a side.
    """
    height, width, channels = images.shape[1:]
    most = max(1, min(10, 1024 // max(height, width)))
    rows = [images[c::classes][:most] for c in range(min(classes, most, len(images)))]
    scale = max(1, 48 // max(height, width))
    columns = max(map(len, rows))
    page = np.full((len(rows) * (height * scale + 2), columns * (width * scale + 2), channels), 96, dtype=np.uint8)
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            top, left = r * (height * scale + 2), c * (width * scale + 2)
            enlarged = image.repeat(scale, axis=0).repeat(scale, axis=1)
            page[top : top + height * scale, left : left + width * scale] = enlarged
    return Image.fromarray(page if channels == 3 else page[:, :, 0])


def _part(out: Path, k: int) -> Path:
    return out / f"part-{k:05d}.npy"


def _is_whole(path: Path, samples: int) -> bool:
    """Whether a part is there and holds so many samples; one that was cut is drawn again."""
    try:
        return len(np.load(path, mmap_mode="r")) == samples
    except (OSError, EOFError, ValueError, TypeError):
        return False


def _save(path: Path, images: np.ndarray) -> None:
    with _writing(path), files.whole(path, f".{os.getpid()}") as part, part.open("wb") as file:
        np.save(file, images)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with _writing(path):
        files.write_whole(path, json.dumps(content, indent=1) + "\n", f".{os.getpid()}")


def _writing(path: Path) -> AbstractContextManager[None]:
    return writing("samples", path, expected="a writable place with room", remedy="make room, and call it again")
