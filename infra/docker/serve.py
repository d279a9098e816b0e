"""The model server of the image `serve`: MLflow's own, with Prometheus's metrics of each path at /metrics."""

from mlflow.pyfunc.scoring_server.app import app
from prometheus_fastapi_instrumentator import Instrumentator

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

unwatched = ["/health", "/ping", "/metrics"]
Instrumentator(excluded_handlers=unwatched).instrument(app, latency_lowr_buckets=SECONDS).expose(app)
