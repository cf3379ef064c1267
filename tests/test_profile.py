"""Profiling: the timing protocol on known work, cells as rows, what a second call measures, and processes of their own."""

import io
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.live import Live

from wfbench import forkserver, models, records
from wfbench.cli.progress import LiveCells
from wfbench.errors import InputError
from wfbench.measure import CountError, roofline, time_interleaved
from wfbench.measure.isolate import Outcome
from wfbench.measure.latency import Sampler
from wfbench.tasks.profile import run, summary
from wfbench.tasks.profile.request import ProfileRequest
from wfbench.tasks.profile.run import profile
from wfbench.tasks.profile.worker import Job

pytestmark = pytest.mark.usefixtures("shallow_vit_tiny")
SHARED = ProfileRequest(mixers=("softmax", "static"), resolutions=(32, 64), rounds=3, isolate=False, attention="auto")
ALONE = replace(SHARED, isolate=True, rounds=2, seconds=0.01)


def test_a_sample_is_the_time_of_its_calls():
    """Held against the callable's own clock: on a busy machine a sleep takes longer than it was told to."""
    slept: list[float] = []

    def sleep() -> None:
        began = time.perf_counter()
        time.sleep(0.1)
        slept.append(time.perf_counter() - began)

    sampler = Sampler(sleep)
    sampler.warm()
    warming = len(slept)
    by_rounds = [sampler.sample() for _ in range(5)]
    assert statistics.median(by_rounds) == pytest.approx(statistics.median(slept[warming:]), rel=0.02)
    assert sampler.call_seconds == pytest.approx(sum(slept), rel=0.1)
    slept.clear()
    by_itself = Sampler(sleep).samples(seconds=0.1, least=5, budget=60)
    assert len(by_itself) >= 5
    assert statistics.median(by_itself) == pytest.approx(statistics.median(slept), rel=0.02)


def test_sampling_ends_with_the_budget_and_says_so_where_there_is_no_sample():
    began = time.perf_counter()
    assert len(Sampler(lambda: time.sleep(0.1)).samples(seconds=60, least=50, budget=1.0)) in range(4, 10)
    assert time.perf_counter() - began < 5
    with pytest.raises(TimeoutError, match=r"warming up took 0\.\d s of a budget of 0\.1 s"):
        Sampler(lambda: time.sleep(0.3)).samples(seconds=1, least=1, budget=0.1)


def test_every_cell_is_warmed_before_any_is_timed_and_rounds_are_shuffled_by_the_seed():
    news = []
    cells = {key: (lambda: time.sleep(0.03)) for key in "abcd"}
    time_interleaved(cells, rounds=3, order_seed=7, done=lambda key, stage: news.append((key, stage)))
    assert [stage for _, stage in news[:4]] == ["warm"] * 4
    rounds = ["".join(key for key, stage in news if stage == f"round {k}/3") for k in range(1, 4)]
    assert all(sorted(r) == list("abcd") for r in rounds)
    assert len(set(rounds)) > 1
    again = []
    time_interleaved(cells, rounds=3, order_seed=7, done=lambda key, stage: again.append((key, stage)))
    assert again == news
    together = []
    done = lambda key, stage: together.append(key)  # noqa: E731
    time_interleaved(cells, rounds=3, order_seed=7, block=lambda key: key in "ab", done=done)
    for k in range(1, 4):
        assert set(together[4 * k : 4 * k + 2]) in ({"a", "b"}, {"c", "d"})


def test_the_timer_uses_the_threads_it_is_given_and_not_its_default_of_one():
    seen = []
    time_interleaved({"a": lambda: seen.append(torch.get_num_threads())}, rounds=1, order_seed=0, threads=2)
    assert set(seen) == {2}


@pytest.mark.parametrize(("seconds", "expected"), [(0.2, 20), (0.05, 5), (0.001, 1)])
def test_a_round_in_this_process_calls_a_cell_for_the_seconds_that_it_is_given(monkeypatch, seconds, expected):
    calls: list[None] = []
    monkeypatch.setattr(Sampler, "warm", lambda self: setattr(self, "_seconds", 0.01))  # what it learns a call to take
    time_interleaved({"a": lambda: calls.append(None)}, rounds=1, order_seed=0, seconds=seconds)
    assert len(calls) == expected


def test_memory_that_runs_out_and_errors_are_outcomes_of_their_cells_only():
    def fails():
        raise ValueError("no such luck")

    def oom():
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9e99 bytes")

    done = time_interleaved({"fails": fails, "oom": oom, "fine": lambda: None}, rounds=2, order_seed=0)
    assert (done["fails"].status, done["oom"].status, done["fine"].status) == ("error", "oom", "ok")
    assert "no such luck" in done["fails"].message
    assert len(done["fine"].samples) == 2


def test_a_cell_that_fails_halfway_keeps_no_samples():
    calls = []

    def fails_later():
        calls.append(0)
        time.sleep(0.06)
        if len(calls) > 4:
            raise ValueError("later")

    done = time_interleaved({"a": fails_later}, rounds=5, order_seed=0)
    assert done["a"].status == "error"
    assert done["a"].samples == []


