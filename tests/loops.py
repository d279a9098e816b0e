"""The stages, called one after the other in a folder, for tests of whole loops with small networks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medloop import params
from medloop.stages.evaluate import evaluate
from medloop.stages.ingest import ingest
from medloop.stages.preprocess import preprocess
from medloop.stages.register import register
from medloop.stages.train import train
from medloop.stages.validate import validate


@dataclass(frozen=True)
class Loop:
    """Samples and validation in `folder`; all that follows in a folder in there, one for each `way` to preprocess."""

    folder: Path
    base: params.Base

    def model(self, way: str, architecture: str) -> Path:
        """Return where a model lies."""
        return self.folder / way / "models" / architecture

    def checked(self, source: params.Ingest, rule: params.Validate) -> None:
        """Ingest, and validate without an objection."""
        ingest(self.base, source, samples=self.folder / "samples")
        found = validate(self.base, rule, samples=self.folder / "samples", validation=self.folder / "validation")
        assert found["success"], found

    def prepared(self, way: str, section: params.Preprocess) -> dict[str, Any]:
        """Preprocess, and return what is said of the arrays."""
        inputs = {name: self.folder / name for name in ("samples", "validation")}
        outputs = {name: self.folder / way / name for name in ("arrays", "holdout")}
        return preprocess(self.base, section, **inputs, **outputs)

    def trained(self, way: str, section: params.Train) -> dict[str, float]:
        """Train one architecture, and return its scores."""
        [architecture] = section.architectures
        return train(self.base, section, arrays=self.folder / way / "arrays", model=self.model(way, architecture))

    def judged(
        self, way: str, section: params.Evaluate, *architectures: str, name: str = "evaluation"
    ) -> tuple[dict[str, Any], str]:
        """Evaluate the models of these architectures and register the best; return the metrics and its version."""
        models = {each: self.model(way, each) for each in architectures}
        made = {"validation": self.folder / "validation", "evaluation": self.folder / way / name}
        metrics = evaluate(self.base, section, models=models, holdout=self.folder / way / "holdout", **made)
        return metrics, register(self.base, params.Register(), models=models, **made)["version"]

    def promoted(self, rule: params.Promote, version: str) -> None:
        """Make a version champion."""
        from medloop.operations.promote import promote

        decision = promote(self.base, rule, version=version, samples=self.folder / "samples")
        assert decision.ok, decision.reason
