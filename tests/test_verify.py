"""The judge: every registered mixer holds; each deliberately broken one is refuted by the check meant for it, and no other."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import strangers
import torch
from torch import nn
from torch.nn import functional as F
from typer.testing import CliRunner

import mixers
from mixers.linear import LinearAttention
from wfbench.cli import app
from wfbench.measure.growth import work_of
from wfbench.tasks import verify as package
from wfbench.tasks.verify import CHECKS, QUICK, Report, verify
from wfbench.tasks.verify.judge import _find
from wfbench.tasks.verify.subject import Subject, gap, names_grid

REPRESENTATIVE = ["relu-linear", "static", pytest.param("weightformer", marks=pytest.mark.slow)]
REQUIRED = {check.name for check in CHECKS if check.required}


def refuted(report: Report) -> dict[str, str]:
    return {f.name: f.measured for f in report.refuted}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_a_registered_mixer_holds(name: str) -> None:
    report = verify(name, sizes=QUICK)
    assert refuted(report) == {}
    assert {f.slot for f in report.checks} == ({"token", "ffn_in"} if name == "weightformer" else {"token"})
    assert [f.name for f in report.checks if f.slot == "token"] == [check.name for check in CHECKS]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*mixers.names(), "softmax(gated=true)"])
def test_every_registered_mixer_holds_at_full_size(name: str) -> None:
    assert refuted(verify(name)) == {}


# --- broken mixers: a good one, and what is changed in it

GOOD = '''
import torch
from torch import nn
from torch.nn import functional as F
from mixers import MixerSpec
from mixers.base import check_tokens, to_map, to_tokens


class Mine(nn.Module):
    """A depthwise convolution, then a product with a matrix."""

    spec = MixerSpec(name="mine", token="mine", complexity="linear", formula="(X * K) W", source="none", status="certain",
                     layout="grid")

    def __init__(self, dim, *, num_heads=None, grid=None):
        super().__init__()
        self.dim, self.built = dim, grid
        self.kernel = nn.Parameter(torch.randn(dim, 1, 3, 3) / 3)
        self.weight = nn.Parameter(torch.randn(dim, dim) / dim**0.5)
        self.more(dim)

    def more(self, dim):
        pass

    def conv(self, x, grid):
        return to_tokens(F.conv2d(to_map(x, grid), self.kernel, padding=1, groups=x.shape[2]))

    def forward(self, x, grid):
        check_tokens(x, grid)
        return self.conv(x, grid) @ self.weight

    def macs(self, grid, batch=1, path="released"):
        return batch * grid[0] * grid[1] * self.dim * (9 + self.dim)

    def elementwise(self, grid, batch=1):
        return 0
'''

#: name: (changed or added methods, the checks that must refute it, and those that may)
ALL = {check.name for check in package.CHECKS}
BROKEN: dict[str, tuple[str, set[str], set[str]]] = {
    "a leak from the fourth image on": (
        """
    def forward(self, x, grid):
        check_tokens(x, grid)
        y = self.conv(x, grid) @ self.weight
        return y if len(x) < 4 else y + x[:1].mean()
""",
        {"batch independence"},
        set(),
    ),
    "a seed set in forward": (
        """
    def forward(self, x, grid):
        check_tokens(x, grid)
        torch.manual_seed(0)
        return self.conv(x, grid) @ self.weight
""",
        {"determinism"},
        set(),
    ),
    "a random number drawn in forward": (
        """
    def forward(self, x, grid):
        check_tokens(x, grid)
        torch.rand(1)
        return self.conv(x, grid) @ self.weight
""",
        {"determinism"},
        {"declared MACs", "declared elementwise"},
    ),
    "a dimension that is ignored": (
        """
    def __init__(self, dim, *, num_heads=None, grid=None):
        super().__init__(12)
""",
        {"contract"},
        {"float16 range"},
    ),
    "a second call that raises": (
        """
    def forward(self, x, grid):
        if getattr(self, "used", False):
            raise RuntimeError("second call")
        self.used = True
        return self.conv(x, grid) @ self.weight
""",
        {"determinism"},
        ALL,
    ),
    "a reshape that mixes the images of a batch": (
        """
    def forward(self, x, grid):
        check_tokens(x, grid)
        b, n, c = x.shape
        x = x.transpose(0, 1).reshape(b, n, c)
        return self.conv(x, grid) @ self.weight
""",
        {"batch independence"},
        set(),
    ),
    "statistics over the batch": (
        """
    def forward(self, x, grid):
        check_tokens(x, grid)
        return (self.conv(x, grid) + x.mean(dim=0, keepdim=True)) @ self.weight

    def elementwise(self, grid, batch=1):
        return batch * 2 * grid[0] * grid[1] * self.dim
