import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .browser import PROGRAM, Browser
from .conftest import NAMES

chromium = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium to open the page in")


@pytest.fixture(scope="session")
def page(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of that run, beside itself."""
    from alexnet_cli.engine.launch import device
    from alexnet_cli.engine.prediction import classifier
    from alexnet_cli.report import page, sources
    from alexnet_cli.report.answers import Answers, asked

    source = sources.opened(run, None)
    *_, answers = asked(classifier(source.checkpoint, 1, device("cpu")), source.split("val"))
    assert isinstance(answers, Answers)
    out = tmp_path_factory.mktemp("page") / "report.html"
    entry = page.Entry(source, "val", 1, None, answers)
    out.write_text(page.html([entry]), encoding="utf-8")
    return out


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


def text(browser: Browser, selector: str) -> list[str]:
    found = browser.value(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.textContent.trim())")
    return [*found]


@chromium
def test_it_opens_without_a_complaint_and_asks_for_nothing(page: Path, browser: Browser) -> None:
    browser.open(page)
    assert browser.value("document.querySelectorAll('main section').length") == 6
    images = browser.value("[...document.images].map(i => i.complete && i.naturalWidth > 0)")
    assert len(images) >= 14 and all(images)
    assert browser.complaints() == []
    assert [url for url in browser.requested() if not url.startswith("data:")] == [page.as_uri()]


@chromium
def test_its_policy_lets_nothing_in(page: Path, browser: Browser) -> None:
    """Inline script, a request and a style that did not come with the page are all refused."""
    browser.open(page)
    picture = "<img src=https://example.invalid/x.png onerror=document.title=1>"
    browser.value(f"document.body.insertAdjacentHTML('beforeend', '{picture}')")
    browser.value(
        "document.body.append(Object.assign(document.createElement('script'), {text: 'document.title = 2'}))"
    )
    browser.value("fetch('https://example.invalid/').catch(() => 0)")
    browser.value("1")
    said = " ".join(entry["entry"]["text"] for entry in browser.told("Log.entryAdded"))
    assert "img-src" in said and "script-src" in said and "connect" in said.lower()
    assert not browser.value("document.title").isdigit()


@chromium
def test_names_stay_text(page: Path, browser: Browser) -> None:
    browser.open(page)
    assert browser.value("document.querySelectorAll('img[src=x]').length") == 0
    scripts = browser.value("document.scripts.length")
    assert scripts == 2, "the data and the page's own"
    shown = text(browser, "table.sortable tbody th")
    assert shown == [*NAMES[:6], "\N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER}"]


@chromium
def test_the_table_sorts_and_says_so(page: Path, browser: Browser) -> None:
    browser.open(page)
    press = "document.querySelectorAll('table.sortable thead button')[{}].click()"
    browser.value(press.format(1))
    names = text(browser, "table.sortable tbody th")
    assert [name for name in names if name in ("Apple", "item 10", "zebra")] == ["Apple", "item 10", "zebra"]
    column = text(browser, "table.sortable thead th").index("top-1 error, %")
    for order in ("ascending", "descending"):
        browser.value(press.format(column))
        errors = [*map(float, text(browser, f"table.sortable tbody td:nth-child({column + 1})"))]
        assert errors == sorted(errors, reverse=order == "descending") and len(errors) == 7
        sorts = browser.value(
            "[...document.querySelectorAll('table.sortable th')].map(h => h.getAttribute('aria-sort'))"
        )
        assert [sort for sort in sorts if sort] == [order] and sorts[column] == order


@chromium
def test_the_search_finds(page: Path, browser: Browser) -> None:
    browser.open(page)
    browser.value("document.querySelector('.find input').focus()")
    browser.ask("Input.insertText", text="ZEB")
    shown = browser.value(
        "[...document.querySelectorAll('table.sortable tbody tr')].filter(r => !r.hidden)"
        ".map(r => r.cells[1].textContent)"
    )
    assert shown == ["zebra"]
    assert text(browser, ".find output") == ["1 of 7 classes"]


@chromium
def test_curves_answer_to_keys_and_pointer_with_what_was_logged(page: Path, browser: Browser, run: Path) -> None:
    browser.open(page)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    checks = [row for row in rows if row["kind"] == "validation"]
    browser.value("document.querySelector('[data-chart=\"error-epochs\"]').focus()")
    browser.press("End")
    said = browser.value("document.activeElement.parentElement.querySelector('output').textContent")
    tally = checks[-1]["tally"]
    error = 100 * tally["wrong1"] / tally["pictures"]
    assert f"seven, top-1 error: {five_digits(error)} at 6 epochs" in said
    browser.press("Home")
    assert "at 1 epochs" in browser.value(
        "document.activeElement.parentElement.querySelector('output').textContent"
    )
    chart = "document.querySelector('[data-chart=\"loss-epochs\"]')"
    browser.value("document.activeElement.blur()")
    browser.value(f"{chart}.scrollIntoView({{behavior: 'instant', block: 'center'}})")
    x, y, width, height = browser.value(f"(b => [b.x, b.y, b.width, b.height])({chart}.getBoundingClientRect())")
    browser.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x + width - 5, y=y + height / 2)
    losses = [row["loss"] for row in rows if row["kind"] == "step"]
    said = browser.value(f"{chart}.parentElement.querySelector('output').textContent")
    assert f"seven, training loss: {five_digits(np.mean(losses[-5:]))} at 6 epochs" in said
    browser.value("document.querySelector('input[value=minutes]').click()")
    assert browser.value("[...document.querySelectorAll('.chart')].map(c => c.hidden + c.dataset.unit)") == [
        *("trueepochs", "trueepochs", "falseminutes", "falseminutes")
    ]


def five_digits(value: float) -> str:
    return f"{float(f'{value:.5g}'):g}"


@chromium
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_fits_a_telephone_and_reads_well_in_both_colours(page: Path, browser: Browser, dark: bool) -> None:
    browser.size(400, 800, dark)
    browser.open(page)
    assert browser.value("document.documentElement.scrollWidth") <= 400
    names = "['color', 'background-color'].map(n => getComputedStyle(document.body).getPropertyValue(n))"
    ink, paper = (luminance(value) for value in browser.value(names))
    assert (paper < ink) == dark
    assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) > 7


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2) of rgb(r, g, b)."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot((0.2126, 0.7152, 0.0722), linear))


def test_it_is_one_small_file_that_says_what_the_run_was(page: Path, run: Path) -> None:
    written = page.read_text(encoding="utf-8")
    assert len(written) < 400_000
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']*""", written), "everything is in the page"
    for fact in ("width", "0.1", "small", "momentum", "--batch-size 14", "most often taken for"):
        assert fact in written
    assert "host" not in written
    config = json.loads((run / "config.json").read_text())
    assert config["about"]["host"] not in written or len(config["about"]["host"]) < 4
    assert config["config"]["dataset"] in written


