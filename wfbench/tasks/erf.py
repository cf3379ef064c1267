"""Effective receptive fields: where in the image the central token's features get their gradient from."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mixers.base import Grid
from wfbench import models, records
from wfbench import recipe as recipes
from wfbench.analysis.receptive_fields import encode
from wfbench.data import Split, Subset, eval_batches
from wfbench.errors import InputError
from wfbench.models import VisionTransformer
from wfbench.records import ErfRow
from wfbench.tasks.common import check_carried, factors_of
from wfbench.tasks.identity import check_data
from wfbench.tasks.jobs import classify
from wfbench.tasks.run_directory import PUT_BACK, read_recipe, read_result
from wfbench.tasks.weights import weights_file
from wfbench.training import checkpoint

#: Radii, in tokens, outside which the share of the energy is recorded: those that the image has room for.
RADII = (0.75, 1.5, 2.5, 4.5, 8.5)

Features = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ErfRequest:
    """What maps are made of; the defaults are the command's.

    Attributes:
        images: how many images the energy is averaged over.
        draws: random projections of the features per image.
        seed: of the choice of images, of the projections, of noise images, and of the weights of a model that belongs to
            no run.
    """

    images: int = 32
    draws: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.images < 1 or self.draws < 1:
            raise InputError(
                "nothing to average over",
                got=f"{self.images} images, {self.draws} draws",
                expected="1 or more",
                remedy="leave --images and --draws out, for 32 and 2",
            )


def energy_map(
    features: Features, images: Tensor, grid: Grid, *, prefix_tokens: int = 0, draws: int = 2, seed: int = 0
) -> NDArray[np.float64]:
    """E(p) = mean over images of Σ_channels Σ_k (∂f_k / ∂x_p)², scaled so that all pixels sum to 1.

    f are the features of the token in row ⌊H/2⌋ and column ⌊W/2⌋ of the grid. The sum over k is the mean of
    (∂ v·f / ∂x_p)² over random signs v, of which ``draws`` are taken per image, so one backward pass serves all features.
    The sum Σ_k f_k that is common elsewhere (v = 1) would read 0 here: a LayerNorm makes it constant.

    Shapes: images (B, C, h, w); features (B, N, D); result (h, w).
    Source: Luo et al., arXiv 1701.04128, for the gradient of the central unit; Hutchinson (1990) for the random signs.

    Raises:
        InputError: if no gradient reaches the image, or one that is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    place = prefix_tokens + (grid[0] // 2) * grid[1] + grid[1] // 2
    energy = torch.zeros(images.shape[-2:], dtype=torch.float64, device=images.device)
    for image in images.split(1):  # one at a time: signs are drawn for each, and the memory is that of one
        x = image.clone().requires_grad_()
        central = features(x)[0, place]  # (D,)
        for draw in range(draws):
            signs = torch.randint(2, central.shape, generator=generator).to(central) * 2 - 1
            (gradient,) = torch.autograd.grad(central @ signs, x, retain_graph=draw < draws - 1)
            energy += gradient[0].double().square().sum(dim=0)
    total = energy.sum()
    if not torch.isfinite(total) or not total > 0:
        raise InputError(
            "the central token has no receptive field",
            got=f"a gradient whose energy sums to {total.item():g}",
            expected="a finite gradient that is not 0 everywhere",
            remedy="check the weights: a model that diverged has none",
        )
    return (energy / total).cpu().numpy()


def distances(image_size: tuple[int, int], grid: Grid) -> NDArray[np.float64]:
    """The distance of each pixel's centre from the centre of the central token's patch, in tokens; (h, w)."""
    sides = [
        np.abs((np.arange(size) + 0.5) * count / size - (count // 2 + 0.5))
        for size, count in zip(image_size, grid, strict=True)
    ]
    return np.hypot(sides[0][:, None], sides[1][None, :])


def measure(model: VisionTransformer, images: Tensor, request: ErfRequest) -> dict[str, object]:
    """The fields of an `ErfRow` that a model's map gives."""
    model.eval()
    patch = model.config.patch_size
    size = (int(images.shape[-2]), int(images.shape[-1]))
    grid = (size[0] // patch, size[1] // patch)
    energy = energy_map(
        model.forward_features,
        images,
        grid,
        prefix_tokens=model.num_prefix_tokens,
        draws=request.draws,
        seed=request.seed,
    )
    away = distances(size, grid)
    radii = tuple(radius for radius in RADII if radius < away.max()) or RADII[:1]
    order = np.argsort(away, axis=None)
    within = np.cumsum(energy.ravel()[order])
    patches = energy.reshape(grid[0], patch, grid[1], patch).sum(axis=(1, 3))
    return {
        "token": (grid[0] // 2, grid[1] // 2),
        "radii": radii,
        "outside": tuple(float(energy[away > radius].sum()) for radius in radii),
        "half_radius": float(away.ravel()[order][min(int(np.searchsorted(within, 0.5)), len(within) - 1)]),
        "reached": float((patches > 0).mean()),
        "picture": encode(energy),
    }


def choose_images(split: Split, count: int, seed: int) -> Subset:
    """So many images of a split, or all if it has fewer, drawn by ``seed``: the first ones are often all of one class."""
    order = np.random.default_rng(seed).permutation(len(split))
    return Subset(split, sorted(order[:count].tolist()))


def of_run(run: Path, request: ErfRequest, device: torch.device) -> Iterator[ErfRow]:
    """The maps of a finished run, on its held-out images: as its seed initialised it, then as it was trained.

    Raises:
        InputError: if ``run`` is no finished run of a classifier, or its weights do not fit its config.
    """
    row, recipe = read_result(run), read_recipe(run)
    if recipe.task != "classify":
        raise InputError(
            "only runs of classifiers are mapped",
            got=f"{run}: task: {recipe.task}",
            expected="task: classify",
            remedy="name a classifier's run, or map fresh models: wfbench erf --mixer NAME",
        )
    prepared = classify.prepare(recipe)
    check_data(run, prepared.dataset, "val")
    model, some = prepared.model, choose_images(prepared.dataset.val, request.images, request.seed)
    batches = eval_batches(some, recipe.data, prepared.image_size, prepared.in_channels, batch_size=len(some))
    images = next(iter(batches))[0].to(device)
    weights = weights_file(run, "raw")
    remade = row.recipe_digest == recipes.digest(recipe)
    if not remade:
        warnings.warn(
            f"{run} began with values that this version does not draw: it is mapped as it was trained only", stacklevel=2
        )
    for stage in ("fresh", "trained") if remade else ("trained",):
        if stage == "trained":
            try:
                checkpoint.load_weights(model, load_file(weights), str(weights))
            except (OSError, SafetensorError) as e:
                raise InputError(
                    "cannot read the weights", got=f"{weights}: {e}", expected="the final weights of the run", remedy=PUT_BACK
                ) from e
        fields = measure(model.to(device), images, request)
        extra = {"weights": stage, "seed": row.seed, "recipe": row.recipe, "recipe_digest": row.recipe_digest}
        yield _row(model, row.model, device, fields | extra | {"images": row.dataset, "image_count": len(images)})


def of_mixer(mixer: str | None, name: str, resolution: int | None, request: ErfRequest, device: torch.device) -> ErfRow:
    """The map of a freshly initialised model on normal noise, which has the mean and deviation of normalised images.

    Raises:
        InputError, MixerError: for a model or mixer that cannot be.
    """
    model = models.create(name, mixer, resolution, seed=request.seed).to(device)
    check_carried(model.config)
    generator = torch.Generator().manual_seed(request.seed)
    shape = (request.images, model.config.in_channels, *model.config.image_size)
    images = torch.randn(shape, generator=generator).to(device)
    fields = measure(model, images, request)
    extra = {"weights": "fresh", "seed": request.seed, "images": "normal noise", "image_count": request.images}
    return _row(model, name, device, fields | extra)


def _row(model: VisionTransformer, name: str, device: torch.device, fields: dict[str, object]) -> ErfRow:
    config = model.config
    return ErfRow.model_validate(
        fields
        | {
            "environment": records.stamp(device.type),
            "model": name,
            **factors_of(config),
            "image_size": config.image_size,
            "patch_size": config.patch_size,
            "depth": config.depth,
            "embed_dim": config.embed_dim,
        }
    )
