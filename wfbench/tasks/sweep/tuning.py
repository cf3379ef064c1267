"""The same tuning budget for every mixer: the same rates, judged on images held out of the training images."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wfbench import recipe as recipes
from wfbench import records
from wfbench.analysis.tuning import best_rate
from wfbench.records import DiTRow, TrialRow
from wfbench.tasks import run_directory
from wfbench.tasks.common import factors_of
from wfbench.tasks.identity import Digests
from wfbench.tasks.sweep.combinations import Draft
from wfbench.tasks.sweep.request import Tune
from wfbench.tasks.sweep.single_run import PlannedRun, Status, status_of

#: Where trials lie in the sweep's directory.
FOLDER = "trials"
#: A trial diverged whose mean training loss in the last epoch is above so many times that of guessing.
_DIVERGED = 2.0


@dataclass(frozen=True)
class Tuning:
    """The trials of a sweep, and what follows from them."""

    tune: Tune
    drafts: Sequence[Draft]
    out: Path

    def trials(self) -> list[PlannedRun]:
        """Every rate of every line with every trial seed."""
        return [
            self._trial(draft, rate, seed)
            for seed in self.tune.seeds
            for i in range(self.tune.trials)
            for draft in self.drafts
            for rate in [self._rates(draft)[i]]
        ]

    def choose(self, draft: Draft) -> tuple[tuple[str, ...], str | None]:
        """The settings of the line's final runs; or why there are none.

        The `best_rate` over the trial seeds; a rate at which a trial diverged is not chosen.
        """
        tried: dict[float, list[TrialRow]] = {}
        for rate in self._rates(draft):
            rows = []
            for seed in self.tune.seeds:
                row = self._outcome(draft, rate, seed)
                if row is None:
                    return (), "not all of its trials are done"
                rows.append(row)
            if all(row.status == "ok" for row in rows):
                tried[rate] = rows
        best = best_rate(tried)
        if best is None:
            return (), "every rate of tuning diverged"
        return (f"optim.lr={best!r}", *self._rule(draft)), None

    def record(self) -> None:
        """Add the trials that are not yet there to the sweep's records."""
        path = self.out / "records.jsonl"
        known = records.read(path)[0] if path.is_file() else []
        there = {_key(row) for row in known if isinstance(row, TrialRow)}
        found = [self._outcome(d, rate, seed) for d in self.drafts for rate in self._rates(d) for seed in self.tune.seeds]
        records.append(path, [row for row in found if row is not None and _key(row) not in there])

    @staticmethod
    def diverged(status: Status) -> bool:
        """Whether a trial's failure is its result, so that it is not tried again."""
        return status.diverged

    @staticmethod
    def _guessing(draft: Draft) -> float:
        """The loss of guessing: ln(classes), or of a denoiser that of predicting no noise, whose variance is 1."""
        return 1.0 if draft.measure == "loss" else math.log(len(draft.dataset.classes))

    def _rates(self, draft: Draft) -> tuple[float, ...]:
        return self.tune.rates(draft.recipe.optim.lr)

    def _rule(self, draft: Draft) -> list[str]:
        rule = {"rates": self._rates(draft), "trial_seeds": self.tune.seeds, "validation": self.tune.validation}
        return [f"chosen.{key}={json.dumps(value)}" for key, value in rule.items()]

    def _trial(self, draft: Draft, rate: float, seed: int) -> PlannedRun:
        more = [f"optim.lr={rate!r}", f"data.validation={self.tune.validation!r}"]
        return draft.plan_run(seed, more, {"lr": rate}, FOLDER)

    def _outcome(self, draft: Draft, rate: float, seed: int) -> TrialRow | None:
        """A trial's row; None if it is not done."""
        run = self._trial(draft, rate, seed)
        status = status_of(run, self.out)
        if status.state != "finished" and not status.diverged:
            return None
        final, config, place = draft.plan_run(seed, self._rule(draft)).recipe, draft.config, run.place(self.out)
        row = run_directory.read_result(place) if status.state == "finished" else None
        divergence = None if row is None else _divergence(place, self._guessing(draft))
        ok = row is not None and divergence is None
        made_with: Digests = draft.trial_identity if row is None else row
        return TrialRow(
            environment=records.stamp() if row is None else row.environment,
            created=records.now() if row is None else row.created,
            model=final.model.name,
            **factors_of(config),
            recipe=final.name,
            recipe_digest=recipes.digest(final),
            dataset=draft.dataset.name,
            mixer_digest=made_with.mixer_digest,
            model_digest=made_with.model_digest,
            data_digest=made_with.data_digest,
            image_size=config.image_size,
            epochs=final.epochs,
            seed=seed,
            lr=rate,
            rates=self._rates(draft),
            recipe_lr=draft.recipe.optim.lr,
            status="ok" if ok else "diverged",
            message=status.message or divergence,
            accuracy=row.result if row is not None and ok and not isinstance(row, DiTRow) else None,
            steps=None if row is None else row.steps,
            loss=row.loss if row is not None and ok else None,
            measure=draft.measure,
            samples=row.samples if row is not None and ok else None,
            validation=self.tune.validation,
        )


def _divergence(place: Path, guessing: float) -> str | None:
    """What is wrong with a trial whose loss stayed finite but left all bounds."""
    last = json.loads((place / "metrics.jsonl").read_text().splitlines()[-1])
    bound = _DIVERGED * guessing
    return (
        None if last["train_loss"] <= bound else f"training loss {last['train_loss']:.3g} in the last epoch, above {bound:.2f}"
    )


def _key(row: TrialRow) -> tuple[object, ...]:
    factors = tuple(getattr(row, name) for name in records.FACTORS)
    return (row.model, row.mixer, *factors, row.recipe_digest, row.seed, row.lr, row.steps)
