"""What the documents say is so."""

import importlib.util
import re
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import wfbench
import wfbench.models as models
from wfbench import records
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


def test_the_findings_in_the_readme_are_the_generated_ones_and_it_ends(update):
    readme = (ROOT / "README.md").read_text()
    assert update.SHOWN
    assert update.with_findings(readme) == readme
    assert len(readme.split()) <= 1200


def test_figures_and_links_of_the_documents_exist():
    for file in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        links = re.findall(r"\]\((?!http|#)([^)]+)\)", file.read_text())
        assert [link for link in links if not (file.parent / link.split("#")[0]).exists()] == [], file.name


def test_the_page_of_results_is_the_generated_one():
    text = (ROOT / "docs" / "RESULTS.md").read_text()
    assert script("make_results").document() == text
    assert text.count("\n- ") > 20


def test_results_that_are_not_there_are_named_with_their_command(tmp_path):
    make = script("make_results")
    make.ROOT, make.FOLDERS = tmp_path, {"gpu": ("One GPU", "accuracy.png")}
    (tmp_path / "results" / "gpu").mkdir(parents=True)
    (tmp_path / "results" / "gpu" / "make.sh").touch()
    assert make.document().endswith("\n## One GPU\n\nNot yet run: `bash results/gpu/make.sh`.\n")


def test_the_page_of_commands_is_the_generated_one():
    text = (ROOT / "docs" / "COMMANDS.md").read_text()
    assert script("make_commands").document() == text
    for name, command in get_command(app).commands.items():
        assert f"`wfbench {name}" in text
        assert [p.opts for p in command.params if p.param_type_name == "option" and max(p.opts, key=len) not in text] == [], (
            name
        )


def test_findings_are_chosen_by_how_they_begin(update, tmp_path):
    answers = tmp_path / "answers.md"
    answers.write_text("## In short\n\n- Recall: 4 pairs.\n- Times are long.\n\n## What can it do?\n\n- Recall: every line\n")
    assert update.in_short(answers) == "- Recall: 4 pairs.\n- Times are long."
    assert update.in_short(answers, ("Times",)) == "- Times are long."
    with pytest.raises(ValueError, match="no such sentence"):
        update.in_short(answers, ("every",))


def test_the_mixer_of_the_readme_is_counted_by_two_counters_that_agree(tmp_path):
    count = count_flops(models.create("vit-tiny", example(tmp_path)), (1, 3, 224, 224))
    assert set(count.counts) == {"flop_counter", "fvcore"}
    assert len(set(count.counts.values())) == 1
    assert count.macs > 5e8


def example(tmp_path):
    """The mixer that the README shows, in a file."""
    source = re.findall(r"```python\n(from mixers.*?)```", (ROOT / "README.md").read_text(), flags=re.S)[0]
    assert len([line for line in source.splitlines() if line.strip()]) <= 12
    assert source in (ROOT / "docs" / "ADD_A_MIXER.md").read_text()
    assert source == (ROOT / "examples" / "my_mixer.py").read_text()
    (tmp_path / "my_mixer.py").write_text(source)
    return f"{tmp_path}/my_mixer.py:MeanGate"


@pytest.mark.slow
def test_the_mixer_of_the_readme_stands_in_every_table(tmp_path):
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
    accuracy, profile = ((out / f"{name}.md").read_text() for name in ("accuracy", "profile"))
    for table in (accuracy, profile):
        assert "MeanGate" in table
    (cell,) = (
        r
        for r in records.read(out / "profile" / "records.jsonl")[0]
        if r.kind == "profile" and r.mixer == name and r.resolution == (64, 64)
    )
    assert (cell.status, cell.macs_error) == ("ok", None)
    assert cell.macs > 0
    exponents = [r for r in records.read(out / "profile" / "records.jsonl")[0] if r.kind == "scaling" and r.mixer == name]
    assert exponents


@pytest.mark.slow
def test_the_mixer_of_the_readme_is_refuted_once_a_line_is_wrong(tmp_path):
    name = example(tmp_path)
    file = tmp_path / "my_mixer.py"
    file.write_text(file.read_text().replace("x.mean(dim=1, keepdim=True)", "x.mean(dim=(0, 1), keepdim=True)"))
    judged = CliRunner().invoke(app, ["verify", name])
    assert judged.exit_code == 1
    assert "batch independence" in judged.output


def test_templates_ask_for_what_verify_says():
    templates = [*(ROOT / ".github").rglob("*.md")]
    assert len(templates) == 3
    for template in templates:
        assert "output of `wfbench verify " in template.read_text(), template.name


def test_the_walk_to_a_pull_request_is_short_and_its_files_are_there():
    text = (ROOT / "docs" / "ADD_A_MIXER.md").read_text()
    assert len(text.splitlines()) <= 120
    links = re.findall(r"\]\((?!http|#)([^)]+)\)", text)
    assert [link for link in links if not (ROOT / "docs" / link.split("#")[0]).exists()] == []


def test_the_citation_has_the_version():
    assert f"version: {wfbench.__version__}\n" in (ROOT / "CITATION.cff").read_text()
