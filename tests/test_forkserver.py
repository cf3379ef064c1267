"""Forks of a server are what fresh processes are: same arguments, environment, output, exit codes and results, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wfbench import forkserver, locks

pytestmark = pytest.mark.skipif(not forkserver.is_possible(), reason="forks of a server need Linux and pidfd_open")

WORK = """
import json, os, signal, sys, time
import torch
from wfbench.forkserver import end_with_parent

def main():
    what, *more = sys.argv[1:]
    if what == "say":
        print(json.dumps({
            "argv": sys.argv[1:], "directory": os.getcwd(), "variable": os.environ.get("WFBENCH_SOME"),
            "path": os.environ.get("PATH"), "threads": torch.get_num_threads(), "session": os.getsid(0) == os.getpid(),
            "first": sys.path[0], "computed": torch.ones(300, 300).mm(torch.ones(300, 300)).sum().item(),
        }))
        print("an error", file=sys.stderr)
    elif what == "exit":
        sys.exit(int(more[0]))
    elif what == "raise":
        raise KeyError("out of luck")
    elif what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "interrupt":
        raise KeyboardInterrupt
    elif what == "words":
        sys.exit("some words")
    elif what == "late":  # a thread that is not waited for by the work, a function for the end, and a library that never ends
        import atexit, ctypes, threading
        libc = ctypes.CDLL(None)
        getattr(libc, "__cxa_atexit")(ctypes.cast(libc.pause, ctypes.c_void_p), None, None)
        atexit.register(print, "at exit")
        def write():
            time.sleep(0.2)
            print("the thread")
        threading.Thread(target=write).start()
        print("the work", end=" ")
    elif what == "sleep":
        if "end" in more:
            end_with_parent()
        open(more[0], "w").write(str(os.getpid()))
        time.sleep(300)

if __name__ == "__main__":
    main()
