from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from grpc import aio

from recsys.config import ServerConfig
from recsys.server.server import Server
from recsys.server.telemetry import Telemetry
from recsys.v1 import recall_pb2_grpc
from tests.recsys.answering import Recall, Running, service_of


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    servicer, telemetry = Recall(), Telemetry.create()
    config = ServerConfig(in_flight_limit=2, slow_call_seconds=5, max_message_mib=4)
    server = Server(config, telemetry, [service_of(servicer)])
    port = server.bind()
    await server.start()
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Running(server, servicer, telemetry, channel, recall_pb2_grpc.RecallServiceStub(channel))
    await server.drain(0)
