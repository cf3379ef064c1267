"""Records: every result the bench ever reports is a typed row, appended to a JSONL file with its environment.

Tables and plots are made from these rows and from nothing else. The schema is versioned: a reader refuses rows that are
newer than itself. A row that a killed writer left torn is reported and skipped; nothing else is lost.

    row.py           what all rows share
    training.py, dense.py, diffusion.py, ablation.py, profile.py, prediction.py, evidence.py,
    export.py, reproduction.py                 rows by kind
    journal.py       the union of all kinds; JSONL under a lock
    environment.py   the stamp
    identity.py      digests of code
"""

from __future__ import annotations

from wfbench.records.ablation import AblationRow, Metric, What
from wfbench.records.dense import DenseEvalRow, DenseRow
from wfbench.records.diffusion import DenoisingRow, DiTRow, ScoreRow
from wfbench.records.environment import stamp
from wfbench.records.evidence import ClaimsRow, ErfRow, PictureRow
from wfbench.records.export import ExportRow
from wfbench.records.journal import AnyRow, append, read
from wfbench.records.prediction import HeldOutRow, MicrobenchmarkRow, PredictedCrossoverRow, PredictionRow, Quantity, Question
from wfbench.records.probe import LeakCheck, ProbeCell, ProbeEvalRow, ProbeLook, ProbeRow
from wfbench.records.profile import (
    BreakdownRow,
    CrossoverRow,
    FitRow,
    HarnessRow,
    MachineRow,
    MeasurementRow,
    ProfileRow,
    ScalingRow,
    ThroughputRow,
)
from wfbench.records.reproduction import ReproductionRow
from wfbench.records.row import FACTORS, SCHEDULE, SCHEMA, Environment, Row, TracedRow, command_line, now, option_values
from wfbench.records.training import BaselineRow, Chosen, EvalRow, Slot, Strength, TrainRow, TrialRow

__all__ = [
    "FACTORS",
    "SCHEDULE",
    "SCHEMA",
    "AblationRow",
    "AnyRow",
    "BaselineRow",
    "BreakdownRow",
    "Chosen",
    "ClaimsRow",
    "CrossoverRow",
    "DenoisingRow",
    "DenseEvalRow",
    "DenseRow",
    "DiTRow",
    "Environment",
    "ErfRow",
    "EvalRow",
    "ExportRow",
    "FitRow",
    "HarnessRow",
    "HeldOutRow",
    "LeakCheck",
    "MachineRow",
    "MeasurementRow",
    "Metric",
    "MicrobenchmarkRow",
    "PictureRow",
    "PredictedCrossoverRow",
    "PredictionRow",
    "ProbeCell",
    "ProbeEvalRow",
    "ProbeLook",
    "ProbeRow",
    "ProfileRow",
    "Quantity",
    "Question",
    "ReproductionRow",
    "Row",
    "ScalingRow",
    "ScoreRow",
    "Slot",
    "Strength",
    "ThroughputRow",
    "TracedRow",
    "TrainRow",
    "TrialRow",
    "What",
    "append",
    "command_line",
    "now",
    "option_values",
    "read",
    "stamp",
]
