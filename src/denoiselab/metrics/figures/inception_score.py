"""Inception score: exp of the mean over images x of KL(p(y|x) || p(y)) (Salimans 2016, section 4).

The mean is H(y) - H(y|x) = sum_x sum_y p log p / n - sum_y q log q, q = p(y) = sum_x p(y|x) / n. The score is 1 if all
images look alike to the classifier, and the number of classes if it is certain of each and all are equally frequent.
"""

from typing import final

import torch
from torch import Tensor

from denoiselab.limits import Count, checked
from denoiselab.metrics.figures.figure import Figure, Reference
from denoiselab.metrics.statistics import Needs, Statistics


@final
class InceptionScore(Figure):
    """inception_score and inception_score_std: mean and standard deviation over `splits` parts, as in the paper.

    Parts are contiguous index ranges, without randomness. Smaller parts score lower, so only scores with equal n /
    splits are comparable. The classes are those of the extractor.
    """

    @checked
    def __init__(self, splits: Count = 10) -> None:
        self.splits = splits
        self.needs = Needs(splits=splits)

    def __call__(self, generated: Statistics, reference: Reference) -> dict[str, float]:
        if generated.scores is None or generated.n < self.splits:
            return {}
        sums = generated.scores.unflatten(0, (self.splits, -1)).sum(1)
        sizes = torch.bincount(torch.arange(generated.n) * self.splits // generated.n, minlength=self.splits)
        scores = _scores(sums / sizes[:, None])
        figures = {"inception_score": float(scores.mean())}
        return figures | ({"inception_score_std": float(scores.std())} if self.splits > 1 else {})


def _scores(means: Tensor) -> Tensor:
    """Map means of p and of sum p log p, (splits, K + 1), to scores (splits,)."""
    return (means[:, -1] + torch.special.entr(means[:, :-1]).sum(1)).exp()
