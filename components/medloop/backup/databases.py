"""MLflow's two databases, reached as psql reaches them: by PGHOST, PGPORT, PGUSER and PGPASSWORD."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from medloop.errors import Refused, Unreachable
from medloop.stack import postgres

MLFLOW, AUTH = NAMES = postgres.DATABASES
REVISION = {MLFLOW: "alembic_version", AUTH: "alembic_version_auth"}
FRESH = {  # how many rows there are where nobody has used MLflow yet: the experiment Default, the administrator
    MLFLOW: {"experiments": 1, "runs": 0, "registered_models": 0, "logged_models": 0, "trace_info": 0},
    AUTH: {"users": 1},
}
LOCK_SECONDS = 30


def dump(name: str, path: Path) -> None:
    """Write a database to `path` in PostgreSQL's custom format, as of one moment."""
    _run("pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--file={path}", name)


def revision(name: str) -> str:
    """Return which of MLflow's schemas a database has."""
    with _cursor(name) as cursor:
        cursor.execute(f"SELECT version_num FROM {REVISION[name]}")  # noqa: S608  a constant of ours
        return str(cursor.fetchone()[0])


def used() -> str | None:
    """Return what somebody has put into the databases, e.g. '2 users'; None: nobody has."""
    for name, tables in FRESH.items():
        with _cursor(name) as cursor:
            for table, fresh in tables.items():
                cursor.execute(f"SELECT count(*) FROM {table}")  # noqa: S608  a constant of ours
                if (count := cursor.fetchone()[0]) > fresh:
                    return f"{count} {table}"
    return None


def administrator() -> tuple[str, str]:
    """Return the name and the password's hash of the one user of fresh databases."""
    with _cursor(AUTH) as cursor:
        cursor.execute("SELECT username, password_hash FROM users")
        if (found := cursor.fetchone()) is None:
            raise Refused(f"{_server()} has no administrator of MLflow yet: start the MLflow server once, then restore")
        return str(found[0]), str(found[1])


def replace(name: str, path: Path, administrator: tuple[str, str]) -> None:
    """Replace the tables of a fresh database by those of a dump, in one transaction.

    Args:
        name: its name.
        path: the dump.
        administrator: name and hash of the password, which the dump's user of that name gets; users alone have one.
    """
    from psycopg2 import sql

    with _cursor(name) as cursor, TemporaryDirectory() as folder:
        cursor.execute("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s", (name,))
        before = sql.SQL("SET ROLE {}; SET lock_timeout = {};").format(
            sql.Identifier(cursor.fetchone()[0]), sql.Literal(f"{LOCK_SECONDS}s")
        )
        user, password = map(sql.Literal, administrator)
        after = sql.SQL(
            "DO $$ BEGIN UPDATE public.users SET password_hash = {} WHERE username = {}; IF NOT FOUND THEN "
            "RAISE EXCEPTION 'the backup knows no user like the administrator of this server'; END IF; END $$;"
        ).format(password, user)
        parts = [Path(folder, each) for each in ("before.sql", "tables.sql", "after.sql")]
        parts[0].write_text(before.as_string(cursor))
        parts[2].write_text(after.as_string(cursor) if name == AUTH else "")
        _run("pg_restore", "--clean", "--if-exists", "--no-owner", "--no-privileges", f"--file={parts[1]}", str(path))
        files = [f"--file={each}" for each in parts]
        _run("psql", "--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1", *files, name)


def _run(program: str, *words: str) -> None:
    command = [str(postgres.binaries() / program), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "error" in line.lower()] or done.stderr.splitlines()
        raise Refused(f"{program} failed for {_server()}: {said[0] if said else f'exit code {done.returncode}'}")


@contextmanager
def _cursor(name: str) -> Iterator[Any]:
    import psycopg2

    if missing := [each for each in ("PGHOST", "PGUSER") if not os.environ.get(each)]:
        raise Refused(f"{missing[0]} is not set: source the stack.env of a stack, or set PGHOST, PGUSER and PGPASSWORD")
    try:
        connection = psycopg2.connect(dbname=name, connect_timeout=10)
    except psycopg2.OperationalError as error:
        said = str(error).strip().partition("\n")[0]
        if "FATAL" in said:  # so says a server that is there
            raise Refused(f"{_server()} does not let {os.environ['PGUSER']} into {name}: {said}") from None
        raise Unreachable(f"{_server()} does not answer ({said}): start it, or set PGHOST and PGPORT") from None
    try:
        with connection, connection.cursor() as cursor:
            yield cursor
    except psycopg2.errors.UndefinedTable as error:
        reason = str(error).partition("\n")[0]
        raise Refused(f"{_server()}: {name} is not MLflow's ({reason}): start the MLflow server once") from None
    finally:
        connection.close()


def _server() -> str:
    return f"PostgreSQL at {os.environ.get('PGHOST')}:{os.environ.get('PGPORT', '5432')}"
