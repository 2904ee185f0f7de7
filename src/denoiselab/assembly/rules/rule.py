"""What a rule is, and what rules ask of a configuration."""

from collections.abc import Callable
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf


class Rule(NamedTuple):
    """A combination without meaning; `named` are values that nobody may have written, and that are told with it."""

    broken: Callable[[DictConfig], bool]
    reason: str
    named: tuple[str, ...] = ()

    def told(self, cfg: DictConfig) -> str:
        values = [f"{key}={OmegaConf.select(cfg, key)}" for key in self.named]
        return f"{self.reason} (here {' and '.join(values)})" if values else self.reason


def is_a(part: DictConfig | None, *names: str) -> bool:
    """Whether what is built of it is one of these."""
    return part is not None and str(part.get("_target_")).rpartition(".")[2] in names


def at(part: DictConfig | None, key: str) -> Any:
    """Its value there; None where it has none."""
    return None if part is None else OmegaConf.select(part, key)


def pure_noise(cfg: DictConfig) -> bool:
    """Whether the schedule ends at alpha = 0 exactly."""
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
    """Whether what is diffused, or decoded, are latents."""
    return is_a(cfg.get("codec"), "KL", "VQ", "Latents", "diffusers")


def guides(cfg: DictConfig) -> bool:
    if is_a(cfg.get("guidance"), "ClassifierFreeEach"):
        return any(scale != 1 for scale in cfg.guidance.scales)
    return is_a(cfg.get("guidance"), "ClassifierFree") and cfg.guidance.scale != 1


def conditions(cfg: DictConfig) -> list[DictConfig]:
    """The parts of the conditioning, in their order."""
    told: DictConfig | None = cfg.get("conditioning")
    if told is None or not is_a(told, "Several"):
        return [] if told is None else [told]
    return [part for part in told.values() if isinstance(part, DictConfig)]


def reads(cfg: DictConfig) -> bool:
    """Whether some of the condition is told in words."""
    return any(is_a(part, "Text") for part in conditions(cfg))


def points(cfg: DictConfig) -> bool:
    return is_a(cfg.get("data"), "Points")


def draws(cfg: DictConfig, *names: str) -> bool:
    return any(is_a(part, *names) for part in (cfg.get("callbacks") or {}).values())


def samples(cfg: DictConfig) -> bool:
    return draws(cfg, "SampleGrid", "DenoisingStrip", "PointScatter", "PointProcess", "FewSteps")


def looks(cfg: DictConfig, *names: str) -> bool:
    """Whether figures look through one of these extractors."""
    return is_a(at(cfg.get("metrics"), "extractor"), *names)
