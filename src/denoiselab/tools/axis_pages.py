"""Documentation page of each axis: options in conf/ with their comments, the code's docstrings and the formulas.

Pages are Markdown built from the files alone, without importing the package or torch. `docs/axes.yml` adds a paragraph
per axis and the formulas in LaTeX.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import griffe
import yaml

HIDDEN = {"hydra"}  # folders of conf/ that are not axes
TARGET = re.compile(r"^\s*_target_:\s*(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Option:
    """One file of an axis."""

    axis: str
    name: str
    text: str  # the YAML, comments included

    @property
    def summary(self) -> str:
        """The file's leading comment as one paragraph."""
        return " ".join(line.removeprefix("#").strip() for line in self._head if not line.startswith("# @package"))

    @property
    def yaml(self) -> str:
        """The file without its leading comment."""
        return "\n".join(self.text.splitlines()[len(self._head) :]).strip()

    @property
    def _head(self) -> list[str]:
        return list(itertools.takewhile(lambda line: line.startswith("#"), self.text.splitlines()))

    @property
    def targets(self) -> list[str]:
        return list(dict.fromkeys(TARGET.findall(self.text)))

    @property
    def base(self) -> str | None:
        """The option of the same axis that this one extends."""
        defaults = (yaml.safe_load(self.text) or {}).get("defaults", [])
        return next((entry for entry in defaults if isinstance(entry, str) and entry != "_self_"), None)


def resolved(found: griffe.Object | griffe.Alias) -> griffe.Object:
    """Resolve a re-export."""
    return found.final_target if isinstance(found, griffe.Alias) else found


class Code:
    """The package's docstrings, read from its source."""

    def __init__(self, source: Path) -> None:
        package = griffe.load("denoiselab", search_paths=[source], allow_inspection=False)
        self.package: griffe.Object = resolved(package)

    def find(self, path: str) -> griffe.Object | None:
        """Find the class or function of a dotted path, through re-exports; None if missing."""
        found = self.package
        for part in path.split(".")[1:]:
            if part not in found.members:
                return None
            found = resolved(found.members[part])
        return found

    def docstring(self, path: str) -> str:
        found = self.find(path)
        return found.docstring.value if found is not None and found.docstring is not None else ""

    def module_docstring(self, path: str) -> str:
        """Docstring of the module that contains it, which holds the mathematics of its classes; empty for a title."""
        found = self.find(path)
        module = None if found is None else found.module
        if module is None or module.docstring is None or len(module.path.split(".")) < 3:
            return ""  # a module of many families only repeats the page's paragraph
        text = module.docstring.value
        return text if "\n\n" in text else ""  # a single line is a title


def options(conf: Path, axis: str) -> list[Option]:
    return [Option(axis, path.stem, path.read_text()) for path in sorted((conf / axis).glob("*.yaml"))]


def axes(conf: Path) -> list[str]:
    return sorted(path.name for path in conf.iterdir() if path.is_dir() and path.name not in HIDDEN)


def escaped(text: str) -> str:
    r"""Escape plain prose for Markdown, except `code`, formulas in \( \) and indented blocks."""
    lines = []
    for line in text.splitlines():
        if line.startswith("    "):
            lines.append(line)
            continue
        parts = re.split(r"(`[^`]*`|\\\(.*?\\\))", line)
        lines.append("".join(part if i % 2 else _escaped(part) for i, part in enumerate(parts)))
    return "\n".join(lines)


def _escaped(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"[*_\[\]|#]", lambda match: f"&#{ord(match[0])};", text)


def blocks(text: str) -> str:
    """Surround each indented block of a docstring with empty lines, as Markdown requires."""
    lines: list[str] = []
    for line in text.splitlines():
        if lines and lines[-1].strip() and line.strip() and line.startswith("    ") != lines[-1].startswith("    "):
            lines.append("")
        lines.append(line)
    return "\n".join(lines)


def documented(text: str) -> str:
    return escaped(blocks(text))


def _first_sentence(text: str) -> str:
    paragraph = " ".join(text.split("\n\n")[0].split())
    match = re.match(r"(.+?\.)(?= [A-Z(]|$)", paragraph)
    return (match[1] if match else paragraph).rstrip(".")


