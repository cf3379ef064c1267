"""Records: every result the bench ever reports is a typed row, appended to a JSONL file with its environment.

Tables and plots are made from these rows and from nothing else. The schema is versioned: a reader refuses rows that are
newer than itself. A row that a killed writer left torn is reported and skipped; nothing else is lost.
"""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from wfbench.errors import InputError, writing

#: Version of the row schema. Raise it when a field changes its meaning or a reader must know a new one.
SCHEMA = 5

_PACKAGES = ("wfbench", "torch", "torchvision", "timm", "fvcore", "numpy", "scikit-learn", "pandas")


class _Strict(BaseModel):
    # "strings": by default pydantic writes NaN and infinity as null, which the reader would then refuse.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class Environment(_Strict):
    """Where a number was measured."""

    device: str
    device_type: Literal["cpu", "cuda"]
    threads: int
    tf32: bool
    platform: str
    python: str
    versions: dict[str, str]
    git_revision: str | None
    git_dirty: bool | None


class Row(_Strict):
    """What every row carries."""

    schema_version: int = SCHEMA
    #: When the work began.
    created: str = Field(default_factory=lambda: now())
    command: str = Field(default_factory=lambda: command_line())
    environment: Environment


class _ModelRow(Row):
    """What every row about a model carries: the model, its mixer, and the factors of the skeleton that vary beside it."""

    model: str
    mixer: str
    local_conv: Literal["none", "dwc"] = "none"
    pos_embed: Literal["none", "learned", "sincos", "rope2d"] = "learned"

    @model_validator(mode="before")
    @classmethod
    def _before_there_were_positions(cls, data: Any) -> Any:
        """A row that names no position was written when each model had its preset's own."""
        if isinstance(data, dict) and "pos_embed" not in data and str(data.get("model")).startswith("weightformer-"):
            return data | {"pos_embed": "none"}
        return data


class Chosen(_Strict):
    """What a sweep chose for this mixer by one rule for all mixers: the budget it was matched to, the rate it was tuned to."""

    match: Literal["params", "macs"] | None = None
    match_to: str | None = None
    #: Of the baseline, in parameters or in MACs, and (own − baseline's) / baseline's.
    budget: int | None = None
    residual: float | None = None
    mlp_ratio: float
    depth: int
    lr: float
    #: The rates that were tried, with which seeds, on which share of the training images.
    rates: tuple[float, ...] | None = None
    trial_seeds: tuple[int, ...] | None = None
    validation: float | None = None


class TrainRow(_ModelRow):
    """One finished training run: the accuracy of its last epoch, never the best one."""

    kind: Literal["train"] = "train"
    recipe: str
    #: Hash of the resolved recipe but for seed, mixer and the factors: rows with different ones are never averaged.
    recipe_digest: str
    dataset: str
    seed: int
    image_size: tuple[int, int]
    epochs: int
    steps: int
    batch: int
    dtype: str
    parameters: int
    #: MACs of one image's forward pass; None where the counts did not agree, and then macs_error says why.
    macs: float | None
    macs_error: str | None = None
    weights: Literal["raw", "ema"] = "raw"
    #: What the weights began from: "none", or a file and the start of its SHA-256.
    pretraining: str = "none"
    #: Top-1 and top-5, as fractions of samples, over exactly this many held-out samples. Top-5 needs more classes than five.
    accuracy: float
    top5: float | None = None
    samples: int
    loss: float
    #: The best epoch's accuracy, for information: it is not a result.
    best_accuracy: float
    #: Training images that could not be read, each replaced by another of its class in every epoch.
    bad_images: int = 0
    #: Processes that trained together, and how each of them ran.
    processes: int = 1
    compiled: bool = False
    channels_last: bool = False
    grad_checkpointing: bool = False
    micro_batch: int | None = None
    #: Wall seconds of training, evaluation apart; summed over the sessions of a resumed run.
    train_seconds: float
    images_per_second: float
    #: The share of train_seconds spent waiting for data.
    data_wait_share: float
    chosen: Chosen | None = None
    #: The share of the training images that it was evaluated on: a trial of tuning, which is no result.
    validation: float | None = None


