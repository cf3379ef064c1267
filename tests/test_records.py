from __future__ import annotations

import fcntl
import json
import math
import multiprocessing
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from wfbench import records
from wfbench.errors import InputError
from wfbench.records import BaselineRow, CrossoverRow, Environment, ProfileRow, Row, ScalingRow, TrainRow

ENVIRONMENT = Environment(
    device="Test CPU",
    device_type="cpu",
    threads=2,
    tf32=False,
    platform="Linux x86_64",
    python="3.11.7",
    versions={"torch": "2.9.0"},
    git_revision="abc",
    git_dirty=False,
)


def baseline(name: str = "knn", **changes: object) -> BaselineRow:
    fields = {"environment": ENVIRONMENT, "name": name, "dataset": "digits", "accuracy": 0.98, "samples": 360}
    return BaselineRow(**(fields | changes))


def one_of_each() -> list[Row]:
    train = TrainRow(
        environment=ENVIRONMENT,
        recipe="digits",
        recipe_digest="0123456789ab",
        dataset="digits",
        model="vit-tiny",
        mixer="softmax",
        seed=0,
        image_size=(32, 32),
        epochs=2,
        steps=46,
        batch=64,
        dtype="float32",
        parameters=123,
        macs=None,
        macs_error="no count knows aten::odd",
        accuracy=1 / 3,
        samples=360,
        loss=0.1 + 0.2,
        best_accuracy=0.5,
        train_seconds=1.5,
        images_per_second=1e3,
        data_wait_share=0.25,
    )
    session = {"environment": ENVIRONMENT, "session": "s", "model": "vit-tiny", "mixer": "linear"}
    profile = ProfileRow(
        **session,
        resolution=(224, 192),
        tokens=168,
        batch=1,
        mode="infer",
        dtype="float32",
        sdpa_backend="math",
        path="released",
        protocol="blocked_autorange",
        order_seed=0,
        status="ok",
        counted_by=("declared", "meta"),
        samples=(0.1, 0.2, 0.1 + 0.2),
        median=0.2,
    )
    pair = {"low": (224, 224), "high": (448, 448), "tokens": (196, 784)}
    scaling = ScalingRow(**session, **pair, latency_exponent=1.1, macs_exponent=None)
    crossover = CrossoverRow(**session, baseline="softmax", verdict="at", side=437.2, smallest_side=224, largest_side=896)
    return [train, baseline(), profile, scaling, crossover]


def test_round_trip_keeps_every_kind_and_value(tmp_path: Path) -> None:
    path = tmp_path / "new" / "directory" / "records.jsonl"
    rows = one_of_each()
    records.append(path, rows)
    assert records.read(path) == (rows, [])


