"""Ends with status 0 where this container's server, or worker, is serving.

A server is asked over the unix socket that the entry point gives it, a worker where it listens.
"""

import os
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

#: Seconds; below the image's own limit, so that the reason is told.
_PATIENCE = 4


def main() -> int:
    socket = os.environ.get("LORAX_SPEC_UDS", "/tmp/lorax-spec.sock")
    worker = os.environ.get("LORAX_SPEC_LISTEN", "127.0.0.1:6000")
    target = f"unix:{socket}" if Path(socket).exists() else worker
    with grpc.insecure_channel(target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        try:
            answer = health.Check(health_pb2.HealthCheckRequest(), timeout=_PATIENCE)
        except grpc.RpcError as error:
            print(f"{target}: {error.code().name}")
            return 1
    print(f"{target}: {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}")
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1


sys.exit(main())
