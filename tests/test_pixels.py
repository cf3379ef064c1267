"""From a file to pixels: every mode that Pillow knows is right, or refused by name, and alike for all who read pictures."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_data import noise, write_folder

from wfbench import recipe as recipes
from wfbench.data import open_dataset
from wfbench.data.codecs import PixelCodec
from wfbench.data.latents import Extraction
from wfbench.data.loading import eval_batches, train_batches
from wfbench.data.pixels import decode, to_pixels
from wfbench.errors import InputError
from wfbench.recipe import DataSection
from wfbench.tasks.baselines import baselines

GREY = noise(1, 6, 6)[0]
COLOUR = noise(1, 6, 6, 3)[0]


def stored(image: Image.Image, ending: str = "PNG", **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, ending, **options)
    return content.getvalue()


def with_palette(transparency: object = None) -> bytes:
    image = Image.fromarray(COLOUR).quantize(16)
    return stored(image) if transparency is None else stored(image, transparency=transparency)


def read_back(content: bytes) -> np.ndarray:
    """The picture's own colours, by Pillow's plainest way."""
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGBA").convert("RGB"))


WIDE = (GREY.astype(np.uint16) << 8) + 7

RIGHT = {
    "1": (stored(Image.fromarray(GREY > 127)), (GREY > 127) * 255),
    "L": (stored(Image.fromarray(GREY)), GREY),
    "LA": (stored(Image.fromarray(GREY).convert("LA")), GREY),
    "L with a transparent grey": (stored(Image.fromarray(GREY), transparency=int(GREY[0, 0])), GREY),
    "RGB": (stored(Image.fromarray(COLOUR)), COLOUR),
    "RGB with a transparent colour": (stored(Image.fromarray(COLOUR), transparency=tuple(COLOUR[0, 0].tolist())), COLOUR),
    "RGBA": (stored(Image.fromarray(np.dstack([COLOUR, GREY]))), COLOUR),
    "P": (with_palette(), read_back(with_palette())),
    "P with a transparent colour": (with_palette(3), read_back(with_palette(3))),
    "P with an alpha for each colour": (with_palette(bytes(range(16))), read_back(with_palette(bytes(range(16))))),
    "I;16": (stored(Image.fromarray(WIDE)), GREY),
    "I;16B": (stored(Image.frombytes("I;16B", (6, 6), WIDE.astype(">u2").tobytes()), "TIFF"), GREY),
    "PGM of 16 bits": (b"P5 6 6 65535\n" + WIDE.astype(">u2").tobytes(), GREY),
    "CMYK": (stored(Image.fromarray(255 - np.dstack([COLOUR, np.full_like(GREY, 255)]), "CMYK"), "TIFF"), COLOUR),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_a_picture_of_every_mode_has_its_own_colours(kind: str) -> None:
    content, wanted = RIGHT[kind]
    found = decode(content, kind)
    assert found.mode == ("L" if wanted.ndim == 2 else "RGB")
    assert np.abs(np.asarray(found).astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("mode", ["La", "RGBa", "RGBX", "PA", "YCbCr", "HSV"])
def test_modes_that_few_files_have(mode: str) -> None:
    source = Image.fromarray(GREY if mode == "La" else COLOUR)
    through = {"La": "LA", "RGBa": "RGBA", "PA": "P"}.get(mode)
    image = (source.convert(through) if through else source).convert(mode)
    found, wanted = to_pixels(image, mode), source if mode != "PA" else source.convert("P").convert("RGB")
    assert found.mode == source.mode
    assert np.abs(np.asarray(found).astype(int) - np.asarray(wanted).astype(int)).max() <= 12, "HSV and YCbCr round"


@pytest.mark.parametrize("mode", ["I", "F", "LAB"])
def test_a_picture_without_an_agreed_range_is_refused_by_name_and_mode(mode: str) -> None:
    content = stored(Image.new(mode, (6, 6)), "TIFF")
    with pytest.raises(InputError, match=rf"got: +there.tif: TIFF of mode {mode}") as refused:
        decode(content, "there.tif")
    assert ("data.range" in str(refused.value)) == (mode != "LAB")


def test_a_range_says_what_is_black_and_what_is_white() -> None:
    values = np.array([[-1.0, 0.0, 1.0, 2.0, 5.0]], dtype=np.float32)
    found = decode(stored(Image.fromarray(values), "TIFF"), "x", (0.0, 2.0))
    assert np.asarray(found).tolist() == [[0, 0, 128, 255, 255]]
    assert (
        np.asarray(decode(stored(Image.fromarray(WIDE)), "x", (0.0, 4095.0))).tolist()
        == np.rint(255 * np.clip(WIDE / 4095, 0, 1)).astype(int).tolist()
    ), "of 16 bits too: 12 of them may be in use"
    values[0, 2] = np.nan
    with pytest.raises(InputError, match="not finite"):
        decode(stored(Image.fromarray(values), "TIFF"), "x", (0.0, 2.0))


@pytest.fixture(params=["RGBA", "P with an alpha for each colour", "I;16", "LA", "1"])
def pictures(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A folder whose first held-out image is of some mode, and its colours."""
    write_folder(tmp_path)
    content, wanted = RIGHT[request.param]
    for part in ("train", "val"):
        (tmp_path / part / "dark" / "0.png").write_bytes(content)
    return tmp_path, wanted


