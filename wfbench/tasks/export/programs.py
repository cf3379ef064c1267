"""Formats: a model written as a program, read back from disk, and held against the eager model."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wfbench.errors import ExportError, InputError
from wfbench.records.export import Format
from wfbench.tasks.export.network import TOLERANCE, Network, outputs

#: The file of each format.
FILES: dict[Format, str] = {"torch": "model.pt2", "onnx": "model.onnx"}
#: What ONNX needs beside PyTorch: to write it, and to run it.
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
#: Bytes from which weights no longer fit into the file of an ONNX model, which is one message of at most 2 GB.
_ONE_FILE = 1.5e9
#: The batch that a program for any batch is traced with, and those that it is held against the eager model in.
_TRACED, _TRIED = 2, (1, 2, 3)

#: What PyTorch says to its own developers.
_HINT = 'For more information, run with TORCH_LOGS="+dynamic".'

#: A program as a function.
Call = Callable[[tuple[Tensor, ...]], Tensor]


@dataclass(frozen=True)
class Compared:
    """How a program was held against the eager model: the fields of an `ExportRow`.

    Attributes:
        difference: the largest of an output, in units of the largest output or of 1 if that is less.
        batches: the sizes of the batches that were compared.
        packages: the versions of what wrote and ran it beside PyTorch.
        opset: ONNX's set of operators; None for other formats.
    """

    difference: float
    batches: tuple[int, ...]
    packages: dict[str, str]
    opset: int | None = None


def check_packages(to: Format, dtype: str = "float32") -> None:
    """See that what a format needs is installed, and takes the precision.

    Raises:
        InputError: naming the missing packages.
    """
    if to != "onnx":
        return
    missing = [name for name in ONNX_PACKAGES if not _version(name)]
    if missing:
        raise InputError(
            "packages that ONNX needs are missing",
            got=f"no {', '.join(missing)}",
            expected=", ".join(ONNX_PACKAGES),
            remedy="pip install 'wfbench[export]'",
        )
    if dtype != "float32":
        raise InputError(
            "ONNX is checked in float32 alone",
            got=f"--dtype {dtype}",
            expected="float32, in which onnxruntime has every operator on the CPU",
            remedy="export in float32, and convert what was checked",
        )


def write_program(network: Network, to: Format, place: Path, batch: int | None, about: dict[str, Any]) -> Compared:
    """Write a program into a directory, read it back, and see that it gives what the eager model gives.

    Args:
        network: the model.
        to: the format.
        place: the directory, in which nothing of these names stands.
        batch: images in a call; None: any number.
        about: what the file says of itself.

    Raises:
        ExportError: if the model cannot be exported so, or the outputs differ by more than is allowed.
        InputError: if packages are missing.
    """
    check_packages(to, network.dtype)
    with _quiet():
        program = _exported(network, batch)
        path = place / FILES[to]
        if to == "torch":
            torch.export.save(program, path, extra_files={"wfbench.json": json.dumps(about)})
            call, packages, opset = _torch_call(path), {}, None
        else:
            opset = _write_onnx(network, program, path, about)
            call, packages = _onnx_call(network, path), {name: _version(name) for name in ONNX_PACKAGES}
        sizes = _TRIED if batch is None else (batch,)
        return Compared(compare(network, call, sizes, to), sizes, packages, opset)


def compare(network: Network, call: Call, batches: tuple[int, ...], to: str) -> float:
    """The largest difference of a program's outputs from the eager model's, over random inputs, as `Compared` has it.

    Raises:
        ExportError: if it is more than is allowed; if outputs do not depend on the input, for then a comparison says nothing.
    """
    worst = 0.0
    for batch in batches:
        inputs = network.inputs(batch, seed=1 + batch)
        expected = outputs(network, inputs)
        try:
            actual = call(inputs)
        except Exception as e:
            raise _failed(f"what was exported to {to} does not run", f"a batch of {batch}: {_line(e)}") from e
        if actual.shape != expected.shape:
            raise _failed("the exported model gives another shape", f"{tuple(actual.shape)}, not {tuple(expected.shape)}")
        scale = max(1.0, float(expected.double().abs().max()))
        found = float((actual.double() - expected.double()).abs().max()) / scale
        if not found <= TOLERANCE[network.dtype]:
            raise ExportError(
                "the exported model gives other outputs than the eager one",
                got=f"{to}, a batch of {batch}: they differ by {found:.2g} of the largest output (or of 1)",
                expected=f"at most {TOLERANCE[network.dtype]:g} in {network.dtype}",
                remedy="nothing was written; evaluate the model by the bench itself",
            )
        worst = max(worst, found)
    first, other = (outputs(network, network.inputs(batches[0], seed=seed)) for seed in (1, 2))
    if float((first.double() - other.double()).abs().max()) <= TOLERANCE[network.dtype]:
        raise ExportError(
            "the comparison would say nothing",
            got="outputs that are the same for two random inputs",
            expected="a model whose outputs depend on its input",
            remedy="export a model that was trained",
        )
    return worst


def _exported(network: Network, batch: int | None) -> torch.export.ExportedProgram:
    """The model as an exported program, for one batch or for any.

    Raises:
        ExportError: with PyTorch's reason.
    """
    try:
        inputs = network.inputs(_TRACED if batch is None else batch)
    except RuntimeError as e:
        raise InputError(
            "no room for a batch of this size",
            got=f"--batch {batch}: {_line(e)}",
            expected="a batch that fits into memory",
            remedy="choose a smaller --batch, or --dynamic-batch",
        ) from e
    shapes: tuple[Any, ...] | None = None
    if batch is None:
        dimension = torch.export.Dim("batch", min=1)
        shapes = tuple({0: dimension} for _ in inputs)
    try:
        return torch.export.export(network.model, inputs, dynamic_shapes=shapes)
    except Exception as e:  # whatever a mixer does that cannot be traced
        many = "for any batch" if batch is None else f"for a batch of {batch}"
        remedy = "export it for one batch: leave --dynamic-batch out" if batch is None else None
        raise _failed(f"the model does not export {many}", _line(e), remedy) from e


def _torch_call(path: Path) -> Call:
    try:
        module = torch.export.load(path).module()
    except Exception as e:
        raise _failed("what was exported cannot be read back", _line(e)) from e

    def call(inputs: tuple[Tensor, ...]) -> Tensor:
        with torch.no_grad():
            return module(*inputs)

    return call


def _write_onnx(network: Network, program: torch.export.ExportedProgram, path: Path, about: dict[str, Any]) -> int:
    """Write the program as ONNX; the version of its set of operators."""
    size = sum(t.numel() * t.element_size() for t in network.model.state_dict().values())
    try:
        made = torch.onnx.export(program, dynamo=True, input_names=network.input_names, output_names=["output"], verbose=False)
        assert made is not None
        made.model.metadata_props["wfbench"] = json.dumps(about)
        made.save(path, external_data=size > _ONE_FILE)
        return int(made.model.opset_imports[""])
    except OSError:
        raise
    except Exception as e:  # of an operator that ONNX does not have, or of the exporter itself
        raise _failed("the model does not export to ONNX", _line(e)) from e


def _onnx_call(network: Network, path: Path) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as e:
        raise _failed("what was exported to onnx cannot be read back", _line(e)) from e

    def call(inputs: tuple[Tensor, ...]) -> Tensor:
        named = {name: x.numpy() for name, x in zip(network.input_names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, named)[0])

    return call


def _failed(what: str, got: str, remedy: str | None = None) -> ExportError:
    return ExportError(what, got=got, expected="a program that gives the eager model's outputs", remedy=remedy)


def _line(error: BaseException) -> str:
    """An error of PyTorch in a line: its messages are pages long, and what began it says it first."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).replace(_HINT, "").split())
    return f"{type(error).__name__}: {text[:300]}{'…' if len(text) > 300 else ''}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


@contextmanager
def _quiet() -> Iterator[None]:
    """What the exporters warn of and log is about themselves; what concerns a user is the comparison."""
    import logging

    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
