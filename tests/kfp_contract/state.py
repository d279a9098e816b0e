"""What the stand-in keeps, and what it refuses beyond the types of fields: ids that nobody has, names given twice."""

import json
import re
import threading
import uuid
from datetime import UTC, datetime
from typing import Any

from google.protobuf import json_format
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec, PlatformSpec

from kfp_contract.description import Misfit

CODES = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 500: 13}
MAX_CONCURRENCY = 10  # of the API server


class Refusal(Exception):
    """An answer that is none: an HTTP status with the code of gRPC."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, CODES[status]


class State:
    """Experiments, pipelines, versions, runs and recurring runs, each by its id.

    Args:
        namespaces: those that the caller may use in a multi-user Kubeflow; None: a single-user one, which has none.
        token: the bearer token that opens the door; None: it stands open.
    """

    def __init__(self, namespaces: set[str] | None = None, token: str | None = None) -> None:
        self.namespaces, self.token, self.lock = namespaces, token, threading.Lock()
        self.experiments: dict[str, dict[str, Any]] = {}
        self.pipelines: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.recurring: dict[str, dict[str, Any]] = {}

    def check_caller(self, header: str | None) -> None:
        if self.token is not None and header != f"Bearer {self.token}":
            raise Refusal(401, "Unauthenticated")

    def do(self, operation: str, places: dict[str, str], query: dict[str, str], body: Any) -> Any:
        """Carry out an operation of the description, and return its answer."""
        name = re.sub("(?<!^)([A-Z])", r"_\1", operation.rpartition("_")[2]).lower()
        method = getattr(self, name, None)
        if method is None:
            raise Misfit(f"the stand-in does not know {operation}")
        with self.lock:
            return method(places, query, body)

    def get_healthz(self, places: Any, query: Any, body: Any) -> Any:
        return {"multi_user": self.namespaces is not None, "pipeline_store": "database"}

    def create_experiment(self, places: Any, query: Any, body: Any) -> Any:
        self._check_namespace(body.get("namespace"))
        if any(_same(each, body, "display_name", "namespace") for each in self.experiments.values()):
            raise Refusal(409, f"experiment {body['display_name']} exists")
        return _kept(self.experiments, "experiment_id", body | {"storage_state": "AVAILABLE"})

    def list_experiments(self, places: Any, query: Any, body: Any) -> Any:
        self._check_namespace(query.get("namespace"))
        return self._page("experiments", self.experiments, query)

    def get_experiment(self, places: Any, query: Any, body: Any) -> Any:
        return _found(self.experiments, places["experiment_id"])

    def delete_experiment(self, places: Any, query: Any, body: Any) -> Any:
        _found(self.experiments, places["experiment_id"])
        del self.experiments[places["experiment_id"]]
        return {}

    def create_pipeline(self, places: Any, query: Any, body: Any) -> Any:
        self._check_namespace(body.get("namespace"))
        body.setdefault("display_name", body.get("name"))
        if not body["display_name"]:
            raise Refusal(400, "a pipeline needs a name")
        if any(_same(each, body, "display_name", "namespace") for each in self.pipelines.values()):
            raise Refusal(409, f"pipeline {body['display_name']} exists")
        return _kept(self.pipelines, "pipeline_id", body)

    def list_pipelines(self, places: Any, query: Any, body: Any) -> Any:
        if self.namespaces is not None and query.get("namespace"):
            self._check_namespace(query["namespace"])
        return self._page("pipelines", self.pipelines, query)

    def delete_pipeline(self, places: Any, query: Any, body: Any) -> Any:
        _found(self.pipelines, places["pipeline_id"])
        if any(each["pipeline_id"] == places["pipeline_id"] for each in self.versions.values()):
            raise Refusal(400, "a pipeline with versions cannot be deleted")
        del self.pipelines[places["pipeline_id"]]
        return {}

    def delete_pipeline_version(self, places: Any, query: Any, body: Any) -> Any:
        _found(self.versions, places["pipeline_version_id"])
        del self.versions[places["pipeline_version_id"]]
        return {}

    def list_pipeline_versions(self, places: Any, query: Any, body: Any) -> Any:
        of_one = {key: each for key, each in self.versions.items() if each["pipeline_id"] == places["pipeline_id"]}
        return self._page("pipeline_versions", of_one, query)

    def get_pipeline_version(self, places: Any, query: Any, body: Any) -> Any:
        return _found(self.versions, places["pipeline_version_id"])

    def upload_pipeline_version(self, places: Any, query: Any, body: Any) -> Any:
        pipeline = _found(self.pipelines, query.get("pipelineid", ""))
        spec, platform = (*body, None)[:2]
        content = spec if platform is None else {"pipeline_spec": spec, "platform_spec": platform}
        _check_spec(content)
        named = {"display_name": query["name"], "name": query["name"], "pipeline_id": pipeline["pipeline_id"]}
        if any(_same(each, named, "name", "pipeline_id") for each in self.versions.values()):
            raise Refusal(409, f"version {query['name']} exists")
        described = {"description": query["description"]} if "description" in query else {}
        return _kept(self.versions, "pipeline_version_id", named | described | {"pipeline_spec": content})

    def create_run(self, places: Any, query: Any, body: Any) -> Any:
        self._check_what_runs(body)
        _found(self.experiments, body.get("experiment_id", ""))
        return _kept(self.runs, "run_id", body | {"state": "PENDING", "storage_state": "AVAILABLE"})

    def list_runs(self, places: Any, query: Any, body: Any) -> Any:
        return self._page("runs", self.runs, query)

    def get_run(self, places: Any, query: Any, body: Any) -> Any:
        return _found(self.runs, places["run_id"])

    def terminate_run(self, places: Any, query: Any, body: Any) -> Any:
        run = _found(self.runs, places["run_id"])
        if run["state"] not in ("PENDING", "RUNNING"):
            raise Refusal(400, f"run {run['run_id']} cannot be terminated: it has {run['state']}")
        run["state"] = "CANCELING"
        return {}

    def delete_run(self, places: Any, query: Any, body: Any) -> Any:
        _found(self.runs, places["run_id"])
        del self.runs[places["run_id"]]
        return {}

    def create_recurring_run(self, places: Any, query: Any, body: Any) -> Any:
        self._check_what_runs(body)
        _found(self.experiments, body.get("experiment_id", ""))
        if not body.get("display_name"):
            raise Refusal(400, "a recurring run needs a name")
        cron = body.get("trigger", {}).get("cron_schedule", {}).get("cron")
        seconds = body.get("trigger", {}).get("periodic_schedule", {}).get("interval_second")
        if (cron is None) == (seconds is None):
            raise Refusal(400, "a trigger needs either a cron line or an interval")
        if cron is not None and len(cron.split()) not in (5, 6):
            raise Refusal(400, f"cron line {cron!r} has {len(cron.split())} fields")
        if seconds is not None and int(seconds) < 1:
            raise Refusal(400, "an interval must be positive")
        if not 1 <= int(body.get("max_concurrency", 0)) <= MAX_CONCURRENCY:
            raise Refusal(400, f"max_concurrency must be 1 to {MAX_CONCURRENCY}")
        status = {"ENABLE": "ENABLED", "DISABLE": "DISABLED"}.get(body.get("mode", ""))
        if status is None:
            raise Refusal(400, "a recurring run needs a mode")
        return _kept(self.recurring, "recurring_run_id", _answered(body) | {"status": status})

    def list_recurring_runs(self, places: Any, query: Any, body: Any) -> Any:
        return self._page("recurringRuns", self.recurring, query)

    def get_recurring_run(self, places: Any, query: Any, body: Any) -> Any:
        return _found(self.recurring, places["recurring_run_id"])

    def disable_recurring_run(self, places: Any, query: Any, body: Any) -> Any:
        _found(self.recurring, places["recurring_run_id"]).update(mode="DISABLE", status="DISABLED")
        return {}

    def enable_recurring_run(self, places: Any, query: Any, body: Any) -> Any:
        _found(self.recurring, places["recurring_run_id"]).update(mode="ENABLE", status="ENABLED")
        return {}

    def delete_recurring_run(self, places: Any, query: Any, body: Any) -> Any:
        _found(self.recurring, places["recurring_run_id"])
        del self.recurring[places["recurring_run_id"]]
        return {}

    def _check_namespace(self, namespace: str | None) -> None:
        if self.namespaces is None and namespace:
            raise Refusal(400, "in single-user mode a request must not name a namespace")
        if self.namespaces is not None and not namespace:
            raise Refusal(400, "in multi-user mode a request must name a namespace")
        if self.namespaces is not None and namespace not in self.namespaces:
            raise Refusal(403, f"the caller is not authorized in namespace {namespace}")

    def _check_what_runs(self, body: dict[str, Any]) -> None:
        """Refuse a run of nothing, of two things at once, or of a version that is not there."""
        reference, spec = body.get("pipeline_version_reference"), body.get("pipeline_spec")
        if (reference is None) == (spec is None):
            raise Refusal(400, "a run needs either a pipeline_spec or a pipeline_version_reference")
        if spec is not None:
            _check_spec(spec)
            return
        if not (reference.get("pipeline_id") and reference.get("pipeline_version_id")):
            raise Refusal(400, "a pipeline_version_reference needs a pipeline_id and a pipeline_version_id")
        version = _found(self.versions, reference["pipeline_version_id"])
        if version["pipeline_id"] != reference["pipeline_id"]:
            raise Refusal(404, "that version belongs to another pipeline")

    def _page(self, key: str, table: dict[str, Any], query: dict[str, str]) -> Any:
        rows = [each for each in table.values() if _matches(each, query)]
        start, size = int(query.get("page_token") or 0), int(query.get("page_size") or 20)
        more = {"next_page_token": str(start + size)} if start + size < len(rows) else {}
        return {key: rows[start : start + size], "total_size": len(rows), **more}


def _check_spec(content: Any) -> None:
    """Parse a pipeline as Kubeflow does; raise Misfit where it cannot."""
    both = isinstance(content, dict) and "pipeline_spec" in content
    spec, platform = (content["pipeline_spec"], content.get("platform_spec")) if both else (content, None)
    try:
        parsed = json_format.ParseDict(spec, PipelineSpec())
        if platform is not None:
            json_format.ParseDict(platform, PlatformSpec())
    except (json_format.ParseError, AttributeError, TypeError) as error:
        raise Misfit(f"the pipeline does not parse: {error}"[:500]) from None
    if not (parsed.pipeline_info.name and parsed.root.dag.tasks):
        raise Misfit("the pipeline has no name or no tasks")


def _kept(table: dict[str, Any], key: str, body: dict[str, Any]) -> dict[str, Any]:
    entry = {**body, key: str(uuid.uuid4()), "created_at": datetime.now(UTC).isoformat()}
    table[entry[key]] = entry
    return entry


def _found(table: dict[str, Any], key: str) -> dict[str, Any]:
    if key not in table:
        raise Refusal(404, f"{key!r} not found")
    entry: dict[str, Any] = table[key]
    return entry


def _same(one: dict[str, Any], other: dict[str, Any], *keys: str) -> bool:
    return all(one.get(key) == other.get(key) for key in keys)


def _answered(body: dict[str, Any]) -> dict[str, Any]:
    """Return a recurring run as the server gives it back: an int64 as a string."""
    return body | {"max_concurrency": str(body["max_concurrency"])}


def _matches(entry: dict[str, Any], query: dict[str, str]) -> bool:
    for key in ("experiment_id", "namespace"):
        if query.get(key) and entry.get(key) != query[key] and key in entry:
            return False
    for predicate in json.loads(query["filter"])["predicates"] if query.get("filter") else []:
        if entry.get(predicate["key"]) != predicate.get("stringValue", predicate.get("string_value")):
            return False
    return True
