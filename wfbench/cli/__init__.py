"""The command line. Each command lives in a file of its own and imports what is heavy only when it runs."""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import typer

from wfbench import __version__
from wfbench.cli.ablate import ablate
from wfbench.cli.baselines import baselines
from wfbench.cli.data import data
from wfbench.cli.demo import demo
from wfbench.cli.erf import erf
from wfbench.cli.eval import evaluate
from wfbench.cli.export import export
from wfbench.cli.mixers import mixers
from wfbench.cli.models import models
from wfbench.cli.predict import predict
from wfbench.cli.probe import probe
from wfbench.cli.profile import profile
from wfbench.cli.recipes import recipes
from wfbench.cli.report import report
from wfbench.cli.reproduce import reproduce
from wfbench.cli.sample import sample
from wfbench.cli.show import show
from wfbench.cli.sweep import sweep
from wfbench.cli.train import train
from wfbench.cli.usage import PlainGroup
from wfbench.cli.verify import verify
from wfbench.errors import InputError
from wfbench.signals import STOP

app = typer.Typer(
    name="wfbench",
    cls=PlainGroup,
    help="Which token mixer, at which resolution, on your hardware, at what accuracy, and is the difference real?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"wfbench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


app.command("mixers")(mixers)
app.command("models")(models)
app.command("recipes")(recipes)
app.command("show")(show)
app.command("train")(train)
app.command("sample")(sample)
app.command("eval")(evaluate)
app.command("ablate")(ablate)
app.command("baselines")(baselines)
app.command("profile")(profile)
app.command("predict")(predict)
app.command("report")(report)
app.command("reproduce")(reproduce)
app.command("verify")(verify)
app.command("erf")(erf)
app.command("export")(export)
app.command("sweep")(sweep)
app.command("probe")(probe)
app.command("demo")(demo)
app.add_typer(data)


def main() -> None:
    """The console script."""
    import warnings

    # timm and fvcore use parts of PyTorch that newer versions announce to retire; a user can do nothing about it.
    warnings.filterwarnings("ignore", category=FutureWarning, message=".*torch.jit.*")
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="(timm|fvcore|iopath).*")
    empty = [i for i, word in enumerate(sys.argv) if i and not word.strip()]
    if empty:
        got = f"'' after {sys.argv[empty[0] - 1] if empty[0] > 1 else 'wfbench'}"
        error = InputError("an empty word", got=got, expected="a value", remedy="leave the option out, or give it one")
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(2)
    try:
        app()
    finally:
        for number in STOP:  # what was asked for is done, and said: a signal that comes now must not change the exit code
            signal.signal(number, signal.SIG_IGN)
