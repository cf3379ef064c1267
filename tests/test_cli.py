"""The command line: what it says to bad input, what it writes, what it does not import."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from wfbench.cli import app

SMALL = ["--set", "model.embed_dim=16", "--set", "model.depth=2", "--set", "epochs=1", "--set", "optim.warmup_epochs=0"]


def run(*words: object):
    return CliRunner().invoke(app, [str(w) for w in words])


def test_importing_the_command_line_does_not_import_torch():
    code = (
        "import sys, wfbench.cli; print([m for m in ('torch', 'timm', 'pandas', 'matplotlib', 'sklearn') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_commands_and_their_flags_are_what_users_rely_on():
    flags = {
        "mixers": ["--json"],
        "train": ["--mixer", "--recipe", "--data", "--set", "--seed", "--out", "--resume", "--device", "--local-conv", "--pos"],
        "eval": ["--device"],
        "profile": ["--mixer", "--model", "--resolution", "--out", "--batch", "--rounds", "--device", "--local-conv", "--pos"]
        + ["--mode", "--tokens", "--dtype", "--compile", "--channels-last", "--threads", "--baseline", "--attention", "--force"]
        + ["--alternatives", "--saturate", "--breakdown", "--no-isolate", "--no-memory", "--seconds", "--budget"],
        "report": ["--out", "--claims"],
        "sweep": [
            "--mixer",
            "--seed",
            "--recipe",
            "--local-conv",
            "--pos",
            "--set",
            "--vary",
            "--data",
            "--baseline",
            "--match",
        ]
        + ["--tune", "--trials", "--claims", "--out", "--jobs", "--threads", "--device", "--slurm", "--partition", "--time"]
        + ["--gpus", "--cpus", "--dry-run"],
        "demo": ["--out"],
    }
    for command, expected in flags.items():
        code = f"import sys; sys.argv = ['wfbench', '{command}', '--help']; from wfbench.cli import main; main()"
        env = {"COLUMNS": "200", "PATH": "/usr/bin:/bin", "NO_COLOR": "1", "TERM": "dumb"}
        text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
        assert not [flag for flag in expected if flag not in text], command


def test_mixers_lists_all_and_json_is_for_machines():
    found = json.loads(run("mixers", "--json").output)
    by_name = {m["name"]: m for m in found}
    assert by_name["weightformer"]["every"] == 3
    assert by_name["softmax"]["complexity"] == "quadratic"
    assert "arXiv" in run("mixers").output


def empty_dataset(tmp_path: Path) -> Path:
    (tmp_path / "empty" / "train").mkdir(parents=True)
    (tmp_path / "empty" / "val").mkdir()
    return tmp_path / "empty"


def one_class_without_images(tmp_path: Path) -> Path:
    root = tmp_path / "gap"
    for part in ("train", "val"):
        for c in "ab":
            (root / part / c).mkdir(parents=True)
        Image.new("L", (8, 8)).save(root / part / "a" / "0.png")
    return root


def unwritable(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("in the way")
    return tmp_path / "file" / "run"


BAD = {
    "unknown mixer": (lambda t: ["train", "--mixer", "sotfmax"], ["'sotfmax'", "softmax", "linear"]),
    "unknown recipe": (lambda t: ["train", "--recipe", "digitz"], ["'digitz'", "did you mean digits"]),
    "unknown key": (lambda t: ["train", "--set", "optim.lrr=1"], ["optim.lrr", "did you mean lr"]),
    "negative epochs": (lambda t: ["train", "--set", "epochs=-3"], ["epochs = -3", "greater than or equal to 1"]),
    "no such data": (lambda t: ["train", "--data", t / "nowhere"], ["nowhere", "train/ and val/"]),
    "empty data": (lambda t: ["train", "--data", empty_dataset(t)], ["no images", "train"]),
    "a class without images": (lambda t: ["train", "--data", one_class_without_images(t)], ["no images", "b"]),
    "size and patch": (lambda t: ["train", "--set", "model.image_size=9"], ["9x9", "multiple of 2", "8 or 10"]),
    "resolution and patch": (lambda t: ["profile", "--resolution", 230, "--out", t / "p"], ["230x230", "224 or 240"]),
    "negative resolution": (lambda t: ["profile", "--resolution", -16, "--out", t / "p"], ["-16", "1 or more"]),
    "heads": (lambda t: ["train", "--set", "model.num_heads=5"], ["num_heads = 5", "divisor of 64"]),
    "unwritable": (lambda t: ["train", "--out", unwritable(t)], ["cannot write", "another --out"]),
    "unwritable report": (lambda t: ["report", records(t), "--out", unwritable(t)], ["cannot write"]),
    "no records": (lambda t: ["report", t / "nowhere"], ["nowhere"]),
    "not a run": (lambda t: ["eval", t], ["not a run directory", "config.yaml"]),
    "unknown model": (lambda t: ["profile", "--model", "vit-tini", "--out", t / "p"], ["'vit-tini'", "did you mean vit-tiny"]),
    "unknown device": (lambda t: ["train", "--device", "tpu"], ["'tpu'", "auto, cpu or cuda"]),
    "batch too large": (lambda t: ["train", "--set", "batch_size=5000"], ["5000", "1437 images"]),
    "mixer file": (lambda t: ["train", "--mixer", t / "no.py:Mixer"], ["no.py", "not found"]),
    "malformed set": (lambda t: ["train", "--set", "epochs"], ["'epochs'", "key=value"]),
    "betas": (lambda t: ["train", "--set", "optim.betas=[1.5,0.9]"], ["optim.betas", "1.5"]),
    "holdout": (lambda t: ["train", "--set", "data.holdout=0.001"], ["0.001", "some of each class"]),
    "channels": (lambda t: ["train", "--set", "model.in_channels=2"], ["model.in_channels", "1 or 3"]),
    "seed": (lambda t: ["train", "--seed", 10**20], ["seed", "less than"]),
    "a mixer called null": (lambda t: ["train", "--mixer", "null"], ["'null'", "softmax"]),
    "an empty mixer": (lambda t: ["train", "--mixer", ""], ["model.mixer"]),
    "grid too small": (lambda t: ["train", "--mixer", "weightformer", "--set", "model.patch_size=8"], ["1x1", "at least 2x2"]),
}


def records(tmp_path: Path) -> Path:
    from wfbench import recipe
    from wfbench import records as r
    from wfbench.tasks import classify

    r.append(tmp_path / "records.jsonl", classify.baselines(recipe.load("digits")))
    return tmp_path / "records.jsonl"


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_is_one_message_and_exit_code_2(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words, expected = BAD[case]
    result = run(*words(tmp_path))
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert result.output.count("error:") == 1
    for word in expected:
        assert word in result.output, result.output


def test_a_failed_run_is_exit_code_1_and_names_the_step(tmp_path):
    result = run("train", *SMALL, "--set", "optim.lr=1e30", "--set", "optim.clip_grad=null", "--out", tmp_path / "run")
    assert result.exit_code == 1, result.output
    assert "step" in result.output
    assert "Traceback" not in result.output


def test_train_eval_report_agree(tmp_path):
    out = tmp_path / "run"
    trained = run("train", "--mixer", "linear", *SMALL, "--out", out)
    assert trained.exit_code == 0, trained.output
    again = run("eval", out)
    assert again.exit_code == 0, again.output
    assert "the same" in again.output
    reported = run("report", out, "--out", tmp_path / "report")
    assert reported.exit_code == 0, reported.output
    accuracy = json.loads((out / "result.json").read_text())["accuracy"]
    assert f"{100 * accuracy:.2f}" in reported.output


def test_eval_says_when_the_weights_are_not_those_recorded(tmp_path):
    out = tmp_path / "run"
    run("train", "--mixer", "linear", *SMALL, "--out", out)
    result = json.loads((out / "result.json").read_text())
    (out / "result.json").write_text(json.dumps(result | {"accuracy": 0.123}))
    again = run("eval", out)
    assert again.exit_code == 1
    assert "NOT the same" in again.output


def test_a_mixer_of_ones_own_trains_and_profiles(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE)
    assert run("train", "--mixer", "mine.py:Mean", *SMALL, "--out", "run").exit_code == 0
    words = ["--model", "vit-tiny", "--resolution", 32, "--resolution", 64, "--rounds", 2, "--no-isolate", "--out", "profile"]
    result = run("profile", "--mixer", "mine.py:Mean", "--mixer", "softmax", *words)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in Path("profile/records.jsonl").read_text().splitlines()]
    assert {r["mixer"] for r in rows if r["kind"] == "profile"} == {"mine.py:Mean", "softmax"}
    assert all(r["status"] == "ok" and r["macs"] for r in rows if r["kind"] == "profile")


def test_a_mixer_that_cannot_be_counted_still_trains_and_its_row_says_why(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE.replace("return self.proj(", "float(x.sum().item())\n        return self.proj("))
    result = run("train", "--mixer", "mine.py:Mean", *SMALL, "--out", "run")
    assert result.exit_code == 0, result.output
    row = json.loads(Path("run/result.json").read_text())
    assert row["macs"] is None
    assert "cannot be counted" in row["macs_error"]


def test_a_disk_that_fills_up_is_one_message_and_keeps_the_run_resumable(tmp_path):
    limited = f"ulimit -f 60; exec {sys.executable} -W ignore -m wfbench train --out {tmp_path}/run " + " ".join(SMALL)
    done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "cannot write a checkpoint" in done.stderr
    assert "Traceback" not in done.stderr
    assert run("train", "--resume", "--out", tmp_path / "run").exit_code == 0


MINE = """
from torch import nn

