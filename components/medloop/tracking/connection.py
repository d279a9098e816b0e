"""The way to the tracking server: its address, a client, and one clear error when it does not answer."""

import errno
import fcntl
import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import mlflow
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException, RestException
from sqlalchemy.exc import SQLAlchemyError

from medloop.errors import Refused, Unreachable

logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"])  # for those who imported MLflow before

DEFAULT = "sqlite:///mlflow.db"
UNWRITABLE = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EACCES, errno.EROFS)
DENIALS = ("UNAUTHENTICATED", "PERMISSION_DENIED")
ANSWER_SECONDS = 5.0  # for the first sign of life
KEPT = "results are kept in artifacts: run `medloop register` later (with --profile, if there was one)"


def uri() -> str:
    """Return the tracking URI: `$MLFLOW_TRACKING_URI`, else a SQLite file in the working folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT


def address() -> str:
    """Return the tracking URI as it may be shown: without user name and password."""
    parts = urlsplit(uri())
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else uri()


@contextmanager
def server() -> Iterator[MlflowClient]:
    """Yield a client of the tracking server.

    Raises:
        Unreachable: the server did not answer, or broke off.
        Refused: it answered that it will not do what was asked.
    """
    try:
        _answers()
        mlflow.set_tracking_uri(uri())
        with _one_at_a_time():
            client = MlflowClient(tracking_uri=uri(), registry_uri=uri())
            client.search_experiments(max_results=1)  # makes the tables of a new database
        yield client
    except requests.RequestException as error:
        status = error.response.status_code if error.response is not None else None
        raise (_denial(status) if status in (401, 403) else _silence(type(error).__name__)) from None
    except SQLAlchemyError as error:
        raise _silence(_first_line(error)) from None
    except MlflowException as error:
        if error.error_code in DENIALS:
            raise _denial(error.get_http_status_code()) from None
        if isinstance(error, RestException):
            raise Refused(f"tracking server {address()} refused: {_first_line(error)}") from None
        if "API request to" in str(error):
            failed = re.search(r"too many (5\d\d) error responses", str(error))
            raise (_failure(failed[1]) if failed else _silence("the connection broke off")) from None
        if "OperationalError" in str(error):
            raise _silence(_first_line(error)) from None
        raise Refused(f"tracking store {address()}: {_first_line(error)}") from None
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise _silence(os.strerror(error.errno)) from None


def experiment(client: MlflowClient, name: str) -> str:
    """Return the id of the experiment `name`, made on first use; a SQLite store keeps artifacts beside its file."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        if found.lifecycle_stage != "active":
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)
    artifacts = _artifacts()
    place = str(artifacts / name) if artifacts else None
    with _one_at_a_time():
        found = client.get_experiment_by_name(name)
        return str(found.experiment_id if found else client.create_experiment(name, artifact_location=place))


def _answers() -> None:
    """Look for the server before MLflow does, which would try for minutes."""
    parts = urlsplit(uri())
    if parts.scheme in ("http", "https"):
        try:
            status = requests.get(f"{uri().rstrip('/')}/health", timeout=ANSWER_SECONDS).status_code
        except requests.RequestException as error:
            raise _silence(type(error).__name__) from None
        if status >= 500:
            raise _failure(str(status))
    database = _sqlite_file()
    if database and database.exists():
        try:
            with sqlite3.connect(database) as file:
                file.execute("PRAGMA schema_version")
        except sqlite3.Error as error:
            raise Refused(f"tracking store {address()}: {error}; move the file away and run again") from None
    elif database and not os.access(database.parent, os.W_OK):
        raise Refused(f"tracking store {address()}: folder {database.parent} is not writable or does not exist")


def _silence(reason: str) -> Unreachable:
    kind, state = ("store", "cannot be used") if _sqlite_file() else ("server", "does not answer")
    return Unreachable(
        f"tracking {kind} {address()} {state} ({reason}); {KEPT}, or set MLFLOW_TRACKING_URI to another server"
    )


def _failure(status: str) -> Unreachable:
    look = "its log says why, as for a laptop stack does `medloop stack status`"
    return Unreachable(f"tracking server {address()} fails ({status}): {look}; {KEPT}")


def _denial(status: int) -> Refused:
    if status == 401:
        said, remedy = "does not know the user name and password (401)", "those of a user that it has"
    else:
        said, remedy = "does not allow this user what was asked (403)", "those of a user who may"
    variables = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    return Refused(f"tracking server {address()} {said}: set {variables} to {remedy}")


def _sqlite_file() -> Path | None:
    prefix = "sqlite:///"
    return Path(uri().removeprefix(prefix)).absolute() if uri().startswith(prefix) else None


def _artifacts() -> Path | None:
    """Return the folder beside a SQLite store where its artifacts go; None: the server decides."""
    database = _sqlite_file()
    return database.parent / "mlruns" if database else None


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Hold a lock beside a SQLite store: two processes that make its tables at once would both fail."""
    artifacts = _artifacts()
    if artifacts is None:
        yield
        return
    artifacts.mkdir(exist_ok=True)
    with (artifacts / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
