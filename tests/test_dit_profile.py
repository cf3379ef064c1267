from __future__ import annotations

from pathlib import Path

import pytest
import torch

from wfbench import models
from wfbench.analysis.lines import label
from wfbench.errors import InputError
from wfbench.records import ProfileRow
from wfbench.tasks.profile.request import ProfileRequest
from wfbench.tasks.profile.run import profile

QUICK = {"model": "dit-s-8", "mixers": ("softmax", "linear"), "resolutions": (64, 128), "rounds": 1, "isolate": False}


@pytest.fixture(autouse=True)
def thin(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model of these tests, with two layers."""
    monkeypatch.setattr(models.presets, "PRESETS", {**models.PRESETS, "dit-s-8": models.configure("dit-s-8", depth=2)})


def rows_of(tmp_path: Path, **overrides: object) -> list[ProfileRow]:
    request = ProfileRequest(**{**QUICK, "attention": "auto", "memory": False, **overrides})
    return [row for row in profile(request, tmp_path / "records.jsonl") if isinstance(row, ProfileRow)]


@pytest.mark.slow
def test_the_resolution_of_a_latent_model_is_that_of_the_image(tmp_path: Path) -> None:
    rows = rows_of(tmp_path)
    assert {(row.resolution[0], row.downsample, row.tokens) for row in rows} == {(64, 8, 1), (128, 8, 4)}
    assert {row.status for row in rows} == {"ok"}
    for row in rows:
        side = row.resolution[0] // 8
        model = models.create("dit-s-8", row.mixer, side)
        assert row.macs == sum(model.declared_macs((side, side)).values())
        assert row.counted_by == ("declared", "flop_counter", "fvcore")
        assert (row.pos_embed, label(row)) == ("sincos", row.mixer)


def test_in_pixel_space_the_model_sees_the_image(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, mixers=("softmax",), resolutions=(64,), pixel_space=True)
    assert (row.downsample, row.tokens) == (1, 64)
    assert row.macs == sum(models.create("dit-s-8", image_size=64, in_channels=3).declared_macs((64, 64)).values())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_training_step_is_the_denoisers(dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []

    def loss(run: models.DiT, x: torch.Tensor, y: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        out = run(x, y, y)
        seen.append(out.dtype)
        return out.sum()

    monkeypatch.setattr("wfbench.tasks.profile.cell.denoising_loss", lambda null_class: loss)
    rows = rows_of(tmp_path, resolutions=(64,), mode="train", dtype=dtype)
    assert {row.status for row in rows} == {"ok"}
    assert set(seen) == {getattr(torch, dtype)}


def test_a_real_training_step_runs(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, mixers=("weightformer",), resolutions=(128,), mode="train", baseline="weightformer")
    assert (row.status, row.bytes_alive and row.bytes_alive > 0) == ("ok", True)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"resolutions": (100,)}, r"the image has no latent\n.*100 px[\s\S]*use 104"),
        ({"resolutions": (72,)}, r"not a multiple of the patch size\n.*9x9"),
        ({"model": "vit-tiny", "pixel_space": True}, "for DiT models"),
        ({"tokens": 3}, r"--tokens holds no image[\s\S]*at least 4"),
    ],
)
def test_what_cannot_be_profiled_is_refused(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ProfileRequest(**{**QUICK, **wrong}).cells()