""",
        {"batch independence"},
        set(),
    ),
    "quadratic work written as products and sums, declared linear": (
        """
    def forward(self, x, grid):
        check_tokens(x, grid)
        x = self.conv(x, grid)
        return x @ self.weight + (x[:, :, None] * x[:, None]).sum(-1).mean(-1, keepdim=True)

    def elementwise(self, grid, batch=1):
        n = grid[0] * grid[1]
        return batch * (2 * n * n * self.dim + n * n + n * self.dim)
""",
        {"growth of elementwise work"},
        {"growth of bytes moved", "growth of live memory", "time"},
    ),
    "quadratic memory without counted work": (
        """
    def forward(self, x, grid):
        check_tokens(x, grid)
        table = x.new_zeros(x.shape[0], x.shape[1], x.shape[1])
        return self.conv(x, grid) @ self.weight + table[:, :, :1]

    def elementwise(self, grid, batch=1):
        return batch * grid[0] * grid[1] * self.dim
""",
        {"growth of live memory"},
        {"growth of bytes moved", "time"},
    ),
    "a copy of all tokens for every row": (
        """
    def forward(self, x, grid):
        check_tokens(x, grid)
        for _ in range(grid[0]):
            x = x.clone()
        return self.conv(x, grid) @ self.weight
""",
        {"growth of bytes moved"},
        set(),
    ),
    "quadratic MACs, declared linear": (
        """
    def forward(self, x, grid):
        check_tokens(x, grid)
        x = self.conv(x, grid)
        return (x @ x.mT) @ x @ self.weight

    def macs(self, grid, batch=1, path="released"):
        n = grid[0] * grid[1]
        return batch * (n * self.dim * (9 + self.dim) + 2 * n * n * self.dim)
""",
        {"growth of MACs"},
        {"growth of bytes moved", "growth of live memory", "time", "float16 range"},
    ),
    "a wrong formula of MACs": (
        """
    def macs(self, grid, batch=1, path="released"):
        return batch * grid[0] * grid[1] * self.dim * (8 + self.dim)
""",
        {"declared MACs"},
        set(),
    ),
    "a formula of MACs that forgets the batch": (
        """
    def macs(self, grid, batch=1, path="released"):
        return grid[0] * grid[1] * self.dim * (9 + self.dim)
""",
        {"declared MACs"},
        set(),
    ),
    "MACs that are no int": (
        """
    def macs(self, grid, batch=1, path="released"):
        return float(batch * grid[0] * grid[1] * self.dim * (9 + self.dim))
""",
        {"declared MACs"},
        set(),
    ),
    "a wrong formula of elementwise work": (
        """
    def elementwise(self, grid, batch=1):
        return batch * grid[0]
""",
        {"declared elementwise"},
        set(),
    ),
    "a grid that is guessed from N": (
        """
    def forward(self, x, grid):
        check_tokens(x, grid)
        side = int(x.shape[1] ** 0.5)
        return self.conv(x, (side, side)) @ self.weight
""",
        {"grids", "uses the grid"},
        {"layout"},
    ),
    "a grid that is remembered": (
        """
    def forward(self, x, grid):
        check_tokens(x, grid)
        return self.conv(x, self.built) @ self.weight
