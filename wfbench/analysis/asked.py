"""What a report compares, stated before it looks."""

from __future__ import annotations

from dataclasses import dataclass

from wfbench.analysis.claims import Claims
from wfbench.analysis.lines import BASELINE
from wfbench.errors import InputError


@dataclass(frozen=True)
class Asked:
    """What a report compares, stated before it looks.

    Attributes:
        baseline: the label of the line that the others are held against.
        margin: within ± this, a fraction, a mixer is as good as the baseline; None asks for no equivalence.
        relevant: the true difference, a fraction, whose power is printed where there is no margin.
        claims: the claims to be answered; None for those that the records hold.

    Raises:
        InputError: for a margin or a relevant difference that is not between 0 and 1.
    """

    baseline: str = BASELINE
    margin: float | None = None
    relevant: float = 0.01
    claims: Claims | None = None

    def __post_init__(self) -> None:
        for what, value, remedy in (
            ("margin", self.margin, "for one point --margin 1; leave it out to ask for no equivalence"),
            ("relevant difference", self.relevant, "for one point relevant=0.01"),
        ):
            if value is not None and not 0 < value < 1:
                raise InputError(
                    f"the {what} is no difference of accuracies",
                    got=f"{100 * value:g} points",
                    expected="more than 0 and less than 100 points",
                    remedy=remedy,
                )

    @property
    def effect(self) -> float:
        """The true difference whose power is printed."""
        return self.relevant if self.margin is None else self.margin
