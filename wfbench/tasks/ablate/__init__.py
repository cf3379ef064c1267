"""``wfbench ablate``: what in a trained network does the work?

interventions.py   a network with something taken away, for a while
run.py             a finished run, evaluated with everything in turn taken away; its rows and what every sample gave
"""

from __future__ import annotations

from wfbench.tasks.ablate.run import AblateRequest, ablate, requests_of

__all__ = ["AblateRequest", "ablate", "requests_of"]