class EvalRow(_ModelRow):
    """One evaluation of trained weights by `wfbench eval`: of a run, perhaps at another resolution, or of a file."""

    kind: Literal["eval"] = "eval"
    #: Of a run: its recipe, digest and seed, as in its training row. Of a file: none.
    recipe: str | None = None
    recipe_digest: str | None = None
    seed: int | None = None
    weights: Literal["raw", "ema", "file"]
    #: The SHA-256 of the weights' file.
    weights_sha256: str
    dataset: str
    #: The size the model was built for, and that of the images it was evaluated on.
    trained_size: tuple[int, int]
    image_size: tuple[int, int]
    eval_resize: Literal["squash", "shorter"]
    eval_crop: float
    #: Of input channels, as the images were normalised.
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: str
    #: The file of other labels, and the samples that it has none for, which were left out.
    mapping: str | None = None
    unlabelled: int = 0
    accuracy: float
    top5: float | None = None
    samples: int
    #: None where a sample may have several labels.
    loss: float | None


class BaselineRow(Row):
    """A simple classifier on the same split, to calibrate how easy a data set is."""

    kind: Literal["baseline"] = "baseline"
    name: str
    dataset: str
    accuracy: float
    samples: int


class _CellRow(_ModelRow):
    """What every row about one cell of a profile carries: one model with one mixer at one resolution, and how it was run."""

    session: str
    #: What differs from the named model beside the factors: "patch 32", "depth 6"; empty for the model itself.
    variant: str = ""
    #: Of the image, in pixels.
    resolution: tuple[int, int]
    #: How many of them are one of the model's input, along a side: 8 where it works on latents.
    downsample: int = 1
    tokens: int
    batch: int
    #: Set where the batch was chosen to hold as many tokens at every resolution.
    token_budget: int | None = None
    mode: Literal["infer", "train"]
    #: "float32", or "bfloat16" for weights and activations, or "bfloat16 autocast".
    dtype: str
    compiled: bool = False
    channels_last: bool = False
    #: "chosen by PyTorch", or the backend of scaled_dot_product_attention that was forced.
    sdpa_backend: str
    path: str
    protocol: str


class ProfileRow(_CellRow):
    """One cell of a profile, summed up over its rounds. A failed cell is a row too."""

    kind: Literal["profile"] = "profile"
    order_seed: int
    status: Literal["ok", "oom", "error", "timeout"]
    message: str | None = None
    parameters: int | None = None
    #: MACs of one image's forward pass; None where the counts did not agree, and then macs_error says why.
    macs: float | None = None
    #: Of one image's forward pass too: elementwise operations; elements that operators with MACs put out.
    elementwise: float | None = None
    activations: float | None = None
    #: Bytes per image that any execution moves at least once: weights and input read, output written.
    bytes_least: float | None = None
    #: Bytes per image that the operators read and wrote, each for itself.
    bytes_moved: float | None = None
    #: The most bytes alive at once by the shapes alone: weights, input and activations of the whole batch.
    bytes_alive: float | None = None
    counted_by: tuple[str, ...] = ()
    macs_error: str | None = None
    #: Raw timing samples, in seconds per call on the whole batch, round after round.
    samples: tuple[float, ...] = ()
    #: The median of each round.
    round_medians: tuple[float, ...] = ()
    #: The median of the rounds' medians (of the samples, in rows that name no rounds), and its 95% interval over rounds.
    median: float | None = None
    median_low: float | None = None
    median_high: float | None = None
    #: Of all samples.
    p10: float | None = None
    p25: float | None = None
    p75: float | None = None
    p90: float | None = None
    #: Peak memory of one call in a process of its own, above what the process held before the model was built.
    memory_bytes: float | None = None
    memory_baseline_bytes: float | None = None
    #: What the caching allocator had reserved; CUDA only.
    memory_reserved_bytes: float | None = None
    memory_status: Literal["ok", "oom", "error", "timeout", "not measured"] = "not measured"
    memory_message: str | None = None
    #: The least time that this machine's measured rates allow for the whole batch, and which rate sets it.
    bound_seconds: float | None = None
    bound_by: Literal["compute", "memory"] | None = None


