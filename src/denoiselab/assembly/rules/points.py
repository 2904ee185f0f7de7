"""Rules for options made only for images or only for points."""

from denoiselab.assembly.rules.rule import Rule, at, conditions, draws, is_a, points, reads

_IMAGES = ("SuperResolution", "Colourisation", "Inpainting", "Segmentation", "Layout", "LayoutChannels")
_ALL = "; experiment=points takes all that points need"

PAIRS = (
    Rule(
        lambda cfg: points(cfg) and is_a(cfg.get("backbone"), "UNet", "DiT", "JiT", "Encoder"),
        "backbone=unet, dit and jit see images, and these data are points; take backbone=mlp or relu_mlp" + _ALL,
    ),
    Rule(
        lambda cfg: points(cfg) and reads(cfg),
        "conditioning=text tells what an image shows, and these data are points; take conditioning=class or none"
        + _ALL,
    ),
    Rule(
        lambda cfg: points(cfg) and "codec" in cfg and not is_a(cfg.codec, "Identity"),
        "codec encodes images, and these data are points; take codec=identity" + _ALL,
    ),
    Rule(
        lambda cfg: points(cfg) and bool(cfg.get("threshold")),
        "threshold limits x0 to the range of images, [-1, 1], which is not that of points; take threshold=none" + _ALL,
    ),
    Rule(
        lambda cfg: points(cfg) and "extractor" in (cfg.get("metrics") or {}),
        "metrics=fid looks at images, and these data are points; take metrics=points or none" + _ALL,
    ),
    Rule(
        lambda cfg: points(cfg) and draws(cfg, "SampleGrid", "DenoisingStrip"),
        "callbacks=default draws images, and these data are points; take callbacks=points" + _ALL,
    ),
    Rule(
        lambda cfg: not points(cfg) and is_a(at(cfg.get("metrics"), "evaluation"), "PointEvaluation"),
        "metrics=points compares points in the plane, and these data are images; take metrics=fid or none",
    ),
    Rule(
        lambda cfg: not points(cfg) and draws(cfg, "PointScatter", "PointProcess"),
        "callbacks=points draws points in the plane, and these data are images; take callbacks=default",
    ),
    Rule(
        lambda cfg: (
            points(cfg)
            and (is_a(cfg.get("loss"), "Hybrid") or at(cfg.get("loss"), "T") or is_a(cfg.get("schedule"), "Learned"))
        ),
        "the bound in steps ends with a decoder of 256 levels, which images have and points have not; "
        "take loss=vlb loss.T=null and a schedule that is not learned",
    ),
    Rule(
        lambda cfg: bool(cfg.get("inpainting")) and points(cfg),
        "inpainting keeps pixels of images, and these data are points; take inpainting=none",
    ),
    Rule(
        lambda cfg: points(cfg) and any(is_a(part, *_IMAGES) for part in conditions(cfg)),
        "this conditioning tells images, and these data are points; take conditioning=none" + _ALL,
    ),
    Rule(
        lambda cfg: points(cfg) and bool(at(cfg.get("guidance"), "rescale")),
        "guidance.rescale goes by the spread of an image's pixels, which points have not; take guidance=cfg",
    ),
)
