from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from offline.compare.plan import Plan
from offline.compare.results import Results
from offline.report.files import JSON, write_report
from offline.report.page import as_html, page_of

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
NEEDS_CHROMIUM = pytest.mark.skipif(CHROMIUM is None, reason="NO CHROMIUM ON THIS MACHINE: the page was not drawn")
# Asked of the page once it is drawn; the answer is read off its title.
ASK = """
<script>
addEventListener("load", () => {
  const seen = e => { const b = e.getBoundingClientRect(); return b.width > 0 && b.height > 0; };
  const rows = [...document.querySelectorAll("tbody tr, .who, section, h1, h2")];
  const wide = [...document.querySelectorAll("p, li, h1, h2, figure, .tile, .who, .says")]
    .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.textContent.slice(0, 40));
  document.title = JSON.stringify({
    rows: rows.length, hidden: rows.filter(e => !seen(e)).map(e => e.textContent.slice(0, 40)), wide,
    scrolls: document.documentElement.scrollWidth > innerWidth,
    loaded: performance.getEntriesByType("resource").map(e => e.name).filter(n => !n.startsWith("data:")),
  });
});
</script></body>"""


@pytest.fixture(scope="module")
def html(results: Results) -> str:
    return as_html(page_of(results))


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data")]
        if tag not in ("meta", "link", "br", "line", "circle", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("line", "circle", "polyline"):
            assert self.open.pop() == tag


def test_the_page_needs_nothing_but_itself(html: str) -> None:
    tags = _Tags()
    tags.feed(html)
    assert tags.open == []
    assert tags.addresses
    assert all(address.startswith(("#", "data:")) for address in tags.addresses)
    assert "<script" not in html
    assert not re.search(r"https?://|url\(|@import", html)


def test_what_the_page_is_about_comes_in_this_order(html: str) -> None:
    ids = re.findall(r'<section id="([^"]+)"', html)
    first = ["today", "serve", "warm", "contrasts", "latency", "claims", "training", "costs", "cold", "temporal"]
    assert ids == [*first, "lists", "neighbours", "targets", "missing", "making"]
    assert html.index("<h1>Deploy ") < html.index('class="tiles"') < html.index('class="rules"') < html.index("<nav")


def test_text_of_the_data_stays_text(html: str) -> None:
    assert "Amélie &lt;script&gt;alert(" in html


def test_a_space_is_shown_once(results: Results, html: str) -> None:
    shown = html[html.index('id="neighbours"') : html.index('id="targets"')]
    assert "sasrec" in shown
    assert "contriever" in shown
    assert "e4srec" not in shown, "it answers in SASRec's"


def test_every_row_is_in_every_format(results: Results, plan: Plan, tmp_path: Path) -> None:
    file = write_report(results, plan, tmp_path / "out")
    found = json.loads((file.parent / JSON).read_text())
    assert {"rows", "claims", "targets", "recommendation", "plan", "provenance"} <= set(found)
    keys = {"family", "variant", "protocol", "seen_removed", "seeds", "ndcg10", "hr10", "low", "high"}
    assert all(keys <= set(row) for row in found["rows"])
    assert all(set(target) == {"name", "target", "value", "held"} for target in found["targets"])
    page, text = file.read_text(), (file.parent / "comparison.md").read_text()
    for row in results.warm:
        assert f">{row.arm}<" in page
        assert f"| {row.arm} | " in text
        assert f"{row.ndcg10:.4f}" in text


def test_markdown_is_made_of_whole_tables(results: Results, plan: Plan, tmp_path: Path) -> None:
    write_report(results, plan, tmp_path)
    lines = (tmp_path / "comparison.md").read_text().splitlines()
    assert lines[0] == f"# {results.recommendation.headline}"
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")]
    tables = [len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|---")]
    assert len(widths) > 30
    assert set(widths) == set(tables)


def test_an_empty_comparison_is_still_a_page(results: Results) -> None:
    empty = replace(results, rows=[], contrasts=[], claims=[], cold=[], curves={}, neighbours={}, missing={})
    html = as_html(page_of(empty))
    assert html.count("Not measured.") >= 5


def _drawn(file: Path, profile: Path, *, size: str) -> tuple[str, str]:
    """The page as a browser has made it, and what it wrote to its console."""
    assert CHROMIUM is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--window-size={size}"]
    options += [f"--user-data-dir={profile}", "--virtual-time-budget=4000", "--dump-dom"]
    done = subprocess.run([CHROMIUM, *options, file.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if ":CONSOLE" in line)


@pytest.mark.slow
@NEEDS_CHROMIUM
@pytest.mark.parametrize("size", ["1200,900", "500,900"])
def test_the_page_in_a_browser(html: str, tmp_path: Path, size: str) -> None:
    file = tmp_path / "page.html"
    file.write_text(html.replace("</body>", ASK))
    dom, console = _drawn(file, tmp_path / "profile", size=size)
    title = re.search(r"<title>(\{.*?\})</title>", dom)
    assert title is not None, console
    found = json.loads(
        title.group(1).replace("&quot;", '"').replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">")
    )
    assert console == ""
    assert found["loaded"] == []
    assert found["hidden"] == []
    assert found["wide"] == []
    assert not found["scrolls"], "tables scroll by themselves, the page does not"
    assert found["rows"] == len(
        re.findall(r"<tr(?: class=\"marked\")?><th scope=\"row\"|<div class=\"who\">|<section|<h[12]>", html)
    )
