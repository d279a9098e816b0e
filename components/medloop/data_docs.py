"""Runs Great Expectations and builds its data docs, with nothing in them that changes or is fetched from elsewhere."""

import re
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import great_expectations as gx
import pandas as pd
from great_expectations.core.run_identifier import RunIdentifier

SITE = "data_docs"
RESULT_FORMAT = {"result_format": "SUMMARY", "partial_unexpected_count": 5}
RUN = RunIdentifier(run_name="validate", run_time=datetime(2000, 1, 1, tzinfo=UTC))
FETCHED = re.compile(r"<script\b.*?</script>|<link\b[^>]*>", re.I | re.S)
TRACKED = re.compile(r"https?://great-expectations-web-assets[^\"')]*")
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
HEX_ID = re.compile(r"\b[0-9a-f]{32}\b")
MOMENTS = re.compile(r"<tr>(?:(?!</?tr>).)*?(?:Run Time|ge_load_time)(?:(?!</?tr>).)*</tr>", re.S)  # RUN's, invented
ASSET = re.compile(r"<br>\s*Data asset: None")
STATUS = re.compile(r"Status:</span>.*?(?=</span>)", re.S)
TITLE = re.compile(r"<title>.*?</title>", re.S)
MOMENT = re.compile(r"\b\d{8}T\d{6}\.\d{6}Z")
STYLE = """<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1100px; padding: 16px; color: #1c2733; }
table { border-collapse: collapse; display: block; margin: 8px 0; overflow-x: auto; }
td, th { border: 1px solid #d9dfe5; padding: 4px 8px; }
td, th { text-align: left; vertical-align: top; overflow-wrap: break-word; } a { color: #00568a; }
.fa-check-circle::before { content: "\\2713"; color: #1a7f37; } .fa-times::before { content: "\\2717"; color: #b42318; }
@media (max-width: 640px) {
  tr { display: block; margin: 0 0 12px; } td, th { display: block; overflow-wrap: anywhere; } .heads { display: none; }
  td[data-head]::before { content: attr(data-head) ": "; font-weight: 600; }
}
footer, .navbar, .col-lg-2, .modal, button, a[data-toggle] { display: none; }
</style></head>"""


def run(
    tables: Mapping[str, pd.DataFrame], suites: Mapping[str, Sequence[Any]], site: Path
) -> list[tuple[Any, Any | None]]:
    """Validate each table by its suite, build the docs in `site`, and return (expectation, result or None) pairs."""
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(site.absolute())}
    index = {"class_name": "DefaultSiteIndexBuilder"}
    for name in list(context.variables.data_docs_sites or {}):
        context.delete_data_docs_site(name)
    builder = {"class_name": "SiteBuilder", "site_index_builder": index, "store_backend": store}
    context.add_data_docs_site(SITE, {**builder, "show_how_to_buttons": False})
    source = context.data_sources.add_pandas("medloop")
    pairs = []
    for name, table in tables.items():
        suite = context.suites.add(gx.ExpectationSuite(name, expectations=list(suites[name])))
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        definition = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=suite))
        checkpoint = gx.Checkpoint(name=name, validation_definitions=[definition], result_format=RESULT_FORMAT)
        done = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": table}, run_id=RUN)
        [validated] = done.run_results.values()
        results = {_identity(result.expectation_config.meta): result for result in validated.results}
        pairs += [(each, results.get(_identity(each.meta))) for each in suites[name]]
    context.build_data_docs(site_names=[SITE])
    _settle(site)
    return pairs


def write_index(checks: Sequence[Mapping[str, Any]], site: Path) -> None:
    """Write the first page in place of Great Expectations', which is empty without scripts from elsewhere."""
    heads = ("result", "level", "check", "wanted", "observed")
    shown = [(_word(check), *(check[key] for key in ("level", "name", "wanted", "observed"))) for check in checks]
    order = ("failed", "warning", "passed")
    rows = "".join(
        "<tr>"
        + "".join(f'<td data-head="{head}">{escape(str(text))}</td>' for head, text in zip(heads, row, strict=True))
        + "</tr>"
        for row in sorted(shown, key=lambda row: order.index(row[0]))
    )
    words = [row[0] for row in shown]
    result = ("failed" if "failed" in words or not words else "passed") + f"; warnings: {words.count('warning')}"
    for page in site.glob("validations/**/*.html"):
        page.write_text(STATUS.sub(f"Status of all checks:</span> {result}", page.read_text(), count=1))
    links = "".join(
        f'<li><a href="{page.relative_to(site)}">{page.relative_to(site).parts[0]}: {page.stem}</a></li>'
        for page in sorted(site.glob("*/**/*.html"))
    )
    (site / "index.html").write_text(
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Validation of the samples</title>{STYLE}"
        "<body><h1>Validation of the samples</h1><p>A critical check that fails stops the pipeline, a "
        f"warning is recorded.</p><p>Result: {result}.</p>"
        f'<table><tr class="heads">{"".join(f"<th>{head}</th>" for head in heads)}</tr>{rows}</table>'
        f"<h2>Great Expectations</h2><ul>{links}</ul></html>"
    )


def _word(check: Mapping[str, Any]) -> str:
    if check["success"]:
        return "passed"
    return "warning" if check["level"] == "warn" else "failed"


def _identity(meta: Any) -> str:
    return str((meta or {}).get("check"))


def _settle(site: Path) -> None:
    """Make the pages the same for the same results, and let them fetch nothing: their logo reported who looked."""
    shutil.rmtree(site / "static")
    for page in sorted(site.glob("*/**/*.html")):
        text = FETCHED.sub("", page.read_text())
        text = ASSET.sub("", MOMENTS.sub("", text))
        text = MOMENT.sub("20000101T000000.000000Z", TRACKED.sub("", text))
        title, home = " of ".join(_named(page, site)), "../" * (len(page.relative_to(site).parts) - 1) + "index.html"
        top = f'<body><p><a href="{home}">Validation of the samples</a></p><h1>{title}</h1>'
        text = TITLE.sub("", text).replace("</head>", f"<title>{title}</title>{STYLE}", 1)
        text = text.replace("<body>", top, 1)
        for pattern in (UUID, HEX_ID):
            for number, found in enumerate(dict.fromkeys(pattern.findall(text))):
                text = text.replace(found, f"id-{number}")
        page.write_text(text)


def _named(page: Path, site: Path) -> tuple[str, str]:
    """Return what the page shows, and of which table."""
    kind, name = page.relative_to(site).with_suffix("").parts[:2]
    return {"expectations": "Expectations", "validations": "Results"}.get(kind, kind), name
