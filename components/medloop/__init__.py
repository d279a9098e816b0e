"""Training-to-promotion loop for labelled medical images."""

import gc
import os

__version__ = "0.1.0"

# Nothing phones home: each library reads its own switch when it is first imported.
for _switch, _value in {
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}.items():
    os.environ.setdefault(_switch, _value)

# Arrow keeps what it lets go of to itself: a table that became one of pandas is in memory twice.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

# After 700 new objects Python looks for garbage in cycles: a fifth of the seconds that TensorFlow's import takes.
if 0 < gc.get_threshold()[0] < 10_000:
    gc.set_threshold(10_000)
