from mixers.base import check_tokens
from torch import nn


class MeanGate(nn.Module):
    """Y = XW₁ ⊙ sigmoid(mean(X)W₂): every token is gated by the mean of all tokens."""

    def __init__(self, dim):
        super().__init__()
        self.value, self.gate = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x, grid):  # x: (B, N, C), grid: (H, W), N = H·W
        check_tokens(x, grid)
        return self.value(x) * self.gate(x.mean(dim=1, keepdim=True)).sigmoid()
