"""``wfbench eval --samples``: scores of a denoiser's samples, each with the protocol that it was made by."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wfbench import files, records
from wfbench.data import Dataset, Split, eval_batches
from wfbench.data.image_files import files_below
from wfbench.data.latents import centre_crop
from wfbench.data.pixels import decode
from wfbench.data.splits import UNREADABLE
from wfbench.data.transforms import to_channels
from wfbench.data.what_counts import in_few_words, is_picture, looks_like_a_picture
from wfbench.diffusion import frozen
from wfbench.diffusion.scores import (
    Inception,
    Moments,
    class_agreement,
    frechet_distance,
    inception_score,
    memorisation,
    moments,
    read_moments,
)
from wfbench.errors import InputError, check_finite
from wfbench.files import read_file
from wfbench.records import ScoreRow
from wfbench.strict import read_object
from wfbench.tasks.common import writable_dir
from wfbench.tasks.draw_samples import PROTOCOL, denoiser, to_uint8
from wfbench.tasks.identity import check_data
from wfbench.tasks.jobs import dit
from wfbench.tasks.run_directory import read_recipe, read_result
from wfbench.tasks.weights import weights_file

#: Fewer samples than this are not scored apart.
FEWEST = 100


@dataclass(frozen=True)
class ScoreRequest:
    """What is scored, and against what.

    Attributes:
        run: the run that the samples are of.
        samples: a ``samples.npz`` of `wfbench sample`, with its protocol beside it.
        inception: a file of Inception's weights; None: no FID and no IS.
        reference: what FID compares with: an npz of statistics or images, or a folder of images; None: the training images.
        out: where the rows go; None: ``run/eval``.
    """

    run: Path
    samples: Path
    inception: Path | None = None
    reference: Path | None = None
    out: Path | None = None


@dataclass(frozen=True)
class _Reference:
    """Real images to compare with: uint8 (N, C, H, W), or published statistics of them, or both."""

    name: str
    images: Tensor | None
    statistics: Moments | None = None


def score(request: ScoreRequest, *, device: torch.device) -> tuple[list[ScoreRow], list[str]]:
    """Score samples by all that can be had: the rows, and for each score that cannot be had, why.

    Raises:
        InputError: for samples without a protocol, of another run, or that changed; for a reference or weights of Inception
            that cannot be.
    """
    inception = Inception(request.inception, device) if request.inception is not None else None
    if request.reference is not None and inception is None:
        raise InputError(
            "a reference is for FID",
            got="--reference without --inception",
            expected="--inception beside --reference",
            remedy="give both, or neither",
        )
    recipe = read_recipe(request.run)
    denoiser(recipe)
    images, labels, protocol = read_samples(request.samples)
    if protocol["weights_sha256"] != _sha256(weights_file(request.run, protocol["weights"])):
        raise InputError(
            "the samples are of other weights",
            got=str(request.samples),
            expected=f"samples of {request.run}, as it is now",
            remedy=f"draw samples by these weights: wfbench sample {request.run}",
        )
    job = dit.prepare(recipe)
    check_data(request.run, job.dataset, "train", "val")
    rows, missing = [], []
    shared = job.run_fields(read_result(request.run).recipe_digest) | {
        "environment": records.stamp(device.type),
        "dataset": job.dataset.name,
        "image_size": tuple(images.shape[2:]),
        **{key: protocol[key] for key in ScoreRow.model_fields if key in protocol and key not in ("samples", "image_size")},
    }

    def add(metric: str, value: float, count: int = len(images), **more: Any) -> None:
        check_finite(value, f"the score {metric} is", request.samples)
        rows.append(ScoreRow(**shared, metric=metric, value=value, samples=count, **more))

    real = _real(job) if isinstance(job.dataset, Dataset) else None
    if inception is not None:
        reference = _reference(request.reference, images, job, real)
        _inception_scores(add, inception, images, reference, None if real is None else real[2])
    else:
        missing.append("FID, IS: no --inception")
    if real is None:
        missing.append("proxy-FD, class agreement, memorisation: the run is on latents, and these compare with its images")
    else:
        train, _, held, held_labels = real
        name = f"{job.dataset.name}, train"
        found = memorisation(images.float() / 255, train.float() / 255, held.float() / 255)
        pixels: dict[str, Any] = {"extractor": "pixels", "reference": name, "reference_samples": len(train)}
        add("memorisation ratio", found.ratio, **pixels)
        add("memorised share", found.copies, **pixels)
        key = frozen.of_dataset(job.dataset.name, images.shape[2])
        if key is None:
            missing.append(f"proxy-FD, class agreement: no frozen networks ship for {job.dataset.name}")
        else:
            _proxy_scores(add, key, images, labels, train, held, held_labels, name)
    records.append(writable_dir(request.out or request.run / "eval") / "records.jsonl", rows)
    return rows, missing


def read_samples(path: Path) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Samples (N, C, H, W) uint8, the classes asked for (N), and the protocol that lies beside them.

    Raises:
        InputError: if one of them is missing, or the samples are not those of the protocol.
    """
    beside = path.parent / PROTOCOL
    expected = f"samples.npz and {PROTOCOL}, as `wfbench sample` writes them"
    remedy = f"put {PROTOCOL} back beside them, or draw the samples again: wfbench sample RUN"
    protocol = read_object(beside, "protocol of the samples", expected, remedy)
    images, labels = _arrays(path)
    if labels is None or protocol.get("samples_sha256") != _sha256(path):
        raise InputError(
            "the samples are not those of their protocol",
            got=str(path),
            expected=f"the file that {beside} is of",
            remedy="put both files back, or draw the samples again: wfbench sample RUN",
        )
    return images, labels, protocol


