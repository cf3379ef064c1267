"""The page: what it holds, that it is self-contained, and, in a browser, that it works."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_report import baseline, cell, small_report, train

from wfbench import records, report
from wfbench.analysis.receptive_fields import encode
from wfbench.analysis.results import analyse
from wfbench.records import AnyRow, ErfRow, PictureRow
from wfbench.report import Asked, Table
from wfbench.report.page import MOST_BYTES, _table, charts, page
from wfbench.report.sources import sources


def erf_row(mixer: str = "softmax", **changes: object) -> ErfRow:
    energy = np.ones((8, 8))
    energy[4, 4] = 1e4
    plain = train(mixer)
    fields: dict[str, object] = {
        "environment": plain.environment,
        "model": "vit-tiny",
        "mixer": mixer,
        "weights": "trained",
        "seed": 0,
        "images": "digits",
        "image_count": 4,
        "image_size": (8, 8),
        "patch_size": 2,
        "depth": 4,
        "embed_dim": 64,
        "token": (2, 2),
        "radii": (0.75, 1.5),
        "outside": (0.5, 0.25),
        "half_radius": 0.7,
        "reached": 1.0,
        "picture": encode(energy / energy.sum()),
    }
    return ErfRow(**(fields | changes))


def picture(size: int = 8, caption: str = "50 steps, seed 0") -> PictureRow:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)).save(file, "PNG")
    png = base64.b64encode(file.getvalue()).decode()
    stamp = train().environment
    return PictureRow(environment=stamp, model="dit-s-2", mixer="softmax", pos_embed="sincos", caption=caption, picture=png)


def rows() -> list[AnyRow]:
    """Several seeds of three mixers and one of a fourth, a profile with memory and a crossover, maps and samples."""
    draws = np.random.default_rng(0)
    made: list[AnyRow] = [baseline(), baseline("logistic regression", 0.97)]
    for step, mixer in enumerate(("linear", "pool", "softmax")):
        accuracies = 0.9 + 0.02 * step + draws.normal(0, 0.002, 4)
        made += [
            train(mixer, seed, float(a), macs=1e9 * (step + 1), train_seconds=10.0 * (step + 1) + seed, samples=10_000)
            for seed, a in enumerate(accuracies)
        ]
        for side in (224, 448, 672):
            memory = {"memory_bytes": 1e5 * side * (step + 1), "memory_status": "ok"}
            median = (step + 1) * side**2 / 3e6
            if mixer == "softmax":
                median *= side / 900  # linear overtakes it at 300 px
            made.append(cell(mixer, side, median, median_low=0.9 * median, median_high=1.2 * median, **memory))
        made += [erf_row(mixer), erf_row(mixer, weights="fresh")]
    return [*made, train("hydra", accuracy=0.99, samples=10_000), picture()]


@pytest.fixture(scope="module")
def run_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with a curve."""
    place = tmp_path_factory.mktemp("runs") / "softmax"
    place.mkdir()
    (place / "config.yaml").write_text("")
    (place / "result.json").write_text(train(accuracy=0.94).model_dump_json())
    lines = [{"epoch": n, "accuracy": 0.5 + n / 100, "loss": 1 / n, "note": "text"} for n in range(1, 500)]
    (place / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"torn')
    return place


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, run_place: Path) -> Path:
    out = tmp_path_factory.mktemp("report")
    runs = report.find_runs([run_place.parent])
    report.write(rows(), out, ["a.jsonl:7: a torn line"], asked=Asked(margin=0.01), published=True, runs=runs)
    return out / "page.html"


def test_the_page_is_one_small_file_that_asks_for_nothing(written: Path) -> None:
    text = written.read_text()
    assert len(text.encode()) < MOST_BYTES
    own = re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    assert re.findall(r"""(?:src|href)=["'](?!#|data:)""", own) == []
    assert "@import" not in own
    assert "url(" not in own


def test_the_page_has_every_table_every_note_and_the_commands(written: Path) -> None:
    text = written.read_text()
    for table in report.tables(rows(), Asked(margin=0.01), published=True):
        assert f'id="table-{table.name}"' in text
    for part in ("torn line", "not ranked: 1 seed", "wfbench train --mixer pool --seed 1  # 1 row", "git revision abc123"):
        assert part in text
    for section in ("glance", "accuracy", "cost", "training", "erf", "samples", "published", "sources"):
        assert f'<section id="{section}">' in text
    assert text.count("data:image/png;base64,") == 7


