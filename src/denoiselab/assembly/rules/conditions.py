"""Rules for conditions, guidance and inpainting."""

import math

from omegaconf import DictConfig

from denoiselab.assembly.rules.rule import Rule, at, conditions, guides, is_a


def _plain(cfg: DictConfig) -> bool:
    """Whether the data are known to have only images and labels."""
    return is_a(cfg.get("data"), "Digits", "FashionMNIST", "ImageFolder")


def _untrained(cfg: DictConfig) -> bool:
    """Whether guidance needs a condition never seen in training: none or, with several scales, the first few parts."""
    never = any(at(part, "drop") == 0 for part in conditions(cfg))
    together = is_a(cfg.get("conditioning"), "Several") and is_a(cfg.get("guidance"), "ClassifierFree")
    return never and not (together and at(cfg.get("conditioning"), "drop"))


def missing_condition(key: str, have: str) -> str:
    return f"this conditioning needs {key}, and {have} none; take data=composition, or conditioning=class"


PAIRS = (
    Rule(
        lambda cfg: len({part.get("_target_") for part in conditions(cfg)}) < len(conditions(cfg)),
        "conditioning=several tells the same in both of its parts; take another for one of them, as in "
        "conditioning@conditioning.second=text",
    ),
    Rule(
        lambda cfg: is_a(cfg.get("data"), "Composition") and any(is_a(part, "Text") for part in conditions(cfg)),
        "captions tell of one object, and data=composition has several in each scene; take conditioning=layout, or "
        "another data set",
    ),
    Rule(
        lambda cfg: bool(cfg.get("inpainting") and cfg.get("invert")),
        "invert=true goes to noise and back from whole images, and inpainting has a part of one; take inpainting=none",
    ),
    Rule(
        lambda cfg: bool(cfg.get("inpainting")) and any(is_a(part, "Inpainting") for part in conditions(cfg)),
        "inpainting is for models that were not trained to inpaint, and conditioning=inpainting has masks of its own; "
        "take inpainting=none",
    ),
    Rule(
        lambda cfg: (at(cfg.get("inpainting"), "jump") or 0) >= (at(cfg.get("sampler"), "steps") or math.inf),
        "inpainting.jump goes back to before the first of the sampler's steps; take a jump below sampler.steps",
        ("inpainting.jump", "sampler.steps"),
    ),
    Rule(
        lambda cfg: _plain(cfg) and any(is_a(part, "Segmentation") for part in conditions(cfg)),
        missing_condition("segmentation", "these data have"),
    ),
    Rule(
        lambda cfg: _plain(cfg) and any(is_a(part, "Layout", "LayoutChannels") for part in conditions(cfg)),
        missing_condition("boxes", "these data have"),
    ),
    Rule(
        lambda cfg: guides(cfg) and is_a(cfg.get("conditioning"), "Unconditional"),
        "guidance=cfg needs a condition to strengthen, and conditioning=none gives none; "
        "take guidance=none or conditioning=class",
    ),
    Rule(
        lambda cfg: (
            is_a(cfg.get("guidance"), "ClassifierFreeEach")
            and ("conditioning" in cfg and len(cfg.guidance.scales) != len(conditions(cfg)))
        ),
        "guidance=cfg_each has a scale for each part of the condition, and guidance.scales are not as many; give one "
        "number for each part, of which conditioning=several has two, or take guidance=cfg",
        ("guidance.scales",),
    ),
    Rule(
        lambda cfg: guides(cfg) and _untrained(cfg),
        "guidance=cfg needs the unconditional model, which conditioning.drop=0 never trains; "
        "take conditioning.drop=0.1 or guidance=none",
    ),
)

RULES = (
    Rule(
        lambda cfg: cfg.get("prompt") is not None and bool(cfg.get("analytic")),
        "prompt is read by a trained network, and analytic=<option> is an exact denoiser; take run=<folder>, a run of "
        "experiment=text, or leave prompt out",
    ),
    Rule(
        lambda cfg: bool(cfg.get("invert")) and not (cfg.get("prompt") is None and cfg.get("negative") is None),
        "prompt and negative say what new images are to show, and invert=true encodes those of the data; take one of "
        "them",
    ),
    Rule(
        lambda cfg: cfg.get("prompt") is not None and is_a(cfg.get("guidance"), "Classifier", "Autoguidance"),
        "guidance=classifier and autoguidance lead to a class, and a prompt is of none; take guidance=cfg, or "
        "classes=[...] in place of prompt",
    ),
    Rule(
        lambda cfg: (
            cfg.get("negative") is not None and not (is_a(cfg.get("guidance"), "ClassifierFree") and guides(cfg))
        ),
        "negative is what guidance=cfg leads away from, and there is none here; take guidance=cfg guidance.scale=3",
    ),
    Rule(
        lambda cfg: any(
            is_a(at(part, "encoder"), "of_folder") and at(part, "encoder.folder") is None for part in conditions(cfg)
        ),
        "conditioning.encoder.folder must be given, that of a text encoder which transformers has saved, such as CLIP "
        "or T5; take conditioning.encoder.folder=<folder>, or conditioning=text, which needs none",
    ),
    Rule(
        lambda cfg: (
            at(cfg.get("guidance"), "sigma_high") is not None and cfg.guidance.sigma_low >= cfg.guidance.sigma_high
        ),
        "guidance.sigma_low is not below guidance.sigma_high; take the smaller one first",
    ),
    Rule(
        lambda cfg: is_a(cfg.get("guidance"), "Classifier") and not cfg.guidance.classifier.run,
        "guidance.classifier.run must be given, the folder of a run of experiment=noisy_classifier; take "
        "guidance.classifier.run=<folder>",
    ),
    Rule(
        lambda cfg: is_a(cfg.get("guidance"), "Autoguidance") and not cfg.guidance.weak.run,
        "guidance.weak.run must be given, the folder of a run of a smaller or less trained model; take "
        "guidance.weak.run=<folder>",
    ),
)
