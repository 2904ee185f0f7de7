"""The page: that it needs nothing else, that it can be read, and what a real browser makes of it."""

import base64
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import synthetic

from denoiselab.report import charts as charting
from denoiselab.report.report import Report, make

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = """
    --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --hide-scrollbars --enable-logging=stderr
"""
CSS = Path(synthetic.__file__).parents[2] / "src" / "denoiselab" / "report" / "templates" / "style.css"


class Tags(HTMLParser):
    """All tags with their attributes, and the text of each kind of tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "path", "use"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        for tag in set(self.open):
            self.text.setdefault(tag, []).append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Report:
    """A sweep with all that a report can show: 2 x 2 trainings of 2 seeds, by 2 samplers, steps and guidance."""
    folder, job = tmp_path_factory.mktemp("sweep"), 0
    levels = {"linear": 1.0, "cosine": 0.0, "eps": 0.5, "v": 0.0, "ddim": 0.3, "ddpm": 0.0}
    for seed in (0, 1):
        for schedule in ("linear", "cosine"):
            for prediction in ("eps", "v"):
                words = {"seed": seed, "schedule": schedule, "parameterization": prediction}
                level = 2 + levels[schedule] + levels[prediction] + 0.1 * seed
                run = synthetic.run(folder / str(job), words, level, sample_seed=0, bits_per_dim=4.0)
                synthetic.curves(run, level)
                synthetic.grid(run / "samples" / "step_400.png", 10)
                synthetic.grid(run / "samples" / "step_90.png", 200)
                for k, (sampler, steps) in enumerate((s, n) for s in ("ddim", "ddpm") for n in (5, 20)):
                    fid = level + levels[sampler] + 5 / steps + (4.0 if (sampler, steps) == ("ddim", 5) else 0.0)
                    made = synthetic.evaluation(run, f"s/{k}", {"sampler": sampler, "sampler.steps": steps}, fid)
                    synthetic.grid(made / "grid.png", 50 + k)
                for k, scale in enumerate((1, 2, 4)):
                    guided = {"guidance": "cfg", "guidance.scale": scale}
                    synthetic.evaluation(run, f"g/{k}", guided, level + scale**2 / 8, class_accuracy=0.9 + 0.02 * scale)
                job += 1
    synthetic.run(folder / "99", {"seed": 7, "schedule": "<b>&"}, None)
    return make([str(folder)])


@pytest.fixture(scope="module")
def charts(report) -> dict:
    return report.charts()


@pytest.fixture(scope="module")
def page(report) -> str:
    return report.page()


def test_every_section_is_there(page):
    ids = {attributes["id"] for attributes in Tags(page).of("section")}
    assert ids == {
        "ranking",
        "crossed",
        "effects",
        "cost",
        "guidance",
        "log-snr",
        "pictures",
        "commands",
        "provenance",
        "left",
    }


def test_one_run_makes_a_page_of_what_it_has(tmp_path):
    synthetic.run(tmp_path / "0", {}, 1.0)
    ids = {attributes["id"] for attributes in Tags(make([str(tmp_path)]).page()).of("section")}
    assert ids == {"ranking", "commands", "provenance"}


def test_the_page_refers_to_nothing_outside_itself(page):
    tags = Tags(page)
    assert not {"link", "iframe", "object", "embed", "base", "form"} & {name for name, _ in tags.tags}
    for _, attributes in tags.tags:
        for key in ("src", "href", "srcset", "action", "poster", "background"):
            value = attributes.get(key) or "#"
            assert value.startswith(("#", "data:image/png;base64,")), value
    assert all("src" not in attributes for attributes in tags.of("script"))
    assert not re.findall(r"https?:|//\w+\.|@import|url\((?!#)", page)


def test_what_a_link_names_is_there_and_names_are_unique(page):
    tags = Tags(page)
    ids = [attributes["id"] for _, attributes in tags.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    named = {value[1:] for _, a in tags.tags for key, value in a.items() if key == "href" and value}
    named |= set(re.findall(r"url\(#([^)]*)\)", page))
    named |= {value for _, a in tags.tags for key, value in a.items() if key == "aria-labelledby" and value}
    assert named <= set(ids)


def test_what_runs_are_called_is_text_and_no_html(page):
    assert "<b>&" not in page
    assert "schedule=&lt;b&gt;&amp;" in page


def test_pictures_and_charts_say_what_they_show(page):
    tags = Tags(page)
    assert all(attributes.get("alt") for attributes in tags.of("img"))
    charts = tags.of("svg")
    assert len(charts) == 1 + 5 + 4 + 1 + 3
    assert all(attributes["role"] == "img" and attributes["aria-labelledby"] for attributes in charts)
    assert all(attributes.get("scope") in ("row", "col") for attributes in tags.of("th") if attributes != {})
    texts = " ".join(tags.text["text"])  # text stays text
    assert "network evaluations" in texts
    assert "floor" in texts


@pytest.mark.slow
def test_a_name_has_one_colour_through_all_charts(charts):
    styles: dict[str, set] = {}
    for chart, _ in [*charts["log_snr"], *charts["guidance"], *charts["cost"]]:
        for series in chart.series:
            styles.setdefault(series.name, set()).add(series.style)
    assert {len(found) for found in styles.values()} == {1}


def test_the_costs_are_those_of_the_best_model_and_say_so(charts):
    nfe, time = (chart for chart, _ in charts["cost"] if not chart.name.endswith("-all"))
    assert "of cosine · v" in nfe.said
    lines = {series.name: (list(series.x), list(series.y)) for series in nfe.series}
    assert lines["ddpm · no guidance"][0] == [5, 20]
    assert lines["ddpm · no guidance"][1] == pytest.approx([2.05 + 1, 2.05 + 0.25])
    assert {series.name: list(series.x) for series in time.series}["ddpm · no guidance"] == [0.0005, 0.002]


def test_the_costs_of_all_models_are_means_over_the_same_of_them(charts):
    """Levels of the four models are 2, 2.5, 3 and 3.5 and 0.05 of their two seeds; these shift all lines alike."""
    nfe = next(chart for chart, _ in charts["cost"] if chart.name == "nfe-all")
    assert "means over 4 models and 2 seeds" in nfe.said
    line = next(series for series in nfe.series if series.name == "ddpm · no guidance")
    assert list(line.x) == [5, 20]
    assert list(line.y) == pytest.approx([2.75 + 0.05 + 1, 2.75 + 0.05 + 0.25])
    assert list(line.low) == pytest.approx(list(line.y))  # what seeds have in common is no uncertainty


def test_models_stand_against_ways_of_sampling(report):
    (_, ways), *rows = report.crossed
    assert [model for model, _ in rows] == ["cosine · v", "cosine · eps", "linear · v", "linear · eps"]
    column = [label for label, _ in ways].index("ddpm · steps 5 · no guidance")
    assert [cells[column][0] for _, cells in rows] == ["3.05", "3.55", "4.05", "4.55"]
    shares = [share for _, cells in rows for _, share in cells]
    assert (min(shares), max(shares)) == (0, 1)


def test_guidance_is_joined_in_the_order_of_its_scale(charts):
    ((chart, _),) = charts["guidance"]
    line = next(series for series in chart.series if series.name.startswith("cosine · v"))
    assert line.notes == ["1", "2", "4"]
    assert list(line.x) == pytest.approx([0.92, 0.94, 0.98])
    assert list(line.y) == pytest.approx([2.05 + s**2 / 8 for s in (1, 2, 4)])


def test_bits_by_log_snr_add_up_to_the_whole_and_equal_curves_are_one_line(charts):
    bits = next(chart for chart, _ in charts["log_snr"] if chart.name == "bits")
    (line,) = bits.series  # all models spend the same
    assert line.name == "all (4 models)"
    assert sum(2 * y for y in line.y) == pytest.approx(10)  # ten bins of width 2, of one bit each


def test_names_are_written_as_they_are():
    """A $ opens no formula, and what begins with _ has its place in the legend."""
    series = [charting.Series(name, charting.Style(), [1, 2], [1, 2]) for name in ("a$b$c", "_hidden", "x^2 $")]
    drawn = charting.lines(charting.Chart("one", "x", "y", series, "said"))
    texts = [text.lstrip("\u200b") for text in Tags(drawn).text["text"]]
    assert {"a$b$c", "_hidden", "x^2 $"} <= set(texts)


@pytest.mark.parametrize(("top", "log"), [(50.0, False), (5000.0, True)])
def test_bits_of_which_one_line_dwarfs_the_others_are_on_a_logarithmic_axis(tmp_path, top, log):
    for i, schedule in enumerate(("cosine", "linear")):
        run = synthetic.run(tmp_path / str(i), {"schedule": schedule}, 1.0)
        head = ["part", "log_snr_from", "log_snr_to", "bits_per_dim", "error", "evaluations"]
        parts = [["diffusion", 2 * k, 2 * k + 2, (top if i else 1.0) + k, 0.01, 10] for k in range(10)]
        synthetic.table(run / "likelihood.csv", head, parts)
    ((chart, _),) = make([str(tmp_path)]).charts()["log_snr"]
    assert chart.log_y is log


def test_pictures_are_of_the_settings_own_samples(report):
    shown = report.pictures()
    assert len(shown) == 12
    with_picture = [p.rank for p in report.study.ranking if p.setting.words["guidance"] == "none"]
    assert [shown[0].rank, shown[-1].rank] == [with_picture[0], with_picture[-1]]
    last = next(one for one in shown if "steps 50" in one.caption)
    run = report.study.rows[0].run
    assert base64.b64decode(last.data) == (run / "samples" / "step_400.png").read_bytes()


def test_the_ranking_is_the_same_in_markdown(report):
    lines = report.markdown().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| rank"))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start + 2 :]]
    count = len(report.study.settings)
    assert [row[0] for row in rows[:count]] == [str(i + 1) for i in range(count)]
    assert rows[0] == [cell.text for cell in report.ranking.rows[0]]
    for effect in report.effects:
        assert f"### {effect.axis.key}" in lines


# Colours


def luminance(colour: str) -> float:
    """Of WCAG 2: relative luminance of #rrggbb."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("night", [False, True])
