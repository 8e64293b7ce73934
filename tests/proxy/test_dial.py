"""Dials that are called off at any moment leave no connection half open."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop

from kairos.proxy.upstream.dial import dial
from kairos.resolver import Resolver
from tests.support.net import origin


class Heard(asyncio.Protocol):
    """What a loop tells a protocol; its dial is called off as soon as it is connected."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.call_off: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.calls.append("made")
        self.call_off()

    def connection_lost(self, error: Exception | None) -> None:
        self.calls.append("lost")


@pytest.mark.parametrize("factory", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_one_called_off_in_the_moment_it_is_connected_hears_of_its_end(factory: Any) -> None:
    heard = Heard()

    async def run(port: int) -> None:
        address = SimpleNamespace(unix=None, host="127.0.0.1", port=port)
        task = asyncio.create_task(dial(SimpleNamespace(address=address, tls=None, protocol=lambda: heard), 5.0))  # type: ignore[arg-type]
        heard.call_off = task.cancel
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)

    with origin(lambda peer: None) as o, asyncio.Runner(loop_factory=factory) as runner:

        async def whole() -> None:
            from kairos.proxy.upstream.dial import use_resolver

            resolver = Resolver()
            use_resolver(resolver)
            await run(o.port)
            await resolver.close()

        runner.run(whole())
    assert heard.calls[0] == "made"
    assert "lost" in heard.calls