def test_a_profile_has_a_row_for_every_cell_with_its_exponents_and_crossover(tmp_path):
    rows = profile(SHARED, tmp_path / "records.jsonl")
    cells = [r for r in rows if r.kind == "profile"]
    assert [(r.mixer, r.resolution[0]) for r in cells] == [("softmax", 32), ("softmax", 64), ("static", 32), ("static", 64)]
    assert [r.tokens for r in cells] == [4, 16, 4, 16]
    for r in cells:
        assert r.status == "ok"
        assert len(r.samples) == 3
        assert r.p25 <= r.median <= r.p75
        assert r.median == sorted(r.samples)[1]
        assert r.round_medians == r.samples
        assert r.median_low < r.median < r.median_high
        assert r.bytes_least < r.bytes_moved
        assert r.activations > 0
        assert r.counted_by == ("declared", "flop_counter", "fvcore")
    scaling = {r.mixer: r for r in rows if r.kind == "scaling"}
    expected = math.log(cells[1].median / cells[0].median) / math.log(4)
    assert scaling["softmax"].latency_exponent == pytest.approx(expected)
    assert scaling["softmax"].macs_exponent == pytest.approx(math.log(cells[1].macs / cells[0].macs) / math.log(4))
    assert [r.mixer for r in rows if r.kind == "crossover"] == ["static"]
    assert len({r.session for r in rows}) == 1
    assert list(records.read(tmp_path / "records.jsonl")[0][-len(rows) :]) == rows


def test_a_count_that_is_refused_leaves_a_row_with_the_reason_and_the_latency(monkeypatch, tmp_path):
    def refuse(model, shape, path, **more):
        return None, "the MAC counts disagree: somewhere"

    monkeypatch.setattr(run, "try_count", refuse)
    cells = [r for r in profile(SHARED, tmp_path / "r.jsonl") if r.kind == "profile"]
    assert all(r.macs is None and r.counted_by == () and "disagree" in r.macs_error and r.median for r in cells)


def test_a_cell_that_cannot_be_built_is_a_row(monkeypatch, tmp_path):
    create = models.create

    def fails_at_64(name, mixer, resolution, **more):
        if resolution == 64 and mixer == "static" and not more:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return create(name, mixer, resolution, **more)

    monkeypatch.setattr(models, "create", fails_at_64)
    rows = {(r.mixer, r.resolution[0]): r for r in profile(SHARED, tmp_path / "r.jsonl") if r.kind == "profile"}
    assert len(rows) == 4
    assert rows["static", 64].status == "oom"
    assert rows["static", 64].median is None
    assert rows["softmax", 64].status == "ok"


def test_a_mixer_whose_constructor_raises_has_a_row_that_says_so_and_the_others_are_measured(tmp_path):
    (tmp_path / "m.py").write_text(SILENT.replace("super().__init__()", 'raise ValueError(f"not for {dim} channels")'))
    ours = f"{tmp_path}/m.py:M"
    rows = profile(replace(SHARED, mixers=("static", ours), resolutions=(32,), rounds=1), tmp_path / "r.jsonl")
    found = {r.mixer: (r.status, r.message) for r in rows if r.kind == "profile"}
    assert found == {"static": ("ok", None), ours: ("error", "ValueError: not for 192 channels")}


def test_a_mixer_without_macs_is_counted_and_its_row_says_so(tmp_path):
    (tmp_path / "m.py").write_text(SILENT)
    rows = profile(replace(SHARED, mixers=(f"{tmp_path}/m.py:M",), resolutions=(32,)), tmp_path / "r.jsonl")
    assert rows[0].macs > 0
    assert (rows[0].macs_sure, rows[0].macs_error, rows[0].macs_at_least) == ("counted", None, None)
    assert rows[0].counted_by == ("flop_counter", "fvcore")
    assert rows[0].median > 0


