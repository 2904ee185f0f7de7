"""prompt=... and negative=... of python sample.py: text conditions and negative prompts."""

from collections.abc import Callable, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from denoiselab.conditioning import ClassLabel, Text, Wishes
from denoiselab.conditioning.captions import written
from denoiselab.data.source import Batch
from denoiselab.errors import ConfigError, RunError
from denoiselab.pipeline import Generated, Pipeline

Wish = Callable[[Sequence[int]], Batch]


class Prompts:
    """Prompts of a sample request, given to samples in turn. Raises ConfigError for empty texts or too many."""

    def __init__(self, cfg: DictConfig) -> None:
        self.prompts, self.negatives = _texts("prompt", cfg.prompt), _texts("negative", cfg.negative)
        self.classes = cfg.classes
        if len(self.prompts) > cfg.n:
            n = len(self.prompts)
            raise ConfigError(f"n={cfg.n} is not an image for each of {n} prompts; take n={n} or more")
        if len(self.negatives) not in (0, 1, len(self.prompts)):
            told = f"negative has {len(self.negatives)} texts, and prompt {len(self.prompts)}"
            raise ConfigError(f"{told}; give one negative, or one for each prompt")

    def check(self, pipeline: Pipeline, run: str | None) -> None:
        """Raise RunError for a model without text conditioning, ConfigError for a text that it cannot encode.

        A model conditioned on class and text needs both, so that they agree; others take one.
        """
        for key, texts in (("prompt", self.prompts), ("negative", self.negatives)):
            if texts and not _readers(pipeline):
                raise RunError(
                    f"run={run} is told no texts, and {key} is one; leave {key} out, or train a model that is: "
                    "python train.py experiment=text"
                )
            for reader in _readers(pipeline) if texts else ():
                reader.encoder.encode(texts)
        if self.prompts and self.classes is None and _classed(pipeline):
            raise ConfigError(
                f"run={run} is told a class beside its text, and prompt says none; give it too, as in classes=[7]"
            )
        if self.prompts and self.classes is not None and not _classed(pipeline):
            raise ConfigError(f"prompt and classes={list(self.classes)} both say what is asked for; leave one out")

    def asked(self, wishes: Wishes) -> Wish:
        return _Telling(wishes, self.prompts) if self.prompts else wishes

    def against(self, wishes: Wishes) -> Wish | None:
        return _Telling(wishes, self.negatives) if self.negatives else None

    @property
    def captions(self) -> list[str]:
        """The caption above each prompt's images."""
        if not self.negatives:
            return self.prompts
        pairs = [(text, self.negatives[i % len(self.negatives)]) for i, text in enumerate(self.prompts)]
        return [f"{text}   (away from: {other})" for text, other in pairs]

    def facts(self, pipeline: Pipeline, batches: Sequence[Generated]) -> dict[str, Any]:
        """Return each sample's class, text or both, and the negative prompts."""
        said: dict[str, Any] = {}
        if not self.prompts or _classed(pipeline):
            said["labels"] = [label for batch in batches for label in batch.labels.tolist()]
        if _readers(pipeline):
            told = [pair for batch in batches for pair in pipeline.conditioner.each(batch.asked)]
            said["prompts"] = [text for part, own in told if isinstance(part, Text) for text in part.texts(own)]
        return said | ({"negative": self.negatives} if self.negatives else {})


class _Telling:
    """Sample requests whose texts are given to samples in turn: sample i gets text i mod their number."""

    def __init__(self, wishes: Wishes, texts: Sequence[str]) -> None:
        self.wishes, self.texts = wishes, texts

    def __call__(self, indices: Sequence[int]) -> Batch:
        return self.wishes(indices) | {"text": written([self.texts[i % len(self.texts)] for i in indices])}


def _readers(pipeline: Pipeline) -> list[Text]:
    return [part for part, _ in pipeline.conditioner.each({}) if isinstance(part, Text)]


def _classed(pipeline: Pipeline) -> bool:
    return any(isinstance(part, ClassLabel) for part, _ in pipeline.conditioner.each({}))


def _texts(key: str, given: Any) -> list[str]:
    """Return one or several texts as a list. Raises ConfigError for empty texts and for values that are not text."""
    if given is None:
        return []
    texts = list(given) if OmegaConf.is_list(given) else [given]
    for text in texts:
        if not isinstance(text, str | int | float) or isinstance(text, bool):
            raise ConfigError(f"{key}={text} is no text; write {key}='a seven', or '{key}=[a seven,a bold three]'")
        if not str(text).strip():
            raise ConfigError(f"{key} has an empty text; say what is to be seen, as in {key}='a seven'")
    if not texts:
        raise ConfigError(f"{key}=[] has no text in it; leave it out, or write '{key}=[a seven,a bold three]'")
    return [str(text).strip() for text in texts]
