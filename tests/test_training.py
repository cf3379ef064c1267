"""Training as its users run it: resume, interruption, failure, data, evaluation."""

import json
import os
import signal
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from wfbench import recipe as recipes
from wfbench.data import open_dataset
from wfbench.errors import InputError
from wfbench.tasks import jobs
from wfbench.tasks.common import choose_device
from wfbench.tasks.evaluate_weights import EvalRequest, evaluate_weights
from wfbench.tasks.jobs import classify
from wfbench.tasks.run_directory import read_result
from wfbench.training import Interrupted, RunError, checkpoint

SMALL = ["model.embed_dim=16", "model.depth=2", "model.num_heads=2", "epochs=2", "optim.warmup_epochs=0"]


class Silent:
    def step(self, epoch, step, steps, loss):
        pass

    def epoch(self, row):
        pass


def train(out, *overrides, resume=False, watch=None):
    recipe = recipes.load("digits", [*SMALL, *overrides])
    return jobs.train(recipe, out, watch or Silent(), device=choose_device("cpu"), resume=resume)


@pytest.mark.slow
def test_interruption_saves_inside_an_epoch_and_resume_is_exact(tmp_path):
    class PressesCtrlC(Silent):
        def step(self, epoch, step, steps, loss):
            if (epoch, step) == (1, 7):
                os.kill(os.getpid(), signal.SIGINT)

    more = ["model.drop_path=0.2", "data.crop_padding=1", "data.hflip=0.5"]
    train(tmp_path / "whole", *more)
    with pytest.raises(Interrupted, match=r"epoch 2 after step [78] of 22"):
        train(tmp_path / "stopped", *more, watch=PressesCtrlC())
    saved = checkpoint.load(tmp_path / "stopped" / "checkpoint")
    assert saved.progress["epoch"] == 1
    assert saved.progress["step"] in (7, 8)
    train(tmp_path / "stopped", *more, resume=True)
    whole, stopped = (load_file(tmp_path / d / "model.safetensors") for d in ("whole", "stopped"))
    assert all(torch.equal(whole[k], stopped[k]) for k in whole)


@pytest.mark.slow
def test_evaluation_every_few_epochs_leaves_the_weights_as_they_are_and_ends_with_one(tmp_path):
    every = train(tmp_path / "every", "epochs=5")
    some = train(tmp_path / "some", "epochs=5", "eval_every=2")
    assert some.accuracy == every.accuracy
    assert (tmp_path / "every" / "model.safetensors").read_bytes() == (tmp_path / "some" / "model.safetensors").read_bytes()
    rows = [json.loads(line) for line in (tmp_path / "some" / "metrics.jsonl").open()]
    assert ["accuracy" in row for row in rows] == [False, True, False, True, True]
    assert some.best_accuracy == max(row["accuracy"] for row in rows if "accuracy" in row)


@pytest.mark.slow
def test_another_seed_or_no_augmentation_changes_the_weights(tmp_path):
    weights = []
    for i, more in enumerate((["seed=0"], ["seed=1"], ["seed=0", "data.crop_padding=1"], ["seed=0"])):
        train(tmp_path / str(i), *more, "epochs=1")
        weights.append((tmp_path / str(i) / "model.safetensors").read_bytes())
    assert weights[0] == weights[3]
    assert len(set(weights)) == 3


def test_a_loss_that_is_not_finite_stops_the_run_names_the_step_and_keeps_the_checkpoint(tmp_path):
    train(tmp_path / "run", "epochs=2")
    kept = sorted(p.name for p in (tmp_path / "run" / "checkpoint").iterdir())
    recipe = recipes.load("digits", [*SMALL, "epochs=2", "optim.lr=1e30", "optim.clip_grad=null"])
    with pytest.raises(RunError, match=r"not finite: (nan|inf) at step \d+"):
        jobs.train(recipe, tmp_path / "broken", Silent(), device=choose_device("cpu"))
    assert not (tmp_path / "broken" / "result.json").exists()
    assert kept[-1] == "step-00000044"


def test_the_step_that_is_named_is_the_first_one_with_a_loss_that_is_not_finite(tmp_path, monkeypatch):
    from wfbench.training.state import TrainState

    step = TrainState.step

    def poisoned(self, inputs, targets):
        metrics = step(self, inputs, targets)
        bad = self.step_count == 29
        return type(metrics)(metrics.loss * float("nan"), metrics.grad_norm, metrics.lr) if bad else metrics

    monkeypatch.setattr(TrainState, "step", poisoned)
    with pytest.raises(RunError, match="nan at step 29;"):
        train(tmp_path / "run")
    assert checkpoint.load(tmp_path / "run" / "checkpoint").progress["epoch"] == 1


