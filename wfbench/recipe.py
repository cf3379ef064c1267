"""Recipes: everything that decides a training run, typed, strict, in YAML.

An unknown key is an error with the nearest known one. ``load("digits", ["optim.lr=1e-3"])`` reads a recipe by name or
path and overrides single keys; what it returns is frozen, and written whole into the run directory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import Field, ValidationInfo, field_validator, model_validator

from wfbench import shipped, strict
from wfbench.errors import InputError
from wfbench.strict import Section as _Section

#: Of the way in which random numbers follow from the seed. 1: initial values in the order of construction, drop-path from
#: PyTorch's state. 2: both by name. It is in the digest, for another way makes other runs of the same seed.
DRAWS = 2

#: Sources of images with a class for each pixel.
DENSE_SOURCES = ("scenes", "folder-seg")
#: Sources of task: dense.
_LABELLED = (*DENSE_SOURCES, "probe")

_Side = Annotated[int, Field(ge=1)]
_Beta = Annotated[float, Field(ge=0, lt=1)]


class ModelSection(_Section):
    """Which model: a preset, a mixer, and what differs from the preset (None: as the preset has it)."""

    name: str = "vit-tiny"
    mixer: str | None = Field(None, min_length=1)
    image_size: _Side | tuple[_Side, _Side] = 224
    patch_size: int | None = Field(None, ge=1)
    #: 1 or 3; of a probe, as many as it has symbols.
    in_channels: int | None = Field(None, ge=1)
    embed_dim: int | None = Field(None, ge=1)
    depth: int | None = Field(None, ge=1)
    num_heads: int | None = Field(None, ge=1)
    mlp_ratio: float | None = Field(None, gt=0)
    drop_path: float | None = Field(None, ge=0, lt=1)
    class_token: bool | None = None
    #: True is read as "learned", False as "none".
    pos_embed: Literal["none", "learned", "sincos", "rope2d"] | None = None
    pos_init_std: float | None = Field(None, gt=0)
    pool: Literal["mean", "token"] | None = None
    local_conv: Literal["none", "dwc"] | None = None
    #: The layer schedule: layer i carries the mixer when i % every == offset, and ``between`` names the mixer that fills the
    #: other layers. None, all three: as the mixer has it.
    every: int | None = Field(None, ge=1)
    offset: int | None = Field(None, ge=0)
    between: str | None = Field(None, min_length=1)
    #: A safetensors file to begin from: of a run, of the WeightFormer release, or of timm's DeiT. A position embedding of
    #: another resolution is interpolated; a head for other classes is an error, unless ``init_head`` is "fresh".
    init_weights: str | None = None
    init_head: Literal["load", "fresh"] = "load"
    #: Options of the mixer's token layer, such as local: false for one with a convolution of its own.
    mixer_options: dict[str, bool | int | float | str] | None = None

    @field_validator("pos_embed", mode="before")
    @classmethod
    def _position_name(cls, value: object) -> object:
        return {True: "learned", False: "none"}[value] if isinstance(value, bool) else value

    def overrides(self) -> dict[str, Any]:
        """What differs from the preset, as keyword arguments of `wfbench.models.create`."""
        chosen = self.model_dump(exclude={"name", "mixer", "image_size", "init_weights", "init_head"})
        return {key: value for key, value in chosen.items() if value is not None}


class DenseDataSection(_Section):
    """Images with a class for each pixel: what `data.source` scenes composes, how folder-seg is read, how both are cropped."""

    #: The class number of a pixel without a label, in masks and after padding. It is none of the classes.
    ignore_index: int = Field(255, ge=0, le=255)
    #: Of scenes: whose images are pasted; "fashion" needs data.path.
    crops: Literal["digits", "fashion"] = "digits"
    #: Of scenes: so many in an epoch, which are others in each epoch, and so many held out, which stay the same.
    train: int = Field(2000, ge=1)
    held_out: int = Field(500, ge=1)
    #: Of scenes: the fewest and the most objects on 64x64 pixels, and the shortest and the longest side of one, in pixels.
    objects: tuple[_Side, _Side] = (4, 8)
    object_size: tuple[_Side, _Side] = (12, 24)
    #: Of scenes: pieces of such images on 64x64 pixels that belong to the background.
    clutter: int = Field(6, ge=0)
    #: Of scenes, on another canvas: "more" objects in proportion to its area, of the same sizes; or as many, "larger" in
    #: proportion to the root of its area. Clutter goes with them.
    growth: Literal["more", "larger"] = "more"
    #: Of folder-seg: images/, masks/ and classes.txt; or images/, annotations/ and objectInfo150.txt, as ADE20K was released.
    layout: Literal["plain", "ade20k"] = "plain"
    #: Of folder-seg: 0 in a mask is no label, and k is class k - 1. None: for layout ade20k alone.
    reduce_zero_label: bool | None = None
    #: Of augment: scale-crop: the image's shorter side, in units of the model's; then so large a share of a crop's labelled
    #: pixels may be of one class, or another crop is drawn, ten in all. None: any crop.
    scale: tuple[float, float] = (0.5, 2.0)
    max_class_share: float | None = Field(None, gt=0, le=1)
    #: Of folder-seg: evaluate images of their own size, or with the shorter side resized to the model's.
    eval_size: Literal["own", "shorter"] = "own"

    @model_validator(mode="after")
    def _consistent(self) -> DenseDataSection:
        for name, (low, high) in (("objects", self.objects), ("object_size", self.object_size), ("scale", self.scale)):
            if not 0 < low <= high:
                raise ValueError(f"{name} needs 0 < low <= high")
        if self.object_size[0] < 4:
            raise ValueError("object_size needs at least 4 pixels")
        return self


class ProbeSection(_Section):
    """A probe: canvases of symbols that ask a mixer for one ability. `wfbench.data.probes` has what each one is."""

    name: Literal["majority", "recall", "needle", "shift", "hop", "flood"]
    #: Levels of difficulty, the easiest first: each training canvas has one of them at random, and each is evaluated.
    levels: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = Field(min_length=1)
    #: Other grids, rows and columns, that the last level is evaluated on.
    grids: tuple[tuple[_Side, _Side], ...] = ()
    #: Canvases in an epoch, which are others in each epoch; and held out for each level and grid, which stay the same: two at
    #: least, for their spread is recorded.
    train: int = Field(6400, ge=1)
    held_out: int = Field(512, ge=2)
    #: Blank columns between context and queries: at least as many as the model has layers, since the 3×3 convolution of each
    #: sees one column further.
    gap: int = Field(2, ge=0)
    query_columns: int = Field(2, ge=1)
    #: How many symbols: keys and values of recall (values of needle too; keys are hop's symbols, 20 to 255 of them), colours of
    #: majority, symbols of shift.
    keys: int = Field(64, ge=2, le=4096)
    values: int = Field(32, ge=2, le=255)
    colours: int = Field(8, ge=2, le=255)
    symbols: int = Field(16, ge=2, le=255)
    #: Of recall: where pairs stand. "scattered": anywhere; "lattice": one in an aligned square of 2×2 tokens of the context;
    #: "packed": as many as such a square holds, so that pairs are adjacent.
    layout: Literal["scattered", "lattice", "packed"] = "scattered"
    #: Of recall: "token": key and value stand in one token; "neighbour": the value stands in the token to the right of its key.
    bind: Literal["token", "neighbour"] = "token"
    #: Numbers of steps after which results are reported, beside the last; those within the training are those of evaluations.
    budgets: tuple[Annotated[int, Field(ge=1)], ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> ProbeSection:
        for name in ("levels", "grids"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} names a value twice")
        falls = self.name == "majority"  # a large lead is easy
        ordered = sorted(self.levels, reverse=falls)
        if list(self.levels) != ordered:
            raise ValueError(
                f"levels stand easiest first, and of {self.name} the {'larger' if falls else 'smaller'} one is easier: "
                f"[{', '.join(f'{level:g}' for level in ordered)}]"
            )
        return self

    @property
    def unsaid(self) -> set[str]:
        """Settings that came after the first records and say what was so before: digests leave them out, and stay."""
        return {name for name in ("layout", "bind") if not _changed(self, name)}


class DataSection(_Section):
    """Which images, how they are split, augmented and normalised."""

    #: "digits": scikit-learn's, inside its wheel. "fashion": the four idx files of Fashion-MNIST. "cifar10": the binary
    #: batches of CIFAR-10, or an image folder of it. "folder": train/ and val/ with a folder for each class. "tar":
    #: train.tar and val.tar with a folder for each class. "webdataset": shards of NAME.jpg and NAME.cls. "huggingface": a
    #: data set on disk, through the package `datasets`. "latents": train/ and val/, each of a `wfbench data extract-latents`.
    #: With a class for each pixel: "scenes": composed of real digits or clothes. "folder-seg": images and masks. With an answer
    #: for each token: "probe".
    source: Literal[
        "digits", "fashion", "cifar10", "folder", "tar", "webdataset", "huggingface", "latents", "scenes", "folder-seg", "probe"
    ] = "digits"
    #: Where the images are (or ``--data``); nothing is ever downloaded.
    path: str | None = None
    #: Take so many training images, as many of each class, drawn by ``split_seed``; None: all.
    limit: int | None = Field(None, ge=1)
    #: For a source without a split of its own: the share held out, stratified, and the seed of the draw.
    holdout: float = Field(0.2, gt=0, lt=1)
    split_seed: int = Field(0, ge=0, lt=2**32)
    #: For tuning: hold out this share of the training images, stratified and drawn by ``split_seed``, and evaluate on it; the
    #: held-out images are then not looked at.
    validation: float | None = Field(None, gt=0, lt=1)
    #: Whether files that look like samples, and are not read, are passed over (and counted) or refused.
    pass_over: bool = False
    #: Of pictures of more than 8 bits, the values that become black and white. None: of 16 bits the upper eight; those of
    #: 32 bits or floats are refused.
    range: tuple[float, float] | None = None
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    #: "shift": resize to the model's size, then ``crop_padding`` and ``hflip``. "resized-crop": timm's training transform,
    #: a random crop of ``crop_scale`` and ``crop_ratio``, then all below. "scale-crop", of dense sources: resize by a random
    #: factor, then a crop, with padding where the image is too small; ``hflip`` and ``color_jitter``.
    augment: Literal["shift", "resized-crop", "scale-crop"] = "shift"
    #: Random shift by up to this many pixels (zero padding, then a random crop).
    crop_padding: int = Field(0, ge=0)
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)
    hflip: float = Field(0.0, ge=0, le=1)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    #: A policy as timm writes it, such as rand-m9-mstd0.5-inc1. timm applies color_jitter only where there is none.
    auto_augment: str | None = None
    color_jitter: float = Field(0.0, ge=0)
    #: Random erasing: its probability, and what is put there.
    erase: float = Field(0.0, ge=0, le=1)
    erase_mode: Literal["const", "rand", "pixel"] = "pixel"
    #: Evaluation resizes to size / eval_crop and cuts the centre out. "squash" resizes both sides to it, whatever the
    #: shape of the image, as the WeightFormer release does; "shorter" keeps the shape, as timm does.
    eval_resize: Literal["squash", "shorter"] = "squash"
    eval_crop: float = Field(1.0, gt=0, le=1)
    #: A training image that cannot be read stops the run, or the next readable one of its class takes its place; it is
    #: counted and named either way. Evaluation always stops.
    on_bad_image: Literal["error", "skip"] = "error"
    workers: int = Field(0, ge=0)
    #: Of the sources with a class for each pixel; None for all others.
    dense: DenseDataSection | None = Field(None, validate_default=True)
    #: Of source probe; None for all others.
    probe: ProbeSection | None = None

    @field_validator("dense")
    @classmethod
    def _dense_by_source(cls, dense: DenseDataSection | None, info: ValidationInfo) -> DenseDataSection | None:
        if info.data.get("source") in DENSE_SOURCES:
            return dense or DenseDataSection()
        if dense is not None:
            raise ValueError(f"section dense needs source: {' or '.join(DENSE_SOURCES)}")
        return None

    @model_validator(mode="after")
    def _consistent(self) -> DataSection:
        if len(self.mean) != len(self.std) or any(s <= 0 for s in self.std):
            raise ValueError("mean and std need one positive std for each mean")
        if (self.source == "probe") != (self.probe is not None):
            raise ValueError(f"source: {self.source} {'needs' if self.source == 'probe' else 'has no'} section probe")
        if self.probe is not None:
            _check_probe_data(self)
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError("range needs low < high")
        if self.augment == "shift" and (self.auto_augment or self.color_jitter or self.erase):
            raise ValueError("auto_augment, color_jitter and erase need augment: resized-crop")
        if self.dense is not None:
            _check_dense(self, self.dense)
        elif self.augment == "scale-crop":
            raise ValueError(f"augment: scale-crop needs source: {' or '.join(DENSE_SOURCES)}")
        if self.augment != "shift" and self.crop_padding:
            raise ValueError("crop_padding needs augment: shift")
        for name, (low, high) in (("crop_scale", self.crop_scale), ("crop_ratio", self.crop_ratio)):
            if not 0 < low <= high:
                raise ValueError(f"{name} needs 0 < low <= high")
        return self


def _check_dense(data: DataSection, dense: DenseDataSection) -> None:
    """Refuse what a source with a class for each pixel cannot have."""
    if data.auto_augment or data.erase:
        raise ValueError("a source with a class for each pixel has neither auto_augment nor erase")
    if data.eval_crop != 1 or data.eval_resize != "squash":
        raise ValueError("a source with a class for each pixel has neither eval_crop nor eval_resize: see dense.eval_size")
    if data.augment != "scale-crop" and _changed(dense, "scale", "max_class_share"):
        raise ValueError("dense.scale and dense.max_class_share need augment: scale-crop")
    if data.source == "scenes" and _changed(dense, "eval_size", "layout", "reduce_zero_label"):
        raise ValueError("dense.eval_size, layout and reduce_zero_label are of folder-seg: scenes are composed at any size")
    if data.source == "scenes" and dense.crops == "digits" and data.hflip:
        raise ValueError("a digit's mirror image is no digit: hflip is 0 for scenes of digits")


def _check_probe_data(data: DataSection) -> None:
    """Refuse what symbols cannot have."""
    free = {"source", "probe", "validation", "workers", "split_seed"}
    wrong = [name for name in data.model_fields_set - free if _changed(data, name)]
    if wrong:
        raise ValueError(f"source: probe has no {', '.join(sorted(wrong))}: its canvases are symbols, not images")


def _changed(section: _Section, *names: str) -> bool:
    """Whether one of these settings is other than by default."""
    return any(getattr(section, name) != type(section).model_fields[name].default for name in names)


class MixSection(_Section):
    """Mixup and CutMix of whole batches; label smoothing then goes into their targets."""

    mixup: float = Field(0.0, ge=0)
    cutmix: float = Field(0.0, ge=0)
    prob: float = Field(1.0, ge=0, le=1)
    switch_prob: float = Field(0.5, ge=0, le=1)
    #: How often parameters are drawn: for each batch, pair or image.
    mode: Literal["batch", "pair", "elem"] = "batch"

    @model_validator(mode="after")
    def _consistent(self) -> MixSection:
        if not self.mixup and not self.cutmix:
            raise ValueError("mix needs mixup or cutmix above 0; for neither, leave it out or say mix: null")
        return self


class SamplingSection(_Section):
    """How `wfbench sample` draws where it is not told otherwise; it changes nothing in training."""

    sampler: Literal["ddpm", "ddim", "dpm-solver"] = "ddpm"
    steps: int = Field(250, ge=1, le=1000)
    #: Scale of classifier-free guidance; 1 is none.
    cfg: float = Field(1.0, ge=0, le=100)
    #: What guidance changes: the first three channels, as DiT's release does, or all.
    cfg_channels: Literal["released", "all"] = "released"

    @model_validator(mode="after")
    def _consistent(self) -> SamplingSection:
        if self.sampler == "ddim" and 1000 % self.steps:
            raise ValueError(f"the steps of ddim divide 1000; these are {self.steps}")
        return self


class DiffusionSection(_Section):
    """A denoiser: DiT's 1000 steps, the noise and the variance between its bounds predicted, trained by the hybrid loss."""

    #: How often a label is replaced by the null class; without it there is no guidance.
    label_dropout: float = Field(0.1, ge=0, lt=1)
    variance: Literal["learned"] = "learned"
    #: The held-out loss is taken once in each of so many equal bins of the 1000 steps.
    held_out_bins: int = Field(10, ge=1)
    #: It is taken of so many held-out samples, evenly spread; None: of all.
    held_out_samples: int | None = Field(None, ge=1)
    #: The directory of the autoencoder that decodes latents; training does not need it.
    vae: str | None = None
    sampling: SamplingSection = SamplingSection()

    @model_validator(mode="after")
    def _consistent(self) -> DiffusionSection:
        if 1000 % self.held_out_bins:
            raise ValueError(f"held_out_bins divides 1000; this is {self.held_out_bins}")
        if self.sampling.cfg != 1 and not self.label_dropout:
            raise ValueError("sampling.cfg other than 1 needs label_dropout above 0")
        return self


