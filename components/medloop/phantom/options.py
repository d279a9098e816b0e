"""What params.yaml may say under `ingest.options.phantom`."""

from typing import Literal, Self

from pydantic import Field, model_validator

from medloop.params import Section


class Options(Section):
    """`ingest.options.phantom:`"""

    patients: int = Field(1800, ge=1, le=1_000_000)
    size_px: int = Field(160, ge=64, le=1024, description="rows and columns of the detector, which measures 384 mm")
    dose_ugy: float = Field(2.5, gt=0, le=1000, description="air kerma behind the lungs, microgray")
    prevalence: float = Field(0.5, ge=0, le=1, description="share of patients with a nodule")
    labels: Literal["nodule", "findings", "size"] = Field(
        "nodule", description="one of two classes; several findings at once, for multilabel; or a grade, for ordinal"
    )
    masks: Literal["none", "nodules", "lungs", "both"] = Field(
        "none", description="what is drawn on each image in place of a label, with its boxes: segmentation, detection"
    )
    shortcut: float = Field(0.0, ge=0, le=1, description="share of patients whose site betrays the label; for tests")
    diameter_mm: tuple[float, float] = Field((4.0, 30.0), description="smallest and largest nodule")
    diameter_beta: tuple[float, float] = Field((1.8, 1.2), description="shape of the Beta distribution between the two")

    @model_validator(mode="after")
    def _fit_into_a_lung(self) -> Self:
        low, high = self.diameter_mm
        if not 1 <= low <= high <= 40:
            raise ValueError(f"diameter_mm must rise within 1 to 40, got {low:g} to {high:g}")
        if self.masks != "none" and self.labels != "nodule":
            raise ValueError(f"masks take the place of labels, got masks {self.masks} and labels {self.labels}")
        if min(self.diameter_beta) <= 0:
            raise ValueError(f"diameter_beta must be positive, got {self.diameter_beta}")
        return self
