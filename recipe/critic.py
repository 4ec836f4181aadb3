"""A small network that learns to tell decoded pictures from real ones, and so tells the decoder what it lacks."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

ADVERSARIAL, MATCHING = 0.02, 0.5


class Critic:
    """Judges patches (hinge loss, spectral norm, as in SNGAN, arXiv:1802.05957) and compares what its layers see.

    The comparison, feature matching as in pix2pixHD (arXiv:1711.11585), does most of the work: a perceptual distance
    that needs no pretrained network.
    """

    def __init__(self, width: int = 32) -> None:
        sizes = (3, width, 2 * width, 4 * width)
        layers = [nn.Conv2d(a, b, 4, 2, 1) for a, b in itertools.pairwise(sizes)]
        layers.append(nn.Conv2d(sizes[-1], sizes[-1], 3, 1, 1))
        self.layers = nn.ModuleList(spectral_norm(layer) for layer in layers)
        self.score = spectral_norm(nn.Conv2d(sizes[-1], 1, 1))
        self.parameters = [*self.layers.parameters(), *self.score.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=2e-4, betas=(0.5, 0.9))

    def _judge(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.score(x), features

    def _learn(self, on: bool) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(on)

    def loss(self, decoded: Tensor, real: Tensor) -> Tensor:
        """What the decoder should lower; pictures are (n, 3, h, w) in [-1, 1]."""
        self._learn(False)  # or the decoder's backward pass would work out the critic's gradients too
        score, features = self._judge(decoded)
        with torch.no_grad():
            expected = self._judge(real)[1]
        distance = sum(F.l1_loss(a, b) for a, b in zip(features, expected, strict=True))
        return MATCHING * distance - ADVERSARIAL * score.mean()

    def learn(self, decoded: Tensor, real: Tensor) -> None:
        """One step of the critic's own."""
        self._learn(True)
        self.optimizer.zero_grad()
        right, wrong = self._judge(real)[0], self._judge(decoded)[0]
        (F.relu(1 - right).mean() + F.relu(1 + wrong).mean()).backward()
        self.optimizer.step()
