"""Scores of samples: Fréchet distance on any features, FID and IS on Inception's, copies of training images, asked classes.

Fréchet distances of another extractor, decoder, sampler or number of samples are not comparable: who reports one says all of
that beside it. It is FID on Inception's features alone; on others it is a proxy, and is called so.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wfbench import files
from wfbench.errors import InputError


@dataclass(frozen=True)
class Moments:
    """What a Fréchet distance knows of a set of features.

    Attributes:
        mean: (D), float64.
        cov: (D, D), float64, with N − 1 in the denominator.
        samples: N; None where a file of statistics does not say.
    """

    mean: Tensor
    cov: Tensor
    samples: int | None


def moments(features: Iterable[Tensor]) -> Moments:
    """The moments of features that come in batches (B, D).

    Raises:
        InputError: for fewer than two samples, which have no covariance.
    """
    count, total, products = 0, torch.zeros(()), torch.zeros(())
    shift: Tensor | None = None
    for batch in features:
        batch = batch.detach().cpu().double()
        shift = batch.mean(dim=0) if shift is None else shift  # near the mean, squares do not cancel
        centred = batch - shift
        count, total, products = count + len(batch), total + centred.sum(dim=0), products + centred.mT @ centred
    if count < 2 or shift is None:
        raise InputError(
            "too few samples for a Fréchet distance",
            got=count,
            expected="at least 2, and far more than features",
            remedy="draw more: wfbench sample RUN --num 10000; or give more images as --reference",
        )
    mean = total / count
    return Moments(shift + mean, (products - count * torch.outer(mean, mean)) / (count - 1), count)


_REFERENCE = "give ADM's file of statistics, or a folder of images, as --reference"


def read_moments(path: str | Path) -> Moments:
    """Reference statistics from an npz with ``mu`` and ``sigma``, as ADM publishes them for ImageNet.

    Raises:
        InputError: if the file is missing or holds none.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            mean, cov = (torch.from_numpy(np.asarray(file[key], dtype=np.float64)) for key in ("mu", "sigma"))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as e:
        raise InputError(
            "no reference statistics there",
            got=f"{path}: {e}",
            expected="an npz with mu (D) and sigma (D, D)",
            remedy=_REFERENCE,
        ) from e
    if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
        got = f"{path}: mu {tuple(mean.shape)}, sigma {tuple(cov.shape)}"
        raise InputError("no reference statistics there", got=got, expected="mu (D) and sigma (D, D)", remedy=_REFERENCE)
    return Moments(mean, cov, None)


def frechet_distance(one: Moments, other: Moments) -> float:
    """‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½), the distance of two Gaussians.

    The root's trace is that of (Σ₁^½ Σ₂ Σ₁^½)^½, which is symmetric; eigenvalues that rounding made negative are 0.
    Source: Heusel et al. 2017 (arXiv 1706.08500), equation 6.

    Raises:
        InputError: for features of different widths.
    """
    if one.mean.shape != other.mean.shape:
        got = f"{len(one.mean)} and {len(other.mean)} features"
        raise InputError(
            "moments of different extractors",
            got=got,
            expected="as many features on both sides",
            remedy="compute both with the same network",
        )
    values, vectors = torch.linalg.eigh(one.cov)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.mT
    shared = torch.linalg.eigvalsh(root @ other.cov @ root).clamp_min(0).sqrt().sum()
    distance = (one.mean - other.mean).square().sum() + one.cov.trace() + other.cov.trace() - 2 * shared
    return float(distance.clamp_min(0))


def inception_score(logits: Tensor, splits: int = 10) -> tuple[float, float]:
    """exp of the mean KL(p(y | x) ‖ p(y)), as mean and standard deviation over equal parts of the samples.

    Shapes: logits (N, classes). Source: Salimans et al. 2016 (arXiv 1606.03498), section 4.

    Raises:
        InputError: for more parts than samples.
    """
    if not 1 <= splits <= len(logits):
        raise InputError(
            "cannot split the samples so",
            got=f"{splits} parts of {len(logits)}",
            expected="1 or more in each",
            remedy="draw more samples: wfbench sample RUN --num 10000; or ask for fewer parts",
        )
    log_p = logits.detach().cpu().double().log_softmax(dim=1)
    scores = []
    for part in log_p.tensor_split(splits):
        p = part.exp()
        scores.append((p * (part - p.mean(dim=0).log())).sum(dim=1).mean().exp())
    found = torch.stack(scores)
    return float(found.mean()), float(found.std(correction=0))


