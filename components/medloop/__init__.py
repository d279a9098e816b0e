"""Training-to-promotion loop for labelled medical images."""

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
