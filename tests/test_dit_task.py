"""Denoisers from the recipe to the score: training, sampling, evaluation, and everything that is refused on the way."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Command, near
from PIL import Image
from safetensors.torch import load_file, save_file
from test_latents import vae_dir
from typer.testing import CliRunner

from wfbench import files, records
from wfbench import recipe as recipes
from wfbench.cli import app
from wfbench.data import open_dataset
from wfbench.diffusion import Noising, Sampler, denoising_loss, frozen, noised_loss
from wfbench.diffusion.draws import generator_of
from wfbench.diffusion.scores import class_agreement, frechet_distance, moments
from wfbench.errors import InputError
from wfbench.records import DenoisingRow, DiTRow, PictureRow, ScoreRow, TrialRow
from wfbench.report import collect, tables
from wfbench.tasks import draw_samples, jobs, score_samples
from wfbench.tasks import weights as weights_of
from wfbench.tasks.evaluate_denoiser import evaluate_denoiser
from wfbench.tasks.jobs import dit
from wfbench.tasks.score_samples import ScoreRequest
from wfbench.tasks.sweep import Dispatch, Sweep, load_request, sweep
from wfbench.training import TrainState

__all__ = ["vae_dir"]  # a fixture

SMALL = [
    "model.embed_dim=16",
    "model.depth=2",
    "model.num_heads=2",
    "epochs=2",
    "eval_every=1",
    "optim.warmup_epochs=0",
    "ema.decay=0.9",
    "diffusion.held_out_samples=40",
    "diffusion.held_out_bins=4",
]
CPU = torch.device("cpu")


def words_of(settings: list[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def run(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output + repr(result.exception)
    assert "Traceback" not in result.output
    return result.output


def train(out: Path, *more: str, sets: list[str] = SMALL) -> Path:
    run("train", "--recipe", "dit-digits", "--device", "cpu", "--out", out, *words_of(sets), *more)
    return out


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("dit") / "run")


@pytest.fixture(scope="module")
def sampled(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sampled") / "set"
    run("sample", trained, "--num", 210, "--sampler", "ddim", "--steps", 4, "--device", "cpu", "--out", out)
    return out


# --- what is drawn


def test_the_draws_of_a_batch_are_those_of_one_process_whatever_their_number() -> None:
    x, y = torch.rand(8, 1, 4, 4), torch.arange(8) % 3
    whole = Noising(3, 0.5, 8, tuple(range(8)))(x, y, key=(0, 1, 2))
    for own in ((0, 1, 6, 7), (2, 3, 4, 5)):
        part = Noising(3, 0.5, 8, own)(x[list(own)], y[list(own)], key=(0, 1, 2))
        assert all(torch.equal(a[list(own)], b) for a, b in zip(whole, part, strict=True))
    for other in ((1, 1, 2), (0, 2, 2), (0, 1, 3)):
        assert not torch.equal(Noising(3, 0.5, 8, tuple(range(8)))(x, y, key=other)[0], whole[0])
    wrong = Noising(3, 0.5, 8, (0, 1, 2, 3))(x[:4], y[:4], key=(0, 1, 2))  # the first half, as if it were positions 0, 1, 6, 7
    assert not torch.equal(wrong[0][2:], whole[0][6:])


def test_the_noised_loss_is_the_denoising_loss_of_the_same_draws() -> None:
    x, y = torch.rand(64, 1, 4, 4), torch.arange(64) % 3
    seen = []

    def model(x_t: torch.Tensor, t: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        seen.append((x_t, t, classes))
        return torch.cat([x_t, x_t], dim=1)

    inputs, targets = Noising(3, 0.1, 64, tuple(range(64)))(x, y, key=(0, 0, 0))
    found = noised_loss(model, inputs, targets, torch.Generator())
    expected = denoising_loss(3, 0.1)(model, x, y, generator_of(0, 0, 0, 1))
    assert found.item() == expected.item()
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))
    assert 0 < (targets[:, 1] == 3).sum() < 32


def test_a_step_in_parts_is_the_step_of_the_whole_batch() -> None:
    states = []
    for parts in ("null", "7"):
        recipe = recipes.load("dit-digits", [*SMALL, f"compute.micro_batch={parts}"])
        job = dit.prepare(recipe)
        state = TrainState(job.model, recipe, job.steps_per_epoch, loss=job.loss)
        for step, (x, y) in zip(range(3), job.batches((0, 0)), strict=False):
            state.step(*job.mix(x, y, key=(0, 0, step)))
        states.append(job.model.state_dict())
    for name, value in states[0].items():
        near(states[1][name], value, name, tolerance=1e-6)


# --- training and evaluation


def test_a_run_leaves_rows_of_both_weights_and_eval_finds_the_same_exactly(trained: Path) -> None:
    rows, _ = records.read(trained / "records.jsonl")
    assert [(row.kind, row.weights) for row in rows] == [("dit", "ema"), ("dit", "raw")]
    first = json.loads((trained / "result.json").read_text())
    assert (first["kind"], first["weights"], first["samples"], len(first["mse"])) == ("dit", "ema", 40, 4)
    for row in rows:
        assert isinstance(row, DiTRow)
        assert row.loss == pytest.approx((sum(row.mse) + sum(row.vb)) / 4)
        assert (row.space, row.edges, row.image_size) == ("pixel", (0, 250, 500, 750, 1000), (8, 8))
        assert [epoch for epoch, _ in row.held_out_curve] == [1, 2]
        assert row.held_out_curve[-1][1] == row.loss
        assert row.best_loss <= row.loss
        result = evaluate_denoiser(trained, row.weights, device=CPU)
        assert result.difference == 0
        assert (result.row.mse, result.row.vb, result.row.loss) == (row.mse, row.vb, row.loss)
    said = run("eval", trained, "--weights", "ema", "--device", "cpu")
    assert "what the trainer recorded: the same\n" in said
    kept, _ = records.read(trained / "eval" / "records.jsonl")
    assert all(isinstance(row, DenoisingRow) for row in kept)


def test_an_evaluation_of_other_weights_is_not_called_the_same(trained: Path, tmp_path: Path) -> None:
    for name in ("config.yaml", "result.json", "records.jsonl"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    weights = load_file(trained / "ema.safetensors")
    weights["final_layer.linear.bias"] += 0.01
    save_file(weights, tmp_path / "ema.safetensors")
    said = run("eval", tmp_path, "--weights", "ema", "--device", "cpu", code=1)
    assert "NOT the same" in said


def test_the_held_out_samples_are_spread_over_the_split_and_the_best_epoch_is_that_of_the_average() -> None:
    job = dit.prepare(recipes.load("dit-digits", SMALL))
    [(x, y)] = job.held_out(batch_size=256)
    assert y.tolist() == [job.dataset.val.targets[k * 9] for k in range(40)]
    assert (x.min(), x.max()) == (-1, 1)
    state = TrainState(job.model, job.recipe, job.steps_per_epoch, loss=job.loss)
    scores = job.evaluate(state)
    assert scores.headline == -scores.metrics["ema_loss"]
    assert set(scores.metrics) == {"loss", "ema_loss", "samples"}


def test_a_dry_run_says_what_a_denoiser_will_do(tmp_path: Path) -> None:
    said = run("train", "--recipe", "dit-digits", "--dry-run", "--out", tmp_path / "run", *words_of(SMALL))
    assert "task: dit" in said
    assert "GMACs" in said
    assert not (tmp_path / "run").exists()


def test_a_denoiser_trains_in_bfloat16_with_its_loss_in_float32() -> None:
    recipe = recipes.load("dit-digits", [*SMALL, "compute.precision=bfloat16"])
    job = dit.prepare(recipe)
    state = TrainState(job.model, recipe, job.steps_per_epoch, loss=job.loss)
    x, y = next(job.batches((0, 0)))
    metrics = state.step(*job.mix(x, y, key=(0, 0, 0)))
    assert metrics.loss.dtype == torch.float32
    assert torch.isfinite(metrics.loss)
    assert job.evaluation(job.model).loss > 0


# --- sampling


def arrays(directory: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(directory / "samples.npz") as file:
        return file["arr_0"], file["arr_1"]


def test_samples_come_in_adms_layout_with_a_grid_and_their_protocol(sampled: Path) -> None:
    images, labels = arrays(sampled)
    assert (images.shape, images.dtype) == ((210, 8, 8, 1), np.uint8)
    assert labels.tolist() == [i % 10 for i in range(210)]
    assert sorted(p.name for p in sampled.iterdir()) == ["grid.png", "protocol.json", "records.jsonl", "samples.npz"]
    assert Image.open(sampled / "grid.png").size == (500, 500)
    protocol = json.loads((sampled / "protocol.json").read_text())
    assert {key: protocol[key] for key in ("sampler", "steps", "cfg", "cfg_channels", "decoder", "weights", "samples")} == {
        "sampler": "ddim",
        "steps": 4,
        "cfg": 1.0,
        "cfg_channels": None,
        "decoder": "pixel",
        "weights": "ema",
        "samples": 210,
    }
    [row], _ = records.read(sampled / "records.jsonl")
    assert isinstance(row, PictureRow)


def request(run_: Path, out: Path, **more: object) -> draw_samples.SampleRequest:
    given = {"num": 210, "sampler": Sampler("ddim", 4, cfg_channels=None), "batch": 64} | more
    return draw_samples.SampleRequest(run_, out=out, **given)  # type: ignore[arg-type]


def assert_equal_samples(a: Path, b: Path) -> None:
    """Equal but for rounding: matrix products of batches of other sizes add up in another order, and a grey value may turn."""
    ours, theirs = arrays(a)[0].astype(int), arrays(b)[0].astype(int)
    assert np.abs(ours - theirs).max() <= 1
    assert (ours != theirs).mean() < 1e-3


def test_samples_are_the_same_in_other_batches_by_two_processes_and_after_an_interruption(
    trained: Path, sampled: Path, tmp_path: Path
) -> None:
    draw_samples.draw(request(trained, tmp_path / "batches", batch=23), device=CPU)
    assert_equal_samples(tmp_path / "batches", sampled)

    assert draw_samples.draw(request(trained, tmp_path / "two", rank=1, processes=2), device=CPU) is None
    assert draw_samples.draw(request(trained, tmp_path / "two", rank=0, processes=2), device=CPU) == tmp_path / "two"
    assert (tmp_path / "two" / "samples.npz").read_bytes() == (sampled / "samples.npz").read_bytes()

    def stop(samples: int) -> None:
        told.append(samples)
        if len(told) == 3:
            raise KeyboardInterrupt

    told: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        draw_samples.draw(request(trained, tmp_path / "stopped"), device=CPU, done=stop)
    made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "stopped").glob("part-*.npy")}
    assert sorted(made) == ["part-00000.npy", "part-00001.npy"]
    told = []
    draw_samples.draw(request(trained, tmp_path / "stopped"), device=CPU, done=told.append)
    assert told == [64, 64, 64, 18]
    assert (tmp_path / "stopped" / "samples.npz").read_bytes() == (sampled / "samples.npz").read_bytes()


def test_other_samples_are_seen_to_be_others(trained: Path, sampled: Path, tmp_path: Path) -> None:
    """The comparison above fails for another seed, other weights, and noise that follows a batch instead of a sample."""
    for name, other in {"seed": {"seed": 1}, "raw": {"weights": "raw"}, "cfg": {"sampler": Sampler("ddim", 4, 3.0)}}.items():
        draw_samples.draw(request(trained, tmp_path / name, **other), device=CPU)
        with pytest.raises(AssertionError):
            assert_equal_samples(tmp_path / name, sampled)


def test_a_whole_set_is_not_drawn_again_and_other_settings_are_refused(trained: Path, sampled: Path) -> None:
    before = (sampled / "samples.npz").stat().st_mtime_ns
    told: list[int] = []
    assert draw_samples.draw(request(trained, sampled), device=CPU, done=told.append) == sampled
    assert not told
    assert (sampled / "samples.npz").stat().st_mtime_ns == before
    with pytest.raises(InputError, match=r"samples of other settings[\s\S]*steps: 4 there, 5 now"):
        draw_samples.draw(request(trained, sampled, sampler=Sampler("ddim", 5, cfg_channels=None)), device=CPU)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", None])
def test_a_part_that_was_cut_is_drawn_again(content: bytes | None, trained: Path, sampled: Path, tmp_path: Path) -> None:
    draw_samples.draw(request(trained, tmp_path / "two", rank=1, processes=2), device=CPU)
    part = next((tmp_path / "two").glob("part-*.npy"))
    part.write_bytes(part.read_bytes()[:-100] if content is None else content)
    draw_samples.draw(request(trained, tmp_path / "two"), device=CPU)
    assert_equal_samples(tmp_path / "two", sampled)


def test_a_protocol_without_its_samples_is_no_set(trained: Path, sampled: Path, tmp_path: Path) -> None:
    shutil.copytree(sampled, tmp_path / "set")
    for change in (lambda file: file.write_bytes(b"other"), Path.unlink):
        change(tmp_path / "set" / "samples.npz")
        with pytest.raises(InputError, match="not those of their protocol"):
            draw_samples.draw(request(trained, tmp_path / "set"), device=CPU)
    (tmp_path / "set" / "protocol.json").write_text('"x"')
    with pytest.raises(InputError, match=r"protocol\.json: str"):
        draw_samples.draw(request(trained, tmp_path / "set"), device=CPU)


def test_grey_values_are_the_nearest_and_clipped() -> None:
    x = torch.tensor([-1.5, -1.0, -0.9999, 0.0, 1 / 255, 1.0, 1.2]).view(7, 1, 1, 1)
    assert draw_samples.to_uint8(x).flatten().tolist() == [0, 0, 0, 128, 128, 255, 255]
    grey = torch.arange(256).view(256, 1, 1, 1)
    assert torch.equal(torch.from_numpy(draw_samples.to_uint8(grey / 127.5 - 1)).view(-1), grey.view(-1).to(torch.uint8))


# --- scores


def real(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    job = dit.prepare(recipes.load("dit-digits"))
    train_images, train_classes, held, right = score_samples._real(job)
    return (train_images, train_classes) if split == "train" else (held, right)


def test_the_frozen_networks_know_digits_they_have_not_seen() -> None:
    held, right = real("val")
    for role, least in (("extractor", 0.99), ("judge", 0.99)):
        network = frozen.load("digits", role)  # type: ignore[arg-type]
        assert class_agreement(network, held.float() / 127.5 - 1, right) > least
        assert not any(p.requires_grad for p in network.parameters())


def test_frozen_networks_that_were_changed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = load_file(frozen.DIRECTORY / "digits-judge.safetensors")
    weights["head.bias"] += 1
    save_file(weights, tmp_path / "digits-judge.safetensors")
    monkeypatch.setattr(frozen, "DIRECTORY", tmp_path)
    for role in ("judge", "extractor"):  # another, and none
        with pytest.raises(InputError, match=r"is not the package's"):
            frozen.load("digits", role)  # type: ignore[arg-type]


def proxy(images: torch.Tensor) -> float:
    extractor = frozen.load("digits", "extractor")
    train_images, _ = real("train")
    ours, theirs = (frozen.features_of(extractor, x.float() / 127.5 - 1) for x in (images, train_images))
    return frechet_distance(moments([ours]), moments([theirs]))


@pytest.mark.slow
def test_proxy_fd_has_a_floor_and_rises_with_damage() -> None:
    held, _ = real("val")
    draw = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, held.shape, generator=draw)
    mixed = [(held * (1 - share) + noise * share).round() for share in (0, 0.15, 0.3, 0.6, 1)]
    found = [proxy(images) for images in mixed]
    assert found == sorted(found)
    assert proxy(real("train")[0]) < 1e-6 < found[0] < 1
    assert found[-1] > 20 * found[0]
    few = proxy(held[:100])
    assert few > found[0], "fewer samples lie farther, which is why the number stands beside every score"


def test_scores_carry_their_protocol_and_the_same_figure_of_real_images(trained: Path, sampled: Path, tmp_path: Path) -> None:
    rows, missing = score_samples.score(ScoreRequest(trained, sampled / "samples.npz", out=tmp_path), device=CPU)
    by_metric = {(row.metric, row.samples): row for row in rows}
    assert set(by_metric) == {
        ("proxy-FD", 105),
        ("proxy-FD", 210),
        *(
            (name, 210)
            for name in ("proxy precision", "proxy recall", "class agreement", "memorisation ratio", "memorised share")
        ),
    }
    assert missing == ["FID, IS: no --inception"]
    protocol = json.loads((sampled / "protocol.json").read_text())
    for row in rows:
        for key in (
            "weights",
            "weights_sha256",
            "sampler",
            "steps",
            "cfg",
            "decoder",
            "dtype",
            "sample_seed",
            "samples_sha256",
        ):
            assert getattr(row, key) == protocol[key]
    distance = by_metric["proxy-FD", 210]
    assert distance.extractor_sha256 == frozen.FROZEN["digits"].sha256["extractor"]
    assert distance.real_samples == 210
    assert distance.value > 10 * distance.real
    assert by_metric["class agreement", 210].real > 0.99
    assert by_metric["class agreement", 210].value < 0.5, "after two epochs these are no digits"
    assert records.read(tmp_path / "records.jsonl")[0] == rows


@pytest.mark.slow
def test_real_images_score_as_the_floor_does(trained: Path, tmp_path: Path) -> None:
    """Held-out images in place of samples reach the floor; training images are seen to be copies."""
    found = {}
    for split in ("val", "train"):
        images, labels = real(split)
        place = written(tmp_path / split, images[:360].permute(0, 2, 3, 1).numpy(), labels[:360].numpy(), trained)
        rows, _ = score_samples.score(ScoreRequest(trained, place, out=tmp_path), device=CPU)
        found[split] = {row.metric: row for row in rows if row.samples == 360}
    floor = found["val"]["proxy-FD"]
    assert floor.value == pytest.approx(floor.real, rel=1e-6)
    assert found["val"]["class agreement"].value == found["val"]["class agreement"].real
    assert found["val"]["memorisation ratio"].value == pytest.approx(1)
    assert found["val"]["memorised share"].value < 0.02
    assert (found["train"]["memorised share"].value, found["train"]["memorisation ratio"].value) == (1, 0)


def written(directory: Path, images: np.ndarray, labels: np.ndarray, run_: Path) -> Path:
    """A set of samples that never came from a model, with a protocol as if they had."""
    directory.mkdir()
    np.savez(directory / "samples.npz", arr_0=images, arr_1=labels)
    protocol = {
        "weights": "ema",
        "weights_sha256": files.sha256(run_ / "ema.safetensors"),
        "sampler": "none",
        "steps": 1,
        "cfg": 1.0,
        "cfg_channels": None,
        "decoder": "pixel",
        "dtype": "float32",
        "sample_seed": 0,
        "samples_sha256": files.sha256(directory / "samples.npz"),
    }
    (directory / "protocol.json").write_text(json.dumps(protocol))
    return directory / "samples.npz"


class FakeInception:
    """Stands for Inception's network: 8 means of a picture, and logits of them."""

    sha256 = "0" * 64

    def __init__(self, path: Path, device: torch.device) -> None:
        assert path.name == "inception.pth"

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert images.dtype == torch.uint8
        assert images.shape[1] == 3
        rows = images[:, 0].float().mean(dim=2)
        return rows, rows / 10


