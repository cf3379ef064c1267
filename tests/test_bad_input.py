"""Bad input to every command: exit code 2, one message (what, got, expected, remedy), no traceback, nothing written."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import image_folder, listing
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from wfbench.cli import app
from wfbench.records import ClaimsRow, Environment, ProfileRow, stamp

TINY = ["epochs=1", "optim.warmup_epochs=0", "model.embed_dim=24", "model.depth=1"]
#: From a name of the table to what makes the file, in the directory where the commands run.
FILES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 4),
    "latin": lambda path: path.write_bytes("epochs: 3 # für".encode("latin-1")),
    "list.yaml": lambda path: path.write_text("- a\n- b\n"),
    "number.yaml": lambda path: path.write_text("3\n"),
    "tab.yaml": lambda path: path.write_text("a:\n\t- b\n"),
    "twice.yaml": lambda path: path.write_text("epochs: 3\nepochs: 4\n"),
    "unknown.yaml": lambda path: path.write_text("epohcs: 3\n"),
    "nested.yaml": lambda path: path.write_text("optim: 3\n"),
    "deep.yaml": lambda path: path.write_text("[" * 3000 + "]" * 3000),
    "recursive.yaml": lambda path: path.write_text("&a [*a]\n"),
    "bomb.yaml": lambda path: path.write_text(
        "\n".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9) if k else '1'}]" for k in range(12))
    ),
    "digits.yaml": lambda path: path.write_text("epochs: " + "9" * 5000 + "\n"),
    "nan.yaml": lambda path: path.write_text("optim: {lr: .nan}\n"),
    "object.yaml": lambda path: path.write_text("!!python/object/apply:os.system ['true']\n"),
    "claims.yaml": lambda path: path.write_text("claims: [{id: a, kind: bettr, line: softmax, than: linear}]\n"),
    "claims-twice.yaml": lambda path: path.write_text(
        "recipe: digits\nseeds: [1]\nclaims:\n" + "  - {id: a, says: A., kind: better, line: softmax, than: linear}\n" * 2
    ),
    "sweep.yaml": lambda path: path.write_text("recipes: [digits]\nmixers: [softmax]\nseeds: [1, 1]\n"),
    "sweep-every.yaml": lambda path: path.write_text("recipes: [digits]\nseeds: [1]\nmixers: [{mixer: softmax, evry: 2}]\n"),
    "no-mixer.py": lambda path: path.write_text("x = 1\n"),
    "exits.py": lambda path: path.write_text("import sys\nsys.exit(0)\n"),
    "raises.py": lambda path: path.write_text("raise KeyError('at import')\n"),
    "syntax.py": lambda path: path.write_text("def f(:\n"),
    "shape.py": lambda path: path.write_text(
        "from torch import nn\nclass M(nn.Module):\n"
        "    def __init__(self, dim): super().__init__()\n    def forward(self, x, grid): return x[:, :1]\n"
    ),
    "constructor.py": lambda path: path.write_text(
        "from torch import nn\nclass M(nn.Module):\n    def __init__(self, dim): raise RuntimeError('no')\n"
    ),
    "records.jsonl": lambda path: path.write_text('{"kind": "train", "schema_version": 6, "accuracy": 3e9}\n'),
    "torn.jsonl": lambda path: path.write_text('{"kind": "train"\n{"kind": "train"}\n'),
    "future.jsonl": lambda path: path.write_text('{"kind": "train", "schema_version": 999}\n'),
    "kind.jsonl": lambda path: path.write_text('{"kind": "trian", "schema_version": 6}\n'),
    "elsewhere.jsonl": lambda path: path.write_text("".join(row.model_dump_json() + "\n" for row in _timed_elsewhere())),
    "claims-only.jsonl": lambda path: path.write_text(
        ClaimsRow(environment=_elsewhere(), sha256="0", text="", begun=0).model_dump_json() + "\n"
    ),
    "alone/orphan.csv": lambda path: path.parent.mkdir() or path.write_text("a,b\n"),
    "weights.safetensors": lambda path: save_file({"stray": torch.ones(2)}, path),
    "torn.safetensors": lambda path: path.write_bytes(b"\x08\0\0\0\0\0\0\0{}"),
    "map.json": lambda path: path.write_text(json.dumps({"a": 99})),
    "list.json": lambda path: path.write_text("[1, 2]"),
    "folder": lambda path: path.mkdir(),
    "pictures": lambda path: image_folder(path, "train", ["a", "b"], 4) and image_folder(path, "val", ["a", "b"], 2),
    "one-class": lambda path: image_folder(path, "train", ["a"], 4) and image_folder(path, "val", ["a"], 2),
    "other-classes": lambda path: image_folder(path, "train", ["a", "b"], 4) and image_folder(path, "val", ["a", "c"], 2),
    "no-val": lambda path: image_folder(path, "train", ["a", "b"], 4),
    "empty-class": lambda path: image_folder(path, "train", ["a", "b"], 4) and (path / "train" / "c").mkdir(),
    "torn-pictures": lambda path: (
        image_folder(path, "train", ["a", "b"], 4) and image_folder(path, "val", ["a", "b"], 2) and _tear(path / "val")
    ),
    "png": lambda path: Image.new("RGB", (8, 8)).save(path, "png"),
    "samples.npz": lambda path: np.savez(path, arr_0=np.zeros((2, 8, 8), np.uint8)),
    "x" * 200: lambda path: path.write_text(""),
}


def _elsewhere() -> Environment:
    return stamp("cpu").model_copy(update={"device": "Another CPU"})


def _timed_elsewhere() -> list[ProfileRow]:
    """Two cells of a profile, on another machine."""
    shared = {"environment": _elsewhere(), "session": "s", "model": "vit-tiny", "resolution": (32, 32), "tokens": 4, "batch": 1}
    shared |= {"mode": "infer", "dtype": "float32", "sdpa_backend": "chosen by PyTorch", "path": "auto", "order_seed": 0}
    shared |= {"protocol": "interleaved-v1", "status": "ok", "round_medians": (0.1, 0.2, 0.3), "median": 0.2}
    return [ProfileRow(**shared, mixer=mixer) for mixer in ("softmax", "linear")]


def _tear(folder: Path) -> None:
    for file in sorted(folder.rglob("*.png"))[:1]:
        file.write_bytes(file.read_bytes()[:40])


def _set(command: str, *settings: str) -> list[str]:
    return [*command.split(), *(word for setting in settings for word in ("--set", setting))]


FOLDER = "data.source=folder"
CALLS: list[list[str] | str] = [
    # the command line itself
    "nonsense",
    "trian",
    "train --nonsense",
    "train --mixr softmax",
    "train extra",
    "train --mixer",
    "train --seed one",
    "train --seed 1.5",
    "train --nproc 0",
    "train --nproc two",
    "train --seed",
    "profile --rounds 1.5",
    "profile --seconds soon",
    "profile --batch one",
    "report --margin wide",
    "sweep --jobs 0",
    "sweep --jobs -1",
    "sweep --threads 0",
    "verify softmax --dim wide",
    "erf --images many",
    "sample",
    "eval",
    "ablate",
    "data nonsense",
    "mixers softmax",
    "probe --seeds 0",
    "probe --seeds none",
    "demo --out",
    "sample run --seed -1",
    # recipes and settings
    "train --recipe no-such",
    "train --recipe no-such.yaml",
    "train --recipe folder",
    "train --recipe empty",
    "train --recipe binary",
    "train --recipe latin",
    "train --recipe list.yaml",
    "train --recipe number.yaml",
    "train --recipe tab.yaml",
    "train --recipe twice.yaml",
    "train --recipe unknown.yaml",
    "train --recipe nested.yaml",
    "train --recipe deep.yaml",
    "train --recipe recursive.yaml",
    "train --recipe bomb.yaml",
    "train --recipe digits.yaml",
    "train --recipe nan.yaml",
    "train --recipe object.yaml",
    _set("train", "epochs"),
    _set("train", "=3"),
    _set("train", "epochs="),
    _set("train", "epohcs=3"),
    _set("train", "optim.lrr=1"),
    _set("train", "optim=3"),
    _set("train", "epochs.more=3"),
    _set("train", "epochs=0"),
    _set("train", "epochs=-1"),
    _set("train", "epochs=2.5"),
    _set("train", "epochs=many"),
    _set("train", "epochs=[1, 2]"),
    _set("train", "epochs=true"),
    _set("train", "epochs=1e400"),
    _set("train", "optim.lr=.nan"),
    _set("train", "optim.lr=.inf"),
    _set("train", "optim.lr=-1"),
    _set("train", "optim.lr=fast"),
    _set("train", "optim.lr=1e-9"),
    _set("train", "optim.weight_decay=-0.1"),
    _set("train", "optim.name=adamx"),
    _set("train", "optim.warmup_epochs=-1"),
    _set("train", "optim.warmup_epochs=1000"),
    _set("train", "batch_size=0"),
    _set("train", "batch_size=1000000000"),
    _set("train", "batch_size=64.5"),
    _set("train", "ema.decay=1.5"),
    _set("train", "label_smoothing=2"),
    _set("train", "mix.mixup=-1"),
    _set("train", "data.workers=-1"),
    _set("train", "data.hflip=2"),
    _set("train", "data.augment=everything"),
    _set("train", "data.source=nowhere"),
    _set("train", "data.mean=[0.5, 0.5]"),
    _set("train", "data.std=[0]"),
    _set("train", "data.limit=0"),
    _set("train", "data.limit=1"),
    _set("train", "model.name=vit-huge-and-more"),
    _set("train", "model.depth=0"),
    _set("train", "model.embed_dim=0"),
    _set("train", "model.embed_dim=25"),
    _set("train", "model.num_heads=0"),
    _set("train", "model.num_heads=5"),
    _set("train", "model.patch_size=3"),
    _set("train", "model.patch_size=0"),
    _set("train", "model.image_size=0"),
    _set("train", "model.in_channels=7"),
    _set("train", "model.drop_path=1.5"),
    _set("train", "model.mixer=softmx"),
    _set("train", "model.every=0"),
    _set("train", "compute.micro_batch=0"),
    _set("train", "compute.amp=float17"),
    _set("train", "model.init_weights=no-such.safetensors"),
    _set("train", "model.init_weights=weights.safetensors"),
    _set("train", "model.init_weights=torn.safetensors"),
    _set("train", "model.init_weights=binary"),
    _set("train", "model.init_weights=folder"),
    "train --every 0",
    "train --every 2 --offset 2",
    "train --pos sinus",
    "train --local-conv dcw",
    "train --between softmx --every 2",
    "train --device tpu",
    "train --device cuda:99",
    "train --resume --out folder",
    "train --resume --out no-such",
    "train --out empty",
    "train --out folder/" + "x" * 300,
    "train --out " + "x" * 300,
    "train --wandb",
    # data
    _set("train --data no-such", FOLDER, "model.in_channels=3"),
    _set("train --data empty", FOLDER, "model.in_channels=3"),
    _set("train --data folder", FOLDER, "model.in_channels=3"),
    _set("train --data no-val", FOLDER, "model.in_channels=3"),
    _set("train --data one-class", FOLDER, "model.in_channels=3"),
    _set("train --data other-classes", FOLDER, "model.in_channels=3"),
    _set("train --data empty-class", FOLDER, "model.in_channels=3"),
    _set("train --data torn-pictures --dry-run", FOLDER, "model.in_channels=3", *TINY),
    _set("train --data tar:pictures", "model.in_channels=3"),
    _set("train --data nowhere:pictures", "model.in_channels=3"),
    _set("train --data cifar10:folder", "model.in_channels=3"),
    "baselines --recipe no-such",
    "baselines --data no-such",
    # mixers
    "train --mixer softmx",
    "train --mixer no-such.py:M",
    "train --mixer no-mixer.py:M",
    "train --mixer no-mixer.py:x",
    "train --mixer no-mixer.py",
    "train --mixer exits.py:M",
    "train --mixer raises.py:M",
    "train --mixer syntax.py:M",
    "train --mixer empty:M",
    "train --mixer no.such.module:M",
    "train --mixer torch.nn:NoSuch",
    "train --mixer torch.nn:functional",
    "train --mixer softmax --mixer-set rope",
    "train --mixer softmax --mixer-set rpoe=true",
    "train --mixer window --mixer-set window=0",
    "train --mixer window --mixer-set window=7 --mixer-set window=8",
    "train --mixer agent --mixer-set agents=50",
    "verify softmx",
    "verify",
    "verify shape.py:N",
    "verify softmax --dim 0",
    "verify softmax --heads 7",
    "verify softmax --all",
    "verify exits.py:M",
    # profiles, receptive fields
    "profile --mixer softmx",
    "profile --model vit-huge-and-more",
    "profile --model vit-tiny --recipe digits",
    "profile --recipe no-such",
    "profile --resolution 0",
    "profile --resolution -224",
    "profile --resolution 100",
    "profile --batch 0",
    "profile --tokens 0",
    "profile --tokens 3",
    "profile --tokens 64 --batch 2",
    "profile --rounds 0",
    "profile --seconds 0",
    "profile --seconds nan",
    "profile --seconds -1",
    "profile --budget 0",
    "profile --threads 0",
    "profile --threads 1000000",
    "profile --dtype float17",
    "profile --mode both",
    "profile --attention fastest",
    "profile --baseline softmx",
    "profile --max-batch 0 --saturate",
    "profile --device tpu",
    "profile --classes 7",
    "profile --out empty",
    "profile --every 0",
    "predict",
    "predict no-such",
    "predict empty",
    "predict binary",
    "predict claims-only.jsonl",
    "predict elsewhere.jsonl --batch 0",
    "predict elsewhere.jsonl --resolution 0",
    "predict elsewhere.jsonl --resolution 33",
    "predict elsewhere.jsonl --mixer softmx",
    "predict elsewhere.jsonl --model vit-huge",
    "predict elsewhere.jsonl --measured-to 8",
    "predict elsewhere.jsonl --calibrate",
    "predict elsewhere.jsonl --out binary",
    "profile --precision 2",
    "profile --precision 0.1 --more-minutes 0",
    "profile --precision 0.1 --no-isolate",
    "erf --mixer softmx",
    "erf --images 0",
    "erf --draws 0",
    "erf --resolution 0",
    "erf --model vit-huge-and-more",
    # sweeps, probes
    "sweep no-such.yaml",
    "sweep empty",
    "sweep binary",
    "sweep list.yaml",
    "sweep unknown.yaml",
    "sweep bomb.yaml",
    "sweep sweep.yaml",
    "sweep sweep-every.yaml",
    "sweep --mixer softmx --recipe digits",
    "sweep --mixer softmax --recipe no-such",
    "sweep --mixer softmax --recipe digits --seed 1 --seed 1",
    "sweep --mixer softmax --recipe digits --seed -1",
    "sweep --mixer softmax --recipe digits --vary epochs",
    "sweep --mixer softmax --recipe digits --vary epohcs=1,2",
    "sweep --mixer softmax --recipe digits --match size",
    "sweep --mixer softmax --recipe digits --tune speed",
    "sweep --mixer softmax --recipe digits --trials 0 --tune lr",
    "sweep --mixer softmax --recipe digits --claims no-such.yaml",
    "sweep --mixer softmax --recipe digits --claims claims.yaml",
    "sweep --mixer softmax --recipe digits --claims claims-twice.yaml",
    "sweep --mixer softmax --recipe digits --until decided",
    "sweep --mixer softmax --recipe digits --until tomorrow",
    "sweep --mixer softmax --recipe digits --out empty",
    "sweep --mixer softmax --recipe digits --device tpu",
    "probe --mixer softmx",
    "probe --out empty --mixer softmax",
    "demo --mixer softmx",
    # what there is; short cuts; mixers with commas between
    "models vit-tiny",
    "models --jsno",
    "recipes digits",
    "show",
    "show no-such",
    "show folder",
    "show list.yaml",
    "show no-such.yaml",
    "show cifar10",
    "show softmax --as nonsense",
    "show softmax --as model",
    "show window(size=7)",
    "show no-mixer.py",
    "show exits.py:M",
    "show digits softmax",
    "train --model vit-huge-and-more",
    "train --model",
    "train --epochs 0",
    "train --epochs 2.5",
    "train --lr fast",
    "train --lr nan",
    "train --lr -1",
    "train --batch-size 0",
    "train --batch-size 1000000",
    "train --lr 1e-3 --set optim.lr=2e-3",
    "train --data folder --set data.path=other",
    "train --mixer softmax,linear",
    "profile --mixer softmax,,linear",
    "sweep --mixer softmax,softmx",
    "demo --mixer softmax,",
    "sweep no-such",
    "--install-completion --nonsense",
    # reports
    "report",
    "report no-such",
    "report folder",
    "report empty",
    "report binary",
    "report records.jsonl",
    "report torn.jsonl",
    "report future.jsonl",
    "report kind.jsonl",
    "report --baseline softmx",
    "report --margin -1",
    "report --margin nan",
    "report --claims no-such.yaml",
    "report --claims claims.yaml",
    # reproductions
    "reproduce",
    "reproduce no-such",
    "reproduce folder",
    "reproduce empty",
    "reproduce no-such.csv",
    "reproduce alone/orphan.csv",
    "reproduce future.jsonl",
    "reproduce claims-only.jsonl",
    "reproduce elsewhere.jsonl",
    "reproduce elsewhere.jsonl --cells 0",
    "reproduce elsewhere.jsonl --seed -1",
    "reproduce elsewhere.jsonl --device tpu",
    # weights, runs
    "eval no-such",
    "eval folder",
    "eval empty",
    "eval binary",
    "eval torn.safetensors --recipe digits",
    "eval weights.safetensors",
    "eval weights.safetensors --recipe digits",
    "eval weights.safetensors --recipe no-such",
    "eval no-such --mapping map.json",
    "eval no-such --samples samples.npz",
    "ablate no-such",
    "ablate folder",
    "ablate empty",
    "sample no-such",
    "sample folder --num 0",
    "sample folder --steps 0",
    "sample folder --cfg nan",
    "sample folder --sampler euler-maruyama",
    # exports
    "export",
    "export vit-tiny",
    "export vit-tiny out",
    "export vit-tiny out --to tensorrt",
    "export no-such out --to torch",
    "export folder out --to torch",
    "export vit-tiny out --to hub",
    "export vit-tiny out --to torch --mixer softmx",
    "export vit-tiny out --to torch --image-size 100",
    "export vit-tiny out --to torch --batch 0",
    "export vit-tiny out --to torch --batch 2 --dynamic-batch",
    "export vit-tiny out --to torch --dtype float17",
    "export vit-tiny out --to torch --weights ema",
    "export vit-tiny pictures --to torch",
    "export vit-tiny empty --to torch",
    "export vit-tiny out --check --to hub",
    "export vit-tiny out --check --mixer softmx --to torch",
    "export records.jsonl out --to timm-csv",
    "export torn.jsonl out --to timm-csv",
    "train --mixer softmax --mixer linear",
    "train --seed 1 --seed=2",
    "eval folder --mixer softmax --mixer linear",
    "baselines --recipe digits --recipe cifar10",
    "sweep",
    "sweep --until decided --dry-run --mixer softmax",
    "profile --max-batch 64",
    "profile --more-minutes 3",
    "profile --no-isolate --budget 2",
    "train --data pictures --set data.path=folder",
    "train --data digits --set data.source=folder",
    "baselines --recipe digits --data pictures --set data.path=folder",
    "sweep --recipe digits --mixer softmax --data pictures --set data.path=folder --out out",
    "eval weights.safetensors --recipe digits --data pictures --set data.path=folder",
    "show constructor.py:M",
    "train --recipe digits --mixer constructor.py:M --dry-run",
    "sweep --recipe digits --mixer softmax --mixer constructor.py:M --match params --dry-run --out out",
    "export hf:name out --to torch",
    "eval hf:org/name@",
    "ablate hf:org",
    "report torn.jsonl --timm no-such.csv",
    "report torn.jsonl --timm map.json",
    _set("train", "model.init_weights=hf:name"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bad")
    for name, make in FILES.items():
        make(root / name)
    return root


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(place)
    before = listing(place)
    yield place
    after = listing(place)
    assert {name: after.get(name) for name in before} == before, "nothing of the user's was changed"
    assert not set(after) - set(before), "nothing was written"


def words(call: list[str] | str) -> list[str]:
    return call.split() if isinstance(call, str) else call


@pytest.mark.sampled(3)
@pytest.mark.parametrize("call", CALLS, ids=lambda call: " ".join(words(call))[:60])
def test_bad_input_is_one_message_with_exit_code_2(call: list[str] | str, here: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = CliRunner().invoke(app, words(call))
    said = done.stderr
    assert done.exit_code == 2, (done.exit_code, done.output[-2000:], done.exception)
    assert done.stdout == "", "a message goes to the errors"
    first, *rest = said.splitlines()
    assert first.startswith("error: "), said
    assert said.count("error: ") == 1, said
    heads = [line.split(":")[0].strip() for line in rest if line.startswith("  ") and line[2] != " "]
    assert heads[:2] == ["got", "expected"], said
    assert heads[2:] in ([], ["remedy"]), said
    assert "Traceback" not in said
    assert not set("╭╰│") & set(said), said


def test_there_are_enough_of_them() -> None:
    distinct = {tuple(words(call)) for call in CALLS}
    assert len(distinct) == len(CALLS) >= 150
    commands = {call[0] for call in distinct}
    assert {c.name or c.callback.__name__ for c in app.registered_commands} <= commands  # type: ignore[union-attr]
