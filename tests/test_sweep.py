"""Sweeps: stable names, what is skipped and resumed, what fails, two at once, kills, Slurm's executors, tuning."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import children
from typer.testing import CliRunner

from wfbench import recipe, records
from wfbench.analysis.tuning import tunings
from wfbench.cli import app
from wfbench.errors import InputError
from wfbench.locks import acquire, is_locked
from wfbench.records import TrialRow
from wfbench.report.tuning import tuning_tables
from wfbench.tasks.sweep import Dispatch, SlurmOptions, Status, Sweep, dispatch, load_request, status_of, sweep
from wfbench.tasks.sweep.single_run import name_of
from wfbench.tasks.sweep.slurm import Slurm, SlurmJob
from wfbench.training import Interrupted

SET = ["model.embed_dim=16", "model.depth=2", "model.num_heads=2", "epochs=1", "optim.warmup_epochs=0"]
BROKEN = """
from torch import nn

class Broken(nn.Module):
    def __init__(self, dim):
        super().__init__()

    def forward(self, x, grid):
        raise ValueError("this mixer is broken")
"""


class Heard:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.states: dict[str, list[str]] = {}

    def say(self, line: str) -> None:
        self.said.append(line)

    def begin(self, runs, stands) -> None:
        for run, status in zip(runs, stands, strict=True):
            self.states[run.name] = [status.state]

    def changed(self, run, status) -> None:
        if self.states[run.name][-1] != status.state:
            self.states[run.name].append(status.state)


def request(**options: object):
    return load_request(None, {"set": SET} | options)


def run(wanted, out: Path, jobs: int = 2, **how: object) -> tuple[dict[str, Status], Heard]:
    heard = Heard()
    return sweep(wanted, out, Dispatch(jobs, 1, "cpu", **how), heard), heard


def names(wanted, out: Path = Path("none")) -> list[str]:
    return [run.name for run in Sweep.plan(wanted, out).finals(None)[0]]


def start(out: Path, *words: str, settings: list[str] = SET) -> subprocess.Popen:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "wfbench",
        "sweep",
        "--out",
        str(out),
        "--device",
        "cpu",
        "--threads",
        "1",
        *words,
    ]
    command += [word for setting in settings for word in ("--set", setting)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def weights(out: Path) -> dict[str, bytes]:
    """The final weights and predictions of every run."""
    return {
        f"{place.parent.name}/{name}": (place.parent / name).read_bytes()
        for place in sorted(out.glob("*/result.json"))
        for name in ("model.safetensors", "predictions-raw.parquet")
    }


# --- the request


def test_names_are_readable_stable_and_follow_from_what_decides_the_run() -> None:
    wanted = request(mixers=["softmax", {"mixer": "linear", "local_conv": "dwc"}], seeds=[0, 1])
    found = names(wanted)
    assert found == names(wanted)
    assert [name.rpartition("-")[0] for name in found] == [
        "digits-softmax-s0",
        "digits-linear-dwc-s0",
        "digits-softmax-s1",
        "digits-linear-dwc-s1",
    ]
    assert len(set(found)) == 4
    assert names(request(mixers=["softmax"], set=[*SET, "data.workers=2"])) == found[:1], "it changes no result"
    for other in ("optim.lr=1e-3", "data.hflip=0.5", "label_smoothing=0.1"):
        assert names(request(mixers=["softmax"], set=[*SET, other]))[0] not in found
    plain = recipe.load("digits")
    assert name_of(plain, {}) == "digits-vit-tiny-s0-" + name_of(plain, {}).rpartition("-")[2]
    assert "lr-0.001" in name_of(plain, {"optim.lr": 1e-3})


def test_everything_is_crossed_and_a_line_s_own_factor_comes_first() -> None:
    wanted = request(
        mixers=["softmax", {"mixer": "linear", "local_conv": "dwc"}],
        local_conv=["none", "dwc"],
        pos=["none", "sincos"],
        seeds=[0, 1, 2],
        vary={"optim.lr": [1e-3, 2e-3], "batch_size": [32]},
    )
    found = Sweep.plan(wanted, Path("none")).finals(None)[0]
    assert len(found) == 3 * 2 * (4 + 2)
    assert {run.recipe.model.local_conv for run in found if run.recipe.model.mixer == "linear"} == {"dwc"}
    assert {run.recipe.optim.lr for run in found} == {1e-3, 2e-3}


def test_the_words_of_a_run_make_its_recipe(tmp_path: Path) -> None:
    wanted = request(mixers=[{"mixer": "linear", "local_conv": "dwc", "pos": "sincos"}], seeds=[3], match="macs", data="digits")
    (planned,) = Sweep.plan(wanted, tmp_path).finals(None)[0]
    done = CliRunner().invoke(app, ["train", *planned.words, "--dry-run", "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert planned.recipe.chosen is not None
    for part in (f"mlp_ratio: {planned.recipe.model.mlp_ratio}", "match: macs", "local_conv: dwc", "seed: 3"):
        assert part in done.output


def test_a_file_and_the_command_line_say_the_same(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "mixers: [softmax, {mixer: linear, local_conv: dwc}]\nseeds: [0, 1]\nset: [epochs=1, optim.warmup_epochs=0]\n"
        "vary: {optim.lr: [1e-3, 2e-3]}\ntune: null\n"
    )
    listed = CliRunner().invoke(app, ["sweep", str(file), "--dry-run", "--seed", "5", "--out", str(tmp_path / "out")])
    assert listed.exit_code == 0, listed.output
    assert listed.output.count("new ") == 4, "the command line's seed stands in place of the file's two"
    assert "-s5-" in listed.output
    assert "lr-0.002" in listed.output
    assert not (tmp_path / "out").exists()


BAD = {
    "mixers: [sotfmax]": ["'sotfmax'", "softmax"],
    "mixers: []": ["mixers"],
    "mixer: [softmax]": ["unknown sweep key", "did you mean mixers"],
    "mixers: [{mixer: softmax, local: dwc}]": ["unknown sweep key", "did you mean local_conv"],
    "mixers: [softmax]\nlocal_conv: [dwcc]": ["local_conv", "'dwcc'", "'dwc'"],
    "mixers: [softmax]\npos: [rotary]": ["'rotary'", "'rope2d'"],
    "mixers: [pool]\npos: [rope2d]": ["rotary position needs"],
    "mixers: [softmax]\nseeds: [-1]": ["seeds", "-1"],
    "mixers: [softmax]\nseeds: [1, 1]": ["seeds names 1 twice"],
    "mixers: [softmax, softmax]": ["mixers names softmax twice"],
    "mixers: [softmax]\nrecipes: [digitz]": ["'digitz'", "did you mean digits"],
    "mixers: [softmax]\nset: [optim.lrr=1]": ["optim.lrr", "did you mean lr"],
    "mixers: [softmax]\nset: [epochs]": ["epochs", "pattern"],
    "mixers: [softmax]\nvary: {optim.lr: []}": ["vary.optim.lr needs one value or more"],
    "mixers: [softmax]\nvary: {optim.lr: [-1]}": ["optim.lr", "greater than 0"],
    "mixers: [softmax]\ndata: nowhere": ["nowhere"],
    "mixers: [softmax]\nmatch: latency": ["match", "'params' or 'macs'"],
    "mixers: [nystrom]\nmatch: macs\nset: [model.image_size=32]": ["cannot be matched", "nystrom"],
    "mixers: [softmax]\nmatch: macs\nbaseline: none": ["'none'", "softmax"],
    "mixers: [softmax]\ntune: {trials: 1}": ["tune.trials", "greater than or equal to 2"],
    "mixers: [softmax]\ntune: {key: wd}": ["tune.key", "'lr'"],
    "mixers: [softmax]\ntune: {seeds: [0]}": ["share 0", "final seed"],
    "mixers: [softmax]\ntune: {validation: 0.0001}": ["so few training images", "tune.validation"],
    "mixers: [softmax]\ntune: {}\nvary: {optim.lr: [1e-3]}": ["either tuned or varied"],
    "mixers: [softmax]\nclaims: nowhere.yaml": ["cannot read the claims", "nowhere.yaml"],
    "mixers: [softmax]\nset: [model.mixer=linear]\nvary: {seed: [1, 2]}": ["same run"],
    "- softmax": ["not a sweep"],
    "mixers: [": ["cannot read the sweep"],
}


@pytest.mark.parametrize("text", list(BAD))
def test_bad_yaml_is_one_message_and_exit_code_2_and_nothing_is_written(text: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("wfbench.tasks.sweep.dispatch.run_all", lambda *_, **__: pytest.fail("it began to train"))
    Path("sweep.yaml").write_text(text)
    done = CliRunner().invoke(app, ["sweep", "sweep.yaml", "--out", "out"])
    assert done.exit_code == 2, done.output
    assert done.output.count("error:") == 1
    assert "Traceback" not in done.output
    for word in BAD[text]:
        assert word in done.output, done.output
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--mixer", "softmax", "--trials", "3"], "--tune lr"),
        (["--mixer", "softmax", "--baseline", "linear"], "--match"),
        (["--mixer", "softmax", "--vary", "optim.lr=[1e-3]", "--vary", "optim.lr=[2e-3]"], "names one thing twice"),
        (["--mixer", "softmax", "--vary", "optim.lr=[1e-3]", "--set", "optim.lr=2e-3"], "--vary alone"),
        (["--mixer", "softmax", "--set", "seed=3"], "--seed alone"),
        (["--mixer", "softmax", "--set", "data.path=a", "--data", "b"], "--data alone"),
        (["--mixer", "softmax", "--slurm", "--sbatch", "account=a", "--sbatch", "account=b"], "names one thing twice"),
        (["--mixer", "softmax", "--partition", "gpu"], "--slurm"),
        (["--mixer", "softmax", "--time", "60"], "--slurm"),
        (["--mixer", "softmax", "--gpus", "0"], "--slurm"),
        (["--mixer", "softmax", "--cpus", "4"], "--slurm"),
        (["--mixer", "softmax", "--nodes", "2"], "--slurm"),
        (["--mixer", "softmax", "--qos", "low"], "--slurm"),
        (["--mixer", "softmax", "--slurm", "--sbatch", "account"], "name=value"),
        (["--mixer", "softmax", "--slurm", "--sbatch", "nodes=2"], "use --nodes"),
        (["--mixer", "softmax", "--slurm", "--sbatch", "signal=USR2@9"], "the sweep sets itself"),
        (["--mixer", "softmax", "--slurm", "--sbatch", "requeue"], "the sweep sets itself"),
        (["--mixer", "softmax", "--slurm", "--gres", "gpu:a100:8"], "add --gpus 8"),
        (["--mixer", "softmax", "--slurm", "--threads", "4"], "--cpus"),
        (["--mixer", "softmax", "--device", "tpu"], "'tpu'"),
        (["--mixer", "softmax", "--vary", "optim.lr=["], "--vary"),
        ([], "mixers"),
        (["nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_bad_options_are_one_message_and_exit_code_2(words: list[str], said: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["sweep", *words, "--out", str(tmp_path / "out")])
    assert done.exit_code == 2, done.output
    assert said in done.output
    assert not (tmp_path / "out").exists()


def test_without_slurm_on_the_machine_it_says_so(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="Slurm cannot be used"):
        run(request(mixers=["softmax"]), tmp_path / "out", slurm=SlurmOptions())


class Jobs(Slurm):
    """Jobs that wait in the queue; the sweep is sent a signal while it watches them."""

    def __init__(self, number: signal.Signals) -> None:
        self.slots, self.number, self.cancelled = 10, number, 0

    def launch(self, runs):
        return [SlurmJob(run, Path(), self) for run in runs]

    state = "PENDING"

    def done(self) -> bool:
        if not self.cancelled:
            os.kill(os.getpid(), self.number)
        return self.cancelled > 0

    def cancel(self) -> None:
        self.cancelled += 1

    def exception(self) -> None:
        return None

    def results(self) -> list[Status]:
        return [Status("stopped")]


@pytest.mark.parametrize(
    ("number", "cancelled", "code"), [(signal.SIGINT, 2, 130), (signal.SIGTERM, 0, 75), (signal.SIGHUP, 0, 75)]
)
def test_jobs_go_on_where_the_sweep_that_watches_them_is_ended(number, cancelled, code, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(dispatch, "_LOOK", 0)
    runs = Sweep.plan(request(mixers=["linear", "pool"]), tmp_path).finals(None)[0]
    jobs = Jobs(number)
    before = signal.signal(number, signal.default_int_handler)  # under nohup a closed terminal is ignored, and stays so
    try:
        with pytest.raises(Interrupted) as e:
            dispatch.run_all(runs, tmp_path, jobs, Heard())
    finally:
        signal.signal(number, before)
    assert (jobs.cancelled, e.value.exit_code) == (cancelled, code)
    assert ("2 jobs go on" in str(e.value)) == (not cancelled)


class Refuses(Jobs):
    """Queues the first job, and takes no other."""

    def launch(self, runs):
        if len(runs) == 1:
            raise InputError("Slurm refused the jobs")
        return [SlurmJob(runs[0], Path(), self), None]

    def done(self) -> bool:
        return self.cancelled > 0


def test_jobs_go_on_where_slurm_refuses_another(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(dispatch, "_LOOK", 0)
    monkeypatch.setattr(dispatch, "_PROGRESS", 0)
    runs = Sweep.plan(request(mixers=["linear", "pool"]), tmp_path).finals(None)[0]
    jobs, heard = Refuses(signal.SIGINT), Heard()
    with pytest.raises(InputError, match="Slurm refused"):
        dispatch.run_all(runs, tmp_path, jobs, heard)
    assert (jobs.cancelled, heard.said) == (0, ["1 jobs go on; the same command watches them"])


@pytest.mark.parametrize(("gpus", "cpus"), [([], 2), (["--gpus", "8"], 16), (["--gpus", "8", "--cpus", "9"], 9)])
def test_flags_of_sbatch_and_two_cores_for_each_gpu(gpus: list[str], cpus: int, tmp_path: Path, monkeypatch) -> None:
    asked: list[SlurmOptions] = []

    def heard(request, out, dispatch, watch, **_) -> dict[str, Status]:
        asked.append(dispatch.slurm)
        return {}

    monkeypatch.setattr(sys.modules["wfbench.tasks.sweep"], "sweep", heard)
    words = ["--mixer", "softmax", "--slurm", *gpus, "--sbatch", "exclusive", "--sbatch", "account=a1"]
    done = CliRunner().invoke(app, ["sweep", *words, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert (asked[0].cpus, asked[0].more) == (cpus, {"exclusive": True, "account": "a1"})


def test_a_node_without_a_gpu_can_submit_jobs_that_have_one(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    words = ["--mixer", "softmax", "--slurm", "--device", "cuda", "--gpus", "1", "--out", str(tmp_path / "out")]
    said = CliRunner().invoke(app, ["sweep", *words]).output
    assert "Slurm cannot be used" in said
    assert "no CUDA device" not in said


CLAIMS = """
recipe: digits
seeds: [0, 1]
budget: {epochs: 1}
claims:
  - {id: a, says: x, kind: better, line: linear + DWC, than: pool}
