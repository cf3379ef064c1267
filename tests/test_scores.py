from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import near
from scipy.linalg import sqrtm
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore

from wfbench.diffusion.scores import (
    Inception,
    class_agreement,
    frechet_distance,
    inception_score,
    memorisation,
    moments,
    read_moments,
)
from wfbench.errors import InputError


def features(seed: int, shift: float = 0.0, count: int = 300) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    mix = torch.randn(8, 8, generator=torch.Generator().manual_seed(99))
    return torch.randn(count, 8, generator=draw).double() @ mix.double() + shift


@pytest.mark.parametrize("split", [1, 7, 300])
@pytest.mark.parametrize("far_off", [0.0, 1e6])
def test_moments_are_those_of_the_whole_however_they_come(split: int, far_off: float) -> None:
    x = features(0, far_off)
    found = moments(x.split(split))
    near(found.mean, x.mean(dim=0), tolerance=1e-8)
    near(found.cov, torch.cov(x.mT), tolerance=1e-8)
    assert found.samples == 300


def test_the_distance_is_its_formula_and_symmetric_and_zero_for_the_same() -> None:
    a, b = moments([features(0)]), moments([2 * features(1, 0.5)])
    root = torch.from_numpy(np.asarray(sqrtm((a.cov @ b.cov).numpy())).real)
    expected = (a.mean - b.mean).square().sum() + (a.cov + b.cov - 2 * root).trace()
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected.item(), rel=1e-9)
    assert frechet_distance(a, a) < 1e-9


def test_a_covariance_without_full_rank_has_a_distance() -> None:
    few, more = moments([features(0, count=4)]), moments([features(1, 1.0)])
    assert 0 < frechet_distance(few, more) < float("inf")


def test_the_distance_is_torchmetrics() -> None:
    class Means(nn.Module):
        num_features = 12

        def forward(self, images: Tensor) -> Tensor:
            return images.double().view(len(images), 12, -1).mean(dim=2)

    draw = torch.Generator().manual_seed(0)
    real, fake = (torch.randint(0, top, (64, 3, 16, 16), generator=draw, dtype=torch.uint8) for top in (256, 200))
    metric = FrechetInceptionDistance(feature=Means(), normalize=False).set_dtype(torch.float64)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    extract = Means()
    ours = frechet_distance(moments([extract(real)]), moments([extract(fake)]))
    assert ours == pytest.approx(metric.compute().item(), rel=1e-6)


def test_the_inception_score_is_torchmetrics_in_one_part_and_bounded() -> None:
    class Logits(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.float().flatten(1)[:, :10] / 40

    images = torch.randint(0, 256, (50, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    metric = InceptionScore(feature=Logits(), splits=1)
    metric.update(images)
    mean, std = inception_score(Logits()(images), splits=1)
    assert mean == pytest.approx(metric.compute()[0].item(), rel=1e-5)
    assert std == 0
    certain = 100 * torch.eye(10).repeat(5, 1)
    assert inception_score(certain, splits=5) == pytest.approx((10.0, 0.0))
    assert inception_score(torch.zeros(50, 10))[0] == pytest.approx(1.0)


def test_reference_statistics_come_from_an_npz(tmp_path: Path) -> None:
    x = moments([features(0)])
    np.savez(tmp_path / "ref.npz", mu=x.mean.numpy(), sigma=x.cov.numpy(), mu_s=np.zeros(3))
    found = read_moments(tmp_path / "ref.npz")
    assert frechet_distance(found, x) < 1e-9
    assert found.samples is None
    np.savez(tmp_path / "other.npz", mu=x.mean.numpy())
    np.savez(tmp_path / "odd.npz", mu=x.mean.numpy(), sigma=np.zeros((3, 3)))
    (tmp_path / "text.npz").write_text("no statistics")
    for name in ("missing", "other", "odd", "text"):
        with pytest.raises(InputError, match="no reference statistics"):
            read_moments(tmp_path / f"{name}.npz")


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(InputError, match="too few samples"):
        moments([features(0, count=1)])
    with pytest.raises(InputError, match="different extractors"):
        frechet_distance(moments([features(0)]), moments([features(0)[:, :7]]))
    with pytest.raises(InputError, match="11 parts of 10"):
        inception_score(torch.zeros(10, 3), splits=11)


# --- Inception, with random weights in a local file


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save({}, path)
    load, FeatureExtractorInceptionV3.load_state_dict = FeatureExtractorInceptionV3.load_state_dict, lambda self, state: None
    try:
        torch.manual_seed(0)
        network = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=str(path))
    finally:
        FeatureExtractorInceptionV3.load_state_dict = load
    torch.save(network.state_dict(), path)
    return path


@pytest.mark.slow
def test_inception_takes_a_local_file_and_gives_torchmetrics_features(weights: Path) -> None:
    inception = Inception(weights)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    found, logits = inception(images)
    assert (found.shape, logits.shape) == ((2, 2048), (2, 1008))
    theirs = FrechetInceptionDistance(feature=2048, feature_extractor_weights_path=str(weights), antialias=False).inception
    near(found, theirs(images))
    assert inception.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()


class Trap:
    """What unpickling would run."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("trapped"),))


@pytest.mark.parametrize("content", [None, b"no weights", {}, Trap()], ids=["missing", "text", "empty", "code"])
def test_inception_without_its_weights_is_one_message_and_runs_nothing(
    content: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "inception.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(InputError, match=r"Inception weights[\s\S]*inception.pth[\s\S]*nothing is downloaded"):
        Inception(path)
    assert not (tmp_path / "trapped").exists()


# --- copies and classes


def test_copies_are_found_and_fresh_images_are_not_called_so() -> None:
    draw = torch.Generator().manual_seed(0)
    train, held_out, fresh = (torch.rand(n, 1, 6, 6, generator=draw) for n in (200, 300, 300))
    clean = memorisation(fresh, train, held_out)
    assert clean.copies < 0.05
    assert clean.ratio == pytest.approx(1, abs=0.05)
    copied = torch.cat([train[50:80] + 1e-3 * torch.randn(30, 1, 6, 6, generator=draw), fresh[:70]])
    found = memorisation(copied, train, held_out)
    assert found.nearest[:30].tolist() == list(range(50, 80))
    assert 0.3 <= found.copies < 0.35
    exact = memorisation(train, train, held_out)
    assert not exact.distances.any()
    assert exact.copies == 1
    by_hand = (fresh[0] - train).square().flatten(1).mean(dim=1).sqrt()
    assert clean.distances[0].item() == pytest.approx(by_hand.min().item(), rel=1e-5)
    assert clean.nearest[0] == by_hand.argmin()


def test_agreement_is_the_share_of_samples_that_show_the_class_asked_for() -> None:
    samples = torch.eye(4).view(4, 1, 2, 2).repeat(100, 1, 1, 1)
    labels = torch.arange(4).repeat(100)
    assert class_agreement(lambda x: x.flatten(1), samples, labels) == 1
    labels[:100] = (labels[:100] + 1) % 4
    assert class_agreement(lambda x: x.flatten(1), samples, labels) == 0.75
