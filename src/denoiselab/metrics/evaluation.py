"""Evaluation of image models: metrics with their provenance, each next to its floor, its value for real test images."""

from collections.abc import Mapping
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

from denoiselab import distributed
from denoiselab.codecs import Identity
from denoiselab.conditioning import Wishes, judged_by
from denoiselab.data.source import Source, psnr, spread
from denoiselab.errors import ConfigError
from denoiselab.guidance import Classifier as GuidedByClassifier
from denoiselab.metrics.classifier import Classifier
from denoiselab.metrics.extractor import Extractor
from denoiselab.metrics.figures import FID, AsTold, ClassAccuracy, Figure, Reference
from denoiselab.metrics.generation import Generation
from denoiselab.metrics.moments import frechet_distance
from denoiselab.metrics.objects import ObjectAccuracy
from denoiselab.metrics.real import BATCH, Real
from denoiselab.metrics.statistics import Needs, Statistics
from denoiselab.pipeline import Pipeline, Recipe
from denoiselab.progress import console

DEFAULT: Mapping[str, Figure] = {"fid": FID(), "class_accuracy": ClassAccuracy(), "as_told": AsTold()}


def check_figures(figures: Mapping[str, Figure]) -> None:
    """Raise ConfigError if no metric is left that can be the headline."""
    if not any(figure.headline for figure in figures.values()):
        raise ConfigError(
            "metrics.figures leaves nothing to judge a model by; keep fid, sfid, kid or mmd, or take metrics=none"
        )


