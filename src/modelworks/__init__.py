"""Modelworks: a private large-model platform in one install."""

import sys as _sys

__version__ = "0.1.0"

# OpenVINO tells its maker of every import of it, unasked. Without its telemetry it takes the silent stand-in that it has for
# that case. Here, as it has to be before anybody imports it.
_sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
