"""Some trials of the harness, and that it sees what is lost."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import harness
import pytest


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> harness.Bench:
    return harness.Bench(tmp_path_factory.mktemp("faults"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_lost_by_a_kill(bench: harness.Bench, seed: int) -> None:
    trial = bench.try_("kill", harness.WORKS[seed % len(harness.WORKS)], seed, bench.kill)
    assert not trial.lost, trial


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_lost_on_a_full_disk(bench: harness.Bench, seed: int) -> None:
    if not harness.can_mount():
        pytest.skip("no small disk can be mounted here")
    trial = bench.try_("disk", harness.WORKS[seed % len(harness.WORKS)], seed, bench.fill)
    assert not trial.lost, trial


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_one_of_two_works_and_the_other_says_so(bench: harness.Bench, seed: int) -> None:
    trial = bench.try_("pair", harness.WORKS[seed % len(harness.WORKS)], seed, bench.pair)
    assert not trial.lost, trial


@pytest.mark.slow
def test_what_is_lost_is_seen(bench: harness.Bench) -> None:
    """A fault that spoils a finished training: another weight, a shorter file of metrics, a result made again."""
    train = harness.WORKS[0]

    def spoil(name: str, change: harness.Callable[[bytes], bytes]) -> harness.Fault:
        def fault(work: harness.Work, out: Path, draw: random.Random) -> tuple[str, int | None]:
            work.complete(out)
            path = out / "run" / name
            path.write_bytes(change(path.read_bytes()))
            return f"spoilt {name}", 0

        return fault

    done = replace(train, words=lambda out: ["mixers"] if (out / "run" / "result.json").exists() else train.words(out))
    assert not bench.try_("none", done, 0, spoil("metrics.jsonl", lambda text: text)).lost
    for name in ("model.safetensors", "predictions-raw.parquet"):
        trial = bench.try_("spoil", done, 0, spoil(name, lambda data: data[:-1] + bytes([data[-1] ^ 1])))
        assert trial.lost == "what an unbroken run leaves", trial
    trial = bench.try_("spoil", done, 0, spoil("metrics.jsonl", lambda text: b"".join(text.splitlines(True)[:-1])))
    assert trial.lost == "what an unbroken run leaves", trial


def test_the_table_counts_what_was_tried_and_names_what_was_lost() -> None:
    trial = harness.Trial("kill", "train", 0, "SIGKILL after 1.00 s", -9)
    found = [trial, replace(trial, seed=1, code=0), replace(trial, seed=2, lost="a row"), replace(trial, kind="pair", code=2)]
    text = harness.table(found, "the command")
    assert "| kill | train | 3 | 2 | 2 | 1 |" in text
    assert "| pair | train | 1 | 1 | 1 | 0 |" in text
    assert "- kill train 2: SIGKILL after 1.00 s: a row" in text
    assert "Nothing was lost." in harness.table(found[:2], "the command")