def test_errors_on_the_page_are_those_of_eval(
    page: Path, run: Path, seven: Path, alexnet: Callable[..., Any]
) -> None:
    found = json.loads(alexnet("eval", run, "--data", seven, "--json").succeeded().out)["models"][0]
    written = page.read_text(encoding="utf-8")
    assert f">{found['top1_error']:.2f} %</td>" in written and f">{found['cross_entropy']:.4f}</td>" in written
    for row in found["by_class"]:
        assert f'<td class="number">{100 * row["top1_wrong"] / row["pictures"]:.1f}</td>' in written


def test_several_runs_stand_side_by_side(run: Path, tmp_path: Path, alexnet: Callable[..., Any]) -> None:
    out = tmp_path / "two.html"
    alexnet("report", run, run / "last.safetensors", "--limit", 7, "-o", out).succeeded()
    written = out.read_text(encoding="utf-8")
    assert "<title>alexnet: seven, last</title>" in written
    assert "last is not evaluated" not in written and "a model file" in written


def test_a_dataset_that_is_gone_leaves_the_rest(run: Path, tmp_path: Path, alexnet: Callable[..., Any]) -> None:
    import shutil

    copy = shutil.copytree(run, tmp_path / "copy")
    facts = json.loads((copy / "config.json").read_text())
    facts["about"]["dataset"] = str(tmp_path / "nowhere")
    (copy / "config.json").write_text(json.dumps(facts))
    out = tmp_path / "r.html"
    said = alexnet("report", copy, "-o", out).succeeded().err
    assert "is not evaluated" in said and "nowhere" in said
    written = out.read_text(encoding="utf-8")
    assert "Learning curves" in written and "Results by class" not in written and "First-layer kernels" in written
