from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from helpers import far, near
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from wfbench.cli import app
from wfbench.data.codecs import PixelCodec, VAECodec
from wfbench.data.latents import Extraction, LatentSplit, centre_crop
from wfbench.errors import InputError

SIDE = 16


class Pictures:
    """Random pictures of several shapes."""

    def __init__(self, count: int = 11) -> None:
        draw = np.random.default_rng(0)
        sizes = [(16, 16), (20, 33), (40, 18), (70, 64)]
        shapes = [(*sizes[i % 4], 3) for i in range(count)]
        self.images = [Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes]
        self.targets = tuple(i % 3 for i in range(count))

    def __len__(self) -> int:
        return len(self.images)

    def load(self, i: int) -> Image.Image:
        return self.images[i]

    def label(self, i: int) -> str:
        return f"picture {i}"


@pytest.fixture(scope="session")
def vae_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random autoencoder that halves a side, on disk."""
    torch.manual_seed(0)
    where = tmp_path_factory.mktemp("vae")
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = AutoencoderKL(**blocks, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1, latent_channels=4)
    vae.save_pretrained(where)
    return where


@pytest.fixture
def extraction(vae_dir: Path) -> Extraction:
    return Extraction(Pictures(), "pictures", VAECodec(vae_dir), image_size=SIDE, shard_size=4, batch=3)


def files(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def picture(extraction: Extraction, i: int) -> Tensor:
    image = centre_crop(extraction.split.load(i), SIDE)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1


def test_a_latent_is_the_posterior_of_its_picture_and_of_its_mirror_image(extraction: Extraction, tmp_path: Path) -> None:
    told: list[int] = []
    assert extraction.run(tmp_path, done=told.append) == tmp_path / "manifest.json"
    assert sum(told) == 11
    split = LatentSplit(tmp_path)
    assert len(split) == 11
    assert split.targets == extraction.split.targets
    assert split.shape == (4, 8, 8)
    for i in range(11):
        for flip in (False, True):
            image = picture(extraction, i).flip(3) if flip else picture(extraction, i)
            posterior = extraction.codec.vae.encode(image).latent_dist
            mean, std = split.posterior(i, flip)
            near(mean, posterior.mean[0] * 0.18215, tolerance=2e-3)
            near(std, posterior.std[0] * 0.18215, tolerance=2e-3)
    assert far(split.posterior(3)[0], split.posterior(3, flip=True)[0])


def test_the_draw_and_the_flip_are_functions_of_seed_epoch_and_index(extraction: Extraction, tmp_path: Path) -> None:
    extraction.run(tmp_path)
    split = LatentSplit(tmp_path)
    copied = pickle.loads(pickle.dumps(split))
    np.random.seed(0)
    torch.manual_seed(0)
    first = split.draw(5, seed=1, epoch=2)
    near(copied.draw(5, seed=1, epoch=2), first, tolerance=0)
    for other in ({"seed": 2, "epoch": 2}, {"seed": 1, "epoch": 3}):
        assert far(split.draw(5, **other), first)
    mean, std = split.posterior(5)
    drawn = torch.stack([split.draw(5, seed=1, epoch=e, hflip=0) for e in range(2000)])
    z = (drawn - mean) / std
    assert z.mean().abs() < 0.01
    assert (z.std() - 1).abs() < 0.01
    mirrored = split.posterior(5, flip=True)[0]
    both = torch.stack([split.draw(5, seed=1, epoch=e) for e in range(400)])
    nearer = ((both - mirrored).square().sum((1, 2, 3)) < (both - mean).square().sum((1, 2, 3))).float().mean()
    assert 0.4 < nearer < 0.6


def run_rank(vae_dir: Path, out: Path, rank: int) -> None:
    torch.set_num_threads(1)
    extraction = Extraction(Pictures(), "pictures", VAECodec(vae_dir), image_size=SIDE, shard_size=4, batch=3)
    extraction.run(out, rank=rank, processes=2)


@pytest.mark.slow
def test_two_processes_write_what_one_writes_byte_for_byte(extraction: Extraction, vae_dir: Path, tmp_path: Path) -> None:
    extraction.run(tmp_path / "one")
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=run_rank, args=(vae_dir, tmp_path / "two", rank)) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert len([name for name in one if name.endswith(".safetensors")]) == 3
    assert one == two


def test_each_process_writes_its_own_shards_and_the_last_one_the_manifest(extraction: Extraction, tmp_path: Path) -> None:
    assert extraction.run(tmp_path, rank=1, processes=2) is None
    assert sorted(file.name for file in tmp_path.glob("*.safetensors")) == ["shard-00001.safetensors"]
    with pytest.raises(InputError, match="no finished latents there"):
        LatentSplit(tmp_path)
    assert extraction.run(tmp_path, rank=0, processes=2) is not None
    assert len(LatentSplit(tmp_path)) == 11


class Killed(BaseException):
    pass


@pytest.mark.parametrize("nth", range(1, 9))  # settings, three shards each before its note, the manifest
def test_an_extraction_that_was_killed_goes_on_and_ends_the_same(
    nth: int, extraction: Extraction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extraction.run(tmp_path / "whole")
    out, replace, calls = tmp_path / "killed", os.replace, [0]

    def dies(part: Path, final: Path) -> None:
        calls[0] += 1
        if calls[0] == nth:  # written, and not yet renamed
            raise Killed
        replace(part, final)

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(Killed):
        extraction.run(out)
    monkeypatch.undo()
    noted = [note.with_suffix(".safetensors") for note in out.glob("shard-*.json")]
    kept = {shard: shard.stat().st_mtime_ns for shard in noted}
    assert len(kept) == (nth - 2) // 2 if nth > 1 else not kept
    extraction.run(out)
    assert {shard: shard.stat().st_mtime_ns for shard in noted} == kept
    found = {name: content for name, content in files(out).items() if not name.endswith(".part")}
    assert found == files(tmp_path / "whole")


def test_a_damaged_shard_is_named(extraction: Extraction, tmp_path: Path) -> None:
    extraction.run(tmp_path)
    shard = tmp_path / "shard-00001.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    for attempt in (lambda: LatentSplit(tmp_path), lambda: extraction.run(tmp_path)):
        with pytest.raises(InputError, match=r"damaged\n.*shard-00001.safetensors"):
            attempt()
    LatentSplit(tmp_path, verify=False)
    shard.write_bytes(whole[:-1])
    with pytest.raises(InputError, match=r"damaged\n.*shard-00001.safetensors"):
        LatentSplit(tmp_path, verify=False)
    shard.unlink()
    with pytest.raises(InputError, match=r"missing\n.*shard-00001.safetensors"):
        LatentSplit(tmp_path)
    (tmp_path / "shard-00001.json").unlink()
    extraction.run(tmp_path)
    assert shard.read_bytes() == whole


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("[]", "cannot read the manifest\n.*manifest.json: list"),
        ("3", "cannot read the manifest\n.*manifest.json: int"),
        ("{", "cannot read the manifest"),
        ("{}", "another layout\n.*None"),
        ('{"format": 1}', "bad manifest value"),
        ({"shards": []}, "bad manifest value\n.*shards"),
        ({"shards": [{"file": "shard-00000.safetensors"}]}, r"bad manifest value.*\n.*shards\.0\.bytes"),
        ({"shards": None}, "bad manifest value\n.*shards"),
        ({"latent": "4"}, "bad manifest value.*\n.*latent"),
        ({"shard_size": 0}, "bad manifest value\n.*shard_size"),
        ({"samples": 12}, "do not add up"),
    ],
)
def test_a_manifest_that_is_none_is_one_message(
    changed: str | dict, message: str, extraction: Extraction, tmp_path: Path
) -> None:
    path = extraction.run(tmp_path)
    path.write_text(changed if isinstance(changed, str) else json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(InputError, match=message):
        LatentSplit(tmp_path)


@pytest.mark.parametrize("text", ["[]", "{}", "{", '{"file": 3, "bytes": 1, "sha256": ""}'])
@pytest.mark.parametrize("name", ["shard-00001.json", "settings.json"])
def test_a_note_that_is_none_is_one_message(name: str, text: str, extraction: Extraction, tmp_path: Path) -> None:
    extraction.run(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError):
        extraction.run(tmp_path)


def test_a_shard_of_another_extraction_is_named(extraction: Extraction, tmp_path: Path) -> None:
    extraction.run(tmp_path / "a")
    torch.manual_seed(1)
    for parameter in extraction.codec.vae.parameters():
        parameter.data.add_(0.1)
    extraction.run(tmp_path / "b")
    os.replace(tmp_path / "b" / "shard-00002.safetensors", tmp_path / "a" / "shard-00002.safetensors")
    with pytest.raises(InputError, match=r"damaged\n.*shard-00002.safetensors"):
        LatentSplit(tmp_path / "a")


def test_a_directory_of_other_settings_is_refused_and_says_which(extraction: Extraction, vae_dir: Path, tmp_path: Path) -> None:
    extraction.run(tmp_path)
    other = Extraction(Pictures(), "pictures", VAECodec(vae_dir), image_size=SIDE, shard_size=5, batch=3)
    with pytest.raises(InputError, match=r"other settings\n.*shard_size: 4 there, 5 now"):
        other.run(tmp_path)


def test_the_manifest_says_what_the_latents_depend_on(extraction: Extraction, tmp_path: Path) -> None:
    manifest = json.loads(extraction.run(tmp_path).read_text())
    assert manifest["codec_sha256"] == extraction.codec.digest
    assert (manifest["scale"], manifest["image_size"], manifest["samples"]) == (0.18215, SIDE, 11)
    assert [shard["samples"] for shard in manifest["shards"]] == [4, 4, 3]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"image_size": 15}, "a multiple of 2"),
        ({"shard_size": 0}, "nothing can be extracted"),
        ({"split": Pictures(0)}, "nothing can be extracted"),
    ],
)
def test_an_extraction_that_cannot_be_is_refused(
    overrides: dict[str, object], words: str, extraction: Extraction, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        Extraction(**(vars(extraction) | overrides)).run(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_rank_beyond_the_processes_is_refused(extraction: Extraction, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="rank 2 of 2"):
        extraction.run(tmp_path, rank=2, processes=2)


def test_a_picture_that_cannot_be_read_is_named(
    extraction: Extraction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(self: Pictures, i: int) -> Image.Image:
        raise OSError("truncated")

    monkeypatch.setattr(Pictures, "load", load)
    with pytest.raises(InputError, match="picture 0"):
        extraction.run(tmp_path)


# --- codecs


def test_the_pixel_codec_is_the_identity() -> None:
    x = torch.randn(2, 1, 8, 8)
    codec = PixelCodec(1)
    mean, std = codec.encode(x)
    assert torch.equal(codec.decode(mean), x)
    assert not std.any()


def test_the_autoencoder_decodes_what_it_encodes_and_unscales(vae_dir: Path) -> None:
    codec = VAECodec(vae_dir)
    x = torch.randn(2, 3, SIDE, SIDE)
    mean, _ = codec.encode(x)
    assert (codec.channels, codec.downsample, codec.scale) == (4, 2, 0.18215)
    near(codec.decode(mean), codec.vae.decode(codec.vae.encode(x).latent_dist.mean).sample, tolerance=1e-4)


def configured(vae_dir: Path, to: Path, **settings: object) -> Path:
    """The autoencoder with other settings in its config.json."""
    shutil.copytree(vae_dir, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(config | settings))
    return to


def test_latents_are_shifted_as_the_autoencoder_says(vae_dir: Path, tmp_path: Path) -> None:
    plain, shifted = VAECodec(vae_dir), VAECodec(configured(vae_dir, tmp_path / "shifted", shift_factor=0.5))
    x = torch.randn(2, 3, SIDE, SIDE)
    (mean, std), (other, same) = plain.encode(x), shifted.encode(x)
    near(other, mean - 0.5 * plain.scale, tolerance=1e-6)
    near(same, std, tolerance=0)
    near(shifted.decode(other), plain.decode(mean), tolerance=1e-5)
    out = Extraction(Pictures(), "pictures", shifted, image_size=SIDE, shard_size=4, batch=3).run(tmp_path / "out")
    assert out is not None
    assert json.loads(out.read_text())["shift"] == 0.5


def test_an_autoencoder_that_scales_by_channel_is_refused(vae_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="channel by channel"):
        VAECodec(configured(vae_dir, tmp_path / "other", latents_mean=[0.0] * 4, latents_std=[1.0] * 4))


def test_another_autoencoder_has_another_digest(vae_dir: Path, tmp_path: Path) -> None:
    codec = VAECodec(vae_dir)
    codec.vae.save_pretrained(tmp_path)
    assert VAECodec(tmp_path).digest == codec.digest
    codec.vae.decoder.conv_out.bias.add_(1)
    codec.vae.save_pretrained(tmp_path)
    assert VAECodec(tmp_path).digest != codec.digest


@pytest.mark.parametrize("what", ["missing", "empty", "pickled", "broken"])
def test_a_directory_without_an_autoencoder_is_one_message(what: str, vae_dir: Path, tmp_path: Path) -> None:
    where = tmp_path / "vae"
    if what != "missing":
        where.mkdir()
    if what in ("pickled", "broken"):
        (where / "config.json").write_text((vae_dir / "config.json").read_text())
        name = "diffusion_pytorch_model" + (".bin" if what == "pickled" else ".safetensors")
        (where / name).write_bytes(b"no weights")
    out = tmp_path / "out"
    words = ["data", "extract-latents", "--vae", where, "--out", out, "--data", tmp_path]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 2
    assert "autoencoder" in done.output
    assert str(where) in done.output.replace("\n", "")
    assert not out.exists()


def test_the_crop_is_the_middle_and_keeps_its_mean() -> None:
    ramp = np.tile(np.linspace(0, 255, 96, dtype=np.uint8), (32, 1))  # 96 wide, 32 high
    image = centre_crop(Image.fromarray(np.stack([ramp] * 3, axis=2)), 8)
    assert image.size == (8, 8)
    middle = ramp[:, 32:64].mean()
    assert abs(np.asarray(image).mean() - middle) < 2
    assert centre_crop(Image.new("RGB", (5, 9)), 8).size == (8, 8)


# --- the command


def test_the_command_extracts_and_goes_on(vae_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for i in range(3):
                Pictures().load(i).save(tmp_path / "data" / part / name / f"{i}.png")
    words = ["data", "extract-latents", "--vae", vae_dir, "--data", tmp_path / "data", "--out", tmp_path / "latents"]
    words += ["--image-size", SIDE, "--shard-size", 2, "--device", "cpu"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    outputs = []
    for rank in "10":
        monkeypatch.setenv("RANK", rank)
        done = CliRunner().invoke(app, [str(word) for word in words])
        assert done.exit_code == 0, done.output
        outputs.append(done.output.replace("\n", ""))
    assert "shards of other processes are still missing" in outputs[0]
    assert "6 images" in outputs[1]
    assert VAECodec(vae_dir).digest in outputs[1]
    split = LatentSplit(tmp_path / "latents")
    assert split.targets == (0, 0, 0, 1, 1, 1)
    for argument, wrong in (("--split", "test"), ("--source", "fold"), ("--data", tmp_path / "nowhere")):
        done = CliRunner().invoke(app, [str(word) for word in [*words, argument, wrong]])
        assert done.exit_code == 2, (argument, done.output)
