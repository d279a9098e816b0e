"""What several commands share: options, parameters, the way to a Kubeflow."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

ARTIFACTS = Path("artifacts")
SAMPLES = ARTIFACTS / "samples"

Profile = Annotated[str | None, typer.Option("--profile", "-p", help="profiles/NAME.yaml, laid over params.yaml")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", "-S", help="KEY=VALUE over params.yaml, e.g. train.epochs=3")
]
Experiment = Annotated[str | None, typer.Option(help="default: pipeline.experiment")]
Host = Annotated[str | None, typer.Option(help="address of the Kubeflow Pipelines API; default: MEDLOOP_KFP_HOST")]
Namespace = Annotated[str | None, typer.Option(help="Kubeflow profile to run in, where there are many users")]
TokenFile = Annotated[Path | None, typer.Option(help="holds a bearer token; else MEDLOOP_KFP_TOKEN")]
ServiceAccount = Annotated[bool, typer.Option("--service-account/", help="the token that Kubernetes mounts in a pod")]
CaCert = Annotated[Path | None, typer.Option(help="PEM bundle of the authorities to trust; default: the public ones")]


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a Kubeflow in place of `to`, which is a function that resolves them."""

    def connected(
        host: Host = None,
        namespace: Namespace = None,
        token_file: TokenFile = None,
        service_account: ServiceAccount = False,
        ca_cert: CaCert = None,
        **own: Any,
    ) -> None:
        def to() -> Any:
            from medloop_pipelines import connection

            return connection.resolve(
                host=host,
                namespace=namespace,
                token_file=token_file,
                service_account=service_account,
                ca_cert=ca_cert,
            )

        command(to, **own)

    own, theirs = (list(inspect.signature(function).parameters.values()) for function in (command, connected))
    both = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own[1:], *theirs[:-1])]
    functools.update_wrapper(connected, command)
    connected.__signature__ = inspect.Signature(both)  # type: ignore[attr-defined]
    connected.__annotations__ = {each.name: each.annotation for each in both}
    return connected


def read(profile: str | None = None, settings: list[str] | None = None) -> Any:
    """Return the parameters of params.yaml, with a profile and settings laid over them."""
    from medloop import params

    if profile is None and not settings:
        return params.read()
    from medloop import workspace

    return params.check(workspace.effective(profile, settings or []), where="params.yaml")
