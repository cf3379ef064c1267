"""Training: one step, one loop, one evaluator, checkpoints that survive a kill."""

from wfbench.training.evaluate import Evaluation, evaluate
from wfbench.training.loop import Interrupted, Progress, RunError, Watch, fit
from wfbench.training.state import Loss, StepMetrics, TrainState

__all__ = ["Evaluation", "Interrupted", "Loss", "Progress", "RunError", "StepMetrics", "TrainState", "Watch", "evaluate", "fit"]