class MeasurementRow(_CellRow):
    """One measurement of one cell, written as soon as it is made: a profile that is called again begins after these."""

    kind: Literal["measurement"] = "measurement"
    stage: Literal["latency", "memory", "throughput"]
    #: From 0; latency alone has several.
    round: int = 0
    #: The seed of the order in which the cells of this round were measured, and the seconds that the cell was allowed.
    order_seed: int = 0
    budget: float | None = None
    status: Literal["ok", "oom", "error", "timeout"]
    message: str | None = None
    #: Seconds per call on the whole batch; of the throughput stage, one median per batch tried.
    samples: tuple[float, ...] = ()
    #: The batches that the throughput stage tried.
    batches: tuple[int, ...] = ()
    #: Of the memory stage: "peak", "baseline", on CUDA "reserved".
    bytes: dict[str, float] = {}
    #: Wall seconds of the measurement, start-up of its process counted, and those within calls of the model.
    wall_seconds: float
    call_seconds: float


class ThroughputRow(_CellRow):
    """Images per second by batch, doubled until more images gain less than ``gain``, time or memory ran out."""

    kind: Literal["throughput"] = "throughput"
    status: Literal["ok", "oom", "error", "timeout"]
    message: str | None = None
    batches: tuple[int, ...] = ()
    images_per_second: tuple[float, ...] = ()
    #: The smallest batch within ``gain`` of the best rate.
    saturating_batch: int | None = None
    gain: float = 0.05


class BreakdownRow(_CellRow):
    """MACs of one image's forward pass by module and by operator."""

    kind: Literal["breakdown"] = "breakdown"
    by_module: dict[str, float]
    by_operator: dict[str, float]


class MachineRow(Row):
    """What this machine did in the same session: the rates that a roofline is made of."""

    kind: Literal["machine"] = "machine"
    session: str
    dtype: str
    #: Operations per second (two for each MAC) of the fastest square matrix product tried, and bytes per second, read
    #: and written, of a large copy.
    gemm_flops: float
    copy_bytes: float
    gemm_size: int


class HarnessRow(Row):
    """What one call of the profile cost beside the calls that it timed."""

    kind: Literal["harness"] = "harness"
    session: str
    protocol: str
    #: The mixer that the crossovers of this call are found against.
    baseline: str = "softmax"
    #: Of the timing: wall seconds, and those within calls of the models, warm-up counted.
    wall_seconds: float
    call_seconds: float
    #: Of the counting of MACs.
    count_seconds: float
    #: Processes that were started, and the median seconds of each outside calls of its model; isolated cells only.
    processes: int
    fixed_seconds: float | None
    #: The machine's load average over the last minute, at the beginning and the end.
    load: tuple[float, float]


class _FromProfile(_ModelRow):
    """What a row that is computed from a profile's cells carries: all that the cells share."""

    session: str
    variant: str = ""
    sdpa_backend: str = "chosen by PyTorch"
    #: The cells' setting: rows that were written before there were several in a session have none.
    batch: int | None = None
    token_budget: int | None = None
    mode: Literal["infer", "train"] | None = None
    dtype: str | None = None
    compiled: bool | None = None
    channels_last: bool | None = None
    protocol: str | None = None


class ScalingRow(_FromProfile):
    """The local exponent d log t / d log N between two neighbouring resolutions of one profile; t is for one image."""

    kind: Literal["scaling"] = "scaling"
    low: tuple[int, int]
    high: tuple[int, int]
    tokens: tuple[int, int]
    latency_exponent: float
    #: 95%, from the spread of all cells about the curve; None where there are too few cells for one.
    latency_exponent_low: float | None = None
    latency_exponent_high: float | None = None
    macs_exponent: float | None


class FitRow(_FromProfile):
    """The curve t = a + b N + c N² through one mixer's cells, by least squares of relative errors; t is for one image."""

    kind: Literal["fit"] = "fit"
    sides: tuple[tuple[int, int], ...]
    tokens: tuple[int, ...]
    #: Seconds, seconds per token, seconds per token²; none is negative.
    a: float
    b: float
    c: float
    #: Typical relative distance of a cell from the curve, and the degrees of freedom behind it.
    spread: float
    freedom: int
    #: The curve's local exponent d log t / d log N at each side, with its 95% interval, beside that of the counted MACs' own
    #: curve.
    exponents: tuple[float, ...]
    exponents_low: tuple[float, ...]
    exponents_high: tuple[float, ...]
    macs_exponents: tuple[float | None, ...]
    #: Why the curve says less than it seems to: a range that is too short, overhead that dominates.
    doubts: tuple[str, ...] = ()