@pytest.mark.parametrize("message", ["a\u2028b", "a\x85b", "a\x0cb", "a\nb\r\nc", "größer", '"quoted" \\ {'])
def test_round_trip_of_a_message_with_odd_characters(tmp_path: Path, message: str) -> None:
    row = one_of_each()[2].model_copy(update={"status": "error", "message": message})
    records.append(tmp_path / "records.jsonl", [row, baseline()])
    rows, torn = records.read(tmp_path / "records.jsonl")
    assert [rows[0], torn] == [row, []]
    assert len(rows) == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("accuracy", math.nan),
        ("accuracy", 3e9),
        ("accuracy", -0.1),
        ("top5", 1.5),
        ("samples", -4),
        ("samples", 0),
        ("loss", math.inf),
        ("train_seconds", math.nan),
        ("train_seconds", -1.0),
        ("data_wait_share", 2.0),
    ],
)
def test_a_figure_that_cannot_be_is_no_record(field: str, value: float, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    records.append(path, [one_of_each()[0].model_copy(update={field: value})])  # not validated: as another program may write
    with pytest.raises(InputError, match=rf"not a record(.|\n)*records.jsonl:1: .*{field}"):
        records.read(path)


def test_append_only_adds(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    before = b""
    for name in ("a", "b", "c"):
        records.append(path, [baseline(name)])
        after = path.read_bytes()
        assert after.startswith(before)
        assert after.count(b"\n") == before.count(b"\n") + 1
        before = after
    assert [row.name for row in records.read(path)[0] if isinstance(row, BaselineRow)] == ["a", "b", "c"]


def test_a_row_says_when_and_by_which_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/wfbench", "train", "--out", "my runs/a"])
    row = baseline()
    assert row.command == "wfbench train --out 'my runs/a'"
    assert row.created.endswith("+00:00")


def write_many(path: Path, writer: str, count: int, start: multiprocessing.synchronize.Event) -> None:
    start.wait()
    for number in range(count):
        # Two rows a call, and long ones, so that a write without the lock has a real chance to interleave.
        records.append(path, [baseline(f"{writer}-{number}-{part}", dataset="x" * 9000) for part in "ab"])


def test_two_processes_appending_at_once_lose_nothing(tmp_path: Path) -> None:
    path, count = tmp_path / "records.jsonl", 200
    context = multiprocessing.get_context("spawn")
    start = context.Event()
    writers = [context.Process(target=write_many, args=(path, name, count, start)) for name in ("one", "two")]
    for writer in writers:
        writer.start()
    start.set()
    for writer in writers:
        writer.join(timeout=120)
        assert writer.exitcode == 0
    rows, torn = records.read(path)
    assert not torn
    names = [row.name for row in rows if isinstance(row, BaselineRow)]
    assert sorted(names) == sorted(f"{w}-{n}-{p}" for w in ("one", "two") for n in range(count) for p in "ab")
    for writer_name in ("one", "two"):
        own = [name for name in names if name.startswith(writer_name)]
        assert own == [f"{writer_name}-{n}-{p}" for n in range(count) for p in "ab"]


def test_append_waits_for_a_writer_in_the_middle_of_a_row(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    first, second = baseline("first"), baseline("second")
    text = first.model_dump_json() + "\n"
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(text[:20])
        file.flush()
        other = threading.Thread(target=records.append, args=(path, [second]))
        other.start()
        other.join(timeout=0.2)
        assert other.is_alive()
        file.write(text[20:])
    other.join(timeout=300)
    assert records.read(path) == ([first, second], [])


@pytest.mark.parametrize("keep", [1, 40, -2])
def test_a_torn_last_line_is_reported_and_spoils_nothing(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "records.jsonl"
    first, lost, later = baseline("first"), baseline("lost"), baseline("later")
    records.append(path, [first])
    with path.open("a") as file:
        file.write((lost.model_dump_json() + "\n")[:keep])
    rows, torn = records.read(path)
    assert rows == [first]
    assert len(torn) == 1
    assert f"{path}:2" in torn[0]
    assert "torn" in torn[0]
    records.append(path, [later])
    assert records.read(path) == ([first, later], torn)


def test_a_line_that_lacks_only_its_end_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    first, second = baseline("first"), baseline("second")
    path.write_text(first.model_dump_json())
    assert records.read(path) == ([first], [])
    records.append(path, [second])
    assert records.read(path) == ([first, second], [])


def test_a_character_torn_in_the_middle_is_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    whole = baseline("größer").model_dump_json().encode()
    path.write_bytes(whole[: whole.index("ö".encode()) + 1])
    rows, torn = records.read(path)
    assert rows == []
    assert len(torn) == 1


def line(**changes: object) -> str:
    return json.dumps(json.loads(baseline().model_dump_json()) | changes) + "\n"


def test_a_newer_schema_is_refused_and_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(line() + line(schema_version=records.SCHEMA + 1, a_new_field=1))
    with pytest.raises(InputError) as caught:
        records.read(path)
    for part in (f"{path}:2", "newer", f"schema {records.SCHEMA + 1}", f"schema {records.SCHEMA} or older", "upgrade"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"surprise": 1}, "surprise"),
        ({"environment": {**ENVIRONMENT.model_dump(), "surprise": 1}}, "surprise"),
        ({"kind": "unheard-of"}, "unheard-of"),
        ({"accuracy": "high"}, "accuracy"),
        ({"samples": None}, "samples"),
    ],
)
def test_a_line_that_is_no_record_is_refused_by_place_and_field(tmp_path: Path, changes: dict[str, object], named: str) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(line() + line(**changes))
    with pytest.raises(InputError) as caught:
        records.read(path)
    assert f"{path}:2" in str(caught.value)
    assert named in str(caught.value)


def test_an_unwritable_path_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "records.jsonl", tmp_path):  # a file where a directory is needed, and the reverse
        with pytest.raises(InputError, match="cannot write records"):
            records.append(path, [baseline()])


def test_an_unreadable_path_is_bad_input(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.jsonl", tmp_path):
        with pytest.raises(InputError, match="cannot read records"):
            records.read(path)


def test_the_environment_stamp_is_complete() -> None:
    stamp = records.stamp()
    assert stamp.device_type == "cpu"
    assert stamp.threads >= 1
    assert stamp.versions["torch"]
    assert Environment.model_validate_json(stamp.model_dump_json()) == stamp


def test_a_process_has_one_revision_whatever_becomes_of_the_checkout(monkeypatch) -> None:
    before = records.stamp()
    monkeypatch.setattr(subprocess, "run", lambda *words, **more: pytest.fail("git was asked again"))
    assert records.stamp() == before


def test_a_row_for_which_there_is_no_room_leaves_no_part_of_it(tmp_path, monkeypatch):
    path = tmp_path / "records.jsonl"
    row = baseline()
    records.append(path, [row])
    before = path.read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 40, limit[1]))
    try:
        with pytest.raises(InputError, match=r"cannot write records[\s\S]*File too large"):
            records.append(path, [row, row])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    records.append(path, [row])
    assert path.read_bytes() == 2 * before
