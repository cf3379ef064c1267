"""``wfbench verify``: what holds for a mixer, or for each of them."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from wfbench.cli import complete
from wfbench.cli.errors import speaks_plainly
from wfbench.cli.mixer_set import HELP as MIXER_SET
from wfbench.cli.mixer_set import with_settings

if TYPE_CHECKING:
    from wfbench.tasks.verify import Report


@speaks_plainly
def verify(
    mixer: Annotated[
        str | None, typer.Argument(help="A mixer's name, or path/to/file.py:ClassName.", autocompletion=complete.mixers)
    ] = None,
    mixer_set: Annotated[list[str] | None, typer.Option("--mixer-set", help=MIXER_SET)] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every registered mixer: a line for each, and the time.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    dim: Annotated[int, typer.Option(help="Channels of the tokens.")] = 48,
    heads: Annotated[int, typer.Option(help="Heads, for a mixer that has them.")] = 3,
    seed: Annotated[int, typer.Option(help="Seed of weights and inputs.")] = 0,
) -> None:
    """Hold a mixer to the oracles that hold for every mixer, and print what holds. Exit code 1 if a required one fails."""
    from wfbench.cli.progress import Told
    from wfbench.errors import InputError
    from wfbench.tasks import verify as task

    chosen = with_settings([] if mixer is None else [mixer], mixer_set, "wfbench verify MIXER --mixer-set ...")
    if everything == (mixer is not None):
        raise InputError(
            "one mixer or all of them",
            got=f"{mixer} and --all" if mixer else "neither",
            expected="wfbench verify MIXER, or --all alone",
            remedy="name one, or leave it out",
        )
    told = Told()
    news: Callable[[str], None] = (lambda line: None) if as_json else told
    if mixer is not None:
        report = task.verify(chosen[0], dim=dim, num_heads=heads, seed=seed, told=news)
        if as_json:
            typer.echo(as_text(report))
        else:
            told.end()
            show(report)
        refuted = bool(report.refuted)
    else:
        refuted = verify_all(dim, heads, seed, news, told.end, as_json)
    if refuted:
        raise typer.Exit(1)


def verify_all(dim: int, heads: int, seed: int, news: Callable[[str], None], clear: Callable[[], None], as_json: bool) -> bool:
    """Every registered mixer, a line for each as soon as it is judged, then the total time; whether any is refuted."""
    import mixers
    from wfbench.tasks import verify as task

    reports, began = [], time.monotonic()
    for name in mixers.names():
        since = time.monotonic()
        reports.append(task.verify(name, dim=dim, num_heads=heads, seed=seed, told=news))
        if not as_json:
            clear()
            failed = "".join(f"\n  {f.name} ({f.slot}): {f.measured}" for f in reports[-1].refuted)
            typer.echo(f"{totals(reports[-1])}, {time.monotonic() - since:.1f} s{failed}")
    seconds, refuted = time.monotonic() - began, [report.mixer for report in reports if report.refuted]
    if as_json:
        each = [json.loads(as_text(report)) for report in reports]
        found = {"verdict": "FAILS" if refuted else "holds", "seconds": round(seconds, 1), "mixers": each}
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        which = f"{len(refuted)} of them FAIL: {', '.join(refuted)}" if refuted else "none fails"
        typer.echo(f"{len(reports)} mixers in {seconds:.0f} s, {which}")
    return bool(refuted)


def as_text(report: Report) -> str:
    """The report as JSON, with what it was made on."""
    from wfbench import records

    found = dataclasses.asdict(report)
    environment = records.stamp("cpu").model_dump(mode="json")
    first = {"mixer": found.pop("mixer"), "verdict": report.verdict}
    return json.dumps(first | found | {"environment": environment}, indent=2, ensure_ascii=False)


def show(report: Report) -> None:
    """The report as a table, then the remedies and what is left to declare, then one line with the totals."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    table = Table("check", "slot", "verdict", "measured", "expected")
    colours = {"holds": "green", "FAILS": "bold red", "n.a.": "dim"}
    for f in report.checks:
        name = f.name if f.required else f"{f.name} (reported)"
        verdict = f"[{colours[f.verdict]}]{f.verdict}[/]"
        table.add_row(name, f.slot, verdict, escape(f.measured), escape(f.expected))
    console.print(table)
    remedies: dict[str, list[str]] = {}
    for f in report.checks:
        if f.detail:
            remedies.setdefault(f.detail, []).append(f"{f.name} ({f.slot})")
    for remedy, names in remedies.items():
        console.print(f"{', '.join(names)}: {escape(remedy)}")
    console.print(escape(totals(report)))


def totals(report: Report) -> str:
    """One line: how many checks hold, fail, and have nothing to judge."""
    words = [f.verdict for f in report.checks]
    failed, reported = words.count("FAILS"), words.count("FAILS") - len(report.refuted)
    noted = f" ({reported} of them only reported)" if reported else ""
    end = f"it FAILS {len(report.refuted)} required" if report.refuted else "no required check fails"
    return f"{report.mixer}: {words.count('holds')} hold, {failed} fail{noted}, {words.count('n.a.')} not applicable; {end}"
