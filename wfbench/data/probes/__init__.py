"""Probes: canvases of symbols that ask a token mixer for one ability, with floors by proof.

probe.py        what a probe is: its planes, its draws, its floors; where context and queries stand
majority.py, recall.py, needle.py, shift.py, hop.py, flood.py     one probe each
dataset.py      a probe with its levels and grids as a data set, and its batches
"""

from wfbench.data.probes.dataset import Condition, ProbeDataset, open_probe, probe_canvases, probe_train_batches
from wfbench.data.probes.probe import Canvases, Floors, Layout, Probe

__all__ = [
    "Canvases",
    "Condition",
    "Floors",
    "Layout",
    "Probe",
    "ProbeDataset",
    "open_probe",
    "probe_canvases",
    "probe_train_batches",
]