class CrossoverRow(_FromProfile):
    """The image side from which a mixer is faster than the baseline, in one profile."""

    kind: Literal["crossover"] = "crossover"
    #: A mixer too, with the same factors.
    baseline: str
    #: The baseline's attention backend at each side, the fastest of those that were timed.
    baseline_backends: tuple[str, ...] = ()
    #: "at": between two measured sides, interpolated; "always": faster at every side; "none": at none up to the last.
    verdict: Literal["at", "always", "none"]
    side: float | None
    #: 95% interval of the side. An end that is None lies outside the measured sides; without ``interval`` there is none.
    interval: bool = False
    side_low: float | None = None
    side_high: float | None = None
    smallest_side: int
    largest_side: int


class ErfRow(_ModelRow):
    """The effective receptive field of the central token: where in the image its features get their gradient from."""

    kind: Literal["erf"] = "erf"
    #: "fresh" as initialised, or "trained".
    weights: Literal["fresh", "trained"]
    seed: int
    #: The recipe of a run, None for a model that is none's, and what the images are: a data set, or noise.
    recipe: str | None = None
    recipe_digest: str | None = None
    images: str
    image_count: int
    image_size: tuple[int, int]
    patch_size: int
    depth: int
    embed_dim: int
    #: The token's row and column.
    token: tuple[int, int]
    #: Share of the gradient's energy outside circles about the token's centre, of these radii in tokens.
    radii: tuple[float, ...]
    outside: tuple[float, ...]
    #: The radius in tokens within which half of the energy lies.
    half_radius: float
    #: The share of the tokens' patches that any energy falls on.
    reached: float
    #: The map as a PNG in base64, one byte per pixel: 255 (1 + log10(energy / largest) / 8), 0 from 1e-8 on down.
    picture: str


class PictureRow(_ModelRow):
    """A picture that a run made, such as a grid of samples; the report shows it and takes no number from it."""

    kind: Literal["picture"] = "picture"
    #: The section of the report, and what stands under the picture: sampler, steps, seed.
    subject: Literal["samples"] = "samples"
    caption: str
    #: A PNG in base64.
    picture: str


class _HeldOutDenoising(_ModelRow):
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
    samples: int
    #: Of steps and noise, and of a latent's draw from its posterior: losses of another seed are not comparable.
    noise_seed: int


class DiTRow(_HeldOutDenoising):
    """One finished training of a denoiser: the held-out loss after its last epoch, never the best one."""

    kind: Literal["dit"] = "dit"
    recipe: str
    #: Hash of the resolved recipe but for seed, mixer, the factors and how samples are drawn.
    recipe_digest: str
    seed: int
    epochs: int
    steps: int
    batch: int
    parameters: int
    #: MACs of one forward pass of one sample; None where the counts did not agree, and then macs_error says why.
    macs: float | None
    macs_error: str | None = None
    ema_decay: float | None
    pretraining: str = "none"
    #: The best epoch's loss, for information: it is not a result.
    best_loss: float
    #: After each epoch, mean loss of its steps; and of the epochs with an evaluation, the held-out loss of these weights.
    train_curve: tuple[tuple[int, float], ...]
    held_out_curve: tuple[tuple[int, float], ...]
    bad_images: int = 0
    processes: int = 1
    compiled: bool = False
    channels_last: bool = False
    grad_checkpointing: bool = False
    micro_batch: int | None = None
    train_seconds: float
    images_per_second: float
    data_wait_share: float


class DenoisingRow(_HeldOutDenoising):
    """One evaluation of a denoiser's weights by `wfbench eval`."""

    kind: Literal["denoising"] = "denoising"
    recipe: str
    recipe_digest: str
    seed: int
    weights_sha256: str


class ScoreRow(_ModelRow):
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
    samples: int
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


class TrialRow(_ModelRow):
    """One trial of a sweep's tuning: a rate, judged on images held out of the training images."""

    kind: Literal["trial"] = "trial"
    recipe: str
    #: That of the final runs which follow from the trials.
    recipe_digest: str
    dataset: str
    image_size: tuple[int, int]
    epochs: int
    seed: int
    lr: float
    #: All rates that were to be tried, and the recipe's own.
    rates: tuple[float, ...]
    recipe_lr: float
    #: "diverged": a loss that is not finite, or at the end more than twice that of guessing.
    status: Literal["ok", "diverged"]
    message: str | None = None
    #: On the images held out of the training images, so many of them; of a trial that is ok.
    accuracy: float | None = None
    loss: float | None = None
    samples: int | None = None
    validation: float


