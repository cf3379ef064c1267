"""What there is to work with, and what it costs: models, recipes, sweeps, mixers, and what stands in a run's directory.

Costs are counts that follow from sizes. No hours are estimated: where a recipe's head names a time, it is quoted.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

import mixers
from mixers.base import MixerSpec, heads_of
from wfbench import models, shipped
from wfbench import recipe as recipes
from wfbench.analysis.claims import read_claims
from wfbench.data import open_dataset
from wfbench.errors import InputError
from wfbench.locks import is_locked
from wfbench.models import Config
from wfbench.recipe import Recipe
from wfbench.strict import read_text
from wfbench.tasks import run_directory
from wfbench.tasks.profile.classes import classes_of
from wfbench.tasks.run_directory import RunRow
from wfbench.tasks.sweep import SweepRequest, load_request
from wfbench.tasks.sweep.combinations import lines_of
from wfbench.tasks.sweep.match import build, macs_of, params_of
from wfbench.tasks.sweep.single_run import epochs_done

#: Forward passes that a step of training is counted as: one forward, and two for the backward pass.
PASSES = 3
#: Of sources whose files the user supplies: what is to be supplied, and training images and classes where the source is one
#: data set.
_SUPPLIED: Mapping[str, tuple[str, int | None, int | None]] = {
    "fashion": ("the four idx files of Fashion-MNIST", 60_000, 10),
    "cifar10": ("the binary batches of CIFAR-10, or an image folder of it", 50_000, 10),
    "folder": ("images in a folder for each class", None, None),
    "tar": ("images in archives", None, None),
    "webdataset": ("images in shards", None, None),
    "huggingface": ("a data set of Hugging Face on disk", None, None),
    "latents": ("latents, made by wfbench data extract-latents", None, None),
    "folder-seg": ("images and masks", None, None),
}
_EMBEDDED = {"digits": "scikit-learn's digits", "scenes": "scenes of scikit-learn's digits", "probe": "canvases of symbols"}
#: The token grids that a mixer's layer is counted on: of vit-tiny at 224 and at 448 px.
GRIDS = ((14, 14), (28, 28))
_DIM, _HEADS = 192, 3


@dataclass(frozen=True)
class ModelEntry:
    """A preset, with its own mixer.

    Attributes:
        name: of the preset.
        tasks: of recipes that it is for.
        mixer: its own.
        image_size: height and width of its input in pixels; of a latent's, for a denoiser of latents.
        channels: of its input.
        patch_size: in the same units.
        blocks, width, heads, mlp_ratio: of the Transformer; heads are of mixers that have them.
        classes: of its head.
        params: how many.
        macs: of one image's forward pass, on the order of evaluation that is quoted.
    """

    name: str
    tasks: tuple[str, ...]
    mixer: str
    image_size: tuple[int, int]
    channels: int
    patch_size: int
    blocks: int
    width: int
    heads: int
    mlp_ratio: float
    classes: int
    params: int
    macs: int


@dataclass(frozen=True)
class RecipeEntry:
    """A recipe, and what it takes.

    Attributes:
        name: of the recipe; file: where it lies.
        about: the first sentence of its head.
        task, model, mixer: as in the recipe; the mixer is the preset's where the recipe names none.
        data: what it trains on.
        supply: what the user has to supply; empty where all comes with the bench.
        epochs, batch: of the whole run.
        images: training images of an epoch; None where only the data say it.
        steps: of the whole run; None likewise.
        classes: of the head that is counted; assumed to be the preset's where only the data say it.
        params, macs: of the model, and of one image's forward pass; None where `why_no_cost` says why.
        work: MACs of the whole training, a step counted as three forward passes; None where images or MACs are.
        hardware, time: as its head says; None where it does not.
        papers: that its head names, by their number in arXiv.
    """

    name: str
    file: Path
    about: str
    task: str
    model: str
    mixer: str
    data: str
    supply: tuple[str, ...]
    epochs: int
    batch: int
    images: int | None
    steps: int | None
    classes: int
    params: int | None
    macs: int | None
    work: int | None
    why_no_cost: str | None
    hardware: str | None
    time: str | None
    papers: tuple[str, ...]


@dataclass(frozen=True)
class SweepEntry:
    """A sweep: its lines, seeds and recipes, and the runs that they make, trials of tuning left out; its claims."""

    name: str
    file: Path
    about: str
    recipes: tuple[str, ...]
    lines: int
    seeds: int
    runs: int
    claims: int


@dataclass(frozen=True)
class MixerEntry:
    """A mixer: its spec and docstring, its options with their defaults, and what its layers cost in a ViT-Tiny.

    Attributes:
        spec: what it declares.
        docstring: of its token layer.
        options: of its layers, each with its default in this mixer.
        params: of the token layer and the FFN's first Linear of a layer that carries the mixer, at 192 channels and 3 heads.
        macs: of both, by token grid; None for a mixer that declares none.
    """

    spec: MixerSpec
    docstring: str
    options: Mapping[str, object]
    params: int
    macs: Mapping[tuple[int, int], int] | None


@dataclass(frozen=True)
class RunEntry:
    """A run: its recipe, how it stands, and its result where it is finished."""

    place: Path
    recipe: Recipe
    state: Literal["finished", "running", "stopped"]
    epochs_done: int
    result: RunRow | None


def model_names() -> list[str]:
    """The presets, in the order of `wfbench.models`."""
    return list(models.PRESETS)


def describe_model(name: str) -> ModelEntry:
    """A preset.

    Raises:
        InputError: for an unknown one.
    """
    config = models.configure(name)
    with torch.device("meta"):  # shapes alone
        model = models.create(name)
    return ModelEntry(
        name=name,
        tasks=_tasks(config),
        mixer=config.mixer,
        image_size=config.image_size,
        channels=config.in_channels,
        patch_size=config.patch_size,
        blocks=config.depth,
        width=config.embed_dim,
        heads=heads_of(config.embed_dim, config.num_heads),
        mlp_ratio=config.mlp_ratio,
        classes=config.num_classes,
        params=params_of(model),
        macs=macs_of(model),
    )


def _tasks(config: Config) -> tuple[str, ...]:
    return ("dit",) if isinstance(config, models.DiTConfig) else ("classify", "dense")


def describe_recipe(name: str) -> RecipeEntry:
    """A recipe by name or path.

    Raises:
        InputError: for an unknown one, or one that cannot be read.
    """
    file, recipe = shipped.find(name, "recipes"), recipes.load(name)
    data, section = recipe.data, recipe.model
    supply, images, classes = _data_of(recipe)
    config = models.configure(section.name, section.mixer, section.image_size, classes, **section.overrides())
    params, macs, why = _cost(recipe, config.num_classes)
    head = read_head(file)
    return RecipeEntry(
        name=recipe.name,
        file=file,
        about=head.about,
        task=recipe.task,
        model=section.name,
        mixer=config.mixer,
        data=_EMBEDDED.get(data.source, data.source),
        supply=supply,
        epochs=recipe.epochs,
        batch=recipe.batch_size,
        images=images,
        steps=None if images is None else recipe.epochs * (images // recipe.batch_size),
        classes=config.num_classes,
        params=params,
        macs=macs,
        work=None if images is None or macs is None else PASSES * macs * images * recipe.epochs,
        why_no_cost=why,
        hardware=head.said.get("Hardware"),
        time=head.said.get("Time"),
        papers=head.papers,
    )


def _data_of(recipe: Recipe) -> tuple[tuple[str, ...], int | None, int | None]:
    """What has to be supplied; training images of an epoch and classes, where they are known without the user's files."""
    data = recipe.data
    supply, images, classes = _SUPPLIED.get(data.source, ("", None, None))
    if data.source == "digits":
        images = len(open_dataset(data).train)
    elif data.dense is not None and data.source == "scenes":
        supply, images = ("" if data.dense.crops == "digits" else _SUPPLIED["fashion"][0]), data.dense.train
    elif data.dense is not None and data.dense.layout == "ade20k":
        supply, classes = "ADE20K, as it was released", 150
    elif data.probe is not None:
        images = data.probe.train
    if not supply:
        classes = classes_of(recipe, None)
    if data.limit is not None:
        images = data.limit
    weights = recipe.model.init_weights is not None
    return (*([supply] if supply else []), *(["weights to begin from"] if weights else [])), images, classes


