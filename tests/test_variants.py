"""Trainings of one recipe with different settings: tables and sentences say which, and compare no model with another's size."""

from __future__ import annotations

import pytest
from probe_rows import probe_row
from test_report import train

from wfbench.analysis.line_results import names
from wfbench.analysis.results import analyse
from wfbench.analysis.variants import with_settings
from wfbench.records import AnyRow, ProbeRow, TrainRow
from wfbench.report import answers, make
from wfbench.report.findings import findings, to_markdown


def wide(width: int, mixer: str = "linear", seed: int = 0, **more: object) -> ProbeRow:
    """A run of recall in a model of another width, as a sweep with --vary starts it."""
    command = f"wfbench train --recipe probe-recall --mixer {mixer} --set epochs=9 --set model.embed_dim={width} --seed {seed}"
    return probe_row("recall", mixer, seed, recipe_digest=f"of {width}", command=command, macs=width * 1e5, **more)


def small(rate: str | None, mixer: str = "softmax", seed: int = 0, accuracy: float = 0.9, **more: object) -> TrainRow:
    given = "" if rate is None else f" --set optim.lr={rate}"
    command = f"wfbench train --recipe small --mixer {mixer} --seed {seed}{given}"
    return train(mixer, seed, accuracy, **{"command": command, "recipe_digest": f"rate {rate}"} | more)


def test_each_width_of_a_model_has_a_table_of_its_own_with_its_own_cost() -> None:
    made = make([wide(width, mixer) for width in (32, 64) for mixer in ("linear", "softmax")])
    capability = {table.title: table for table in made.tables if table.kind == "capability"}
    assert [title.split(", ")[0] for title in capability] == [
        "Capability: vit-tiny (embed_dim=32)",
        "Capability: vit-tiny (embed_dim=64)",
    ]
    assert [result.lines[0].any.runs[0].macs for result in made.results.capabilities] == [3.2e6, 6.4e6]
    assert all(len(result.probes) == 1 for result in made.results.capabilities)
    titles = [table.title for table in made.tables]
    assert len(set(titles)) == len(titles)
    said = to_markdown(findings(made.results))
    assert "Recall by vit-tiny (embed_dim=32), after" in said
    assert "Recall by vit-tiny (embed_dim=64), after" in said
    assert "epochs=9" not in said, "all have it"
    assert "vit-tiny (embed_dim=64) with" in answers.to_markdown(answers.answers(made.results))


def test_a_single_recipe_is_called_as_it_is() -> None:
    rows: list[AnyRow] = [wide(32), wide(32, "softmax"), small("1e-3")]
    assert with_settings(rows) == rows


def test_what_is_not_of_the_model_stands_behind_the_recipe_and_an_evaluation_has_it_too() -> None:
    other = small("2e-3", command="wfbench eval runs/small --resolution 64")
    one, two, plain, evaluated = with_settings([small("1e-3"), small("2e-3"), small(None), other])
    assert [row.recipe for row in (one, two, plain)] == ["small (optim.lr=1e-3)", "small (optim.lr=2e-3)", "small"]
    assert evaluated.recipe == two.recipe
    assert {row.model for row in (one, two, plain, evaluated)} == {"vit-tiny"}


def test_what_differs_among_the_lines_of_a_recipe_is_no_part_of_it() -> None:
    """A tuned rate, and how it was chosen."""
    tuned = [
        small(None, mixer, command=f"wfbench train --mixer {mixer} --set optim.lr={rate} --set 'chosen.rates=[1, {rate}]'")
        for mixer, rate in (("softmax", 1), ("linear", 2))
    ]
    longer = [row.model_copy(update={"recipe_digest": "longer", "command": row.command + " --set epochs=9"}) for row in tuned]
    assert [row.recipe for row in with_settings([*tuned, *longer])] == ["small"] * 2 + ["small (epochs=9)"] * 2


@pytest.mark.parametrize("option", ["--lr 5", "--lr=5", "--set optim.lr=5"])
def test_however_a_setting_was_given(option: str) -> None:
    row = small(None, command=f"wfbench train --recipe small {option}")
    other = small("1")
    assert [one.recipe for one in with_settings([row, other])] == ["small (optim.lr=5)", "small (optim.lr=1)"]


def test_a_factor_is_in_the_name_of_its_line_already() -> None:
    rows = [small("1", command=f"wfbench train --recipe small --set model.every={n}", every=n, offset=0) for n in (2, 3)]
    rows = [row.model_copy(update={"recipe_digest": f"every {row.every}"}) for row in rows]
    assert with_settings(rows) == rows


def test_no_two_lines_of_a_sentence_are_called_alike() -> None:
    rows = [small(None, mixer, accuracy=0.9) for mixer in ("softmax", "linear")]
    narrow = [
        row.model_copy(
            update={"recipe_digest": "narrow", "command": row.command + " --set model.embed_dim=32", "accuracy": 0.5}
        )
        for row in rows
    ]
    results = analyse([*rows, *narrow])
    said = to_markdown(findings(results))
    for words in ("linear in vit-tiny 90.00", "linear in vit-tiny (embed_dim=32) 50.00", "softmax in vit-tiny 90.00"):
        assert words in said
    (accuracy,) = results.accuracy
    assert len(set(names(accuracy.lines).values())) == 4
    versions = [row.model_copy(update={"recipe_digest": f"version {n}"}) for n in (1, 2) for row in rows]
    (accuracy,) = analyse(versions).accuracy
    assert sorted(names(accuracy.lines).values()) == [
        *("linear recipe version 1", "linear recipe version 2", "softmax recipe version 1", "softmax recipe version 2"),
    ]


def test_results_of_one_data_set_by_two_recipes_name_them_in_short() -> None:
    said = to_markdown(findings(analyse([small("1e-3"), small("2e-3", accuracy=0.5)])))
    assert "Digits, recipe small (optim.lr=1e-3), accuracy in %" in said
    assert "Digits, recipe small (optim.lr=2e-3), accuracy in %" in said
