"""MkDocs hooks: pages generated from the code, formulas as MathML, and fixed links of the repository's own pages.

`make docs` runs it. The generated files are not committed.
"""

import hashlib
import html
import re
import sys
from importlib import import_module, util
from pathlib import Path
from typing import Any

import yaml
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[3]
SOURCE = ROOT / "src"
sys.path.insert(0, str(SOURCE))

from denoiselab.tools import axis_pages  # noqa: E402

# Subpackages that the API pages leave out.
PRIVATE = {"cli", "tools"}
REFUSALS = ("denoiselab.tools.refusals", "denoiselab.tools.refusals")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\s*\\([(\[])(.*?)\\[)\]]\s*</\1>', re.DOTALL)

# A function before its argument, without an exponent: <msup> allows only two children.
FUNCTION = re.compile(r"(?<!<msup>)(?<!<msub>)<mi>(log|cos|sin)</mi>(?!<mo|<mspace)")


def notes() -> dict[str, dict[str, Any]]:
    """Load docs/axes.yml: the notes of each axis, in page order."""
    known: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docs" / "axes.yml").read_text())
    missing = [axis for axis in axis_pages.axes(ROOT / "conf") if axis not in known]
    return known | {axis: {"group": "Other"} for axis in missing}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill in the navigation sections that depend on the code."""
    groups: dict[str, list[Any]] = {}
    for axis, note in notes().items():
        groups.setdefault(note["group"], []).append({axis: f"axes/{axis}.md"})
    axes: list[Any] = ["axes/index.md", *({group: pages} for group, pages in groups.items())]
    filled = {"Axes": axes, "API": ["api/index.md", *({name: f"api/{name}.md"} for name in modules())]}
    assert config.nav is not None
    for entry in config.nav:
        for title in entry if isinstance(entry, dict) else ():
            entry[title] = filled.get(title, entry[title])
    return config


def modules() -> list[str]:
    """Public subpackages and modules of the package."""
    package = SOURCE / "denoiselab"
    found = [path.stem for path in package.glob("*.py")] + [path.parent.name for path in package.glob("*/__init__.py")]
    return sorted(name for name in found if not name.startswith("_") and name not in PRIVATE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for uri, text in generated().items():
        files.append(File.generated(config, uri, content=text))
    return files


def generated() -> dict[str, str]:
    """Pages generated from the code, by path."""
    conf, code, noted = ROOT / "conf", axis_pages.Code(SOURCE), notes()
    pages = {f"axes/{axis}.md": axis_pages.page(axis, conf, code, note) for axis, note in noted.items()}
    pages["axes/index.md"] = axis_pages.index(conf, noted)
    pages |= {f"api/{name}.md": _api_page(name) for name in modules()}
    pages["api/index.md"] = _api_index(code)
    pages["refusals.md"] = _refusals()
    pages["develop.md"] = (ROOT / "CONTRIBUTING.md").read_text()
    pages["changelog.md"] = (ROOT / "CHANGELOG.md").read_text()
    return pages


API = """# API

The library, module by module. The mathematics is plain PyTorch: it imports neither Lightning nor Hydra. [As a
library](../guide/library.md) has two examples.

| module | what it holds |
|---|---|"""


def _api_index(code: axis_pages.Code) -> str:
    lines = [API]
    for name in modules():
        first = code.docstring(f"denoiselab.{name}").split("\n\n")[0]
        lines.append(f"| [`{name}`]({name}.md) | {axis_pages.escaped(' '.join(first.split()))} |")
    return "\n".join(lines) + "\n"


def _api_page(name: str) -> str:
    """Page of a module, or of a package file by file, so that re-exports of its `__init__` are not repeated."""
    folder = SOURCE / "denoiselab" / name
    if not folder.is_dir():
        return f"# {name}\n\n::: denoiselab.{name}\n"
    lines = [f"# {name}", "", f"::: denoiselab.{name}", "    options: {members: false}"]
    for path in sorted(folder.rglob("*.py")):
        module = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        if path.stem != "__init__":
            title = module.removeprefix(f"denoiselab.{name}.")
            lines += ["", f"## {title} {{#{title}}}", "", f"::: {module}", "    options: {heading_level: 3}"]
    return "\n".join(lines) + "\n"


def _refusals() -> str:
    """Table of refused options and pairs, cached until conf/ or the package changes since it takes a minute."""
    code = [path for path in SOURCE.rglob("*.py") if path.parent.name != "tools" or path.stem == "refusals"]
    sources = sorted([*(ROOT / "conf").rglob("*.yaml"), *code])
    state = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    kept = ROOT / "build" / "docs-cache" / f"refusals-{state}.md"
    if not kept.exists():
        name = next(name for name in REFUSALS if util.find_spec(name) is not None)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(import_module(name).table())
    heading, rule, *rows = kept.read_text().splitlines()
    columns = (_columns(row) for row in rows)
    escaped = [f"| {refused} | {axis_pages.escaped(reason)} |" for refused, reason in columns]
    return "\n".join([REFUSALS_PAGE, heading, rule, *escaped]) + "\n"


REFUSALS_PAGE = """# What is refused

Any part works with any other. The exceptions are listed here: single options that need others beside them, and pairs
that have no meaning. They are refused before anything starts, with the reason and the nearest combination that works.
The table is generated from the rules in the code, for the default configuration of `train.py`.
"""


def _columns(line: str) -> tuple[str, str]:
    left, _, right = line.removeprefix("| ").removesuffix(" |").partition(" | ")
    return left, right


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fix links of CONTRIBUTING.md and CHANGELOG.md, which are relative to the repository's root."""
    if page.file.src_uri in ("develop.md", "changelog.md"):
        markdown = markdown.replace("](docs/", "](")
    return markdown


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Convert LaTeX formulas to MathML, which browsers render without scripts."""
    return FORMULA.sub(_mathml, content)


def _mathml(match: re.Match[str]) -> str:
    block = match[2] == "["
    mathml = convert(html.unescape(match[3]).strip(), display="block" if block else "inline")
    mathml = FUNCTION.sub(r'<mi>\1</mi><mspace width="0.17em"/>', mathml)
    return f'<div class="formula">{mathml}</div>' if block else mathml
