"""``wfbench mixers``: what there is."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from wfbench.cli.errors import speaks_plainly


@speaks_plainly
def mixers(as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False) -> None:
    """List the mixers, with complexity (measured, where none is declared), formula, source and status."""
    import mixers as zoo

    specs, broken = [], []
    for name in zoo.names():
        try:
            specs.append(zoo.spec(name))
        except zoo.MixerError as e:  # of an installed package; the others are listed all the same
            broken.append(str(e))
    for message in broken:
        typer.echo(f"warning: {' '.join(message.split())}", err=True)
    measured = {spec.name: _measured(spec.name) for spec in specs if spec.complexity == "undeclared"}

    def said(spec: zoo.MixerSpec, field: str) -> object:
        return measured.get(spec.name, spec.complexity) if field == "complexity" else getattr(spec, field)

    fields = ("name", "complexity", "status", "formula", "source")
    if as_json:
        typer.echo(
            json.dumps(
                [{f: said(s, f) for f in (*fields, "every", "offset", "prefix_tokens")} for s in specs],
                indent=2,
                ensure_ascii=False,
            )
        )
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*fields)
    for spec in specs:
        table.add_row(*(str(said(spec, field)) for field in fields))
    Console().print(table)


def _measured(name: str) -> str:
    from wfbench.tasks.verify.cost import measured_complexity

    return measured_complexity(name)