BAD = {
    "a side no patch divides": ({"resolutions": (33,)}, "33"),
    "no rounds": ({"rounds": 0}, "--rounds"),
    "no batch at all": ({"max_batch": 0}, "--max-batch"),
    "no side": ({"resolutions": ()}, "--resolution"),
    "an unknown dtype": ({"dtype": "float8"}, "float8"),
    "an unknown mode": ({"mode": "dream"}, "dream"),
    "a budget of nothing": ({"budget": 0.0}, "--budget"),
    "both batch and tokens": ({"batch": 2, "tokens": 64}, "--tokens decides the batch"),
    "too few tokens for one image": ({"tokens": 15}, "--tokens 15 at 64 px"),
    "patches of the alternatives": ({"resolutions": (48,), "alternatives": True}, "48"),
    "a larger side no patch divides": ({"resolutions": (32, 33)}, "33"),
    "tokens and a side smaller than a patch": ({"resolutions": (8,), "tokens": 100}, "8x8"),
    "compiled models in one process": ({"compile": True}, "--compile needs processes of their own"),
    "throughput in one process": ({"saturate": True}, "--saturate needs processes of their own"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_are_refused_before_anything_is_measured(name, tmp_path):
    changes, word = BAD[name]
    with pytest.raises(InputError, match=word):
        profile(replace(SHARED, **changes), tmp_path / "r.jsonl")
    assert not list(tmp_path.iterdir())
    assert issubclass(CountError, RuntimeError)


def kinds(path, kind):
    return [r for r in records.read(path)[0] if r.kind == kind]


@pytest.mark.slow
def test_a_second_call_measures_only_what_is_missing_and_force_measures_again(tmp_path):
    path = tmp_path / "r.jsonl"
    profile(SHARED, path)
    before = path.read_bytes()
    assert profile(SHARED, path) == []
    assert path.read_bytes() == before

    larger = profile(replace(SHARED, resolutions=(32, 64, 96, 128)), path)
    assert path.read_bytes().startswith(before)
    again = [(r.mixer, r.resolution[0], r.round) for r in kinds(path, "measurement")]
    assert len(again) == len(set(again)) == 2 * 4 * 3
    assert [r.kind for r in larger].count("fit") == 2  # over the old cells and the new ones
    assert {r.session for r in larger} == {r.session for r in kinds(path, "measurement")}

    forced = profile(replace(SHARED, force=True), path)
    assert not {r.session for r in forced} & {r.session for r in larger}
    assert len(kinds(path, "measurement")) == 2 * 4 * 3 + 2 * 2 * 3
    assert profile(SHARED, path) == []  # of the forced session, which is the newest


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"batch": 2}, {"mode": "train"}, {"dtype": "bfloat16"}, {"pos_embed": "sincos"}])
def test_another_setting_is_another_session(changes, tmp_path):
    path = tmp_path / "r.jsonl"
    one = replace(SHARED, mixers=("static",), resolutions=(32,), rounds=1)
    first, second = profile(one, path), profile(replace(one, **changes), path)
    assert first[0].session != second[0].session
    assert second[0].median > 0


def test_a_changed_mixer_file_is_another_session(tmp_path):
    (tmp_path / "m.py").write_text(SILENT)
    request = replace(SHARED, mixers=(f"{tmp_path}/m.py:M",), resolutions=(32,), rounds=1)
    first = profile(request, tmp_path / "r.jsonl")
    (tmp_path / "m.py").write_text(SILENT + "# faster")
    second = profile(request, tmp_path / "r.jsonl")
    assert second
    assert first[0].session != second[0].session


@pytest.mark.slow
def test_constant_tokens_choose_the_batch_and_times_are_by_image(tmp_path):
    rows = profile(replace(SHARED, tokens=70), tmp_path / "r.jsonl")
    cells = [r for r in rows if r.kind == "profile" and r.mixer == "static"]
    assert [(r.resolution[0], r.batch, r.token_budget) for r in cells] == [(32, 17, 70), (64, 4, 70)]
    scaling = next(r for r in rows if r.kind == "scaling" and r.mixer == "static")
    low, high = (r.median / r.batch for r in cells)
    assert scaling.latency_exponent == pytest.approx(math.log(high / low) / math.log(4))
    assert scaling.batch is None


@pytest.mark.slow
def test_the_baseline_is_timed_by_every_backend_and_the_fastest_counts(tmp_path):
    rows = profile(replace(SHARED, attention="best"), tmp_path / "r.jsonl")
    cells = {(r.mixer, r.sdpa_backend, r.resolution[0]): r for r in rows if r.kind == "profile"}
    assert {key[:2] for key in cells} == {("softmax", "flash"), ("softmax", "math"), ("static", "chosen by PyTorch")}
    assert cells["softmax", "math", 64].bytes_moved > cells["softmax", "flash", 64].bytes_moved
    (crossover,) = (r for r in rows if r.kind == "crossover")
    fastest = [min(("flash", "math"), key=lambda b, s=side: cells["softmax", b, s].median) for side in (32, 64)]
    assert list(crossover.baseline_backends) == fastest


@pytest.mark.slow
def test_the_alternatives_are_the_baseline_with_larger_patches_and_fewer_layers(tmp_path):
    rows = profile(replace(SHARED, alternatives=True, rounds=1), tmp_path / "r.jsonl")
    cells = {(r.mixer, r.variant, r.resolution[0]): r for r in rows if r.kind == "profile"}
    plain, patches, layers = (cells["softmax", variant, 64] for variant in ("", "patch 32", "depth 6"))
    assert (plain.tokens, patches.tokens, layers.tokens) == (16, 4, 16)
    assert layers.macs < 0.6 * plain.macs
    assert not [r for r in rows if r.kind == "crossover" and r.variant]


@pytest.mark.slow
def test_a_breakdown_lists_modules_and_operators(tmp_path):
    rows = profile(replace(SHARED, breakdown=True, rounds=1), tmp_path / "r.jsonl")
    by = {(r.mixer, r.resolution[0]): r for r in rows if r.kind == "breakdown"}
    row = by["softmax", 64]
    total = next(r for r in rows if r.kind == "profile" and (r.mixer, r.resolution[0]) == ("softmax", 64)).macs
    assert sum(row.by_operator.values()) == row.by_module[""] == total
    assert row.by_module["blocks.3.mixer"] == 4 * 16 * 192**2 + 2 * 16**2 * 192


