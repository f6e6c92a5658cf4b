"""``grpc.aio`` as its users have it, with a servicer that answers a constant.

    python benchmarks/serving_empty_aio.py PORT

What is sent is neither parsed nor looked at; the event loop is uvloop.
"""

from __future__ import annotations

import sys

import grpc
import uvloop
from serving_empty import ANSWER


class Constant(grpc.GenericRpcHandler):
    """Answers every call with the same bytes."""

    def service(self, _details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        """See ``grpc.GenericRpcHandler``."""
        return grpc.unary_unary_rpc_method_handler(_answer)


async def _answer(_payload: bytes, _context: object) -> bytes:
    return ANSWER


async def _serve(port: int) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Constant(),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
