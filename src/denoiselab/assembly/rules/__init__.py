"""Combinations of options without a meaning, and advice on some that have one, told without torch.

A module a subject. Its RULES only say early what the parts themselves refuse when they are built; its PAIRS are between
parts that do not see each other, so build.parts refuses by them, CONFIG_RULES, too.
"""

from omegaconf import DictConfig

from denoiselab.assembly.rules import codecs, conditions, judging, points, sampling, training
from denoiselab.assembly.rules.judging import ADVICE
from denoiselab.assembly.rules.rule import Rule
from denoiselab.errors import IncompatibleError

# What the parts themselves cannot see, as it is between them.
CONFIG_RULES = (*points.PAIRS, *codecs.PAIRS, *judging.PAIRS, *training.PAIRS, *conditions.PAIRS)

RULES = (*conditions.RULES, *sampling.RULES, *codecs.RULES, *training.RULES, *judging.RULES, *CONFIG_RULES)


def advice(cfg: DictConfig) -> list[str]:
    return [rule.told(cfg) for rule in ADVICE if rule.broken(cfg)]


def check_rules(cfg: DictConfig, rules: tuple[Rule, ...] = RULES) -> None:
    """Raises IncompatibleError for the first rule that is broken."""
    for rule in rules:
        if rule.broken(cfg):
            raise IncompatibleError(rule.told(cfg))