class Evaluation:
    """Compute metrics of generated images against a data set's training images in one extractor's feature space.

    The floor of a metric is its value for the same number of real test images, the expected value of a perfect model.
    Stored as `floor.<name>`, and as `floor` for the headline metric. keep: number of images whose features are kept for
    metrics that need more than sums.

    All ranks must call every method; the results are the same on all of them.
    """

    def __init__(
        self,
        source: Source,
        extractor: Extractor,
        cache: Path | str,
        figures: Mapping[str, Figure] = DEFAULT,
        keep: int = 10_000,
    ) -> None:
        check_figures(figures)
        self.source, self.extractor, self.figures, self.keep = source, extractor, figures, keep
        self.needs = reduce(or_, (figure.needs for figure in figures.values()), Needs())
        self.objects = ObjectAccuracy(source)
        self.real = Real(source, extractor, Path(cache), keep)
        self._train: Statistics | None = None
        self._tests: dict[int, Statistics] = {}
        self._floors: dict[int, dict[str, float]] = {}
        self._warned: set[int] = set()

    def reference(self, n: int) -> Reference:
        """Statistics of all training images and of n test images, or all if fewer, spread evenly over the test set."""
        if self._train is None:
            self._train = self.real.train(self.needs)
        n = min(n, len(self.source.test))
        if n not in self._tests:
            self._tests[n] = self.real.test(n, self.needs)
        return Reference(self._train, self._tests[n])

    def floor(self, n: int) -> dict[str, float]:
        """Metrics of n real test images, or of all if there are fewer."""
        n = min(n, len(self.source.test))
        if n not in self._floors:
            told = (n, self.needs, [figure.words for figure in self.figures.values()])
            self._floors[n] = self.real.cached("floor", told, lambda: self._figures_of_test(n))
        return self._floors[n]

    def size(self, n: int | None) -> int:
        """n, or by default the number of test images up to 1,000."""
        return min(1000, len(self.source.test)) if n is None else n

    def _figures_of_test(self, n: int) -> dict[str, float]:
        reference = self.reference(n)
        return self._figures(reference.test, reference)

    def _figures(self, statistics: Statistics, reference: Reference) -> dict[str, float]:
        found: dict[str, float] = {}
        for figure in self.figures.values():
            found |= figure(statistics, reference)
        return found

    def __call__(
        self,
        pipeline: Pipeline,
        recipe: Recipe,
        n: int | None = None,
        seed: int = 0,
        batch_size: int = 100,
        saved: Path | None = None,
    ) -> dict[str, Any]:
        """Compute the metrics of samples 0 ... n - 1 of a seed, as plain values; "headline" names the headline metric.

        n None: the number of test images, up to 1,000. saved: a file for partial results, written every 20 s; an
        interrupted evaluation of the same samples resumes from it. The caller removes it.
        """
        n = self.size(n)
        if n < 2:
            raise ConfigError(f"metrics.n={n}: FID needs at least 2 images, and some thousands to say much")
        about = (self.source.fingerprint, self.extractor.name, self.extractor.digest, self.keep, self.needs)
        of_images = recipe.inpainting is not None
        wishes = Wishes(pipeline.conditioner, self.source.num_classes, self.source.test, of_images=of_images)
        generation = Generation(pipeline, recipe, n, wishes, seed, batch_size, saved, about)
        self.extractor.to(pipeline.device)
        floor = self.floor(n) | self._judged_real(wishes, n)
        headline = next((f.headline for f in self.figures.values() if f.headline in floor), None)
        if headline is None:
            raise ConfigError(
                f"metrics.figures has nothing to judge a model by that {self.extractor.name} can see in {n} images; "
                "keep metrics.figures.fid"
            )
        self._warn(n)
        found = self._figures(self._gathered(generation), self.reference(n)) | self._reconstructed(pipeline, n)
        if "rfid" in found and "fid" in floor:
            floor = floor | {"rfid": floor["fid"]}
        figures: dict[str, Any] = {"headline": headline} | found
        figures |= {"floor" if name == headline else f"floor.{name}": floor[name] for name in found if name in floor}
        figures |= {
            "n": n,
            "floor_n": min(n, len(self.source.test)),
            "extractor": self.extractor.name,
            "extractor_weights": self.extractor.digest,
            "resize": self.extractor.resize,
            "keep": self.keep,
        }
        figures |= {f"figures.{name}": figure.settings for name, figure in self.figures.items() if figure.settings}
        if isinstance(self.extractor, Classifier):
            figures["classifier_test_accuracy"] = self.extractor.test_accuracy
        return figures | {
            "data": self.source.name,
            "split": f"train {len(self.source.train)}, test {len(self.source.test)}",
            "data_fingerprint": self.source.fingerprint[:16],
            "given": ", ".join(wishes.given) or "none",
            "sample_seed": seed,
            "nfe": generation.evaluations,  # of the slowest image for adaptive samplers
            **recipe.words,
            "seconds": round(generation.seconds, 2),
            "sampling_seconds": round(generation.sampling_seconds, 2),
        }

    def _gathered(self, generation: Generation) -> Statistics:
        samples = Statistics(generation.n, self.keep, self.needs)
        judged = self.extractor.knows_classes and asks_for_classes(generation.pipeline, generation.recipe)
        for batch in generation.into(samples, f"generating {generation.n} images"):
            samples.update(batch.indices, self.real.look(batch.images), batch.images, batch.labels, judged)
            samples.judge(judged_by(generation.pipeline.conditioner, batch.images, batch.asked))
            samples.judge(self.objects.judge(batch.images, batch.asked))
            if batch.known is not None:
                samples.judge(batch.known.judge(batch.images))
        return samples.reduced(self.source.train)

    def _reconstructed(self, pipeline: Pipeline, n: int) -> dict[str, float]:
        """Reconstruction metrics of the codec on the floor's test images; empty without a codec.

        rfid: FID of the reconstructions, if FID is among the metrics; rpsnr: mean PSNR in dB.
        """
        if isinstance(pipeline.codec, Identity):
            return {}
        images, n = self.source.test, min(n, len(self.source.test))
        order, mine = spread(images.labels, n), distributed.share(n, BATCH)
        made = Statistics(n, keep=0)
        for start in range(0, len(mine), BATCH):
            places = mine[start : start + BATCH]
            batch = images.__getitems__([order[i] for i in places])
            again = pipeline.reconstructed(batch["image"])
            made.update(places, self.real.look(again), again, batch["label"])
            made.judge({"rpsnr": psnr(again, batch["image"])})
        whole = made.reduced()
        found = dict(whole.told)
        if any(isinstance(figure, FID) for figure in self.figures.values()):
            found["rfid"] = frechet_distance(whole.features, self.reference(n).train.features)
        return found

    def _judged_real(self, wishes: Wishes, n: int) -> dict[str, float]:
        """Condition metrics of the first n test images, under the conditions they provide for samples 0 ... n - 1."""
        if not wishes.conditioner.sees:
            return {}
        found = Statistics(n)
        for start in range(0, min(n, len(self.source.test)), BATCH):
            asked = wishes(range(start, min(n, start + BATCH, len(self.source.test))))
            found.judge(judged_by(wishes.conditioner, asked["image"], asked))
            found.judge(self.objects.judge(asked["image"], asked))
        return found.told

    def _warn(self, n: int) -> None:
        """Warn once per n if FID is computed from too few images for a full-rank covariance."""
        few, dim = min(n, len(self.source.train)), self.extractor.dim
        fitted = any(isinstance(figure, FID) for figure in self.figures.values())
        if not fitted or few > dim or n in self._warned or distributed.rank() > 0:
            return
        self._warned.add(n)
        console.print(
            f"{few} images are too few for {dim} features, whose covariance is singular then: FID is far too large, "
            f"and says something beside others of the same n alone; take n above {dim}, or a smaller extractor",
            highlight=False,
            soft_wrap=True,
        )


def asks_for_classes(pipeline: Pipeline, recipe: Recipe) -> bool:
    """Whether samples have a requested class, from the network, exact denoiser, guiding classifier or inpainting."""
    guided = isinstance(recipe.guidance, GuidedByClassifier) and recipe.guidance.scale != 0
    told = pipeline.conditioner.asks_class or getattr(pipeline.denoiser, "classes", None) is not None
    return told or guided or recipe.inpainting is not None
