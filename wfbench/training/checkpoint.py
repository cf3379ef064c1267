"""Checkpoints: whole or absent, and nothing in them is ever unpickled.

A checkpoint is a directory ``step-00000660`` of safetensors files and one JSON file. It is written under another name,
flushed, and renamed: the newest directory with that name is always whole, whenever the process was killed. Beside it may
stand ``best-00000440``, of the epoch with the best evaluation, and ``epoch-0010``, kept as the recipe asks; their files are
hard links where the file system has them. They get their names first, so that none is missing beside a checkpoint that
tells of it.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wfbench import files
from wfbench.errors import InputError, writing
from wfbench.training import distributed
from wfbench.training.state import TrainState

#: Of the files' names and content, and of how draws follow from the seed; a checkpoint of another one is refused.
FORMAT = 2


@dataclass(frozen=True)
class Checkpoint:
    """What was read back: weights, the rest of the training state, this process's random states, plain progress data."""

    model: dict[str, Tensor]
    ema: dict[str, Tensor] | None
    state: dict[str, Tensor]
    random_states: dict[str, Tensor]
    progress: dict[str, Any]


class Writer:
    """The checkpoints of one run, written while it trains on.

    `save` copies what it saves into host memory and returns; a thread writes it to disk. Nothing is copied on a GPU: the
    copies go straight into pinned memory, in the order of the GPU's work, so that later steps cannot change them. The host
    memory of one checkpoint is kept for the next one.

    In a ``with`` block, the last checkpoint is written when the block is left. Every process holds one and makes the same
    calls; the first one writes.

    Args:
        directory: of the checkpoints.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._buffers: dict[str, Tensor] = {}
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.finish()
        elif isinstance(error, Exception):  # perhaps of this process alone: nothing is agreed on with the others
            self._join()

    def save(
        self,
        state: TrainState,
        progress: dict[str, Any],
        *,
        best: bool = False,
        keep: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Begin to write a checkpoint of ``state``; once it is whole, older ones are removed.

        Args:
            state: what is saved, with the random states of all processes.
            progress: plain data saved with it.
            best: whether this is the best one so far, which replaces the one before it.
            keep: a name under which this one also stays for good.
            metadata: text for the headers of its files of weights.

        Raises:
            InputError: in every process, if the checkpoint before this one could not be written.
        """
        self.finish()
        random_states = distributed.gather(state.random_states())
        if not distributed.is_main():
            return
        groups = {"model": state.model.state_dict(), "state": state.tensors()}
        if state.ema is not None:
            groups["ema"] = state.ema.module.state_dict()
        copies = {file: {key: self._copy(f"{file}.{key}", t) for key, t in group.items()} for file, group in groups.items()}
        copies["random"] = {f"{rank}.{key}": t for rank, own in enumerate(random_states) for key, t in own.items()}
        text = json.dumps(progress | {"processes": len(random_states), "format": FORMAT})
        copied = torch.cuda.Event() if state.device.type == "cuda" else None
        if copied is not None:
            copied.record()
        step, names, headers = state.step_count, _names(state.step_count, best, keep), dict(metadata) if metadata else None

        def write() -> None:
            try:
                if copied is not None:
                    copied.synchronize()
                _save(self.directory, step, copies, text, names, headers)
            except BaseException as e:
                self._error = e

        self._thread = threading.Thread(target=write, name="checkpoint", daemon=True)
        self._thread.start()

    def amend(self, state: TrainState, progress: dict[str, Any], *, best: bool = False, keep: str | None = None) -> None:
        """Say more of the checkpoint that ``state`` was just saved in: its evaluation, and the names that it earned by it.

        The arguments are those of `save`; the disk is written to before this returns.

        Raises:
            InputError: in every process, if it cannot be written; the checkpoint is then as it was.
        """
        self.finish()
        step = state.step_count
        distributed.on_main(lambda: _amend(self.directory, step, progress, _names(step, best, keep)))

    def finish(self) -> None:
        """Wait until the last checkpoint is on disk.

        Raises:
            InputError: in every process, if it could not be written; the previous one is then still there.
        """
        distributed.on_main(self._join)

    def _join(self) -> None:
        """Wait for this process's thread; what it failed with is raised once."""
        if self._thread is not None:
            self._thread.join()
        error, self._thread, self._error = self._error, None, None
        if error is not None:
            raise error

    def _copy(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor in host memory of its own, with the same strides; on a GPU, not waited for."""
        source = tensor.detach()
        buffer = self._buffers.get(name)
        if buffer is None or (buffer.shape, buffer.dtype) != (source.shape, source.dtype):
            buffer = torch.empty_like(source, device="cpu", pin_memory=source.is_cuda)
            self._buffers[name] = buffer
        return buffer.copy_(source, non_blocking=True)


def _names(step: int, best: bool, keep: str | None) -> list[str]:
    """The names that a checkpoint has besides its own."""
    return ([f"best-{step:08d}"] if best else []) + ([keep] if keep else [])


def _save(
    directory: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    progress: str,
    names: Sequence[str],
    metadata: dict[str, str] | None,
) -> None:
    """Write a whole checkpoint, publish it under all its names, and remove older ones."""
    with _writing(directory, "make room, then --resume from the previous checkpoint"):
        part = directory / ".step.part"
        part.mkdir(parents=True)
        for file, group in tensors.items():
            save_file(contiguous(group), part / f"{file}.safetensors", metadata if file in ("model", "ema") else None)
        (part / "progress.json").write_text(progress)
        for name in names:
            _publish(_link(part, directory / f".{name}.part"), directory / name)
        _publish(part, directory / f"step-{step:08d}")
    tidy(directory)


def _amend(directory: Path, step: int, progress: dict[str, Any], names: Sequence[str]) -> None:
    saved = directory / f"step-{step:08d}"
    with _writing(directory, "make room, then --resume: what is trained is saved, and is evaluated again"):
        before = json.loads((saved / "progress.json").read_text())
        text = json.dumps(progress | {key: before[key] for key in ("processes", "format")})
        for name in names:
            part = _link(saved, directory / f".{name}.part")
            files.write_whole(part / "progress.json", text)  # a new file: the saved one stays as it is
            _publish(part, directory / name)
        files.write_whole(saved / "progress.json", text)
        _flush(saved / "progress.json")
        _flush(saved)
    tidy(directory)


@contextmanager
def _writing(directory: Path, remedy: str) -> Iterator[None]:
    """Work on a directory of checkpoints; what it leaves half written, or a killed process left, is removed."""
    try:
        with writing("a checkpoint", directory, expected="a writable place with room", remedy=remedy):
            _remove_parts(directory)
            yield
    except InputError:
        _remove_parts(directory)  # or a full disk stays as full
        raise


def _link(checkpoint: Path, part: Path) -> Path:
    """The same files in another directory."""
    part.mkdir()
    for file in checkpoint.iterdir():
        try:
            os.link(file, part / file.name)
        except OSError:  # a file system without hard links, or a full one: the copy will say
            shutil.copy2(file, part / file.name)
    return part


def tidy(directory: Path) -> None:
    """Remove what a newer checkpoint has replaced, and what a killed process left behind."""
    _remove_parts(directory)
    *older, newest = _found(directory) or [directory]
    best = sorted(directory.glob("best-*"))
    # Beyond the newest is the best one of an epoch that was not saved as the newest before the kill: it will come again.
    beyond = [path for path in best if path.name[-8:] > newest.name[-8:]]
    for old in [*older, *beyond, *[path for path in best if path not in beyond][:-1]]:
        shutil.rmtree(old, ignore_errors=True)


def _remove_parts(directory: Path) -> None:
    """What a killed or a failed process left half written."""
    for part in directory.glob(".*.part"):
        shutil.rmtree(part, ignore_errors=True)


def _publish(part: Path, final: Path) -> None:
    """Flush a directory that is whole, and give it its name."""
    for file in [*part.iterdir(), part]:
        _flush(file)
    if final.exists():  # the same step saved twice
        shutil.rmtree(final)
    part.rename(final)
    _flush(final.parent)


def load(directory: Path) -> Checkpoint | None:
    """The newest checkpoint in ``directory``; None if there is none.

    A process that was not there when it was saved gets the random states of the first: what is drawn in a step follows from
    (seed, epoch, step) and not from them.

    Raises:
        InputError: if it cannot be read, or is of another version.
    """
    found = _found(directory)
    if not found:
        return None
    newest = found[-1]
    progress = _progress(newest)
    model, state, random_states = (_tensors(newest / f"{name}.safetensors") for name in ("model", "state", "random"))
    averaged = _tensors(newest / "ema.safetensors") if (newest / "ema.safetensors").exists() else None
    del progress["processes"], progress["format"]
    rank = distributed.rank() if f"{distributed.rank()}.torch" in random_states else 0
    own = {key.removeprefix(f"{rank}."): value for key, value in random_states.items() if key.startswith(f"{rank}.")}
    return Checkpoint(model, averaged, state, own, progress)


def check(directory: Path) -> None:
    """See that the newest checkpoint, if there is one, can be gone on from, as far as its plain data say.

    Raises:
        InputError: as `load`.
    """
    found = _found(directory)
    if found:
        _progress(found[-1])


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as e:
        raise _unreadable(file, e) from e


def _progress(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint's JSON file says."""
    try:
        progress = json.loads((checkpoint / "progress.json").read_text())
    except (OSError, ValueError, RecursionError) as e:
        raise _unreadable(checkpoint / "progress.json", e) from e
    found = progress.get("format") if isinstance(progress, dict) else None
    if found != FORMAT:
        raise InputError(
            "the checkpoint is of another version",
            got=f"{checkpoint}: format {found}",
            expected=f"format {FORMAT}",
            remedy="resume it with the version of wfbench that wrote it, or start a new run",
        )
    return progress


def _unreadable(file: Path, error: Exception) -> InputError:
    return InputError(
        "the checkpoint cannot be read",
        got=f"{file}: {error}",
        expected="a whole checkpoint of this run",
        remedy="put its files back; or remove it, and the run begins again (best-* and epoch-* keep their weights)",
    )


def size(model: nn.Module, *, ema: bool) -> int:
    """Bytes of one checkpoint: weights, AdamW's two moments of those that are trained, and the average."""
    weights = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return weights * (1 + ema) + 2 * trained


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Load weights that must fit the model exactly.

    Raises:
        InputError: naming what does not fit.
    """
    own = model.state_dict()
    wrong = [f"missing {k}" for k in own if k not in weights] + [f"unexpected {k}" for k in weights if k not in own]
    wrong += [
        f"{k} {tuple(v.shape)} for {tuple(own[k].shape)}" for k, v in weights.items() if k in own and v.shape != own[k].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise InputError(
            "weights of another model",
            got=f"{where}: {', '.join(wrong[:4])}{more}",
            expected="the weights of the model in the run's config.yaml",
            remedy="put the run's own weights and config.yaml back, or use the version of wfbench that wrote them",
        )
    model.load_state_dict(weights)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to write to, which takes the place of ``path`` once it is written.

    Raises:
        InputError: if it cannot be written; then the old one is still there, and nothing else.
    """
    guard = writing(path.name, path, expected="a writable place with room", remedy="make room, then --resume the run")
    with guard, files.whole(path) as part:
        yield part


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a resume after a kill, finds the old one or the new one.

    Raises:
        InputError: if it cannot be written; the old one is then still there.
    """
    with whole(path) as part:
        part.write_text(text)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, whole, with text that travels in its header.

    Raises:
        InputError: as `write_whole`.
    """
    with whole(path) as part:
        save_file(contiguous(tensors), part, dict(metadata) if metadata else None)


def write_columns(path: Path, columns: Mapping[str, Iterable[Any]]) -> None:
    """Write a Parquet file of columns, whole.

    Raises:
        InputError: as `write_whole`.
    """
    import pyarrow  # not pandas, which takes longer to import than a small run takes to train
    from pyarrow import parquet

    table = pyarrow.table({name: pyarrow.array(values) for name, values in columns.items()})
    with whole(path) as part:
        parquet.write_table(table, part, compression="zstd")


def contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as safetensors wants them: contiguous, detached, in host memory, each with memory of its own."""
    found: dict[str, Tensor] = {}
    used: set[int] = set()
    for name, t in tensors.items():
        own = t.detach().cpu().contiguous()
        storage = own.untyped_storage()
        if storage.data_ptr() in used or storage.nbytes() != own.nbytes:  # shared with another one, or with more than its own
            own = own.clone()
        used.add(own.untyped_storage().data_ptr())
        found[name] = own
    return found


def _found(directory: Path) -> list[Path]:
    return sorted(directory.glob("step-*"))


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
