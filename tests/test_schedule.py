"""The layer schedule as a factor of the skeleton: which layers carry the mixer, and what fills the others."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from helpers import far, near
from test_report import cell, crossover, evaluated, exponent, lines, only, train
from test_segmentation_tables import row as dense_eval
from test_sweep import request
from torch import nn
from typer.testing import CliRunner

import mixers
from wfbench import models, recipe, records, report
from wfbench.analysis.lines import label, scheduled
from wfbench.cli import app
from wfbench.errors import InputError
from wfbench.measure import count_flops
from wfbench.models.schedule import schedule_of, settled
from wfbench.report import figures
from wfbench.tasks.common import check_carried
from wfbench.tasks.identity import mixer_digest
from wfbench.tasks.profile.request import ProfileRequest
from wfbench.tasks.profile.run import profile
from wfbench.tasks.sweep import Sweep
from wfbench.tasks.sweep.match import RESIDUAL, _depths, count, match
from wfbench.tasks.sweep.registration import line_name

SMALL = {"image_size": (64, 48), "embed_dim": 48, "depth": 5, "num_heads": 3, "num_classes": 10}
SMALL_DIT = {"image_size": (8, 6), "embed_dim": 48, "depth": 5, "num_heads": 3, "num_classes": 10}
CONTROL = {"every": 3, "offset": 1, "between": "static"}
ITSELF = {"every": None, "offset": None, "between": None}


def vit(mixer: str, **changes: object) -> models.VisionTransformer:
    return models.create("vit-tiny", mixer, **(SMALL | changes)).eval()


def dense(mixer: str, **changes: object) -> models.DenseModel:
    return models.create_dense("vit-tiny", mixer, **(SMALL | changes)).eval()


def dit(mixer: str, **changes: object) -> models.DiT:
    return models.create("dit-s-2", mixer, **(SMALL_DIT | changes)).eval()


def blocks(model: models.AnyModel) -> nn.ModuleList:
    return model.backbone.blocks if isinstance(model, models.DenseModel) else model.blocks


def layers(name: str) -> tuple[type, type]:
    """The classes of a mixer's active layers."""
    token, _, ffn, _ = mixers.layers(name)
    return token, ffn


# --- models


@pytest.mark.parametrize("build", [vit, dit, dense])
@pytest.mark.parametrize(
    ("mixer", "schedule", "active"),
    [
        ("softmax", {"every": 3, "between": "static"}, [1, 4]),
        ("softmax", {"every": 3, "offset": 0, "between": "linear"}, [0, 3]),
        ("linear", {"every": 2, "offset": 1, "between": "softmax"}, [1, 3]),
        ("softmax", {"every": 4, "offset": 3, "between": "weightformer"}, [3]),
        ("weightformer", {"every": 2, "between": "linear"}, [1, 3]),
        ("weightformer", {"between": "softmax"}, [1, 4]),
        ("weightformer", {"every": 2, "offset": 0}, [0, 2, 4]),
        ("weightformer", {"every": 1}, [0, 1, 2, 3, 4]),
        ("weightformer", {}, [1, 4]),
        ("softmax", {"every": 1, "offset": 0}, [0, 1, 2, 3, 4]),
    ],
)
def test_a_schedule_fills_the_layers_that_it_says(build, mixer: str, schedule: dict[str, object], active: list[int]) -> None:
    between = schedule.get("between", "static")
    expected = [layers(mixer if i in active else str(between)) for i in range(5)]
    assert [(type(block.mixer), type(block.fc1)) for block in blocks(build(mixer, **schedule))] == expected