class Mean(nn.Module):
    def __init__(self, dim, *, num_heads=None):
        super().__init__()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x, grid):
        return self.proj(x.mean(dim=1, keepdim=True)).expand_as(x)

    def macs(self, grid, batch=1, path="released"):
        return batch * self.proj.in_features ** 2
"""


@pytest.mark.slow
def test_a_wheel_carries_the_recipes(tmp_path):
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, root], check=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert "wfbench/recipes/digits.yaml" in names
    assert "mixers/weightformer/dynamic_linear.py" in names


@pytest.mark.slow
def test_the_demo_does_the_whole_job(tmp_path):
    result = run("demo", "--out", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for f in (tmp_path / "demo").rglob("records.jsonl") for line in f.read_text().splitlines()]
    kinds = [row["kind"] for row in rows]
    assert kinds.count("train") == 3
    assert kinds.count("baseline") == 2
    assert kinds.count("profile") == 12
    assert all(row["accuracy"] >= 0.94 for row in rows if row["kind"] in ("train", "baseline"))
    assert all(row["status"] == "ok" and len(row["counted_by"]) == 3 for row in rows if row["kind"] == "profile")
    assert {p.suffix for p in (tmp_path / "demo").iterdir()} >= {".md", ".csv", ".png", ".jsonl"}
    assert "rank nothing" in result.output
