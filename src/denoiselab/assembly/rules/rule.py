"""The class Rule, and predicates on configurations."""

from collections.abc import Callable
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf


class Rule(NamedTuple):
    """An invalid combination; the values of the options `named`, which may be defaults, are added to the message."""

    broken: Callable[[DictConfig], bool]
    reason: str
    named: tuple[str, ...] = ()

    def told(self, cfg: DictConfig) -> str:
        values = [f"{key}={OmegaConf.select(cfg, key)}" for key in self.named]
        return f"{self.reason} (here {' and '.join(values)})" if values else self.reason


def is_a(part: DictConfig | None, *names: str) -> bool:
    """Whether the part is an instance of one of these."""
    return part is not None and str(part.get("_target_")).rpartition(".")[2] in names


def at(part: DictConfig | None, key: str) -> Any:
    """Return the part's value at `key`, or None."""
    return None if part is None else OmegaConf.select(part, key)


def pure_noise(cfg: DictConfig) -> bool:
    """Whether the schedule ends exactly at alpha = 0."""
    if ends(cfg):
        return False
    return is_a(cfg.get("schedule"), "Flow", "jsd") or bool(at(cfg.get("schedule"), "zero_terminal_snr"))


def ends(cfg: DictConfig) -> bool:
    return at(cfg.get("schedule"), "log_snr_min") is not None


def sharded(cfg: DictConfig) -> bool:
    return at(cfg.get("trainer"), "strategy") == "fsdp"


def classifies(cfg: DictConfig) -> bool:
    return is_a(cfg.get("loss"), "CrossEntropy")


def trains_codec(cfg: DictConfig) -> bool:
    return is_a(cfg.get("loss"), "Autoencoding")


def latent(cfg: DictConfig) -> bool:
    """Whether the model diffuses or decodes latents."""
    return is_a(cfg.get("codec"), "KL", "VQ", "Latents", "diffusers")


def guides(cfg: DictConfig) -> bool:
    if is_a(cfg.get("guidance"), "ClassifierFreeEach"):
        return any(scale != 1 for scale in cfg.guidance.scales)
    return is_a(cfg.get("guidance"), "ClassifierFree") and cfg.guidance.scale != 1


def conditions(cfg: DictConfig) -> list[DictConfig]:
    """Return the parts of the conditioning, in order."""
    told: DictConfig | None = cfg.get("conditioning")
    if told is None or not is_a(told, "Several"):
        return [] if told is None else [told]
    return [part for part in told.values() if isinstance(part, DictConfig)]


def reads(cfg: DictConfig) -> bool:
    """Whether part of the condition is text."""
    return any(is_a(part, "Text") for part in conditions(cfg))


def points(cfg: DictConfig) -> bool:
    return is_a(cfg.get("data"), "Points")


def draws(cfg: DictConfig, *names: str) -> bool:
    return any(is_a(part, *names) for part in (cfg.get("callbacks") or {}).values())


def samples(cfg: DictConfig) -> bool:
    return draws(cfg, "SampleGrid", "DenoisingStrip", "PointScatter", "PointProcess", "FewSteps")


def looks(cfg: DictConfig, *names: str) -> bool:
    """Whether metrics use one of these extractors."""
    return is_a(at(cfg.get("metrics"), "extractor"), *names)
