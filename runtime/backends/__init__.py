"""What runs a batch: one backend a file, behind one protocol."""

import os

# Else ONNX Runtime from 1.29 on sends reports of its use to its maker, and keeps them in the
# user's home until it can. It looks when it is imported; who wants that sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
