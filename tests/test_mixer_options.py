"""Options of a mixer, in its name and by --mixer-set: checked, canonical, another line in every table."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import mixers
from mixers import MixerError
from mixers.options import parse_options, split_options, with_options
from wfbench import models, records
from wfbench.analysis.lines import label
from wfbench.cli import app
from wfbench.records import ProfileRow

SMALL = ["--set", "model.embed_dim=16", "--set", "model.depth=1", "--set", "model.num_heads=2", "--set", "epochs=1"]
SMALL += ["--set", "optim.warmup_epochs=0"]


@pytest.mark.parametrize(
    ("name", "mixer", "options"),
    [
        ("softmax", "softmax", {}),
        ("softmax()", "softmax", {}),
        ("agent(local=false)", "agent", {"local": False}),
        ("agent( n = 3 , local=True )", "agent", {"n": 3, "local": True}),
        ("dir(1)/my.py:M", "dir(1)/my.py:M", {}),
        ("dir(1)/my.py:M(rate=1e-3)", "dir(1)/my.py:M", {"rate": 1e-3}),
        ("a.b:C(mode=fast,size=none)", "a.b:C", {"mode": "fast", "size": None}),
    ],
)
def test_a_name_holds_its_options(name: str, mixer: str, options: dict[str, object]) -> None:
    assert split_options(name) == (mixer, options)
    assert all(type(split_options(name)[1][key]) is type(value) for key, value in options.items())


def test_the_same_options_are_the_same_name() -> None:
    assert with_options("agent(n=3, local=true)", {}) == with_options("agent( local=True,n=3)", {}) == "agent(local=true, n=3)"
    assert with_options("agent(local=true)", {"local": False}) == "agent(local=false)"
    assert with_options("agent", {}) == "agent"
    for name in ("agent(local=false, n=3)", "x(mode=fast, rate=0.001, size=none)"):
        assert with_options(*split_options(name)) == name


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["window"], ["'window'", "expected option=value"]),
        (["=7"], ["'=7'"]),
        (["window="], ["'window='"]),
        (["a b=7"], ["'a b=7'"]),
        (["window=7", "window=8"], ["twice", "window = 7 and 8"]),
    ],
)
def test_what_is_no_option_is_refused(settings: list[str], words: list[str]) -> None:
    with pytest.raises(MixerError) as found:
        parse_options(settings)
    assert [word for word in words if word not in str(found.value)] == [], found.value


def test_an_option_reaches_the_layer_of_the_active_blocks() -> None:
    plain, off = mixers.create("agent", 16, num_heads=2), mixers.create("agent(local=false)", 16, num_heads=2)
    assert sum(p.numel() for p in off.parameters()) < sum(p.numel() for p in plain.parameters())
    model = models.create("vit-tiny", "agent(local=false)", embed_dim=16, depth=2, num_heads=2, image_size=32)
    same = models.create("vit-tiny", "agent", embed_dim=16, depth=2, num_heads=2, image_size=32, mixer_options={"local": False})
    assert model.config == same.config
    assert model.config.mixer == "agent(local=false)"
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(model.eval()(x).isfinite(), torch.ones(1, 1000, dtype=torch.bool))


def test_what_a_spec_declares_of_its_symmetry_holds_for_its_own_options_alone() -> None:
    name = next(name for name in mixers.names() if mixers.spec(name).as_set)
    found = mixers.spec(with_options(name, mixers.spec(name).as_set or {}))  # type: ignore[arg-type]
    assert (found.layout, found.as_set) == ("set", None)
    assert mixers.spec("softmax(qkv_bias=false)").layout is None
    assert mixers.spec("softmax(qkv_bias=false)").complexity == "quadratic"


def test_an_unknown_option_says_which_there_are() -> None:
    with pytest.raises(MixerError, match=r"unknown option for mixer 'agent': got 'lokal'; did you mean 'local'\?"):
        mixers.spec("agent(lokal=false)")
    with pytest.raises(MixerError, match="expected no option, it has none"):
        mixers.spec("identity(a=1)")


@pytest.mark.slow
def test_every_command_takes_options(tmp_path: Path) -> None:
    def run(*words: str) -> str:
        done = CliRunner().invoke(app, [*words, "--mixer-set", "local=false"])
        assert done.exit_code == 0, done.output + repr(done.exception)
        return done.output

    assert "digits-agent-local-false-s0" in run("train", "--mixer", "agent", "--dry-run")
    assert "agent(local=false)" in run("sweep", "--mixer", "agent", "--dry-run", "--out", str(tmp_path / "sweep"))
    run("train", "--mixer", "agent", *SMALL, "--out", str(tmp_path / "run"))
    (row,) = (row for row in records.read(tmp_path / "run" / "records.jsonl")[0] if row.kind == "train")
    assert label(row) == "agent(local=false)"
    profile = ["profile", "--mixer", "agent", "--resolution", "32", "--no-isolate", "--no-memory", "--rounds", "2"]
    run(*profile, "--out", str(tmp_path / "profile"))
    found = {r.mixer for r in records.read(tmp_path / "profile" / "records.jsonl")[0] if isinstance(r, ProfileRow)}
    assert "agent(local=false)" in found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--mixer", "agent", "--mixer-set", "lokal=1", "--dry-run"], "did you mean 'local'"),
        (["sweep", "--mixer", "agent", "--mixer", "softmax", "--mixer-set", "local=false", "--dry-run"], "'softmax'"),
        (["sweep", "--mixer-set", "local=false", "--dry-run"], "--mixer"),
        (["profile", "--mixer-set", "local=false"], "add --mixer NAME"),
        (["verify", "agent", "--mixer-set", "local"], "expected: option=value"),
    ],
)
def test_bad_options_are_one_message(words: list[str], message: str) -> None:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2, done.output
    assert message in done.output
    assert "Traceback" not in done.output


def test_rotation_is_no_set_and_a_layer_without_positions_takes_any_grid() -> None:
    bare = mixers.spec("focused-linear(local=false, pos=false)")
    assert (bare.layout, bare.needs_grid) == ("set", False)
    turned = mixers.spec("focused-linear(local=false, pos=false, rope=true)")
    assert (turned.layout, turned.doubling, turned.needs_grid) == (None, None, False)
    assert mixers.spec("focused-linear(local=false)").needs_grid
