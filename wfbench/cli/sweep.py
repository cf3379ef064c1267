"""``wfbench sweep``: many runs, each resumable."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wfbench.cli import complete
from wfbench.cli.errors import needs, speaks_plainly
from wfbench.cli.mixer_option import several_mixers
from wfbench.cli.mixer_set import HELP as MIXER_SET
from wfbench.cli.mixer_set import with_settings

if TYPE_CHECKING:
    from wfbench.tasks.sweep import Dispatch, SweepRequest


#: Groups of the options in --help.
_LINES, _TRAINING, _FAIR, _RUN, _SLURM = "What is compared", "What all runs share", "Fairness and claims", "The runs", "Slurm"


@speaks_plainly
def sweep(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|FILE",
            help="A sweep that comes with the package, or a YAML of one; options replace what it says.",
            autocompletion=complete.sweeps,
        ),
    ] = None,
    mixer: Annotated[list[str] | None, several_mixers("A mixer; repeat it.", _LINES)] = None,
    mixer_set: Annotated[list[str] | None, typer.Option("--mixer-set", help=MIXER_SET, rich_help_panel=_LINES)] = None,
    seed: Annotated[list[int] | None, typer.Option(help="A seed; repeat it. Default: 0.", rich_help_panel=_TRAINING)] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option(help="A recipe; repeat it. Default: digits.", autocompletion=complete.recipes, rich_help_panel=_LINES),
    ] = None,
    local_conv: Annotated[
        list[str] | None, typer.Option(help="none or dwc, for every mixer; repeat it.", rich_help_panel=_LINES)
    ] = None,
    pos: Annotated[
        list[str] | None, typer.Option(help="A position, for every mixer; repeat it.", rich_help_panel=_LINES)
    ] = None,
    every: Annotated[
        list[int] | None,
        typer.Option(help="One layer in so many carries the mixer, of every mixer; repeat it.", rich_help_panel=_LINES),
    ] = None,
    offset: Annotated[
        list[int] | None, typer.Option(help="The first of these layers, from 0; repeat it.", rich_help_panel=_LINES)
    ] = None,
    between: Annotated[
        list[str] | None,
        typer.Option(
            help="The mixer that fills the other layers; repeat it.", autocompletion=complete.mixers, rich_help_panel=_LINES
        ),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Override a recipe key in all runs.", rich_help_panel=_TRAINING)
    ] = None,
    vary: Annotated[
        list[str] | None, typer.Option(help="Several values of a recipe key: optim.lr=[1e-3,2e-3]", rich_help_panel=_LINES)
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Where the images are, as in `wfbench train`.", rich_help_panel=_TRAINING)
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            help="The mixer that others are matched to. Default: softmax.",
            autocompletion=complete.mixers,
            rich_help_panel=_FAIR,
        ),
    ] = None,
    match: Annotated[
        str | None, typer.Option(help="params or macs: make each mixer's equal to the baseline's.", rich_help_panel=_FAIR)
    ] = None,
    tune: Annotated[
        str | None, typer.Option(help="lr: find each mixer's best rate first, by the same trials.", rich_help_panel=_FAIR)
    ] = None,
    trials: Annotated[
        int | None, typer.Option(help="Rates that are tried for each mixer. Default: 5.", rich_help_panel=_FAIR)
    ] = None,
    claims: Annotated[
        str | None, typer.Option(help="A file of claims, recorded before the first run.", rich_help_panel=_FAIR)
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the run directories go.", rich_help_panel=_RUN)] = Path("runs/sweep"),
    jobs: Annotated[
        int | None, typer.Option(help="Runs at once. Default: 1; on Slurm, all.", min=1, rich_help_panel=_RUN)
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of each run. Default: cores / jobs.", min=1, rich_help_panel=_RUN)
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.", rich_help_panel=_RUN)] = "auto",
    slurm: Annotated[
        bool, typer.Option("--slurm", help="Run as Slurm jobs, through submitit.", rich_help_panel=_SLURM)
    ] = False,
    partition: Annotated[str | None, typer.Option(help="Slurm's partition.", rich_help_panel=_SLURM)] = None,
    time: Annotated[
        int | None,
        typer.Option(
            help="Minutes of a Slurm job; a run that needs more is queued again. Default: 240.", min=1, rich_help_panel=_SLURM
        ),
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option(
            help="GPUs of each node of a Slurm job; a run has a process for each. Default: 0.", min=0, rich_help_panel=_SLURM
        ),
    ] = None,
    nodes: Annotated[
        int | None, typer.Option(help="Nodes that one run spans. Default: 1.", min=1, rich_help_panel=_SLURM)
    ] = None,
    cpus: Annotated[
        int | None,
        typer.Option(
            help="Cores of each node of a Slurm job. Default: 2 for each GPU, and 2 without.", min=1, rich_help_panel=_SLURM
        ),
    ] = None,
    gres: Annotated[str | None, typer.Option(help="As sbatch --gres.", rich_help_panel=_SLURM)] = None,
    qos: Annotated[str | None, typer.Option(help="As sbatch --qos.", rich_help_panel=_SLURM)] = None,
    sbatch: Annotated[
        list[str] | None,
        typer.Option(
            help="Another option of sbatch, as name=value or a bare flag; repeat it: --sbatch account=a1 --sbatch exclusive.",
            rich_help_panel=_SLURM,
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            help="decided: add seeds at the claims' looks, only where an undecided claim needs them.", rich_help_panel=_FAIR
        ),
    ] = None,
    max_seeds: Annotated[
        int | None, typer.Option(help="With --until decided: no look beyond so many seeds.", min=2, rich_help_panel=_FAIR)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the runs and how they stand, and stop.", rich_help_panel=_RUN)
    ] = False,
) -> None:
    """Train mixers × seeds × recipes; what is finished is left alone, what was stopped is resumed.

    Each run is a `wfbench train` in a process of its own. One that fails does not stop the others: it is listed with its
    message at the end, and the exit code is 1. Ctrl-C saves all runs and exits with 130; the same command goes on.
    """
    from wfbench.tasks.common import choose_device
    from wfbench.tasks.sweep import Dispatch, SlurmOptions, load_request
    from wfbench.tasks.sweep.dispatch import sequential_claims

    if file is None and not mixer:
        raise _nothing_to_sweep()
    if until not in (None, "decided"):
        raise _unknown_until(until)
    if until is None and max_seeds is not None:
        raise needs("--max-seeds", "--until decided")
    if tune is None and trials is not None:
        raise needs("--trials", "--tune lr")
    options: dict[str, Any] = {
        "mixers": with_settings(mixer or [], mixer_set) or None,
        "seeds": seed,
        "recipes": recipe,
        "local_conv": local_conv,
        "pos": pos,
        "every": every,
        "offset": offset,
        "between": between,
        "set": settings,
    }
    options |= {"vary": _varied(vary or []) or None, "data": data, "baseline": baseline, "match": match, "claims": claims}
    options |= {"tune": None if tune is None else {"key": tune} | ({} if trials is None else {"trials": trials})}
    _check_settings(settings or [], options["vary"] or {}, data)
    request = load_request(file, options)
    if baseline is not None and request.match is None:
        raise needs("--baseline", "--match params")
    told = {"--partition": partition, "--time": time, "--gpus": gpus, "--nodes": nodes, "--cpus": cpus}
    for name, value in (told | {"--gres": gres, "--qos": qos, "--sbatch": sbatch or None}).items():
        if value is not None and not slurm:
            raise needs(name, "--slurm")
    if slurm and threads is not None:
        raise needs("--threads", "runs on this machine; on Slurm, --cpus")
    if not slurm:
        choose_device(device)  # of this machine: on Slurm the runs are elsewhere
    asked = None
    if slurm:
        more = _sbatch_options(sbatch or [])
        _check_gres(gres, gpus or 0)
        cores = cpus or 2 * max(1, gpus or 0)
        asked = SlurmOptions(partition, time or 240, gpus or 0, cores, nodes=nodes or 1, gres=gres, qos=qos, more=more)
    if dry_run:
        if until is not None:
            sequential_claims(request)  # what the sweep would refuse
        _list(request, out)
    else:
        _sweep(request, out, Dispatch(jobs, threads, device, asked), until_decided=until is not None, max_seeds=max_seeds)


def _sweep(
    request: SweepRequest, out: Path, dispatch: Dispatch, *, until_decided: bool = False, max_seeds: int | None = None
) -> None:
    from wfbench.cli.progress import run_table
    from wfbench.tasks.sweep import sweep as task

    with run_table() as watch:
        ended = task(request, out, dispatch, watch, until_decided=until_decided, max_seeds=max_seeds)
    bad = {name: status for name, status in ended.items() if status.state != "finished"}
    typer.echo(f"{len(ended) - len(bad)} of {len(ended)} runs are finished in {out}")
    for name, status in bad.items():
        typer.echo(f"{status.state}: {name}: {status.message or 'the same command goes on'}", err=True)
    typer.echo(f"tables and the page: wfbench report {out}")
    if bad:
        raise typer.Exit(1)


def _list(request: SweepRequest, out: Path) -> None:
    """What would be run, and how it stands."""
    from wfbench.tasks.sweep import Sweep, match_lines, status_of

    plan = Sweep.plan(request, out)
    for line in match_lines(plan.drafts, request.baseline):
        typer.echo(line)
    tuning = plan.tuning()
    runs, missing = plan.finals(tuning)
    for run in [*(tuning.trials() if tuning is not None else []), *runs]:
        status = status_of(run, out)
        state = "diverged" if status.diverged else status.state
        typer.echo(f"{state:9} {run.place(out)}" + (f"  {status.message}" if status.message else f"  {status.figure}"))
        typer.echo(f"          wfbench train {shlex.join(run.words)}")
    for line, why in missing.items():
        typer.echo(f"not yet   {line}: {why}")


#: Options of sbatch that have a word of their own here.
_OWN_SBATCH = {
    "partition": "--partition",
    "time": "--time",
    "gpus-per-node": "--gpus",
    "gpus": "--gpus",
    "nodes": "--nodes",
    "cpus-per-task": "--cpus",
    "gres": "--gres",
    "qos": "--qos",
    "array": "--jobs",
    "ntasks-per-node": "--gpus",
    "ntasks": "--gpus",
}
#: Those that the sweep sets itself: to be told before a job is taken away, to queue it again, and to find what it wrote.
_SET_SBATCH = (
    *("signal", "requeue", "no-requeue", "open-mode", "output", "error", "input", "job-name", "wckey"),
    *("chdir", "wrap", "wait", "test-only", "parsable", "quiet", "help", "version"),
)
#: Those that have no value, or need none.
_FLAGS = ("exclusive", "oversubscribe", "overcommit", "contiguous", "hold", "reboot", "no-kill", "spread-job", "use-min-nodes")


def _check_gres(gres: str | None, gpus: int) -> None:
    """Refuse GPUs that no process would use: a run has one for each of --gpus."""
    from wfbench.errors import InputError

    asked = [part for part in (gres or "").split(",") if part.partition(":")[0] == "gpu"]
    if asked and not gpus:
        count = asked[0].rpartition(":")[2]
        number = count if count.isdigit() else "1"
        raise InputError(
            "--gres asks for GPUs, and --gpus for none",
            got=f"--gres {gres}",
            expected="--gpus beside it: a run has a process for each of them",
            remedy=f"add --gpus {number}",
        )


def _sbatch_options(options: Sequence[str]) -> dict[str, str | bool]:
    """Options of sbatch by name, from name=value, or the name of a flag.

    Raises:
        InputError: for another form, an option that is named twice, has a word of its own here, or that the sweep sets.
    """
    from wfbench.errors import InputError

    found: dict[str, str | bool] = {}
    for option in options:
        name, equals, value = option.removeprefix("--").partition("=")
        name = name.replace("_", "-")
        if name.replace("-", "_") in found:
            raise _twice("--sbatch", name, "leave one of them out")
        if not equals and name in _FLAGS:
            found[name.replace("-", "_")] = True
            continue
        if name in _SET_SBATCH:
            raise InputError(
                "an option of sbatch that the sweep sets itself",
                got=f"--sbatch {option}",
                expected="another option",
                remedy="leave it out",
            )
        if name not in _OWN_SBATCH and (not equals or not name or not value):
            raise InputError(
                "wrong value of --sbatch",
                got=option,
                expected="name=value, or the name of a flag",
                remedy="for example --sbatch account=a1",
            )
        if name in _OWN_SBATCH:
            raise InputError(
                "an option of sbatch has a word of its own",
                got=f"--sbatch {option}",
                expected=_OWN_SBATCH[name],
                remedy=f"use {_OWN_SBATCH[name]}",
            )
        found[name.replace("-", "_")] = value
    return found


def _varied(texts: list[str]) -> dict[str, Any]:
    """``key=[values]`` as the YAML has it.

    Raises:
        InputError: for what cannot be read, or a key that is named twice.
    """
    import yaml

    from wfbench import strict
    from wfbench.errors import InputError

    found: dict[str, Any] = {}
    for text in texts:
        key, _, value = text.partition("=")
        if key in found:
            raise _twice("--vary", key, f"name all of its values at once: --vary {key}=[A,B]")
        try:
            found[key] = strict.parse_value(value)
        except yaml.YAMLError as e:
            raise InputError(
                "cannot read --vary",
                got=f"{text}: {strict.one_line(e)}",
                expected="key=[values]",
                remedy="quote it for the shell",
            ) from e
    return found


def _check_settings(settings: Sequence[str], varied: Mapping[str, object], data: str | None) -> None:
    """Refuse a setting of all runs that the sweep would put another value over."""
    from wfbench.errors import InputError

    own = {"seed": "--seed", "model.mixer": "--mixer"} | dict.fromkeys(varied, "--vary")
    own |= {} if data is None else {"data.path": "--data"}
    for text in settings:
        if (key := text.partition("=")[0].strip()) in own:
            raise InputError(
                "one setting twice",
                got=f"--set {text}",
                expected=f"{own[key]} alone, which decides it",
                remedy=f"leave --set {text} out",
            )


def _nothing_to_sweep() -> Exception:
    from wfbench.errors import InputError

    return InputError(
        "nothing to sweep",
        got="no sweep and no mixers",
        expected="the name of a sweep, a YAML file of one, or --mixer",
        remedy="for example: wfbench sweep scenes, or wfbench sweep --mixer softmax,linear",
    )


def _twice(option: str, name: str, remedy: str) -> Exception:
    from wfbench.errors import InputError

    return InputError(f"{option} names one thing twice", got=name, expected="each of them once", remedy=remedy)


def _unknown_until(until: str | None) -> Exception:
    from wfbench.errors import InputError

    return InputError(
        "unknown end of a sweep", got=f"--until {until}", expected="decided", remedy="--until decided, or leave it out"
    )