def test_two_writers_of_one_round_do_not_count_it_twice(tmp_path):
    path, request = tmp_path / "r.jsonl", replace(SHARED, mixers=("static",), resolutions=(32,))
    (before,) = (r for r in profile(request, path) if r.kind == "profile")
    records.append(path, [r.model_copy(update={"samples": (9.0,)}) for r in kinds(path, "measurement") if r.round == 1])
    (after,) = (r for r in profile(request, path) if r.kind == "profile")
    assert after.samples == (before.samples[0], 9.0, before.samples[2])


@pytest.mark.slow
def test_what_was_measured_and_not_summed_up_is_summed_up_by_the_next_call(tmp_path):
    path = tmp_path / "r.jsonl"
    profile(SHARED, path)
    rows = records.read(path)[0]
    path.write_text("".join(row.model_dump_json() + "\n" for row in rows if row.kind == "measurement"))
    again = profile(SHARED, path)
    assert {row.kind for row in again} == {"profile", "scaling", "crossover", "harness"}
    assert len(kinds(path, "measurement")) == 2 * 2 * 3
    assert profile(SHARED, path) == []


@pytest.mark.slow
def test_another_baseline_needs_no_new_measurement(tmp_path):
    path = tmp_path / "r.jsonl"
    profile(SHARED, path)
    (crossover,) = (r for r in profile(replace(SHARED, baseline="static"), path) if r.kind == "crossover")
    assert (crossover.mixer, crossover.baseline) == ("softmax", "static")
    assert len(kinds(path, "measurement")) == 2 * 2 * 3


@pytest.mark.slow
def test_without_the_baseline_there_are_no_crossovers_and_that_is_said(tmp_path):
    told = []
    rows = profile(replace(SHARED, mixers=("static", "pool"), rounds=1), tmp_path / "r.jsonl", run.Lines(told.append))
    assert not [r for r in rows if r.kind == "crossover"]
    assert "no crossovers: the baseline softmax and another mixer need two sides in common" in told


@pytest.mark.slow
def test_bytes_are_those_of_the_dtype_that_is_timed(tmp_path):
    one = replace(SHARED, mixers=("static",), resolutions=(64,), rounds=1)
    full, half, train, mixed = (
        profile(replace(one, **changes), tmp_path / "r.jsonl")[0]
        for changes in ({}, {"dtype": "bfloat16"}, {"mode": "train"}, {"mode": "train", "dtype": "bfloat16"})
    )
    assert half.bytes_least == full.bytes_least / 2
    assert half.bytes_moved == pytest.approx(full.bytes_moved / 2, rel=1e-3)  # some sums stay in float32
    assert half.macs == full.macs
    assert train.bytes_alive > 3 * full.bytes_alive
    assert (mixed.bytes_alive, mixed.bytes_moved, mixed.dtype) == (None, None, "bfloat16 autocast")


def test_two_files_have_sessions_of_their_own(tmp_path):
    one = replace(SHARED, mixers=("static",), resolutions=(32,), rounds=1)
    first, second = (profile(one, tmp_path / name)[0].session for name in ("a.jsonl", "b.jsonl"))
    assert first != second
    assert first.split("-")[0] == second.split("-")[0]


def test_the_table_on_a_terminal_fills_in():
    screen = io.StringIO()
    with Live(console=Console(file=screen, force_terminal=True, width=100), auto_refresh=False) as live:
        watch = LiveCells(live)
        cells = SHARED.cells()
        watch.begin(cells)
        watch.cell(cells[1], {"GMACs": "0.09", "rounds": "2/3", "latency": "12.5 ms"})
        watch.line("static at 32 px: warm")
        live.refresh()
    shown = screen.getvalue()
    for words in ("softmax at 32 px", "static at 64 px", "12.5 ms", "2/3", "static at 32 px: warm"):
        assert words in shown


# --- isolated cells, their processes replaced by calls where only the logic is tried


@pytest.fixture
def in_process(monkeypatch):
    """Isolated jobs without the processes; the list of what was run."""
    jobs = []

    def run_here(module, payload, *, timeout, environment=None, fork=True):
        assert module == "wfbench.tasks.profile.worker"
        job = Job.of(json.loads(json.dumps(payload)))
        jobs.append((job.stage, job.cell.mixer, job.cell.resolution))
        return Outcome("ok", None, json.loads(json.dumps(job.run())), 1.0, "fresh")

    monkeypatch.setattr(run, "run_isolated", run_here)
    return jobs


@pytest.mark.slow
def test_isolated_rounds_run_every_cell_once_in_another_order_each_time(in_process, tmp_path):
    rows = profile(replace(ALONE, memory=False, resolutions=(32, 64), rounds=3), tmp_path / "r.jsonl")
    assert in_process[0][0] == "machine"
    rounds = [in_process[1 + 4 * k : 5 + 4 * k] for k in range(3)]
    assert all(len(set(cells)) == 4 for cells in rounds)
    assert len({tuple(cells) for cells in rounds}) > 1
    cell = next(r for r in rows if r.kind == "profile")
    assert len(cell.round_medians) == 3
    assert len(cell.samples) >= 3
    assert cell.bound_by in ("compute", "memory")
    assert 0 < cell.bound_seconds < cell.median
    (harness,) = (r for r in rows if r.kind == "harness")
    assert harness.processes == 12
    assert 0 < harness.fixed_seconds < 1


