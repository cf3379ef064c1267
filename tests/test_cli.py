"""The command line: what it says to bad input, what it writes, what it does not import."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import image_folder, listing
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from wfbench import recipe as recipes
from wfbench.cli import app
from wfbench.cli.progress import Told
from wfbench.errors import InputError
from wfbench.signals import Interrupted

SMALL = ["--set", "model.embed_dim=16", "--set", "model.depth=2", "--set", "epochs=1", "--set", "optim.warmup_epochs=0"]


def run(*words: object, **more: object):
    return CliRunner().invoke(app, [str(w) for w in words], **more)


def test_importing_the_command_line_does_not_import_torch():
    code = (
        "import sys, wfbench.cli; print([m for m in ('torch', 'timm', 'pandas', 'matplotlib', 'sklearn') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_line_of_news_fits_the_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys, "stdout", Terminal())
    Told()("x" * 99)
    assert sys.stdout.getvalue() == "\r\x1b[K" + 39 * "x", "a longer one would wrap, and its first part stay"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("export records.jsonl out --to timm-csv --dtype bfloat16", "--dtype"),
        ("export records.jsonl out --to timm-csv --weights ema", "--weights"),
        ("erf run --resolution 384 --out out", "--resolution"),
        ("erf run --model vit-small --out out", "--model"),
        ("eval run --weights ema --out out", "--weights"),
        ("eval file.safetensors --recipe digits --weights ema --out out", "--weights"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("run/config.yaml").write_text(recipes.dump(recipes.load("probe-recall", ["model.mixer=softmax"])))
    Path("file.safetensors").touch()
    done = run(*words.split())
    assert done.exit_code == 2, done.output
    assert "an option " in done.output
    assert f"got:      {said}" in done.output
    assert not Path("out").exists()


def test_the_commands_and_their_flags_are_what_users_rely_on():
    flags = {
        "mixers": ["--json"],
        "train": ["--mixer", "--recipe", "--data", "--set", "--seed", "--out", "--resume", "--device", "--local-conv", "--pos"]
        + ["--model", "--epochs", "--lr", "--batch-size"]
        + ["--every", "--offset", "--between"]
        + ["--nproc", "--dry-run", "--tensorboard", "--wandb"],
        "eval": ["--weights", "--recipe", "--mixer", "--data", "--resolution", "--mapping", "--set", "--out", "--device"],
        "baselines": ["--recipe", "--data", "--set", "--out"],
        "profile": ["--mixer", "--model", "--resolution", "--out", "--batch", "--rounds", "--device", "--local-conv", "--pos"]
        + ["--every", "--offset", "--between"]
        + ["--mode", "--tokens", "--dtype", "--compile", "--channels-last", "--threads", "--baseline", "--attention", "--force"]
        + [
            "--alternatives",
            "--saturate",
            "--max-batch",
            "--breakdown",
            "--no-isolate",
            "--no-memory",
            "--seconds",
            "--budget",
        ],
        "report": ["--out", "--claims"],
        "reproduce": ["--cells", "--seed", "--data", "--device", "--out"],
        "sweep": ["--mixer", "--seed", "--recipe", "--local-conv", "--pos", "--set", "--vary", "--data", "--baseline"]
        + ["--every", "--offset", "--between"]
        + ["--match", "--tune", "--trials", "--claims", "--out", "--jobs", "--threads", "--device", "--slurm", "--partition"]
        + ["--time", "--gpus", "--cpus", "--dry-run"],
        "demo": ["--out"],
        "probe": ["--mixer", "--seeds", "--quick", "--tune", "--out", "--jobs", "--device"],
    }
    for command, expected in flags.items():
        text = run(command, "--help", env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}).output
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


def sets(*settings: str) -> list[str]:
    return ["train", *(word for setting in settings for word in ("--set", setting))]


def written(tmp_path: Path, text: str, name: str = "mine.yaml") -> Path:
    (tmp_path / name).write_text(text)
    return tmp_path / name


def unlike(tmp_path: Path) -> Path:
    image_folder(tmp_path / "unlike", "train", ["a", "b"], 1)
    return image_folder(tmp_path / "unlike", "val", ["a", "c"], 1)


def of_several_sizes(tmp_path: Path) -> Path:
    for part in ("train", "val"):
        image_folder(tmp_path / "sizes", part, ["a", "b"], 2)
    Image.new("RGB", (3, 3)).save(tmp_path / "sizes" / "train" / "a" / "000.png")
    return tmp_path / "sizes"


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
    "nothing written yet": (lambda t: ["report"], ["nothing to report on", "runs", "run one of them first"]),
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
    "zero epochs of warm-up left": (lambda t: sets("epochs=2", "optim.warmup_epochs=2"), ["warmup_epochs (2)", "fewer than"]),
    "rate": (lambda t: sets("optim.lr=-1e-3"), ["optim.lr = -0.001", "greater than 0"]),
    "rate that is no number": (lambda t: sets("optim.lr=.nan"), ["optim.lr = nan", "finite"]),
    "micro-batch": (lambda t: sets("compute.micro_batch=0"), ["compute.micro_batch = 0", "greater than or equal to 1"]),
    "precision": (
        lambda t: sets("compute.precision=half"),
        ["compute.precision = 'half'", "'float32', 'bfloat16' or 'float16'"],
    ),
    "average": (lambda t: sets("ema.decay=1.5"), ["ema.decay = 1.5", "less than 1"]),
    "layer decay": (lambda t: sets("optim.layer_decay=0"), ["optim.layer_decay = 0", "greater than 0"]),
    "smoothing": (lambda t: sets("label_smoothing=1"), ["label_smoothing = 1", "less than 1"]),
    "pairs": (lambda t: sets("mix.mixup=0.8", "batch_size=63"), ["mix pairs images", "(63)", "even"]),
    "mixing of nothing": (lambda t: sets("mix.prob=0.5"), ["mixup or cutmix above 0", "mix: null"]),
    "mixing mode": (lambda t: sets("mix.mixup=1", "mix.mode=row"), ["mix.mode = 'row'", "'batch', 'pair' or 'elem'"]),
    "erasing without its augmentation": (lambda t: sets("data.erase=0.5"), ["augment: resized-crop"]),
    "crop": (lambda t: sets("data.crop_scale=[1.0,0.1]"), ["crop_scale needs 0 < low <= high"]),
    "policy": (
        lambda t: sets("data.augment=resized-crop", "data.auto_augment=rnd-m9"),
        ["unknown augmentation policy", "rnd-m9", "rand-m9-mstd0.5-inc1"],
    ),
    "limit": (lambda t: sets("data.limit=5"), ["data.limit = 5", "10 (the classes) to 1,437"]),
    "source": (lambda t: sets("data.source=imagenet"), ["data.source = 'imagenet'", "'folder'"]),
    "no path": (
        lambda t: ["train", "--recipe", "imagenet-deit"],
        ["does not say where the images are", "nothing is downloaded"],
    ),
    "no idx files": (lambda t: ["train", "--recipe", "fashion", "--data", t], ["Fashion-MNIST is missing", "train-images"]),
    "no binary batches": (lambda t: ["train", "--recipe", "cifar10", "--data", t], ["CIFAR-10 are missing", "data_batch_1"]),
    "no archive": (lambda t: ["train", "--data", f"tar:{t}"], ["no archive", "train.tar"]),
    "no shards": (lambda t: ["train", "--data", f"webdataset:{t}"], ["no shards", "train-*.tar"]),
    "a data set that is none": (lambda t: ["train", "--data", f"huggingface:{t}"], ["Hugging Face", "load_dataset"]),
    "splits of different classes": (lambda t: ["train", "--data", unlike(t)], ["different classes", "b, c"]),
    "recipe file": (lambda t: ["train", "--recipe", t / "no.yaml"], ["no such recipe file", "no.yaml"]),
    "recipe that is no YAML": (lambda t: ["train", "--recipe", written(t, "a: [1")], ["cannot read the recipe", "mine.yaml"]),
    "recipe that is a list": (lambda t: ["train", "--recipe", written(t, "- 1")], ["not a recipe", "list"]),
    "recipe without a rate": (lambda t: ["train", "--recipe", written(t, "epochs: 1\nbatch_size: 4")], ["optim", "required"]),
    "several mistakes": (lambda t: sets("epochs=0", "batch_size=0"), ["(and 1 more)", "epochs = 0"]),
    "position": (lambda t: ["train", "--pos", "learnt"], ["model.pos_embed = 'learnt'", "'learned'"]),
    "position for a mixer": (lambda t: ["train", "--pos", "rope2d", "--mixer", "pool"], ["rotary", "'pool'", "softmax"]),
    "local convolution": (lambda t: ["train", "--local-conv", "3x3"], ["model.local_conv = '3x3'", "'none' or 'dwc'"]),
    "width of a position": (
        lambda t: ["train", "--pos", "sincos", *sets("model.embed_dim=18", "model.num_heads=2")[1:]],
        ["embed_dim = 18", "a multiple of 4"],
    ),
    "class token": (
        lambda t: ["train", "--mixer", "static", *sets("model.class_token=true")[1:]],
        ["takes no class token", "'static'"],
    ),
    "pool": (lambda t: sets("model.pool=token"), ["pooling needs a class token", "class_token=True"]),
    "mixer option": (lambda t: sets("model.mixer_options.lokal=false"), ["lokal", "softmax"]),
    "mixer class": (lambda t: ["train", "--mixer", f"{written(t, 'x = 1', 'm.py')}:Nix"], ["m.py", "Nix"]),
    "mixer file that breaks": (lambda t: ["train", "--mixer", f"{written(t, 'x = (', 'm.py')}:Nix"], ["m.py", "never closed"]),
    "no CUDA": (lambda t: ["train", "--device", "cuda"], ["no CUDA device", "cpu or auto"]),
    "resume of nothing": (lambda t: ["train", "--resume", "--out", t / "run"], ["not a run directory", "config.yaml"]),
    "no weights": (lambda t: sets("model.init_weights=no.safetensors"), ["cannot read the weights", "nothing is downloaded"]),
    "processes": (lambda t: ["train", "--nproc", 2, *sets("batch_size=65")[1:]], ["65 for 2 processes", "a multiple of 2"]),
    "baselines of an unknown recipe": (lambda t: ["baselines", "--recipe", "digitz"], ["'digitz'", "did you mean digits"]),
    "baselines of nothing": (lambda t: ["baselines", "--data", t / "nowhere"], ["not a folder", "nowhere"]),
    "baselines of images of several sizes": (
        lambda t: ["baselines", "--data", of_several_sizes(t)],
        ["several sizes", "all of one size"],
    ),
    "baselines that cannot be written": (lambda t: ["baselines", "--out", unwritable(t)], ["cannot write", "another --out"]),
    "grid too small": (lambda t: ["train", "--mixer", "weightformer", "--set", "model.patch_size=8"], ["1x1", "at least 2x2"]),
}


def records(tmp_path: Path) -> Path:
    from wfbench import recipe
    from wfbench import records as r
    from wfbench.tasks.baselines import baselines

    r.append(tmp_path / "records.jsonl", baselines(recipe.load("digits")))
    return tmp_path / "records.jsonl"


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_is_one_message_and_exit_code_2(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    words, expected = BAD[case]
    given = words(tmp_path)
    before = listing(tmp_path)
    result = run(*given)
    assert result.exit_code == 2, result.output
    assert listing(tmp_path) == before, "nothing is written for bad input"
    assert "Traceback" not in result.output
    assert result.output.count("error:") == 1
    for word in expected:
        assert word in result.output, result.output


def test_baselines_are_the_floor_under_the_accuracies_of_a_recipe(tmp_path):
    result = run("baselines", "--out", tmp_path / "floor")
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (tmp_path / "floor" / "records.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == ["logistic regression on pixels", "nearest neighbour on pixels"]
    for row in rows:
        assert (row["samples"], row["dataset"]) == (360, "digits (20% held out by split seed 0)")
        assert 0.94 < row["accuracy"] < 1
        assert f"{row['name']}: {100 * row['accuracy']:.2f} % of 360" in result.output
    fewer = run("baselines", "--out", tmp_path / "fewer", "--set", "data.limit=50")
    assert fewer.exit_code == 0, fewer.output
    few = [json.loads(line) for line in (tmp_path / "fewer" / "records.jsonl").read_text().splitlines()]
    assert all(a["accuracy"] < b["accuracy"] for a, b in zip(few, rows, strict=True))
    assert "50 of 1,437 for training" in few[0]["dataset"]


def test_a_number_of_processes_below_one_is_refused(tmp_path):
    assert run("train", "--nproc", 0, "--out", tmp_path / "run").exit_code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_run_that_is_told_to_stop_says_by_its_exit_code_that_it_goes_on(number, code, tmp_path, monkeypatch):
    """75 is for a scheduler that queues the same command again; here the signal comes from within, at a known step."""
    from wfbench.cli.progress import Lines

    told = [False]

    def step(self, epoch, step, steps, loss):
        if step == 5 and not told[0]:
            told[0] = True
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Lines, "step", step)
    result = run("train", *SMALL, "--out", tmp_path / "run")
    assert result.exit_code == code, result.output
    assert "interrupted: stopped in epoch 1 after step" in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "run" / "result.json").exists()
    again = run("train", "--resume", "--out", tmp_path / "run")
    assert again.exit_code == 0, again.output
    assert (tmp_path / "run" / "result.json").exists()


def test_a_failed_run_is_exit_code_1_and_names_the_step(tmp_path):
    result = run("train", *SMALL, "--set", "optim.lr=1e30", "--set", "optim.clip_grad=null", "--out", tmp_path / "run")
    assert result.exit_code == 1, result.output
    assert "step" in result.output
    assert "Traceback" not in result.output


@pytest.mark.slow
def test_a_profile_without_a_place_goes_on_in_runs_and_report_finds_it_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["profile", "--mixer", "static", "--resolution", 32, "--rounds", 1, "--no-isolate", "--device", "cpu"]
    first = run(*words)
    assert first.exit_code == 0, first.output
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    before = Path("runs/profile/records.jsonl").read_bytes()
    again = run(*words)
    assert again.exit_code == 0, again.output
    assert Path("runs/profile/records.jsonl").read_bytes() == before
    reported = run("report")
    assert reported.exit_code == 0, reported.output
    assert "static" in reported.output
    assert Path("runs/profile/tables.md").exists()


def test_no_command_writes_into_the_committed_evidence_by_default():
    for name, command in get_command(app).commands.items():
        for parameter in command.params:
            assert "results" not in Path(str(parameter.default)).parts, f"{name} --{parameter.name}"
            assert "Default: results" not in (getattr(parameter, "help", None) or ""), f"{name} --{parameter.name}"


def test_the_help_of_profile_names_its_default_rounds():
    from wfbench.measure.latency import INTERLEAVED, ISOLATED
    from wfbench.tasks.profile.request import ROUNDS

    (rounds,) = (p for p in get_command(app).commands["profile"].params if p.name == "rounds")
    assert f"Default: {ROUNDS[ISOLATED]}; {ROUNDS[INTERLEAVED]} with --no-isolate" in rounds.help


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


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("line", "counted"),
    [("float(x.sum().item())", True), ("assert not __import__('torch')._C._len_torch_dispatch_stack()", False)],
    ids=["reads a value", "refuses to be watched"],
)
def test_a_mixer_that_cannot_be_counted_still_trains_and_its_row_says_why(tmp_path, monkeypatch, line, counted):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE.replace("return self.proj(", f"{line}\n        return self.proj("))
    result = run("train", "--mixer", "mine.py:Mean", *SMALL, "--out", "run")
    assert result.exit_code == 0, result.output
    row = json.loads(Path("run/result.json").read_text())
    if counted:
        assert (row["macs"] > 0, row["macs_sure"]) == (True, "proved")
    else:
        assert row["macs"] is None
        assert "cannot be counted" in row["macs_error"]


@pytest.mark.slow
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


SMALL_ALONE = """
from torch import nn
from mixers import MixerError


