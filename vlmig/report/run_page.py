"""The report of one run: tables, charts and its items with their images."""

from __future__ import annotations

from pathlib import Path

from vlmig.evaluation.run_folder import Row, Run, read_run
from vlmig.imagination.store import FeatureStore
from vlmig.report.agreement import agreement_charts, agreement_rows
from vlmig.report.by_group import group_rows
from vlmig.report.finding import finding
from vlmig.report.items import Numbers, entry_of, item_of, shares
from vlmig.report.stored_page import write_stored_page
from vlmig.report.tables import charts, headline, main_rows, stopping_ks


def floor_of(block: Row) -> float | None:
    """Return the similarity below which a run's mixture ignores an image; None where it ignores
    none."""
    by_entropy = block.get("default", {}).get("weights") == "entropy"
    return block.get("alignment_floor") if by_entropy else None


def write_report(out: Path, store: FeatureStore, page: Path | None = None) -> Path:
    """Write ``OUT/report.html`` from results.json, the samples and the stored images.

    Args:
        page: another file to write.

    Raises:
        VLMIGError: the folder holds no results, or broken ones; the page cannot be written.
    """
    run = read_run(out)
    block = run.results["vlmig"]
    numbers: Numbers = {}
    data = {
        "kind": "run",
        "k": run.k,
        "floor": floor_of(block),
        "seeds": run.seeds,
        "head": headline(run),
        "finding": finding(run.results),
        "stopping": stopping_ks(run.results),
        "main": main_rows(run),
        "agreement": agreement_rows(run.results),
        "agreements": block.get("distributions", {}).get("conditions", []),
        "groups": group_rows(run.results),
        "pairs": block.get("pairs", []),
        "charts": [*charts(run), *agreement_charts(run.results)],
        "comparisons": block["comparisons"],
        "conditions": block["conditions"],
        "items": _items(run, numbers),
        "total": sum(run.items(task) for task in run.tasks),
    }
    title = f"vlmig: {', '.join(run.results['results'])}"
    return write_stored_page(page or out / "report.html", title, data, store, numbers)


def _items(run: Run, numbers: Numbers) -> list[Row]:
    """Read as many items as the page can carry, spread evenly over tasks."""
    items: dict[tuple[str, str], Row] = {}
    sizes = {task: run.items(task) for task in run.tasks}
    for task, share in shares([run], sizes, len(run.seeds)).items():
        for line in run.lines(task):
            if line["doc_id"] < share:
                item = items.setdefault((task, line["doc"]["id"]), item_of(task, line))
                item["runs"].append(entry_of(run, line, numbers))
    return list(items.values())
