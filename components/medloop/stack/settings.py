"""What a stack keeps of itself: its secrets and ports, in a file of mode 0600 that a shell can source."""

import contextlib
import os
import secrets
import shlex
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from medloop.errors import Refused

HOST = "127.0.0.1"
FILE, LOCK = "stack.env", ".lock"
DEFAULT = Path(".medloop/stack")
HEADER = "# Written by `medloop stack up`. Point a shell at the stack with: {sourced}\n"
PORTS = (  # those that a user meets come first
    "postgres",
    "s3",
    "mlflow",
    "s3_grpc",
    "master",
    "master_grpc",
    "volume",
    "volume_grpc",
    "filer",
    "filer_grpc",
    "admin",
    "admin_grpc",
)
LOWEST, HIGHEST = 20000, 32000  # below those that Linux gives to outgoing connections
PORT = "MEDLOOP_STACK_PORT_"
SECRETS = (
    "PGPASSWORD",
    "MLFLOW_TRACKING_PASSWORD",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "MEDLOOP_STACK_DATABASE_PASSWORD",
    "MEDLOOP_STACK_SESSION_KEY",
    "MEDLOOP_STACK_S3_KEY",
)
SECRET_BYTES = 24
BUCKETS = ("mlflow", "dvc")


@dataclass(frozen=True)
class Settings:
    """The folder of a stack and the variables in its `stack.env`."""

    folder: Path  # absolute
    values: dict[str, str]

    def __getitem__(self, name: str) -> str:
        return self.values[name]

    def port(self, name: str) -> int:
        """Return the port called `name`, one of PORTS."""
        return int(self.values[f"{PORT}{name.upper()}"])

    def url(self, name: str) -> str:
        """Return the HTTP address at the port called `name`."""
        return f"http://{HOST}:{self.port(name)}"


def command(word: str, folder: Path) -> str:
    """Return `medloop stack WORD` for the stack in `folder`, as a shell takes it."""
    elsewhere = folder.resolve() != DEFAULT.resolve()
    return f"medloop stack {word}" + (f" --folder {shlex.quote(str(folder))}" if elsewhere else "")


def sourced(folder: Path) -> str:
    """Return what points a shell at the stack in `folder`."""
    return f"set -a; source {shlex.quote(str(folder / FILE))}; set +a"


def read(folder: Path) -> Settings:
    """Return the settings of the stack in `folder`; raise Refused where there is none."""
    path = folder / FILE
    try:
        lines = path.read_text().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        raise Refused(f"no stack in {folder}: `{command('up', folder)}` makes one") from None
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}") from None
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    values = {name: value for name, _, value in pairs}
    wanted = [*SECRETS, *(f"{PORT}{name.upper()}" for name in PORTS)]
    if missing := [name for name in wanted if not values.get(name)]:
        raise Refused(f"{path} lacks {missing[0]}: put the file back as it was, or give a new --folder")
    return Settings(folder.resolve(), values)


def open_folder(folder: Path) -> None:
    """Make the folder of a stack; raise Refused where it holds something else, or cannot be written."""
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / FILE).exists() and any(path.name != LOCK for path in folder.iterdir()):
            raise Refused(f"{folder} holds files but no {FILE}, so it is no stack: give another --folder")
        folder.chmod(0o711 if os.geteuid() == 0 else 0o700)  # PostgreSQL, which refuses to be root, must get through


def check_ports(ports: Mapping[str, int]) -> None:
    """Raise Refused for a port that is none of a stack, or is given to two of its parts."""
    for name, number in ports.items():
        if name not in PORTS or not 1 <= number <= 65535:
            raise Refused(f"no port {name}={number}; NAME is one of {', '.join(PORTS)}, NUMBER 1 to 65535")
    _check_apart(ports)


def _check_apart(ports: Mapping[str, int]) -> None:
    seen: dict[int, str] = {}
    for name, number in ports.items():
        if number in seen:
            raise Refused(f"port {number} cannot be both {seen[number]} and {name}: give one of them another --port")
        seen[number] = name


def settle(folder: Path, ports: Mapping[str, int]) -> Settings:
    """Return the settings of the stack in `folder`, made where there is none, with `ports` written into them.

    Raises:
        Refused: the folder cannot be written, a port is no port of a stack, or two of its ports are one.
    """
    check_ports(ports)
    if (folder / FILE).exists():
        values = read(folder).values
    else:
        free = (number for number in _free() if number not in ports.values())
        values = {name: secrets.token_hex(SECRET_BYTES) for name in SECRETS}
        values |= {f"{PORT}{name.upper()}": str(number) for name, number in zip(PORTS, free, strict=False)}
    values |= {f"{PORT}{name.upper()}": str(number) for name, number in ports.items()}
    settings = Settings(folder.resolve(), values)
    _check_apart({name: settings.port(name) for name in PORTS})
    settings.values.update(_derived(settings))
    text = HEADER.format(sourced=sourced(settings.folder)) + "".join(
        f"{name}={values[name]}\n" for name in sorted(values)
    )
    with writable(folder):
        write_private(settings.folder / FILE, text)
    return settings


def write_private(path: Path, text: str) -> None:
    """Replace `path` as a whole by a file that its owner alone can read."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Turn the error of a disk that is full or read-only into one message."""
    try:
        yield
    except OSError as error:
        raise Refused(
            f"the stack's folder {folder} cannot be written: {error.strerror}; free some space there, "
            "or give another --folder"
        ) from None


def free_port() -> int:
    """Return a port that nobody listens at now."""
    return next(_free())


def taken(port: int) -> bool:
    """Tell whether somebody listens at `port`."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((HOST, port))
        except OSError:
            return True
    return False


def _free() -> Iterator[int]:
    given: set[int] = set()
    for _ in range(HIGHEST - LOWEST):
        port = LOWEST + secrets.randbelow(HIGHEST - LOWEST)
        if port not in given and not taken(port):
            given.add(port)
            yield port
    raise Refused(f"no free port between {LOWEST} and {HIGHEST} on {HOST}")


def _derived(settings: Settings) -> dict[str, str]:
    return {
        "MLFLOW_TRACKING_URI": settings.url("mlflow"),
        "MLFLOW_TRACKING_USERNAME": "admin",
        "AWS_ENDPOINT_URL_S3": settings.url("s3"),
        "AWS_DEFAULT_REGION": "us-east-1",
        "MEDLOOP_LEASE": "s3://mlflow/leases",
        "PGHOST": HOST,
        "PGPORT": str(settings.port("postgres")),
        "PGUSER": "postgres",
        **{f"MEDLOOP_BUCKET_{name.upper()}": name for name in BUCKETS},
    }