"""


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ("linear + DWC", "linear+DWC", "the lines linear+DWC"),
        ("[0, 1]", "[0, 2]", "the seeds 2"),
        ("digits", "fashion", "recipe fashion"),
        ("epochs: 1", "epochs: 6", "epochs 6"),
        ("epochs: 1", "epochs: 1, match: params", "match params"),
        ("epochs: 1", "epochs: 1, trials: 3", "trials 3"),
        ("", "", ""),
    ],
)
def test_claims_that_the_sweep_cannot_answer_are_refused_before_it_runs(was: str, now: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "claims.yaml").write_text(CLAIMS.replace(was, now))
    mixers = [{"mixer": "linear", "local_conv": "dwc"}, "pool"]
    wanted = request(mixers=mixers, seeds=[0, 1], claims=str(tmp_path / "claims.yaml"))
    if not said:
        assert len(Sweep.plan(wanted, tmp_path / "out").drafts) == 2
        return
    with pytest.raises(InputError, match="what the sweep does not run") as refused:
        Sweep.plan(wanted, tmp_path / "out")
    assert said in str(refused.value)


def test_claims_on_a_varied_setting_are_refused_with_the_setting(tmp_path: Path) -> None:
    (tmp_path / "claims.yaml").write_text(CLAIMS)
    mixers = [{"mixer": "linear", "local_conv": "dwc"}, "pool"]
    varied = request(mixers=mixers, seeds=[0, 1], vary={"model.depth": [1, 2]}, claims=str(tmp_path / "claims.yaml"))
    with pytest.raises(InputError, match=r"recipes digits, all with model\.depth varied, of which claims say nothing"):
        Sweep.plan(varied, tmp_path / "out")


# --- runs


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed sweep of four runs."""
    out = tmp_path_factory.mktemp("sweep")
    ended, heard = run(request(mixers=["linear", "pool"], seeds=[0, 1]), out)
    assert {status.state for status in ended.values()} == {"finished"}
    assert all(states == ["new", "running", "finished"] for states in heard.states.values())
    return out