class ClaimsRow(Row):
    """A file of claims as it stood when a sweep recorded it; ``created`` is when."""

    kind: Literal["claims"] = "claims"
    sha256: str
    text: str
    #: Runs of the sweep that had begun by then: where there are any, nothing was stated before the runs.
    begun: int


AnyRow = Annotated[
    TrainRow
    | EvalRow
    | BaselineRow
    | ProfileRow
    | MeasurementRow
    | ThroughputRow
    | BreakdownRow
    | MachineRow
    | HarnessRow
    | ScalingRow
    | FitRow
    | CrossoverRow
    | ErfRow
    | PictureRow
    | DiTRow
    | DenoisingRow
    | ScoreRow
    | TrialRow
    | ClaimsRow,
    Field(discriminator="kind"),
]
_ROW: TypeAdapter[AnyRow] = TypeAdapter(AnyRow)


def append(path: Path, rows: Iterable[Row]) -> None:
    """Append rows to a JSONL file, safe beside other writers; a reader takes each row whole or not at all.

    Raises:
        InputError: if the file cannot be written.
    """
    text = "".join(row.model_dump_json() + "\n" for row in rows)
    with writing("records", path, expected="a writable place", remedy="choose another --out"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":  # a torn line of a killed writer: end it, so that it spoils nothing else
                    text = "\n" + text
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())


def read(path: Path) -> tuple[list[AnyRow], list[str]]:
    """The rows of a JSONL file, and a message for each line that was torn and skipped.

    Raises:
        InputError: for a file that cannot be read, rows of a newer schema, or a whole line that is no record.
    """
    try:
        # Not splitlines(): a message may hold characters, such as U+2028, that it takes for line ends and JSON does not.
        lines = path.read_bytes().decode(errors="replace").split("\n")
    except OSError as e:
        raise InputError("cannot read records", got=f"{path}: {e.strerror}", expected="a JSONL file of records") from e
    rows: list[AnyRow] = []
    torn = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
        except json.JSONDecodeError:
            torn.append(f"{path}:{number}: a torn line ({len(line)} characters) was skipped")
            continue
        version = data.get("schema_version") if isinstance(data, dict) else None
        if isinstance(version, int) and version > SCHEMA:
            raise InputError(
                "records are newer than this wfbench",
                got=f"{path}:{number}: schema {version}",
                expected=f"schema {SCHEMA} or older",
                remedy="upgrade wfbench, or report from records of this version",
            )
        try:
            rows.append(_ROW.validate_python(data, strict=False))
        except ValidationError as e:
            problem = e.errors()[0]
            raise InputError(
                "not a record",
                got=f"{path}:{number}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}",
                expected=f"a row of schema {SCHEMA}",
                remedy="remove the line, or report from other records",
            ) from e
    return rows, torn


def now() -> str:
    """The time, in UTC, as rows carry it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def command_line() -> str:
    """The command that runs now, as a user would type it."""
    program = {"": "python", "__main__.py": "wfbench"}.get(name := Path(sys.argv[0]).name, name)
    return shlex.join([program, *sys.argv[1:]])


def environment(device: str = "cpu") -> Environment:
    """Stamp of this machine, these libraries and this revision, for work on ``device`` ("cpu" or "cuda")."""
    import torch

    cuda = device.startswith("cuda")
    revision, dirty = _git_revision()
    return Environment(
        device=torch.cuda.get_device_name(device) if cuda else _cpu_name(),
        device_type="cuda" if cuda else "cpu",
        threads=torch.get_num_threads(),
        tf32=cuda and (torch.get_float32_matmul_precision() != "highest" or torch.backends.cudnn.allow_tf32),
        platform=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        versions={name: metadata.version(name) for name in _PACKAGES if _installed(name)},
        git_revision=revision,
        git_dirty=dirty,
    )


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _cpu_name() -> str:
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or "unknown CPU"
    model = next((line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")), "CPU")
    return f"{model} ({os.cpu_count()} logical cores)"


def _git_revision() -> tuple[str | None, bool | None]:
    """The revision of the checkout this package runs from; (None, None) for an ordinary install."""
    root = Path(__file__).resolve().parent.parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    top = git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root:
        return None, None
    status = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "HEAD"), None if status is None else bool(status)
