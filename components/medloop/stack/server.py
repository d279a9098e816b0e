"""The MLflow server: asks for a password, keeps its records in PostgreSQL and its artifacts in S3."""

import sys
from pathlib import Path

import requests

from medloop.stack import postgres
from medloop.stack.part import Part
from medloop.stack.settings import HOST, Settings, write_private

WORKERS = 2
PASSWORD_SECONDS = 10  # a password once checked is good for so long; to check it costs tens of milliseconds
ANSWER_SECONDS = 10.0


def part(settings: Settings) -> Part:
    """Return the MLflow server as a part of the stack."""
    folder = settings.folder / "mlflow"
    auth = folder / "basic_auth.ini"
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", str(WORKERS)]
    return Part(
        name="mlflow",
        address=settings.url("mlflow"),
        ports=("mlflow",),
        folder=folder,
        prepare=lambda: _prepare(auth, settings),
        command=[*command, "--host", HOST, "--port", str(settings.port("mlflow"))],
        env={  # not as options, which everybody on the machine can read
            "MLFLOW_BACKEND_STORE_URI": postgres.uri(settings, "mlflow"),
            "MLFLOW_ARTIFACTS_DESTINATION": "s3://mlflow/artifacts",
            "MLFLOW_AUTH_CONFIG_PATH": str(auth),
            "MLFLOW_AUTH_ADMIN_PASSWORD": settings["MLFLOW_TRACKING_PASSWORD"],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": settings["MEDLOOP_STACK_SESSION_KEY"],
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            "MLFLOW_DISABLE_AGENT_HINT": "true",
            "MLFLOW_S3_ENDPOINT_URL": settings["AWS_ENDPOINT_URL_S3"],
            **{name: value for name, value in settings.values.items() if name.startswith("AWS_")},
        },
        answers=lambda: _answers(settings),
        finish=lambda: None,
    )


def _prepare(auth: Path, settings: Settings) -> None:
    options = {
        "default_permission": "READ",
        "database_uri": postgres.uri(settings, "mlflow_auth"),
        "admin_username": settings["MLFLOW_TRACKING_USERNAME"],
        "auth_cache_ttl_seconds": PASSWORD_SECONDS,
    }
    write_private(auth, "[mlflow]\n" + "".join(f"{name} = {value}\n" for name, value in options.items()))


def _answers(settings: Settings) -> str | None:
    user = settings["MLFLOW_TRACKING_USERNAME"], settings["MLFLOW_TRACKING_PASSWORD"]
    address = f"{settings.url('mlflow')}/api/2.0/mlflow/experiments/search"
    try:
        answer = requests.get(address, params={"max_results": "1"}, auth=user, timeout=ANSWER_SECONDS)
    except requests.RequestException as error:
        return type(error).__name__
    return None if answer.status_code == 200 else f"status {answer.status_code}"