class Inception:
    """The Inception network of FID and IS, in torch-fidelity's port, with weights from a local file.

    Pictures are resized to 299 as TensorFlow 1 did it, without antialiasing.

    Args:
        path: torch-fidelity's ``weights-inception-2015-12-05-6726825d.pth``; nothing is downloaded.
        device: where it works.

    Attributes:
        sha256: of the file: part of the protocol of every score.

    Raises:
        InputError: if the file is missing or holds other weights; made before any sampling, so that this comes first.
    """

    def __init__(self, path: str | Path, device: torch.device | str = "cpu") -> None:
        path = Path(path)
        expected = "torch-fidelity's weights-inception-2015-12-05-6726825d.pth"
        remedy = "fetch it yourself from torch-fidelity's releases, and give its path; nothing is downloaded"
        if not path.is_file():
            raise InputError("no Inception weights there", got=str(path), expected=expected, remedy=remedy)
        self.sha256 = files.sha256(path)
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        try:
            torch.load(path, weights_only=True, map_location="cpu")  # torch-fidelity would unpickle whatever is there
            self.network = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
            )
        except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as e:
            got = f"{path}: {' '.join(str(e).split())[:200]}"
            raise InputError("the Inception weights cannot be loaded", got=got, expected=expected, remedy=remedy) from e
        self.network.eval().requires_grad_(False).to(device)
        self.device = device

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (B, 3, H, W), uint8, to features (B, 2048) and logits without bias (B, 1008)."""
        features, logits = self.network(images.to(self.device))
        return features, logits


@dataclass(frozen=True)
class Memorisation:
    """How near samples lie to training images, against how near held-out images do.

    Attributes:
        nearest: index of each sample's nearest training image (N).
        distances: to it, root mean square over elements (N).
        ratio: the samples' median distance over the held-out images'; near 1, or above, where nothing is copied.
        copies: share of samples nearer than all but 1 % of the held-out images; about 0.01 where nothing is copied.
    """

    nearest: Tensor
    distances: Tensor
    ratio: float
    copies: float


def memorisation(samples: Tensor, train: Tensor, held_out: Tensor) -> Memorisation:
    """Look for copies of training images: nearest neighbours by the 2-norm, of pictures or of their features.

    Shapes: (N, ...), (M, ...) and (K, ...), alike but for the first.
    """
    distances, nearest = _nearest(samples, train)
    usual, _ = _nearest(held_out, train)
    ratio = float(distances.median() / usual.median())
    return Memorisation(nearest, distances, ratio, float((distances < usual.quantile(0.01)).double().mean()))


def _nearest(x: Tensor, train: Tensor, at_once: int = 256) -> tuple[Tensor, Tensor]:
    """Root mean square distance to the nearest of ``train``, and its index (N)."""
    flat = train.flatten(1).double()
    # Not through matrix products: they lose the small distances that copies have.
    parts = [
        torch.cdist(part.flatten(1).double(), flat, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)
        for part in x.split(at_once)
    ]
    return torch.cat([p.values for p in parts]) / flat.shape[1] ** 0.5, torch.cat([p.indices for p in parts])


@torch.no_grad()
def class_agreement(judge: Callable[[Tensor], Tensor], samples: Tensor, labels: Tensor, batch: int = 256) -> float:
    """The share of samples in which another network sees the class that was asked for.

    Args:
        judge: pictures (B, C, H, W) to logits (B, classes); a classifier that has not seen the denoiser, in evaluation mode.
        samples: (N, C, H, W), as the judge wants them.
        labels: classes asked for (N).
        batch: pictures at once.
    """
    seen = torch.cat([judge(part).argmax(dim=1).cpu() for part in samples.split(batch)])
    return float((seen == labels.cpu()).double().mean())
