"""What a report says of differences: the accuracy table's verdicts, Pareto fronts, paired tests, published numbers, LaTeX."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from test_report import ACCURACY, cell, exponent, lines, notes, only, small_report, train
from typer.testing import CliRunner

from wfbench import records, report
from wfbench.analysis.image_pairs import LineOnImages, image_comparisons
from wfbench.analysis.paired import paired_contrasts
from wfbench.analysis.unpaired import against_baseline
from wfbench.cli import app
from wfbench.errors import InputError
from wfbench.records import AnyRow, Chosen
from wfbench.report import Asked, Table
from wfbench.report import page as charts

DIFFERENCE = "difference to softmax (points)"
SAMPLES = {
    "linear": [0.890, 0.892, 0.894, 0.889],
    "pool": [0.9405, 0.9380, 0.9425, 0.9391],
    "softmax": [0.940, 0.938, 0.942, 0.9394],
}


def seeds(accuracies: dict[str, list[float]] | None = None, **changes: object) -> list[AnyRow]:
    """Runs from before the paired design, unless the schema is given."""
    return [
        train(mixer, seed, accuracy, **({"schema_version": 5} | changes))
        for mixer, values in (accuracies or SAMPLES).items()
        for seed, accuracy in enumerate(values)
    ]


def named(tables: list[Table], name: str) -> Table:
    return next(table for table in tables if table.name == name)


def test_the_table_says_what_the_statistics_say() -> None:
    table = named(report.tables(seeds()), "accuracy")
    linear, pool = against_baseline([SAMPLES["linear"], SAMPLES["pool"]], SAMPLES["softmax"], relevant=0.01).comparisons
    assert lines(table, "verdict") == ["worse", "not distinguishable", "baseline"]
    assert list(table.data["difference"])[:2] == [linear.difference, pool.difference]
    assert list(table.data["difference_low"])[:2] == [linear.low, pool.low]
    assert list(table.data["p_adjusted"])[:2] == [linear.p, pool.p]
    assert list(table.data["power"])[:2] == [linear.power, pool.power]
    assert (
        table.frame[DIFFERENCE][0] == f"−{-100 * linear.difference:.2f} [−{-100 * linear.low:.2f}, −{-100 * linear.high:.2f}]"
    )
    assert table.frame["power at 1.00 points"][1] == "> 99 %"
    assert "Unpaired: 2 lines against softmax" in notes(table)
    assert "Dunnett's test" in notes(table)
    assert not table.data["paired"].iloc[0]
    assert "neither that there is a difference nor that there is none" in notes(table)


def test_lines_of_the_paired_design_are_compared_seed_by_seed() -> None:
    draws = np.random.default_rng(0)
    of_seed = draws.normal(0, 0.02, 5)  # what all lines of a seed share
    near, far = 0.905 + of_seed + draws.normal(0, 0.0005, 5), 0.8 + draws.normal(0, 0.02, 5)
    samples = {"pool": near.tolist(), "ttt": far.tolist(), "softmax": (0.9 + of_seed).tolist()}
    rows = seeds(samples, schema_version=6, samples=100_000)
    table = named(report.tables(rows), "accuracy")
    pool, ttt = paired_contrasts([samples["pool"], samples["ttt"]], samples["softmax"], relevant=0.01, one_image=1e-5)
    assert lines(table, "verdict") == ["better", "baseline", "worse"]
    assert table.data["difference_low"][0] == pytest.approx(pool.simultaneous.low)
    assert list(table.data["p_adjusted"])[::2] == pytest.approx([pool.p, ttt.p])
    assert "Paired: 2 lines against softmax, seed by seed over the same 5 seeds" in notes(table)
    assert "Dunnett" not in notes(table)
    before = named(report.tables(seeds(samples, samples=100_000)), "accuracy")
    assert lines(before, "verdict")[0] == "not distinguishable", "what the seeds share hides the difference"


def test_lines_with_other_seeds_are_not_paired_with_the_baseline() -> None:
    rows = seeds({"pool": SAMPLES["pool"], "softmax": SAMPLES["softmax"]}, schema_version=6)
    rows += [train("linear", seed + 1, accuracy) for seed, accuracy in enumerate(SAMPLES["linear"])]
    rows += seeds({"static": SAMPLES["softmax"]})  # the same seeds, but begun before the paired design
    table = named(report.tables(rows), "accuracy")
    assert dict(zip(lines(table), table.data["paired"], strict=True)) == {
        **{"linear": False, "pool": True, "softmax": None, "static": False}
    }
    alone = against_baseline([SAMPLES["linear"], SAMPLES["softmax"]], SAMPLES["softmax"], relevant=0.01).comparisons[0]
    assert table.data["difference_low"][0] == alone.low
    assert "Unpaired: 2 lines" in notes(table)
    assert "Paired: 1 line " in notes(table)
    assert "two families" in notes(table)


def test_a_difference_that_is_the_same_for_every_seed_says_why_it_has_no_interval() -> None:
    same = {"pool": [0.91, 0.92, 0.93], "softmax": [0.9, 0.91, 0.92]}
    table = named(report.tables(seeds(same, schema_version=6)), "accuracy")
    assert (table.frame[DIFFERENCE][0], table.frame["verdict"][0]) == ("+1.00", "not distinguishable")
    assert table.frame["power at 1.00 points"][0] == "–"
    assert "the same for every seed and cannot be tested: pool" in notes(table)


def test_not_distinguishable_is_never_worded_as_equal() -> None:
    text = named(report.tables(seeds()), "accuracy").to_markdown().lower()
    assert "not distinguishable" in text
    for word in ("equal", "same accuracy", "as good", "equivalent", "identical", "no difference "):
        assert word not in text


def test_equivalence_needs_a_margin_and_shows_it() -> None:
    table = named(report.tables(seeds(), Asked(margin=0.01)), "accuracy")
    assert lines(table, "verdict") == ["worse", "within ±1.00", "baseline"]
    assert "TOST" in notes(table)
    narrow = named(report.tables(seeds(), Asked(margin=0.0005)), "accuracy")
    assert lines(narrow, "verdict")[1] == "not distinguishable"
    assert list(narrow.data["p_equivalent"])[1] > 0.05


def test_a_single_seed_is_marked_and_enters_no_comparison() -> None:
    rows = [*seeds(), train("hydra", accuracy=0.99)]
    table = named(report.tables(rows), "accuracy")
    assert lines(table, "verdict")[0] == "not ranked: 1 seed"
    assert table.frame[DIFFERENCE][0] == "–"
    assert list(table.data["difference"])[2] == list(named(report.tables(seeds()), "accuracy").data["difference"])[1]


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([*seeds({"linear": [0.9, 0.91]}), train("softmax")], "it has a single seed"),
        (seeds({"linear": [0.9, 0.91], "pool": [0.9, 0.92]}), "there is no such line"),
        (seeds({"linear": [0.9, 0.9], "softmax": [0.9, 0.9]}), "no spread"),
    ],
)
def test_why_nothing_was_compared_is_said(rows: list[AnyRow], why: str) -> None:
    table = named(report.tables(rows), "accuracy")
    assert DIFFERENCE not in table.frame
    assert "Nothing was compared with the baseline softmax: " in notes(table)
    assert why in notes(table)


def test_another_baseline_may_be_asked_for() -> None:
    table = named(report.tables(seeds(), Asked(baseline="linear")), "accuracy")
    assert lines(table, "verdict") == ["baseline", "better", "better"]


def test_factors_are_lines_of_the_family_and_other_recipes_are_not() -> None:
    rows = [*seeds(), *seeds({"softmax": [0.95, 0.951, 0.949]}, local_conv="dwc")]
    assert lines(named(report.tables(rows), "accuracy"), "verdict")[-1] == "better", "is it only the convolution?"
    other = seeds({"pool": [0.5, 0.51], "softmax": [0.9, 0.91]}, recipe_digest="another")
    table = named(report.tables([*seeds(), *other]), "accuracy")
    verdicts = dict(zip(zip(lines(table), lines(table, "recipe_digest"), strict=True), lines(table, "verdict"), strict=True))
    assert verdicts["pool", "another"] == "worse"
    assert verdicts["pool", "0123456789ab"] == "not distinguishable"


def test_spreads_that_differ_are_said() -> None:
    draws = np.random.default_rng(0)
    wild = {"pool": draws.normal(0.9, 0.05, 10).tolist(), "softmax": draws.normal(0.9, 0.001, 10).tolist()}
    assert "spreads over seeds differ" in notes(named(report.tables(seeds(wild)), "accuracy"))
    assert "spreads over seeds differ" not in notes(named(report.tables(seeds()), "accuracy"))


def test_power_is_never_rounded_to_certainty() -> None:
    far = {"pool": [0.5, 0.5001, 0.4999], "softmax": [0.9, 0.9001, 0.8999]}
    assert lines(named(report.tables(seeds(far)), "accuracy"), "power at 1.00 points")[0] == "> 99 %"


# --- fronts


def test_fronts_by_every_cost() -> None:
    rows = [*seeds({"linear": SAMPLES["linear"]}, macs=1e9), *seeds({"softmax": SAMPLES["softmax"]}, macs=2e9)]
    rows += [*seeds({"pool": [0.5, 0.51, 0.49]}, macs=3e9, parameters=1_000), train("hydra", accuracy=0.99, macs=1e3)]
    table = named(report.tables(rows), "pareto")
    assert lines(table) == ["linear", "pool", "softmax"], "a single seed has no place"
    assert lines(table, "by GMACs") == ["on the front", "dominated", "on the front"]
    assert lines(table, "by params") == ["dominated", "on the front", "on the front"]
    assert "not ranked: hydra" in notes(table)
    assert not [table for table in report.tables([train(), train("pool")]) if table.name.startswith("pareto")]


def measured(*mixers: tuple[str, float], **changes: object) -> list[AnyRow]:
    """A profile of the model that `PROFILED` trains, with the median at 448 px; at 32 px it has as many parameters."""
    return [
        cell(m, side, median * side / 448, **({"median_low": median * 0.8, "median_high": median * 1.2} | changes))
        for m, median in mixers
        for side in (32, 448)
    ]


PROFILED = {"parameters": 5_717_416}
THREE_MIXERS = (("linear", 0.010), ("pool", 0.011), ("softmax", 0.030))


def test_measured_costs_come_with_their_intervals() -> None:
    table = named(report.tables([*seeds(**PROFILED), exponent("linear"), *measured(*THREE_MIXERS)]), "pareto")
    assert lines(table, "by latency at 448 px") == ["undecided", "on the front", "undecided"]


def test_a_profile_of_another_model_says_nothing_of_the_trained_ones_costs() -> None:
    rows = [*seeds(), *measured(*THREE_MIXERS)]
    table = named(report.tables(rows), "pareto")
    assert not [name for name in table.frame if "latency" in name]
    assert "of another model" in notes(table)
    assert not named(report.tables(rows), "overview").data["same_model"].any()
    (chart, *_) = charts.charts(report.tables(rows), [])
    assert [choice.title for choice in chart.x if choice.field == "latency"] == [
        "latency at 448 px of the profiled vit-tiny, another model (ms)"
    ]


def test_a_mixer_whose_cost_is_not_known_may_be_cheaper_than_all() -> None:
    same = {mixer: SAMPLES["softmax"] for mixer in ("linear", "pool", "softmax")}
    table = named(report.tables([*seeds(same, **PROFILED), *measured(*THREE_MIXERS[:2])]), "pareto")
    assert lines(table, "by latency at 448 px") == ["undecided", "undecided", "not known"]
    worse = {**same, "softmax": [0.1, 0.11, 0.12, 0.13]}
    table = named(report.tables([*seeds(worse, **PROFILED), *measured(("linear", 0.001), ("pool", 0.011))]), "pareto")
    assert lines(table, "by latency at 448 px") == ["on the front", "undecided", "not known"]
    apart = measured(("linear", 0.001), ("pool", 0.1))  # surely: without softmax, linear would be on the front
    table = named(report.tables([*seeds(same, **PROFILED), *apart]), "pareto")
    assert lines(table, "by latency at 448 px") == ["undecided", "undecided", "not known"]
    best = {**same, "softmax": [0.99, 0.991, 0.989, 0.99]}  # more accurate, but perhaps dearer
    table = named(report.tables([*seeds(best, **PROFILED), *apart]), "pareto")
    assert lines(table, "by latency at 448 px") == ["undecided", "undecided", "not known"]
    refused = [row if row.mixer != "pool" else row.model_copy(update={"macs": None}) for row in seeds(same)]
    assert lines(named(report.tables(refused), "pareto"), "by GMACs") == ["undecided", "not known", "undecided"]


def test_a_cost_that_was_measured_once_is_not_exact() -> None:
    memory = {"memory_status": "ok", "memory_baseline_bytes": 0}
    rows: list[AnyRow] = seeds(**PROFILED)
    for (mixer, median), peak in zip(THREE_MIXERS, (123.3e6, 60e6, 122.6e6), strict=True):
        rows += measured((mixer, median), memory_bytes=int(peak), **memory)
    table = named(report.tables(rows), "pareto")
    assert lines(table, "by memory at 448 px") == ["dominated", "on the front", "undecided"]
    assert "more than 5%" in notes(table)


def test_lines_of_several_recipes_are_told_apart() -> None:
    rows = [*seeds({"softmax": SAMPLES["softmax"], "linear": SAMPLES["linear"]})]
    rows += seeds({"softmax": [0.5, 0.51, 0.49], "linear": SAMPLES["pool"]}, recipe_digest="another")
    tables = report.tables(rows)
    table = named(tables, "pareto")
    assert sorted(set(lines(table, "recipe_digest"))) == ["0123456789ab", "another"]
    (chart, *_) = charts.charts(tables, [])
    by_line = {(point["mixer"], point["setting"]): point["front_macs"] for point in chart.points}
    assert by_line["linear", "another"] != by_line["linear", "0123456789ab"]


def test_seeds_that_were_tuned_to_other_rates_are_other_lines() -> None:
    def tuned(seed: int, lr: float) -> AnyRow:
        return train("pool", seed, 0.9, chosen=Chosen(rates=(1e-3, 2e-3), mlp_ratio=4.0, depth=4, lr=lr))

    table = named(report.tables([tuned(0, 1e-3), tuned(1, 1e-3), tuned(2, 2e-3)]), "accuracy")
    assert list(zip(lines(table, "rate"), lines(table, "seeds"), strict=True)) == [("0.001", "2 seeds"), ("0.002", "1 seed")]


# --- the same images


def keep(place: Path, mixer: str, seed: int, right: np.ndarray, truth: np.ndarray, **changes: object) -> None:
    """A run directory with predictions."""
    place.mkdir(parents=True)
    (place / "config.yaml").write_text("")
    row = train(mixer, seed, float(right.mean()), **({"samples": len(truth)} | changes))
    (place / "result.json").write_text(row.model_dump_json())
    top1 = np.where(right, truth, (truth + 1) % 10)
    index = np.random.default_rng(seed).permutation(len(truth))  # in any order
    table = pd.DataFrame({"index": np.arange(len(truth)), "label": truth, "top1": top1, "confidence": 0.5})
    table.iloc[index].to_parquet(place / "predictions-raw.parquet")


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    draws = np.random.default_rng(0)
    truth, hard = draws.integers(0, 10, 800), draws.normal(1.5, 1.5, 800)
    for mixer, shift in (("softmax", 0.0), ("linear", -1.0), ("pool", 0.0)):
        for seed in range(3):
            right = draws.random(800) < 1 / (1 + np.exp(-(hard + shift)))
            keep(tmp_path / f"{mixer}-{seed}", mixer, seed, right, truth, schema_version=5)
    return tmp_path


def test_mixers_are_compared_image_by_image(kept: Path) -> None:
    runs = report.find_runs([kept, kept / "pool-0"])
    assert len(runs) == 9
    (table,) = report.tables([], runs=runs)
    assert (table.name, lines(table)) == ("paired", ["linear", "pool"])
    assert lines(table, "verdict") == ["worse", "not distinguishable"]
    assert lines(table, "seeds") == ["3 and 3"] * 2
    accuracy = {mixer: np.mean([r.row.accuracy for r in runs if r.row.mixer == mixer]) for mixer in SAMPLES}
    assert table.data["difference"][0] == pytest.approx(accuracy["linear"] - accuracy["softmax"])
    assert "seed 0: " in table.frame["McNemar, two models"][0]
    assert "the models differ" in table.frame["McNemar, two models"][0]


def test_seeds_are_drawn_jointly_where_runs_of_one_seed_begin_equal(kept: Path, tmp_path: Path) -> None:
    def compared() -> dict[str, LineOnImages]:
        (found,) = image_comparisons(report.find_runs([kept]), "softmax")
        return {line.label: line for line in found.lines}

    # pool is softmax but for 8 images that it alone gets right, of runs that differ much from seed to seed.
    truth = pd.read_parquet(kept / "pool-0" / "predictions-raw.parquet").sort_values("index")["label"].to_numpy()
    for seed, share in enumerate((0.6, 0.7, 0.9)):
        right = np.random.default_rng(seed).random(800) < share
        for mixer in ("softmax", "pool"):
            shutil.rmtree(kept / f"{mixer}-{seed}")
            ours = right | (np.arange(800) < 8) if mixer == "pool" else right
            keep(kept / f"{mixer}-{seed}", mixer, seed, ours, truth, schema_version=6)
    found = compared()
    assert found["pool"].is_paired
    assert found["pool"].difference.half_width < 0.02
    assert not found["linear"].is_paired, "its runs are of an older version"
    table = named(report.tables([], runs=report.find_runs([kept])), "paired")
    assert "Paired (pool)" in notes(table)
    assert "Unpaired (linear)" in notes(table)
    keep(kept / "pool-3", "pool", 3, right, truth, schema_version=6)
    found = compared()
    assert not found["pool"].is_paired, "it has a seed more"
    assert found["pool"].difference.half_width > 0.1


def test_other_images_are_not_compared(kept: Path, tmp_path: Path) -> None:
    keep(kept / "xca-0", "xca", 0, np.ones(800, bool), np.zeros(800, int))
    table = named(report.tables([], runs=report.find_runs([kept])), "paired")
    assert "Not compared, since they were judged on other images or labels: xca" in notes(table)
    keep(
        kept / "ttt-0",
        "ttt",
        0,
        np.ones(800, bool),
        pd.read_parquet(kept / "pool-0/predictions-raw.parquet").sort_values("index")["label"].to_numpy(),
    )
    table = named(report.tables([], runs=report.find_runs([kept])), "paired")
    assert dict(zip(lines(table), lines(table, "verdict"), strict=True))["ttt"] == "not ranked: 1 seed"


def test_broken_files_of_a_run_are_bad_input(kept: Path) -> None:
    (kept / "pool-0" / "predictions-raw.parquet").write_bytes(b"none")
    with pytest.raises(InputError, match="cannot read predictions"):
        report.tables([], runs=report.find_runs([kept]))
    (kept / "pool-0" / "result.json").write_text("{}")
    with pytest.raises(InputError, match="not the result of a run"):
        report.find_runs([kept])


# --- published numbers


def test_published_numbers_are_marked_and_never_mix_resolutions() -> None:
    plain, made = report.tables(small_report()), report.tables(small_report(), published=True)
    assert not [table for table in plain if "ublished" in table.title and "not published" in table.title]
    known = [table for table in made if table.name.startswith("published")]
    assert [table.name for table in known] == ["published-accuracy-224", "published-accuracy-448", "published-fid-256"]
    for table in known:
        assert set(lines(table, "px")) == {table.name.rsplit("-", 1)[1]}
        assert all("published" in column for column in table.frame if column not in ("model", "px", "source"))
        assert all(table.data["source"].str.contains("arXiv"))
        assert "none was measured here" in notes(table)
    values = dict(zip(lines(known[0], "model"), lines(known[0], "top-1 (%, published)"), strict=True))
    assert values["WeightFormer-T"] == "76.3"
    assert "WeightFormer-B" not in values, "it was trained at 448 px"
    assert values["ConvNeXt-B (isotropic)"] == "82.0"
    assert len(plain) == len(made) - 3


def test_every_published_number_names_a_source_that_is_there() -> None:
    known = yaml.safe_load((Path(report.__file__).parent / "published.yaml").read_text())
    entries = [*known["accuracy"], *known["fid"]]
    assert {entry["source"] for entry in entries} == set(known["sources"])
    assert all({"model", "px", "value", "source"} <= set(entry) for entry in entries)


# --- LaTeX, and the command


def test_every_table_is_latex_in_ascii(tmp_path: Path) -> None:
    rows = [*small_report(), *seeds(dataset="a_b & c"), train("50%_{x}", accuracy=0.5, dataset="a_b & c")]
    for table in report.tables(rows, Asked(margin=0.01), published=True):
        text = table.to_latex()
        assert text.isascii(), table.name
        body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
        assert len(body) == len(table.frame)
        cells = {len(re.findall(r"(?<!\\)&", line)) + 1 for line in body}
        assert cells == {len(table.frame.columns)}
        assert not re.search(r"(?<!\\)[%_#]", text.split(r"\label")[0])
    written = report.write(rows, tmp_path)
    stems = {suffix: {path.stem for path in written if path.suffix == suffix} for suffix in (".tex", ".csv")}
    assert stems[".tex"] == stems[".csv"]


def test_latex_says_what_the_table_says() -> None:
    text = only([train(seed=seed, accuracy=0.9 + seed / 100, samples=10_000) for seed in range(3)]).to_latex()
    assert r"91.00 $\pm$ 2.48" in text
    assert r"accuracy (\%, measured)" in text


def test_the_command_takes_a_baseline_a_margin_and_published_numbers(tmp_path: Path) -> None:
    records.append(tmp_path / "records.jsonl", seeds())
    words = ["report", str(tmp_path), "--margin", "1", "--published", "--baseline", "pool"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    table = (tmp_path / "accuracy.md").read_text()
    assert "difference to pool (points)" in table
    assert "within ±1.00" in table
    assert (tmp_path / "published-fid-256.tex").is_file()
    assert (tmp_path / "page.html").is_file()
    assert ACCURACY in table
    done = CliRunner().invoke(app, ["report", str(tmp_path), "--margin", "-1"])
    assert done.exit_code == 2
    assert "margin" in done.output
