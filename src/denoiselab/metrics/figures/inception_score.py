"""Inception score: exp of the mean of KL(p(y|x) || p(y)) over images x (Salimans 2016, section 4).

The mean is H(y) - H(y|x) = sum_x sum_y p log p / n - sum_y q log q, q = p(y) = sum_x p(y|x) / n. 1 where all images
look alike to the classifier, the number of classes where it is sure of each and each is as frequent.
"""

from typing import final

import torch
from torch import Tensor

from denoiselab.limits import Count, checked
from denoiselab.metrics.figures.figure import Figure, Reference
from denoiselab.metrics.statistics import Needs, Statistics


@final
class InceptionScore(Figure):
    """inception_score and inception_score_std, mean and standard deviation over `splits` parts, as the paper has them.

    A part is a stretch of indices: nothing is drawn. A part of few images says less than all would, so scores of
    different n / splits cannot be compared. The classes are those that the extractor knows.
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
    """Of means of p and of sum p log p, (splits, K + 1): (splits,)."""
    return (means[:, -1] + torch.special.entr(means[:, :-1]).sum(1)).exp()
