"""``--nproc``: the same command in several processes, by torchrun, which end as one: with one message and one exit code."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from wfbench.locks import NODES

#: Names the directory where each process notes how it failed, instead of printing it.
FAILURES = "WFBENCH_FAILURES"
#: Codes of processes that were asked to stop, as torchrun asks those that are left.
_STOPPED = (75, 130)
_ELASTIC = "torch.distributed.elastic."


@dataclass(frozen=True)
class Failure:
    """How a process failed: when, its message, its exit code, and whether that is an error that is expected of users."""

    at: float
    text: str
    code: int
    is_expected: bool


def note_failure(text: str, code: int, *, is_expected: bool) -> bool:
    """Note, as one of several processes, how this one fails; False if it is alone, and has to say so itself."""
    place = os.environ.get(FAILURES)
    if place is None:
        return False
    file = Path(place) / f"{os.environ.get('RANK', '0')}-{os.getpid()}.json"
    try:
        file.write_text(json.dumps(asdict(Failure(time.time(), text, code, is_expected))))
    except OSError:
        return False
    return True


def is_launcher(nproc: int | None) -> bool:
    """Whether this process was asked for several, and is not one of them itself."""
    return nproc is not None and (nproc > 1 or NODES in os.environ) and "LOCAL_RANK" not in os.environ


def launch(nproc: int, out: Path) -> None:
    """Run this command line in ``nproc`` processes of this machine, and end as the first that failed did.

    What the others say after it, which lost their connection to it, is left out. torchrun ends them.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    handled = "--signals-to-handle=SIGTERM,SIGINT,SIGUSR1,SIGHUP"
    arguments = parse_args([*_meeting(), f"--nproc-per-node={nproc}", handled, "--module", "wfbench"])
    arguments.training_script_args = sys.argv[1:]  # not through its parser, which would take --nproc for its own
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // nproc)))
    for name in ("torch.distributed.elastic", *(n for n in logging.root.manager.loggerDict if n.startswith(_ELASTIC))):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # its words on a failure, beside ours
    with tempfile.TemporaryDirectory(prefix="wfbench-") as notes:
        os.environ[FAILURES] = notes
        try:
            run(arguments)
        except ChildFailedError as e:
            first = _first(Path(notes))
            killed = [f for f in e.failures.values() if f.exitcode < 0 and f.exitcode != -signal.SIGTERM]  # torchrun's own
            if killed and not (first is not None and first.is_expected and first.code not in _STOPPED):
                names = " and ".join(f"process {f.local_rank} of {nproc} was killed by {f.signal_name()}" for f in killed)
                first = Failure(0, f"failed: {names}; the others were ended, and --resume goes on from what is saved", 1, True)
            if first is None:
                raise
            typer.echo(first.text, err=True)
            raise typer.Exit(first.code) from e
        except SignalException as e:  # it was passed on; the processes have saved, or were killed after half a minute
            first = _first(Path(notes))
            if first is not None:
                typer.echo(first.text, err=True)
                raise typer.Exit(first.code) from e
            if not any((out / "checkpoint").glob("step-*")):
                typer.echo(f"failed: ended by {e.sigval.name} before anything was saved; give the same command again", err=True)
                raise typer.Exit(1) from e
            raise typer.Exit(130 if e.sigval.name == "SIGINT" else 75) from e


def _meeting() -> list[str]:
    """Where the processes meet: on this machine alone, or as a job of several nodes was told."""
    if NODES not in os.environ:
        return ["--standalone"]
    nodes, number, host, port = json.loads(os.environ[NODES])
    return [f"--nnodes={nodes}", f"--node-rank={number}", f"--master-addr={host}", f"--master-port={port}"]


def _first(notes: Path) -> Failure | None:
    """The first failure that is expected of users, else the first of all."""
    found = [Failure(**json.loads(file.read_text())) for file in notes.glob("*.json")]
    return min(found, key=lambda failure: (not failure.is_expected, failure.at), default=None)