"""


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    (tmp_path / "some_work.py").write_text(WORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(forkserver, "_servers", [])


def start(*words: str, fork: bool = True, keep: tuple[int, ...] = (), module: str = "some_work", **variables: str):
    with Path("said.txt").open("wb") as output:
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables
        return forkserver.start(module, words, output=output.fileno(), environment=environment, keep=keep, fork=fork)


def pid_of(process: forkserver.Process, file: Path) -> int:
    deadline = time.monotonic() + 100
    while not (file.exists() and file.read_text()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return int(file.read_text())


def has_ended(pid: int) -> bool:
    state = Path("/proc") / str(pid) / "stat"
    try:
        return ") Z " in state.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("fork", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_fork_is_what_a_fresh_process_is(fork: bool) -> None:
    process, origin = start("say", "a b", "--c", fork=fork, WFBENCH_SOME="ünï", OMP_NUM_THREADS="2")
    assert process.wait(100) == 0
    assert origin == ("fork" if fork else "fresh")
    said, error = Path("said.txt").read_text().splitlines()
    assert json.loads(said) == {
        "argv": ["say", "a b", "--c"],
        "directory": os.getcwd(),
        "variable": "ünï",
        "path": os.environ["PATH"],
        "threads": 2,
        "session": True,
        "first": os.getcwd(),
        "computed": 300.0**3,
    }
    assert error == "an error"


@pytest.mark.parametrize("fork", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_exit_codes_and_tracebacks_come_back(fork: bool) -> None:
    for words, code, said in (
        (("exit", "3"), 3, ""),
        (("exit", "0"), 0, ""),
        (("exit", "300"), 300 % 256, ""),
        (("exit", "-1"), 255, ""),
        (("words",), 1, "some words\n"),
        (("raise",), 1, "KeyError: 'out of luck'\n"),
        (("interrupt",), -signal.SIGINT, "KeyboardInterrupt\n"),
        (("kill",), -signal.SIGKILL, ""),
    ):
        process, _ = start(*words, fork=fork)
        assert process.wait(100) == code
        assert process.poll() == code
        text = Path("said.txt").read_text()
        assert text.endswith(said)
        assert bool(text) == bool(said)
        assert ("Traceback" in text) == (words in (("raise",), ("interrupt",)))


@pytest.mark.slow
def test_a_fork_waits_for_its_threads_and_not_for_the_destructors_of_libraries() -> None:
    process, origin = start("late")
    assert origin == "fork"
    assert process.wait(60) == 0
    assert Path("said.txt").read_text() == "the work the thread\nat exit\n"


@pytest.mark.slow
def test_several_at_once_and_a_wait_that_is_too_long(tmp_path) -> None:
    files = [tmp_path / str(k) for k in range(3)]
    processes = [start("sleep", str(file))[0] for file in files]
    assert [pid_of(p, f) for p, f in zip(processes, files, strict=True)] == [p.pid for p in processes]
    with pytest.raises(subprocess.TimeoutExpired):
        processes[0].wait(0.05)
    processes[1].kill()
    assert processes[1].wait(100) == -signal.SIGKILL
    assert [p.poll() for p in processes] == [None, -signal.SIGKILL, None]
    processes[0].send_signal(signal.SIGTERM)
    assert processes[0].wait(100) == -signal.SIGTERM
    processes[2].kill()
    processes[2].wait(100)
    processes[2].kill()  # nothing to kill any more


@pytest.mark.slow
def test_a_fork_holds_the_files_it_is_given(tmp_path) -> None:
    (tmp_path / "run").mkdir()
    held = locks.acquire(tmp_path / "run")
    assert held is not None
    process, _ = start("sleep", str(tmp_path / "began"), keep=(held,))
    os.close(held)
    pid_of(process, tmp_path / "began")
    assert locks.is_locked(tmp_path / "run")
    process.kill()
    process.wait(100)
    assert not locks.is_locked(tmp_path / "run")


@pytest.mark.slow
def test_one_server_forks_until_what_it_imported_is_no_longer_so(tmp_path, monkeypatch) -> None:
    def server() -> int:
        assert start("exit", "0")[1] == "fork"
        return forkserver._servers[-1].popen.pid

    first = server()
    assert server() == first
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "module.py").write_text("")
    monkeypatch.setattr(forkserver.importlib.import_module("mixers"), "__path__", [str(tmp_path / "package")])
    second = server()
    assert second != first
    (tmp_path / "package" / "module.py").write_text("changed = True")
    third = server()
    assert third != second
    monkeypatch.setenv("SOME_VARIABLE", "which a library may have read when it was loaded")
    assert server() != third


def test_a_variable_that_libraries_read_when_loaded_makes_a_fresh_process() -> None:
    assert start("exit", "0", MALLOC_ARENA_MAX="1")[1] == "fresh"
    assert start("exit", "0", OMP_NUM_THREADS="")[1] == "fresh"


@pytest.mark.slow
def test_a_killed_server_is_replaced_and_its_processes_count_as_killed_when_they_end(tmp_path) -> None:
    process, _ = start("sleep", str(tmp_path / "began"))
    pid = pid_of(process, tmp_path / "began")
    forkserver._servers[-1].popen.kill()
    forkserver._servers[-1].popen.wait()
    assert process.poll() is None, "it goes on"
    assert start("exit", "0")[1] == "fork"
    assert process.poll() is None
    os.kill(pid, signal.SIGTERM)
    assert process.wait(100) == -signal.SIGKILL


@pytest.mark.slow
def test_a_server_that_cannot_import_leaves_a_fresh_process() -> None:
    Path("other_work.py").write_text("raise ImportError('nothing here')")
    process, origin = start(module="other_work")
    assert (process.wait(100), origin) == (1, "fresh")
    assert "nothing here" in Path("said.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("end",)])
def test_a_server_ends_with_its_client_and_forks_do_if_they_asked_for_it(words: tuple[str, ...], tmp_path) -> None:
    code = f"""
import os
from wfbench import forkserver
environment = os.environ | {{"OMP_NUM_THREADS": "1"}}
file = open("said.txt", "wb")
process, _ = forkserver.start("some_work", ["sleep", "began", *{words!r}], output=file.fileno(), environment=environment)
open("server", "w").write(str(forkserver._servers[0].popen.pid))
process.wait()
"""
    path = os.pathsep.join(filter(None, sys.path))
    client = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], env=os.environ | {"PYTHONPATH": path})
    pid = pid_of(client, tmp_path / "began")
    server = pid_of(client, tmp_path / "server")
    client.kill()
    client.wait()
    deadline = time.monotonic() + 20
    while not has_ended(server) or (words and not has_ended(pid)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert has_ended(pid) == bool(words)
    if not words:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_training_in_a_fork_is_that_of_a_fresh_process_bit_for_bit(tmp_path) -> None:
    settings = ["model.embed_dim=16", "model.depth=2", "model.num_heads=2", "epochs=1", "optim.warmup_epochs=0"]
    words = ["train", "--device", "cpu", "--mixer", "weightformer", *(w for s in settings for w in ("--set", s))]
    for name in ("fork", "fresh"):
        out = ["--out", str(tmp_path / name)]
        process, origin = start(*words, *out, module="wfbench.__main__", fork=name == "fork")
        assert process.wait(200) == 0, Path("said.txt").read_text()
        assert origin == name
    ours, theirs = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("fork", "fresh"))
    assert ours == theirs
    rows = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("fork", "fresh")]
    assert rows[0]["accuracy"] == rows[1]["accuracy"]
    assert rows[0]["environment"] == rows[1]["environment"]
