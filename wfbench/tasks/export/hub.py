"""A folder in the Hugging Face Hub's layout: the weights of a run, what they are, and a card for people."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

import mixers
import wfbench
from wfbench.analysis.interval import Interval
from wfbench.errors import InputError
from wfbench.records import DenseRow, DiTRow, TrainRow
from wfbench.tasks.export.network import Network
from wfbench.tasks.export.write import About, check_place, write_export
from wfbench.tasks.hub import CONFIG, WEIGHTS_FILE, HubConfig, MixerFile
from wfbench.tasks.identity import mixer_digest
from wfbench.tasks.run_directory import RunRow
from wfbench.tasks.weights import weights_file

#: Why no figure of a card has an interval: what varies between runs cannot be seen in one.
ONE_RUN = "one run of one seed; an interval over seeds needs several"
#: Where data and autoencoders lie on the machine of the training: nobody else's business, and no part of the recipe's digest.
_PLACES = (("data", "path"), ("diffusion", "vae"))
_PIPELINES = {"classify": "image-classification", "dense": "image-segmentation", "dit": "unconditional-image-generation"}


@dataclass(frozen=True)
class Figure:
    """A measured figure: its type, as model cards name it, what it is, its value, and how the value is written."""

    type: str
    what: str
    value: Interval
    text: str


def export_hub(network: Network, run: Path, out: Path) -> About:
    """Write a run's weights as a folder in the Hub's layout, which `wfbench` reads back as a run.

    Args:
        network: as `of_run` gives it.
        run: the run directory.
        out: the folder.

    Raises:
        InputError: for a model that is no run's, a run without the names of its classes, or a directory with something else.
    """
    if network.row is None or network.recipe is None:
        raise InputError(
            "random weights are not shared",
            got=f"--to hub of the model {network.fields['model']}",
            expected="a finished run",
            remedy="train it first: wfbench train",
        )
    if network.about is None:
        raise InputError(
            "the weights do not name their classes",
            got=f"{run}, of an earlier version",
            expected="weights that `wfbench train` of this version wrote",
            remedy="train it again, or export to torch or onnx, which need no names",
        )
    check_place(out)

    def write(part: Path) -> None:
        shutil.copyfile(weights_file(run, network.fields["weights"]), part / WEIGHTS_FILE)
        config = config_of(network)
        (part / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        said = card(network, HubConfig.model_validate(config["wfbench"]))
        (part / "README.md").write_text(_without_places(said, network), encoding="utf-8")

    return write_export(network, "hub", out, write)


def config_of(network: Network) -> dict[str, Any]:
    """``config.json``: what people look for, and under "wfbench" what this bench reads."""
    row, recipe, about, config = network.row, network.recipe, network.about, network.model.config
    assert row is not None
    assert recipe is not None
    assert about is not None
    settings = recipe.model_dump(mode="json")
    for section, key in _PLACES:
        if settings[section] is not None:
            settings[section][key] = None
    own = HubConfig(
        version=wfbench.__version__,
        weights=row.weights,
        classes=about.classes,
        recipe=settings,
        result=row.model_dump(mode="json"),
        mixer_files=tuple(_own_files(row)),
    )
    model = {key: value for key, value in asdict(config).items() if key != "mixer_options"}  # they are in the mixer's name
    found = {
        "library_name": "wfbench",
        "task": recipe.task,
        "architecture": f"wfbench_{recipe.model.name.replace('-', '_')}",
        "architectures": [type(network.model).__name__],
        "num_classes": config.num_classes or len(about.classes),
        "label_names": list(about.classes),
        "model_args": {key: value for key, value in model.items() if key != "num_classes"},
        "preset": recipe.model.name,
        "mixer": config.mixer,
        "decoder": getattr(row, "decoder", None),
        "image_size": list(config.image_size),
        "mean": list(recipe.data.mean),
        "std": list(recipe.data.std),
        "eval_resize": recipe.data.eval_resize,
        "eval_crop": recipe.data.eval_crop,
        "digests": {
            "mixer": row.mixer_digest,
            "model": row.model_digest,
            "data": row.data_digest,
            "recipe": row.recipe_digest,
            "weights": network.fields["weights_sha256"],
        },
        "wfbench": own.model_dump(mode="json"),
    }
    made: dict[str, Any] = json.loads(_without_places(json.dumps(found, ensure_ascii=False), network))
    return made


def _without_places(text: str, network: Network) -> str:
    """A text without the places of this machine: a mixer's file, the data and an autoencoder by their names alone."""
    row, recipe = network.row, network.recipe
    assert row is not None
    assert recipe is not None
    files = [name.rpartition(":")[0] for name in (row.mixer, row.between) if name is not None]
    places = [recipe.data.path, None if recipe.diffusion is None else recipe.diffusion.vae]
    for place in sorted({*filter(None, files), *(str(place) for place in places if place)}, key=len, reverse=True):
        if "/" in place:
            text = text.replace(place, Path(place).name)
    return text


