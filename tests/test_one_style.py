"""Every message about bad input has one form: what was wrong, what was got, what was expected, and the remedy."""

from __future__ import annotations

import ast
import copy
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from typer.testing import CliRunner

import mixers
from wfbench.cli import app

ROOT = Path(__file__).resolve().parent.parent
PARTS = {"got", "expected", "remedy"}

CALLS = {
    "unknown command, near": "trian",
    "unknown command, far": "xyzzy",
    "no command": "--",
    "unknown option of the group": "--verson",
    "unknown option, near": "train --reciep digits",
    "unknown option, far": "train --zzzzzzz",
    "unknown short option": "train -q",
    "unknown option of two words": "train --allow-change-code",
    "missing argument": "eval",
    "missing option": "data extract-latents --vae vae",
    "extra argument": "verify pool softmax",
    "several extra arguments": "mixers one two",
    "a word for a whole number": "train --nproc two",
    "a fraction for a whole number": "verify pool --dim 1.5",
    "a word for a number": "profile --budget soon",
    "below the range": "train --nproc 0",
    "above the range": "profile --threads 2000",
    "option without its value": "train --out",
    "option that takes no value": "verify pool --json=1",
    "unknown choice": "verify pool --heads many",
    "unknown split": "data extract-latents --vae vae --out out --split test",
    "unknown command of data, near": "data extract-latent",
    "unknown command of data, far": "data xyzzy",
    "unknown option of data": "data --versoin",
    "wrong value in data": "data extract-latents --vae vae --out out --batch many",
    "option of data without its value": "data extract-latents --vae vae --out",
    "unknown mixer, near": "verify softmxa",
    "unknown mixer, far": "verify xyzzy",
    "unknown option of a mixer, near": "verify softmax(qvk_bias=false)",
    "unknown option of a mixer, far": "verify pool(heads=3)",
    "no option of a mixer": "verify window --mixer-set window",
    "an option of a mixer twice": "verify window --mixer-set window=3 --mixer-set window=5",
    "a value that a mixer refuses": "verify agent(agents=48)",
    "heads that do not divide": "verify softmax --heads 5",
    "an option that no head fits": "verify softmax(differential=true) --heads 16",
    "a mixer file that is not there": "verify no_such_file.py:Mixer",
    "a file that is no mixer": "verify {readme}:Mixer",
    "a module that is not there": "verify no_such_module:Mixer",
    "a class that is no mixer": "verify torch.optim:AdamW",
    "a broken name": "verify a:b:c",
    "one mixer and all": "verify pool --all",
    "a path that the system refuses": "train --recipe digits --out {long}",
}


def assert_in_one_style(stderr: str, stdout: str) -> None:
    first, second, *rest = stderr.splitlines()
    assert first.startswith("error: "), stderr
    assert second.startswith("  got:      "), stderr
    assert any(line.startswith("  expected: ") for line in rest), stderr
    assert any(line.startswith("  remedy:   ") for line in rest), stderr
    assert stderr.count("error: ") == 1
    assert "Traceback" not in stderr
    assert not any("\u2500" <= character <= "\u257f" for character in stderr), stderr
    assert stdout == ""


@pytest.mark.sampled(3)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_bad_input_is_one_message_of_one_form(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = [word.format(readme=ROOT / "README.md", long=tmp_path / ("x" * 300)) for word in call.split()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that announce changes, as the console script does
        done = CliRunner().invoke(app, words)
    assert done.exit_code == 2, done.output
    assert_in_one_style(done.stderr, done.stdout)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "lines"),
    [
        ("trian", ["error: no such command", "trian in wfbench", "did you mean train?"]),
        ("train --reciep x", ["error: no such option", "--reciep in wfbench train", "did you mean --recipe?"]),
        ("train --zzzzzzz", ["see wfbench train --help"]),
        ("train --out", ["error: an option without its value", "expected: --out VALUE (Run directory"]),
        ("train --nproc 0", ["error: wrong value of --nproc", "'0' in wfbench train", "expected: 1 or more"]),
        ("verify pool --dim 1.5", ["error: wrong value of --dim", "expected: a whole number"]),
        ("mixers one two", ["error: unexpected argument", "one two in wfbench mixers"]),
        ("verify softmax(qvk_bias=false)", ["got:      'qvk_bias'\n", "remedy:   did you mean 'qkv_bias'?"]),
        ("train --a\x1b[31mb", [r"--a\x1b[31mb in wfbench train"]),
    ],
)
def test_what_a_message_says(call: str, lines: list[str]) -> None:
    done = CliRunner().invoke(app, call.split(" "))
    assert [line for line in lines if line not in done.stderr] == [], done.stderr


def test_a_value_of_the_environment_names_it() -> None:
    done = CliRunner().invoke(app, ["data", "extract-latents", "--vae", "a", "--out", "b"], env={"RANK": "first"})
    assert_in_one_style(done.stderr, done.stdout)
    assert "from the environment: RANK" in done.stderr


def test_the_console_script_says_the_same() -> None:
    done = subprocess.run([sys.executable, "-m", "wfbench", "train", "--reciep", "x"], capture_output=True, text=True)
    assert done.returncode == 2
    assert_in_one_style(done.stderr, done.stdout)


def test_one_of_several_processes_notes_it_and_prints_nothing(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["train", "--nproc", "0"], env={"WFBENCH_FAILURES": str(tmp_path)})
    assert (done.exit_code, done.output) == (2, "")
    [note] = tmp_path.glob("*.json")
    assert "error: wrong value of --nproc" in note.read_text()


@pytest.mark.parametrize("words", [[], ["data"]])
def test_no_argument_shows_the_help(words: list[str]) -> None:
    done = CliRunner().invoke(app, words)
    assert "Usage:" in done.output
    assert "error" not in done.stderr


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["train", "--help"], ["data", "--help"]])
def test_what_is_asked_for_is_no_error(words: list[str]) -> None:
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, done.stderr) == (0, "")


def lacking(source: str) -> list[str]:
    """The calls of an error about bad input without one of its parts: its line, what it begins with, and what it lacks."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("InputError", "MixerError"):
            said = {keyword.arg for keyword in node.keywords if ast.unparse(keyword.value) not in ("None", "''")}
            missing = PARTS - said if node.args else {"what", *PARTS} - said
            begin = ast.unparse(node.args[0]) if node.args else ""
            found += [f"line {node.lineno}, {begin}, lacks {', '.join(sorted(missing))}"] if missing else []
    return found


#: Calls that lack a part, by their file and what they begin with, and why they may.
MAY_LACK = {
    ("wfbench/tasks/sweep/combinations.py", "problems[0] + "): "it repeats a whole message, and says of how many more mixers",
}


def test_every_error_about_bad_input_has_all_parts() -> None:
    files = [file for package in ("mixers", "wfbench") for file in (ROOT / package).rglob("*.py")]
    sites = [(str(file.relative_to(ROOT)), line) for file in files for line in lacking(file.read_text())]
    excused = {place: [site for site in sites if site[0] == place[0] and f", {place[1]}" in site[1]] for place in MAY_LACK}
    assert {place: len(found) for place, found in excused.items()} == dict.fromkeys(MAY_LACK, 1)  # none that is gone
    assert [site for site in sites if site not in sum(excused.values(), [])] == []
    assert sum(file.read_text().count(f"raise {name}(") for file in files for name in ("InputError", "MixerError")) > 350


def test_an_error_without_a_part_is_seen() -> None:
    assert lacking("raise MixerError('a: got b')") == ["line 1, 'a: got b', lacks expected, got, remedy"]
    assert lacking("raise mixers.MixerError('a', got=1, expected=2)") == ["line 1, 'a', lacks remedy"]
    assert lacking("return InputError('a', got=1, remedy='b')") == ["line 1, 'a', lacks expected"]
    assert lacking("raise errors.InputError(got=1, expected=2, remedy='b')") == ["line 1, , lacks what"]
    assert lacking("raise InputError('a', got=1, expected=2, remedy=None)") == ["line 1, 'a', lacks remedy"]
    assert lacking("raise InputError('a', got=1, expected=2, remedy='')") == ["line 1, 'a', lacks remedy"]
    assert lacking("raise InputError('a', got=1, **more)") == ["line 1, 'a', lacks expected, remedy"]
    assert lacking("raise InputError('a', got=1, expected=2, remedy='b')") == []
    assert lacking("raise MixerError('a', got=1, expected=2, remedy='b')") == []


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        ({}, "what"),
        ({"got": 1}, "what: got 1"),
        ({"got": 1, "expected": 2}, "what: got 1, expected 2"),
        ({"got": 1, "expected": 2, "remedy": "do it"}, "what: got 1, expected 2; do it"),
        ({"got": 1, "remedy": "do it"}, "what: got 1; do it"),
        ({"remedy": "do it"}, "what; do it"),
        ({"got": 1, "expected": 2, "remedy": "did you mean 2?"}, "what: got 1; did you mean 2? expected 2"),
    ],
)
def test_an_error_of_a_mixer_is_one_line_and_keeps_its_parts(parts: dict[str, object], line: str) -> None:
    error = mixers.MixerError("what", **parts)
    for found in (error, pickle.loads(pickle.dumps(error)), copy.copy(error)):  # as it travels between processes
        assert str(found) == line
        assert (found.what, found.got, found.expected, found.remedy) == ("what", *map(parts.get, ("got", "expected", "remedy")))
