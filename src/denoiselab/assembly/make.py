"""Parts from nodes of a configuration; errors name the option."""

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from denoiselab.assembly.aliases import renamed
from denoiselab.assembly.configuration import plain
from denoiselab.data.source import Facts
from denoiselab.errors import UserError, located


def make(cfg: DictConfig, key: str, known: dict[str, Any] | None = None, **more: Any) -> Any:
    """Build the part that cfg.<key> describes.

    known: values for parameters that are null in the configuration, at any depth (see `known_of`). more: further
    arguments. Raises the part's own UserError; an InvalidValue names the option, such as sampler.steps.
    """
    node = _filled(renamed(plain(OmegaConf.select(cfg, key))), known or {})
    whole = OmegaConf.create()
    OmegaConf.update(whole, key, node, force_add=True)  # under its own key, which errors name
    try:
        with located(key):
            return instantiate(OmegaConf.select(whole, key), **more, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from error
        raise


def known_of(facts: Facts, latent: tuple[int, ...] = (), cache: str | None = None) -> dict[str, Any]:
    """Return the values that fill null parameters: num_classes, class_names, image_shape, latent_shape (of the diffused
    variable) and cache (the cache folder)."""
    return {
        "num_classes": len(facts.class_names),
        "class_names": list(facts.class_names),
        "image_shape": list(facts.shape),
        "latent_shape": list(latent),
        "cache": cache,
    }


def filled(part: DictConfig, known: dict[str, Any]) -> dict[str, Any]:
    """Return a part's resolved configuration with nulls replaced by known values."""
    made: dict[str, Any] = _filled(plain(part), known)
    return made


def _filled(node: Any, known: dict[str, Any]) -> Any:
    if not isinstance(node, dict):
        return node
    return {key: known[key] if value is None and key in known else _filled(value, known) for key, value in node.items()}
