"""The recipes for ImageNet have every figure of what they follow, and what timm builds from them has every part."""

import PIL
import pytest
import torch
from timm.data import Mixup
from timm.data.auto_augment import RandAugment
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import MaybeToTensor, RandomResizedCropAndInterpolation
from torch import nn
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from wfbench import models, shipped
from wfbench import recipe as recipes
from wfbench.data.mixing import mixer_of
from wfbench.data.transforms import eval_transform, train_transform
from wfbench.training import TrainState, rates

#: Of the release (arXiv 2605.01711), which trains as Swin does; 8 GPUs with 256 images each.
RELEASE = {
    "task": "classify",
    "epochs": 300,
    "batch_size": 8 * 256,
    "label_smoothing": 0.1,
    "optim": {
        "lr": 5e-4,
        "warmup_lr": 5e-7,
        "min_lr": 5e-6,
        "warmup_epochs": 20,
        "schedule": "cosine",
        "weight_decay": 0.05,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "clip_grad": 5.0,
        "layer_decay": None,
        "scale_lr": True,
        "reference_batch": 512,
    },
    "mix": {"mixup": 0.8, "cutmix": 1.0, "prob": 1.0, "switch_prob": 0.5, "mode": "batch"},
    "data": {
        "source": "folder",
        "limit": None,
        "augment": "resized-crop",
        "crop_scale": (0.08, 1.0),
        "crop_ratio": (3 / 4, 4 / 3),
        "hflip": 0.5,
        "interpolation": "bicubic",
        "auto_augment": "rand-m9-mstd0.5-inc1",
        "color_jitter": 0.4,
        "erase": 0.25,
        "erase_mode": "pixel",
        "eval_resize": "squash",
        "eval_crop": 224 / 256,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    },
    "ema": None,
}
#: Recipe, drop-path, resolution, the side that evaluation resizes to, and precision: the release has AMP for T and S.
SIZES = [
    ("imagenet-weightformer", "weightformer-tiny", 0.0, 224, 256, "float16"),
    ("imagenet-weightformer-s", "weightformer-small", 0.2, 224, 256, "float16"),
    ("imagenet-weightformer-b", "weightformer-base", 0.2, 448, 512, "float32"),
]
NAMES = [name for name, *_ in SIZES]


def differences(found: dict, wanted: dict, prefix: str = "") -> list[str]:
    """Keys whose value is not the wanted one."""
    wrong = []
    for key, value in wanted.items():
        if isinstance(value, dict):
            wrong += differences(found[key], value, f"{prefix}{key}.")
        elif found[key] != value:
            wrong.append(f"{prefix}{key}: {found[key]}, not {value}")
    return wrong


@pytest.mark.parametrize(("name", "model", "drop_path", "side", "resized", "precision"), SIZES)
def test_a_recipe_of_the_release_has_all_its_figures(name, model, drop_path, side, resized, precision):
    recipe = recipes.load(name)
    assert differences(recipe.model_dump(), RELEASE) == []
    assert (recipe.model.name, recipe.model.image_size) == (model, side)
    assert recipe.model.overrides() == {}, "the preset, and nothing else"
    assert recipe.compute.precision == precision
    config = models.configure(model, None, side, 1000)
    assert (config.mixer, config.drop_path, config.image_size) == ("weightformer", drop_path, (side, side))
    assert rates(recipe.optim, recipe.batch_size) == pytest.approx((2e-3, 2e-6, 2e-5), rel=1e-12), "8 × 256 / 512 = 4 times"
    resize, crop = eval_transform(recipe.data, (side, side), 3).transforms[:2]
    assert (resize.size, resize.interpolation) == ((resized, resized), InterpolationMode.BICUBIC)
    assert int(256 / 224 * side) == resized
    assert isinstance(crop, transforms.CenterCrop)
    assert tuple(crop.size) == (side, side)


def test_the_table_would_see_another_figure():
    plain = recipes.load(NAMES[0])
    for setting in ("optim.lr=4e-4", "mix.prob=0.9", "data.eval_resize=shorter", "epochs=299", "data.eval_crop=0.9"):
        changed = recipes.override(plain, [setting])
        assert len(differences(changed.model_dump(), RELEASE)) == 1, setting


@pytest.mark.parametrize(
    ("batch", "factor"), [(8 * 256, 4), (256, 0.5), (16 * 256, 8)], ids=["8 GPUs", "one GPU", "two hosts of 8"]
)
def test_each_rate_is_scaled_by_the_whole_batch(batch, factor):
    recipe = recipes.load(NAMES[0], [f"batch_size={batch}", "compute.precision=float32"])
    assert rates(recipe.optim, batch) == pytest.approx((5e-4 * factor, 5e-7 * factor, 5e-6 * factor))
    state = TrainState(nn.Linear(2, 2), recipe, 10)
    assert state.lr == pytest.approx(5e-7 * factor)
    state.scheduler.step_update(20 * 10)
    near_peak = state.lr
    state.scheduler.step_update(300 * 10 - 1)
    assert near_peak == pytest.approx(5e-4 * factor, rel=0.02)
    assert state.lr == pytest.approx(5e-6 * factor, rel=0.01)


