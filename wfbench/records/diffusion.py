"""Rows about denoisers: training runs, evaluations of their weights, scores of their samples."""

from __future__ import annotations

from typing import Literal

from wfbench.records.row import Count, TracedRow
from wfbench.records.training import Chosen, TrainingRow


class HeldOutDenoising(TracedRow):
    """What every row with the held-out denoising loss carries: on fixed noise, each sample once in each bin of t."""

    dataset: str
    #: What the model sees: "pixel", or "latent" and the start of the SHA-256 of the autoencoder that made them.
    space: str
    #: Of the model's input: of the latent, in latent space.
    image_size: tuple[int, int]
    dtype: str
    weights: Literal["raw", "ema"]
    #: Mean of mse + vb over t, and both by bin: bin k has edges[k] <= t < edges[k + 1]; vb in bits per dimension.
    loss: float
    edges: tuple[int, ...]
    mse: tuple[float, ...]
    vb: tuple[float, ...]
    samples: Count
    #: Of steps and noise, and of a latent's draw from its posterior: losses of another seed are not comparable.
    noise_seed: int


class DiTRow(HeldOutDenoising, TrainingRow):
    """One finished training of a denoiser: the held-out loss after its last epoch, never the best one."""

    kind: Literal["dit"] = "dit"
    ema_decay: float | None
    #: The best epoch's loss, for information: it is not a result.
    best_loss: float
    #: After each epoch, mean loss of its steps; and of the epochs with an evaluation, the held-out loss of these weights.
    train_curve: tuple[tuple[int, float], ...]
    held_out_curve: tuple[tuple[int, float], ...]
    chosen: Chosen | None = None
    #: The share of the training images that it was evaluated on: a trial of tuning, which is no result.
    validation: float | None = None


class DenoisingRow(HeldOutDenoising):
    """One evaluation of a denoiser's weights by `wfbench eval`."""

    kind: Literal["denoising"] = "denoising"
    recipe: str
    recipe_digest: str
    seed: int
    weights_sha256: str


class ScoreRow(TracedRow):
    """One score of a set of samples, with its protocol: scores of different protocols are not comparable."""

    kind: Literal["score"] = "score"
    recipe: str
    recipe_digest: str
    seed: int
    dataset: str
    #: How the samples were drawn.
    weights: Literal["raw", "ema"]
    weights_sha256: str
    sampler: str
    steps: int
    cfg: float
    #: Channels that guidance changed; None for all.
    cfg_channels: int | None
    #: "pixel", or "vae" and the start of the SHA-256 of the autoencoder.
    decoder: str
    dtype: str
    sample_seed: int
    image_size: tuple[int, int]
    samples_sha256: str
    #: What was scored: the first so many of them.
    samples: Count
    metric: Literal[
        "FID",
        "IS",
        "precision",
        "recall",
        "proxy-FD",
        "proxy precision",
        "proxy recall",
        "class agreement",
        "memorisation ratio",
        "memorised share",
    ]
    value: float
    #: Standard deviation over equal parts of the samples, of IS alone.
    spread: float | None = None
    #: The network behind it, with the SHA-256 of its weights; "pixels" where there is none.
    extractor: str
    extractor_sha256: str = ""
    #: What it was compared with, and of how many images; None for published statistics, which do not say.
    reference: str
    reference_samples: int | None = None
    #: The same figure of real, held-out images: the floor of a distance, the ceiling of an agreement; and of how many.
    real: float | None = None
    real_samples: int | None = None