@pytest.mark.slow
def test_fid_and_is_stand_beside_their_inception_and_reference(
    trained: Path, sampled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_samples, "Inception", FakeInception)
    images, _ = real("train")
    features = images[:, 0].float().mean(dim=2)
    known = moments([features])
    np.savez(tmp_path / "stats.npz", mu=known.mean.numpy(), sigma=known.cov.numpy())
    np.savez(tmp_path / "images.npz", arr_0=images.permute(0, 2, 3, 1).numpy())
    (tmp_path / "folder").mkdir()
    for i in range(20):
        Image.fromarray(images[i, 0].numpy()).save(tmp_path / "folder" / f"{i:02d}.png")
    ours = torch.from_numpy(arrays(sampled)[0][..., 0]).float().mean(dim=2)
    expected = frechet_distance(moments([ours]), known)
    for reference in (None, tmp_path / "stats.npz", tmp_path / "images.npz", tmp_path / "folder"):
        asked = ScoreRequest(trained, sampled / "samples.npz", tmp_path / "inception.pth", reference, tmp_path / "out")
        rows, missing = score_samples.score(asked, device=CPU)
        assert not missing
        found = {row.metric: row for row in rows if row.samples == 210}
        assert found["FID"].extractor == "Inception"
        assert found["FID"].extractor_sha256 == "0" * 64
        assert ("precision" in found) == (reference != tmp_path / "stats.npz")
        if reference is None or reference.suffix == ".npz":
            assert found["FID"].value == pytest.approx(expected, rel=1e-5)
        assert found["FID"].reference == {None: "digits (20% held out by split seed 0), train"}.get(
            reference, found["FID"].reference
        )
        assert found["IS"].spread is not None


