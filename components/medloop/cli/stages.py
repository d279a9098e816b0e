"""One command a stage."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from medloop.cli.options import ARTIFACTS, SAMPLES, Profile, Settings, read

VALIDATION = ARTIFACTS / "validation"
ARRAYS, HOLDOUT = ARTIFACTS / "arrays", ARTIFACTS / "holdout"
MODELS, EVALUATION = ARTIFACTS / "models", ARTIFACTS / "evaluation"

app = typer.Typer()


@app.command()
def ingest() -> None:
    """Decode the source into packed samples with pseudonyms and splits."""
    from medloop.stages.ingest import ingest as stage
    from medloop.stages.ingest import said

    params = read()
    with _recorded("ingest") as record:
        report = stage(params.base, params.ingest, samples=SAMPLES, previous=SAMPLES)
        record |= {name: report[name] for name in ("items", "taken_over")}
    typer.echo(said(report))


@app.command()
def validate() -> None:
    """Check the samples; a critical failure stops the pipeline."""
    from medloop.stages.validate import validate as stage

    params = read()
    with _recorded("validate"):
        stage(params.base, params.validate, samples=SAMPLES, validation=VALIDATION)


@app.command()
def preprocess() -> None:
    """Make fixed-shape arrays, the test set apart from the rest."""
    from medloop.stages.preprocess import preprocess as stage

    params = read()
    with _recorded("preprocess"):
        stage(params.base, params.preprocess, samples=SAMPLES, validation=VALIDATION, arrays=ARRAYS, holdout=HOLDOUT)


@app.command()
def train(architecture: str) -> None:
    """Train one architecture of params.yaml."""
    from medloop.stages.train import train as stage

    params = read()
    with _recorded(f"train-{architecture}"):
        stage(params.base, params.train.only(architecture), arrays=ARRAYS, model=MODELS / architecture)


@app.command()
def evaluate() -> None:
    """Choose on validation data, open the test set once, write the report."""
    from medloop.stages.evaluate import evaluate as stage

    params = read()
    with _recorded("evaluate"):
        stage(
            params.base,
            params.evaluate,
            models=_models(params.train.architectures),
            holdout=HOLDOUT,
            validation=VALIDATION,
            evaluation=EVALUATION,
        )


@app.command()
def register(profile: Profile = None, settings: Settings = None) -> None:
    """Find or create the model's version in the MLflow registry."""
    from medloop.stages.register import register as stage

    params = read(profile, settings)
    with _recorded("register") as record:
        record |= stage(
            params.base,
            params.register,
            models=_models(params.train.architectures),
            validation=VALIDATION,
            evaluation=EVALUATION,
        )
    state = "registered" if record["new"] else "registered before"
    typer.echo(f"{record['model']} version {record['version']}: {state}, on {record['server']}")


def _models(architectures: tuple[str, ...]) -> dict[str, Path]:
    return {architecture: MODELS / architecture for architecture in architectures}


@contextmanager
def _recorded(name: str) -> Iterator[dict[str, Any]]:
    from medloop import provenance

    with provenance.recorded(ARTIFACTS / "runs" / name) as record:
        yield record
