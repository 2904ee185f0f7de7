"""Docstrings on the API pages: prose with formulas, in which `<`, `*`, `_` and brackets are not markup."""

from typing import Any

import griffe

from denoiselab.tools.axis_pages import documented


class Prose(griffe.Extension):
    """mkdocstrings extension, called once per object as its source is read."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = documented(obj.docstring.value)