@pytest.mark.parametrize("name", [*NAMES, "imagenet-deit", "imagenet-finetune-384"])
def test_the_training_transform_that_timm_builds_has_every_part(name):
    data = recipes.load(name).data
    transform, drawn = train_transform(data, (224, 224), 3)
    parts = {type(part): part for part in transform.transforms}
    assert drawn
    kinds = [RandomResizedCropAndInterpolation, transforms.RandomHorizontalFlip, RandAugment]
    assert list(parts) == [*kinds, MaybeToTensor, transforms.Normalize, RandomErasing]
    crop = parts[RandomResizedCropAndInterpolation]
    assert (tuple(crop.size), crop.scale, crop.interpolation) == ((224, 224), (0.08, 1.0), InterpolationMode.BICUBIC)
    assert crop.ratio == pytest.approx((3 / 4, 4 / 3))
    assert parts[transforms.RandomHorizontalFlip].p == 0.5
    policy = parts[RandAugment]
    assert policy.num_layers == 2
    for op in policy.ops:
        assert op.magnitude == 9
        assert op.magnitude_std == 0.5
        assert op.hparams["interpolation"] == PIL.Image.Resampling.BICUBIC
    names = {op.name for op in policy.ops}
    assert {"PosterizeIncreasing", "SolarizeAdd", "ColorIncreasing", "ShearX"} <= names, "inc1: more is stronger"
    assert transforms.ColorJitter not in parts, "timm leaves it out beside a policy, and so did the release"
    normalise = parts[transforms.Normalize]
    assert [round(float(x), 3) for x in normalise.mean] == [0.485, 0.456, 0.406]
    assert [round(float(x), 3) for x in normalise.std] == [0.229, 0.224, 0.225]
    erase = parts[RandomErasing]
    assert (erase.probability, erase.rand_color, erase.per_pixel) == (0.25, False, True)


def test_without_a_policy_the_jitter_of_the_recipe_is_there():
    data = recipes.load(NAMES[0], ["data.auto_augment=null"]).data
    [jitter] = [p for p in train_transform(data, (224, 224), 3)[0].transforms if isinstance(p, transforms.ColorJitter)]
    assert jitter.brightness == jitter.contrast == jitter.saturation == (0.6, 1.4)


@pytest.mark.parametrize("name", NAMES)
def test_the_mixing_that_timm_does_is_the_recipe_s(name, monkeypatch):
    made = []

    class Seen(Mixup):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr("wfbench.data.mixing.Mixup", Seen)
    recipe = recipes.load(name)
    mix = mixer_of(recipe.mix, recipe.label_smoothing, 1000, batch_size=recipe.batch_size, world=8)
    [mixup] = made
    assert (mixup.mixup_alpha, mixup.cutmix_alpha, mixup.mix_prob, mixup.switch_prob) == (0.8, 1.0, 1.0, 0.5)
    assert (mixup.mode, mixup.label_smoothing, mixup.num_classes) == ("batch", 0.1, 1000)
    _, targets = mix(torch.rand(4, 3, 8, 8), torch.tensor([1, 2, 3, 4]), key=(0, 0, 0))
    assert targets.sum(1).tolist() == pytest.approx([1.0] * 4)
    assert targets.min() == pytest.approx(0.1 / 1000), "smoothing goes into the mixed targets"


def test_fine_tuning_follows_swin_s():
    recipe = recipes.load("imagenet-finetune-384")
    wanted = {
        "epochs": 30,
        "batch_size": 8 * 64,
        "optim": {"lr": 2e-5, "warmup_lr": 2e-8, "min_lr": 2e-7, "warmup_epochs": 5, "weight_decay": 1e-8, "scale_lr": True},
        "model": {"image_size": 384, "init_weights": "weights.safetensors", "init_head": "load"},
        "data": {"eval_crop": 1.0, "eval_resize": "squash", "auto_augment": "rand-m9-mstd0.5-inc1", "erase": 0.25},
        "mix": {"mixup": 0.8, "cutmix": 1.0},
    }
    assert differences(recipe.model_dump(), wanted) == []
    [resize] = [p for p in eval_transform(recipe.data, (384, 384), 3).transforms if isinstance(p, transforms.Resize)]
    assert tuple(resize.size) == (384, 384)


@pytest.mark.parametrize("name", [*NAMES, "imagenet-deit", "imagenet-finetune-384"])
def test_the_head_says_how_it_is_run_and_that_it_was_not_yet(name):
    head = (shipped.directory("recipes") / f"{name}.yaml").read_text().split("\ntask:")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    words = ("One GPU:", "Eight GPUs:", "Two hosts:", "Hardware:", "Time:", "Expected:", "not yet run", f"--recipe {name} ")
    assert [word for word in words if word not in head] == []
