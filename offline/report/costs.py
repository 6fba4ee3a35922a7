"""Sections about cost: quality against latency, training curves, and the table of what each row needs."""

from __future__ import annotations

from collections.abc import Mapping

from offline.compare.arms import BY_NAME
from offline.compare.results import Results
from offline.compare.rows import Row
from offline.report.blocks import Drawing, Drawings, Section, Table, Text
from offline.report.svg import Axis, Point, lines, scatter
from offline.report.wording import kind_of, megabytes, milliseconds, minutes, score

COLOURS = 8
QUALITY = "validation NDCG@10"


def against_latency(results: Results) -> Section:
    rows = [row for row in results.warm if row.costs]
    if not rows:
        return Section("latency", "What does quality cost?", [Text("Not measured.")])
    points = [Point(row.costs["request_cpu_ms"], row.ndcg10, row.arm, kind_of(row)) for row in _named_first(rows)]
    x = Axis.around("CPU ms per request (one thread, log scale)", [p.x for p in points], log=True)
    y = Axis.around("NDCG@10", [p.y for p in points])
    text = "; ".join(f"{row.arm} {score(row.ndcg10)} at {milliseconds(row.costs['request_cpu_ms'])} ms" for row in rows)
    return Section(
        "latency",
        "What does quality cost?",
        [
            Text(
                "Up is better, left is cheaper. A row is worth its cost only where nothing stands above and left of it."
            ),
            Drawings((Drawing(scatter(points, x, y), text),)),
        ],
    )


def _named_first(rows: list[Row]) -> list[Row]:
    """What nothing else beats in both, then what a team would choose between, then the rest: so are labels given."""
    cost = {row.arm: row.costs["request_cpu_ms"] for row in rows}
    best = {r.arm for r in rows if not any(o.ndcg10 > r.ndcg10 and cost[o.arm] <= cost[r.arm] for o in rows)}
    return sorted(rows, key=lambda r: (r.arm not in best, r.role in ("control", "variant"), -r.ndcg10))


def training(results: Results) -> Section:
    """One colour per arm, the same in the three drawings. Only what a team would choose between, and its parents."""
    shown = [name for name in results.curves if BY_NAME[name].role in ("family", "baseline") and results.curves[name]]
    shown += [n for n in results.curves if n not in shown and BY_NAME[n].role == "variant" and results.curves[n]]
    shown = shown[:COLOURS]
    if not shown:
        return Section("training", "How they train", [Text("Not measured.")])
    drawings = []
    for key, name, scale in (
        ("targets", "targets seen", 1.0),
        ("tokens", "tokens read", 1.0),
        ("seconds", "minutes", 60.0),
    ):
        series = [
            (arm, f"c{n}", [(p[key] / scale, p["ndcg@10"]) for p in results.curves[arm] if key in p and "ndcg@10" in p])
            for n, arm in enumerate(shown)
        ]
        series = [each for each in series if each[2]]
        if not series:
            continue
        places = [place for _, _, points in series for place in points]
        x, y = Axis.around(name, [0.0, *(px for px, _ in places)]), Axis.around(QUALITY, [py for _, py in places])
        ends = "; ".join(f"{arm} {points[-1][1]:.4f} after {points[-1][0]:.3g}" for arm, _, points in series)
        drawings.append(Drawing(lines(series, x, y), f"{QUALITY} over {name}: {ends}"))
    return Section(
        "training",
        "How they train",
        [
            Text("NDCG@10 on validation, of the first seed, over targets seen, tokens read and time taken."),
            Drawings(tuple(drawings), tuple((arm, f"c{n}") for n, arm in enumerate(shown))),
        ],
    )


def table(results: Results) -> Section:
    rows = [row for row in results.warm if row.costs]
    trained = {row.arm: row.train_minutes for row in results.warm}
    if not rows:
        return Section("costs", "What each needs", [Text("Not measured.")])
    return Section(
        "costs",
        "What each needs",
        [
            Text(
                "Of the files that ship, one thread, one history after the other, without caches. Encode: from a "
                "history to a vector. Request: encode, search and, where there is a ranker, rank. Training: of one "
                f"run, and of all that it starts from. {_timed(results, rows)}"
            ),
            Table(
                (
                    "row",
                    "encode p50 ms",
                    "p99 ms",
                    "CPU ms",
                    "request p50 ms",
                    "p99 ms",
                    "CPU ms",
                    "index MB",
                    "bundle MB",
                    "memory MB",
                    "training min",
                    "with parents",
                ),
                tuple(
                    (
                        row.arm + results.provenance.mark(row.arm),
                        *(
                            milliseconds(row.costs.get(f"{what}_{figure}"))
                            for what in ("encode", "request")
                            for figure in ("ms_p50", "ms_p99", "cpu_ms")
                        ),
                        *(megabytes(row.costs.get(f"{what}_bytes")) for what in ("index", "bundle", "memory")),
                        minutes(row.train_minutes),
                        minutes(_with_parents(row.arm, trained)),
                    )
                    for row in rows
                ),
            ),
        ],
    )


def _timed(results: Results, rows: list[Row]) -> str:
    p = results.provenance
    if not p.timed:
        return "Measured beside other work, on whatever machine there was: rows can be compared by magnitude alone."
    left = (
        " Rows with * were timed elsewhere and can be compared by magnitude alone."
        if any(p.mark(row.arm) for row in rows)
        else ""
    )
    return f"Timed one after the other on {p.timed_on}.{left}"


def _with_parents(arm: str, trained: Mapping[str, float | None]) -> float | None:
    """Minutes of one run and of everything that it starts from, each once; None where one is not known."""
    needed, waiting = {arm}, [arm]
    while waiting:
        parents = set(BY_NAME[waiting.pop()].parent_arms()) - needed
        needed |= parents
        waiting += parents
    known = [trained.get(name) for name in needed]
    return None if None in known else sum(each for each in known if each is not None)