""",
        {"grids", "uses the grid"},
        {"layout"},
    ),
    "rows and columns swapped": (
        """
    def forward(self, x, grid):
        check_tokens(x, grid)
        side = max(grid)
        return self.conv(x, (side, x.shape[1] // side)) @ self.weight
""",
        {"uses the grid"},
        set(),
    ),
    "an obscure error at one grid": (
        """
    def forward(self, x, grid):
        check_tokens(x, grid)
        if grid == (7, 5):
            raise RuntimeError("Expected size 4 but got size 3")
        return self.conv(x, grid) @ self.weight
""",
        {"grids"},
        set(),
    ),
    "a refusal that does not name the grid": (
        """
    def forward(self, x, grid):
        check_tokens(x, grid)
        if grid[0] % 2:
            raise ValueError("odd grids are not supported")
        return self.conv(x, grid) @ self.weight
""",
        {"grids"},
        set(),
    ),
    "any number of tokens accepted": (
        """
    def forward(self, x, grid):
        h, w = grid
        x = F.pad(x, (0, 0, 0, h * w - x.shape[1]))[:, : h * w]
        return self.conv(x, grid) @ self.weight
""",
        {"wrong token number"},
        set(),
    ),
    "a parameter without a gradient": (
        """
    def more(self, dim):
        self.unused = nn.Parameter(torch.zeros(dim))
""",
        {"gradients"},
        set(),
    ),
    "an input that is cut off": (
        """
    def forward(self, x, grid):
        check_tokens(x, grid)
        return self.conv(x.detach(), grid) @ self.weight
""",
        {"gradients"},
        {"gradcheck"},
    ),
    "half of the gradient cut off": (
        """
    def forward(self, x, grid):
        check_tokens(x, grid)
        return self.conv(x, grid) @ self.weight + x.detach()

    def elementwise(self, grid, batch=1):
        return batch * grid[0] * grid[1] * self.dim
""",
        {"gradcheck"},
        set(),
    ),
    "an input that is written to": (
        """
    def forward(self, x, grid):
        check_tokens(x, grid)
        return self.conv(x.mul_(2), grid) @ self.weight

    def elementwise(self, grid, batch=1):
        return batch * grid[0] * grid[1] * self.dim
""",
        {"contract"},
        set(),
    ),
    "an output of another dtype": (
        """
    def forward(self, x, grid):
        check_tokens(x, grid)
        return (self.conv(x, grid) @ self.weight).float()
""",
        {"contract"},
        {"gradcheck", "half precision"},
    ),
    "dropout left on in evaluation": (
        """
    def forward(self, x, grid):
        check_tokens(x, grid)
        return F.dropout(self.conv(x, grid), 0.5, training=True) @ self.weight
""",
        {"determinism"},
        {"declared elementwise"},
    ),
    "a state kept between calls": (
        """
    def forward(self, x, grid):
        check_tokens(x, grid)
        self.calls = getattr(self, "calls", 0) + 1
        return self.conv(x, grid) @ self.weight * (1 if self.calls < 3 else 2)

    def elementwise(self, grid, batch=1):
        return batch * grid[0] * grid[1] * self.dim
""",
        {"determinism"},
        {"batch independence", "gradcheck", "time", "half precision", "layout", "state dict", "used layer", "training"},
    ),
    "a cast to bfloat16 inside": (
        """
    def forward(self, x, grid):
        check_tokens(x, grid)
        return self.conv(x, grid) @ self.weight + 2e3 * x.bfloat16().to(x.dtype) - 2e3 * x

    def elementwise(self, grid, batch=1):
        return batch * 4 * grid[0] * grid[1] * self.dim
""",
        {"gradcheck"},
        {"float32", "half precision", "float16 range"},
    ),
    "a difference of large numbers": (
        """
    def forward(self, x, grid):
        check_tokens(x, grid)
        return (self.conv(x, grid) + 3e5 - 3e5) @ self.weight

    def elementwise(self, grid, batch=1):
        return batch * 2 * grid[0] * grid[1] * self.dim
""",
        {"float32", "half precision", "float16 range"},
        {"gradcheck", "layout"},
    ),
    "a sum that overflows in float16": (
        """
    def forward(self, x, grid):
        check_tokens(x, grid)
        return self.conv(x, grid) @ self.weight + x.square().sum(dim=1, keepdim=True) * 200 / x.shape[1]

    def elementwise(self, grid, batch=1):
        n = grid[0] * grid[1]
        return batch * (3 * n * self.dim + 2 * self.dim)
""",
        {"float16 range"},
        set(),
    ),
    "a random tensor that is not in the state dict": (
        """
    def more(self, dim):
        self.register_buffer("table", torch.randn(dim), persistent=False)

    def forward(self, x, grid):
        check_tokens(x, grid)
        return self.conv(x + self.table, grid) @ self.weight

    def elementwise(self, grid, batch=1):
        return batch * grid[0] * grid[1] * self.dim
""",
        {"state dict"},
        set(),
    ),
    "a layout declared wrongly": (
        """
    spec = MixerSpec(name="mine", token="mine", complexity="linear", formula="(X * K) W", source="none", status="certain",
                     layout="set")
""",
        {"layout", "as a set"},
        set(),
    ),
    "a doubling declared wrongly": (
        """
    spec = MixerSpec(name="mine", token="mine", complexity="linear", formula="W ΣX", source="none", status="certain",
                     layout="set", doubling="invariant")

    def forward(self, x, grid):
        check_tokens(x, grid)
        return (x + x.sum(dim=1, keepdim=True)) @ self.weight * self.kernel.flatten(1).sum(dim=1)

    def macs(self, grid, batch=1, path="released"):
        return batch * grid[0] * grid[1] * self.dim**2

    def elementwise(self, grid, batch=1):
        return batch * 3 * grid[0] * grid[1] * self.dim + 9 * self.dim
""",
        {"as a set"},
        {"declared elementwise"},
    ),
    "a prefix token that is declared and refused": (
        """
    spec = MixerSpec(name="mine", token="mine", complexity="linear", formula="(X * K) W", source="none", status="certain",
                     layout="grid", prefix_tokens=True)
""",
        {"wrong token number"},
        {"declared MACs", "declared elementwise", "batch independence"},
    ),
    "a changed grid that is accepted though needs_grid": (
        """
    spec = MixerSpec(name="mine", token="mine", complexity="linear", formula="(X * K) W", source="none", status="certain",
                     layout="grid", needs_grid=True)
""",
        {"grids"},
        set(),
    ),
    "a naive form that differs": (
        """
    def naive(self, x, grid):
        return self.forward(x, grid) + 1e-8
""",
        {"naive agreement"},
        set(),
    ),
    "a naive form with other gradients": (
        """
    def naive(self, x, grid):
        return self.conv(x, grid) @ self.weight + (x - x.detach())
""",
        {"naive agreement"},
        set(),
    ),
    "a wrong shape": (
        """
    def forward(self, x, grid):
        check_tokens(x, grid)
        return (self.conv(x, grid) @ self.weight)[..., :-1]
""",
        {"contract"},
        {"grids"},
    ),
    "an output without its prediction that is not what zeros give": (
        """
    def predicted(self, x, grid):
        return self.conv(x, grid).mean(1)

    def with_prediction(self, x, grid, prediction):
        return self.conv(x, grid) @ self.weight + prediction[:, None]

    def without_prediction(self, x, grid):
        return 2 * self.conv(x, grid) @ self.weight

    def forward(self, x, grid):
        check_tokens(x, grid)
        return self.with_prediction(x, grid, self.predicted(x, grid))
""",
        {"prediction"},
        {"declared MACs", "declared elementwise"},
    ),
    "a list instead of a tensor": ("\n    def forward(self, x, grid):\n        return [x]\n", {"contract"}, set()),
    "an exception everywhere": (
        "\n    def forward(self, x, grid):\n        raise KeyError('no')\n",
        {"contract"},
        set(),
    ),
    "a constructor with an argument of its own": (
        "\n    def __init__(self, dim, mandatory, *, num_heads=None):\n        super().__init__()\n",
        {"contract"},
        set(),
    ),
    "a division by the mean of a token, which a norm leaves at zero": (
        """
    def forward(self, x, grid):
        check_tokens(x, grid)
        return self.conv(x, grid) @ self.weight / (x.mean(dim=2, keepdim=True).abs() > 1e-6)
""",
        {"layer schedule"},
        {"declared elementwise"},
    ),
}


def written(folder: Path, changed: str = "") -> str:
    """A user's file with the good mixer, or one that a change has broken."""
    file = folder / "mine.py"
    body = GOOD if not changed else f"{GOOD}\n\nclass Broken(Mine):{changed}"
    file.write_text(body)
    return f"{file}:{'Broken' if changed else 'Mine'}"


def judge(folder: Path, changed: str = "") -> Report:
    return verify(written(folder, changed), dim=12, sizes=QUICK)


@pytest.mark.slow
def test_the_mixer_that_the_broken_ones_come_from_holds(tmp_path: Path) -> None:
    report = judge(tmp_path)
    assert refuted(report) == {}
    assert [f.name for f in report.checks if f.verdict == "n.a."] == ["naive agreement", "prediction", "as a set"]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("case", list(BROKEN))
def test_a_broken_mixer_is_refuted_by_the_checks_meant_for_it(case: str, tmp_path: Path) -> None:
    changed, must, _ = BROKEN[case]
    subject = Subject(written(tmp_path, changed), "token", 12, 3, 0, QUICK)
    assert [found.verdict for found in (_find(check, subject) for check in CHECKS if check.name in must)] == ["FAILS"] * len(
        must
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", list(BROKEN))
def test_a_broken_mixer_is_refuted_by_the_check_meant_for_it_and_no_other(case: str, tmp_path: Path) -> None:
    changed, must, may = BROKEN[case]
    found = refuted(judge(tmp_path, changed))
    assert must <= found.keys(), found
    # What raises alone does so among other layers.
    assert found.keys() <= must | may | ({"layer schedule"} if "contract" in must else set()), found


def test_every_required_check_has_a_broken_mixer_that_it_refutes() -> None:
    here = set().union(*(must for _, must, _ in BROKEN.values()))
    assert here | set(strangers.BROKEN.values()) == REQUIRED - {"time"}  # which has a test of its own


UNDECLARED = """
from torch import nn
from mixers.base import check_tokens

class Mine(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.conv = nn.Conv1d(dim, dim, 3, padding=1, groups=dim, bias=False)

    def forward(self, x, grid):
        check_tokens(x, grid)
        return self.conv(x.mT).mT

    def macs(self, grid, batch=1, path="released"):
        return batch * 3 * grid[0] * grid[1] * self.conv.in_channels

    def elementwise(self, grid, batch=1):
        return 0
"""


def by_name(report: Report) -> dict[str, package.Finding]:
    return {f.name: f for f in report.checks}


def test_a_mixer_without_a_spec_is_judged_as_far_as_can_be_and_told_what_to_declare(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(UNDECLARED)
    found = by_name(report := verify(f"{tmp_path}/mine.py:Mine", sizes=QUICK))
    assert refuted(report).keys() == {"uses the grid"}
    assert 'MixerSpec(..., layout="sequence")' in found["uses the grid"].detail
    assert found["layout"].measured == "measured sequence; none is declared"
    for name in ("growth of MACs", "growth of bytes moved", "growth of live memory", "time"):
        assert found[name].verdict == "holds"
        assert re.match(r"measured N\^-?\d+\.\d+ from", found[name].measured)
        assert found[name].expected == "no complexity is declared"
    assert found["growth of elementwise work"].measured == "none"


COSTS = ("declared MACs", "declared elementwise", "growth of MACs", "growth of elementwise work")


def costs(tmp_path: Path, changed: str = "") -> dict[str, package.Finding]:
    """The checks of cost alone, of the good mixer with a change."""
    subject = Subject(written(tmp_path, changed), "token", 48, 3, 0, QUICK)
    return {check.name: _find(check, subject) for check in package.CHECKS if check.name in COSTS}


def test_a_mixer_that_declares_no_work_is_counted(tmp_path: Path) -> None:
    found = costs(tmp_path, "\n    macs = property()\n    elementwise = property()\n")
    assert found["declared MACs"].verdict == "holds"
    assert re.match(r"counted: 98,496 at 6x6, by two counts that agree in \d cases", found["declared MACs"].measured)
    assert found["declared elementwise"].verdict == "n.a."
    assert found["declared elementwise"].measured == "none is declared, and none is needed; counted: 0 at 6x6"


def test_a_wrong_form_of_elementwise_work_is_answered_with_the_work_by_operator(tmp_path: Path) -> None:
    changed = """
    def forward(self, x, grid):
        check_tokens(x, grid)
        return (self.conv(x, grid) @ self.weight).softmax(-1) * 2
"""
    finding = costs(tmp_path, changed)["declared elementwise"]
    assert finding.verdict == "FAILS"
    assert finding.measured == "4x4, batch 1: declared 0, counted 4,608 (aten._softmax 3,840, aten.mul 768)"


def test_an_operator_that_no_count_knows_is_named_and_refutes_nothing(tmp_path: Path) -> None:
    changed = """
    def forward(self, x, grid):
        check_tokens(x, grid)
        return (self.conv(x, grid) @ self.weight).erfinv()
"""
    found = costs(tmp_path, changed)
    assert {finding.verdict for finding in found.values()} == {"n.a."}
    macs = found["declared MACs"]
    assert macs.measured == "at least 43,776 an image: unknown operator: aten::erfinv in layer"
    assert "@mixers.counts" in macs.detail
    assert "at least 0, declared 0: unknown operator: aten::erfinv" in found["declared elementwise"].measured


@pytest.mark.parametrize(("complexity", "verdict"), [("N^1.5", "holds"), ("N^1.4", "FAILS"), ("N^2", "holds")])
def test_a_power_is_declared_and_judged(tmp_path: Path, complexity: str, verdict: str) -> None:
    changed = f"""
    spec = MixerSpec(name="mine", token="mine", complexity="{complexity}", formula="", source="none", status="certain")

    def forward(self, x, grid):  # each row of the grid attends to itself: N^1.5
        check_tokens(x, grid)
        rows = x.unflatten(1, grid)
        return ((rows @ rows.mT) @ rows).flatten(1, 2)
"""
    assert costs(tmp_path, changed)["growth of MACs"].verdict == verdict


def test_what_would_fill_the_memory_is_not_timed(tmp_path: Path) -> None:
    changed = BROKEN["quadratic work written as products and sums, declared linear"][0]
    subject = Subject(written(tmp_path, changed), "token", 48, 3, 0)
    assert dict(subject.growth())[64 * 64].live > 2**30
    assert subject.affordable((16, 32, 64)) == [16, 32]
    assert Subject("linear", "token", 48, 3, 0).affordable((16, 32, 64)) == [16, 32, 64]


@pytest.mark.slow
def test_a_declared_sequence_mixer_may_ignore_the_shape_of_the_grid(tmp_path: Path) -> None:
    spec = 'MixerSpec("s", "s", "linear", "X * k", "none", "certain", layout="sequence")'
    (tmp_path / "mine.py").write_text(f"{UNDECLARED}\nfrom mixers import MixerSpec\nMine.spec = {spec}\n")
    report = verify(f"{tmp_path}/mine.py:Mine", sizes=QUICK)
    assert refuted(report) == {}
    assert by_name(report)["layout"].expected == "sequence, as declared"


@pytest.mark.slow
def test_a_mixer_that_looks_at_values_is_counted_for_real_and_reported_as_not_compiling(tmp_path: Path) -> None:
    changed = """
    def forward(self, x, grid):
        check_tokens(x, grid)
        return self.conv(x, grid) @ self.weight if float(x.detach().flatten()[0]) > -1e9 else x
"""
    found = by_name(judge(tmp_path, changed))
    assert found["growth of bytes moved"].measured.endswith("from 1,024 to 4,096 tokens")
    assert found["growth of bytes moved"].verdict == "holds"
    assert (found["compile"].verdict, found["compile"].required) == ("FAILS", False)


def test_what_is_random_is_not_compared(tmp_path: Path) -> None:
    found = by_name(judge(tmp_path, BROKEN["dropout left on in evaluation"][0]))
    assert found["determinism"].verdict == "FAILS"
    assert {found[n].measured for n in ("gradcheck", "layout", "state dict")} == {"two calls differ: see determinism"}


def test_what_does_not_run_is_not_judged_further(tmp_path: Path) -> None:
    report = judge(tmp_path, BROKEN["an exception everywhere"][0])
    assert report.checks[0].measured == "KeyError: 'no'"
    assert {f.measured for f in report.checks[1:]} == {"it does not run: see contract"}


def test_a_check_that_raises_is_a_failure_with_its_message_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def burst(layer: nn.Module, x: torch.Tensor, grid: tuple[int, int], naive: bool = False) -> None:
        raise ZeroDivisionError("three\nlines\nlong")

    monkeypatch.setattr(package.behaviour, "gradients", burst)
    report = verify("pool", sizes=QUICK)
    assert refuted(report) == dict.fromkeys(("gradients", "naive agreement"), "ZeroDivisionError: three lines long")
    assert len(report.checks) == len(CHECKS)


def one(name: str, mixer: str, dim: int = 48) -> package.Finding:
    """What one check finds."""
    return _find(next(check for check in CHECKS if check.name == name), Subject(mixer, "token", dim, 3, 0, QUICK))


WRONG_GRADIENTS = """
    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return FACTOR * grad

    def forward(self, x, grid):
        check_tokens(x, grid)
        return F.conv2d(to_map(X, grid), KERNEL, padding=1, groups=x.shape[2]).flatten(2).mT @ WEIGHT
"""


@pytest.mark.parametrize(
    ("wrong", "factor"),
    [
        ("KERNEL", 1.01),
        *(
            pytest.param(wrong, factor, marks=pytest.mark.slow)
            for wrong, factor in (("KERNEL", 0.97), ("X", 0.97), ("X", 1.01), ("WEIGHT", 0.97), ("WEIGHT", 1.01))
        ),
    ],
)
def test_a_gradient_that_is_wrong_by_one_percent_is_refuted(wrong: str, factor: float, tmp_path: Path) -> None:
    changed = WRONG_GRADIENTS.replace("FACTOR", str(factor))
    for name, tensor in {"X": "x", "KERNEL": "self.kernel", "WEIGHT": "self.weight"}.items():
        changed = changed.replace(name, f"self.Scaled.apply({tensor})" if name == wrong else tensor)
    assert one("gradcheck", written(tmp_path, changed)).verdict == "FAILS"
    (right := tmp_path / "right").mkdir()
    assert one("gradcheck", written(right, changed.replace(f"return {factor}", "return 1"))).verdict == "holds"


def test_a_float16_denominator_that_overflows_is_refuted_though_its_output_is_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    def attend(self: LinearAttention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, turn: object = None) -> torch.Tensor:
        q, k = F.elu(q) + 1.2, F.elu(k) + 1.2
        return (q @ (k.mT @ v)) / (q @ k.sum(-2, keepdim=True).mT)

    monkeypatch.setattr(LinearAttention, "attend", attend)
    found = one("float16 range", "linear", 24)
    assert found.verdict == "FAILS"
    assert found.measured == "relative error 1.0e+00 at dim 192, N = 1,024"


def test_a_prefix_token_that_is_lost_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    real = LinearAttention.forward
    monkeypatch.setattr(LinearAttention, "forward", lambda self, x, grid: real(self, x, grid)[:, -grid[0] * grid[1] :])
    found = one("wrong token number", "linear")
    assert (found.verdict, found.measured) == ("FAILS", "(2, 15, 48) from (2, 16, 48) with a prefix token")


def test_tokens_in_another_order_beside_a_prefix_token_are_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    real = LinearAttention.forward

    def forward(self: LinearAttention, x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        y = real(self, x, grid)
        return y if x.shape[1] == grid[0] * grid[1] else y.roll(1, dims=1)

    monkeypatch.setattr(LinearAttention, "forward", forward)
    found = one("naive agreement", "linear")
    assert found.verdict == "FAILS"
    assert "with a prefix token" in found.measured


def test_images_that_mix_beside_a_prefix_token_are_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    real = LinearAttention.forward

    def forward(self: LinearAttention, x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        y = real(self, x, grid)
        return y if x.shape[1] == grid[0] * grid[1] else y + x.mean(dim=0)

    monkeypatch.setattr(LinearAttention, "forward", forward)
    assert one("batch independence", "linear").verdict == "FAILS"


def test_a_filter_with_complex_weights_is_judged_as_it_is(tmp_path: Path) -> None:
    changed = """
    def __init__(self, dim, *, num_heads=None, grid=None):
        super().__init__(dim)
        self.filter = nn.Parameter(torch.randn(dim, 1, 1, dtype=torch.complex64))
        self.weight, self.kernel = None, None

    def forward(self, x, grid):
        check_tokens(x, grid)
        spectrum = torch.fft.rfft2(to_map(x, grid))
        phase = torch.arange(spectrum.shape[-1], dtype=x.dtype)
        return to_tokens(torch.fft.irfft2(spectrum * self.filter * torch.exp(1j * phase), s=grid))
"""
    mixer = written(tmp_path, changed)
    weights = dict(Subject(mixer, "token", 12, 3, 0).build((4, 4), torch.float64).named_parameters())["filter"]
    assert weights.dtype == torch.complex128
    assert weights.imag.abs().min() > 0
    found = {name: one(name, mixer, 12) for name in ("contract", "gradients", "gradcheck", "float32", "state dict")}
    assert {name: f.measured for name, f in found.items() if f.verdict != "holds"} == {}
    found = {name: one(name, mixer, 12) for name in ("half precision", "float16 range")}
    assert {f.verdict for f in found.values()} == {"n.a."}


def test_windows_along_rows_are_a_use_of_the_grid(tmp_path: Path) -> None:
    changed = """
    def forward(self, x, grid):
        check_tokens(x, grid)
        rows = to_map(x, grid)
        means = F.avg_pool2d(F.pad(rows, (0, grid[1] % 2)), (1, 2)).repeat_interleave(2, dim=3)[..., : grid[1]]
        return to_tokens(means) * self.kernel.flatten(1).sum(1) @ self.weight
"""
    mixer = written(tmp_path, changed)
    assert [one(name, mixer, 12).verdict for name in ("uses the grid", "layout")] == ["holds", "holds"]


SEVENS = """
    def forward(self, x, grid):
        check_tokens(x, grid)
        if grid[0] % STEP or grid[1] % STEP:
            raise ValueError(f"windows of STEP do not fill a {grid[0]}x{grid[1]} grid")
        return self.conv(x, grid) @ self.weight
"""


@pytest.mark.slow
def test_a_mixer_that_needs_multiples_of_seven_is_measured_at_such_grids(tmp_path: Path) -> None:
    report = judge(tmp_path, SEVENS.replace("STEP", "7"))
    assert refuted(report) == {}
    found = by_name(report)
    assert found["growth of MACs"].measured == "N^1.000 from 3,136 to 15,876 tokens"
    assert "from 196 to 784 tokens" in found["time"].measured
    assert "at dim 192, N = 784" in found["float16 range"].measured


@pytest.mark.slow
def test_a_mixer_that_refuses_every_large_grid_that_is_tried_is_not_refuted_by_what_needs_them(tmp_path: Path) -> None:
    changed = SEVENS.replace("grid[0] % STEP or grid[1] % STEP", "grid[0] > 14").replace("STEP", "14")
    report = judge(tmp_path, changed)
    assert refuted(report) == {}
    told = {f.name for f in report.checks if f.measured == package.cost.NO_GRIDS}
    assert {"time", "growth of MACs", "growth of live memory", "float16 range"} <= told


@pytest.mark.slow
def test_slow_time_alone_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package.cost, "_times", lambda subject: {64: 1e-3, 256: 1e-3, 1024: 1e-3 * 4**1.7})
    assert refuted(verify("pool", sizes=QUICK)) == {"time": "N^1.70 from 256 to 1,024 tokens (10.56 ms)"}


@pytest.mark.slow
def test_a_verdict_is_a_function_of_the_seed_but_for_the_time() -> None:
    first, again, other = (by_name(verify("linear", sizes=QUICK, seed=seed)) for seed in (0, 0, 1))
    assert {k: v for k, v in first.items() if k != "time"} == {k: v for k, v in again.items() if k != "time"}
    assert [f.measured for f in first.values() if f.name != "time"] != [f.measured for f in other.values() if f.name != "time"]


@pytest.mark.slow
def test_verifying_leaves_the_random_state_and_the_threads_alone() -> None:
    before, number = torch.get_rng_state(), torch.get_num_threads()
    verify("pool", sizes=QUICK)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == number


# --- the meter


def test_the_meter_counts_bytes_and_what_is_alive() -> None:
    x = torch.empty(10, 100, device="meta")  # 4,000 bytes

    def call() -> torch.Tensor:
        y = x + 1  # reads 4,000, writes 4,000
        z = y.T.reshape(10, 100)  # a copy: the same again; x, y and z are alive
        del y
        return z[:5] * z[:5]  # reads 2,000 twice, writes 2,000

    work = work_of(call, [x])
    assert work.moved == 8000 + 8000 + 6000
    assert work.live == 12000
    assert (work.macs, work.elementwise) == (0, 1000 + 500)


def test_the_meter_takes_views_and_expanded_tensors_for_what_they_hold() -> None:
    x = torch.empty(1, 100, device="meta")
    assert work_of(lambda: x.expand(50, 100).T.unsqueeze(0)).moved == 0
    assert work_of(lambda: x.expand(50, 100).sum()).moved == 400 + 4
    assert work_of(lambda: x.add_(1)).moved == 800


def test_the_meter_counts_multiply_adds_and_names_what_it_does_not_know() -> None:
    x = torch.empty(3, 4, 5, device="meta")
    assert work_of(lambda: x @ x.mT).macs == 3 * 4 * 4 * 5
    assert work_of(lambda: x.erfinv()).unknown == ("aten::erfinv",)


def test_nan_is_infinitely_far() -> None:
    x = torch.zeros(3)
    assert gap(x, x) == 0
    assert gap(x.fill_(float("nan")), x) == float("inf")
    assert gap(torch.tensor([11.0]), torch.tensor([10.0])) == pytest.approx(0.1)


@pytest.mark.parametrize(("words", "named"), [("a 5x7 grid", True), ("(5, 7)", True), ("35 tokens", False), ("7x5", False)])
def test_an_error_names_a_grid(words: str, named: bool) -> None:
    assert names_grid(ValueError(words), (5, 7)) is named


def test_the_layer_on_trial_is_as_the_skeleton_makes_it() -> None:
    assert type(Subject("softmax", "token", 48, 3, 0).build((4, 4))) is type(mixers.create("softmax", 48))
    assert Subject("softmax", "token", 48, 3, 0).build((4, 4)).num_heads == 3
    assert not Subject("pool", "token", 48, 3, 0).build((4, 4)).training


# --- the command


def command(*words: object):
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["verify", *map(str, words)])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = package.verify
    monkeypatch.setattr(package, "verify", lambda mixer, **given: whole(mixer, sizes=QUICK, **given))


@pytest.mark.usefixtures("quick")
def test_the_table_shows_every_check_and_the_totals() -> None:
    result = command("pool")
    assert result.exit_code == 0, result.output
    assert all(check.name in result.output for check in CHECKS)
    assert re.search(r"pool: \d+ hold, 0 fail, \d+ not applicable; no required check fails", result.output)


@pytest.mark.usefixtures("quick")
def test_a_refuted_mixer_is_exit_code_1_with_the_remedy(tmp_path: Path) -> None:
    result = command(written(tmp_path, BROKEN["a wrong formula of MACs"][0]), "--dim", 12)
    assert result.exit_code == 1, result.output
    assert "the MAC counts disagree" in " ".join(result.output.split())
    assert "declared MACs (token): count again" in result.output
    assert "it FAILS 1 required" in result.output
    assert "Traceback" not in result.output


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_json_is_for_machines(tmp_path: Path) -> None:
    result = command(written(tmp_path, BROKEN["a parameter without a gradient"][0]), "--json", "--dim", 12, "--seed", 3)
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert (found["verdict"], found["dim"], found["num_heads"], found["seed"]) == ("FAILS", 12, 3, 3)
    assert found["mixer"].endswith("mine.py:Broken")
    fields = {"name", "slot", "required", "verdict", "measured", "expected", "detail"}
    assert all(each.keys() == fields for each in found["checks"])
    bad = [each["measured"] for each in found["checks"] if each["verdict"] == "FAILS"]
    assert bad == ["none for unused"]
    assert "torch" in found["environment"]["versions"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sotfmax"], "did you mean softmax"),
        (["softmax", "--heads", 5], "num_heads = 5"),
        (["softmax", "--dim", 0], "--dim"),
        (["nowhere.py:Mixer"], "not found"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(words: list[object], expected: str) -> None:
    result = command(*words)
    assert result.exit_code == 2, result.output
    assert expected in result.output
    assert "Traceback" not in result.output


def test_the_documented_table_is_the_list_of_checks() -> None:
    text = (Path(__file__).parent.parent / "docs" / "VERIFY.md").read_text()
    rows = [f"| {c.name} | {'required' if c.required else 'reported'} | {c.meaning} |" for c in CHECKS]
    assert [line for line in text.splitlines() if re.match(r"\| .* \| (required|reported) \|", line)] == rows