def _cost(recipe: Recipe, classes: int) -> tuple[int | None, int | None, str | None]:
    """Parameters and MACs of a recipe's model, or why they are not known."""
    try:
        model = build(recipe, classes)
        return params_of(model), macs_of(model), None
    except (InputError, mixers.MixerError) as e:  # such as a decoder of a package that is not installed
        return None, None, " ".join(str(e).split())


@dataclass(frozen=True)
class Head:
    """The comment at the head of a YAML file: its first sentence, what stands behind Hardware, Time and others, and papers."""

    about: str
    said: Mapping[str, str]
    papers: tuple[str, ...]


def read_head(file: Path) -> Head:
    """The comment that a YAML file begins with.

    Raises:
        InputError: for a file that cannot be read.
    """
    lines = []
    for line in read_text(file, "file", "YAML").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" "))
    whole = "\n".join(lines)
    first = " ".join(whole.partition("\n\n")[0].split())
    about = re.split(r"(?<=[a-z)\d])\. (?=[A-Z])", first)[0].removesuffix(".")
    found = re.findall(r"^([A-Z][A-Za-z ]+): +(.+(?:\n {3,}.+)*)", whole, flags=re.M)
    papers = dict.fromkeys(re.findall(r"arXiv (\d{4}\.\d{5})", whole))
    return Head(about, {key: " ".join(text.split()) for key, text in found}, tuple(papers))