@pytest.mark.slow
def test_finished_runs_are_left_alone(done: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*")}
    ended, heard = run(request(mixers=["linear", "pool"], seeds=[0, 1]), done)
    assert {status.state for status in ended.values()} == {"finished"}
    assert all(states == ["finished"] for states in heard.states.values())
    assert {path: path.stat().st_mtime_ns for path in done.rglob("*")} == before


@pytest.mark.slow
def test_rows_name_a_command_that_a_user_can_type(done: Path) -> None:
    rows = [row for file in done.glob("*/records.jsonl") for row in records.read(file)[0]]
    assert len(rows) == 4
    assert all(row.command.startswith("wfbench train --recipe digits --mixer ") for row in rows)


@pytest.mark.slow
def test_another_run_s_directory_is_not_taken_for_this_one(done: Path, tmp_path: Path) -> None:
    (planned,) = Sweep.plan(request(mixers=["softmax"]), tmp_path).finals(None)[0]
    other = next(done.glob("digits-linear-s0-*"))
    place = planned.place(tmp_path)
    place.mkdir()
    for name in ("config.yaml", "result.json"):
        (place / name).write_bytes((other / name).read_bytes())
    with pytest.raises(InputError, match="another recipe"):
        status_of(planned, tmp_path)


@pytest.mark.slow
def test_a_finished_run_of_other_data_is_not_taken_for_this_one(done: Path, tmp_path: Path) -> None:
    (planned, *_) = Sweep.plan(request(mixers=["linear"], seeds=[0]), tmp_path).finals(None)[0]
    place, other = planned.place(tmp_path), next(done.glob("digits-linear-s0-*"))
    place.mkdir()
    (place / "config.yaml").write_bytes((other / "config.yaml").read_bytes())
    result = json.loads((other / "result.json").read_text())
    (place / "result.json").write_text(json.dumps(result))
    assert status_of(planned, tmp_path).state == "finished"
    (place / "result.json").write_text(json.dumps(result | {"dataset": "folder other (10 held out)"}))
    with pytest.raises(InputError, match="another data set"):
        status_of(planned, tmp_path)
    (place / "result.json").write_text("{")
    with pytest.raises(InputError, match="cannot read the run's result"):
        status_of(planned, tmp_path)


@pytest.mark.slow
def test_a_failing_mixer_is_listed_with_its_message_while_the_others_finish(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    words = ["--mixer", f"{tmp_path}/broken.py:Broken", "--mixer", "linear", "--mixer", "pool", "--jobs", "3"]
    out = tmp_path / "out"
    said, _ = (process := start(out, *words)).communicate(timeout=900)
    assert process.returncode == 1, said
    assert "2 of 3 runs are finished" in said
    assert "ValueError: this mixer is broken" in said
    assert len(list(out.glob("*/result.json"))) == 2
    listed = CliRunner().invoke(app, ["sweep", *words, *(w for s in SET for w in ("--set", s)), "--out", str(out), "--dry-run"])
    assert "failed" in listed.output
    assert "ValueError: this mixer is broken" in listed.output
    assert listed.output.count("finished ") == 2


@pytest.mark.parametrize(
    ("visible", "count", "expected"),
    [
        (None, 1, [None, None, None]),
        ("3", 1, [None, None, None]),
        (None, 2, ["1", "0", "1"]),
        ("4,6", 2, ["6", "4", "6"]),
        (None, 0, [None, None, None]),
    ],
    ids=["one", "one of several", "two", "two of several", "none"],
)
def test_all_runs_share_one_gpu_and_of_several_each_gets_one(visible, count, expected, tmp_path: Path, monkeypatch) -> None:
    given = []
    monkeypatch.setattr(dispatch.torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(dispatch.torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(dispatch, "start", lambda run, out, held, *, gpu, **_: given.append(gpu) or os.close(held))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    runs = Sweep.plan(request(mixers=["linear", "pool", "softmax"]), tmp_path).finals(None)[0]
    launcher = dispatch.Local(tmp_path, slots=3, threads=1, device="auto")
    launcher.launch(runs)
    assert given == expected


def test_a_run_is_held_by_the_process_that_trains_it_however_it_ends(tmp_path: Path) -> None:
    held = acquire(tmp_path / "run")
    assert held is not None
    assert acquire(tmp_path / "run") is None, "a second one does not get it"
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=[held])
    os.close(held)
    assert is_locked(tmp_path / "run"), "the child holds it on"
    child.kill()
    child.wait()
    assert not is_locked(tmp_path / "run"), "nobody is left to hold it"


@pytest.mark.slow
def test_two_sweeps_at_once_share_the_work_and_run_nothing_twice(done: Path, tmp_path: Path) -> None:
    words = ["--mixer", "linear", "--mixer", "pool", "--seed", "0", "--seed", "1", "--jobs", "1"]
    both = [start(tmp_path / "out", *words) for _ in range(2)]
    for process in both:
        said, _ = process.communicate(timeout=900)
        assert process.returncode == 0, said
        assert "4 of 4 runs are finished" in said
    for place in (tmp_path / "out").glob("*/result.json"):
        assert len(records.read(place.parent / "records.jsonl")[0]) == 1
        assert (place.parent / "log.txt").read_text().count("run directory:") == 1, "it was trained once"
    assert weights(tmp_path / "out") == weights(done)


@pytest.mark.slow
def test_ctrl_c_saves_all_runs_and_exits_with_130_and_the_same_command_goes_on(tmp_path: Path) -> None:
    process = start(tmp_path, "--mixer", "linear", "--mixer", "pool", "--jobs", "2", settings=[*SET, "epochs=400"])
    deadline = time.monotonic() + 200
    while len(list(tmp_path.glob("*/checkpoint/step-*"))) < 2:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "too slow"
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 130, said
    assert "2 runs were stopped and saved" in said
    assert all("interrupted: stopped" in (place.parent / "log.txt").read_text() for place in tmp_path.glob("*/config.yaml"))
    assert not [place for place in tmp_path.glob("*/.lock") if is_locked(place.parent)]
    stands = [
        status_of(run, tmp_path)
        for run in Sweep.plan(request(mixers=["linear", "pool"], set=[*SET, "epochs=400"]), tmp_path).finals(None)[0]
    ]
    assert [status.state for status in stands] == ["broken", "broken"]
    assert all(status.epoch for status in stands)


@pytest.mark.slow
def test_a_sweep_that_is_killed_ten_times_ends_with_every_run_made_once_and_the_same_results(
    done: Path, tmp_path: Path
) -> None:
    """The sweep and all its children are killed at random moments; by turns the sweep alone, whose children go on."""
    words = ["--mixer", "linear", "--mixer", "pool", "--seed", "0", "--seed", "1", "--jobs", "2"]
    draw, out, kills = random.Random(0), tmp_path / "out", 0
    while kills < 10:
        process = start(out, *words)
        time.sleep(draw.uniform(2, 15))
        if process.poll() is not None:
            assert process.returncode == 0, process.communicate()[0]
            for place in list(out.glob("*/result.json"))[: draw.randint(1, 3)]:  # too early: there is more to kill
                subprocess.run(["rm", "-r", str(place.parent)], check=True)
        trained = children(process.pid)
        process.kill()
        process.communicate()
        for child in trained if kills % 2 else []:
            os.kill(child, signal.SIGKILL)
        kills += 1
    said, _ = (process := start(out, *words)).communicate(timeout=900)
    assert process.returncode == 0, said
    assert "4 of 4 runs are finished" in said
    for place in out.glob("*/result.json"):
        assert len(records.read(place.parent / "records.jsonl")[0]) == 1
        assert (place.parent / "log.txt").read_text().count("run directory:") <= 1
    assert weights(out) == weights(done)


# --- Slurm's executors


@pytest.mark.slow
@pytest.mark.parametrize("cluster", ["debug", "local"])
def test_runs_as_jobs_give_the_same_results(cluster: str, done: Path, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    options = SlurmOptions(minutes=10, cpus=1, cluster=cluster)
    ended, heard = run(request(mixers=["linear", "pool"]), tmp_path, jobs=2, slurm=options)
    assert {status.state for status in ended.values()} == {"finished"}, ended
    assert all(states[-1] == "finished" for states in heard.states.values())
    expected = weights(done)
    assert {name: expected[name] for name in weights(tmp_path)} == weights(tmp_path)
    assert len(weights(tmp_path)) == 4


@pytest.mark.slow
def test_a_job_that_fails_is_listed_with_its_message(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    (tmp_path / "broken.py").write_text(BROKEN)
    wanted = request(mixers=[f"{tmp_path}/broken.py:Broken"])
    ended, _ = run(wanted, tmp_path / "out", slurm=SlurmOptions(minutes=10, cluster="local"))
    (status,) = ended.values()
    assert (status.state, "this mixer is broken" in status.message) == ("failed", True)


# --- tuning


#: Rates that are tried may be as low as they like.
NO_LOWEST = ("optim.min_lr=0", "optim.warmup_lr=0")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three rates, of which the largest is 2e-3 · 5e8 = 1e6."""
    out = tmp_path_factory.mktemp("tuned")
    wanted = request(mixers=["linear", "pool"], set=[*SET, *NO_LOWEST], tune={"trials": 3, "factor": 5e8, "validation": 0.25})
    ended, _ = run(wanted, out)
    assert {status.state for status in ended.values()} == {"finished"}, ended
    assert len(ended) == 2 * 2 + 2, "trials that did not diverge, and final runs"
    return out


def trials(out: Path) -> list[TrialRow]:
    return [row for row in records.read(out / "records.jsonl")[0] if isinstance(row, TrialRow)]


@pytest.mark.slow
def test_every_mixer_has_the_same_trials_and_a_rate_of_1e6_diverges(tuned: Path) -> None:
    rows = trials(tuned)
    by_mixer = {m: [(row.lr, row.seed) for row in rows if row.mixer == m] for m in ("linear", "pool")}
    assert by_mixer["linear"] == by_mixer["pool"]
    assert [rate for rate, _ in by_mixer["pool"]] == [4e-12, 2e-3, 1e6]
    assert [row.status for row in rows] == ["ok", "ok", "diverged"] * 2
    assert all((row.accuracy is None) == (row.status == "diverged") for row in rows)
    assert all(row.message for row in rows if row.status == "diverged")


@pytest.mark.slow
def test_trials_are_judged_on_training_images_and_the_final_runs_take_the_best_rate(tuned: Path) -> None:
    assert {row.samples for row in trials(tuned) if row.samples} == {360}, "a quarter of 1437, not the 360 held out: 359.25"
    finals = [records.read(place)[0][0] for place in tuned.glob("digits-*/records.jsonl")]
    assert len(finals) == 2
    for row in finals:
        rates = {trial.lr: trial.accuracy for trial in trials(tuned) if trial.mixer == row.mixer and trial.status == "ok"}
        assert row.chosen.lr == max(rates, key=rates.__getitem__)
        assert row.chosen.rates == (4e-12, 2e-3, 1e6)
        assert (row.validation, row.samples, row.seed) == (None, 360, 0)
    assert len({row.recipe_digest for row in finals}) == 1 == len({row.recipe_digest for row in trials(tuned)})
    assert {row.recipe_digest for row in finals} == {trials(tuned)[0].recipe_digest}


def test_the_validation_images_are_no_held_out_ones() -> None:
    from wfbench.data import open_dataset

    plain = open_dataset(recipe.load("digits").data)
    held = open_dataset(recipe.load("digits", ["data.validation=0.25"]).data)
    place = {plain.train.load(i).tobytes() for i in range(len(plain.train))}
    parts = [[part.load(i).tobytes() for i in range(len(part))] for part in (held.train, held.val)]
    assert len(parts[0]) + len(parts[1]) == len(plain.train)
    assert all(image in place for part in parts for image in part)


@pytest.mark.slow
def test_the_report_shows_trials_and_never_takes_one_for_a_result(tuned: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(tuned), "--out", str(tuned / "report")])
    assert done.exit_code == 0, done.output
    table = (tuned / "report" / "tuning.md").read_text()
    assert "1 trial diverged" in table
    assert "1 (33 %)" in table
    accuracy = (tuned / "report" / "accuracy.md").read_text()
    assert "rate tuned in 3 trials" in accuracy
    assert accuracy.count("| vit-tiny |") == 2
    again, _ = run(
        request(mixers=["linear", "pool"], set=[*SET, *NO_LOWEST], tune={"trials": 3, "factor": 5e8, "validation": 0.25}), tuned
    )
    assert len(again) == 6
    assert len(trials(tuned)) == 6, "recorded once"


@pytest.mark.slow
def test_no_rate_is_chosen_before_all_trials_are_done(tuned: Path) -> None:
    found = trials(tuned)
    mixer, last = found[0].mixer, max(row.lr for row in found)
    some = [row for row in found if not (row.mixer == mixer and row.lr == last)]
    (whole,), (part,) = (tuning_tables(tunings(rows)) for rows in (found, some))
    assert "–" not in list(whole.frame["best rate"])
    assert list(part.frame.set_index("mixer")["best rate"])[sorted({row.mixer for row in found}).index(mixer)] == "–"
    assert f"without a trial: {mixer} 1 rate" in " ".join(part.notes)


@pytest.mark.slow
def test_a_line_whose_every_trial_diverges_is_listed_and_has_no_final_run(tmp_path: Path) -> None:
    wanted = request(mixers=["linear"], set=[*SET, "optim.lr=1e6"], tune={"trials": 2, "factor": 1.5})
    ended, _ = run(wanted, tmp_path)
    assert [status.message for status in ended.values()] == ["every rate of tuning diverged"]
    assert not list(tmp_path.glob("digits-*"))


@pytest.mark.slow
def test_matched_runs_say_to_what_in_row_and_table(tmp_path: Path) -> None:
    ended, heard = run(request(mixers=["identity"], match="params"), tmp_path)
    assert {status.state for status in ended.values()} == {"finished"}
    assert "of softmax's" in heard.said[0]
    (row,) = records.read(next(tmp_path.glob("*/records.jsonl")))[0]
    assert (row.chosen.match, row.chosen.match_to) == ("params", "softmax")
    assert abs(row.parameters / row.chosen.budget - 1) == pytest.approx(abs(row.chosen.residual))
    assert json.loads((next(tmp_path.glob("*/result.json"))).read_text())["chosen"]["mlp_ratio"] > 4
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert "parameters matched to softmax" in done.output
