"""The objective of a classifier of noisy images."""

from torch import Tensor
from torch.nn import functional as nnf

from denoiselab.conditioning.cond import Cond
from denoiselab.denoiser import Denoiser
from denoiselab.objectives.objective import Objective
from denoiselab.schedules import like


class CrossEntropy(Objective):
    r"""$-\log p(y|x_t)$, for classifier guidance (Dhariwal & Nichol 2021, arXiv:2105.05233, §4).

    The backbone returns class scores (B, classes); the classes are cond.label.
    """

    names = ("loss", "accuracy")
    classifies = True

    def figures(self, denoiser: Denoiser, x0: Tensor, cond: Cond | None, t: Tensor, eps: Tensor) -> dict[str, Tensor]:
        assert cond is not None and cond.label is not None
        alpha, sigma = denoiser.schedule(t)
        scores = denoiser.output(like(alpha, x0) * x0 + like(sigma, x0) * eps, t).F
        loss = nnf.cross_entropy(scores, cond.label, reduction="none")
        return {"loss": loss, "accuracy": (scores.argmax(1) == cond.label).to(loss)}