def counts_of(samples: int) -> list[int]:
    """At how many samples a distance is given: all, and by halves down to `FEWEST`, four times at the most."""
    found = [samples]
    while found[-1] // 2 >= FEWEST and len(found) < 4:
        found.append(found[-1] // 2)
    return found[::-1]


def _proxy_scores(
    add: Callable[..., None], key: str, images: Tensor, labels: Tensor, train: Tensor, held: Tensor, right: Tensor, name: str
) -> None:
    """Distance, precision and recall on the extractor's features, and what the judge sees."""
    extractor, judge = frozen.load(key, "extractor"), frozen.load(key, "judge")
    assert isinstance(extractor, frozen.Extractor)
    ours, theirs, floor = (frozen.features_of(extractor, _signed(x)) for x in (images, train, held))
    comparison: dict[str, Any] = {"extractor": f"{key}-extractor", "extractor_sha256": frozen.FROZEN[key].sha256["extractor"]}
    comparison |= {"reference": name, "reference_samples": len(train)}
    _distances(add, "proxy-FD", ours, moments([theirs]), floor, comparison)
    _coverage(add, "proxy ", ours, theirs, floor, comparison)
    comparison = {"extractor": f"{key}-judge", "extractor_sha256": frozen.FROZEN[key].sha256["judge"]}
    seen = class_agreement(judge, _signed(images), labels)
    real = class_agreement(judge, _signed(held), right)
    add("class agreement", seen, **comparison, reference="the class asked for", real=real, real_samples=len(held))


def _inception_scores(
    add: Callable[..., None], inception: Inception, images: Tensor, reference: _Reference, held: Tensor | None
) -> None:
    """FID, IS, precision and recall."""
    comparison: dict[str, Any] = {"extractor": "Inception", "extractor_sha256": inception.sha256, "reference": reference.name}
    ours, logits = _inception(inception, images)
    splits = min(10, len(images))
    mean, spread = inception_score(logits, splits)
    add("IS", mean, spread=spread, **(comparison | {"reference": "none"}))
    theirs = None if reference.images is None else _inception(inception, reference.images)[0]
    known = reference.statistics or (None if theirs is None else moments([theirs]))
    assert known is not None
    floor = None if held is None else _inception(inception, held)[0]
    comparison["reference_samples"] = known.samples
    _distances(add, "FID", ours, known, floor, comparison)
    if theirs is not None:
        _coverage(add, "", ours, theirs, floor, comparison | {"reference_samples": len(theirs)})


def _distances(
    add: Callable[..., None], metric: str, ours: Tensor, reference: Moments, floor: Tensor | None, comparison: dict[str, Any]
) -> None:
    """The distance at several numbers of samples, beside that of as many held-out images, or of all if they are fewer."""
    for count in counts_of(len(ours)):
        real = None if floor is None else floor[:count]
        beside = {} if real is None else {"real": frechet_distance(moments([real]), reference), "real_samples": len(real)}
        add(metric, frechet_distance(moments([ours[:count]]), reference), count, **comparison, **beside)


def _coverage(
    add: Callable[..., None], prefix: str, ours: Tensor, theirs: Tensor, floor: Tensor | None, comparison: dict[str, Any]
) -> None:
    """Precision and recall by nearest neighbours (arXiv 1904.06991), with 3 of them."""
    from torch_fidelity.metric_prc import prc_features_to_metric

    settings = {"prc_neighborhood": 3, "prc_batch_size": 10000, "save_cpu_ram": True, "verbose": False}
    if min(len(ours), len(theirs)) < 5:  # a fourth neighbour is asked for
        return
    found = prc_features_to_metric(ours, theirs, **settings)
    real = {} if floor is None or len(floor) < 5 else prc_features_to_metric(floor, theirs, **settings)
    for name in ("precision", "recall"):
        beside = {"real": real[name], "real_samples": len(floor)} if real and floor is not None else {}
        add(f"{prefix}{name}", found[name], **comparison, **beside)


def _inception(inception: Inception, images: Tensor, batch: int = 50) -> tuple[Tensor, Tensor]:
    coloured = images if images.shape[1] == 3 else images.expand(-1, 3, -1, -1)
    parts = [inception(part) for part in coloured.split(batch)]
    features, logits = (torch.cat([part[k].cpu() for part in parts]) for k in (0, 1))
    return features, logits


def _real(job: dit.DiTJob) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and classes, held-out images and classes, without augmentation, as the model would have to draw them.

    The held-out ones stand in a fixed random order, so that the first of them are of every class.
    """
    assert isinstance(job.dataset, Dataset)
    train, classes = _pictures(job, job.dataset.train)
    held, right = _pictures(job, job.dataset.val)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(held)))
    return train, classes, held[order], right[order]


def _pictures(job: dit.DiTJob, split: Split) -> tuple[Tensor, Tensor]:
    """A split's images (N, C, H, W), uint8, and its classes."""
    batches = eval_batches(split, job.recipe.data, job.image_size, job.in_channels, batch_size=256)
    images = [torch.from_numpy(to_uint8(x)).permute(0, 3, 1, 2) for x, _ in batches]
    return torch.cat(images), torch.tensor(split.targets)


def _signed(images: Tensor) -> Tensor:
    """From uint8 to [-1, 1]."""
    return images.float() / 127.5 - 1


def _reference(
    path: Path | None, images: Tensor, job: dit.DiTJob, real: tuple[Tensor, Tensor, Tensor, Tensor] | None
) -> _Reference:
    if path is None and real is None:
        raise InputError(
            "nothing to compare the samples with",
            got="a run on latents, and no --reference",
            expected="an npz with mu and sigma, an npz of images, or a folder of images",
            remedy="--reference PATH, for example the folder with the training images",
        )
    if path is None:
        assert real is not None
        return _Reference(f"{job.dataset.name}, train", real[0])
    if path.is_dir():
        found = torch.stack(list(_folder(path, images.shape[2])))
        return _Reference(f"folder {path.name} ({len(found):,} images)", found)
    name = f"{path.name} {_sha256(path)[:12]}" if path.is_file() else path.name
    try:
        with np.load(path, allow_pickle=False) as file:
            holds = set(file.files)
    except (OSError, ValueError, zipfile.BadZipFile) as e:
        raise InputError(
            "cannot read the reference", got=f"{path}: {e}", expected="an npz, or a folder of images", remedy=_CHECK
        ) from e
    statistics = read_moments(path) if {"mu", "sigma"} <= holds or "arr_0" not in holds else None
    return _Reference(name, _arrays(path)[0] if "arr_0" in holds else None, statistics)


def _folder(path: Path, side: int) -> Iterable[Tensor]:
    """Every image under a folder, cropped as ADM does it: (3, side, side), uint8."""
    root = path.resolve()
    names = [name for below in files_below(root.parent, root.name) for name in below if looks_like_a_picture(name)]
    if over := [name for name in names if not is_picture(name)]:
        raise InputError(
            "files of the reference that look like images would not be read",
            got=in_few_words(over),
            expected="png, jpg, webp, bmp, tif or ppm files",
            remedy="convert them, or move them away",
        )
    if not names:
        raise InputError("no images in the reference", got=str(path), expected="png, jpg, webp or bmp files", remedy=_CHECK)
    for file in sorted(root.parent / name for name in names):
        try:
            image = to_channels(decode(read_file(file), str(file)), 3)
            yield torch.from_numpy(np.array(centre_crop(image, side))).permute(2, 0, 1)
        except InputError:
            raise
        except UNREADABLE as e:
            raise InputError(
                "an image cannot be read",
                got=f"{file} ({e})",
                expected="an intact image file",
                remedy="repair or remove the file",
            ) from e


def _arrays(path: Path) -> tuple[Tensor, Tensor | None]:
    """``arr_0`` of an npz in ADM's layout as (N, C, H, W), and ``arr_1`` where it has one."""
    try:
        with np.load(path, allow_pickle=False) as file:
            images, labels = file["arr_0"], file["arr_1"] if "arr_1" in file.files else None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as e:
        raise InputError(
            "no images there", got=f"{path}: {e}", expected="an npz with arr_0 (N, H, W, C), uint8", remedy=_NPZ
        ) from e
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        got = f"{path}: {images.dtype} {images.shape}"
        raise InputError("no images there", got=got, expected="an npz with arr_0 (N, H, W, C), uint8", remedy=_NPZ)
    return torch.from_numpy(images).permute(0, 3, 1, 2), None if labels is None else torch.from_numpy(labels)


#: What to do about a file that holds no images, or a reference that is none.
_NPZ = "check the path; for images from 0 to 255 as uint8: numpy.savez(path, arr_0=images)"
_CHECK = "check --reference"


def _sha256(path: Path) -> str:
    try:
        return files.sha256(path)
    except OSError as e:
        raise InputError(
            "cannot read a file",
            got=f"{path}: {e.strerror}",
            expected="a file that can be read",
            remedy="check the path, and who may read the file",
        ) from e
