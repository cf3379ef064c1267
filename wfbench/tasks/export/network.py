"""What is exported: a finished run's network by its trained weights, or a preset's with random ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixers import MixerError
from wfbench import models
from wfbench.errors import InputError
from wfbench.measure.latency import is_out_of_memory
from wfbench.models import AnyModel
from wfbench.recipe import Recipe
from wfbench.tasks.common import check_carried, error_in_short, factors_of
from wfbench.tasks.evaluate_weights import check_sizes
from wfbench.tasks.identity import Identity, changes, mixer_digest, model_digest
from wfbench.tasks.jobs import dense, dit
from wfbench.tasks.run_directory import RunRow, read_recipe, read_result, recorded_rows
from wfbench.tasks.weights import WeightsMetadata, check_weights, read_metadata, read_weights, weights_file
from wfbench.training.checkpoint import load_weights

#: Precisions that a model can be exported in, and the largest difference from the eager model's outputs that is allowed, in
#: units of the largest output (of 1, where that is less).
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}
#: The standard deviation of the noise on random weights.
NOISE = 0.02


@dataclass(frozen=True, eq=False)
class Network:
    """A model on the CPU, in evaluation, and what rows say of it.

    Attributes:
        model: the model.
        image_size: of its input, in its own unit.
        dtype: of its weights and inputs.
        fields: the fields of an `ExportRow` that say which model it is, and by which weights.
        about: what the file of the weights says of them; None for random ones, and files that say nothing.
        recipe: of a run; None for a preset.
        row: what the run's trainer recorded of these weights; None for a preset.
        notes: what is other than when the run was trained, in words.
    """

    model: AnyModel
    image_size: tuple[int, int]
    dtype: str
    fields: dict[str, Any]
    about: WeightsMetadata | None = None
    recipe: Recipe | None = None
    row: RunRow | None = None
    notes: tuple[str, ...] = ()

    @property
    def input_names(self) -> tuple[str, ...]:
        """Of the model's inputs: a classifier's images, a denoiser's x, t and y."""
        return ("x", "t", "y") if isinstance(self.model, models.DiT) else ("images",)

    def inputs(self, batch: int, seed: int = 0) -> tuple[Tensor, ...]:
        """Random inputs of ``batch`` samples."""
        found = self.model.example_inputs(batch, self.image_size, torch.Generator().manual_seed(seed))
        dtype = getattr(torch, self.dtype)
        return tuple(x.to(dtype) if x.is_floating_point() else x for x in found)


def of_run(run: Path, weights: str = "raw", *, image_size: int | None = None, dtype: str = "float32") -> Network:
    """A finished run's network; no data are opened.

    Args:
        run: the run directory.
        weights: "raw" or "ema".
        image_size: a side of the input in pixels; None: as it was trained.
        dtype: a key of `TOLERANCE`.

    Raises:
        InputError: for a run that is not finished, has no such weights, or is a probe's; for a size that does not fit.
        MixerError: for a mixer that is not there.
    """
    recipe, result = read_recipe(run), read_result(run)
    check_weights(run, weights, recipe)
    if recipe.data.probe is not None:
        raise InputError(
            "the network of a probe is not exported",
            got=f"{run}: a probe reads planes of symbols that nothing outside this bench makes",
            expected="the run of a classifier, of dense prediction or of a denoiser",
            remedy="its weights are in model.safetensors; wfbench.models.create_dense makes the model that they fit",
        )
    row = next((row for row in recorded_rows(run) if row.weights == weights), result)
    path = weights_file(run, weights)
    tensors, sha256 = read_weights(path)
    model = build(recipe, tensors, path)
    load_weights(model, tensors, str(path))
    now = Identity(mixer_digest=mixer_digest(row.mixer, row.between), model_digest=model_digest(), data_digest=None)
    fields = {
        "model": recipe.model.name,
        **factors_of(model.config),
        **{name: getattr(row, name) for name in ("recipe", "recipe_digest", "seed", "data_digest", "passed_over")},
        "mixer_digest": now.mixer_digest,
        "model_digest": now.model_digest,
        "weights": weights,
        "weights_sha256": sha256,
    }
    changed = changes(row, now, ("mixer code", "model code"))
    notes = tuple(f"exported with other code than the run's: {line}" for line in changed)
    return _network(model, image_size, dtype, fields, about=read_metadata(path), recipe=recipe, row=row, notes=notes)


