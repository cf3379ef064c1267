"""Latents on disk: what a codec's encoder says of every picture, so that training need not ask it again.

A directory of shards. Each holds the mean and the standard deviation of the posterior of its pictures, in float16, each
picture also flipped left to right, and the labels. The posterior is drawn, and the flip chosen, when a sample is loaded, as
a function of (seed, epoch, index).

Shard k belongs to the process whose rank is k modulo their number, and is written under another name, then renamed, with a
note of its hash beside it: what is there is whole, whoever was killed when. The process that finds all notes writes the
manifest, whose text follows from them alone; it is written last, so where it exists the extraction is finished.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from wfbench import files
from wfbench.data.codecs import Codec
from wfbench.data.listing import DIGITS, Entry, Listing, json_entry, list_data
from wfbench.data.splits import UNREADABLE, Split
from wfbench.data.transforms import to_channels
from wfbench.errors import InputError, check_finite, writing
from wfbench.strict import Section, read_object, validated

#: Raised when the layout changes.
FORMAT = 1
MANIFEST = "manifest.json"


class _ShardNote(Section, extra="allow"):
    """What must stand in the note of a shard."""

    file: str
    bytes: int
    sha256: str


class _Manifest(Section, extra="allow"):
    """What must stand in a manifest."""

    data: str
    samples: int
    image_size: int
    codec_sha256: str
    latent: tuple[int, int, int]
    shard_size: int = Field(gt=0)
    classes: list[str] | None = None
    shards: list[_ShardNote] = Field(min_length=1)


@dataclass(frozen=True)
class Extraction:
    """What is extracted: a split through a codec.

    Attributes:
        split: the pictures.
        name: of the data, for the manifest.
        codec: encodes them.
        image_size: side of the pictures, cropped as by `centre_crop`.
        shard_size: pictures in a shard.
        batch: pictures that are encoded at once; rounding may depend on it.
        classes: the names of the split's classes, by which those of train and val are told to be the same; none: by number.
    """

    split: Split
    name: str
    codec: Codec
    image_size: int = 256
    shard_size: int = 1024
    batch: int = 32
    classes: tuple[str, ...] = ()

    def settings(self) -> dict[str, Any]:
        """All that the latents depend on, as the manifest says it."""
        return {
            "format": FORMAT,
            "data": self.name,
            "samples": len(self.split),
            "labels_sha256": hashlib.sha256(np.asarray(self.split.targets, dtype="<i8").tobytes()).hexdigest(),
            "image_size": self.image_size,
            "crop": "centre (ADM)",
            "codec": self.codec.name,
            "codec_sha256": self.codec.digest,
            "scale": self.codec.scale,
            **({"shift": self.codec.shift} if self.codec.shift else {}),
            "latent": [self.codec.channels, *[self.image_size // self.codec.downsample] * 2],
            "flips": ["as it is", "left to right"],
            "dtype": "float16",
            "shard_size": self.shard_size,
            "batch": self.batch,
            **({"classes": list(self.classes)} if self.classes else {}),
        }

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return -(-len(self.split) // self.shard_size)

    def run(
        self, out: Path, *, rank: int = 0, processes: int = 1, done: Callable[[int], None] = lambda pictures: None
    ) -> Path | None:
        """Write the shards that belong to this process and are not there yet; and the manifest, if no other lacks.

        Args:
            out: the directory; of a former call with the same settings, to go on.
            rank: of this process, from 0.
            processes: how many there are, each started with the same settings.
            done: told the pictures that are through, a batch at a time; those of shards that were there at once.

        Returns:
            The manifest, or None while shards of other processes are missing.

        Raises:
            InputError: for settings that cannot be, a directory of other settings, a damaged shard, or a picture that cannot
                be read, naming it.
        """
        self._check(rank, processes)
        notes = [out / f"shard-{k:05d}.json" for k in range(self.shards)]
        settings = self.settings()
        with _writing(out):
            out.mkdir(parents=True, exist_ok=True)
            _agree(out, settings)
        for k in range(rank, self.shards, processes):
            indices = range(k * self.shard_size, min((k + 1) * self.shard_size, len(self.split)))
            if notes[k].is_file():
                _check_shard(out, _note(notes[k]))
                done(len(indices))
            else:
                tensors = self._encode(indices, done)
                with _writing(out):
                    _save(notes[k], tensors)
        if not all(note.is_file() for note in notes):
            return None
        manifest = settings | {"shards": [_note(note) for note in notes]}
        with _writing(out):
            files.write_whole(out / MANIFEST, json.dumps(manifest, indent=1) + "\n", f".{rank}")
        return out / MANIFEST

    def _encode(self, indices: range, done: Callable[[int], None]) -> dict[str, Tensor]:
        means, stds = [], []
        for start in range(indices.start, indices.stop, self.batch):
            chosen = range(start, min(start + self.batch, indices.stop))
            images = torch.stack([self._picture(i) for i in chosen])  # (B, 3, S, S)
            ways = [self.codec.encode(way) for way in (images, images.flip(3))]
            mean, std = (torch.stack(parts, dim=1).half().cpu() for parts in zip(*ways, strict=True))  # (B, 2, c, h, w)
            check_finite(
                torch.cat([mean, std]), "latents in float16 are", f"{self.split.label(chosen.start)} and what follows it"
            )
            means.append(mean)
            stds.append(std)
            done(len(chosen))
        labels = torch.tensor([self.split.targets[i] for i in indices])
        return {"mean": torch.cat(means), "std": torch.cat(stds), "labels": labels}

    def _picture(self, i: int) -> Tensor:
        try:
            image = to_channels(self.split.load(i), 3)
        except InputError:
            raise
        except UNREADABLE as e:
            raise InputError(
                "an image cannot be read",
                got=f"{self.split.label(i)} ({type(e).__name__}: {e})",
                expected="an intact image file",
                remedy="repair or remove the file",
            ) from e
        pixels = torch.from_numpy(np.array(centre_crop(image, self.image_size))).permute(2, 0, 1)  # (3, S, S)
        return pixels.float() / 127.5 - 1

    def _check(self, rank: int, processes: int) -> None:
        check_process(rank, processes)
        if self.image_size < 1 or self.image_size % self.codec.downsample:
            near = max(1, round(self.image_size / self.codec.downsample)) * self.codec.downsample
            raise InputError(
                "the image has no latent",
                got=f"{self.image_size} px",
                expected=f"a multiple of {self.codec.downsample}, by which the codec shrinks a side",
                remedy=f"--image-size {near}",
            )
        if self.shard_size < 1 or self.batch < 1 or not len(self.split):
            got = f"shards of {self.shard_size}, batches of {self.batch}, {len(self.split)} pictures"
            raise InputError(
                "nothing can be extracted so",
                got=got,
                expected="at least 1 of each",
                remedy="leave --shard-size and --batch out, for 1024 and 32; without pictures, check --data",
            )


def check_process(rank: int, processes: int) -> None:
    """Refuse a process that is none of those that share the work.

    Raises:
        InputError: for a rank outside 0 to ``processes`` - 1.
    """
    if not 0 <= rank < processes:
        raise InputError(
            "no such process",
            got=f"rank {rank} of {processes}",
            expected=f"a rank from 0 to {processes - 1}",
            remedy="for two calls --rank 0 --processes 2 and --rank 1 --processes 2; torchrun sets both",
        )


class LatentSplit:
    """A split of extracted latents.

    It opens each shard when it is first needed, in every process for itself, and maps it into memory. It can be pickled.

    Args:
        directory: of an `Extraction`.
        verify: hash every shard now. Without it, sizes alone are compared.

    Raises:
        InputError: if the extraction is not finished, or naming the shard that is damaged, missing or of another extraction.
    """

    def __init__(self, directory: str | Path, *, verify: bool = True) -> None:
        self.directory = Path(directory)
        self.manifest = _read_manifest(self.directory)
        for note in self.manifest["shards"]:
            _check_shard(self.directory, note, hashed=verify)
        self._open: dict[int, Any] = {}
        shards = range(len(self.manifest["shards"]))
        labels = torch.cat([self._shard(k).get_tensor("labels") for k in shards])
        self.targets = tuple(labels.tolist())
        self.shape = tuple(self.manifest["latent"])
        if len(self.targets) != self.manifest["samples"]:
            raise InputError(
                "the shards do not add up",
                got=f"{len(self.targets)} latents",
                expected=self.manifest["samples"],
                remedy="remove manifest.json, and give the same `wfbench data extract-latents` again: it checks every shard",
            )

    def __len__(self) -> int:
        return len(self.targets)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # each process maps the shards for itself

    def label(self, i: int) -> str:
        """What to call the i-th sample in an error."""
        return f"latent {i} of {self.directory}"

    def entries(self) -> tuple[Entry, ...]:
        """The manifest's settings and the hash of every shard, as the extraction wrote it down."""
        settings = {key: value for key, value in self.manifest.items() if key != "shards"}
        shards = [(shard["file"], f"SHA-256 {shard['sha256'][:DIGITS]}") for shard in self.manifest["shards"]]
        return json_entry("(settings)", settings), *shards

    def posterior(self, i: int, flip: bool = False) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the i-th picture's latent, or of its mirror image's: (c, h, w), float32."""
        shard, place = divmod(i, self.manifest["shard_size"])
        mean, std = (self._shard(shard).get_slice(name)[place, int(flip)].float() for name in ("mean", "std"))
        return mean, std

    def draw(self, i: int, *, seed: int, epoch: int, hflip: float = 0.5) -> Tensor:
        """A latent (c, h, w) of the i-th picture, or with probability ``hflip`` of its mirror image, drawn from the posterior.

        It is a function of (seed, epoch, i) and ``hflip`` alone.
        """
        drawn = np.random.default_rng((seed, epoch, i))
        mean, std = self.posterior(i, flip=bool(drawn.random() < hflip))
        return mean + std * torch.from_numpy(drawn.standard_normal(self.shape, dtype=np.float32))

    def _shard(self, k: int) -> Any:
        if k not in self._open:
            path = self.directory / self.manifest["shards"][k]["file"]
            try:
                self._open[k] = safe_open(path, "pt")
            except (OSError, SafetensorError) as e:
                raise InputError(
                    "a shard of latents cannot be read",
                    got=f"{path}: {e}",
                    expected="an intact safetensors file",
                    remedy=_AGAIN,
                ) from e
        return self._open[k]


@dataclass(frozen=True)
class Latents:
    """A data set of latents, in two splits; of an extraction without names of classes, these are their numbers."""

    name: str
    classes: tuple[str, ...]
    train: LatentSplit
    val: LatentSplit

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one latent: (channels, height, width)."""
        channels, height, width = self.train.shape
        return channels, height, width

    @functools.cached_property
    def listing(self) -> Listing:
        """What it consists of, as of a `Dataset`."""
        return list_data(self.classes, self.train, self.val)