@pytest.mark.slow
def test_memory_and_throughput_are_measured_once_for_each_cell(in_process, tmp_path):
    request = replace(ALONE, mixers=("static",), saturate=True, rounds=1, max_batch=3)
    rows = profile(request, tmp_path / "r.jsonl")
    assert sorted(stage for stage, *_ in in_process) == ["latency"] * 2 + ["machine"] + ["memory"] * 2 + ["throughput"] * 2
    for row in (r for r in rows if r.kind == "throughput"):
        assert (row.batches, row.stopped_by) == ((1, 2), "limit")
        assert [len(rates) for rates in (*row.rate_rounds, *row.alone_rounds)] == [8] * 4
        assert row.images_per_second == pytest.approx([statistics.geometric_mean(rates) for rates in row.rate_rounds])
    for row in kinds(tmp_path / "r.jsonl", "measurement"):
        if row.stage == "throughput":
            assert [len(seconds) for seconds in row.before_rounds] == [0, 8]
    assert profile(request, tmp_path / "r.jsonl") == []


@pytest.mark.slow
def test_memory_beside_latency_in_one_process_has_processes_of_its_own(in_process, tmp_path):
    request = replace(SHARED, memory=True)
    rows = profile(request, tmp_path / "r.jsonl")
    assert sorted(in_process) == [("memory", mixer, side) for mixer in ("softmax", "static") for side in (32, 64)]
    cells = [r for r in rows if r.kind == "profile"]
    assert [(r.protocol, r.status, r.memory_status, len(r.round_medians)) for r in cells] == [
        ("interleaved-v1", "ok", "ok", 3)
    ] * 4
    assert all(r.memory_bytes > 0 for r in cells)
    budgets = {(r.stage, r.budget) for r in kinds(tmp_path / "r.jsonl", "measurement")}
    assert budgets == {("latency", None), ("memory", request.budget)}
    (harness,) = (r for r in rows if r.kind == "harness")
    assert harness.processes == 4
    assert profile(request, tmp_path / "r.jsonl") == []
    assert profile(replace(request, memory=None), tmp_path / "r.jsonl") == [], "it is asked for less"
    in_process.clear()
    assert [r.memory_status for r in profile(SHARED, tmp_path / "other.jsonl") if r.kind == "profile"] == ["not measured"] * 4
    assert in_process == []


@pytest.mark.slow
def test_a_cell_whose_memory_runs_out_is_a_row_and_the_others_go_on(in_process, tmp_path, monkeypatch):
    def work(self):
        if self.cell.mixer == "softmax":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 96.00 GiB")
        return {"bytes": {"peak": 1e9, "baseline": 0.0}}

    monkeypatch.setattr(Job, "_memory", work)
    rows = profile(replace(SHARED, memory=True), tmp_path / "r.jsonl")
    found = [(r.mixer, r.status, r.memory_status, r.memory_bytes) for r in rows if r.kind == "profile"]
    assert found == [("softmax", "ok", "oom", None)] * 2 + [("static", "ok", "ok", 1e9)] * 2


@pytest.mark.slow
def test_a_throughput_that_ended_for_want_of_time_or_at_the_limit_is_measured_again_with_more(in_process, tmp_path):
    request = replace(ALONE, mixers=("static",), resolutions=(32,), saturate=True, rounds=1, max_batch=1)
    (row,) = (r for r in profile(request, tmp_path / "r.jsonl") if r.kind == "throughput")
    assert (row.batches, row.stopped_by, row.speedup, row.speedup_low) == ((1,), "limit", 1.0, None)
    (row,) = (r for r in profile(replace(request, max_batch=2), tmp_path / "r.jsonl") if r.kind == "throughput")
    assert row.batches == (1, 2)
    path = tmp_path / "r.jsonl"
    path.write_text(path.read_text().replace('"stopped_by":"limit"', '"stopped_by":"time"'))
    assert profile(replace(request, max_batch=2), path) == []
    assert profile(replace(request, max_batch=2, budget=240.0), path)
    assert [stage for stage, *_ in in_process].count("throughput") == 3


def measurement(samples=(), **fields):
    shared = {
        "environment": records.stamp("cpu"),
        "session": "s",
        "model": "vit-tiny",
        "mixer": "static",
        "resolution": (32, 32),
    }
    shared |= {"tokens": 4, "batch": 1, "mode": "infer", "dtype": "float32", "sdpa_backend": "flash", "path": "auto"}
    shared |= {"protocol": "isolated-v1", "status": "ok", "wall_seconds": 1.0, "call_seconds": 1.0}
    return records.MeasurementRow(**{**shared, "stage": "latency", "samples": samples, **fields})