def describe_sweep(name: str) -> SweepEntry:
    """A sweep by name or path.

    Raises:
        InputError: for an unknown one, one that cannot be read, or whose claims cannot be.
    """
    file, request = shipped.find(name, "sweeps"), load_request(name, {})
    lines = len(list(lines_of(request)))
    return SweepEntry(
        name=file.stem,
        file=file,
        about=read_head(file).about,
        recipes=request.recipes,
        lines=lines,
        seeds=len(request.seeds),
        runs=lines * len(request.seeds) * len(request.recipes) * _variations(request),
        claims=0 if request.claims is None else len(read_claims(Path(request.claims)).file.claims),
    )


def _variations(request: SweepRequest) -> int:
    number = 1
    for values in request.vary.values():
        number *= len(values)
    return number


def describe_mixer(name: str) -> MixerEntry:
    """A mixer, by any of its names.

    Raises:
        MixerError: for an unknown one.
    """
    spec = mixers.spec(name)
    token = mixers.create(name, _DIM, num_heads=_HEADS, grid=GRIDS[0])
    ffn_in = mixers.create_ffn_in(name, _DIM, 4 * _DIM, num_heads=_HEADS, grid=GRIDS[0])
    layers = (token, ffn_in)
    return MixerEntry(
        spec=spec,
        docstring=inspect.getdoc(type(token)) or "",
        options=mixers.defaults(name),
        params=sum(parameter.numel() for layer in layers for parameter in layer.parameters()),
        macs=_macs_by_grid(name) if all(hasattr(layer, "macs") for layer in layers) else None,
    )


def _macs_by_grid(name: str) -> dict[tuple[int, int], int]:
    """Of both layers, which are made anew for each grid: parameters may depend on it."""
    found = {}
    for grid in GRIDS:
        token: Any = mixers.create(name, _DIM, num_heads=_HEADS, grid=grid)
        ffn_in: Any = mixers.create_ffn_in(name, _DIM, 4 * _DIM, num_heads=_HEADS, grid=grid)
        found[grid] = int(token.macs(grid) + ffn_in.macs(grid))
    return found


def describe_run(place: Path) -> RunEntry:
    """A run, by its directory.

    Raises:
        InputError: for a directory of no run, or a result that cannot be read.
    """
    recipe = run_directory.read_recipe(place)
    if (place / "result.json").is_file():
        return RunEntry(place, recipe, "finished", recipe.epochs, run_directory.read_result(place))
    return RunEntry(place, recipe, "running" if is_locked(place) else "stopped", epochs_done(place), None)