def open_latents(directory: str | Path, *, verify: bool = True) -> Latents:
    """The latents in ``directory/train`` and ``directory/val``, each of an `Extraction`.

    Args:
        directory: holds both.
        verify: hash every shard now, as `LatentSplit` does.

    Raises:
        InputError: as `LatentSplit`, and for splits that were not extracted alike.
    """
    train, val = (LatentSplit(Path(directory) / part, verify=verify) for part in ("train", "val"))
    alike = ("codec", "codec_sha256", "scale", "shift", "latent", "image_size", "crop")
    both = [(key, train.manifest.get(key), val.manifest.get(key)) for key in alike]
    wrong = [f"{key}: {a} / {b}" for key, a, b in both if a != b]
    if wrong:
        raise InputError(
            "the splits were not extracted alike",
            got=f"{'; '.join(wrong)} (train / val)",
            expected="one autoencoder and one size of images for both",
            remedy="extract one of them again",
        )
    classes = _common_classes(train, val)
    data, codec = train.manifest["data"].removesuffix(", train"), train.manifest["codec_sha256"]
    name = f"{data}, latents of {train.manifest['image_size']} px by {codec[:12]}"
    return Latents(name, classes, train, val)


def _common_classes(train: LatentSplit, val: LatentSplit) -> tuple[str, ...]:
    """The classes of both splits, in the order of the training split; the targets of the other are put into that order.

    Raises:
        InputError: for splits with different classes, and for a class without an image to train on.
    """
    remedy = "extract one of them again, from images of the same classes"
    names = [tuple(split.manifest.get("classes") or ()) for split in (train, val)]
    if not all(names):  # by an earlier version, or without names
        number = max(train.targets) + 1
        names = [tuple(map(str, range(number)))] * 2
        if max(val.targets) >= number:
            got, expected = f"label {max(val.targets)} in val", f"0 to {number - 1}, as in train"
            raise InputError("the splits have different classes", got=got, expected=expected, remedy=remedy)
    classes, others = names
    if set(classes) != set(others):
        only = sorted(set(classes) ^ set(others))
        got = f"{len(classes)} in train, {len(others)} in val; in one only: {', '.join(only[:6])}"
        raise InputError("the splits have different classes", got=got, expected="the same classes in both", remedy=remedy)
    empty = sorted(set(range(len(classes))) - set(train.targets))
    if empty:
        raise InputError(
            "no latents for a class",
            got=f"none in train of {', '.join(classes[c] for c in empty[:6])} ({len(empty)} of {len(classes)} classes)",
            expected="latents of every class",
            remedy=remedy,
        )
    place = [classes.index(name) for name in others]
    val.targets = tuple(place[c] for c in val.targets)
    return classes


