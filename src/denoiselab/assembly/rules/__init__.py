"""Invalid or unusual combinations of options, found without importing torch.

One module per subject. Its RULES report early what the parts also reject when they are built. Its PAIRS concern parts
that do not see each other; training.parts checks them too, as CONFIG_RULES.
"""

from omegaconf import DictConfig

from denoiselab.assembly.rules import codecs, conditions, judging, points, sampling, training
from denoiselab.assembly.rules.judging import ADVICE
from denoiselab.assembly.rules.rule import Rule
from denoiselab.errors import IncompatibleError

# Combinations that no part can check by itself.
CONFIG_RULES = (*points.PAIRS, *codecs.PAIRS, *judging.PAIRS, *training.PAIRS, *conditions.PAIRS)

RULES = (*conditions.RULES, *sampling.RULES, *codecs.RULES, *training.RULES, *judging.RULES, *CONFIG_RULES)


def advice(cfg: DictConfig) -> list[str]:
    return [rule.told(cfg) for rule in ADVICE if rule.broken(cfg)]


def check_rules(cfg: DictConfig, rules: tuple[Rule, ...] = RULES) -> None:
    """Raise IncompatibleError for the first broken rule."""
    for rule in rules:
        if rule.broken(cfg):
            raise IncompatibleError(rule.told(cfg))