def test_text_and_lines_stand_out_by_day_and_by_night(night):
    css = CSS.read_text()
    blocks = re.findall(r":root \{([^}]*)\}", css)
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", blocks[int(night)]))
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    for text in ("ink", "muted", "accent"):
        for ground in ("page", "card"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)  # WCAG AA
    assert contrast(colours["ink"], colours["mark"]) >= 4.5
    for line in range(8):
        assert contrast(colours[f"s{line}"], colours["page"]) >= 3, line  # of what is no text


# In a browser

browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; Debian's package chromium brings one")


def chromium(profile: Path, address: str, *flags: str) -> tuple[str, str]:
    """(stdout, what the page's console said)."""
    command = [str(CHROMIUM), *FLAGS.split(), f"--user-data-dir={profile}", *flags, address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


def rows_of(dom: str) -> list[str]:
    """The ranks in the ranking as it stands."""
    body = dom[dom.index("<tbody>") : dom.index("</tbody>")]
    return re.findall(r'<th scope="row" data-key="[^"]*">(\d+)</th>', body)


@pytest.mark.slow
@browser
def test_a_browser_sorts_the_ranking_as_the_address_says(report, tmp_path):
    path = report.write(tmp_path / "out")[0]
    means = {str(placed.rank): placed.setting.estimate.mean for placed in report.study.ranking}
    ranks = list(means)
    for i, (address, wanted) in enumerate({"": ranks, "#sort=-fid": sorted(means, key=lambda k: -means[k])}.items()):
        dom, said = chromium(tmp_path / str(i), f"file://{path}{address}", "--dump-dom")
        assert rows_of(dom) == wanted
        assert said == ""  # no error, and nothing that the page's own policy (no requests) had to stop
        assert dom.count(">copy</button>") == len(ranks)
    assert 'aria-sort="descending"' in dom


@pytest.mark.slow
@browser
def test_a_browser_paints_the_page_by_day_and_by_night(report, tmp_path):
    import numpy as np
    from PIL import Image

    path, painted = report.write(tmp_path / "out")[0], []
    for scheme in (1, 0):  # light, dark
        picture = tmp_path / f"{scheme}.png"
        flags = (
            f"--screenshot={picture}",
            "--window-size=1200,2000",
            f"--blink-settings=preferredColorScheme={scheme}",
        )
        chromium(tmp_path / f"profile_{scheme}", f"file://{path}", *flags)
        painted.append(np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3))
    grounds = [tuple(np.median(pixels, 0).astype(int)) for pixels in painted]
    assert grounds == [(0xFD, 0xFD, 0xFB), (0x14, 0x17, 0x1B)]
    blue = (np.array([0x00, 0x72, 0xB2]), np.array([0x5C, 0xB8, 0xF0]))  # a series, as the style sheet has it
    for pixels, colour in zip(painted, blue, strict=True):
        assert (np.abs(pixels - colour).max(1) < 3).sum() > 200
