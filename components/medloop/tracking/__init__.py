"""The only place that talks to MLflow, beside `medloop.serving` which runs inside a registered model.

Runs and versions are made through `MlflowClient` alone: the fluent functions would add the user's name, the command
and the path of the script as tags.
"""

import os

os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_DISABLE_AGENT_HINT": "true"}
os.environ |= {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # the default's seven keep a user waiting for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_UV_AUTO_DETECT": "false",  # a model's requirements are its own, not those of the working folder
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    **os.environ,  # what the user has set stands
}

from medloop.tracking.runs import WEIGHTS, Live, live  # MLflow reads the variables when it is imported

__all__ = ["WEIGHTS", "Live", "live"]
