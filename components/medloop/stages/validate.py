"""Check the samples, and stop the pipeline where a critical check fails or gives no answer."""

import json
import os
import shutil
from numbers import Real
from pathlib import Path
from typing import Any

from medloop import data_docs, expectations, manifest, params, plugins, provenance
from medloop.errors import Refused


def validate(base: params.Base, section: params.Validate, *, samples: Path, validation: Path) -> dict[str, Any]:
    """Run the suite `section.suite` on `samples`, write its result and data docs to `validation`, return the result.

    An exception inside a check, an empty batch or a missing result is a failure.

    Raises:
        Refused: a critical check failed; the result and the data docs are kept outside the output.
    """
    suite = plugins.load(expectations, section.suite)
    _, facts = manifest.read(samples)
    if facts.kind != suite.KIND:
        raise Refused(f"validate.suite {section.suite} is for samples of kind {suite.KIND}, these are of {facts.kind}")
    with provenance.writing("validate", base, section, validation, inputs={"samples": samples}) as [folder]:
        answers = data_docs.run(suite.tables(samples), suite.suites(section, samples), folder / "data_docs")
        checks = [_check(expectation, answer) for expectation, answer in answers]
        data_docs.write_index(checks, folder / "data_docs")
        failed = [check for check in checks if check["level"] == "critical" and not check["success"]]
        result = {"success": bool(checks) and not failed, "checks": checks}
        provenance.write_json(folder / "result.json", result)
        if not result["success"]:
            raise Refused(f"the samples failed validation\n{_table(failed)}\nall checks: {_kept(folder)}")
    return result


def _check(expectation: Any, answer: Any | None) -> dict[str, Any]:
    """Return one check; what did not answer, or answered of no value at all, has failed, and critically."""
    observed = _observed(answer)
    answered = answer is not None and observed is not None
    return {
        "name": expectation.meta["check"],
        "level": expectation.meta["level"] if answered else "critical",
        "success": bool(answered and answer and answer.success),
        "observed": observed if answered else _silence(answer),
        "wanted": expectation.meta.get("wanted", "an answer"),
        "remedy": expectation.meta.get("remedy", "see the data docs"),
    }


def _observed(answer: Any | None) -> str | None:
    """Return what Great Expectations saw, or None where it saw nothing."""
    found = (answer.result if answer else None) or {}
    if "observed_value" in found:
        seen = found["observed_value"]
        if isinstance(seen, list):
            return f"{len(seen)} of them"
        return f"{seen:.6g}" if isinstance(seen, Real) else seen
    if not found.get("element_count"):
        return None
    return f"{found['unexpected_count']} of {found['element_count']} otherwise"


def _silence(answer: Any | None) -> str:
    """Return why there is no answer; the text of an exception may hold a value, and stays out."""
    if answer is None:
        return "no result"
    raised = json.dumps(answer.exception_info, default=str)
    return "the check raised an exception" if '"raised_exception": true' in raised else "no value"


def _table(checks: list[dict[str, Any]]) -> str:
    heads = ("check", "wanted", "observed", "remedy")
    rows = [heads, *((c["name"], c["wanted"], str(c["observed"]), c["remedy"]) for c in checks)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(f"  {line}".rstrip() for line in lines)


def _kept(folder: Path) -> Path:
    kept = Path(os.environ.get("MEDLOOP_STATE") or ".medloop") / "failed" / "validation"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(folder, kept)
    return kept / "data_docs" / "index.html"
