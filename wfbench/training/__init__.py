"""Training: one step, one loop, one evaluator, checkpoints that survive a kill, one process or many."""

from wfbench.training.drop import TrainingDraws
from wfbench.training.evaluate import Evaluation, evaluate
from wfbench.training.loop import Interrupted, Mix, Progress, RunError, Scores, Watch, fit
from wfbench.training.segmentation import Confusion, DenseEvaluation, confusion, evaluate_dense, logits_at, sliding_window
from wfbench.training.state import Loss, StepMetrics, TrainState, rates
from wfbench.training.trackers import Trackers

__all__ = [
    "Confusion",
    "DenseEvaluation",
    "Evaluation",
    "Interrupted",
    "Loss",
    "Mix",
    "Progress",
    "RunError",
    "Scores",
    "StepMetrics",
    "Trackers",
    "TrainState",
    "TrainingDraws",
    "Watch",
    "confusion",
    "evaluate",
    "evaluate_dense",
    "fit",
    "logits_at",
    "rates",
    "sliding_window",
]
