"""Effective receptive fields: support by theory, global mixers, and the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from wfbench import models, report
from wfbench.analysis.receptive_fields import decode, encode
from wfbench.cli import app
from wfbench.data.splits import Arrays
from wfbench.errors import InputError
from wfbench.records import ErfRow
from wfbench.tasks.erf import ErfRequest, choose_images, distances, energy_map, measure


class Convolutions(nn.Module):
    """k 3×3 convolutions; tokens are pixels."""

    def __init__(self, k: int, channels: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Conv2d(2 if i == 0 else channels, channels, 3, padding=1) for i in range(k)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).flatten(2).transpose(1, 2)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("grid", [(17, 17), (16, 13)])
def test_k_convolutions_have_exactly_the_support_of_theory(k: int, grid: tuple[int, int]) -> None:
    energy = energy_map(Convolutions(k), torch.randn(3, 2, *grid), grid)
    expected = np.zeros(grid, dtype=bool)
    expected[grid[0] // 2 - k : grid[0] // 2 + k + 1, grid[1] // 2 - k : grid[1] // 2 + k + 1] = True
    assert np.array_equal(energy > 0, expected)
    assert energy.sum() == pytest.approx(1, abs=1e-12)


def test_the_energy_is_the_jacobian_squared() -> None:
    """With many random signs the mean is Σ_k (∂f_k/∂x)², here from the whole Jacobian."""
    net, x = Convolutions(2).double(), torch.randn(1, 2, 7, 7, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda image: net(image)[0, 3 * 7 + 3], x)  # (D, 1, C, 7, 7)
    exact = jacobian.square().sum(dim=(0, 1, 2)).numpy()
    found = energy_map(net, x, (7, 7), draws=4000)
    assert found == pytest.approx(exact / exact.sum(), rel=0.2, abs=5e-4)


def test_a_sum_of_normalised_features_has_no_gradient_and_random_signs_do() -> None:
    """The usual sum over features reads 0 behind a LayerNorm; the map must not."""
    x = torch.randn(1, 2, 7, 7, dtype=torch.float64, requires_grad=True)
    net = nn.Sequential(Convolutions(1, 8), nn.LayerNorm(8)).double()
    (usual,) = torch.autograd.grad(net(x)[0, 24].sum(), x)
    assert usual.abs().max() < 1e-9
    assert energy_map(net, x.detach(), (7, 7)).sum() == pytest.approx(1)


def tiny(mixer: str, **overrides: object) -> nn.Module:
    torch.manual_seed(0)
    overrides = {"embed_dim": 32, "depth": 2, "patch_size": 4, "in_channels": 1, "num_heads": 2} | overrides
    return models.create("vit-tiny", mixer, 36, 10, **overrides)


def reached(mixer: str, **overrides: object) -> float:
    fields = measure(tiny(mixer, **overrides), torch.randn(2, 1, 36, 36), ErfRequest())
    return float(fields["reached"])  # type: ignore[arg-type]


@pytest.mark.parametrize("mixer", ["softmax", "linear", "xca", "weightformer", "wf-linear-gap", "wf-dwc-conv", "random"])
def test_attention_and_dynamic_mixers_are_global(mixer: str) -> None:
    assert reached(mixer) == 1


def test_static_and_identity_see_what_their_layers_reach() -> None:
    assert reached("identity") == pytest.approx(1 / 81), "its own patch alone"
    assert reached("static", depth=2) == pytest.approx(25 / 81), "one token further with each layer"
    assert reached("static", depth=3) == pytest.approx(49 / 81)
    assert reached("identity", local_conv="dwc", depth=1) == pytest.approx(9 / 81)


def test_shares_are_those_of_the_map() -> None:
    model, images = tiny("softmax"), torch.randn(2, 1, 36, 36)
    fields = measure(model, images, ErfRequest())
    energy = energy_map(model.forward_features, images, (9, 9))
    away = distances((36, 36), (9, 9))
    assert away.min() < 0.2
    assert away[16, 16] == pytest.approx(np.hypot(0.375, 0.375)), "the first pixel of the central patch"
    assert fields["outside"] == tuple(float(energy[away > radius].sum()) for radius in fields["radii"])  # type: ignore[attr-defined]
    half = float(fields["half_radius"])  # type: ignore[arg-type]
    assert energy[away <= half].sum() >= 0.5
    assert energy[away < half].sum() <= 0.5
    assert fields == measure(model, images, ErfRequest()), "the same seed gives the same map"
    assert fields["picture"] != measure(model, images, ErfRequest(seed=1))["picture"]


def test_a_class_token_shifts_the_central_token() -> None:
    seen = np.argmax(
        energy_map(tiny("softmax", class_token=True).forward_features, torch.randn(1, 1, 36, 36), (9, 9), prefix_tokens=1)
    )
    assert distances((36, 36), (9, 9)).ravel()[seen] < 0.8


def test_a_picture_keeps_eight_decades() -> None:
    energy = np.logspace(-10, 0, 64).reshape(8, 8)
    kept = decode(encode(energy / energy.sum()))
    assert kept == pytest.approx(np.log10(energy).clip(-8), abs=8 / 255)


def test_no_gradient_is_an_error() -> None:
    dead = Convolutions(1)
    nn.init.zeros_(dead.layers[0].weight)
    with pytest.raises(InputError, match="no receptive field"):
        energy_map(dead, torch.randn(1, 2, 5, 5), (5, 5))
    with pytest.raises(InputError, match="nothing to average"):
        ErfRequest(images=0)


def run(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.slow
def test_a_run_is_mapped_before_and_after_training(tmp_path: Path) -> None:
    small = [f"--set={key}" for key in ("model.embed_dim=16", "model.depth=1", "epochs=1", "optim.warmup_epochs=0")]
    for mixer in ("softmax", "static"):
        run("train", "--mixer", mixer, "--out", tmp_path / mixer, *small)
    run("erf", tmp_path / "softmax", tmp_path / "static", "--images", 4, "--out", tmp_path / "erf")
    rows, _ = report.collect([tmp_path / "erf"])
    maps = [row for row in rows if isinstance(row, ErfRow)]
    assert [(row.mixer, row.weights, row.image_count) for row in maps] == [
        (mixer, weights, 4) for mixer in ("softmax", "static") for weights in ("fresh", "trained")
    ]
    assert [row.reached == 1 for row in maps] == [True, True, False, False]
    assert maps[0].picture != maps[1].picture
    for name in ("erf.png", "erf.md", "page.html"):
        assert (tmp_path / "erf" / name).is_file()

    weights = tmp_path / "softmax" / "model.safetensors"
    save_file({name: tensor * 0 for name, tensor in load_file(weights).items()}, weights)
    done = CliRunner().invoke(app, ["erf", str(tmp_path / "softmax"), "--out", str(tmp_path / "other")])
    assert done.exit_code == 2
    assert "no receptive field" in done.output


def test_images_are_of_all_classes_where_files_are_in_the_order_of_classes() -> None:
    split = Arrays("image", np.zeros((1000, 2, 2, 3), dtype=np.uint8), np.arange(1000) // 100)
    some = choose_images(split, 32, seed=0)
    assert len(some) == 32
    assert len(set(some.targets)) >= 8  # the first 32 are all of class 0
    assert some.indices == choose_images(split, 32, seed=0).indices != choose_images(split, 32, seed=1).indices
    assert len(choose_images(split, 2000, seed=0)) == 1000


def test_several_fresh_mixers_by_one_command_where_one_cannot_be_made(tmp_path: Path) -> None:
    head = "import torch\n\n\nclass M(torch.nn.Module):\n    def __init__(self, dim):\n"
    (tmp_path / "m.py").write_text(head + '        super().__init__()\n        assert dim != 192, "not 192"\n')
    chosen = [word for name in ("identity", f"{tmp_path / 'm.py'}:M", "static") for word in ("--mixer", name)]
    few = ["--resolution", "64", "--images", "1", "--draws", "1"]
    done = CliRunner().invoke(app, ["erf", *chosen, *few, "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "not every mixer was mapped" in done.output
    assert "m.py:M: AssertionError: not 192" in done.output
    rows, _ = report.collect([tmp_path])
    assert [row.mixer for row in rows] == ["identity", "static"]
    done = CliRunner().invoke(app, ["erf", "--mixer", "sotfmax", "--out", str(tmp_path / "new")])
    assert done.exit_code == 2
    assert not (tmp_path / "new").exists()
