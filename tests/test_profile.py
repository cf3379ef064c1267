"""Profiling: the timing protocol on known work, exponents and crossovers on known curves, failed cells."""

import math
import time

import pytest
import torch

from wfbench.errors import InputError
from wfbench.measure import CountError, crossover, local_exponents, time_interleaved
from wfbench.tasks import profile as task
from wfbench.tasks.profile import ProfileRequest, profile

TINY = ProfileRequest(mixers=("softmax", "static"), resolutions=(32, 64), rounds=3)


def test_a_callable_that_sleeps_is_timed_as_long_as_it_sleeps():
    done = time_interleaved({"a": lambda: time.sleep(0.02), "b": lambda: time.sleep(0.04)}, rounds=4, order_seed=0)
    for key, seconds in (("a", 0.02), ("b", 0.04)):
        assert len(done[key].samples) == 4
        assert min(done[key].samples) >= seconds
        assert sorted(done[key].samples)[1] == pytest.approx(seconds, rel=0.2)


def test_every_cell_is_warmed_before_any_is_timed_and_rounds_are_shuffled_by_the_seed():
    news = []
    cells = {key: (lambda: time.sleep(0.03)) for key in "abcd"}
    time_interleaved(cells, rounds=5, order_seed=7, done=lambda key, stage: news.append((key, stage)))
    assert [stage for _, stage in news[:4]] == ["warm"] * 4
    rounds = ["".join(key for key, stage in news if stage == f"round {k}/5") for k in range(1, 6)]
    assert all(sorted(r) == list("abcd") for r in rounds)
    assert len(set(rounds)) > 1
    again = []
    time_interleaved(cells, rounds=5, order_seed=7, done=lambda key, stage: again.append((key, stage)))
    assert again == news


def test_the_timer_uses_the_threads_it_is_given_and_not_its_default_of_one():
    seen = []
    time_interleaved({"a": lambda: seen.append(torch.get_num_threads())}, rounds=1, order_seed=0, threads=2)
    assert set(seen) == {2}


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


def test_local_exponents_of_a_power_law_are_its_power():
    tokens = [196, 784, 1764, 3136]
    assert local_exponents(tokens, [3e-9 * n**1.7 for n in tokens]) == pytest.approx([1.7] * 3)


@pytest.mark.parametrize(
    ("mixer", "base", "verdict"),
    [([1, 2, 3], [2, 3, 4], "always"), ([2, 3, 4], [1, 2, 3], "none"), ([1, 3, 9], [2, 2, 2], "none")],
)
def test_a_mixer_may_be_faster_everywhere_or_nowhere_at_the_end(mixer, base, verdict):
    assert crossover([196, 784, 1764], mixer, base).verdict == verdict


def test_the_crossover_of_two_power_laws_is_found_where_they_meet():
    tokens = [196, 784, 1764, 3136]
    linear, quadratic = ([1000.0 * n for n in tokens], [1.0 * n * n for n in tokens])
    found = crossover(tokens, linear, quadratic)
    assert found.verdict == "at"
    assert found.tokens == pytest.approx(1000)
    wavering = crossover(tokens, [1, 3, 1, 1], [2, 2, 2, 2])  # faster, slower, then faster for good
    assert 784 < wavering.tokens < 1764


def test_a_profile_has_a_row_for_every_cell_with_its_exponents_and_crossover():
    rows = profile(TINY)
    cells = [r for r in rows if r.kind == "profile"]
    assert [(r.mixer, r.resolution[0]) for r in cells] == [("softmax", 32), ("softmax", 64), ("static", 32), ("static", 64)]
    assert [r.tokens for r in cells] == [4, 16, 4, 16]
    for r in cells:
        assert r.status == "ok"
        assert len(r.samples) == 3
        assert r.p25 <= r.median <= r.p75
        assert r.median == sorted(r.samples)[1]
        assert r.counted_by == ("declared", "flop_counter", "fvcore")
    scaling = {r.mixer: r for r in rows if r.kind == "scaling"}
    expected = math.log(cells[1].median / cells[0].median) / math.log(4)
    assert scaling["softmax"].latency_exponent == pytest.approx(expected)
    assert scaling["softmax"].macs_exponent == pytest.approx(math.log(cells[1].macs / cells[0].macs) / math.log(4))
    assert [r.mixer for r in rows if r.kind == "crossover"] == ["static"]
    assert len({r.session for r in rows}) == 1


def test_a_count_that_is_refused_leaves_a_row_with_the_reason_and_the_latency(monkeypatch):
    def refuse(model, shape, path):
        return None, "the MAC counts disagree: somewhere"

    monkeypatch.setattr(task, "try_count", refuse)
    cells = [r for r in profile(TINY) if r.kind == "profile"]
    assert all(r.macs is None and r.counted_by == () and "disagree" in r.macs_error and r.median for r in cells)


def test_a_cell_that_cannot_be_built_is_a_row(monkeypatch):
    create = task.models.create

    def fails_at_64(name, mixer, resolution, **more):
        if resolution == 64 and mixer == "static" and not more:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return create(name, mixer, resolution, **more)

    monkeypatch.setattr(task.models, "create", fails_at_64)
    rows = {(r.mixer, r.resolution[0]): r for r in profile(TINY) if r.kind == "profile"}
    assert len(rows) == 4
    assert rows["static", 64].status == "oom"
    assert rows["static", 64].median is None
    assert rows["softmax", 64].status == "ok"


def test_a_mixer_without_macs_is_refused_a_number_not_given_zero(tmp_path):
    (tmp_path / "m.py").write_text(SILENT)
    rows = profile(ProfileRequest(mixers=(f"{tmp_path}/m.py:M",), resolutions=(32,), rounds=2))
    assert rows[0].macs is None
    assert "declares no MACs" in rows[0].macs_error
    assert rows[0].median > 0


def test_bad_requests_are_refused_before_anything_is_measured():
    for request in (ProfileRequest(resolutions=(33,)), ProfileRequest(rounds=0), ProfileRequest(resolutions=())):
        with pytest.raises(InputError):
            profile(request)
    assert issubclass(CountError, RuntimeError)


SILENT = """
from torch import nn

class M(nn.Identity):
    def __init__(self, dim):
        super().__init__()

    def forward(self, x, grid):
        return x
"""