def test_the_spread_beside_a_median_is_that_of_the_same_sample():
    """Two quiet rounds of many samples and a noisy one: pooled quartiles would not even hold the median of the medians."""
    rounds = [(0.0206,) * 3, (0.020,) * 3, *[(0.0210, 0.030, 0.035)] * 1]
    rows = [measurement(samples, round=number) for number, samples in zip((0, 2, 5), rounds, strict=True)]
    found = summary.timing(rows)
    assert found["round_medians"] == (0.0206, 0.020, 0.030)
    assert found["round_numbers"] == (0, 2, 5)  # a round that is missing does not move the others
    assert (found["median"], found["p25"], found["p75"]) == pytest.approx((0.0206, 0.0203, 0.0253))
    assert len(found["samples"]) == 9


def test_rounds_are_paired_by_their_numbers_and_old_rows_count_from_zero(tmp_path):
    (row,) = (r for r in profile(replace(SHARED, mixers=("static",), resolutions=(32,)), tmp_path / "r.jsonl")[:1])
    assert row.round_numbers == (0, 1, 2)
    assert row.by_round == dict(enumerate(row.round_medians))
    moved = row.model_copy(update={"round_numbers": (0, 2, 5)})
    assert list(moved.by_round) == [0, 2, 5]
    old = row.model_copy(update={"round_numbers": (), "schema_version": 5, "samples": (*row.samples, 9.0)})
    assert old.by_round == row.by_round
    assert old.spread == (min(row.round_medians), max(row.round_medians))
    oldest = old.model_copy(update={"round_medians": (), "samples": (3.0, 1.0, 2.0)})
    assert (oldest.by_round, oldest.spread) == ({}, (1.0, 3.0))


def test_throughput_is_summed_up_by_round_and_its_speed_up_does_not_see_a_slow_machine():
    """While batch 4 was timed the machine was twice as slow: its rate is lower than batch 2's, its speed-up is higher."""
    slow = [1.0, 2.0, 1.0, 1.5, 1.0]  # what each round does to all batches in it
    row = measurement(
        stage="throughput",
        batches=(1, 2, 4),
        batch_rounds=(slow, [1.25 * s for s in slow], [2 * 2.0 * s for s in slow]),
        alone_rounds=(slow, slow, [2 * s for s in slow]),
        before_rounds=((), slow, [2 * 1.25 * s for s in slow]),
        stopped_by="time",
    )
    found = summary.throughput(row)
    assert found.images_per_second[2] < found.images_per_second[1]
    assert (found.saturating_batch, found.stopped_by) == (4, "time")
    assert found.speedup == pytest.approx(2.0)
    assert (found.speedup_low, found.speedup_high) == pytest.approx((2.0, 2.0))  # what a round does to both is not in it
    assert found.alone_low < found.alone < found.alone_high
    assert found.saturated_low < found.images_per_second[2] < found.saturated_high
    assert found.images_per_second[2] / found.alone == pytest.approx(found.speedup)
    failed = summary.throughput(measurement(stage="throughput", status="oom", message="no room"))
    assert (failed.status, failed.saturating_batch, failed.speedup) == ("oom", None, None)


def test_a_backend_far_behind_in_its_first_round_is_not_timed_again_and_its_row_says_why(monkeypatch, tmp_path):
    def timed(module, payload, *, timeout, environment=None, fork=True):
        job = Job.of(payload)
        seconds = 0.031 if job.cell.backend == "math" else 0.01
        return Outcome(
            "ok", None, {"status": "ok", "message": None, "samples": [seconds], "call_seconds": seconds}, 1.0, "fresh"
        )

    monkeypatch.setattr(run, "run_isolated", timed)
    monkeypatch.setattr(run._Run, "_machine_rates", lambda self: None)
    request = replace(ALONE, mixers=("softmax",), resolutions=(32,), attention="best", memory=False, rounds=4)
    rows = {r.sdpa_backend: r for r in profile(request, tmp_path / "r.jsonl") if r.kind == "profile"}
    assert (rows["flash"].round_numbers, rows["flash"].rounds_reason) == ((0, 1, 2, 3), "")
    assert (rows["math"].round_numbers, rows["math"].median_low) == ((0,), None)
    assert "math took 3.1 times as long as the fastest in its first round" in rows["math"].rounds_reason


@pytest.mark.slow
def test_cells_of_one_side_are_timed_one_after_the_other_in_an_order_of_each_round(in_process, tmp_path):
    profile(replace(ALONE, memory=False, mixers=("softmax", "static", "pool"), rounds=4), tmp_path / "r.jsonl")
    rounds = [in_process[1 + 6 * k : 7 + 6 * k] for k in range(4)]
    sides = [[side for _, _, side in cells] for cells in rounds]
    assert all(len(set(s[:3])) == len(set(s[3:])) == 1 for s in sides)
    assert {s[0] for s in sides} == {32, 64}  # blocks change places
    assert len({tuple(mixer for _, mixer, _ in cells[:3]) for cells in rounds}) > 1  # and so do the cells within


