"""A learnt mix of what a head reads of every hidden state, the frozen ones and the branch's own.

ELMo's scalar mix (Peters et al., 2018, equation 1): scale × the sum over the states of share × vector, the shares a
softmax of one weight a state. Reading first and mixing then is the same as mixing whole states, and needs of the
trunk's states one vector a text or word only.
"""

import math

import torch
from torch import Tensor, nn


class LayerMix(nn.Module):
    """Weights [S] and scale [], fp32; S = k + l + 1 states: the embeddings, k frozen layers, l layers of the branch.

    At first the last state has half of it and the others share the rest equally. The branch's own layers so get at
    least half the gradient that a head on the last state gives them, while equal shares would leave them one in S; and
    no state has so small a share that its weight could not learn.
    """

    def __init__(self, states: int) -> None:
        super().__init__()
        weights = torch.zeros(states)
        weights[-1] = math.log(max(1, states - 1))
        self.weights = nn.Parameter(weights)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, features: Tensor) -> Tensor:
        """features [..., S, H], from the embeddings up -> [..., H] fp32."""
        shares = torch.softmax(self.weights, dim=0)
        return self.scale * (shares[:, None] * features.float()).sum(dim=-2)


def weights_for_fewer(weights: Tensor, states: int) -> Tensor:
    """The mix of a student whose last state is at a lower depth than its teacher's, or the same.

    A state has the teacher's share of that depth; what the teacher takes of its states at and above the student's last
    one, it gives to that: they are what the student's last state has to stand for.

    Args:
        weights: the teacher's, [S].
        states: the student's S, at most the teacher's.
    """
    shares = torch.log_softmax(weights, dim=0)
    return torch.cat([shares[: states - 1], torch.logsumexp(shares[states - 1 :], dim=0, keepdim=True)])