_WRITTEN = "the JSON that an extraction wrote"
_AGAIN = "remove the shard and its .json, and extract again: only it will be made anew"


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """The middle square of a picture, scaled to ``size``, as ADM (arXiv 2105.05233) does it.

    The picture is halved, by means of 2×2 pixels, while its shorter side is at least twice the size; then scaled, bicubic, so
    that it is the size; then the middle is cut out.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def _writing(out: Path) -> AbstractContextManager[None]:
    return writing("latents", out, expected="a writable place with room", remedy="make room, and call it again")


def _save(note: Path, tensors: dict[str, Tensor]) -> None:
    """Write a shard, and then the note that says it is whole."""
    shard = note.with_suffix(".safetensors")
    with files.whole(shard) as part:
        save_file(tensors, part)
        content = {
            "file": shard.name,
            "samples": len(tensors["labels"]),
            "bytes": part.stat().st_size,
            "sha256": files.sha256(part),
        }
    files.write_whole(note, json.dumps(content))


def _note(path: Path) -> dict[str, Any]:
    remedy = "remove it, and extract again: only its shard will be made anew"
    note = read_object(path, "note of a shard", _WRITTEN, remedy)
    validated(_ShardNote, note, "note of a shard", str(path), remedy)
    return note


def _agree(out: Path, settings: dict[str, Any]) -> None:
    """Write the settings down before any shard, or find the same there."""
    path = out / "settings.json"
    if not path.is_file():
        files.write_whole(path, json.dumps(settings, indent=1) + "\n", f".{os.getpid()}")
    found = read_object(path, "latents' settings", _WRITTEN, "choose another --out")
    wrong = [f"{key}: {found.get(key)!r} there, {now!r} now" for key, now in settings.items() if found.get(key) != now]
    if wrong:
        raise InputError(
            "the directory holds latents of other settings",
            got="; ".join(wrong),
            expected="the settings it was begun with",
            remedy="choose another --out",
        )


def _read_manifest(directory: Path) -> dict[str, Any]:
    path, remedy = directory / MANIFEST, "remove it, and extract again: the shards that are whole stay"
    if not path.is_file():
        raise InputError(
            "no finished latents there",
            got=f"{directory} without {MANIFEST}",
            expected="the --out of a `wfbench data extract-latents` that has ended, in every process",
            remedy="call it again: it goes on where it was",
        )
    manifest = read_object(path, "manifest", _WRITTEN, remedy)
    if manifest.get("format") != FORMAT:
        raise InputError(
            "latents of another layout",
            got=f"{path}: {manifest.get('format')}",
            expected=FORMAT,
            remedy="extract the latents again into another folder, or use the version of wfbench that wrote these",
        )
    validated(_Manifest, manifest, "manifest", str(path), remedy)
    return manifest


def _check_shard(directory: Path, note: dict[str, Any], hashed: bool = True) -> None:
    path = directory / note["file"]
    if not path.is_file():
        raise InputError("a shard of latents is missing", got=str(path), expected="every shard of the manifest", remedy=_AGAIN)
    size = path.stat().st_size
    if size != note["bytes"] or (hashed and files.sha256(path) != note["sha256"]):
        raise InputError(
            "a shard of latents is damaged",
            got=f"{path}: {size} bytes that hash to something else" if size == note["bytes"] else f"{path}: {size} bytes",
            expected=f"{note['bytes']} bytes of SHA-256 {note['sha256'][:12]}…",
            remedy=_AGAIN,
        )
