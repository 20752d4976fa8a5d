"""The page as text, and as a person uses it in headless Chromium."""

import json
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks.browser import chromium, missing
from golf.runtime.errors import FairwayError
from pipeline.cli import build
from pipeline.report import page
from pipeline.report.content import columns
from tests.pipeline.report.sample import HOSTILE, content, record, write

pytest.importorskip("altair")
pytest.importorskip("vl_convert")
CHARTS = ("progression", "size", "effects", "streams", "curves", "gap", "spend", "money", "speed", "rates")
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def html() -> str:
    return page.render(content())


@pytest.fixture(scope="module")
def file(html: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("page"), "report.html", html)


class Elements(HTMLParser):
    """Every element's name and attributes, as a browser would find them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_one_file_that_asks_for_nothing(html: str) -> None:
    assert "<!-- insert" not in html
    assert len(html) < 2e6
    links = [
        value for _, attributes in Elements(html).found for name in ("src", "href") if (value := attributes.get(name))
    ]
    assert all(link.startswith(("#", "data:")) for link in links)
    [policy] = [attributes["content"] for _, attributes in Elements(html).found if "http-equiv" in attributes]
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "http" not in policy


def test_names_from_elsewhere_end_no_script(html: str) -> None:
    names = [name for name, _ in Elements(html).found]
    assert names.count("script") == 4
    assert names[-1] == "script"
    assert "img" not in names
    [data] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert json.loads(data)["left_out"] == [{"what": HOSTILE, "why": HOSTILE}]


@pytest.mark.parametrize(
    "text", ["<!--", "]]>", "\u2028\u2029", "\x00\x1b[2J", "\ud800", "{{}}", "<!-- insert: policy -->"]
)
def test_any_text_goes_through_the_data_unchanged(text: str) -> None:
    written = page.data({"name": text})
    assert "<" not in written
    assert json.loads(written)["name"] == text.replace("\ud800", "?")


def test_charts_that_are_not_installed_are_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    page._library.cache_clear()
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(FairwayError, match="vl_convert is not installed"):
        page.render(content(4))


def test_the_files_of_the_page_stay_small() -> None:
    folder = Path(page.__file__).parent / "static"
    lines = {path.name: len(path.read_text().splitlines()) for path in folder.iterdir()}
    assert {*page.PROGRAM, "page.html", "style.css"} == set(lines)
    assert max(lines.values()) <= 400


def test_the_verb_writes_the_page_and_tells_what_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    monkeypatch.setattr(page, "_library", lambda: "")
    monkeypatch.chdir(tmp_path)
    write(
        tmp_path,
        "params.yaml",
        "seeds: [42]\nstats: {}\ntracking: {uri: sqlite:///none.db, experiment: test, notify: ''}\n",
    )
    write(tmp_path, "logs/sweep/\x1b[31mred.json", "{")
    board = write(tmp_path, "board.json", {"rows": [record("one", 1.1)]})
    done = CliRunner().invoke(
        build(), ["report", "--out", "lab/r.html", "--records", str(board)], catch_exceptions=False
    )
    assert done.exit_code == 0
    assert "lab/r.html: 0 runs, a leaderboard of 1" in done.output
    assert "left out: runs of MLflow: tracking.uri" in done.output
    assert "left out: logs/sweep/?[31mred.json: " in done.output
    assert '"published"' in (tmp_path / "lab/r.html").read_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if reason := missing():
        pytest.skip(reason)
    with chromium() as found:
        yield found


class Visit:
    """The page in a tab, with what it asked for and complained about."""

    def __init__(self, browser: Any, file: Path, **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": DESK, **options})
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(20_000)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.tab.on("console", lambda message: self.complaints.append(message.text))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.goto(file.as_uri())

    def cells(self, table: str, column: int) -> list[str]:
        return self.tab.locator(f"#{table} tbody tr > :nth-child({column})").all_inner_texts()

    def count(self, table: str) -> str:
        return self.tab.locator(f"#{table} output").inner_text()

    def draw_all(self) -> None:
        for name in CHARTS:
            self.tab.locator(f"#chart-{name}").scroll_into_view_if_needed()
            self.tab.wait_for_selector(f"#chart-{name} canvas, #chart-{name} .empty")

    @property
    def overflow(self) -> int:
        return self.tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.fixture
def visit(browser: Any, file: Path) -> Iterator[Visit]:
    found = Visit(browser, file)
    yield found
    found.context.close()
    assert found.complaints == []
    assert found.requests == [file.as_uri()]


def test_filters_filter_the_leaderboard(visit: Visit) -> None:
    tab = visit.tab
    assert visit.count("board-table") == "1 to 15 of 59, 62 in all"
    assert visit.cells("board-table", 3)[0] == "1.09900"
    tab.get_by_label("legal", exact=True).uncheck()
    assert visit.cells("board-table", 2)[0] == "state 0"
    tab.get_by_label("under the cap").uncheck()
    assert visit.cells("board-table", 6)[1] == "16,100,000"
    tab.get_by_label("own", exact=True).uncheck()
    assert set(visit.cells("board-table", 9)) == {"published"}
    tab.get_by_label("published", exact=True).uncheck()
    assert visit.cells("board-table", 2) == []
    assert "Nothing passes" in tab.locator("#chart-progression").inner_text()
    tab.get_by_label("own", exact=True).check()
    tab.get_by_label("scored text").select_option("text of 5,000 bytes")
    assert visit.cells("board-table", 2) == ["state 3"]
    tab.wait_for_selector("#chart-progression canvas")


def test_runs_are_searched_by_name_and_parameter(visit: Visit) -> None:
    search = visit.tab.locator("#run-filters").get_by_label("search")
    search.fill("quant.bits=6")
    assert visit.count("run-table") == "20 rows, 60 in all"
    search.fill("quant.bits=6 H100 state")
    assert visit.count("run-table") == "10 rows, 60 in all"  # states 1, 7, 13, ...
    search.fill("")
    visit.tab.get_by_label("audit").select_option("failed")
    assert visit.cells("run-table", 3) == ["0.90000"]


def test_headers_sort_and_say_so(visit: Visit) -> None:
    header = visit.tab.locator("#run-table th").nth(2)
    assert header.get_attribute("aria-sort") == "none"
    header.get_by_role("button").focus()
    visit.tab.keyboard.press("Enter")
    values = [float(cell) for cell in visit.cells("run-table", 3)]
    assert values == sorted(values)
    assert header.get_attribute("aria-sort") == "ascending"
    visit.tab.keyboard.press("Space")
    values = [float(cell) for cell in visit.cells("run-table", 3)]
    assert values == sorted(values, reverse=True)
    assert header.get_attribute("aria-sort") == "descending"
    visit.tab.locator("#run-table").get_by_role("button", name="Next").click()
    assert float(visit.cells("run-table", 3)[0]) <= values[-1]
    assert visit.count("run-table") == "21 to 40 of 60"


def test_every_chart_is_drawn_and_hostile_names_stay_text(visit: Visit) -> None:
    visit.draw_all()
    tab = visit.tab
    for name in CHARTS:
        assert tab.locator(f"#chart-{name} canvas").count() == 1, name
    tab.locator("#run-filters").get_by_label("search").fill("onerror state 4")
    tab.locator("#run-table tbody button").first.click()
    assert HOSTILE in tab.locator("#detail").inner_text()
    tab.keyboard.press("Escape")
    assert not tab.locator("#detail").is_visible()
    assert tab.evaluate("window.pwned") is None
    assert tab.locator("main img").count() == 0


def test_the_keyboard_reaches_everything_in_order(visit: Visit) -> None:
    visit.tab.keyboard.press("Tab")
    assert visit.tab.evaluate("document.activeElement.className") == "skip"
    places = []
    for _ in range(18):
        visit.tab.keyboard.press("Tab")
        places.append(visit.tab.evaluate("document.activeElement.getBoundingClientRect().top + scrollY"))
    assert all(after > before - 12 for before, after in pairwise(places))  # of one line, some are lower than others
    unnamed = "[...document.querySelectorAll('input, select')].filter((field) => !field.labels.length).length"
    assert visit.tab.evaluate(unnamed) == 0


def test_dark_by_the_system_and_by_the_button(browser: Any, file: Path) -> None:
    shade = (
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number).reduce((a, b) => a + b)"
    )
    visit = Visit(browser, file, color_scheme="dark")
    assert visit.tab.evaluate(shade) < 150
    visit.tab.locator("#chart-speed").scroll_into_view_if_needed()
    visit.tab.wait_for_selector("#chart-speed canvas")
    visit.tab.get_by_role("button", name="Theme: system").click()
    assert visit.tab.evaluate(shade) > 600
    visit.tab.get_by_role("button", name="Theme: light").click()
    assert visit.tab.evaluate(shade) < 150
    visit.tab.wait_for_selector("#chart-speed canvas")
    assert visit.complaints == []
    visit.context.close()


def test_a_phone_scrolls_tables_and_never_the_page(browser: Any, file: Path) -> None:
    visit = Visit(browser, file, viewport=PHONE, is_mobile=True, has_touch=True)
    visit.draw_all()
    assert visit.overflow == 0
    box = visit.tab.locator("#run-table .scroll")
    assert box.evaluate("(box) => box.scrollWidth - box.clientWidth") > 0
    visit.tab.locator("#board-table tbody button").first.click()
    assert visit.overflow == 0
    visit.context.close()
    assert visit.complaints == []


def test_sections_without_data_say_what_fills_them(browser: Any, tmp_path: Path) -> None:
    nothing: dict[str, Any] = {
        name: [] for name in ("curves", "spend", "effects", "ledgers", "machines", "streams", "log", "left_out")
    }
    tables = {"entries": columns([]), "runs": columns([]), "params": {}, "noise": None, "priced": False}
    named = {"created": "now", "experiment": "e", "root": "r"}
    visit = Visit(browser, write(tmp_path, "empty.html", page.render(nothing | tables | named)))
    told = " ".join(visit.tab.locator(".empty").all_inner_texts())
    for command in (
        "dvc repro",
        "--records DIR",
        "fairway ablate",
        "dvc repro compress",
        "fairway sweep",
        "fairway doctor --json",
    ):
        assert command in told
    assert not visit.tab.locator("#left-out").is_visible()
    assert not visit.tab.locator("#run-filters").is_visible()
    assert visit.tab.locator("canvas").count() == 0
    assert visit.complaints == []
    visit.context.close()
