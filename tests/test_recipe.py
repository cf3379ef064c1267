from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from wfbench import models, recipe
from wfbench.errors import InputError

EVERY_KEY = {
    "name": "other",
    "task": "classify",
    "epochs": 7,
    "batch_size": 32,
    "label_smoothing": 0.1,
    "seed": 3,
    "model.name": "weightformer-tiny",
    "model.mixer": "linear",
    "model.image_size": (8, 16),
    "model.patch_size": 4,
    "model.in_channels": 3,
    "model.embed_dim": 48,
    "model.depth": 2,
    "model.num_heads": 6,
    "model.mlp_ratio": 3.0,
    "model.drop_path": 0.1,
    "model.class_token": True,
    "model.pos_embed": "sincos",
    "model.pos_init_std": 0.05,
    "model.pool": "token",
    "model.local_conv": "dwc",
    "model.every": 3,
    "model.offset": 0,
    "model.between": "static",
    "model.init_weights": "weights.safetensors",
    "model.init_head": "fresh",
    "model.mixer_options": {"local": False},
    "data.source": "digits",
    "data.path": "somewhere/else",
    "data.holdout": 0.3,
    "data.split_seed": 4,
    "data.validation": 0.2,
    "data.pass_over": True,
    "data.range": (0.0, 1.0),
    "data.mean": (0.25,),
    "data.std": (0.75,),
    "data.limit": 100,
    "data.augment": "resized-crop",
    "data.crop_padding": 1,
    "data.crop_scale": (0.3, 0.9),
    "data.crop_ratio": (0.5, 2.0),
    "data.hflip": 0.5,
    "data.interpolation": "bilinear",
    "data.auto_augment": "rand-m9-mstd0.5-inc1",
    "data.color_jitter": 0.4,
    "data.erase": 0.25,
    "data.erase_mode": "const",
    "data.eval_resize": "shorter",
    "data.eval_crop": 0.875,
    "data.on_bad_image": "skip",
    "data.workers": 2,
    "data.dense.ignore_index": 200,
    "data.dense.crops": "fashion",
    "data.dense.train": 100,
    "data.dense.held_out": 50,
    "data.dense.objects": (2, 3),
    "data.dense.object_size": (8, 16),
    "data.dense.clutter": 0,
    "data.dense.growth": "larger",
    "data.dense.layout": "ade20k",
    "data.dense.reduce_zero_label": True,
    "data.dense.scale": (0.75, 1.5),
    "data.dense.max_class_share": 0.75,
    "data.dense.eval_size": "shorter",
    "data.probe.name": "hop",
    "data.probe.levels": (1.0, 2.0),
    "data.probe.grids": ((3, 9),),
    "data.probe.train": 5,
    "data.probe.held_out": 6,
    "data.probe.gap": 3,
    "data.probe.query_columns": 1,
    "data.probe.keys": 32,
    "data.probe.values": 16,
    "data.probe.colours": 4,
    "data.probe.symbols": 8,
    "data.probe.layout": "packed",
    "data.probe.bind": "neighbour",
    "data.probe.budgets": (400, 1200),
    "dense.decoder": "dpt",
    "dense.frozen": True,
    "dense.inference": "slide",
    "dense.stride": 0.5,
    "mix.mixup": 0.8,
    "mix.cutmix": 1.0,
    "mix.prob": 0.9,
    "mix.switch_prob": 0.4,
    "mix.mode": "elem",
    "diffusion.label_dropout": 0.2,
    "diffusion.variance": "learned",
    "diffusion.held_out_bins": 4,
    "diffusion.held_out_samples": 50,
    "diffusion.vae": "autoencoder",
    "diffusion.sampling.sampler": "ddim",
    "diffusion.sampling.steps": 50,
    "diffusion.sampling.cfg": 4.0,
    "diffusion.sampling.cfg_channels": "all",
    "optim.lr": 5e-4,
    "optim.warmup_lr": 1e-7,
    "optim.min_lr": 1e-6,
    "optim.warmup_epochs": 1,
    "optim.weight_decay": 0.1,
    "optim.betas": (0.9, 0.95),
    "optim.eps": 1e-6,
    "optim.clip_grad": 1.0,
    "optim.scale_lr": True,
    "optim.reference_batch": 1024,
    "optim.schedule": "constant",
    "optim.layer_decay": 0.75,
    "ema.decay": 0.99,
    "ema.warmup": True,
    "compute.precision": "bfloat16",
    "compute.channels_last": True,
    "compute.compile": True,
    "compute.grad_checkpointing": True,
    "compute.micro_batch": 16,
    "compute.eval_batch": 100,
    "eval_every": 2,
    "keep_every": 5,
    "stop_when_solved": 2,
    "save_steps": 100,
    "chosen.match": "macs",
    "chosen.match_to": "softmax",
    "chosen.budget": 1000,
    "chosen.residual": 0.01,
    "chosen.rates": (1e-3, 2e-3),
    "chosen.trial_seeds": (1000,),
    "chosen.validation": 0.2,
}
#: A class for each pixel.
SCENES, FOLDER = (["task=dense", f"data.source={source}"] for source in ("scenes", "folder-seg"))
#: What a key cannot do without.
NEEDS = {
    **dict.fromkeys(("data.auto_augment", "data.color_jitter", "data.erase"), ["data.augment=resized-crop"]),
    **{key: SCENES for key in EVERY_KEY if key.startswith(("dense.", "data.dense."))},
    **{f"data.dense.{key}": FOLDER for key in ("layout", "reduce_zero_label", "eval_size")},
    **{f"data.dense.{key}": [*FOLDER, "data.augment=scale-crop"] for key in ("scale", "max_class_share")},
    "dense.frozen": [*SCENES, "model.init_weights=backbone.safetensors"],
    "dense.stride": [*SCENES, "dense.inference=slide"],
    **dict.fromkeys(("mix.prob", "mix.switch_prob", "mix.mode", "mix.mixup"), ["mix.cutmix=0.5"]),
    "mix.cutmix": ["mix.mixup=0.5"],
    "ema.decay": ["ema.warmup=false"],
    "ema.warmup": ["ema.decay=0.9"],
    "diffusion.vae": ["data.source=latents"],
    **{key: ["chosen.match=params"] for key in EVERY_KEY if key.startswith("chosen.")},
    "chosen.match": ["chosen.budget=1"],
}