class Small(nn.Module):
    def __init__(self, dim, grid):
        super().__init__()
        if tuple(grid) == (14, 14):
            raise MixerError("no such grid", got=grid, expected="a small one", remedy="make the image smaller")

    def forward(self, x, grid):
        return x
"""


def test_a_mixer_that_the_profile_cannot_have_is_refused_before_the_demo_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("wfbench.tasks.demo.sweep", lambda *_: pytest.fail("it began to train"))
    Path("mine.py").write_text(SMALL_ALONE)
    done = run("demo", "--mixer", "softmax,mine.py:Small")
    assert done.exit_code == 2, done.output
    assert "error: no such grid" in done.output
    assert not Path("runs").exists()


@pytest.fixture
def demo_of_nothing(tmp_path, monkeypatch):
    """A demo that trains and shows nothing; the places that it would show."""
    shown = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("wfbench.tasks.demo.sweep", lambda *_: {})
    monkeypatch.setattr("wfbench.tasks.demo.baselines", lambda _: [])
    monkeypatch.setattr("wfbench.tasks.demo.profile", lambda *_: [])
    monkeypatch.setattr(sys.modules["wfbench.cli.demo"], "_show", shown.append)
    return shown


def test_the_demo_shows_what_was_trained_where_the_profile_fails(demo_of_nothing, monkeypatch):
    def fails(*_):
        raise InputError("the profile failed")

    monkeypatch.setattr("wfbench.tasks.demo.profile", fails)
    done = run("demo", "--mixer", "softmax", "--out", "here")
    assert done.exit_code == 2, done.output
    assert "error: the profile failed" in done.output
    assert demo_of_nothing == [Path("here")]


def test_the_same_demo_goes_on_where_it_was_stopped(demo_of_nothing, monkeypatch):
    def stops(*_):
        raise Interrupted("stopped", signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr("wfbench.tasks.demo.profile", stops)
        assert run("demo", "--mixer", "softmax").exit_code == 75
    for mixers in ("softmax,linear", "softmax", "softmax"):
        done = run("demo", "--mixer", mixers)
        assert done.exit_code == 0, done.output
    assert demo_of_nothing == [Path("runs/demo-2"), Path("runs/demo"), Path("runs/demo-3")]


@pytest.mark.slow
def test_the_demo_does_the_whole_job(tmp_path):
    result = run("demo", "--out", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for f in (tmp_path / "demo").rglob("records.jsonl") for line in f.read_text().splitlines()]
    kinds = [row["kind"] for row in rows]
    assert (kinds.count("train"), kinds.count("probe"), kinds.count("baseline"), kinds.count("profile")) == (3, 3, 2, 12)
    assert all(row["accuracy"] >= 0.94 for row in rows if row["kind"] in ("train", "baseline"))
    assert all(row["status"] == "ok" and len(row["counted_by"]) == 3 for row in rows if row["kind"] == "profile")
    assert {p.suffix for p in (tmp_path / "demo").iterdir()} >= {".md", ".csv", ".png", ".jsonl"}
    said = " ".join(result.output.split())
    for sentence in (
        "Recall, after 500 steps of training (1 seed of each): softmax has at least 64 pairs of key and value",
        "weightformer has not learnt it",
        "Digits, accuracy in % (1 seed of each):",
        "faster than softmax: ",
        "One seed of each mixer ranks nothing (recall and digits)",
    ):
        assert sentence in said
    assert said.count("Mixers at a glance") == 1
    assert len(result.output.split("What can it do?")[1].splitlines()) < 45, "one screen"