def test_sections_without_anything_are_not_there() -> None:
    text = page([], analyse([]), [], [], sources([]))
    assert "<section" not in text
    assert "No records" in text


def test_charts_hold_the_tables_numbers(run_place: Path) -> None:
    tables = report.tables(rows())
    made = {chart.name: chart for chart in charts(tables, report.find_runs([run_place.parent]))}
    assert set(made) == {"accuracy", "profile", "curves-1"}
    accuracy = {point["mixer"]: point for point in made["accuracy"].points}
    assert accuracy["hydra"]["seeds"] == 1
    assert "accuracy_low" not in accuracy["hydra"]
    seeds = [row.accuracy for row in rows() if row.kind == "train" and row.mixer == "pool"]
    assert accuracy["pool"]["accuracy"] == pytest.approx(100 * np.mean(seeds))
    assert accuracy["pool"]["macs"] == 2
    assert accuracy["softmax"]["front_macs"] == "on the front"
    assert [choice.field for choice in made["accuracy"].x] == ["macs", "params", "train", "latency", "memory"]
    assert accuracy["pool"]["latency"] == pytest.approx(1e3 * 2 * 672**2 / 3e6)
    profile = [point for point in made["profile"].points if point["mixer"] == "linear"]
    assert [point["latency"] for point in profile] == pytest.approx([1e3 * side**2 / 3e6 for side in (224, 448, 672)])
    mark, other = made["profile"].marks
    assert (mark["mixer"], other["mixer"]) == ("linear", "pool")
    assert mark["latency"] == pytest.approx(1e3 * 300**2 / 3e6), "on the curve, which is a straight line in the logarithms"
    assert mark["tokens"] == pytest.approx((300 / 16) ** 2)
    curve = made["curves-1"].points
    assert len(curve) <= 201
    assert (curve[0]["epoch"], curve[-1]["epoch"]) == (1, 499)
    assert "note" not in curve[0]


def test_pictures_that_find_no_room_are_named() -> None:
    large = [picture(900, f"grid {n}") for n in range(4)]
    text = page(large, analyse(large), [], [], sources(large))
    assert len(text.encode()) < MOST_BYTES
    assert 0 < text.count("data:image/png;base64,") < 4
    assert "No room on this page: softmax: grid 1, softmax: grid 2" in text


def test_what_a_record_says_is_text_and_no_markup() -> None:
    evil = "</script><script>alert(1)</script>"
    made = [train(evil, seed, 0.9 + seed / 100) for seed in range(2)] + [train(seed=s, accuracy=0.8 + s / 50) for s in range(2)]
    text = page(made, analyse(made), report.tables(made), [], sources(made))
    assert evil not in text
    assert "&lt;/script&gt;" in text


def test_maps_survive_their_record(tmp_path: Path) -> None:
    written = erf_row()  # once: another one may be of the next second
    records.append(tmp_path / "records.jsonl", [written])
    (row,), _ = report.collect([tmp_path])
    assert row == written
    names = {path.name for path in report.write([row], tmp_path / "out")}
    assert {"erf.png", "erf.md", "erf.csv", "erf.tex"} < names
    assert "](erf.png)" in (tmp_path / "out" / "tables.md").read_text()
    (table,) = report.tables([row, erf_row(weights="fresh")])
    assert list(table.frame["weights"]) == ["fresh", "trained"]
    assert list(table.frame["outside 1.5 (%)"]) == ["25", "25"]


# --- in a browser


@pytest.mark.parametrize(
    ("seeds", "alone"),
    [("1 seed", True), ("5 seeds", False), ("1 seed/3 seeds", True), ("3 seeds/5 seeds", False), ("1", True), ("11", False)],
)
def test_a_line_with_a_figure_of_a_single_seed_is_marked(seeds: str, alone: bool) -> None:
    frame = pd.DataFrame({"mixer": ["pool"], "24 px (%)": ["90.00"], "seeds": [seeds], "held-out loss": ["0.1"]})
    shown = _table(Table("resolution", "T", frame, frame, ranks=frozenset({"24 px (%)", "held-out loss"})))
    assert shown["lines"][0]["alone"] is alone
    assert [column["name"] for column in shown["columns"] if column["ranks"]] == ["24 px (%)", "held-out loss"]


def chromium() -> str | None:
    """A browser on this machine; None if only Playwright may have one."""
    return next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None
    )


