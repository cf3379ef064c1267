"""Training: one step, one loop, checkpoints that survive a kill."""

from wfbench.training.state import Loss, StepMetrics, TrainState

__all__ = ["Loss", "StepMetrics", "TrainState"]