@pytest.mark.slow
def test_a_cell_that_ran_out_of_time_is_tried_again_with_more(monkeypatch, tmp_path):
    def slow(module, payload, *, timeout, environment=None, fork=True):
        job = Job.of(payload)
        return (
            Outcome("ok", None, job.run(), 1.0, "fresh")
            if job.budget > 60
            else Outcome("timeout", "too slow", {}, 1.0, "fresh")
        )

    monkeypatch.setattr(run, "run_isolated", slow)
    request = replace(ALONE, mixers=("static",), resolutions=(32,), memory=False, budget=30.0)
    assert profile(request, tmp_path / "r.jsonl")[0].status == "timeout"
    assert profile(replace(request, budget=20.0), tmp_path / "r.jsonl") == []
    again = profile(replace(request, budget=90.0), tmp_path / "r.jsonl")[0]
    assert (again.status, len(again.round_medians)) == ("ok", 2)


@pytest.mark.slow
@pytest.mark.parametrize("status", ["error", "oom", "timeout"])
def test_a_process_that_ends_badly_is_a_row_and_is_not_tried_again(status, monkeypatch, tmp_path):
    tried = []

    def ends_badly(module, payload, *, timeout, environment=None, fork=True):
        job = Job.of(payload)
        tried.append((job.stage, job.cell.resolution))
        if job.cell.resolution == 64:
            return Outcome(status, "as bad as can be", {}, 1.0, "fresh")
        return Outcome("ok", None, job.run(), 1.0, "fresh")

    monkeypatch.setattr(run, "run_isolated", ends_badly)
    rows = profile(replace(ALONE, mixers=("static",), memory=False), tmp_path / "r.jsonl")
    cells = {r.resolution[0]: r for r in rows if r.kind == "profile"}
    assert (cells[64].status, cells[64].message, cells[64].median) == (status, "as bad as can be", None)
    assert cells[64].macs > 0
    assert cells[32].status == "ok"
    assert tried.count(("latency", 64)) == 1
    assert profile(replace(ALONE, mixers=("static",), memory=False), tmp_path / "r.jsonl") == []


