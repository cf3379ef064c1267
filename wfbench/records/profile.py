"""Rows of a profile: measurements of cells, cells, and what is computed from the cells of a session."""

from __future__ import annotations

from typing import Literal

from wfbench.records.row import ModelRow, Row

#: The protocols of `wfbench.measure.latency`, as rows name them.
ISOLATED, FORKED, INTERLEAVED = "isolated-v1", "forked-v1", "interleaved-v1"
#: What ended the doubling of the batch.
StoppedBy = Literal["gain", "memory", "time", "limit"]


class CellRow(ModelRow):
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
    #: Of a recipe of dense prediction, what makes pixels of tokens.
    decoder: str | None = None


class ProfileRow(CellRow):
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
    #: How sure the MACs are: "proved" where two counters and the declared closed form agree, "counted" where nothing is
    #: declared and the two counters do, "at least" where an operator is unknown. None in older rows: proved, as all were.
    macs_sure: Literal["proved", "counted", "at least"] | None = None
    #: Where they are "at least": the MACs of the operators that are known. Then macs is None, and macs_error names the others.
    macs_at_least: float | None = None
    #: Where an operator's elementwise work is unknown: that of the others. ``elementwise`` is None then.
    elementwise_at_least: float | None = None
    #: Raw timing samples, in seconds per call on the whole batch, round after round.
    samples: tuple[float, ...] = ()
    #: The median of each round's samples; of two cells of a session, those of one round were taken soon after one another.
    round_medians: tuple[float, ...] = ()
    #: The round, from 0, that each of ``round_medians`` is of; rows before schema 6 have none (`by_round` counts from 0).
    round_numbers: tuple[int, ...] = ()
    #: Why there are fewer rounds than were asked for, as of a forced attention backend that was far behind another in its
    #: first round: with fewer than three rounds there is no interval. Empty where nothing is missing.
    rounds_reason: str = ""
    #: The median of ``round_medians`` (of ``samples``, in rows that have none), and its 95% interval over rounds.
    median: float | None = None
    median_low: float | None = None
    median_high: float | None = None
    #: Percentiles of the sample whose median is ``median``, interpolated: of few rounds say ``spread`` instead. In rows
    #: before schema 6 they are of all raw samples, and do not belong to the median.
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

    @property
    def by_round(self) -> dict[int, float]:
        """The median of each round by its number, to be paired with another cell's of the same session."""
        return dict(zip(self.round_numbers or range(len(self.round_medians)), self.round_medians, strict=True))

    @property
    def spread(self) -> tuple[float, float] | None:
        """The smallest and the largest of the sample whose median is reported, in seconds; None without one."""
        sample = self.round_medians or self.samples
        return (min(sample), max(sample)) if sample else None


class MeasurementRow(CellRow):
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
    #: Seconds per call on the whole batch; of the throughput stage, one figure per batch tried: the geometric mean over its
    #: rounds, before schema 6 a median.
    samples: tuple[float, ...] = ()
    #: The batches that the throughput stage tried.
    batches: tuple[int, ...] = ()
    #: Of the throughput stage, for each batch: seconds per call by round, and in the same rounds those of a batch of one and
    #: of half the batch (of batch 1, none).
    batch_rounds: tuple[tuple[float, ...], ...] = ()
    alone_rounds: tuple[tuple[float, ...], ...] = ()
    before_rounds: tuple[tuple[float, ...], ...] = ()
    #: Why the throughput stage tried no larger batch; see `ThroughputRow`.
    stopped_by: StoppedBy | None = None
    #: Of the memory stage: "peak", "baseline", on CUDA "reserved".
    bytes: dict[str, float] = {}
    #: How its process came to be: a fork of a server that had imported everything and computed nothing, or a fresh Python. None
    #: without a process of its own, and in rows before there were forks.
    origin: Literal["fork", "fresh"] | None = None
    #: How many of the cores that its threads may use were busy with other work meanwhile, on average; None where the system
    #: does not tell, and in rows before it was looked at.
    missing_cores: float | None = None
    #: Whether that was more than `wfbench.measure.load.CROWDED`: it was measured again, once more at most, in another block.
    crowded: bool = False
    #: Wall seconds of the measurement, start-up of its process counted, and those within calls of the model.
    wall_seconds: float
    call_seconds: float