def figures(row: RunRow) -> list[Figure]:
    """What a run's trainer measured on held-out samples."""

    def figure(type_: str, what: str, value: float, text: str) -> Figure:
        return Figure(type_, what, Interval(value, why_none=ONE_RUN), text)

    match row:
        case TrainRow():
            top5 = [] if row.top5 is None else [figure("accuracy", "top-5 accuracy", row.top5, f"{100 * row.top5:.2f} %")]
            top1 = figure("accuracy", "top-1 accuracy", row.accuracy, f"{100 * row.accuracy:.2f} %")
            return [top1, *top5, figure("loss", "loss", row.loss, f"{row.loss:.4f}")]
        case DenseRow():
            return [
                figure("mean_iou", "mIoU", row.miou, f"{100 * row.miou:.2f} %"),
                figure("accuracy", "pixel accuracy", row.pixel_accuracy, f"{100 * row.pixel_accuracy:.2f} %"),
            ]
        case DiTRow():
            return [figure("loss", "denoising loss", row.loss, f"{row.loss:.4f}")]
        case _:
            return []


def card(network: Network, config: HubConfig) -> str:
    """``README.md``: the model card, of the row's figures alone."""
    row, about = network.row, network.about
    assert row is not None
    assert about is not None
    task = config.recipe["task"]
    found = figures(row)
    measured = [{"type": each.type, "name": each.what, "value": each.value.estimate, "verified": False} for each in found]
    head = {
        "library_name": "wfbench",
        "pipeline_tag": _PIPELINES[task],
        "tags": ["wfbench", "token-mixer", row.mixer.rpartition(":")[2], row.model],
        "model-index": [
            {
                "name": f"{row.model} with {row.mixer.rpartition(':')[2]}",
                "results": [
                    {
                        "task": {"type": _PIPELINES[task]},
                        "dataset": {"name": row.dataset, "type": config.recipe["data"]["source"]},
                        "metrics": measured,
                    }
                ],
            }
        ],
    }
    return "\n".join(["---", yaml.safe_dump(head, sort_keys=False, allow_unicode=True) + "---", *_body(network, found), ""])


def _body(network: Network, found: list[Figure]) -> Iterator[str]:
    row, recipe = network.row, network.recipe
    assert row is not None
    assert recipe is not None
    size = "×".join(map(str, network.image_size))
    yield f"\n# {row.model} with the token mixer {row.mixer}\n"
    yield (
        f"Trained by wfbench {wfbench.__version__}, recipe {row.recipe}: {row.epochs} epochs of "
        f"{row.dataset} at {size}, seed {row.seed}, {row.weights} weights, {row.parameters:,} parameters. Pretraining: "
        f"{row.pretraining}.\n"
    )
    yield "## Measured\n"
    yield f"On {row.samples:,} held-out samples, after the last epoch, in {row.dtype} on {row.environment.device}:\n"
    yield "| figure | value | 95% interval |\n| :--- | ---: | :--- |"
    for each in found:
        ends = "none" if each.value.low is None else f"{each.value.low:g} to {each.value.high:g}"
        yield f"| {each.what} | {each.text} | {ends} |"
    reasons = dict.fromkeys(each.value.why_none for each in found if each.value.why_none)
    for why in reasons:
        yield f"\nNo interval: {why}. A single seed ranks nothing."
    yield "\n## Use\n"
    yield "```sh\nwfbench eval FOLDER --data PATH          # or hf:ORG/NAME once it is published"
    yield "wfbench train --recipe digits --set model.init_weights=hf:ORG/NAME\n```\n"
    data = recipe.data
    yield (
        f"Images are normalised by mean {list(data.mean)} and std {list(data.std)}. The classes stand in `config.json`, in the "
        f"order of the outputs ({len(network.about.classes) if network.about else 0} of them).\n"
    )
    own = list(_own_files(row))
    if own:
        yield "## Code that it needs\n"
        for mixer in own:
            what = f"the file `{mixer.file}`" if mixer.package is None else f"the installed package `{mixer.package}`"
            yield (
                f"The mixer `{mixer.name}` is none of wfbench's: it needs {what}, whose code had the digest {mixer.digest}. It "
                "is not in this folder; ask the author for it, and read it before you run it.\n"
            )
    digests = {"mixer": row.mixer_digest, "models": row.model_digest, "data": row.data_digest, "recipe": row.recipe_digest}
    yield "## Where it is from\n"
    yield f"- command: `{row.command}`"
    yield f"- digests: {', '.join(f'{name} {digest}' for name, digest in digests.items() if digest)}"
    yield f"- SHA-256 of `{WEIGHTS_FILE}`: {network.fields['weights_sha256']}"
    yield f"- wfbench at {row.environment.git_revision or 'a release'}; " + ", ".join(
        f"{name} {version}" for name, version in row.environment.versions.items() if name in ("torch", "timm")
    )
    for note in network.notes:
        yield f"- {note}"
    yield "\nThe licence of these weights is for whoever publishes them to say."


def _own_files(row: RunRow) -> Iterator[MixerFile]:
    """The files, modules and installed packages of mixers that are none of this package's."""
    for name in (row.mixer, row.between):
        if name is None:
            continue
        file = name.rpartition(":")[0]
        if file.endswith(".py") or "/" in file:
            yield MixerFile(name=name, file=Path(file).name, digest=mixer_digest(name))
        elif file:
            yield MixerFile(name=name, file=file, digest=mixer_digest(name), package=file.partition(".")[0])
        elif (home := mixers.layers(name)[0].__module__.partition(".")[0]) != mixers.__name__:
            yield MixerFile(name=name, file=home, digest=mixer_digest(name), package=_distribution(name) or home)


def _distribution(name: str) -> str | None:
    """The name and version of the installed package that offers a mixer."""
    points = metadata.entry_points(group="wfbench.mixers")
    dist = next((point.dist for point in points if point.name == name.partition("(")[0].strip()), None)
    return None if dist is None else f"{dist.name} {dist.version}"