def test_a_report_keeps_protocols_apart(trained: Path, sampled: Path, tmp_path: Path) -> None:
    score_samples.score(ScoreRequest(trained, sampled / "samples.npz", out=tmp_path / "a"), device=CPU)
    rows, _ = collect([trained, tmp_path])
    score = next(row for row in rows if isinstance(row, ScoreRow))
    assert [table.name for table in tables(rows) if table.name.startswith("scores")] == ["scores"]
    for other in (
        {"steps": 5},
        {"cfg": 1.5},
        {"cfg_channels": 3},
        {"decoder": "vae 1234"},
        {"weights": "raw"},
        {"dtype": "bfloat16"},
    ):
        mixed = [*rows, score.model_copy(update=other)]
        split = [table for table in tables(mixed) if table.name.startswith("scores")]
        assert len(split) == 2, other
    twin = score.model_copy(update={"seed": 5, "value": score.value + 1})
    [one] = [table for table in tables([*rows, twin]) if table.name.startswith("scores")]
    line = one.data[(one.data["metric"] == score.metric) & (one.data["samples"] == score.samples)]
    assert line["seed_count"].tolist() == [2]
    other_extractor = score.model_copy(update={"extractor_sha256": "f" * 64})
    [one] = [table for table in tables([*rows, other_extractor]) if table.name.startswith("scores")]
    assert (one.data["extractor_sha256"] == "f" * 64).sum() == 1


@pytest.mark.slow
def test_a_report_shows_losses_curves_scores_and_grids(trained: Path, sampled: Path, tmp_path: Path) -> None:
    score_samples.score(ScoreRequest(trained, sampled / "samples.npz", out=tmp_path / "eval"), device=CPU)
    run("report", trained, sampled, tmp_path, "--out", tmp_path / "report")
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"denoising-ema.md", "denoising-raw.csv", "denoising-ema.png", "scores.md", "tables.md", "page.html"} <= names
    text = (tmp_path / "report" / "scores.md").read_text()
    assert "proxy-FD" in text
    assert "no FID" in text
    assert "4 steps" in text


# --- latents: extract, train, sample, eval


def pictures(root: Path) -> Path:
    draw = np.random.default_rng(0)
    for part, count in (("train", 30), ("val", 9)):
        for i in range(count):
            place = root / part / "abc"[i % 3]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 256, (16, 20, 3), dtype=np.uint8)).save(place / f"{i}.png")
    return root


LATENT = [
    "model.image_size=8",
    "model.embed_dim=16",
    "model.depth=2",
    "model.num_heads=2",
    "epochs=2",
    "eval_every=1",
    "batch_size=10",
    "diffusion.held_out_samples=null",
    "diffusion.held_out_bins=2",
    "compute.precision=float32",
    "data.workers=0",
    "keep_every=null",
]


