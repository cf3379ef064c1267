"""``wfbench demo``: the main job, end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wfbench.cli.errors import speaks_plainly
from wfbench.cli.mixer_option import several_mixers


@speaks_plainly
def demo(
    out: Annotated[
        Path | None, typer.Option(help="Where everything goes; by default runs/demo, or the next free name.")
    ] = None,
    mixer: Annotated[list[str] | None, several_mixers("A mixer; repeat it. By default softmax, linear, weightformer.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every registered mixer: about half an hour on 2 cores.")] = False,
) -> None:
    """Train softmax, linear and WeightFormer on real images, profile them, and print the tables; under 5 minutes on 2 cores."""
    from contextlib import ExitStack

    import mixers
    from wfbench import recipe as recipes
    from wfbench.cli.progress import Bar, Lines, Told, watching
    from wfbench.cli.report import write_and_show
    from wfbench.errors import InputError
    from wfbench.tasks.demo import DemoRequest
    from wfbench.tasks.demo import demo as run

    if every and mixer:
        raise InputError(
            "--all and --mixer exclude each other",
            got=f"--all --mixer {mixer[0]}",
            expected="one of the two",
            remedy="drop one of the two",
        )
    chosen = tuple(dict.fromkeys(mixers.names() if every else mixer or DemoRequest().mixers))
    out = out or _free(Path("runs/demo"))
    epochs, told = recipes.load("digits").epochs, Told()
    with ExitStack() as stack:

        def watch(mixer: str) -> Lines | Bar:
            stack.close()  # the bar before
            return stack.enter_context(watching(mixer, epochs))

        def say(line: str) -> None:
            stack.close()
            told(line)

        run(out, watch, say, DemoRequest.of(chosen))
    told.end()
    write_and_show([out], out)


def _free(path: Path) -> Path:
    """The path, or the first of path-2, path-3, … that does not exist: an earlier demo is never touched."""
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate
