"""``--nproc``: the same command in several processes, by torchrun."""

from __future__ import annotations

import os
import sys

import typer


def is_launcher(nproc: int | None) -> bool:
    """Whether this process was asked for several, and is not one of them itself."""
    return nproc is not None and nproc > 1 and "LOCAL_RANK" not in os.environ


def launch(nproc: int) -> None:
    """Run this command line in ``nproc`` processes of this machine, and exit as the first that failed did.

    A process that fails prints its own traceback; torchrun then ends the others.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    words = ["--standalone", f"--nproc-per-node={nproc}", "--signals-to-handle=SIGTERM,SIGINT,SIGUSR1", "--module", "wfbench"]
    arguments = parse_args(words)
    arguments.training_script_args = sys.argv[1:]  # not through its parser, which would take --nproc for its own
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // nproc)))
    try:
        run(arguments)
    except ChildFailedError as e:
        failures = [failure.exitcode for failure in e.failures.values()]
        raise typer.Exit(next((code for code in failures if code > 0), 1)) from e
    except SignalException as e:  # it was passed on; the processes have saved, or were killed after half a minute
        raise typer.Exit(130 if e.sigval.name == "SIGINT" else 75) from e