def leaves(data: dict[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in data.items():
        if isinstance(value, dict) and key != "mixer_options":
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def as_yaml(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(as_yaml, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    return file


def test_digits_loads_and_fits_a_model() -> None:
    digits = recipe.load("digits")
    assert (digits.name, digits.task, digits.epochs, digits.batch_size) == ("digits", "classify", 30, 64)
    assert (digits.optim.lr, digits.optim.warmup_lr, digits.optim.clip_grad) == (2e-3, 1e-5, 5.0)
    section = digits.model
    model = models.create(section.name, image_size=section.image_size, num_classes=10, **section.overrides())
    assert (model.config.embed_dim, model.config.depth, model.config.image_size) == (64, 4, (8, 8))


@pytest.mark.parametrize("name", recipe.names())
def test_every_recipe_that_comes_with_the_package_loads(name: str) -> None:
    assert recipe.load(name).name == name


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("key", "value"), EVERY_KEY.items())
def test_a_key_is_overridden_alone(key: str, value: object) -> None:
    of_probe = key.startswith("data.probe.") or key == "stop_when_solved"
    name = "probe-recall" if of_probe else "dit-digits" if key.startswith("diffusion") else "digits"
    needs = NEEDS.get(key, [])
    plain = recipe.load(name, needs)
    changed = recipe.load(name, [*needs, f"{key}={as_yaml(value)}"])
    assert dict(leaves(changed.model_dump())) == dict(leaves(plain.model_dump())) | {key: value}


def test_the_keys_above_are_all_there_are() -> None:
    classifier = recipe.load("digits", ["mix.mixup=1", "ema.decay=0.9", "chosen.match=macs"]).model_dump() | {
        "diffusion": recipe.load("dit-digits").diffusion.model_dump(),
        "data": recipe.load("digits", SCENES).data.model_dump()
        | {"probe": recipe.load("probe-recall").data.probe.model_dump()},
        "dense": recipe.load("digits", SCENES).dense.model_dump(),
    }
    assert dict(leaves(classifier)).keys() == EVERY_KEY.keys()


def test_model_overrides_are_what_the_recipe_says_and_nothing_more() -> None:
    section = recipe.load("digits", ["model.pool=token", "model.class_token=true", "model.drop_path=0.0"]).model
    assert section.overrides() == {
        "patch_size": 2,
        "in_channels": 1,
        "embed_dim": 64,
        "depth": 4,
        "num_heads": 4,
        "pos_init_std": 0.2,
        "pool": "token",
        "class_token": True,
        "drop_path": 0.0,
    }


def test_null_takes_an_override_back() -> None:
    assert recipe.load("digits", ["optim.clip_grad=null"]).optim.clip_grad is None


def test_later_overrides_win() -> None:
    assert recipe.load("digits", ["epochs=5", "epochs=6"]).epochs == 6


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=1", r"unknown recipe key\n.*optim\.lrr in the overrides\n(.*\n)*.*did you mean .*\blr\b"),
        ("epohcs=3", r"unknown recipe key\n.*epohcs(.*\n)*.*did you mean epochs"),
        ("optimm.lr=1", r"unknown recipe key\n.*optimm(.*\n)*.*did you mean optim"),
        ("model.mixr=linear", r"unknown recipe key\n.*model\.mixr(.*\n)*.*did you mean mixer"),
    ],
)
def test_an_unknown_key_suggests_the_near_one(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipe.load("digits", [override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs=-1", r"epochs = -1 .*\n.*greater than or equal to 1"),
        ("epochs=0", "epochs = 0"),
        ("epochs=2.5", r"epochs = 2\.5"),
        ("epochs=true", "epochs = True"),
        ("epochs=many", "epochs = 'many'"),
        ("epochs='30'", "epochs = '30'"),
        ("optim.lr=0", r"optim\.lr = 0"),
        ("optim.lr=-1e-3", r"optim\.lr = -0\.001"),
        ("optim.lr=.nan", r"optim\.lr = nan"),
        ("optim.lr=.inf", r"optim\.lr = inf"),
        ("optim.lr=fast", r"optim\.lr = 'fast'"),
        ("optim.betas=[0.9]", r"optim\.betas"),
        ("optim.scale_lr=1", r"optim\.scale_lr = 1"),
        ("optim.clip_grad=0", r"optim\.clip_grad = 0"),
        ("optim.warmup_epochs=30", r"warmup_epochs \(30\) must be fewer than epochs \(30\)"),
        ("optim=fast", "optim = 'fast'"),
        ("model.pool=max", r"model\.pool = 'max'.*\n.*'mean' or 'token'"),
        ("model.drop_path=1", r"model\.drop_path = 1"),
        ("model.image_size=big", r"model\.image_size"),
        ("model.image_size=0", r"model\.image_size"),
        ("data.erase=0.1", "need augment: resized-crop"),
        ("data.crop_scale=[0.9, 0.1]", "0 < low <= high"),
        ("mix.prob=1.0", "mixup or cutmix above 0"),
        ("ema.decay=1.0", r"ema\.decay = 1\.0"),
        ("compute.precision=half", r"compute\.precision"),
        ("data.std=[0.0]", "positive std"),
        ("data.mean=[0.1, 0.2]", "one positive std for each mean"),
        ("data.holdout=1.0", r"data\.holdout = 1\.0"),
        ("task=sing", "task = 'sing'"),
        ("seed=-1", "seed = -1"),
        ("name=2020-01-01", "date"),
    ],
)
def test_a_value_out_of_range_is_refused_by_key_and_value(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipe.load("digits", [override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lr", r"not an override\n.*'optim\.lr'"),
        ("=3", r"not an override\n.*'=3'"),
        ("", "not an override"),
        ("optim.betas=[0.9", "cannot read an override"),
        ("epochs.lr=1", r"no such setting\n.*epochs\.lr\n.*epochs holds a value"),
        ("optim.lr.x=1", "no such setting"),
    ],
)
def test_an_override_that_is_none_is_refused(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipe.load("digits", [override])


def test_an_error_says_whether_its_value_stands_in_the_file_or_was_given(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(recipe.dump(recipe.load("digits")).replace("\nepochs: 30\n", "\nepochs: -1\n"))
    for overrides, got in [
        ([], f"epochs = -1 in {path}"),
        (["epochs=-2"], "epochs = -2 in the overrides"),
        (["epochs=1", "foo=1"], "foo in the overrides"),
        (["epochs=1", "model={dept: 2}"], "model.dept in the overrides"),
        (["epochs=1", "model.depth=a"], "model.depth = 'a' in the overrides"),
        (["model.depth=3"], f"epochs = -1 in {path}"),
    ]:
        with pytest.raises(InputError) as caught:
            recipe.load(path, overrides)
        assert f"got:      {got}\n" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim: {lr: 1", r"cannot read the recipe\n.*mine\.yaml"),
        ("- a\n- b", r"not a recipe\n.*list"),
        ("", r"not a recipe\n.*NoneType"),
        ("epochs: 3\nbatch_size: 8", r"bad recipe value\n.*optim.*\n.*required"),
        ("epochs: 3\nbatch_size: 8\noptim:\n", "optim"),
        ("a: !!python/object/apply:os.getcwd []", "cannot read the recipe"),
    ],
)
def test_a_malformed_recipe_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipe.load(write(tmp_path, text))


def test_a_recipe_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot read the recipe"):
        recipe.load(tmp_path / "mine.yaml")


def test_a_recipe_that_is_not_there_is_refused_with_the_near_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'digit'(.*\n)*.*did you mean digits"):
        recipe.load("digit")
    with pytest.raises(InputError, match=r"no such recipe file\n.*absent\.yaml"):
        recipe.load(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("2E-4", 2e-4), ("1.5e-3", 1.5e-3), (".5e-2", 5e-3), ("1e+1", 10.0), ("1e1", 10.0), ("1", 1.0)],
)
def test_yaml_reads_a_number_as_python_would(tmp_path: Path, text: str, value: float) -> None:
    assert recipe.load("digits", [f"optim.lr={text}"]).optim.lr == value
    loaded = recipe.load(write(tmp_path, f"epochs: 3\nbatch_size: 8\noptim:\n  lr: {text}\n"))
    assert loaded.optim.lr == value
    assert isinstance(loaded.optim.lr, float)
    assert loaded.name == "mine"


def test_a_dumped_recipe_reads_back_equal(tmp_path: Path) -> None:
    changed = recipe.load(
        "digits",
        [
            f"{key}={as_yaml(value)}"
            for key, value in EVERY_KEY.items()
            if key != "data.crop_padding" and not key.startswith(("diffusion", "dense", "data.dense", "data.probe", "stop"))
        ],
    )
    scenes = recipe.load("digits", [*SCENES, "data.dense.objects=[2,3]"])
    probe = recipe.load("probe-needle", ["data.probe.keys=32", "stop_when_solved=2"])
    for original in (recipe.load("digits"), changed, scenes, probe):
        assert recipe.load(write(tmp_path, recipe.dump(original))) == original
    assert recipe.load("digits") != changed


@pytest.mark.parametrize("change", [lambda r: setattr(r, "epochs", 1), lambda r: setattr(r.optim, "lr", 1.0)])
def test_a_recipe_is_frozen(change) -> None:
    digits = recipe.load("digits")
    with pytest.raises(ValidationError, match="frozen"):
        change(digits)
    assert digits == recipe.load("digits")


def test_differences_name_the_keys_with_both_values() -> None:
    one, two = recipe.load("digits"), recipe.load("digits", ["epochs=31", "optim.lr=1e-3"])
    assert recipe.differences(one, one) == []
    assert sorted(recipe.differences(one, two)) == ["epochs: 30 / 31", "optim.lr: 0.002 / 0.001"]
    assert recipe.differences(two, one, ignore=["epochs"]) == ["optim.lr: 0.001 / 0.002"]


def test_options_of_a_mixer_that_differ_are_named() -> None:
    plain, off = recipe.load("digits"), recipe.load("digits", ["model.mixer_options.local=false"])
    assert off.model.overrides()["mixer_options"] == {"local": False}
    assert recipe.digest(plain) != recipe.digest(off)
    assert recipe.differences(plain, off) == ["model.mixer_options.local: None / False"]
    assert recipe.differences(off, plain) == ["model.mixer_options.local: False / None"]


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("digits", "task=dit", "task: dit needs section diffusion"),
        ("digits", "diffusion.label_dropout=0.1", "task: classify has no section diffusion"),
        ("digits", "data.source=latents", "needs task: dit"),
        ("dit-digits", "diffusion=null", "task: dit needs section diffusion"),
        ("dit-digits", "diffusion.label_drop=0.1", r"unknown recipe key\n.*label_drop(.*\n)*.*did you mean label_dropout"),
        ("dit-digits", "diffusion.sampling.step=5", r"unknown recipe key\n.*step(.*\n)*.*did you mean steps"),
        ("dit-digits", "diffusion.variance=fixed", "'learned'"),
        ("dit-digits", "diffusion.held_out_bins=7", "divides 1000"),
        ("dit-digits", "diffusion.sampling.steps=1001", "less than or equal to 1000"),
        ("dit-digits", "diffusion.sampling={sampler: ddim, steps: 30}", "divide 1000"),
        ("dit-digits", "diffusion={label_dropout: 0, sampling: {cfg: 2.0}}", "needs label_dropout above 0"),
        ("dit-digits", "diffusion.vae=somewhere", "needs data.source: latents"),
        ("dit-digits", "data.mean=[0.4]", "images from -1 to 1"),
        ("dit-digits", "mix.mixup=0.8", "neither mix nor label_smoothing"),
        ("dit-digits", "label_smoothing=0.1", "neither mix nor label_smoothing"),
        ("dit-400k", "data.crop_padding=2", "of data.source: latents only"),
        ("dit-400k", "data.hflip=0.2", "of data.source: latents only"),
    ],
)
def test_what_does_not_go_together_in_a_denoiser_is_refused(name: str, override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipe.load(name, [override])


def test_the_digest_has_what_changes_training_and_no_more() -> None:
    plain = recipe.digest(recipe.load("dit-digits"))
    for same in ("diffusion.sampling.steps=50", "diffusion.sampling.cfg=4.0", "seed=1", "model.mixer=linear"):
        assert recipe.digest(recipe.load("dit-digits", [same])) == plain
    assert recipe.digest(recipe.load("dit-400k")) == recipe.digest(recipe.load("dit-400k", ["diffusion.vae=somewhere"]))
    for other in ("diffusion.label_dropout=0.2", "diffusion.held_out_bins=5", "ema.decay=0.9"):
        assert recipe.digest(recipe.load("dit-digits", [other])) != plain


def test_the_digest_changes_with_the_version_of_the_draws_and_with_nothing_new(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = recipe.digest(recipe.load("digits"))
    assert plain != "c2a153c2a98e", "that of the committed runs, whose initial values followed from the order of construction"
    assert plain == "94426c115295"
    monkeypatch.setattr(recipe, "DRAWS", recipe.DRAWS + 1)
    assert recipe.digest(recipe.load("digits")) not in (plain, "c2a153c2a98e")


def test_settings_of_dense_sources_are_in_the_digest_of_these_alone() -> None:
    scenes = recipe.load("digits", SCENES)
    assert scenes.data.dense is not None
    assert recipe.load("digits").data.dense is None
    assert recipe.load("digits", [*SCENES, "data.dense=null"]) == scenes
    for setting in ("objects=[1,2]", "held_out=10", "ignore_index=99"):
        changed = recipe.load("digits", [*SCENES, f"data.dense.{setting}"])
        assert recipe.digest(changed) != recipe.digest(scenes)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["data.dense.train=5"], "section dense needs source: scenes or folder-seg"),
        (["data.augment=scale-crop"], "augment: scale-crop needs source"),
        ([*SCENES, "data.hflip=0.5"], "a digit's mirror image is no digit"),
        (
            [*SCENES, "model.init_weights=x.safetensors", "model.drop_path=0.1", "dense.frozen=true"],
            "model.drop_path does nothing with dense.frozen",
        ),
        (
            [*FOLDER, "data.augment=resized-crop", "data.erase=0.1"],
            "neither auto_augment nor erase",
        ),
        (
            [*FOLDER, "data.augment=scale-crop", "data.crop_padding=2"],
            "crop_padding needs augment: shift",
        ),
        ([*SCENES, "data.dense.scale=[2,1]"], "scale needs 0 < low <= high"),
        ([*SCENES, "data.dense.object_size=[2,9]"], "at least 4 pixels"),
        ([*SCENES, "data.dense.ignore_index=256"], "less than or equal to 255"),
        ([*SCENES, "data.eval_crop=0.875"], "neither eval_crop nor eval_resize"),
        ([*FOLDER, "data.eval_resize=shorter"], "neither eval_crop nor eval_resize"),
        ([*SCENES, "data.dense.eval_size=shorter"], "are of folder-seg: scenes are composed at any size"),
        ([*SCENES, "data.dense.layout=ade20k"], "are of folder-seg"),
        ([*FOLDER, "data.dense.scale=[1,2]"], "need augment: scale-crop"),
        ([*FOLDER, "data.augment=resized-crop", "data.dense.max_class_share=0.5"], "need augment: scale-crop"),
        ([*SCENES, "model.init_head=fresh"], "init_head is of classifiers"),
        ([*SCENES, "dense.stride=0.5"], "stride needs dense.inference: slide"),
        (
            [*SCENES, "dense.frozen=true", "model.init_weights=backbone.safetensors", "optim.layer_decay=0.5"],
            "no layer of the backbone is trained",
        ),
    ],
)
def test_what_a_dense_source_cannot_have(settings: list[str], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        recipe.load("digits", settings)


def test_data_settings_of_dense_sources() -> None:
    assert recipe.data_settings("scenes", "digits") == ["data.source=scenes", "data.path=null"]
    assert recipe.data_settings("/ade", "scenes") == ["data.source=folder-seg", 'data.path="/ade"']
    assert recipe.data_settings("folder-seg:/ade", "digits") == ["data.source=folder-seg", 'data.path="/ade"']