@pytest.fixture(scope="module")
def latents(vae_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("latents")
    images = pictures(root / "images")
    for part in ("train", "val"):
        words = ["--vae", vae_dir, "--data", images, "--split", part, "--image-size", 16, "--device", "cpu", "--shard-size", 8]
        run("data", "extract-latents", *words, "--out", root / part)
    return root


@pytest.fixture(scope="module")
def of_latents(latents: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    run("train", "--recipe", "dit-400k", "--data", latents, "--device", "cpu", "--out", out, *words_of(LATENT))
    return out


def test_latents_are_extracted_trained_on_sampled_and_scored(
    of_latents: Path, vae_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [row, _], _ = records.read(of_latents / "records.jsonl")
    assert row.space.startswith("latent ")
    assert (row.samples, row.image_size, row.dataset.endswith(row.space.removeprefix("latent "))) == (9, (8, 8), True)
    assert "the same\n" in run("eval", of_latents, "--weights", "ema", "--device", "cpu")
    how = ["--num", 7, "--sampler", "dpm-solver", "--steps", 3, "--cfg", 2.0, "--device", "cpu", "--out", tmp_path / "set"]
    run("sample", of_latents, "--vae", vae_dir, *how)
    images, labels = arrays(tmp_path / "set")
    assert (images.shape, labels.tolist()) == ((7, 16, 16, 3), [0, 1, 2, 0, 1, 2, 0])
    protocol = json.loads((tmp_path / "set" / "protocol.json").read_text())
    assert protocol["cfg_channels"] == 3, "as released: three of the four channels"
    assert protocol["decoder"].startswith("vae ")
    monkeypatch.setattr(score_samples, "Inception", lambda path, device: OfRgb())
    np.savez(tmp_path / "ref.npz", mu=np.zeros(8), sigma=np.eye(8))
    words = ["--inception", tmp_path / "inception.pth", "--reference", tmp_path / "ref.npz"]
    said = run("eval", of_latents, "--samples", tmp_path / "set" / "samples.npz", "--device", "cpu", *words)
    assert "FID" in said
    assert "cfg 2 on 3 channels" in said
    assert "not scored: proxy-FD" in said


class OfRgb:
    sha256 = "1" * 64

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return images[:, 0, :8].float().mean(dim=2), images[:, 0, :8].float().mean(dim=2)


def test_epochs_see_other_draws_of_the_same_latents(latents: Path) -> None:
    job = dit.prepare(recipes.load("dit-400k", [*LATENT, f"data.path={json.dumps(str(latents))}"]))
    batches = list(job.batches((0, 0)))
    assert len(batches) == 6
    again = list(job.batches((1, 0)))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(batches[3:], again, strict=True))
    assert not torch.equal(torch.cat([x for x, _ in batches[:3]]).sum(), torch.cat([x for x, _ in again]).sum())
    held = [x for x, _ in job.held_out(batch_size=4)]
    assert [len(x) for x in held] == [4, 4, 1]
    assert torch.equal(torch.cat(held), torch.cat([x for x, _ in job.held_out(batch_size=9)]))


# --- what is refused


def without(trained_: Path, tmp_path: Path, *gone: str) -> Path:
    """A copy of a run without some files."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in trained_.iterdir():
        if path.is_file() and path.name not in gone:
            (copy / path.name).write_bytes(path.read_bytes())
    return copy


SAMPLE: dict[str, tuple[list[object], str]] = {
    "no samples": (["--num", 0], "nothing can be sampled"),
    "no such rank": (["--rank", 2, "--processes", 2], "rank 2 of 2"),
    "unknown sampler": (["--sampler", "euler"], "unknown sampler"),
    "steps": (["--sampler", "ddim", "--steps", 7], "a divisor of 1000"),
    "channels": (["--cfg-channels", "two"], "released"),
    "weights": (["--weights", "best"], "raw or ema"),
    "an autoencoder of pixels": (["--vae", "somewhere"], "needs no autoencoder"),
}


@pytest.mark.parametrize("case", SAMPLE)
def test_sampling_refuses(case: str, trained: Path, tmp_path: Path) -> None:
    words, expected = SAMPLE[case]
    said = run("sample", trained, "--device", "cpu", "--out", tmp_path / "set", *words, code=2)
    assert expected in said
    assert not (tmp_path / "set").exists()


def test_sampling_refuses_a_classifier_an_unfinished_run_and_latents_without_a_decoder(
    trained: Path, of_latents: Path, tmp_path: Path
) -> None:
    (tmp_path / "classifier").mkdir()
    (tmp_path / "classifier" / "config.yaml").write_text(recipes.dump(recipes.load("digits")))
    assert "not the run of a denoiser" in run("sample", tmp_path / "classifier", code=2)
    assert "not finished" in run("sample", without(trained, tmp_path, "result.json"), code=2)
    assert "nothing decodes them" in run("sample", of_latents, "--device", "cpu", code=2)
    assert "no autoencoder there" in run("sample", of_latents, "--vae", tmp_path, "--device", "cpu", code=2)


@pytest.mark.slow
def test_guidance_and_averages_that_were_not_trained_are_refused(tmp_path: Path) -> None:
    out = train(tmp_path / "run", sets=[*SMALL[:3], *SMALL[4:6], "epochs=1", "ema=null", "diffusion.label_dropout=0"])
    assert "no averaged weights" in run("sample", out, "--device", "cpu", code=2)
    assert "without the null class" in run("sample", out, "--cfg", 2.0, "--weights", "raw", code=2)
    assert "no averaged weights" in run("eval", out, "--weights", "ema", "--device", "cpu", code=2)
    run("sample", out, "--weights", "raw", "--num", 3, "--steps", 2, "--device", "cpu")


Change = Callable[[Path, Path], None]
SCORE: dict[str, tuple[Change, list[object], str]] = {
    "no protocol": (lambda s, t: (s / "protocol.json").unlink(), [], "cannot read the protocol of the samples"),
    "a protocol that is a list": (lambda s, t: (s / "protocol.json").write_text("[]"), [], "protocol.json: list"),
    "no samples": (lambda s, t: (s / "samples.npz").unlink(), [], "no images there"),
    "changed samples": (
        lambda s, t: np.savez(s / "samples.npz", arr_0=np.zeros((3, 8, 8, 1), np.uint8), arr_1=np.zeros(3)),
        [],
        "not those of their protocol",
    ),
    "no pictures": (lambda s, t: np.savez(s / "samples.npz", arr_0=np.zeros((3, 8, 8))), [], "no images there"),
    "no Inception": (lambda s, t: None, ["--inception", "absent.pth"], "no Inception weights there"),
    "a reference alone": (lambda s, t: None, ["--reference", "ref.npz"], "a reference is for FID"),
    "options of a classifier": (lambda s, t: None, ["--resolution", 16], "an option that is of a classifier"),
}


@pytest.mark.parametrize("case", SCORE)
def test_scoring_refuses(case: str, trained: Path, sampled: Path, tmp_path: Path) -> None:
    change, words, expected = SCORE[case]
    place = tmp_path / "set"
    place.mkdir()
    for name in ("samples.npz", "protocol.json"):
        (place / name).write_bytes((sampled / name).read_bytes())
    change(place, tmp_path)
    said = run(
        "eval", trained, "--samples", place / "samples.npz", "--device", "cpu", "--out", tmp_path / "out", *words, code=2
    )
    assert expected in said
    assert not (tmp_path / "out").exists()


def test_samples_of_another_run_and_options_of_samples_are_refused(trained: Path, sampled: Path, tmp_path: Path) -> None:
    other = without(trained, tmp_path)
    weights = load_file(other / "ema.safetensors")
    weights["final_layer.linear.bias"] += 1
    save_file(weights, other / "ema.safetensors")
    assert "of other weights" in run("eval", other, "--samples", sampled / "samples.npz", "--device", "cpu", code=2)
    assert "given by --samples" in run("eval", trained, "--inception", tmp_path / "x.pth", code=2)


def test_references_that_are_none_are_refused(
    trained: Path, sampled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_samples, "Inception", FakeInception)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_text("no image")
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    expected = {
        "empty": "no images in the reference",
        "broken": "an image cannot be read",
        "text.npz": "cannot read the reference",
        "other.npz": "no reference statistics",
        "absent.npz": "cannot read the reference",
    }
    for name, words in expected.items():
        asked = ScoreRequest(trained, sampled / "samples.npz", Path("inception.pth"), tmp_path / name, tmp_path / "out")
        with pytest.raises(InputError, match=words):
            score_samples.score(asked, device=CPU)


@pytest.mark.parametrize(
    ("name", "sets", "words"),
    [
        ("dit-digits", ["model.name=vit-tiny", "model.pos_embed=learned"], "not a denoiser"),
        ("dit-digits", ["model.init_head=fresh"], "has no head"),
        ("dit-digits", ["model.pool=mean"], "unknown option"),
        ("dit-digits", ["diffusion.held_out_samples=361"], "at most 360"),
        ("dit-digits", ["batch_size=2000"], "larger than the data"),
        ("dit-400k", [], "--data PATH"),
        ("dit-400k", ["data.path=absent"], "no finished latents"),
    ],
)
def test_a_recipe_that_cannot_be_trained_is_refused(name: str, sets: list[str], words: str, tmp_path: Path) -> None:
    assert words in run("train", "--recipe", name, "--out", tmp_path / "run", *words_of(sets), code=2)
    assert not (tmp_path / "run").exists()


def test_latents_that_do_not_fit_are_refused(latents: Path, vae_dir: Path, tmp_path: Path) -> None:
    def prepared(*more: str, path: Path = latents) -> dit.DiTJob:
        return dit.prepare(recipes.load("dit-400k", [*LATENT, f"data.path={json.dumps(str(path))}", *more]))

    with pytest.raises(InputError, match=r"another size than the latents[\s\S]*\[16, 16\]"):
        prepared("model.image_size=16")
    with pytest.raises(InputError, match="other channels than the latents"):
        prepared("model.in_channels=3")
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
        for path in (latents / part).iterdir():
            (tmp_path / part / path.name).write_bytes(path.read_bytes())
    manifest = tmp_path / "val" / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"scale": 0.18215', '"scale": 1.0'))
    with pytest.raises(InputError, match=r"not extracted alike[\s\S]*scale"):
        prepared(path=tmp_path)
    manifest.write_text(text)
    shard = next((tmp_path / "train").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match=rf"damaged[\s\S]*{shard.name}"):
        prepared(path=tmp_path)
    with pytest.raises(InputError, match="latents are no images"):
        open_dataset(recipes.load("dit-400k").data)


def test_initial_weights_are_taken_and_named(trained: Path, tmp_path: Path) -> None:
    recipe = recipes.load("dit-digits", [*SMALL, f"model.init_weights={json.dumps(str(trained / 'ema.safetensors'))}"])
    job = jobs.prepare(recipe)
    assert isinstance(job, dit.DiTJob)
    assert job.pretraining.startswith("ema.safetensors ")
    weights = load_file(trained / "ema.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in job.model.state_dict().items())


def test_the_table_of_classes_is_taken_by_name_and_the_null_class_stays_the_last(trained: Path, tmp_path: Path) -> None:
    path, out = trained / "ema.safetensors", tmp_path / "other.safetensors"
    about = weights_of.read_metadata(path)
    assert about is not None
    tensors, order = load_file(path), [3, 1, 0, 2, *range(4, 10)]
    key = "y_embedder.embedding_table.weight"
    tensors[key] = tensors[key][[*order, 10]]
    renamed = about.model_copy(update={"classes": tuple(about.classes[k] for k in order)})
    save_file(tensors, out, renamed.dump())
    begun = jobs.prepare(recipes.load("dit-digits", [*SMALL, f"model.init_weights={json.dumps(str(out))}"])).model
    assert torch.equal(begun.state_dict()[key], load_file(path)[key])
    save_file(tensors, out, about.model_copy(update={"classes": (*about.classes[:9], "ten")}).dump())
    with pytest.raises(InputError, match="other classes than the data") as caught:
        jobs.prepare(recipes.load("dit-digits", [*SMALL, f"model.init_weights={json.dumps(str(out))}"]))
    assert "init_head" not in str(caught.value)


# --- interrupted, killed, and in several processes


RESUMED = [*SMALL, "epochs=3", "save_steps=7", "model.mixer=weightformer", "data.workers=1"]


def start(out: Path, *more: str) -> Command:
    return Command("train", "--device", "cpu", "--out", str(out), *more)


def ended(process: Command, code: int = 0) -> str:
    text, _ = process.communicate(timeout=300)
    assert process.returncode == code, text
    return text


def wait_for(process: Command, out: Path, steps: int) -> None:
    deadline = time.monotonic() + 200
    while max((int(p.name[5:]) for p in (out / "checkpoint").glob("step-*")), default=0) < steps:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "too slow"
        time.sleep(0.01)


def assert_equal_runs(a: Path, b: Path) -> None:
    for name in ("model.safetensors", "ema.safetensors"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    timed = {"train_seconds", "images_per_second"}
    ours, theirs = (
        [{k: v for k, v in json.loads(line).items() if k not in timed} for line in (out / "metrics.jsonl").open()]
        for out in (a, b)
    )
    assert ours == theirs
    ours, theirs = (json.loads((out / "result.json").read_text()) for out in (a, b))
    for key in ("loss", "mse", "vb", "best_loss", "train_curve", "held_out_curve"):
        assert ours[key] == theirs[key]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("uninterrupted") / "run", sets=RESUMED)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGKILL, -9)])
def test_a_run_that_is_stopped_inside_an_epoch_ends_as_if_it_had_not_been(
    number: signal.Signals, code: int, uninterrupted: Path, tmp_path: Path
) -> None:
    for k in range(2):
        out, draw = tmp_path / str(k), random.Random(k)
        process = start(out, "--recipe", "dit-digits", *words_of(RESUMED))
        wait_for(process, out, 7 * draw.randint(1, 6))
        process.send_signal(number)
        ended(process, code)
        assert not (out / "result.json").exists(), "it was over before it was stopped"
        ended(start(out, "--resume"))
        assert_equal_runs(out, uninterrupted)


@pytest.mark.slow
def test_a_wrong_resume_would_be_seen(uninterrupted: Path, tmp_path: Path) -> None:
    """The comparison fails for a run that goes on with another average."""
    out = tmp_path / "run"
    process = start(out, "--recipe", "dit-digits", *words_of(RESUMED))
    wait_for(process, out, 30)
    process.send_signal(signal.SIGTERM)
    ended(process, 75)
    newest = sorted((out / "checkpoint").glob("step-*"))[-1]
    save_file(load_file(newest / "model.safetensors"), newest / "ema.safetensors")
    ended(start(out, "--resume"))
    with pytest.raises(AssertionError):
        assert_equal_runs(out, uninterrupted)


@pytest.mark.slow
def test_two_processes_train_and_evaluate_as_one_does(trained: Path, tmp_path: Path) -> None:
    said = ended(start(tmp_path / "two", "--nproc", "2", "--recipe", "dit-digits", *words_of(SMALL)))
    assert said.count("run directory") == 1
    one, two = (json.loads((out / "result.json").read_text()) for out in (trained, tmp_path / "two"))
    assert two["processes"] == 2
    assert two["samples"] == one["samples"]
    # float32, whose sums of gradients have another order; Adam makes more of it where gradients are near 0
    assert two["mse"] == pytest.approx(one["mse"], rel=1e-4)
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    for name in ("model.safetensors", "ema.safetensors"):
        a, b = load_file(trained / name), load_file(tmp_path / "two" / name)
        assert max((a[key] - b[key]).abs().max().item() for key in a) < 1e-4
    other = train(tmp_path / "other", sets=[*SMALL, "diffusion.label_dropout=0.2"])
    a, b = load_file(trained / "model.safetensors"), load_file(other / "model.safetensors")
    assert max((a[key] - b[key]).abs().max().item() for key in a) > 1e-3, "the tolerance above tells other draws"


# --- sweeps of denoisers


@pytest.mark.slow
def test_denoisers_are_matched_also_on_latents(latents: Path, tmp_path: Path) -> None:
    for base, sets, data in (("dit-digits", SMALL, None), ("dit-400k", LATENT, str(latents))):
        wanted = load_request(
            None,
            {"mixers": ["softmax", "linear", "static"], "recipes": [base], "set": sets, "data": data, "match": "params"},
        )
        plan = Sweep.plan(wanted, tmp_path)
        sizes = {}
        for planned in plan.finals(None)[0]:
            model = dit.prepare(planned.recipe).model
            sizes[planned.recipe.model.mixer] = sum(parameter.numel() for parameter in model.parameters())
            assert planned.recipe.chosen is not None
        assert max(sizes.values()) / sizes["softmax"] < 1.03, sizes
        assert min(sizes.values()) / sizes["softmax"] > 0.97, sizes


def test_latents_hold_nothing_out_for_trials(latents: Path, tmp_path: Path) -> None:
    words = {"mixers": ["softmax"], "recipes": ["dit-400k"], "set": LATENT, "data": str(latents), "tune": {"trials": 2}}
    with pytest.raises(InputError, match=r"cannot be tuned[\s\S]*data.source = latents[\s\S]*tune on images"):
        Sweep.plan(load_request(None, words), tmp_path)


@pytest.mark.slow
def test_denoisers_are_tuned_by_their_held_out_loss_on_training_images(tmp_path: Path) -> None:
    wanted = load_request(
        None,
        {
            "mixers": ["linear"],
            "recipes": ["dit-digits"],
            "set": [*SMALL, "optim.min_lr=0", "optim.warmup_lr=0", "ema=null"],
            "tune": {"trials": 3, "factor": 1e4, "validation": 0.25},
        },
    )
    ended = sweep(wanted, tmp_path, Dispatch(2, 1, "cpu"), Quiet())
    assert {status.state for status in ended.values()} == {"finished"}, ended
    rows, _ = records.read(tmp_path / "records.jsonl")
    trials = [row for row in rows if isinstance(row, TrialRow)]
    assert [row.measure for row in trials] == ["loss"] * 3
    assert all(row.accuracy is None for row in trials)
    losses = {row.lr: row.loss for row in trials if row.status == "ok"}
    (final,) = [row for place in tmp_path.glob("dit-*/records.jsonl") for row in records.read(place)[0] if row.kind == "dit"]
    assert final.chosen.lr == min(losses, key=losses.__getitem__)
    assert final.validation is None
    everything, _ = collect([tmp_path])
    (table,) = [table for table in tables(everything) if table.kind == "tuning"]
    assert "The best rate has the lowest" in " ".join(table.notes)
    (losses_table,) = [table for table in tables(everything) if table.kind == "denoising"]
    assert list(losses_table.frame["seeds"]) == ["1"], "trials are no results"
    assert "Of every line: rate tuned in 3 trials." in losses_table.notes


class Quiet:
    def say(self, line: str) -> None: ...
    def begin(self, runs: object, stands: object) -> None: ...
    def changed(self, run: object, status: object) -> None: ...
