"""DINOv2 and CLIP vision transformers as extractors, loaded by transformers from a local folder.

DINOv2's class-token features follow human judgement better than Inception's (Stein 2023); CMMD uses CLIP's normalised
embeddings (Jayasumana 2024). Pixels u are resized as in the authors' code, and the network input is (u/255 - mean) /
std per channel.
"""

import json
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from denoiselab.data.source import Source
from denoiselab.errors import ConfigError
from denoiselab.metrics.extractor import Extractor, Looked
from denoiselab.metrics.extractors.pretrained import check_images, freeze, look_in_parts, need
from denoiselab.metrics.extractors.weights import sha256


class _Standardised(nn.Module):
    """(u - mean) / std for u in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, u: Tensor) -> Tensor:
        return (u - self.mean) / self.std


@final
class DINOv2(Extractor):
    """DINOv2 extractor around transformers' Dinov2Model; resizes, clips and standardises images as dgm-eval does."""

    side = 224
    resize = "bicubic to 224 x 224 as Pillow does"

    def __init__(self, network: Any, digest: str) -> None:
        super().__init__()
        self.network, self.dim = network, network.config.hidden_size
        self.standardised = _Standardised((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # ImageNet's
        self.name, self.digest = f"dinov2-{digest[:8]}", digest[:16]
        freeze(self)

    def look(self, images: Tensor) -> Looked:
        return look_in_parts(images, self._look)

    def _look(self, images: Tensor) -> Looked:
        # With antialias, PyTorch's kernel is Pillow's (a = -0.5); without it, a = -0.75.
        resized = nnf.interpolate(images.float(), (self.side, self.side), mode="bicubic", antialias=True)
        seen = self.network(self.standardised(resized.clamp(0, 255) / 255))
        return Looked(seen.last_hidden_state[:, 0])


@final
class CLIP(Extractor):
    """CLIP extractor around transformers' CLIPVisionModelWithProjection; features have length 1, as in CMMD's code."""

    def __init__(self, network: Any, digest: str) -> None:
        super().__init__()
        self.network, self.dim = network, network.config.projection_dim
        self.side = network.config.image_size
        self.standardised = _Standardised((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
        self.name, self.digest = f"clip-{digest[:8]}", digest[:16]
        self.resize = f"bicubic to {self.side} x {self.side} as PyTorch does, without antialiasing"
        freeze(self)

    def look(self, images: Tensor) -> Looked:
        return look_in_parts(images, self._look)

    def _look(self, images: Tensor) -> Looked:
        resized = nnf.interpolate(images.float() / 255, (self.side, self.side), mode="bicubic")
        return Looked(nnf.normalize(self.network(self.standardised(resized)).image_embeds))


def dinov2(source: Source, weights: str | Path | None) -> DINOv2:
    """Load DINOv2. Raises ConfigError for data other than images, a missing extra, or a folder without DINOv2."""
    return DINOv2(*_loaded(source, weights, "dinov2", "Dinov2Model", ("dinov2",)))


def clip(source: Source, weights: str | Path | None) -> CLIP:
    """Load CLIP from a full model or its vision half. Raises ConfigError as `dinov2` does."""
    return CLIP(*_loaded(source, weights, "clip", "CLIPVisionModelWithProjection", ("clip", "clip_vision_model")))


def _loaded(
    source: Source, weights: str | Path | None, option: str, kind: str, types: tuple[str, ...]
) -> tuple[nn.Module, str]:
    """Return (network, sha256 of config.json and weights). types: accepted model_type values of config.json."""
    check_images(source, option)
    need(option, "transformers", "transformers")
    wanted = f"give the folder of a model of transformers ({' or '.join(types)}), config.json and model.safetensors"
    if weights is None:
        raise ConfigError(f"extractor={option} has no weights of its own; {wanted}: metrics.weights=<folder>")
    folder = Path(weights)
    files = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file() or not files:
        lack = "is not there" if not folder.exists() else "is no such folder" if not files else "has no config.json"
        raise ConfigError(f"metrics.weights={folder} {lack}; {wanted}")
    found = _model_type(folder / "config.json")
    if found not in types:
        raise ConfigError(f"metrics.weights={folder} is another network ({found}); {wanted}")
    return _read(folder, kind, wanted), sha256(folder / "config.json", *files)


def _model_type(path: Path) -> str:
    try:
        return str(json.loads(path.read_text())["model_type"])
    except (ValueError, KeyError, TypeError):
        return "its config.json names no model_type"


def _read(folder: Path, kind: str, wanted: str) -> nn.Module:
    """Load the network. Raises ConfigError if a tensor is missing or does not fit."""
    import transformers

    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):
            network, told = getattr(transformers, kind).from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
    except Exception as error:
        first = str(error).strip().partition("\n")[0][:160]
        raise ConfigError(
            f"metrics.weights={folder} cannot be read ({type(error).__name__}: {first}); {wanted}"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    if told["missing_keys"]:
        raise ConfigError(
            f"metrics.weights={folder} is not whole: it lacks {len(told['missing_keys'])} of the network's tensors, "
            f"{min(told['missing_keys'])} among them; {wanted}"
        )
    return network