@pytest.mark.parametrize("channels", [1, 3])
def test_training_evaluation_latents_and_baselines_see_one_picture(pictures: tuple[Path, np.ndarray], channels: int) -> None:
    root, wanted = pictures
    colours = wanted if wanted.ndim == 3 else np.dstack([wanted] * 3)
    inside = np.asarray(Image.fromarray(wanted.astype(np.uint8)).convert("L")) if channels == 1 else colours
    data = DataSection(source="folder", path=str(root), mean=(0.0,), std=(1.0,), eval_crop=1.0)
    dataset = open_dataset(data)
    (x, _), *_ = eval_batches(dataset.val, data, (6, 6), channels, batch_size=1)
    seen = (x[0] * 255).round().permute(1, 2, 0).squeeze(-1).numpy()
    assert np.abs(seen - inside).max() <= 1
    trained = {
        tuple((x * 255).round().flatten(1)[i].tolist()) for x, _ in some_batches(dataset, data, channels) for i in range(len(x))
    }
    assert tuple((x[0] * 255).round().flatten().tolist()) in trained, "training sees the same file alike"
    codec = Extraction(dataset.val, "x", PixelCodec(3), image_size=6)._picture(0)
    assert np.abs(((codec + 1) * 127.5).permute(1, 2, 0).numpy() - colours).max() <= 1


def some_batches(dataset: object, data: DataSection, channels: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(train_batches(dataset.train, data, (6, 6), channels, batch_size=2, seed=0, epochs=1))  # type: ignore[attr-defined]


def test_baselines_on_16_bits_are_those_on_8(tmp_path: Path) -> None:
    rows = []
    for name, widen in (("narrow", False), ("wide", True)):
        root = tmp_path / name
        draw = np.random.default_rng(0)
        for part in ("train", "val"):
            for c, middle in enumerate((60, 190)):
                folder = root / part / f"class{c}"
                folder.mkdir(parents=True)
                for i in range(6):
                    grey = draw.normal(middle, 30, (6, 6)).clip(0, 255).astype(np.uint8)
                    Image.fromarray((grey.astype(np.uint16) << 8) + 3 if widen else grey).save(folder / f"{i}.png")
        rows.append(baselines(recipes.load("digits", ["data.source=folder", f"data.path={root}"])))
    narrow, wide = ([row.accuracy for row in found] for found in rows)
    assert narrow == wide
    assert narrow[0] == 1.0


def test_a_picture_without_a_range_stops_training_by_name_even_where_bad_images_are_skipped(tmp_path: Path) -> None:
    write_folder(tmp_path)
    where = tmp_path / "train" / "dark" / "0.tif"
    Image.new("F", (6, 6)).save(where)
    data = DataSection(source="folder", path=str(tmp_path), on_bad_image="skip")
    with pytest.raises(InputError, match=rf"no agreed meaning(.|\n)*{where}"):
        some_batches(open_dataset(data), data, 3)
    data = DataSection(source="folder", path=str(tmp_path), range=(0.0, 1.0))
    assert some_batches(open_dataset(data), data, 3)


def test_a_pipe_among_the_images_does_not_hang(tmp_path: Path) -> None:
    import os

    write_folder(tmp_path)
    os.mkfifo(tmp_path / "val" / "dark" / "0pipe.png")
    data = DataSection(source="folder", path=str(tmp_path))
    with pytest.raises(InputError, match=r"0pipe.png \(OSError: .*not a regular file"):
        list(eval_batches(open_dataset(data).val, data, (6, 6), 3, batch_size=2))


@pytest.mark.parametrize("wrong", ["[1.0,1.0]", "[2.0,1.0]"])
def test_a_range_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(InputError, match="range needs low < high"):
        recipes.load("digits", [f"data.range={wrong}"])
