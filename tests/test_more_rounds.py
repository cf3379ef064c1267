"""Rounds where they are needed, and rounds that other work disturbed; what is measured is made up."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

import numpy as np
import pytest

from wfbench import records, report
from wfbench.errors import InputError
from wfbench.measure import load as measured_load
from wfbench.measure.isolate import Outcome
from wfbench.measure.load import Load, LoadMeter
from wfbench.measure.rounds import paired_ratio
from wfbench.records import MeasurementRow
from wfbench.tasks.profile import run as profile_run
from wfbench.tasks.profile.request import ProfileRequest

#: ln of the deviation of a cell's time from round to round.
pytestmark = pytest.mark.usefixtures("shallow_vit_tiny")
NOISE = {"softmax": 0.0, "linear": 0.01, "xca": 0.3}


@dataclass
class MadeUp:
    """Stands in for processes: times with noise of each mixer; some measurements are crowded, some fail."""

    crowded: set[tuple[str, int]] = field(default_factory=set)
    failing: set[tuple[str, int]] = field(default_factory=set)
    calls: list[tuple[str, int]] = field(default_factory=list)
    clock: float = 0.0

    def __call__(self, module, payload, **options):
        self.clock += 60.0
        if payload["stage"] != "latency":
            return Outcome("error", "not here", {}, 0.0, "fresh")
        mixer, side = payload["cell"]["mixer"], payload["cell"]["resolution"]
        key = mixer, side, sum(call == (mixer, side) for call in self.calls)
        self.calls.append((mixer, side))
        if (mixer, key[2]) in self.failing:
            return Outcome("timeout", "too slow", {}, 1.0, "fork")
        draw = np.random.default_rng(abs(hash(key[1:])) % 2**32 + len(mixer)).normal()
        crowded = (mixer, key[2]) in self.crowded
        seconds = 0.01 * float(np.exp(NOISE[mixer] * draw)) * (2 if crowded else 1)
        found = {"samples": [seconds] * 3, "call_seconds": 0.1, "missing_cores": float(crowded), "crowded": crowded}
        return Outcome("ok", None, {"status": "ok", "message": None, **found}, 1.0, "fork")


@pytest.fixture
def made_up(monkeypatch) -> MadeUp:
    found = MadeUp()
    monkeypatch.setattr(profile_run, "run_isolated", found)
    monkeypatch.setattr(profile_run.time, "monotonic", lambda: found.clock)
    return found


def request(**changes) -> ProfileRequest:
    fields = {
        "mixers": ("softmax", "linear", "xca"),
        "resolutions": (32, 64),
        "attention": "auto",
        "memory": False,
        "rounds": 4,
    }
    return ProfileRequest(**(fields | changes))


def latencies(journal) -> dict[tuple[str, int], dict[int, float]]:
    found: dict[tuple[str, int], dict[int, float]] = {}
    for row in records.read(journal)[0]:
        if isinstance(row, MeasurementRow) and row.stage == "latency":
            found.setdefault((row.mixer, row.resolution[0]), {})[row.round] = statistics.median(row.samples)
    return found


def half_width(found, mixer, side) -> float:
    ours, theirs = found[mixer, side], found["softmax", side]
    common = sorted(ours.keys() & theirs.keys())
    return paired_ratio([ours[k] for k in common], [theirs[k] for k in common]).relative_half_width


@pytest.mark.slow
def test_cells_that_are_known_less_well_get_more_rounds_beside_the_baseline_and_no_other_does(made_up, tmp_path):
    journal = tmp_path / "records.jsonl"
    profile_run.profile(request(precision=0.2, more_minutes=1000), journal)
    found = latencies(journal)
    for side in (32, 64):
        assert len(found["linear", side]) == 4
        assert len(found["xca", side]) > 4
        assert found["softmax", side].keys() == found["xca", side].keys()
        assert half_width(found, "xca", side) <= 0.2
    assert profile_run.profile(request(precision=0.2), journal) == []
    plain = tmp_path / "plain.jsonl"
    profile_run.profile(request(), plain)
    assert half_width(latencies(plain), "xca", 32) > 0.2, "without more rounds it would not be known as well"
    profile_run.profile(request(precision=0.2, more_minutes=1000), plain)
    assert half_width(latencies(plain), "xca", 32) <= 0.2, "asked for later, it is gone on with"


@pytest.mark.slow
def test_when_time_is_over_what_is_not_known_as_well_is_said(made_up, tmp_path):
    lines: list[str] = []
    profile_run.profile(request(precision=0.001, more_minutes=20), tmp_path / "records.jsonl", profile_run.Lines(lines.append))
    [said] = [line for line in lines if "are over" in line]
    assert "20 minutes" in said
    assert "xca at 64 px" in said
    assert "softmax" not in said.split("well:")[1]
    assert 4 < len(latencies(tmp_path / "records.jsonl")["xca", 64]) < 12


def test_a_round_more_that_fails_leaves_the_cell_with_its_good_rounds(made_up, tmp_path, monkeypatch):
    monkeypatch.setattr(profile_run._Run, "count", lambda self: None)
    made_up.failing, lines = {("xca", 4)}, []
    asked = request(mixers=("softmax", "xca"), resolutions=(32,), precision=0.2, more_minutes=1000)
    profile_run.profile(asked, tmp_path / "records.jsonl", profile_run.Lines(lines.append))
    rows = records.read(tmp_path / "records.jsonl")[0]
    [cell] = [row for row in rows if row.kind == "profile" and row.mixer == "xca"]
    assert (cell.status, cell.round_numbers) == ("ok", (0, 1, 2, 3))
    assert made_up.calls.count(("xca", 32)) == 5, "it is not tried again"
    assert any(line.endswith("xca at 32 px: latency, round 5") for line in lines)
    assert [row.precision for row in rows if row.kind == "harness"] == [0.2]
    assert profile_run.profile(asked, tmp_path / "records.jsonl") == []


def test_what_other_work_disturbed_is_measured_once_more_and_the_rows_say_so(made_up, tmp_path):
    made_up.crowded = {("linear", 1), ("xca", 2), ("xca", 3)}
    profile_run.profile(request(resolutions=(32,), rounds=3), tmp_path / "records.jsonl")
    rows = [row for row in records.read(tmp_path / "records.jsonl")[0] if isinstance(row, MeasurementRow)]
    by_round = {k: [row for row in rows if row.round == k and row.stage == "latency"] for k in range(3)}
    assert [len(by_round[k]) for k in range(3)] == [3, 4, 4]
    assert sum(row.crowded for row in rows) == 3
    assert {row.missing_cores for row in rows if row.stage == "latency"} == {0.0, 1.0}
    kept = latencies(tmp_path / "records.jsonl")
    assert kept["linear", 32][1] < 0.0125, "the undisturbed time is the one that counts"
    [cell] = [row for row in records.read(tmp_path / "records.jsonl")[0] if row.kind == "profile" and row.mixer == "linear"]
    assert cell.round_medians == tuple(kept["linear", 32][k] for k in range(3))


def test_a_repeat_that_fails_leaves_the_disturbed_measurement(made_up, tmp_path, monkeypatch):
    monkeypatch.setattr(profile_run._Run, "count", lambda self: None)
    made_up.crowded, made_up.failing = {("linear", 1)}, {("linear", 2)}  # round 2, and its repeat
    asked = request(mixers=("softmax", "linear"), resolutions=(32,), rounds=3)
    profile_run.profile(asked, tmp_path / "records.jsonl")
    rows = records.read(tmp_path / "records.jsonl")[0]
    [cell] = [row for row in rows if row.kind == "profile" and row.mixer == "linear"]
    assert (cell.status, cell.round_numbers) == ("ok", (0, 1, 2))
    assert made_up.calls.count(("linear", 32)) == 4
    assert profile_run.profile(asked, tmp_path / "records.jsonl") == []
    [table] = [table for table in report.tables(rows) if table.kind == "profile"]
    assert any("busy in 1 of 6 measurements" in note for note in table.notes)


def test_a_round_that_fails_where_another_did_not_is_measured_once_more(made_up, tmp_path, monkeypatch):
    monkeypatch.setattr(profile_run._Run, "count", lambda self: None)
    made_up.failing = {("linear", 1), ("xca", 0), ("xca", 1)}
    asked = request(mixers=("softmax", "linear", "xca"), resolutions=(32,), rounds=3)
    profile_run.profile(asked, tmp_path / "records.jsonl")
    cells = {row.mixer: row for row in records.read(tmp_path / "records.jsonl")[0] if row.kind == "profile"}
    assert (cells["linear"].status, cells["linear"].round_numbers) == ("ok", (0, 1, 2))
    assert made_up.calls.count(("linear", 32)) == 4
    assert cells["xca"].status == "timeout"
    assert made_up.calls.count(("xca", 32)) == 1, "what failed at the first try is not tried again"


@pytest.mark.parametrize(
    ("others", "threads", "missing", "crowded"), [(0.0, 2, 0, False), (0.05, 2, 0.05, False), (1, 2, 1, True), (1, 1, 0, False)]
)
def test_cores_are_missing_when_others_keep_busy_more_than_were_left_free(monkeypatch, others, threads, missing, crowded):
    moments = iter([(10.0, 100.0, 5.0), (12.0, 100.0 + 2 * (threads + others), 5.0 + 2 * threads)])
    monkeypatch.delenv(measured_load.IGNORED)
    monkeypatch.setattr(measured_load, "_moment", lambda: next(moments))
    monkeypatch.setattr(measured_load.os, "cpu_count", lambda: 2)
    found = LoadMeter(threads).load()
    assert found == Load(pytest.approx(others), threads, 2)
    assert found.missing == pytest.approx(missing)
    assert found.is_crowded is crowded


def test_the_system_tells_its_load_and_where_it_does_not_there_is_none(monkeypatch):
    monkeypatch.delenv(measured_load.IGNORED)
    meter = LoadMeter(1)
    while (found := meter.load()) is None:
        sum(range(100_000))
    assert 0 <= found.others <= found.cores + 1
    monkeypatch.setattr(measured_load, "_moment", lambda: None)
    assert LoadMeter(1).load() is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": 0.0}, "no such precision"),
        ({"precision": float("nan")}, "no such precision"),
        ({"precision": 0.1, "more_minutes": 0.0}, "--more-minutes must be positive"),
        ({"precision": 0.1, "isolate": False}, "--precision needs processes of their own"),
        ({"precision": 0.1, "mixers": ("linear", "xca")}, r"baseline, which is not measured[\s\S]*add --mixer softmax"),
    ],
)
def test_bad_input_is_one_message(changes, message):
    with pytest.raises(InputError, match=message):
        request(**changes).cells()
