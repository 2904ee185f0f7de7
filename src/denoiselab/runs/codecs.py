"""Pretrained codecs of a run: codec=vae, from another run, and codec=diffusers.

When training starts, the codec's configuration and the sha256 of its weights enter the run's own configuration. Another
run's codec weights and the latent scale are saved in the run's checkpoints, so the other folder is read only once.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import final

import torch
from omegaconf import DictConfig, open_dict
from torch import Tensor

import denoiselab
from denoiselab.assembly.make import filled, known_of
from denoiselab.cache import cached
from denoiselab.codecs import Autoencoder, Latents
from denoiselab.codecs.diffusers import DiffusersVAE, weights_of
from denoiselab.data.source import Batch, Facts, ImageSet, Source, to_float
from denoiselab.errors import RunError
from denoiselab.progress import track
from denoiselab.runs import checkpoint as checkpoints
from denoiselab.runs.load import Loaded, open_run

BATCH = 500
CODE = hashlib.sha256(
    b"".join(path.read_bytes() for path in sorted((Path(denoiselab.__file__).parent / "codecs").glob("*.py")))
).hexdigest()


def describe(cfg: DictConfig, own: Path | None = None) -> None:
    """Add the codec's configuration, `model`, and the `sha256` of its weights to cfg.codec, if missing.

    own: the checkpoint to resume from, which contains both without the codec's folder. Raises RunError.
    """
    if not {"run", "folder"} & set(cfg.codec) or "sha256" in cfg.codec:
        return
    if own is not None:
        before = checkpoints.read(own)["denoiselab"]["config"]["codec"]
        found = {key: before[key] for key in ("model", "sha256") if key in before}
    elif "folder" in cfg.codec:
        found = {"sha256": weights_of(cfg.codec.folder)}
    else:
        pipeline, trained, about = trained_codec(cfg.codec.run, cfg.codec.checkpoint)
        facts = Facts(tuple(about["image_shape"]), tuple(about["class_names"]))
        found = {"model": filled(trained.codec, known_of(facts)), "sha256": digest(pipeline.codec)}
    with open_dict(cfg.codec):
        cfg.codec.update(found)


def trained_codec(run: str, checkpoint: str) -> Loaded:
    """Load an autoencoder's run. Raises RunError for a run of another kind."""
    try:
        loaded = open_run(run, checkpoint, torch.device("cpu"))
    except RunError as error:
        raise RunError(f"codec.run: {error}") from error
    if not isinstance(loaded.pipeline.codec, Autoencoder):
        raise RunError(
            f"codec.run={run} is no autoencoder's run; train one with python train.py experiment=autoencoder"
        )
    return loaded


def digest(codec: torch.nn.Module) -> str:
    """Return the sha256 of a codec's weights, 64 hexadecimal digits."""
    found = hashlib.sha256()
    for name, values in sorted(codec.state_dict().items()):
        found.update(f"{name} {values.dtype} {list(values.shape)}".encode())
        found.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def ready(codec: Latents, cfg: DictConfig, source: Source, own: Path | None = None) -> Source:
    """Load the codec's weights and scale; return the data, with latents if they are to be cached.

    own: the checkpoint to resume from, which contains weights and scale.
    """
    if own is not None:
        prefix = "pipeline.codec."
        state = checkpoints.read(own)["state_dict"]
        codec.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    elif not isinstance(codec.model, DiffusersVAE):
        codec.model.load_state_dict(trained_codec(cfg.codec.run, cfg.codec.checkpoint).pipeline.codec.state_dict())
    encode = _encoder(codec, cfg)
    if not cfg.codec.cached:
        if own is None:
            codec.measure(encode(batch) for batch in _batches(source.train, "measuring"))
        return source
    cache, told = Path(cfg.cache), (CODE, source.fingerprint, cfg.codec.sha256)

    def kept(split: str, images: ImageSet, flip: bool) -> Tensor:
        key = hashlib.sha256(json.dumps([*told, split, flip]).encode()).hexdigest()[:16]
        path = cache / f"{source.name}-latents-{split}{'-mirrored' if flip else ''}-{key}.pt"
        rows = cached(
            path, lambda: torch.cat([encode(x.flip(-1) if flip else x) for x in _batches(images, "encoding")])
        )
        assert isinstance(rows, Tensor)
        return rows

    train, test = kept("train", source.train, False), kept("test", source.test, False)
    if own is None:
        codec.measure([train])
    mirrored = codec.scaled(kept("train", source.train, True)) if source.flip else None
    return Encoded(
        source, WithLatents(source.train, codec.scaled(train), mirrored), WithLatents(source.test, codec.scaled(test))
    )


def _encoder(codec: Latents, cfg: DictConfig) -> Callable[[Tensor], Tensor]:
    """Return a function from uint8 images to unscaled latents on the CPU, computed on the training device."""
    there = torch.cuda.is_available() and cfg.trainer.accelerator in ("auto", "gpu", "cuda")
    device = torch.device("cuda" if there else "cpu")

    def encode(images: Tensor) -> Tensor:
        return codec.to(device).unscaled(to_float(images.to(device))).cpu()

    return encode


def _batches(images: ImageSet, what: str) -> Iterator[Tensor]:
    with track(f"{what} {len(images)} images", len(images)) as advance:
        for start in range(0, len(images), BATCH):
            batch = images.__getitems__(range(start, min(start + BATCH, len(images))))["image"]
            yield batch
            advance(len(batch))


@final
class WithLatents(ImageSet):
    """Image set with "latent": (B, C, h, w) in each batch, and "mirrored_latent" for the mirrored images."""

    def __init__(self, images: ImageSet, latents: Tensor, mirrored: Tensor | None = None) -> None:
        self.labels = images.labels
        self._images, self._latents, self._mirrored = images, latents, mirrored

    def __len__(self) -> int:
        return len(self._images)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        index = torch.tensor(indices, dtype=torch.int64)
        batch = self._images.__getitems__(indices) | {"latent": self._latents[index]}
        return batch if self._mirrored is None else batch | {"mirrored_latent": self._mirrored[index]}


@final
class Encoded(Source):
    """Source with the latents of its images."""

    def __init__(self, source: Source, train: WithLatents, test: WithLatents) -> None:
        self.name, self.class_names, self.flip = source.name, source.class_names, source.flip
        self._source, self._train, self._test = source, train, test

    @property
    def shape(self) -> tuple[int, ...]:
        return self._source.shape

    @property
    def train(self) -> ImageSet:
        return self._train

    @property
    def test(self) -> ImageSet:
        return self._test