def page(axis: str, conf: Path, code: Code, notes: dict[str, Any]) -> str:
    """Markdown page of an axis. notes: its entry in docs/axes.yml."""
    default, what, formulas = defaults(conf).get(axis), notes.get("what", {}), notes.get("formulas", {})
    listed = ordered(options(conf, axis), notes)
    lines = [f"# {axis}", "", notes.get("about", "").strip(), ""]
    if default:
        lines += [f"The default is [`{axis}={default}`](#{default}). To choose another option:", ""]
    other = next((o.name for o in listed if o.name not in (default, "none")), listed[0].name)
    example = notes.get("example", f"{axis}={other}")
    lines += ["```bash", f"{PROGRAMS.get(axis, 'python train.py')} {example}", "```", ""]
    lines += ["| option | what it is |", "|---|---|"]
    lines += [f"| [`{o.name}`](#{o.name}) | {what.get(o.name) or _derived(o, code)} |" for o in listed]
    for option in listed:
        lines += ["", *_section(option, listed, code, what.get(option.name), formulas.get(option.name))]
    return "\n".join(lines) + "\n"


def ordered(listed: list[Option], notes: dict[str, Any]) -> list[Option]:
    """Order options as in docs/axes.yml; the others follow by name."""
    order = {name: place for place, name in enumerate(notes.get("what", {}))}
    return sorted(listed, key=lambda option: (order.get(option.name, len(order)), option.name))


PROGRAMS = {"inpainting": "python sample.py run=<folder>", "analytic": "python sample.py data=digits"}


def _derived(option: Option, code: Code) -> str:
    """Describe an option that docs/axes.yml does not describe."""
    docstrings = (code.docstring(target) for target in reversed(option.targets))
    return escaped(_first_sentence(option.summary or next(filter(None, docstrings), "")))


def _section(
    option: Option, listed: list[Option], code: Code, what: str | None, formula: dict[str, str] | None
) -> Iterator[str]:
    yield from (f"## {option.name} {{#{option.name}}}", "")
    if what:
        yield from (f"{what[0].upper()}{what[1:]}.", "")
    if formula:
        yield from (rf"\[{formula['tex']}\]", "")
        if "source" in formula:
            yield from (f"Source: {sourced(formula['source'])}.", "")
    if option.summary:
        yield from (escaped(option.summary), "")
    if option.base and any(o.name == option.base for o in listed):
        yield from (f"Starts from [`{option.axis}={option.base}`](#{option.base}) and changes:", "")
    if option.yaml:
        yield from ("```yaml", option.yaml, "```", "")
    for target in option.targets:
        yield from _documented(target, code)


def _documented(target: str, code: Code) -> Iterator[str]:
    """Show an option's class or function, with its docstring and that of its module."""
    found = code.find(target)
    if found is None:
        return
    yield from (f"[`{target}`][{found.canonical_path}]" if documents(found) else f"`{target}`", "")
    text = "\n\n".join(filter(None, (code.module_docstring(target), code.docstring(target))))
    yield from (f"> {line}".rstrip() for line in documented(text).splitlines())
    yield ""


def documents(found: griffe.Object) -> bool:
    """Whether the API pages show it: not the command line, private names or names without docstring."""
    hidden = found.module.path.split(".")[1:2] in (["cli"], ["tools"]) or found.name.startswith("_")
    return found.has_docstrings and not hidden


def sourced(text: str) -> str:
    """Link the arXiv numbers of a citation."""
    return re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", _escaped(text))


def defaults(conf: Path) -> dict[str, str]:
    """Default option of each axis in train.py, or else in evaluate.py or sample.py."""
    chosen: dict[str, str] = {}
    for program in ("sample", "evaluate", "train"):
        for entry in yaml.safe_load((conf / f"{program}.yaml").read_text())["defaults"]:
            if isinstance(entry, dict):
                chosen |= {axis: option for axis, option in entry.items() if option and option != "from_run"}
    return chosen


INDEX = """# Axes

Every design choice is an axis, and every axis is a folder in `conf/` with one file per option. Choose an option with
`axis=option`, and change one of its values with `axis.key=value`. Each page lists the options of an axis, their values
and defaults, the code behind them and the formulas.
"""


def index(conf: Path, notes: dict[str, dict[str, Any]]) -> str:
    """Page that lists all axes."""
    lines = [INDEX]
    for group in dict.fromkeys(note["group"] for note in notes.values()):
        lines += [f"## {group}", "", "| axis | options |", "|---|---|"]
        for axis, note in notes.items():
            if note["group"] == group:
                names = ", ".join(f"[{o.name}]({axis}.md#{o.name})" for o in ordered(options(conf, axis), note))
                lines.append(f"| [`{axis}`]({axis}.md) | {names} |")
        lines.append("")
    return "\n".join(lines)
