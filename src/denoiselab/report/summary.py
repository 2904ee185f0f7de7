"""Short summary of a run's metrics, printed at the end of a command."""

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from denoiselab.files import near
from denoiselab.progress import console

_BESIDE = (
    *("sfid", "kid", "mmd", "cmmd"),
    *("inception_score", "precision", "recall", "density", "coverage", "memorised"),
)

# Condition metrics.
_CONDITION = (
    *("known_error", "unknown_error", "consistency", "psnr", "grey_error", "colour_error", "colourfulness"),
    *("segmentation_iou", "layout_iou", "object_accuracy", "stray", "attribute_accuracy"),
)


def conclude(done: str, metrics: Mapping[str, Any], files: Iterable[Path]) -> None:
    """Print what was done, the main metrics and the paths of the files."""
    text = "\n".join([*([done] if done else []), *lines(metrics), *map(near, files)])
    console.print(text, highlight=False, soft_wrap=True)


def lines(metrics: Mapping[str, Any]) -> list[str]:
    """One line per kind of metric present; intervals are 95% CI."""
    found = []
    few = "" if metrics.get("floor_n") == metrics.get("n") else f" at n {metrics['floor_n']}, not comparable"
    if "fid" in metrics:
        floor, seen = f"real test images {metrics['floor']:.2f}{few}", f"n {metrics['n']}, {metrics['extractor']}"
        interval = f" [{metrics['fid_low']:.2f}, {metrics['fid_high']:.2f}]" if "fid_low" in metrics else ""
        found.append(f"FID {metrics['fid']:.2f}{interval}, {floor} ({seen})")
    headline = metrics.get("headline")
    if headline in _BESIDE:
        error, seen = metrics.get(f"{headline}_error"), f"n {metrics['n']}, {metrics['extractor']}"
        spread = "" if error is None else f" ± {error:.2g}"
        floor = f"real test images {metrics['floor']:.4g}{few}"
        found.append(f"{headline} {metrics[headline]:.4g}{spread}, {floor} ({seen})")
    if "sliced_wasserstein" in metrics:
        floor, off = f"training points {metrics['floor']:.4f}{few}", metrics.get("off_plane")
        seen = f"n {metrics['n']}" if off is None else f"n {metrics['n']}; {off:.2%} of the squared norm off the plane"
        found.append(f"sliced Wasserstein distance {metrics['sliced_wasserstein']:.4f}, {floor} ({seen})")
    for name, unit in (("bits_per_dim", "bits/dim"), ("nats_per_dim", "nats/dim")):
        if name in metrics:
            source = f"{metrics['likelihood']}, n {metrics['likelihood.n']}"
            found.append(f"{metrics[name]:.4f} ± {metrics[f'{name}_error']:.4f} {unit} ({source})")
    if "class_accuracy" in metrics:
        found.append(f"class accuracy {metrics['class_accuracy']:.1%} ({metrics['extractor']})")
    if "rfid" in metrics:
        found.append(f"reconstructions of the codec: FID {metrics['rfid']:.2f}, PSNR {metrics['rpsnr']:.1f} dB")
    rest = [key for key in _BESIDE if key in metrics and key != headline]
    for keys in (rest, [key for key in _CONDITION if key in metrics]):
        if keys:
            real = any(f"floor.{key}" in metrics for key in keys)
            values = ", ".join(map(partial(_with_floor, metrics), keys))
            found.append(f"{values}{'; real test images in brackets' if real else ''}")
    return found


def _with_floor(metrics: Mapping[str, Any], key: str) -> str:
    floor = metrics.get(f"floor.{key}")
    return f"{key} {metrics[key]:.3g}" + ("" if floor is None else f" ({floor:.3g})")