@pytest.mark.sampled(4)
@pytest.mark.parametrize("build", [vit, dit])
@pytest.mark.parametrize("given", [CONTROL, {"every": 3}, {"every": 3, "between": "static"}, {"between": "static"}])
def test_a_mixer_s_own_schedule_spelled_out_is_the_same_model(build, given: dict[str, object]) -> None:
    plain, spelled = build("weightformer", seed=0), build("weightformer", seed=0, **given)
    assert spelled.config == plain.config
    assert (spelled.config.every, spelled.config.offset, spelled.config.between) == (None, None, None)
    ours, theirs = spelled.state_dict(), plain.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("mixer", "given", "found"),
    [
        ("softmax", (1, None, None), (None, None, None)),
        ("softmax", (3, None, "static"), (3, 1, "static")),
        ("softmax", (4, 3, "linear"), (4, 3, "linear")),
        ("weightformer", (3, 0, "static"), (3, 0, None)),
        ("weightformer", (6, None, None), (6, 1, None)),
        ("weightformer", (3, None, "linear"), (3, 1, "linear")),
        ("weightformer", (1, None, None), (1, 0, None)),
        ("static", (2, None, "linear"), (2, 1, "linear")),
    ],
)
def test_defaults_are_filled_in_and_what_is_settled_stays(mixer: str, given: tuple, found: tuple) -> None:
    assert settled(mixer, *given) == found
    assert settled(mixer, *found) == found


@torch.no_grad()
def test_the_control_is_weightformer_with_other_layers_put_into_its_place() -> None:
    control, other = vit("softmax", seed=0, **CONTROL).double(), vit("weightformer", seed=1).double()
    for active in (1, 4):
        for slot in ("mixer", "fc1"):
            setattr(other.blocks[active], slot, getattr(control.blocks[active], slot))
    x = torch.randn(2, 3, 64, 48, dtype=torch.float64)
    assert far(control(x), other(x)), "the rest is not yet the same"
    other.load_state_dict(control.state_dict())
    near(control(x), other(x), tolerance=1e-12)


@torch.no_grad()
def test_the_faithful_residual_follows_the_schedule() -> None:
    model = models.create("weightformer-tiny", "softmax", **(SMALL | CONTROL)).eval()
    assert [isinstance(block.norm1, nn.LayerNorm) for block in model.blocks] == [False, True, False, False, True]
    assert model(torch.randn(1, 3, 64, 48)).isfinite().all()
    faithful = models.create("weightformer-tiny", **SMALL)
    assert [type(block.mixer) for block in model.blocks[::2]] == [type(block.mixer) for block in faithful.blocks[::2]][:2] + [
        layers("softmax")[0]
    ]


def test_options_and_rotation_are_of_the_mixer_s_own_layers() -> None:
    model = vit("softmax", every=2, between="linear", pos_embed="rope2d")
    assert [block.mixer.rope for block in model.blocks] == [False, True, False, True, False]
    built = vit("mila-linear", every=2, between="static", mixer_options={"local": False}, depth=2)
    assert type(built.blocks[0].mixer) is layers("static")[0]
    with pytest.raises(InputError, match=r"q and k(.*\n)*.*'weightformer'"):
        vit("weightformer", every=2, between="softmax", pos_embed="rope2d")


def test_a_class_token_and_the_grid_are_asked_of_both_mixers() -> None:
    assert vit("softmax", every=2, between="linear", class_token=True)(torch.randn(1, 3, 64, 48)).shape == (1, 10)
    with pytest.raises(InputError, match=r"'static' between the layers of 'softmax', which works on the grid alone"):
        vit("softmax", class_token=True, **CONTROL)
    fixed = [vit(*names).pretrained_cfg["fixed_input_size"] for names in (["softmax"], ["mlp-mixer"])]
    fixed += [vit("softmax", every=2, between="mlp-mixer").pretrained_cfg["fixed_input_size"]]
    assert fixed == [False, True, True]


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", ["softmax", "weightformer"])
@pytest.mark.parametrize("between", ["static", "linear"])
def test_the_work_of_a_schedule_is_counted_as_declared(name: str, between: str) -> None:
    image = count_flops(vit(name, every=4, between=between), (2, 3, 64, 48))
    assert image.counts.keys() == {"declared", "flop_counter", "fvcore"}
    assert image.macs != count_flops(vit(name), (2, 3, 64, 48)).macs
    assert count_flops(dit(name, every=4, between=between), (2, 4, 8, 6)).macs > 0


