"""Results -> one HTML page that needs nothing but itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jinja2

from offline.compare.results import Results
from offline.report import claims, costs, deciding, differences, other_protocols, quality, record
from offline.report.blocks import Section
from offline.report.summary import Tile, tiles
from offline.report.whiskers import axis_of, axis_svg, row_svg

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Page:
    """above: a line of what was compared. headline, reasons, tiles: the top. sections: in order."""

    title: str
    above: str
    headline: str
    reasons: tuple[str, ...]
    tiles: list[Tile]
    sections: list[Section]


def page_of(results: Results) -> Page:
    p, rows = results.provenance, results.warm
    events = f", {rows[0].events:,} test events of {rows[0].users:,} users" if rows else ""
    return Page(
        title=f"Which recommender for {p.dataset}?",
        above=f"Which recommender for {p.dataset}? {len(rows)} rows, at most {p.minutes:g} minutes of training "
        f"each{events}",
        headline=results.recommendation.headline,
        reasons=results.recommendation.reasons,
        tiles=tiles(results),
        sections=[
            deciding.today(results),
            deciding.serve(results),
            quality.warm(results),
            differences.contrasts(results),
            costs.against_latency(results),
            claims.claims(results),
            costs.training(results),
            costs.table(results),
            other_protocols.cold(results),
            other_protocols.temporal(results),
            other_protocols.lists(results),
            record.neighbours(results),
            record.targets(results),
            record.missing(results),
            record.making(results),
        ],
    )


def as_html(page: Page) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    html = environment.get_template("page.html").render(
        page=page,
        style=(HERE / "page.css").read_text(),
        kind_of=lambda block: type(block).__name__,
        axis_of=axis_of,
        axis_svg=axis_svg,
        row_svg=row_svg,
    )
    # A figure and its unit stay in one line.
    return html.replace(" %", "\N{NO-BREAK SPACE}%")