class ThroughputRow(CellRow):
    """Images per second by batch, doubled until more images surely gain less than ``gain``, or time or memory ran out.

    Rates are geometric means over rounds, intervals are 95% and over rounds (Student's t on logarithms), so that ``speedup``
    is the rate at the saturating batch divided by ``alone``. Rows before schema 6 have no rounds and no intervals.
    """

    kind: Literal["throughput"] = "throughput"
    status: Literal["ok", "oom", "error", "timeout"]
    message: str | None = None
    batches: tuple[int, ...] = ()
    images_per_second: tuple[float, ...] = ()
    #: Of each batch: images per second by round, and those of a batch of one in the same rounds.
    rate_rounds: tuple[tuple[float, ...], ...] = ()
    alone_rounds: tuple[tuple[float, ...], ...] = ()
    #: The smallest batch whose speed-up over a batch of one is within ``gain`` of the best (before schema 6: whose rate is).
    saturating_batch: int | None = None
    gain: float = 0.05
    #: Interval of the rate at the saturating batch; None with fewer than three rounds, as for the two below.
    saturated_low: float | None = None
    saturated_high: float | None = None
    #: The rate of a batch of one in the rounds of the saturating batch.
    alone: float | None = None
    alone_low: float | None = None
    alone_high: float | None = None
    #: The saturating batch's rate over that of a batch of one, paired by round; 1 without an interval where it is one image.
    speedup: float | None = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    #: "gain": two doublings in a row surely gained less than ``gain``. Else a larger batch may be faster: there was no memory
    #: or no time for it, or it was beyond the limit. None in rows before schema 6.
    stopped_by: StoppedBy | None = None


class BreakdownRow(CellRow):
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
    #: The mixer that speed-ups and crossovers are held against, from this call on.
    baseline: str = "softmax"
    #: How well speed-ups were to be known, relative (`--precision`); None where nobody asked, and in older rows.
    precision: float | None = None
    #: Of the timing: wall seconds, and those within calls of the models, warm-up counted.
    wall_seconds: float
    call_seconds: float
    #: Of the counting of MACs.
    count_seconds: float
    #: Processes that were started, and the median seconds of each outside calls of its model; isolated cells only.
    processes: int
    fixed_seconds: float | None
    #: How many of the processes were forks of a server that had imported everything; the others were fresh.
    forks: int = 0
    #: The machine's load average over the last minute, at the beginning and the end.
    load: tuple[float, float]


class FromProfile(ModelRow):
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


class ScalingRow(FromProfile):
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


class FitRow(FromProfile):
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


class CrossoverRow(FromProfile):
    """The image side from which a mixer is faster than the baseline, in one profile."""

    kind: Literal["crossover"] = "crossover"
    #: A mixer too, with the same factors.
    baseline: str
    #: The baseline's attention backend at each side, the fastest of those that were timed.
    baseline_backends: tuple[str, ...] = ()
    #: "at": between two measured sides, interpolated; "always": faster at every side; "none": at none up to the last.
    verdict: Literal["at", "always", "none"]
    side: float | None
    #: Whether there is a 95% interval of the side, [side_low, side_high]; it takes four sides.
    interval: bool = False
    #: By which definition it was computed; None: there is none, or the row is older than this field. With "surely slower to
    #: surely faster", ``side_low`` is the last side at which the mixer is surely slower, and ``side_high`` that from which
    #: it is surely faster at every later one; None: there is no such side among those measured. With "not told apart", as
    #: in older rows, they are the first and the last side at which the two cannot be told apart, None where that is the
    #: smallest or the largest: below ``side_low`` the mixer may be faster.
    interval_method: Literal["not told apart", "surely slower to surely faster"] | None = None
    side_low: float | None = None
    side_high: float | None = None
    smallest_side: int
    largest_side: int
