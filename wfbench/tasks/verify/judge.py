"""Checks, verdicts, and the judge that holds a mixer to every check."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from wfbench.errors import InputError
from wfbench.tasks.verify.subject import FULL, Sizes, Subject, slots

Word = Literal["holds", "FAILS", "n.a."]


@dataclass(frozen=True)
class Outcome:
    """What one check found: the verdict, the figure it rests on, and, for a failure, the remedy."""

    verdict: Word
    measured: str
    detail: str = ""
    expected: str = ""


def holds(measured: str, detail: str = "", expected: str = "") -> Outcome:
    """The check holds."""
    return Outcome("holds", measured, detail, expected)


def fails(measured: str, detail: str = "", expected: str = "") -> Outcome:
    """The check does not hold."""
    return Outcome("FAILS", measured, detail, expected)


def not_applicable(reason: str, detail: str = "", expected: str = "") -> Outcome:
    """There is nothing to judge, and this is why."""
    return Outcome("n.a.", reason, detail, expected)


def judged(good: bool, measured: str, detail: str = "", expected: str = "") -> Outcome:
    """Holds or fails; the detail, a remedy, is for a failure."""
    return holds(measured, expected=expected) if good else fails(measured, detail, expected)


@dataclass(frozen=True)
class Check:
    """One oracle.

    ``required``: a mixer that fails it fails as a whole; the others are reported. ``compares``: it compares outputs, which
    says nothing about a mixer that is random. ``slow``: it takes a second or so, and comes after the others.
    """

    name: str
    meaning: str
    expected: str
    required: bool
    compares: bool
    run: Callable[[Subject], Outcome]
    slow: bool = False


#: Every check, in the order of the table.
CHECKS: list[Check] = []


def check(
    name: str, *, meaning: str, expected: str, required: bool = True, compares: bool = False, slow: bool = False
) -> Callable[[Callable[[Subject], Outcome]], Callable[[Subject], Outcome]]:
    """Decorator: enter a function as a check."""

    def enter(run: Callable[[Subject], Outcome]) -> Callable[[Subject], Outcome]:
        CHECKS.append(Check(name, meaning, expected, required, compares, run, slow))
        return run

    return enter


@dataclass(frozen=True)
class Finding:
    """One line of the verdict: a check on a slot."""

    name: str
    slot: str
    required: bool
    verdict: Word
    measured: str
    expected: str
    detail: str


@dataclass(frozen=True)
class Report:
    """What holds for a mixer."""

    mixer: str
    dim: int
    num_heads: int
    seed: int
    checks: tuple[Finding, ...]

    @property
    def refuted(self) -> tuple[Finding, ...]:
        """The required checks that fail."""
        return tuple(f for f in self.checks if f.required and f.verdict == "FAILS")

    @property
    def verdict(self) -> Word:
        """Whether every required check holds or has nothing to judge."""
        return "FAILS" if self.refuted else "holds"


def verify(
    mixer: str,
    *,
    dim: int = 48,
    num_heads: int = 3,
    seed: int = 0,
    sizes: Sizes = FULL,
    told: Callable[[str], None] = lambda line: None,
) -> Report:
    """Hold a mixer's layers to every check: the token layer, and the FFN-input layer where that is not the plain Linear.

    Args:
        mixer: a registered name, an entry point, or ``path/to/file.py:ClassName``.
        dim: channels of the tokens.
        num_heads: heads, for a mixer that has them.
        seed: of weights and inputs; all but the time is a function of it.
        sizes: how large the measured cases are.
        told: hears of each check before it runs.

    Raises:
        MixerError: for an unknown mixer, or heads that do not divide the dimension.
        InputError: for a dimension, heads or a seed that cannot be.
    """
    for option, value, least in (("--dim", dim, 1), ("--heads", num_heads, 1), ("--seed", seed, 0)):
        if not least <= value < 2**63:
            raise InputError(
                f"{option} is out of range", got=value, expected=f"{least} or more", remedy="give it such a number"
            )
    findings = []
    with _quiet():
        for slot in slots(mixer):
            subject = Subject(mixer, slot, dim, num_heads, seed, sizes)
            subject.check_arguments()
            for number, each in enumerate(CHECKS, start=1):
                told(f"{mixer}, {slot}: check {number} of {len(CHECKS)}, {each.name}")
                findings.append(_find(each, subject))
    return Report(mixer, dim, num_heads, seed, tuple(findings))


def _find(each: Check, subject: Subject) -> Finding:
    outcome = _outcome(each, subject)
    return Finding(
        name=each.name,
        slot=subject.slot,
        required=each.required,
        verdict=outcome.verdict,
        measured=" ".join(outcome.measured.split()),
        expected=outcome.expected or each.expected,
        detail=" ".join(outcome.detail.split()),
    )


def _outcome(each: Check, subject: Subject) -> Outcome:
    """The check's outcome; an exception is a failure that names it."""
    if subject.home is None and each.name != "contract":
        return not_applicable("it does not run: see contract")
    try:
        if each.compares and not subject.steady:
            return not_applicable(f"{subject.unsteady}: see determinism")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(subject.seed)
            return each.run(subject)
    except Exception as e:  # what goes wrong in a mixer is a finding, and does not end the others
        return fails(said(e), "the check could not be carried out: the mixer raised")


def said(error: BaseException) -> str:
    """An exception in one line."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:300]}{' ...' if len(words) > 300 else ''}"


@contextmanager
def _quiet() -> Iterator[None]:
    """One thread (threads that wait for one another dwarf small tensors) and no warnings of the tracers."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(before)