@pytest.fixture
def browser() -> Iterator[Any]:
    """A browser."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="skipped: Playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        except sync_api.Error as e:
            pytest.skip(f"skipped: no Chromium here, so the page was not opened ({str(e).splitlines()[0]})")
        yield browser
        browser.close()


@pytest.fixture
def opened(written: Path, browser: Any) -> tuple[Any, list[str]]:
    """The page in a browser, and what should stay empty: console messages, errors and requests beyond the file."""
    view, trouble = browser.new_page(viewport={"width": 1200, "height": 900}), []
    view.on("console", lambda message: trouble.append(f"{message.type}: {message.text}"))
    view.on("pageerror", lambda error: trouble.append(str(error)))
    view.on("request", lambda request: trouble.append(request.url) if not request.url.startswith("data:") else None)
    view.goto(written.as_uri())
    view.wait_for_function("[...document.querySelectorAll('.chart')].every((chart) => chart.dataset.drawn)")
    assert trouble == [written.as_uri()]
    trouble.clear()
    return view, trouble


def column(view: Any, table: str, place: int) -> list[str]:
    """The visible cells of a table's column."""
    cells = view.locator(f"#{table} tbody tr:not([hidden]) td:nth-child({place + 1})")
    return [text.strip() for text in cells.all_inner_texts()]


def unfold(view: Any, section: str) -> None:
    """Unfold a part by the keyboard."""
    view.locator(f"#{section} > details > summary").press("Enter")


def chosen(view: Any) -> dict[str, list[str]]:
    """What the chooser says: by heading the mixers below it."""
    blocks = view.locator(".chooser .found h4").all_inner_texts()
    lists = view.locator(".chooser .found ul").all()
    return {head.split(" (")[0]: found.locator("b").all_inner_texts() for head, found in zip(blocks, lists, strict=True)}


@pytest.mark.browser
def test_the_page_begins_with_findings_and_folds_the_rest(opened: tuple[Any, list[str]]) -> None:
    view, trouble = opened
    sections = view.locator("main > section").evaluate_all("found => found.map(section => section.id)")
    assert sections[:2] == ["short", "choose"]
    questions = view.locator("#short h3.question").all_inner_texts()
    assert questions[:2] == ["How accurate is it?", "From which image side is it faster?"]
    assert view.locator("#short .chart").evaluate_all("found => found.map(chart => chart.id)") == [
        "chart-accuracy",
        "chart-profile",
    ]
    folded = view.locator("main > section > details").evaluate_all("found => found.map(part => part.open)")
    assert len(folded) == len(sections) - 2
    assert not any(folded)
    view.locator('nav a[href="#cost"]').press("Enter")
    view.wait_for_function("document.querySelector('#cost > details').open")
    assert view.locator("#table-profile").is_visible()
    assert trouble == []


@pytest.mark.browser
def test_the_chooser_lists_what_remains_by_the_keyboard_alone(opened: tuple[Any, list[str]]) -> None:
    view, trouble = opened
    # At 672 px linear takes 150 ms [135, 181], pool 301 ms [271, 361], softmax 337 ms; pool is the second in accuracy.
    assert chosen(view) == {"Fits": ["linear", "pool", "softmax"]}
    latency = view.locator('.chooser input[name="latency"]')
    latency.press("ArrowRight")  # the longest time that was measured: softmax's, whose interval reaches over it
    assert chosen(view) == {"Fits": ["linear"], "May fit: its interval reaches over a limit": ["pool", "softmax"]}
    latency.press("End")  # the shortest, at the smallest side
    assert chosen(view) == {"Does not fit": ["linear", "pool", "softmax"]}
    view.locator('.chooser input[name="side"]').press("Home")
    assert chosen(view) == {"May fit: its interval reaches over a limit": ["softmax"], "Does not fit": ["linear", "pool"]}
    latency.press("Home")
    accuracy = view.locator('.chooser input[name="accuracy"]')
    accuracy.press("End")
    found = chosen(view)
    assert "softmax" in found["May fit: its interval reaches over a limit"]
    assert "linear" in found["Does not fit"]
    assert trouble == []