def build(recipe: Recipe, tensors: dict[str, Tensor], where: Path) -> AnyModel:
    """The recipe's model, with as many outputs as the weights have classes; its values are any.

    Raises:
        InputError: for weights without a head or a class table, or a model that cannot be.
    """
    section = recipe.model
    names = ("head.bias", "decoder.head.bias", "y_embedder.embedding_table.weight")
    found = next((tensors[name] for name in names if name in tensors), None)
    last = [tensor for key, tensor in tensors.items() if key.startswith("decoder.") and key.endswith(".bias")]
    if found is None and recipe.task == "dense" and last:  # dpt ends in its last convolution
        found = last[-1]
    if found is None:
        raise InputError(
            "the weights do not say how many classes they have",
            got=f"{where}, without {' or '.join(names)}",
            expected="the weights of a run",
            remedy="put the run's model.safetensors back, or train it again",
        )
    match recipe.task:
        case "classify":
            return models.create(section.name, section.mixer, section.image_size, len(found), **section.overrides())
        case "dense":
            return dense.build(recipe, len(found))
        case _:
            channels = tensors["x_embedder.proj.weight"].shape[1] if recipe.data.source == "latents" else None
            return dit.build(recipe, len(found) - 1, channels)


def of_preset(
    name: str,
    mixer: str | None = None,
    image_size: int | None = None,
    num_classes: int | None = None,
    *,
    seed: int = 0,
    dtype: str = "float32",
    **overrides: object,
) -> Network:
    """A preset's network with random weights: the initial values of ``seed``, and noise, so that no branch of it is zero.

    Raises:
        InputError, MixerError: as `wfbench.models.create`; for a size that does not fit, or a model that is too large.
    """
    try:
        model = models.create(name, mixer, image_size, num_classes, seed=seed, **overrides)
    except (InputError, MixerError):
        raise
    except Exception as e:
        if not is_out_of_memory(e):
            raise InputError(
                "the model cannot be made",
                got=f"{name} with {mixer} at image size {image_size}: {error_in_short(e)}",
                expected="a mixer that can be made for this model and size",
                remedy="choose another mixer or size; `wfbench verify MIXER` says more",
            ) from e
        raise InputError(
            "no room for the model",
            got=f"{name}, image size {image_size}, {num_classes} classes: {' '.join(str(e).split())[:200]}",
            expected="a model that fits into memory",
            remedy="choose a smaller --image-size, or fewer --classes",
        ) from e
    check_carried(model.config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=NOISE)
    config = model.config
    fields = {
        "model": name,
        **factors_of(config),
        "mixer_digest": mixer_digest(config.mixer, config.between),
        "model_digest": model_digest(),
        "weights": "random",
        "seed": seed,
    }
    return _network(model, None, dtype, fields)


def _network(model: AnyModel, image_size: int | None, dtype: str, fields: dict[str, Any], **more: Any) -> Network:
    if dtype not in TOLERANCE:
        raise InputError(
            "unknown precision", got=f"--dtype {dtype}", expected=", ".join(TOLERANCE), remedy="choose one of these"
        )
    size = model.config.image_size if image_size is None else (image_size, image_size)
    check_sizes([size], model.config.patch_size)
    model.to(getattr(torch, dtype)).eval().requires_grad_(False)
    network = Network(model, size, dtype, fields, **more)
    try:
        with torch.no_grad():
            model(*network.inputs(1))  # a mixer that is made for one grid says so now
    except (InputError, MixerError):
        raise
    except Exception as e:  # an operator that has no such precision on the CPU, a grid that a mixer does not take
        raise InputError(
            "the model does not run here",
            got=f"{fields['model']} with {fields['mixer']} in {dtype} at {size[0]}×{size[1]}: {error_in_short(e)}",
            expected="a model that runs in this precision on the CPU",
            remedy="export in float32" if dtype != "float32" else "choose another mixer or size",
        ) from e
    return network


def outputs(network: Network, inputs: Sequence[Tensor]) -> Tensor:
    """What the eager model gives."""
    with torch.no_grad():
        return network.model(*inputs)
