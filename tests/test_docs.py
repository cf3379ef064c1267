"""What the documents say is so."""

import importlib.util
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import wfbench.models as models
from wfbench.cli import app
from wfbench.measure import count_flops

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def update():
    return script("update_readme")


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_in_the_readme_are_the_generated_ones(update):
    readme = (ROOT / "README.md").read_text()
    assert update.SHOWN
    assert update.with_tables(readme) == readme


def test_the_page_of_results_is_the_generated_one():
    text = (ROOT / "docs" / "RESULTS.md").read_text()
    assert script("make_results").document() == text
    assert text.count("\n- ") > 20


def test_columns_of_a_table_are_chosen_by_their_names(update):
    table = "| a | b | c |\n| :--- | ---: | ---: |\n| 1 | \\|x\\| &lt; 2 |  |\n\n- a note"
    assert update.with_columns(table, ("c", "b")) == "| b | c |\n| ---: | ---: |\n| \\|x\\| &lt; 2 |  |"
    with pytest.raises(ValueError, match="no column d"):
        update.with_columns(table, ("a", "d"))


def test_the_readme_shows_the_contributors_mixer_and_it_is_counted(tmp_path):
    name = example(tmp_path)
    assert (tmp_path / "my_mixer.py").read_text() in (ROOT / "README.md").read_text()
    count = count_flops(models.create("vit-tiny", name), (1, 3, 224, 224))
    assert len(count.counts) == 3
    assert count.macs > 5e8


def test_files_that_the_readme_points_to_exist():
    links = re.findall(r"\]\((?!http|#)([^)]+)\)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link.split("#")[0]).exists()] == []


def example(tmp_path):
    """The mixer that CONTRIBUTING shows, in a file."""
    source = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.S)[0]
    assert len([line for line in source.splitlines() if line.strip()]) <= 25
    (tmp_path / "my_mixer.py").write_text(source)
    return f"{tmp_path}/my_mixer.py:MeanGate"


def test_the_contributors_mixer_is_verified_trained_profiled_and_reported(tmp_path):
    name = example(tmp_path)
    judged = CliRunner().invoke(app, ["verify", name])
    assert judged.exit_code == 0, judged.output
    assert "FAILS" not in judged.output
    settings = ["model.embed_dim=16", "model.depth=2", "epochs=1", "optim.warmup_epochs=0"]
    overrides = [word for setting in settings for word in ("--set", setting)]
    out = tmp_path / "runs"
    trained = CliRunner().invoke(app, ["train", "--mixer", name, "--out", str(out / "train"), *overrides])
    assert trained.exit_code == 0, trained.output
    measure = ["profile", "--mixer", "softmax", "--mixer", name, "--resolution", "32", "--resolution", "64", "--no-isolate"]
    profiled = CliRunner().invoke(app, [*measure, "--out", str(out / "profile")])
    assert profiled.exit_code == 0, profiled.output
    reported = CliRunner().invoke(app, ["report", str(out)])
    assert reported.exit_code == 0, reported.output
    assert "MeanGate" in (out / "tables.md").read_text()


def test_the_contributors_mixer_is_refuted_once_a_line_is_wrong(tmp_path):
    name = example(tmp_path)
    file = tmp_path / "my_mixer.py"
    file.write_text(file.read_text().replace("x.mean(dim=1, keepdim=True)", "x.mean(dim=(0, 1), keepdim=True)"))
    judged = CliRunner().invoke(app, ["verify", name])
    assert judged.exit_code == 1
    assert "batch independence" in judged.output
