"""The wire: messages and calls of ``inference.GRPCInferenceService``; protobuf and grpc only.

``protos.ModelInferRequest`` and every other message are attributes of this package, with
classes from a descriptor pool of their own (:mod:`protos.pool` says why).
"""

from protos.messages import *  # noqa: F403 - messages.pyi lists them
from protos.pool import METHODS as METHODS
from protos.pool import POOL as POOL
from protos.pool import REFLECTION_V1 as REFLECTION_V1
from protos.pool import SERVICE as SERVICE
from protos.pool import Method as Method
