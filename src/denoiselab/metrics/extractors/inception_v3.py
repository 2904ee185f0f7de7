"""Inception-v3 as used for published FIDs: TensorFlow's graph of 2015-12-05, in torch-fidelity's port.

Images are resized to 299 x 299 as in TensorFlow 1: bilinear, output pixel i is read at input position i * side/299.
Features: pool_3, 2048 (FID, Heusel 2017; KID, Binkowski 2018). Spatial features: the first 7 channels of mixed_6/conv
at its 17 x 17 positions (sFID, Nash 2021, as in OpenAI's evaluator). Logits: 1008 classes, without the bias (Inception
score, Salimans 2016; torch-fidelity's "logits_unbiased").
"""

import io
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from denoiselab.data.source import Source
from denoiselab.errors import ConfigError
from denoiselab.metrics.extractor import Extractor, Looked
from denoiselab.metrics.extractors.pretrained import check_images, freeze, look_in_parts, need
from denoiselab.metrics.extractors.weights import HINT, Remote, fetched, read

WEIGHTS = Remote(
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)
SPATIAL_CHANNELS = 7


@final
class Inception(Extractor):
    """Inception-v3 extractor; `network` is torch-fidelity's FeatureExtractorInceptionV3, `digest` its file's sha256.

    The name of the standard weights, which published metrics use, is inception-v3-6726825d.
    """

    dim = 2048
    resize = "bilinear to 299 x 299 as TensorFlow 1 does"

    def __init__(self, network: Any, digest: str) -> None:
        super().__init__()
        self.network = network
        self.name, self.digest = f"inception-v3-{digest[:8]}", digest[:16]
        freeze(self)

    def look(self, images: Tensor) -> Looked:
        return look_in_parts(images, self._look)

    def _look(self, images: Tensor) -> Looked:
        # On the CPU, convolutions with channels_last weights take 0.6 of the time.
        on_cpu = images.device.type == "cpu"
        self.network.to(memory_format=torch.channels_last if on_cpu else torch.contiguous_format)
        middle: list[Tensor] = []
        # TensorFlow's mixed_6 is Mixed_6d here; a block's first channels are those of its 1 x 1 convolution.
        hook = self.network.Mixed_6d.register_forward_hook(lambda _block, _inputs, seen: middle.append(seen))
        try:
            features, logits = self.network(images)
        finally:
            hook.remove()
        return Looked(features, middle[0][:, :SPATIAL_CHANNELS].flatten(1), logits)


def inception(source: Source, weights: str | Path | None = None, cache: str | Path = "outputs/.cache") -> Inception:
    """Build the extractor from a weights file, or from torch-fidelity's weights, downloaded once into `cache`.

    Raises ConfigError if the data are not images, the extra [inception] is missing, or the weights are missing, cannot
    be downloaded or belong to another network.
    """
    check_images(source, "inception")
    make = _network_class()
    path = fetched(WEIGHTS, Path(cache)) if weights is None else Path(weights)
    state, digest = read(path)
    buffer = io.BytesIO()  # torch-fidelity unpickles its input, so it gets a file written here
    torch.save(state, buffer)
    buffer.seek(0)
    try:
        with torch.random.fork_rng(devices=[]):
            network = make("inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=buffer)
    except RuntimeError as error:
        raise ConfigError(
            f"metrics.weights={path} is another network than torch-fidelity's Inception-v3, as torchvision's is, too; "
            + HINT
        ) from error
    return Inception(network, digest)


def _network_class() -> Any:
    """Import torch-fidelity's FeatureExtractorInceptionV3. Raises ConfigError if the import fails."""
    need("inception", "inception", "torch_fidelity", "torchvision")
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except Exception as error:  # torchvision fails in several ways with a torch it was not built for
        raise ConfigError(
            f"extractor=inception: torch-fidelity does not import ({type(error).__name__}: "
            f"{str(error).partition(chr(10))[0]}); torchvision needs the very torch that it was built for, and "
            "pip install 'denoiselab[inception]' in a fresh environment brings both; or take extractor=classifier"
        ) from error
    return FeatureExtractorInceptionV3
