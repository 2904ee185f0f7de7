"""The documentation: it builds without a warning, its links lead somewhere, and its commands run."""

import html
import os
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CONF = REPOSITORY / "conf"
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
WRITTEN = [REPOSITORY / name for name in ("CONTRIBUTING.md", "CHANGELOG.md")] + PAGES
OPTIONS = [(path.parent.name, path.stem) for path in sorted(CONF.glob("*/*.yaml")) if path.parent.name != "hydra"]
on_one_process = pytest.mark.xdist_group("site")  # which builds the pages once
RUNNABLE = re.compile(r"<!-- run -->\n```bash\n(.*?)```", re.DOTALL)


class Links(HTMLParser):
    """What a page points to, and the anchors it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value is not None}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        self.targets += [values[name] for name in ("href", "src") if name in values]
        loads = "src" in values or (tag == "link" and values.get("rel") in ("stylesheet", "preload", "preconnect"))
        self.fetched += [values[name] for name in ("href", "src") if loads and name in values]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages."""
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "src"), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "WARNING" not in built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Links]:
    return {path: Links(path.read_text()) for path in sorted(site.rglob("*.html"))}


@on_one_process
@pytest.mark.slow
def test_every_link_and_anchor_of_the_built_pages_is_there(site, pages):
    dead = []
    for page, links in pages.items():
        for target in links.targets:
            parts = urlsplit(target)
            if parts.scheme or page.name == "404.html":
                continue
            path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            path = path / "index.html" if path.is_dir() else path
            anchor = unquote(parts.fragment)
            known = pages[path].anchors if path in pages else set()
            if not path.exists() or (anchor and path.suffix == ".html" and anchor not in known):
                dead.append(f"{page.relative_to(site)} -> {target}")
    assert dead == []


@on_one_process
@pytest.mark.slow
def test_the_pages_fetch_nothing_from_elsewhere(site, pages):
    found = {target for links in pages.values() for target in links.fetched if urlsplit(target).netloc}
    assert found == set()
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert not re.search(r"url\(\s*[\"']?(https?:)?//", styles)


@on_one_process
@pytest.mark.slow
def test_every_axis_has_its_page_and_every_option_its_section(pages, site):
    assert {axis for axis, _ in OPTIONS} >= {"schedule", "sampler", "loss", "guidance"}
    for axis, option in OPTIONS:
        assert option in pages[site / "axes" / f"{axis}.html"].anchors, f"{axis}={option}"


@on_one_process
@pytest.mark.slow
def test_formulas_are_mathml_and_no_latex_is_left_over(site):
    page = (site / "axes" / "schedule.html").read_text()
    assert page.count('<div class="formula"><math') == len(list((CONF / "schedule").glob("*.yaml")))
    for path in (site / "axes").glob("*.html"):
        assert not re.search(r"arithmatex|\\\(|\\\[", path.read_text()), path.name


@on_one_process
@pytest.mark.slow
def test_the_page_of_refusals_has_the_pairs_that_have_no_meaning(site):
    page = html.unescape((site / "refusals.html").read_text())
    assert "schedule=flow,jsd" in page and "parameterization=eps,score" in page


def test_the_readme_is_short():
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 130


@pytest.mark.parametrize("page", WRITTEN, ids=[str(page.relative_to(REPOSITORY)) for page in WRITTEN])
def test_every_file_that_a_page_links_to_is_in_the_repository(page):
    """Read as they are, without a build. What the build makes (axes, refusals, API) is not there before it."""
    made = {"refusals.md", "develop.md", "changelog.md"}
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if urlsplit(target).scheme:
            continue
        path = (page.parent / target).resolve()
        inside = path.relative_to(REPOSITORY / "docs") if path.is_relative_to(REPOSITORY / "docs") else None
        if inside is not None and (str(inside) in made or inside.parts[0] in ("axes", "api")):
            continue
        assert path.exists(), f"{page.name} links to {target}"


def test_the_notes_on_axes_name_only_options_that_exist():
    yaml = pytest.importorskip("yaml")
    notes = yaml.safe_load((REPOSITORY / "docs" / "axes.yml").read_text())
    for axis, note in notes.items():
        for key in ("what", "formulas"):
            for option in note.get(key, {}):
                assert (axis, option) in OPTIONS, f"docs/axes.yml: {axis}={option}"


COMMAND = re.compile(r"^(?: {4}|\| `)?(?:\$ )?python train\.py ((?:[^`\n#<]|#(?! ))+?)(?: +#.*|`.*)?$", re.MULTILINE)


def training_commands() -> list[tuple[str, str]]:
    """(page, overrides) of each training command in the pages that needs nothing made before."""
    found = [
        (page.stem, words.strip()) for page in PAGES for words in COMMAND.findall(page.read_text().replace("\\\n", ""))
    ]
    return sorted({(page, words) for page, words in found if not re.search(r"run=|--", words)})


@pytest.mark.slow
@pytest.mark.parametrize(("page", "words"), training_commands())
def test_every_training_command_of_the_pages_is_allowed(page, words):
    """Composed and checked, not run. Of a sweep, the first job; what is Hydra's own is left out."""
    from denoiselab.assembly import rules
    from denoiselab.assembly.configuration import composed
    from denoiselab.errors import ConfigError

    overrides = []
    for word in shlex.split(words):
        key, _, value = word.partition("=")
        if word == "-m" or key.startswith(("hydra", "resume")) or "(" in value:
            continue
        overrides.append(word if value.startswith("[") else f"{key}={value.split(',')[0]}")
    cfg = composed("train", overrides)
    if overrides == ["schedule=flow", "parameterization=eps"]:  # the page shows how it is refused
        with pytest.raises(ConfigError):
            rules.check_rules(cfg)
    else:
        rules.check_rules(cfg)


def test_training_commands_of_all_pages_are_found():
    found = training_commands()
    assert len(found) > 30
    assert {"README", "index", "options", "sweeps", "conditioning", "experiments"} <= {page for page, _ in found}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs and options in a folder of their own, with no outputs."""
    folder = tmp_path_factory.mktemp("checkout")
    for program in REPOSITORY.glob("*.py"):
        shutil.copy(program, folder)
    for name in ("conf", "src"):
        (folder / name).symlink_to(REPOSITORY / name)
    (folder / "outputs").mkdir()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if RUNNABLE.search(page.read_text())], ids=lambda p: p.stem)
def test_every_command_marked_as_runnable_runs(page, checkout):
    """A page's blocks one after the other, as a reader would type them; later ones use the runs of earlier ones."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    for block in RUNNABLE.findall(page.read_text()):
        for command in block.strip().splitlines():
            words = command.replace("python ", f"{sys.executable} ", 1)
            done = subprocess.run(words, shell=True, cwd=checkout, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
