"""The factors of the skeleton that hold for every mixer: local convolution and position."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import far, near, run_python
from test_report import cell, crossover, exponent, lines, notes, only, train
from torch.nn import functional as F
from typer.testing import CliRunner

import mixers
import mixers.softmax
from mixers.base import Grid
from wfbench import models, recipe, records, report
from wfbench.analysis.lines import label
from wfbench.cli import app
from wfbench.errors import InputError
from wfbench.measure import count_flops
from wfbench.models.vit import ViTConfig, sincos_2d
from wfbench.records import ProfileRow, TrainRow
from wfbench.report import figures
from wfbench.tasks.profile.request import ProfileRequest
from wfbench.tasks.profile.run import profile

SMALL = {"image_size": (64, 48), "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 10}
SOME = ["softmax", "linear", "static", "weightformer", "identity"]
POSITIONS = ["none", "learned", "sincos", "rope2d"]
CASES = [
    (name, local, pos)
    for name in SOME
    for local in ("none", "dwc")
    for pos in POSITIONS
    if pos != "rope2d" or mixers.spec(name).rotary
]
every_case = pytest.mark.parametrize(("name", "local", "pos"), CASES)


def build(name: str, local: str = "none", pos: object = "learned", **changes: object) -> models.VisionTransformer:
    return models.create("vit-tiny", name, local_conv=local, pos_embed=pos, **(SMALL | changes)).eval()


# --- models


@every_case
@torch.no_grad()
def test_every_factor_runs_at_the_grid_it_was_built_for_and_at_others(name: str, local: str, pos: str) -> None:
    model = build(name, local, pos)
    for size in ((64, 48), (48, 80), (32, 32)):
        logits = model(torch.randn(2, 3, *size))
        assert logits.shape == (2, 10)
        assert logits.isfinite().all()


@pytest.mark.sampled(18)
@every_case
def test_every_factor_is_counted_by_three_counts(name: str, local: str, pos: str) -> None:
    count = count_flops(build(name, local, pos), (2, 3, 64, 48))
    assert count.counts.keys() == {"declared", "flop_counter", "fvcore"}
    plain = count_flops(build(name, "none", "none"), (2, 3, 64, 48))
    assert count.macs - plain.macs == (2 * 9 * 12 * 48 if local == "dwc" else 0)
    assert (count.elementwise > plain.elementwise) == (pos != "none" or local == "dwc")


@every_case
@torch.no_grad()
def test_the_weights_of_every_factor_save_and_load(name: str, local: str, pos: str) -> None:
    model, other, x = build(name, local, pos), build(name, local, pos), torch.randn(1, 3, 64, 48)
    torch.nn.init.normal_(model.head.weight)
    assert far(model(x), other(x))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(x), other(x))
    assert ("pos_embed" in model.state_dict()) == (pos == "learned")
    assert model.no_weight_decay() == ({"pos_embed"} if pos == "learned" else set())


@pytest.mark.parametrize(("given", "name"), [(True, "learned"), (False, "none"), *((pos, pos) for pos in POSITIONS)])
def test_a_position_may_be_named_or_switched(given: object, name: str) -> None:
    model = build("softmax", pos=given)
    assert model.config.pos_embed == name
    assert (model.pos_embed is not None) == (name == "learned")


def loop_sincos(h: int, w: int, dim: int) -> torch.Tensor:
    table = torch.zeros(h * w, dim, dtype=torch.float64)
    for n in range(h * w):
        for half, place in enumerate((n % w, n // w)):
            for k in range(dim // 4):
                angle = place / 10000 ** (k / (dim // 4))
                table[n, half * dim // 2 + k] = math.sin(angle)
                table[n, half * dim // 2 + dim // 4 + k] = math.cos(angle)
    return table


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("grid", [(4, 4), (5, 7), (7, 2), (1, 1), (40, 3)])
def test_sines_and_cosines_are_those_of_a_loop(grid: Grid, dtype: torch.dtype) -> None:
    found = sincos_2d(grid, 24, like=torch.empty(0, dtype=dtype))
    assert found.dtype == dtype
    near(found, loop_sincos(*grid, 24), tolerance=1e-12 if dtype == torch.float64 else 1e-5)
    if grid[0] != grid[1]:
        assert far(found.double(), loop_sincos(grid[1], grid[0], 24)), "rows and columns are told apart"


@pytest.mark.parametrize("class_token", [False, True])
@pytest.mark.parametrize("size", [(64, 48), (48, 64), (112, 16)])
@torch.no_grad()
def test_sines_and_cosines_are_exact_at_any_resolution_and_zero_for_a_class_token(size: Grid, class_token: bool) -> None:
    model = build("softmax", pos="sincos", class_token=class_token).double()
    torch.nn.init.zeros_(model.patch_embed.proj.weight)
    torch.nn.init.zeros_(model.patch_embed.proj.bias)
    if class_token:
        torch.nn.init.zeros_(model.cls_token)
    embedded, grid = model._embed(torch.randn(1, 3, *size, dtype=torch.float64))
    table = loop_sincos(*grid, 48)
    near(embedded[0], F.pad(table, (0, 0, int(class_token), 0)), tolerance=1e-12)


@pytest.mark.slow
def test_a_fixed_position_follows_the_weights_dtype_and_needs_no_graph_break() -> None:
    x = torch.randn(1, 3, 64, 48)
    model = build("softmax", pos="sincos", depth=1)
    near(torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert model._embed(x)[0].dtype == torch.float32, "as with a learned embedding"
    assert model.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


def captured_logits(monkeypatch: pytest.MonkeyPatch, name: str, pos: str, grid: Grid) -> torch.Tensor:
    """Attention logits (h, H, W, H, W) of a model whose tokens are all alike."""
    model, seen = build(name, pos=pos).double(), []

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        seen.append((q @ k.mT)[0])
        return v

    torch.nn.init.normal_(model.blocks[0].mixer.qkv.bias)
    monkeypatch.setattr(mixers.softmax.F, "scaled_dot_product_attention", attention)
    model.blocks[0](torch.randn(1, 1, 48, dtype=torch.float64).expand(1, grid[0] * grid[1], 48), grid)
    return seen[0].unflatten(2, grid).unflatten(1, grid)


def depends_on_the_difference_only(logits: torch.Tensor) -> bool:
    moved = torch.stack([logits[:, i : i + 3, j : j + 4, i : i + 3, j : j + 4] for i in range(3) for j in range(4)])
    return not far(moved, moved[:1])


@torch.no_grad()
def test_rotary_logits_depend_on_the_difference_of_places_only(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = (5, 7)
    logits = captured_logits(monkeypatch, "softmax", "rope2d", grid)
    assert depends_on_the_difference_only(logits)
    for axis in (1, 2, 3, 4):
        assert far(logits, logits.flip(axis)), "and they do depend on it, along each axis"
    without = captured_logits(monkeypatch, "softmax", "none", grid)
    assert not far(without, without[:, :1, :1, :1, :1]), "without rotation no logit knows a place"
    with monkeypatch.context() as patch:
        turned = []

        def only_the_first(x: torch.Tensor, grid: Grid, **how: bool) -> torch.Tensor:
            turned.append(x)
            return rotary(x, grid, **how) if len(turned) % 2 else x

        rotary = mixers.base.rotary_2d
        patch.setattr(mixers.base, "rotary_2d", only_the_first)
        assert not depends_on_the_difference_only(captured_logits(patch, "softmax", "rope2d", grid)), "seen red"


@pytest.mark.parametrize("name", [name for name in mixers.names() if mixers.spec(name).rotary])
@torch.no_grad()
def test_rope2d_reaches_every_active_layer_and_changes_the_output(name: str) -> None:
    model = build(name, pos="rope2d")
    assert all(block.mixer.rope for block in model.blocks)
    assert model.pos_embed is None
    plain = models.create("vit-tiny", name, pos_embed="none", mixer_options={"rope": False}, **SMALL).eval()
    plain.load_state_dict(model.state_dict())
    layer, x = model.blocks[0].mixer.double(), torch.randn(1, 12, 48, dtype=torch.float64)
    torch.nn.init.normal_(next(layer.parameters()))
    plain.blocks[0].mixer.double().load_state_dict(layer.state_dict())
    assert not torch.equal(layer(x, (4, 3)), plain.blocks[0].mixer(x, (4, 3)))


@pytest.mark.parametrize("name", [name for name in mixers.names() if not mixers.spec(name).rotary])
def test_rope2d_is_refused_where_there_is_nothing_to_turn(name: str) -> None:
    with pytest.raises(
        InputError, match=rf"q and k(.*\n)*.*mixer '{name}'(.*\n)*.*linear(.*\n)*.*softmax(.*\n)*.*another position"
    ):
        build(name, pos="rope2d")


def test_positions_that_the_width_cannot_have_are_refused_at_construction() -> None:
    with pytest.raises(InputError, match=r"embed_dim = 18(.*\n)*.*multiple of 4(.*\n)*.*20"):
        build("softmax", pos="sincos", embed_dim=18, num_heads=3)
    with pytest.raises(mixers.MixerError, match="a dimension that 4 divides: got 6"):
        build("softmax", pos="rope2d", embed_dim=18, num_heads=3)
    with pytest.raises(mixers.MixerError, match="a dimension that 4 divides: got 6"):
        mixers.create("linear", 18, num_heads=3, rope=True)


@pytest.mark.parametrize("value", ["rope", "true", 1, None])
def test_an_unknown_position_is_refused_with_those_there_are(value: object) -> None:
    for make in (lambda: build("softmax", pos=value), lambda: models.VisionTransformer(ViTConfig(pos_embed=value))):
        with pytest.raises(InputError, match="pos_embed = .*\n.*none, learned, sincos, rope2d"):
            make()


# --- recipe


@pytest.mark.parametrize(
    ("text", "value"), [("true", "learned"), ("false", "none"), ("none", "none"), ("sincos", "sincos"), ("null", None)]
)
def test_a_recipe_takes_a_position_by_name_or_as_a_switch(tmp_path: Path, text: str, value: str | None) -> None:
    chosen = recipe.load("digits", [f"model.pos_embed={text}"])
    assert chosen.model.pos_embed == value
    (tmp_path / "again.yaml").write_text(recipe.dump(chosen))
    assert recipe.load(tmp_path / "again.yaml") == chosen
    with pytest.raises(InputError, match=r"model\.pos_embed = 'rope'(.*\n)*.*'rope2d'"):
        recipe.load("digits", ["model.pos_embed=rope"])


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("model.mixer=linear", True),
        ("model.local_conv=dwc", True),
        ("model.pos_embed=rope2d", True),
        ("seed=3", True),
        ("model.depth=3", False),
        ("model.pos_init_std=0.1", False),
        ("optim.lr=1e-3", False),
    ],
)
def test_the_digest_leaves_out_what_is_compared_and_nothing_else(override: str, same: bool) -> None:
    assert (recipe.digest(recipe.load("digits", [override])) == recipe.digest(recipe.load("digits"))) is same


# --- records and report


def test_rows_from_before_there_were_factors_have_their_presets_own(tmp_path: Path) -> None:
    rows = [train(), cell("linear"), exponent(), crossover("linear", "always"), train(model="weightformer-tiny")]
    for row in rows:
        old = {k: v for k, v in json.loads(row.model_dump_json()).items() if k not in ("local_conv", "pos_embed")}
        with (tmp_path / "records.jsonl").open("a") as file:
            file.write(json.dumps(old) + "\n")
    read, _ = records.read(tmp_path / "records.jsonl")
    assert [row.local_conv for row in read] == ["none"] * 5
    assert [row.pos_embed for row in read] == ["learned"] * 4 + ["none"]
    stated = train(model="weightformer-tiny", pos_embed="learned")
    assert TrainRow.model_validate_json(stated.model_dump_json()) == stated


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "softmax"),
        ({"local_conv": "dwc"}, "softmax + DWC"),
        ({"local_conv": "dwc", "pos_embed": "rope2d"}, "softmax + DWC, rope2d"),
        ({"pos_embed": "sincos"}, "softmax, sincos"),
        ({"pos_embed": "none"}, "softmax, no position"),
        ({"model": "weightformer-tiny", "pos_embed": "none"}, "softmax"),
        ({"model": "weightformer-tiny", "pos_embed": "learned", "local_conv": "dwc"}, "softmax + DWC, learned"),
    ],
)
def test_a_line_is_named_after_its_mixer_and_factors(changes: dict[str, object], name: str) -> None:
    assert label(train(**changes)) == label(cell(**changes)) == name


def test_one_mixer_with_and_without_a_factor_is_two_lines_of_one_table() -> None:
    rows = [
        train(accuracy=0.5),
        train(accuracy=0.7, local_conv="dwc"),
        train(accuracy=0.9, local_conv="dwc", pos_embed="rope2d"),
        train(accuracy=0.8, local_conv="dwc", seed=1),
    ]
    table = only(rows)
    assert lines(table) == ["softmax", "softmax + DWC", "softmax + DWC, rope2d"]
    assert list(table.data["accuracy"]) == [0.5, 0.75, 0.9]
    assert list(table.data["local_conv"]) == ["none", "dwc", "dwc"]
    assert len({str(style) for name, style in figures.mixer_styles([table]).items() if name in lines(table)}) == 3
    figure = figures.accuracy(table.result, table, figures.mixer_styles([table]))
    assert {text.get_text() for text in figure.axes[0].texts} >= {"softmax", "softmax + DWC", "softmax + DWC, rope2d"}


def test_where_positions_differ_within_a_table_they_are_named() -> None:
    faithful = {"mixer": "weightformer", "model": "weightformer-tiny", "pos_embed": "none"}
    assert lines(only([train(**faithful)])) == ["weightformer"]
    assert lines(only([train(**faithful), train(**(faithful | {"pos_embed": "learned"}))])) == [
        "weightformer, learned",
        "weightformer, no position",
    ]
    assert lines(only([train(), train(**faithful)])) == ["softmax", "weightformer, no position"]


def test_profiles_with_different_factors_keep_their_own_times_exponents_and_crossovers() -> None:
    rows, dwc = [], {"local_conv": "dwc"}
    for changes, factor, session in (({}, 1, "first"), (dwc, 3, "first"), (dwc | {"pos_embed": "sincos"}, 5, "later")):
        own = changes | {"session": session}
        rows += [cell(name, 224, factor * t, **own) for name, t in (("softmax", 0.02), ("linear", 0.01))]
        rows += [cell("linear", 448, 0.03 * factor**2, **own), cell("softmax", 448, 0.03 * factor**2 * 0.9, **own)]
    made = {table.name: table for table in report.tables(rows)}
    assert sorted(made) == sorted(
        f"{kind}{end}" for kind in ("profile", "speedup", "crossover") for end in ("", "-dwc", "-dwc-sincos")
    )
    for end, name, factor in (("", "", 1), ("-dwc", " + DWC", 3), ("-dwc-sincos", " + DWC, sincos", 5)):
        table, crossed = made[f"profile{end}"], made[f"crossover{end}"]
        assert lines(table) == [f"linear{name}", f"linear{name}", f"softmax{name}", f"softmax{name}"]
        assert lines(table, "speed-up over softmax") == ["2.00×", "0.900×", "1.00×", "1.00×"]
        assert lines(table, "latency exponent")[1] == f"{math.log(3 * factor, 4):.2f}"
        assert (lines(crossed), lines(crossed, "baseline")) == ([f"linear{name}"], [f"softmax{name}"])
        assert lines(crossed, "crossover") == ["none up to 448 px"]
        assert ("over softmax with the same" in notes(table)) == bool(name)
    curves = (
        figures.latency(made["profile-dwc"].result, made["profile-dwc"], figures.mixer_styles(list(made.values())))
        .axes[0]
        .lines
    )
    assert {"linear + DWC", "softmax + DWC"} <= {line.get_label() for line in curves}


@pytest.mark.slow
def test_a_profile_says_which_factors_its_cells_have(tmp_path: Path) -> None:
    quick = ProfileRequest(mixers=("softmax",), resolutions=(32,), rounds=2, isolate=False, attention="auto")
    journal = tmp_path / "records.jsonl"
    both = replace(quick, mixers=("softmax", "linear"), resolutions=(32, 64), local_conv="dwc", pos_embed="rope2d")
    rows = [row for row in profile(both, journal) if row.kind != "harness"]
    assert {row.kind for row in rows} == {"profile", "scaling", "crossover"}
    assert {(row.local_conv, row.pos_embed) for row in rows} == {("dwc", "rope2d")}
    plain = [row for row in profile(quick, journal) if row.kind == "profile"]
    assert [(row.local_conv, row.pos_embed) for row in plain] == [("none", "learned")]
    assert isinstance(rows[0], ProfileRow)
    assert isinstance(plain[0], ProfileRow)
    assert rows[0].macs - plain[0].macs == 12 * 9 * 4 * 192
    faithful = replace(quick, model="weightformer-tiny", mixers=("weightformer",))
    assert profile(faithful, journal)[0].pos_embed == "none"
    with pytest.raises(InputError, match="mixer 'pool'"):
        profile(replace(quick, mixers=("softmax", "pool"), pos_embed="rope2d"), journal)


# --- command line

TINY = [f"--set={key}" for key in ("model.embed_dim=16", "model.depth=1", "epochs=1", "optim.warmup_epochs=0")]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "--pos", "rope"], ["model.pos_embed = 'rope'", "'rope2d'"]),
        (["train", "--local-conv", "conv"], ["model.local_conv = 'conv'", "'none' or 'dwc'"]),
        (["train", "--mixer", "pool", "--pos", "rope2d"], ["mixer 'pool'", "softmax"]),
        (["train", "--pos", "sincos", "--set", "model.embed_dim=18", "--set", "model.num_heads=3"], ["embed_dim = 18"]),
        (["profile", "--pos", "rope"], ["pos_embed = 'rope'", "rope2d"]),
        (["profile", "--local-conv", "conv"], ["local_conv = 'conv'", "dwc"]),
        (["profile", "--mixer", "softmax", "--mixer", "pool", "--pos", "rope2d"], ["mixer 'pool'", "softmax"]),
    ],
)
def test_a_bad_factor_is_one_message_and_exit_code_2(tmp_path: Path, words: list[str], expected: list[str]) -> None:
    result = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2, result.output
    assert result.output.count("error:") == 1
    assert "Traceback" not in result.output
    assert all(word in result.output for word in expected), result.output
    assert not (tmp_path / "out" / "records.jsonl").exists()


@pytest.mark.slow
def test_the_flags_of_train_are_shorthand_for_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = [["--local-conv", "dwc", "--pos", "rope2d"], ["--set=model.local_conv=dwc", "--set=model.pos_embed=rope2d"]]
    for number, words in enumerate(flags):
        result = CliRunner().invoke(app, ["train", *TINY, *words, "--out", str(number)])
        assert result.exit_code == 0, result.output
    rows = [json.loads(Path(str(number), "result.json").read_text()) for number in range(2)]
    assert [(row["mixer"], row["local_conv"], row["pos_embed"]) for row in rows] == [("softmax", "dwc", "rope2d")] * 2
    assert rows[0]["loss"] == rows[1]["loss"]
    assert Path("0/config.yaml").read_text() == Path("1/config.yaml").read_text()
    for words in ([], ["--pos", "none"]):
        result = CliRunner().invoke(app, ["train", *TINY, *words])
        assert result.exit_code == 0, result.output
    assert sorted(path.name for path in Path("runs").iterdir()) == ["digits-vit-tiny-pos-none-s0", "digits-vit-tiny-s0"]


@pytest.mark.slow
def test_the_flags_of_profile_hold_for_every_mixer(tmp_path: Path) -> None:
    words = ["--mixer", "softmax", "--mixer", "linear", "--resolution", "32", "--rounds", "2", "--out", str(tmp_path)]
    words += ["--no-isolate", "--attention", "auto"]
    result = CliRunner().invoke(app, ["profile", "--local-conv", "dwc", "--pos", "sincos", *words])
    assert result.exit_code == 0, result.output
    rows, _ = records.read(tmp_path / "records.jsonl")
    assert [(row.mixer, row.local_conv, row.pos_embed) for row in rows if row.kind == "profile"] == [
        ("softmax", "dwc", "sincos"),
        ("linear", "dwc", "sincos"),
    ]
    assert "softmax + DWC, sincos" in (tmp_path / "profile.md").read_text()


def test_the_flags_do_not_make_the_command_line_import_torch() -> None:
    assert run_python("import sys, wfbench.cli.train, wfbench.cli.profile; print('torch' in sys.modules)").strip() == "False"