@pytest.mark.browser
def test_what_was_not_measured_is_unknown_and_what_failed_does_not_fit(tmp_path: Path, browser: Any) -> None:
    memory = {"memory_bytes": 1e8, "memory_status": "ok"}
    made = [cell(mixer, side, 0.1 * side / 224, **memory) for mixer in ("linear", "softmax") for side in (224, 448)]
    made += [cell("pool", 224, 0.05), cell("xca", 224, 0.1), cell("xca", 448, None, status="oom", message="no room")]
    report.write(made, tmp_path)
    view = browser.new_page()
    view.goto((tmp_path / "page.html").as_uri())
    assert chosen(view) == {"Fits": ["linear", "softmax"], "Unknown": ["pool"], "Does not fit": ["xca"]}
    view.locator('.chooser input[name="side"]').press("Home")
    assert chosen(view) == {"Fits": ["pool", "linear", "softmax", "xca"]}
    view.locator('.chooser input[name="memory"]').press("End")
    assert chosen(view) == {"Fits": ["linear", "softmax"], "Unknown": ["pool", "xca"]}


@pytest.mark.browser
def test_the_page_works_from_a_file(opened: tuple[Any, list[str]]) -> None:
    view, trouble = opened
    assert view.locator(".plot svg.marks").count() == 3
    unfold(view, "accuracy")
    headings = [text.strip() for text in view.locator("#table-accuracy thead th").all_inner_texts()]
    mixer, accuracy = headings.index("mixer"), headings.index("accuracy (%, measured)")

    assert column(view, "table-accuracy", mixer)[:4] == ["hydra", "linear", "pool", "softmax"]
    view.locator("#table-accuracy thead th button").nth(accuracy).click()
    by_accuracy = column(view, "table-accuracy", mixer)
    assert by_accuracy[:3] == ["linear", "pool", "softmax"]
    assert by_accuracy[-1] == "hydra", "a single seed is never ranked, though its 99 % would be the best"
    view.locator("#table-accuracy thead th button").nth(accuracy).click()
    by_accuracy = column(view, "table-accuracy", mixer)
    assert by_accuracy[2:5] == ["softmax", "pool", "linear"], "under the simple classifiers, which are better"
    assert by_accuracy[-1] == "hydra"

    view.locator('input[data-table="table-accuracy"]').fill("vit-tiny LINEAR")
    assert column(view, "table-accuracy", mixer) == ["linear"]
    view.locator('input[data-table="table-accuracy"]').fill("")
    assert len(column(view, "table-accuracy", mixer)) == 6

    chart = view.locator("#chart-accuracy")
    assert "MACs of one image" in (chart.locator("svg.marks").text_content() or "")
    for option in ("2", "4"):
        chart.locator('select[data-axis="x"]').select_option(option)
        words = chart.locator(f'select[data-axis="x"] option[value="{option}"]').inner_text()
        view.wait_for_function(
            "(words) => document.querySelector('#chart-accuracy svg.marks').textContent.includes(words)", arg=words
        )
    assert chart.get_attribute("data-drawn") == "memory accuracy"
    assert chart.get_attribute("data-points") == "3", "hydra was not profiled"
    view.locator('#chart-profile select[data-axis="y"]').select_option("1")
    view.wait_for_function("document.querySelector('#chart-profile').dataset.drawn === 'tokens memory'")
    assert trouble == []


@pytest.mark.browser
def test_the_page_fits_a_narrow_screen_and_follows_the_colour_scheme(opened: tuple[Any, list[str]]) -> None:
    view, trouble = opened
    ink = "getComputedStyle(document.querySelector('.chart svg text')).fill"
    light = view.evaluate(ink)
    view.emulate_media(color_scheme="dark")
    assert view.evaluate(ink) != light
    view.emulate_media(color_scheme="dark", media="print")
    assert view.evaluate(ink) == light, "black on white on paper"
    view.emulate_media(media="screen")
    view.set_viewport_size({"width": 390, "height": 800})
    view.wait_for_function("document.querySelector('#chart-accuracy').dataset.narrow === 'true'")
    assert view.evaluate("document.documentElement.scrollWidth") <= 390
    view.evaluate("document.querySelectorAll('main details').forEach((part) => { part.open = true; })")
    assert view.evaluate("document.documentElement.scrollWidth") <= 390
    cut = "found => found.filter((e) => e.getBoundingClientRect().right > 390).map((e) => e.className + e.textContent)"
    assert view.locator(".finding, .chooser label, .chooser li, nav a, summary, .answers li").evaluate_all(cut) == []
    assert trouble == []


def test_small_reports_give_a_page(tmp_path: Path) -> None:
    report.write(small_report(), tmp_path)
    assert "<svg" not in (tmp_path / "page.html").read_text().split("<script>")[0]
