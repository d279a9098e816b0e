"""Reads from stdin which .keras file to write as which ONNX file: `python -m medloop.training.exporter`."""

import json
import sys
from pathlib import Path

from medloop.training import backend


def main() -> None:
    """Import TensorFlow, wait for the two paths, export."""
    backend.start("tensorflow", seed=0)
    from medloop.training import export

    request = sys.stdin.read()
    if request:  # empty: training ended without a model
        source, target = json.loads(request)
        export.save_onnx(Path(source), Path(target))


if __name__ == "__main__":
    main()