def test_result_and_evaluation_agree_and_are_complete(tmp_path):
    row = train(tmp_path / "run", "model.mixer=weightformer")
    [again] = evaluate_weights(EvalRequest(tmp_path / "run"), device=choose_device("cpu"))
    assert again.same
    assert (again.row.accuracy, again.row.samples, again.row.loss) == (row.accuracy, 360, row.loss)
    kept = pd.read_parquet(tmp_path / "run" / "predictions-raw.parquet")
    assert list(kept) == ["index", "label", "top1", "top2", "top3", "top4", "top5", "confidence"]
    assert float((kept.top1 == kept.label).mean()) == row.accuracy
    tops = [kept[f"top{k}"] for k in range(1, 6)]
    assert float(sum((top == kept.label).astype(int) for top in tops).mean()) == row.top5 >= row.accuracy
    assert tuple(kept.label) == open_dataset(recipes.load("digits").data).val.targets
    assert kept.confidence.between(0.1, 1).all()
    assert row.steps == 44
    assert row.macs is not None
    assert 0 <= row.data_wait_share <= 1
    assert row.images_per_second == pytest.approx(44 * 64 / row.train_seconds)
    assert row.accuracy == json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["accuracy"]
    assert row.environment.versions["torch"] == torch.__version__.split("+")[0]


def test_training_refuses_what_would_lose_or_mix_runs(tmp_path):
    train(tmp_path / "run", "epochs=1")
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match="holds a run already"):
        train(tmp_path / "run", "epochs=1")
    with pytest.raises(InputError, match=r"another recipe[\s\S]*optim.lr: 0.002 / 0.001"):
        train(tmp_path / "run", "epochs=1", "optim.lr=1e-3", resume=True)
    with pytest.raises(InputError, match="not a run directory"):
        train(tmp_path / "nothing", resume=True)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.yaml").write_text((tmp_path / "run" / "config.yaml").read_text())
    with pytest.raises(InputError, match="not finished"):
        read_result(tmp_path / "half")
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before
    assert train(tmp_path / "run", "epochs=1", "data.workers=1", resume=True).samples == 360  # finished: nothing to do


def test_weights_of_another_model_are_refused_by_name(tmp_path):
    train(tmp_path / "a", "epochs=1")
    train(tmp_path / "b", "epochs=1", "model.mixer=static")
    (tmp_path / "a" / "model.safetensors").write_bytes((tmp_path / "b" / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"another model[\s\S]*blocks.0.mixer"):
        evaluate_weights(EvalRequest(tmp_path / "a"), device=choose_device("cpu"))


@pytest.mark.slow
def test_every_predictor_learns_and_matters(tmp_path):
    recipe = recipes.load("digits", [*SMALL, "model.mixer=weightformer", "model.embed_dim=32", "epochs=3"])
    fresh = classify.prepare(recipe).model.state_dict()
    jobs.train(recipe, tmp_path / "run", Silent(), device=choose_device("cpu"))
    trained = load_file(tmp_path / "run" / "model.safetensors")
    predictors = [k for k in trained if "blocks.1." in k and ("predictor" in k or "expand" in k)]
    assert len(predictors) == 7
    decayed = {k: fresh[k] * 0 for k in predictors}
    for k in predictors:
        assert (trained[k] - fresh[k]).abs().max() > 1e-3, k
    moments = checkpoint.load(tmp_path / "run" / "checkpoint").state
    assert all(moments[f"optim.{k}:exp_avg_sq"].max() > 0 for k in predictors)
    run = classify.prepare(recipe)
    run.model.load_state_dict(trained)
    whole = run.evaluation(run.model)
    run.model.load_state_dict(trained | decayed)
    assert run.evaluation(run.model).loss != whole.loss


@pytest.mark.slow
def test_weightformer_reaches_94_percent_on_the_digits_and_its_predictors_decide_classes(tmp_path):
    recipe = recipes.load("digits", ["model.mixer=weightformer"])  # the others: test_cli's demo
    row = jobs.train(recipe, tmp_path / "weightformer", Silent(), device=choose_device("cpu"))
    assert row.accuracy >= 0.94
    run = classify.prepare(recipe)
    trained = load_file(tmp_path / "weightformer" / "model.safetensors")
    run.model.load_state_dict(trained)
    whole = run.evaluation(run.model).predictions
    without = {k: v * 0 if "predictor" in k or "expand" in k else v for k, v in trained.items()}
    run.model.load_state_dict(without)
    assert (run.evaluation(run.model).predictions != whole).any()


def test_a_torn_checkpoint_is_never_taken_for_a_whole_one(tmp_path):
    train(tmp_path / "run", "epochs=1")
    directory = tmp_path / "run" / "checkpoint"
    (directory / ".step-00000099.part").mkdir()
    (directory / ".step-00000099.part" / "model.safetensors").write_bytes(b"half")
    assert checkpoint.load(directory).progress["epoch"] == 1


def test_runs_are_trained_alike_only_if_all_but_mixer_seed_and_workers_agrees():
    plain = recipes.digest(recipes.load("digits"))
    for same in ("model.mixer=static", "seed=3", "data.workers=2"):
        assert recipes.digest(recipes.load("digits", [same])) == plain
    for other in ("optim.lr=1e-3", "model.num_heads=2", "data.crop_padding=1", "label_smoothing=0.1"):
        assert recipes.digest(recipes.load("digits", [other])) != plain


def test_a_file_that_cannot_be_written_whole_is_one_message_and_the_old_one_stays(tmp_path, monkeypatch):
    file = tmp_path / "config.yaml"
    checkpoint.write_whole(file, "old")

    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InputError, match=r"cannot write config.yaml[\s\S]*No space left"):
        checkpoint.write_whole(file, "new")
    assert file.read_text() == "old"
