"""Tables and the figure of segmentation by image size: which evaluations are averaged, and whose time stands beside them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from wfbench import records, report
from wfbench.analysis.results import analyse
from wfbench.records import DenseEvalRow, ProfileRow
from wfbench.report.figures import mixer_styles, segmentation_sizes
from wfbench.report.figures.segmentation import times

ROW = DenseEvalRow(
    environment=records.stamp("cpu"),
    model="vit-tiny",
    mixer="linear",
    recipe="scenes",
    recipe_digest="recipe",
    dataset="scenes of digits",
    image_size=(64, 64),
    trained_size=(64, 64),
    dtype="float32",
    decoder="linear",
    classes=("background", "0"),
    iou=(0.5, 0.5),
    miou=0.5,
    pixel_accuracy=0.5,
    loss=1.0,
    samples=12,
    pixels=100,
    seed=0,
    weights_sha256="weights",
    mean=(0.5,),
    std=(0.5,),
    mixer_digest="mixer",
    model_digest="models",
    data_digest="data",
)


def row(size: int = 64, seed: int = 0, miou: float = 0.5, **more: object) -> DenseEvalRow:
    return ROW.model_copy(update={"image_size": (size, size), "seed": seed, "miou": miou, **more})


def test_weights_at_several_sizes_are_one_line_with_the_mean_over_its_seeds() -> None:
    by_size = {64: (0.5, 0.6, 0.64), 128: (0.3, 0.34, 0.32)}
    (table,) = report.tables([row(size, seed, v) for size, found in by_size.items() for seed, v in enumerate(found)])
    assert table.name == "segmentation-sizes"
    (line,) = table.data.to_dict("records")
    for size, found in by_size.items():
        half = stats.t.ppf(0.975, 2) * np.std(found, ddof=1) / 3**0.5
        assert line[f"miou_{size}"] == pytest.approx(np.mean(found))
        assert line[f"miou_{size}_high"] == pytest.approx(np.mean(found) + half)
    assert not [note for note in table.notes if "left out" in note]


@pytest.mark.parametrize(
    "change",
    [
        {"samples": 6},
        {"data_digest": "clutter"},
        {"dataset": "other"},
        {"mean": (0.4,)},
        {"std": (0.4,)},
        {"resized": "bicubic"},
        {"slide": 0.5},
        {"weights": "ema"},
        {"decoder": "dpt"},
    ],
)
def test_evaluations_of_another_kind_stand_in_a_table_of_their_own(change: dict[str, object]) -> None:
    rows = [row(size, 0, 0.5) for size in (64, 128)] + [row(size, 1, 0.7, **change) for size in (64, 128)]
    tables = report.tables(rows)
    assert sorted(table.data["miou_128"][0] for table in tables) == [0.5, 0.7]
    assert len({table.name for table in tables}) == 2


def test_of_a_repeated_evaluation_the_newest_counts_and_a_note_says_so() -> None:
    old = row(128, 0, 0.1, created="2025-01-01T00:00:00+00:00")
    (table,) = report.tables([row(128, 0, 0.4), old, row(128, 1, 0.6)])
    assert table.data["miou_128"][0] == pytest.approx(0.5)
    assert "1 earlier row of the same cell was left out: the latest counts." in table.notes
    assert analyse([old]).segmentation_sizes[0].repeats == 0


def timed(size: int, ms: float, **more: object) -> ProfileRow:
    environment = ROW.environment.model_copy(update={"device": "a CPU", "threads": 1} | more.pop("place", {}))  # type: ignore
    return ProfileRow(
        **{
            "environment": environment,
            "model": "vit-tiny of scenes",
            "mixer": "linear",
            "session": "old",
            "resolution": (size, size),
            "tokens": size**2 // 16,
            "batch": 1,
            "mode": "infer",
            "dtype": "float32",
            "sdpa_backend": "chosen by PyTorch",
            "path": "auto",
            "protocol": "isolated-v1",
            "order_seed": 0,
            "status": "ok",
            "median": ms / 1e3,
            "created": "2025-01-01T00:00:00+00:00",
            "decoder": "linear",
        }
        | more
    )


def test_the_times_beside_the_miou_are_of_one_setting_which_the_axis_names() -> None:
    new = {"session": "new", "created": "2025-02-01T00:00:00+00:00"}
    rows = [
        *(timed(size, 1.0) for size in (64, 128)),
        *(timed(size, 8.0, **new, batch=4, place={"device": "a GPU"}) for size in (64, 128)),
        timed(64, 12.0, **new, batch=4, place={"device": "a GPU"}, local_conv="dwc"),
        # Newer still, and of another model, another way to run it, or another decoder.
        timed(64, 0.1, session="c", created="2025-03-01T00:00:00+00:00", mode="train"),
        timed(64, 0.1, session="d", created="2025-03-01T00:00:00+00:00", model="vit-tiny of another"),
        timed(64, 0.1, session="e", created="2025-03-01T00:00:00+00:00", decoder="dpt", batch=2),
    ]
    evaluated = [row(size, 0, 0.5, local_conv=conv) for size in (64, 128) for conv in ("none", "dwc")]
    results = analyse([*evaluated, *rows])
    (sizes,) = results.segmentation_sizes
    setting, found = times(sizes, results.costs.profiles)
    assert setting is not None
    assert (setting.device, setting.batch) == ("a GPU", 4)
    points = {name: {size[0]: point.estimate for size, point in line.items()} for name, line in found.items()}
    assert points == {"linear": {64: pytest.approx(2), 128: pytest.approx(2)}, "linear + DWC": {64: pytest.approx(3)}}
    tables = report.tables([*evaluated, *rows])
    (table,) = [table for table in tables if table.kind == "segmentation-sizes"]
    figure = segmentation_sizes(sizes, table, results.costs.profiles, mixer_styles(tables))
    assert figure is not None
    assert figure.axes[1].get_ylabel().splitlines()[1] == "a GPU, float32, batch 4, 1 thread"
    assert times(sizes, []) == (None, {})
