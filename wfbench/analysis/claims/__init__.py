"""Claims that were written before the runs, and what the records say to each.

schema.py        the file, as people write it
registration.py  whether it was recorded before the runs
accuracy.py      answers from training runs
capability.py    the rule for what a line can do in a probe
scaling.py       answers from a profile
decide.py        all answers to a file
"""

from __future__ import annotations

from wfbench.analysis.claims.answer import Answer, Verdict
from wfbench.analysis.claims.decide import AnsweredClaim, ClaimsResult, OpenClaim, claims_results, decide, open_claims
from wfbench.analysis.claims.price import FirstLook, Price, Remedy
from wfbench.analysis.claims.registration import Registration, recorded_claims, registration
from wfbench.analysis.claims.schema import (
    AccuracyClaim,
    AnyClaim,
    Best,
    Better,
    Capability,
    Claims,
    ClaimsFile,
    Crossover,
    Exponent,
    Within,
    read_claims,
)

__all__ = [
    "AccuracyClaim",
    "AnsweredClaim",
    "Answer",
    "AnyClaim",
    "Best",
    "Better",
    "Capability",
    "Claims",
    "ClaimsFile",
    "ClaimsResult",
    "Crossover",
    "Exponent",
    "FirstLook",
    "OpenClaim",
    "Price",
    "Registration",
    "Remedy",
    "Verdict",
    "Within",
    "claims_results",
    "decide",
    "open_claims",
    "read_claims",
    "recorded_claims",
    "registration",
]