def test_the_released_names_are_of_the_released_layers() -> None:
    assert models.released_names(vit("softmax"))
    assert models.released_names(vit("weightformer", every=1))
    with pytest.raises(InputError, match="'softmax' with 'static' between its layers"):
        models.released_names(vit("softmax", **CONTROL))
    model, other = vit("softmax", seed=0, **CONTROL), vit("softmax", seed=1, **CONTROL)
    models.load_initial(other, model.state_dict(), grid=(4, 3))
    assert torch.equal(other.blocks[1].mixer.qkv.weight, model.blocks[1].mixer.qkv.weight)
    with pytest.raises(InputError, match="weights of another model"):
        models.load_initial(other, vit("softmax").state_dict())


def test_timm_s_names_take_a_schedule_and_its_doors_keep_it() -> None:
    model = timm.create_model("wfbench_vit_tiny", mixer="softmax", img_size=64, every=3, between="static")
    assert schedule_of(model.config) == mixers.base.Schedule(3, 1, "static")
    features = timm.create_model(
        "wfbench_vit_tiny", mixer="softmax", img_size=64, every=3, between="static", features_only=True, out_indices=(0,)
    )
    assert [tuple(map_.shape) for map_ in features(torch.randn(1, 3, 64, 64))] == [(1, 192, 4, 4)]
    assert model.prune_intermediate_layers([0]) == [0], "although no layer that is left carries the mixer"


ERRORS = {
    "an offset alone": (["--offset", "1"], ["offset alone", "offset = 1", "every beside it"]),
    "nothing between": (["--every", "3"], ["nothing fills the layers between", "every = 3", "--between static"]),
    "nothing to fill": (["--every", "1", "--between", "static"], ["nothing to fill", "every = 1", "--every 3"]),
    "nothing to fill either": (["--between", "static"], ["nothing to fill", "between = 'static'"]),
    "an offset too far": (["--every", "3", "--offset", "3", "--between", "static"], ["offset = 3", "which is 2"]),
    "no active layer": (
        ["--every", "9", "--offset", "4", "--between", "static"],
        ["no layer carries", "offset = 4", "depth 4"],
    ),
    "the same mixer": (["--every", "3", "--between", "softmax"], ["the same mixer", "between = 'softmax'"]),
    "an unknown mixer": (["--every", "3", "--between", "statc"], ["'statc'", "did you mean static"]),
}


