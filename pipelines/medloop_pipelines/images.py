"""Stage -> image reference: the only place with tags."""

import os

from medloop import __version__
from medloop.params import Pipeline, Stage

DEFAULT: dict[Stage, str] = {  # the light image holds neither TensorFlow nor ONNX Runtime
    "ingest": f"medloop-light:{__version__}",
    "validate": f"medloop-light:{__version__}",
    "preprocess": f"medloop-light:{__version__}",
    "train": f"medloop-train:{__version__}",
    "evaluate": f"medloop-train:{__version__}",
    "register": f"medloop-train:{__version__}",
}


def of(stage: Stage, pipeline: Pipeline) -> str:
    """Return the image of `stage`: $MEDLOOP_IMAGE_<STAGE>, else `pipeline.images`, else the default."""
    return os.environ.get(f"MEDLOOP_IMAGE_{stage.upper()}") or pipeline.images.get(stage, DEFAULT[stage])


def pinned(reference: str) -> bool:
    """Tell whether an image is named by its digest, so that what ran under that name cannot have changed."""
    return "@sha256:" in reference