@pytest.mark.slow
def test_a_round_is_recorded_before_the_next_begins(in_process, monkeypatch, tmp_path):
    path = tmp_path / "r.jsonl"
    run_here = run.run_isolated

    def dies_at_the_fourth(*args, **more):
        if len(in_process) == 4:
            raise KeyboardInterrupt
        return run_here(*args, **more)

    request = replace(ALONE, memory=False)
    monkeypatch.setattr(run, "run_isolated", dies_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        profile(request, path)
    assert len(kinds(path, "measurement")) == 3
    with path.open("ab") as file:
        file.write(b'{"kind": "measurement", "torn')
    monkeypatch.setattr(run, "run_isolated", run_here)
    told = []
    rows = profile(request, path, run.Lines(told.append))
    assert any("torn line" in line for line in told)
    assert len(kinds(path, "measurement")) == 2 * 2 * 2
    assert all(len(r.round_medians) == 2 for r in rows if r.kind == "profile")


WORKER = """
import os, sys, threading, time
from wfbench.measure.isolate import serve

def work(payload):
    if payload == "linger":
        threading.Thread(target=time.sleep, args=(60,)).start()
    if payload == "sleep":
        time.sleep(60)
    if payload == "die":
        os.kill(os.getpid(), 9)
    if payload == "raise":
        raise ValueError("out of " + "luck")
    print("noise on stdout")
    return {"got": payload, "set": os.environ.get("SOME_VARIABLE")}

def main():
    serve(work)

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def own_process(tmp_path, monkeypatch):
    (tmp_path / "some_worker.py").write_text(WORKER)
    monkeypatch.syspath_prepend(str(tmp_path))
    return lambda payload, timeout=300.0: run.run_isolated(
        "some_worker", payload, timeout=timeout, environment={"SOME_VARIABLE": "yes"}
    )


def test_a_process_of_its_own_answers_or_dies(own_process):
    assert own_process([1, 2]).result == {"got": [1, 2], "set": "yes"}
    assert ((died := own_process("die")).status, "signal 9" in died.message) == ("oom", True)


@pytest.mark.slow
def test_a_process_of_its_own_fails_or_takes_too_long(own_process):
    raised = own_process("raise")
    assert raised.status == "error"
    assert "ValueError: out of luck" in raised.message
    began = time.perf_counter()
    assert own_process("sleep", timeout=1.0).status == "timeout"
    assert time.perf_counter() - began < 20


@pytest.mark.slow
def test_work_that_is_done_counts_though_its_process_does_not_end(tmp_path, monkeypatch):
    (tmp_path / "some_worker.py").write_text(WORKER)
    monkeypatch.syspath_prepend(str(tmp_path))
    done = run.run_isolated("some_worker", "linger", timeout=15.0)
    assert (done.status, done.result["got"]) == ("ok", "linger")
    assert 15 <= done.wall_seconds < 50


PARENT = """
import sys
from wfbench.measure.isolate import run_isolated
run_isolated("some_worker", "sleep", timeout=300)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have no signal for a parent's death")
def test_a_worker_ends_with_its_parent_however_that_ends(tmp_path):
    (tmp_path / "some_worker.py").write_text(
        WORKER.replace('payload == "sleep":', 'payload == "sleep":\n        open("here", "w").write(str(os.getpid()))')
    )
    place = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    parent = subprocess.Popen([sys.executable, "-W", "ignore", "-c", PARENT], cwd=tmp_path, env=place)
    here = tmp_path / "here"
    while not (here.exists() and here.read_text()):
        assert parent.poll() is None
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    for _ in range(100):
        if (
            not (Path("/proc") / here.read_text() / "stat").exists()
            or ") Z " in (Path("/proc") / here.read_text() / "stat").read_text()
        ):
            return
        time.sleep(0.05)
    pytest.fail("the worker lives on")


MEMORY = """
import torch
from wfbench.measure.isolate import serve
from wfbench.measure.memory import peak_memory

def work(payload):
    junk = [torch.ones(payload["before"] * 2**18) for _ in range(3)]
    small = [bytearray(1000) for _ in range(payload["before"] * 1000)]
    del junk, small
    weight = lambda: torch.ones(payload["mega"] * 2**18)
    def build():
        held = weight()
        return lambda: held * 2
    return peak_memory(build)

def main():
    serve(work)

if __name__ == "__main__":
    main()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the CPU's peak memory is read from /proc")
@pytest.mark.parametrize(
    ("mega", "before"), [(64, 200), *(pytest.param(*case, marks=pytest.mark.slow) for case in [(64, 0), (256, 100)])]
)
def test_memory_of_a_known_buffer_whatever_ran_before(mega, before, tmp_path, monkeypatch):
    (tmp_path / "memory_worker.py").write_text(MEMORY)
    monkeypatch.syspath_prepend(str(tmp_path))
    done = run.run_isolated("memory_worker", {"mega": mega, "before": before}, timeout=300, environment=run.EXACT_MEMORY)
    assert done.status == "ok", done.message
    assert done.result["peak"] == pytest.approx(2 * mega * 2**20, rel=0.05)
    assert done.result["baseline"] > 50e6


@pytest.mark.slow
def test_a_profile_killed_in_the_middle_loses_nothing_and_is_completed_by_the_same_call(tmp_path):
    command = [sys.executable, "-W", "ignore", "-m", "wfbench", "profile", "--mixer", "static", "--mixer", "pool"]
    command += ["--resolution", "32", "--resolution", "64", "--rounds", "2", "--seconds", "0.1", "--out", str(tmp_path)]
    path = tmp_path / "records.jsonl"
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    while not path.exists() or path.read_bytes().count(b'"measurement"') < 3:
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = path.read_bytes()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert path.read_bytes().startswith(before)
    rows = records.read(path)[0]
    latency = [summary.key_of(r) + (r.round,) for r in rows if r.kind == "measurement" and r.stage == "latency"]
    assert len(latency) == len(set(latency)) == 2 * 2 * 2
    cells = [r for r in rows if r.kind == "profile"]
    assert [r.status for r in cells] == ["ok"] * 4
    assert all(r.memory_bytes > 4 * r.parameters for r in cells)
    assert (tmp_path / "profile.md").exists()


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--compile"], ["--mode", "train", "--channels-last"]])
def test_compiled_and_training_cells_run_in_processes_of_their_own(options, tmp_path):
    command = [sys.executable, "-W", "ignore", "-m", "wfbench", "profile", "--mixer", "weightformer", "--resolution", "64"]
    command += ["--rounds", "1", "--seconds", "0.1", "--out", str(tmp_path), *options]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (row,) = kinds(tmp_path / "records.jsonl", "profile")
    assert (row.status, row.message) == ("ok", None)
    origins = {r.stage: r.origin for r in kinds(tmp_path / "records.jsonl", "measurement")}
    assert origins == {"latency": "fork" if forkserver.is_possible() else "fresh", "memory": "fresh"}
    (harness,) = kinds(tmp_path / "records.jsonl", "harness")
    assert (harness.processes, harness.forks) == (2, int(forkserver.is_possible()))
    assert row.protocol == ("forked-v1" if forkserver.is_possible() else "isolated-v1")
    assert row.compiled == ("--compile" in options)
    assert row.dtype == "float32"
    assert row.memory_status == ("error" if row.compiled else "ok")


def test_training_is_measured_with_a_whole_step():
    cell = replace(SHARED, mode="train", mixers=("static",)).cells()[0]
    step = cell.call()
    first = [step().item() for _ in range(3)]
    assert len(set(first)) == 3  # the optimiser moved the weights
    assert torch.is_grad_enabled()


SILENT = """
from torch import nn

class M(nn.Identity):
    def __init__(self, dim):
        super().__init__()

    def forward(self, x, grid):
        return x
"""


def test_a_product_that_would_take_minutes_is_not_tried_for_the_machine_s_rates(monkeypatch):
    """A CPU without instructions for bfloat16 took 158 s for three sizes."""
    rate, tried = 1e9, []

    def fastest(call, device):
        out = call.__defaults__[2] if call.__defaults__ else None  # of a product; a copy has none
        if out is None:
            return 0.1
        tried.append(len(out))
        return 2 * len(out) ** 3 / rate

    monkeypatch.setattr(roofline, "_fastest", fastest)
    assert roofline.measure_rates(torch.float32).gemm_size == 512
    assert tried == [512]
    rate, tried = 1e12, []
    roofline.measure_rates(torch.float32)
    assert tried == [512, 1024, 2048]