@pytest.mark.parametrize("command", ["train", "profile", "sweep"])
@pytest.mark.parametrize("case", list(ERRORS))
def test_a_schedule_that_cannot_be_is_one_message_and_exit_code_2(case: str, command: str, tmp_path: Path) -> None:
    words, expected = ERRORS[case]
    small = ["--model", "vit-tiny"] if command == "profile" else ["--set", "model.depth=4"]
    if command == "profile":
        words = [word.replace("4", "12").replace("9", "13") for word in words]
        expected = [word.replace("4", "12") for word in expected]
    result = CliRunner().invoke(app, [command, "--mixer", "softmax", *small, *words, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2, result.output
    assert result.output.count("error:") == 1
    assert "Traceback" not in result.output
    assert all(word in result.output for word in expected), result.output
    assert not (tmp_path / "out" / "records.jsonl").exists()


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_a_schedule_of_the_mixers_own_that_no_layer_fits_is_refused_too(command: str, tmp_path: Path) -> None:
    """WeightFormer's begins at layer 1: a network of one layer would be static, and be recorded under its name."""
    words = [command, "--mixer", "weightformer", "--set", "model.depth=1", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2, result.output
    said = " ".join(result.output.split())
    assert "no layer carries the mixer" in said
    assert "in one layer of 3 from layer 1 on" in said
    assert "a depth of at least 2" in said
    assert not (tmp_path / "out" / "records.jsonl").exists()


def test_no_budget_is_matched_and_no_time_measured_where_no_layer_carries_the_mixer() -> None:
    shallow = models.configure("vit-tiny", "weightformer", 32, depth=2)
    assert min(_depths(shallow)) == 2, "at depth 1 nothing of it would be left"
    with pytest.raises(InputError, match="no layer carries the mixer"):
        count(recipe.load("digits", ["model.mixer=weightformer", "model.depth=1"]), "params", 10)
    for config in (replace(shallow, depth=1), models.configure("dit-s-2", "weightformer", 8, depth=1)):
        with pytest.raises(InputError, match="no layer carries the mixer"):
            check_carried(config)
    check_carried(replace(shallow, depth=1, every=1))
    with pytest.raises(InputError, match="no layer carries the mixer"):
        ProfileRequest(recipe=recipe.load("digits", ["model.depth=1"]), mixers=("weightformer",), resolutions=(32,)).cells()


@pytest.mark.parametrize(("every", "offset"), [("3", None), (True, None), (0, None), (3, 1.0), (3, -1)])
def test_what_is_no_number_of_layers_is_refused(every: object, offset: object) -> None:
    with pytest.raises(InputError, match="impossible schedule"):
        vit("softmax", every=every, offset=offset, between="static")


# --- recipe, identity, matching


def test_the_digest_of_a_recipe_leaves_the_schedule_out() -> None:
    words = ["model.every=3", "model.offset=0", "model.between=static"]
    assert recipe.digest(recipe.load("digits", words)) == recipe.digest(recipe.load("digits"))


def test_the_digest_of_the_code_is_of_both_mixers(tmp_path: Path) -> None:
    source = (
        Path(str(mixers.__path__[0]), "pool.py")
        .read_text()
        .replace('name="pool"', 'name="mine"')
        .replace("@register(", "@(lambda spec: lambda cls: cls)(")
    )
    names = []
    for number in range(2):
        (tmp_path / f"mine{number}.py").write_text(f"{source}\nNUMBER = {number}\n")
        names.append(f"{tmp_path}/mine{number}.py:Pool")
    digests = [mixer_digest("softmax"), mixer_digest("softmax", "static"), *(mixer_digest("softmax", name) for name in names)]
    assert None not in digests
    assert len(set(digests)) == 4
    assert mixer_digest(names[0], names[1]) != mixer_digest(names[1], names[0]), "two files do not hide one another"
    assert "+" not in str(digests[1])


def test_a_schedule_s_budget_is_matched() -> None:
    def of(mixer: str, *more: str) -> recipe.Recipe:
        return recipe.load("cifar10", [f"model.mixer={mixer}", *more])

    control = of("softmax", "model.every=3", "model.between=static")
    assert count(control, "params", 10) < count(of("softmax"), "params", 10)
    found = match(control, "params", of("softmax"), 10)
    assert found.mlp_ratio is not None
    assert abs(found.residual) <= RESIDUAL
    late = of("weightformer", "model.every=4", "model.offset=3")
    assert match(late, "macs", of("softmax"), 10).reached > 0, "depths without an active layer are not tried"


# --- records and report

OLD = ("every", "offset", "between")


def test_rows_from_before_there_were_schedules_read_unchanged(tmp_path: Path) -> None:
    rows = [train(), cell("linear"), exponent(), crossover("linear", "always"), evaluated(), dense_eval()]
    for row in rows:
        old = {k: v for k, v in json.loads(row.model_dump_json()).items() if k not in OLD}
        with (tmp_path / "records.jsonl").open("a") as file:
            file.write(json.dumps(old) + "\n")
    read, _ = records.read(tmp_path / "records.jsonl")
    assert read == rows
    assert {(row.every, row.offset, row.between) for row in read} == {(None, None, None)}


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        (CONTROL, "softmax / 3 + static"),
        (CONTROL | {"offset": 0}, "softmax / 3 from 0 + static"),
        (CONTROL | {"local_conv": "dwc"}, "softmax / 3 + static + DWC"),
        (CONTROL | {"pos_embed": "sincos"}, "softmax / 3 + static, sincos"),
        ({"mixer": "weightformer", "every": 1, "offset": 0}, "weightformer / 1"),
        ({"mixer": "weightformer", "every": 2, "offset": 1}, "weightformer / 2"),
        ({"every": 4, "offset": 3, "between": "linear"}, "softmax / 4 from 3 + linear"),
    ],
)
def test_a_line_is_named_after_its_schedule(changes: dict[str, object], name: str) -> None:
    assert label(train(**changes)) == label(cell(**changes)) == name


def test_other_schedules_are_other_lines_and_columns_stand_only_where_they_say_something() -> None:
    rows = [train(accuracy=0.5), train(accuracy=0.7, **CONTROL), train(accuracy=0.9, seed=1, **CONTROL)]
    rows += [train(accuracy=0.3, **(CONTROL | {"offset": 0})), train(accuracy=0.4, **(CONTROL | {"between": "linear"}))]
    table = only(rows)
    assert lines(table) == ["softmax", "softmax / 3 + linear", "softmax / 3 + static", "softmax / 3 from 0 + static"]
    assert list(table.data["accuracy"]) == [0.5, 0.4, 0.8, 0.3]
    assert [None if value is None else int(value) for value in table.data["offset"].tolist()[2:]] == [1, 0]
    assert set(OLD) <= set(table.data.columns)
    assert not set(OLD) & set(only(rows[:1]).data.columns)
    styles = figures.mixer_styles([table])
    assert {name for name, style in styles.items() if style["color"] == "black"} == {"softmax"}


def test_evaluations_by_size_keep_schedules_apart() -> None:
    rows = [evaluated(**changes) for changes in ({}, CONTROL)]
    (table,) = (table for table in report.tables(rows) if table.kind == "resolution")
    assert lines(table) == ["softmax", "softmax / 3 + static"]
    (table,) = report.tables([dense_eval(), dense_eval(**CONTROL)])
    assert list(table.frame["mixer"]) == ["linear", "linear / 3 + static"]


def test_a_profile_holds_schedules_against_the_baseline_in_every_layer() -> None:
    rows = []
    for changes, factor in (({}, 1.0), (CONTROL, 0.5)):
        rows += [cell("softmax", 224, 0.02 * factor, **changes), cell("softmax", 448, 0.2 * factor, **changes)]
    rows += [cell("weightformer", 224, 0.04), cell("weightformer", 448, 0.08)]
    made = {table.name: table for table in report.tables(rows)}
    assert sorted(made) == ["crossover", "profile", "speedup"], "one table: the schedule is no setting"
    table = made["profile"]
    assert lines(table) == [name for name in ("softmax", "softmax / 3 + static", "weightformer") for _ in range(2)]
    assert lines(table, "speed-up over softmax") == ["1.00×", "1.00×", "2.00×", "2.00×", "0.500×", "2.50×"]
    assert lines(table, "latency exponent")[3] == f"{math.log(10, 4):.2f}"
    assert lines(made["crossover"]) == ["softmax / 3 + static", "weightformer"]
    assert lines(made["crossover"], "baseline") == ["softmax", "softmax"]
    assert list(made["crossover"].data["between"])[:1] == ["static"]


# --- command line

TINY = ["model.embed_dim=16", "model.depth=2", "epochs=1", "optim.warmup_epochs=0"]


def test_a_run_has_its_schedule_and_its_evaluation_too(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = [word for key in TINY for word in ("--set", key)]
    flags = ["--every", "2", "--between", "static"]
    result = CliRunner().invoke(app, ["train", *words, *flags, "--out", str(out)])
    assert result.exit_code == 0, result.output
    trained = json.loads((out / "result.json").read_text())
    assert (trained["mixer"], trained["every"], trained["offset"], trained["between"]) == ("softmax", 2, 1, "static")
    assert trained["mixer_digest"] == mixer_digest("softmax", "static")
    result = CliRunner().invoke(app, ["eval", str(out)])
    assert result.exit_code == 0, result.output
    (row,) = records.read(out / "eval" / "records.jsonl")[0]
    assert (row.accuracy, row.loss, label(row)) == (trained["accuracy"], trained["loss"], "softmax / 2 + static")


def test_the_name_of_a_run_says_its_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = [word for key in TINY for word in ("--set", key)]
    result = CliRunner().invoke(app, ["train", *words, "--every", "2", "--offset", "0", "--between", "linear", "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "digits-vit-tiny-every-2-from-0-between-linear-s0" in result.output.replace("\n", "")


def test_a_sweep_has_lines_with_a_schedule(tmp_path: Path) -> None:
    wanted = request(mixers=["softmax", {"mixer": "softmax", "every": 3, "between": "static"}, "weightformer"])
    plan = Sweep.plan(wanted, tmp_path)
    assert [line_name(draft) for draft in plan.drafts] == ["softmax", "softmax / 3 + static", "weightformer"]
    runs = plan.finals(None)[0]
    assert runs[1].name.startswith("digits-softmax-every-3-between-static-s0-")
    assert runs[1].words[2:8] == ("--mixer", "softmax", "--every", "3", "--between", "static")
    assert runs[1].recipe.model.every == 3
    assert runs[1].line == "digits: softmax, every 3, between static"
    crossed = request(mixers=["softmax", {"mixer": "linear", "every": 1}], every=[3, 4], between=["static"])
    found = [line_name(draft) for draft in Sweep.plan(crossed, tmp_path).drafts]
    assert found == ["softmax / 3 + static", "softmax / 4 + static", "linear"]


def test_a_sweep_refuses_a_line_that_spells_out_the_mixer_s_own_schedule_beside_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the same run"):
        Sweep.plan(request(mixers=["weightformer", {"mixer": "weightformer", **CONTROL}]), tmp_path)


def test_a_sweep_s_claims_name_lines_by_their_schedule(tmp_path: Path) -> None:
    claim = "{id: a, says: x, kind: better, line: weightformer, than: softmax / 3 + static}"
    (tmp_path / "claims.yaml").write_text(f"recipe: digits\nseeds: [0, 1]\nbudget: {{epochs: 1}}\nclaims:\n  - {claim}\n")
    control = {"mixer": "softmax", **CONTROL}
    wanted = request(mixers=["weightformer", control], seeds=[0, 1], claims=str(tmp_path / "claims.yaml"))
    assert len(Sweep.plan(wanted, tmp_path / "out").drafts) == 2
    with pytest.raises(InputError, match=r"the lines softmax / 3 \+ static"):
        Sweep.plan(request(mixers=["weightformer", "softmax"], seeds=[0, 1], claims=str(tmp_path / "claims.yaml")), tmp_path)


def test_a_profile_measures_the_baseline_as_it_is_beside_each_schedule() -> None:
    quick = ProfileRequest(mixers=("softmax", "linear", "weightformer"), resolutions=(32,), isolate=False, attention="auto")
    asked = replace(quick, every=3, between="static")
    assert [cell.name for cell in asked.cells()] == [
        "softmax / 3 + static at 32 px",
        "softmax at 32 px",
        "linear / 3 + static at 32 px",
        "weightformer at 32 px",
    ]
    assert [scheduled(cell.config) for cell in replace(asked, mixers=("linear",)).cells()] == ["linear / 3 + static"]
    assert len({cell.key for cell in asked.cells()}) == 4
    hybrid = recipe.load("digits", ["model.every=4", "model.between=linear"])
    of_recipe = replace(quick, mixers=("softmax",), recipe=hybrid)
    assert [cell.name for cell in of_recipe.cells()] == ["softmax / 4 + linear at 32 px", "softmax at 32 px"]
    named = replace(of_recipe, every=3, between="static").cells()
    assert [cell.name for cell in named] == ["softmax / 3 + static at 32 px", "softmax at 32 px"]


@pytest.mark.slow
def test_the_lines_of_a_profile_are_of_one_session_and_measured_once(tmp_path: Path) -> None:
    quick = ProfileRequest(mixers=("softmax",), resolutions=(32,), rounds=2, isolate=False, attention="auto")
    asked, journal = replace(quick, every=3, between="static"), tmp_path / "records.jsonl"
    control, plain = (row for row in profile(asked, journal) if row.kind == "profile")
    assert (label(control), label(plain)) == ("softmax / 3 + static", "softmax")
    assert control.session == plain.session
    assert control.macs < plain.macs
    assert control.parameters < plain.parameters
    profile(asked, journal)
    measured = [row for row in records.read(journal)[0] if row.kind == "measurement" and row.stage == "latency"]
    assert sorted(label(row) for row in measured) == [label(plain)] * 2 + [label(control)] * 2


def test_the_flags_of_profile_are_those_of_the_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("wfbench.tasks.profile.run.profile", lambda request, journal, watch: seen.append(request))
    monkeypatch.setattr(sys.modules["wfbench.cli.report"], "write_and_show", lambda sources, out: None)
    words = ["--every", "3", "--offset", "0", "--between", "static", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, ["profile", "--mixer", "softmax", *words])
    assert result.exit_code == 0, result.output
    assert [(request.every, request.offset, request.between) for request in seen] == [(3, 0, "static")]
