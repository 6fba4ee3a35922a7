"""The three files of a report."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from offline.compare.plan import Plan
from offline.compare.results import Results, as_plain
from offline.report.markdown import as_markdown
from offline.report.page import as_html, page_of

HTML, MARKDOWN, JSON = "index.html", "comparison.md", "comparison.json"


def write_report(results: Results, plan: Plan, folder: Path) -> Path:
    """Returns the HTML file."""
    page = page_of(results)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKDOWN).write_text(as_markdown(page))
    (folder / JSON).write_text(json.dumps(as_json(results, plan), indent=1, allow_nan=False) + "\n")
    file = folder / HTML
    file.write_text(as_html(page))
    return file


def as_json(results: Results, plan: Plan) -> dict[str, object]:
    settings = plan.settings
    found = {
        "recommendation": asdict(results.recommendation),
        "rows": [asdict(row) for row in results.rows],
        "contrasts": [asdict(j.contrast) | {"primary": j.primary, "claimed": j.claimed} for j in results.contrasts],
        "claims": [asdict(claim) for claim in results.claims],
        "targets": [asdict(target) for target in results.targets],
        "cold": [asdict(row) for row in results.cold],
        "temporal_buckets": [asdict(bucket) for bucket in results.buckets],
        "new_items": results.new_items,
        "curves": results.curves,
        "neighbours": results.neighbours,
        "missing": results.missing,
        "plan": {
            "arms": [arm.name for arm in plan.arms],
            "protocols": list(plan.protocols),
            "minutes_per_run": settings.minutes,
            "trials": settings.trials,
            "seeds": settings.seeds,
            "tuned": results.tuned,
        },
        "provenance": asdict(results.provenance),
    }
    plain: dict[str, object] = as_plain(found)
    return plain