class DenseSection(_Section):
    """Dense prediction: a class for each pixel."""

    #: What makes pixels of tokens. "linear": a Linear at every token, its logits interpolated. "dpt": of
    #: segmentation-models-pytorch, which the extra `segmentation` installs.
    decoder: Literal["linear", "dpt"] = "linear"
    #: Train the decoder alone, on the backbone that ``model.init_weights`` gives (a linear probe).
    frozen: bool = False
    #: Evaluate each image whole, or in windows of the model's size, a ``stride`` apart (a share of it), averaged where they
    #: overlap.
    inference: Literal["whole", "slide"] = "whole"
    stride: float = Field(2 / 3, gt=0, le=1)


class OptimSection(_Section):
    """AdamW with linear warm-up, then cosine decay or a constant rate, per step."""

    lr: float = Field(gt=0)
    warmup_lr: float = Field(0.0, ge=0)
    min_lr: float = Field(0.0, ge=0)
    warmup_epochs: int = Field(0, ge=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = Field(0.05, ge=0)
    betas: tuple[_Beta, _Beta] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    #: Largest norm of the whole gradient; None: no clipping.
    clip_grad: float | None = Field(None, gt=0)
    #: Each layer's rate is this times the next one's (for fine-tuning); None: one rate for all.
    layer_decay: float | None = Field(None, gt=0, le=1)
    #: Multiply lr, warmup_lr and min_lr by batch / reference_batch.
    scale_lr: bool = False
    reference_batch: int = Field(512, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> OptimSection:
        if self.schedule == "cosine" and self.min_lr > self.lr:
            raise ValueError(f"optim.min_lr {self.min_lr:g} is above optim.lr {self.lr:g}: the rate would climb")
        if self.warmup_epochs and self.warmup_lr > self.lr:
            raise ValueError(f"optim.warmup_lr {self.warmup_lr:g} is above optim.lr {self.lr:g}: the rate would fall")
        return self


class EmaSection(_Section):
    """An exponential moving average of the weights, evaluated beside them under its own name."""

    decay: float = Field(0.9999, gt=0, lt=1)
    #: Begin with a smaller decay that grows to it, as timm does; for runs that are short beside 1 / (1 - decay).
    warmup: bool = False


class ComputeSection(_Section):
    """How the arithmetic is carried out."""

    #: Of matrix products, by autocast; weights, loss and optimiser stay in float32. float16 scales the loss.
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    channels_last: bool = False
    compile: bool = False
    #: Recompute each block in the backward pass instead of keeping its activations.
    grad_checkpointing: bool = False
    #: The most images of one forward pass in each process: a larger batch is split, and the gradients add up.
    micro_batch: int | None = Field(None, ge=1)
    #: The most samples of one forward pass in evaluation; None: as many as a micro-batch, or where there is none a number
    #: that suits the task.
    eval_batch: int | None = Field(None, ge=1)


class ChosenSection(_Section):
    """What `wfbench sweep` chose for this mixer by a rule that is one for all mixers; the digest holds the rule alone."""

    #: What was made equal to the baseline's by the MLP ratio or the depth, whose it is, how much, and the relative difference
    #: that is left.
    match: Literal["params", "macs"] | None = None
    match_to: str | None = None
    budget: int | None = None
    residual: float | None = None
    #: Rates that were tried for this mixer, of which optim.lr was the best, the seeds of each, and the part of the training
    #: images that they were judged on.
    rates: tuple[float, ...] | None = None
    trial_seeds: tuple[int, ...] | None = None
    validation: float | None = None


class Recipe(_Section):
    """A whole training run, but for the machine it runs on."""

    name: str = ""
    task: Literal["classify", "dit", "dense"] = "classify"
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    mix: MixSection | None = None
    #: For task: dit, and for no other.
    diffusion: DiffusionSection | None = None
    #: For task: dense, and for no other.
    dense: DenseSection | None = Field(None, validate_default=True)
    optim: OptimSection
    ema: EmaSection | None = None
    compute: ComputeSection = ComputeSection()
    epochs: int = Field(ge=1)
    #: Images of one optimiser step, over all processes together.
    batch_size: int = Field(ge=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    seed: int = Field(0, ge=0, lt=2**63)
    #: Evaluate after every so many epochs, and after the last.
    eval_every: int = Field(1, ge=1)
    #: Keep the checkpoint of every so many epochs, beside the last and the best one; None: these two.
    keep_every: int | None = Field(None, ge=1)
    #: Of a probe: end once so many evaluations in a row find 99 % at every level; None: train to the last epoch.
    stop_when_solved: int | None = Field(None, ge=1)
    #: Save inside an epoch too, every so many steps; None: at the end of each epoch.
    save_steps: int | None = Field(None, ge=1)
    chosen: ChosenSection | None = None

    @field_validator("dense")
    @classmethod
    def _dense_by_task(cls, dense: DenseSection | None, info: ValidationInfo) -> DenseSection | None:
        if info.data.get("task") == "dense":
            return dense or DenseSection()
        if dense is not None:
            raise ValueError("section dense needs task: dense")
        return None

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.optim.warmup_epochs >= self.epochs and self.optim.warmup_epochs:
            raise ValueError(
                f"optim.warmup_epochs ({self.optim.warmup_epochs}) must be fewer than epochs ({self.epochs}): for so few "
                "add --set optim.warmup_epochs=0"
            )
        if self.mix is not None and self.batch_size % 2:
            raise ValueError(f"mix pairs images, so batch_size ({self.batch_size}) must be even")
        if (self.task == "dit") != (self.diffusion is not None):
            raise ValueError(f"task: {self.task} {'needs' if self.task == 'dit' else 'has no'} section diffusion")
        if (self.task == "dense") != (self.data.source in _LABELLED):
            raise ValueError(f"data.source: {self.data.source} {'needs' if self.task != 'dense' else 'is not for'} task: dense")
        if self.dense is not None:
            _check_dense_task(self, self.dense)
        if self.data.probe is not None:
            _check_probe(self)
        elif self.stop_when_solved is not None:
            raise ValueError("stop_when_solved needs data.source: probe")
        elif self.model.in_channels not in (None, 1, 3):
            raise ValueError(f"model.in_channels is 1 or 3, not {self.model.in_channels}")
        if self.diffusion is not None:
            _check_denoiser(self, self.diffusion)
        elif self.data.source == "latents":
            raise ValueError("data.source: latents needs task: dit")
        return self


def _check_denoiser(recipe: Recipe, diffusion: DiffusionSection) -> None:
    """Refuse what a denoiser cannot have."""
    data, latents = recipe.data, recipe.data.source == "latents"
    if recipe.mix is not None or recipe.label_smoothing:
        raise ValueError("task: dit has neither mix nor label_smoothing")
    if diffusion.vae is not None and not latents:
        raise ValueError("diffusion.vae needs data.source: latents; images are encoded by wfbench data extract-latents")
    if {*data.mean, *data.std} != {0.5}:
        raise ValueError("task: dit sees images from -1 to 1: data.mean and data.std are 0.5")
    if latents and (data.hflip not in (0, 0.5) or data.augment != "shift" or data.crop_padding or data.limit):
        raise ValueError("of data.source: latents only hflip (0 or 0.5), path and workers are chosen")


def _check_dense_task(recipe: Recipe, dense: DenseSection) -> None:
    """Refuse what dense prediction cannot have."""
    if recipe.mix is not None:
        raise ValueError("task: dense has no mix: images of different masks are not blended")
    if dense.frozen and recipe.model.init_weights is None:
        raise ValueError("dense.frozen needs model.init_weights: a backbone that is neither trained nor loaded says nothing")
    if dense.frozen and recipe.optim.layer_decay is not None:
        raise ValueError("optim.layer_decay does nothing with dense.frozen: no layer of the backbone is trained")
    if dense.frozen and recipe.model.drop_path:
        raise ValueError("model.drop_path does nothing with dense.frozen: the backbone is as in evaluation")
    if recipe.model.init_head != "load":
        raise ValueError("model.init_head is of classifiers: a decoder always begins afresh")
    if dense.inference == "whole" and _changed(dense, "stride"):
        raise ValueError("dense.stride needs dense.inference: slide")


def _check_probe(recipe: Recipe) -> None:
    """Refuse what a probe cannot have."""
    assert recipe.dense is not None
    assert recipe.data.probe is not None
    if recipe.dense.decoder != "linear" or recipe.dense.inference != "whole" or recipe.dense.frozen:
        raise ValueError("a probe has the linear decoder on whole canvases, and a model that is trained")
    if recipe.model.patch_size != 1:
        raise ValueError(f"a probe has a token for each symbol: model.patch_size is 1, not {recipe.model.patch_size}")
    if recipe.ema is not None or recipe.label_smoothing:
        raise ValueError("a probe has neither ema nor label_smoothing: its figures are those of the trained weights")
    _check_budgets(recipe, recipe.data.probe)


def _check_budgets(recipe: Recipe, probe: ProbeSection) -> None:
    """Refuse numbers of steps within the training after which nothing is evaluated; those beyond its end are not reported."""
    epoch, end = probe.train // recipe.batch_size, probe_steps(recipe)
    looks = sorted({*range(recipe.eval_every * epoch, end, recipe.eval_every * epoch), end}) if epoch else []
    if wrong := [budget for budget in probe.budgets if budget < end and budget not in looks]:
        nearest = min(looks, key=lambda steps: abs(steps - wrong[0]))
        raise ValueError(
            f"data.probe.budgets name steps after which there is an evaluation: not {wrong[0]:,}, of which the nearest "
            f"is {nearest:,}. They come every {recipe.eval_every * epoch:,} steps (eval_every: {recipe.eval_every}) and at the "
            f"end, after {end:,}"
        )


def probe_steps(recipe: Recipe) -> int:
    """How many optimiser steps a recipe of a probe trains for, at most."""
    assert recipe.data.probe is not None
    return recipe.epochs * (recipe.data.probe.train // recipe.batch_size)


def load(name_or_path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        name_or_path: a recipe that comes with the package (``digits``), or the path of a YAML file.
        overrides: ``key=value`` with dotted keys; the value is YAML.

    Raises:
        InputError: for an unknown recipe or key, a malformed file, or a value out of range.
    """
    path = shipped.find(str(name_or_path), "recipes")
    data = strict.read_yaml(path, "recipe")
    data.setdefault("name", path.stem)
    keys = [_override(data, override) for override in overrides]
    return parse(data, str(path), changed=keys)


def parse(
    data: dict[str, Any],
    where: str,
    remedy: str = "change it where it was given: by an option, --set KEY=VALUE, or the recipe's file",
    changed: Iterable[str] = (),
) -> Recipe:
    """A recipe from plain data; ``where`` names its origin in errors, ``remedy`` says where a value is changed.

    Args:
        changed: keys whose values come from overrides instead; errors say so.

    Raises:
        InputError: as `load`.
    """
    return strict.validated(Recipe, data, "recipe", where, remedy, elsewhere=dict.fromkeys(changed, "the overrides"))


def override(recipe: Recipe, overrides: Iterable[str]) -> Recipe:
    """A recipe with single keys changed, as `load` changes them.

    Raises:
        InputError: as `load`.
    """
    data = recipe.model_dump(mode="json")
    for text in overrides:
        _override(data, text)
    return parse(data, "the overrides")


def data_settings(data: str, source: str, settings: Sequence[str] = ()) -> list[str]:
    """``--data`` as settings: a path for the recipe's source, another source with its path, or one that needs none.

    Args:
        data: what was given.
        source: the recipe's.
        settings: what else was set, as ``key=value``, the recipe's source included.

    Raises:
        InputError: if the settings name the path too, or another source.
    """
    sources = get_args(DataSection.model_fields["source"].annotation)
    named, colon, path = data.partition(":")
    if data in ("digits", "scenes"):
        source, where = data, "null"
    elif colon and named in sources:
        source, where = named, json.dumps(path)
    else:
        source, where = {"digits": "folder", "scenes": "folder-seg"}.get(source, source), json.dumps(data)
    for text in settings:
        key, _, value = (part.strip() for part in text.partition("="))
        if key == "data.path" or (key == "data.source" and value != source):
            raise InputError(
                "one setting twice",
                got=f"--data {data} and --set {text}",
                expected="one of the two: --data is short for --set data.source=... and --set data.path=...",
                remedy="drop one",
            )
    return [f"data.source={source}", f"data.path={where}"]


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML; `load` reads it back equal."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def names() -> list[str]:
    """The recipes that come with the package."""
    return shipped.names("recipes")


def digest(recipe: Recipe) -> str:
    """A short hash of all that decides a run but its seed and what is compared: mixer, schedule, local convolution, position.

    Runs with the same one were trained alike, with draws of the same version (`DRAWS`). Where a sweep matched or tuned each
    mixer, the rule counts and not its outcome. It is that of a run made now: an older run's is in its rows.
    """
    exclude: dict[str, Any] = {
        "seed": True,
        "model": {"mixer", "local_conv", "pos_embed", "every", "offset", "between"},
        "data": {"workers", "path"},  # the data set's name stands beside it
        # The same sums, in another way.
        "compute": {"channels_last", "compile", "grad_checkpointing", "micro_batch", "eval_batch"},
        "eval_every": True,
        "keep_every": True,
        "save_steps": True,
    }
    if recipe.diffusion is None:
        exclude["diffusion"] = True  # as before there was one, so that classifiers keep their digests
    else:
        exclude["diffusion"] = {"vae", "sampling"}  # after training
    if recipe.dense is None:
        exclude["dense"] = True
    if recipe.data.validation is None:  # as before there was one, so that old records keep their digests
        exclude["data"] |= {"validation"}
    if recipe.data.dense is None:
        exclude["data"] |= {"dense"}
    exclude["data"] |= {"pass_over"}  # what is read stands in the data's digest
    if recipe.data.range is None:
        exclude["data"] |= {"range"}
    exclude["data"] = dict.fromkeys(exclude["data"], True) | {
        "probe": True if recipe.data.probe is None else {"budgets", *recipe.data.probe.unsaid}
    }
    if recipe.stop_when_solved is None:
        exclude["stop_when_solved"] = True
    else:
        del exclude["eval_every"]  # it decides when to stop
    exclude["chosen"] = True if recipe.chosen is None else {"residual"}
    if recipe.chosen is not None and recipe.chosen.match is not None:
        exclude["model"] |= {"mlp_ratio", "depth"}
    if recipe.chosen is not None and recipe.chosen.rates is not None:
        exclude["optim"] = {"lr"}
    data = recipe.model_dump(mode="json", exclude=exclude) | {"draws": DRAWS}
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]


def differences(a: Recipe, b: Recipe, ignore: Iterable[str] = ()) -> list[str]:
    """The dotted keys in which two recipes differ, with both values."""
    left, right = (dict(_flat(r.model_dump(mode="json"))) for r in (a, b))
    keys = [key for key in dict.fromkeys((*left, *right)) if key not in set(ignore)]
    return [f"{key}: {left.get(key)} / {right.get(key)}" for key in keys if left.get(key) != right.get(key)]


def _override(data: dict[str, Any], text: str) -> str:
    """Change the value of an override's key, and give the key."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(
            "not an override", got=repr(text), expected="key=value, with a dotted key", remedy="for example optim.lr=1e-3"
        )
    *parents, last = key.split(".")
    for depth, parent in enumerate(parents, 1):
        data[parent] = {} if data.get(parent) is None else data[parent]
        data = data[parent]
        if not isinstance(data, dict):
            raise InputError(
                "no such setting",
                got=key,
                expected=f"{parent} holds a value, not settings",
                remedy=f"give it a value: {'.'.join(parents[:depth])}=VALUE",
            )
    try:
        data[last] = strict.parse_value(value)
    except yaml.YAMLError as e:
        raise InputError(
            "cannot read an override",
            got=f"{text}: {strict.one_line(e)}",
            expected="a YAML value after '='",
            remedy=f"close its brackets and quotes, or quote it as a text: --set '{key}=\"TEXT\"'",
        ) from e
    return key


def _flat(data: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
