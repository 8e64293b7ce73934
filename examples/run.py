"""Try the gateway: two HTTP origins, a WebSocket origin and kairos-gateway in front of them, until Ctrl-C.

Rules: children are started in their own sessions, so that Ctrl-C reaches only this program; it stops the gateway first,
then the origins, and reaps them all. A child that ends by itself is reported and ends everything (exit code 1).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

HERE = Path(__file__).parent
ORIGINS = HERE / "origins"
HOST, PORT = "127.0.0.1", 5900
READY_WITHIN_S = 20.0
STOP_WITHIN_S = 10.0
TRY = """
Kairos is ready on http://{host}:{port}. In another terminal:

  curl -i  http://{host}:{port}/                       two origins in turn, and the headers they see
  curl     http://{host}:{port}/api/users/42           a path parameter, 3 to 1 weighted
  curl -N  http://{host}:{port}/events                 server-sent events, unbuffered
  curl     http://{host}:{port}/all/echo -d 'hello'    any path below /all, any method
  curl -i  http://{host}:{port}/all/status/503         a status of the origin's
  curl -o /dev/null -w '%{{time_total}} s\\n' http://{host}:{port}/all/slow?ms=300
  curl     http://{host}:{port}/metrics                Prometheus
  .venv/bin/kairos backends drain 5911                 the first origin gets no more; `activate` brings it back
  WebSocket: ws://{host}:{port}/ws/chat (echo), ws://{host}:{port}/ws/chat?room=tea (chat)

Ctrl-C stops everything.
"""


@dataclass(frozen=True, slots=True)
class Service:
    """A program to run, and the port and path that answer 200 once it is up."""

    name: str
    command: Sequence[str]
    port: int
    ready: str = "/"


def services(config: Path, workers: int) -> list[Service]:
    """What `make run` runs, in starting order."""
    python, http = sys.executable, str(ORIGINS / "http_origin.py")
    gateway = [python, "-m", "kairos.cli.gateway", "--config", str(config)]
    return [
        Service("first", [python, http, "--port", "5911", "--name", "first"], 5911),
        Service("second", [python, http, "--port", "5912", "--name", "second"], 5912),
        Service("websocket", [python, str(ORIGINS / "ws_origin.py"), "--port", "5913"], 5913),
        Service("gateway", [*gateway, "--workers", str(workers), "--host", HOST, "--port", str(PORT)], PORT, "/ready"),
    ]


class Trouble(Exception):  # noqa: N818 - a reason to stop, shown as it is
    """A service ended, or did not come up."""


class Child:
    """A running service."""

    def __init__(self, service: Service, process: asyncio.subprocess.Process) -> None:
        self.service = service
        self.process = process

    @classmethod
    async def start(cls, service: Service) -> Child:
        return cls(service, await asyncio.create_subprocess_exec(*service.command, start_new_session=True))

    async def until_ready(self) -> None:
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                while not await answers(self.service.port, self.service.ready):  # noqa: ASYNC110 - nothing else tells
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise Trouble(f"{self.service.name} does not answer on port {self.service.port}") from None

    async def until_ended(self) -> None:
        code = await self.process.wait()
        raise Trouble(f"{self.service.name} ended with {code}")

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL for the whole session when that does not help."""
        if self.process.returncode is None:
            self.process.terminate()
        try:
            await asyncio.wait_for(self.process.wait(), STOP_WITHIN_S)
        except TimeoutError:
            print(f"{self.service.name} does not stop: killed", file=sys.stderr)
            os.killpg(self.process.pid, signal.SIGKILL)
            await self.process.wait()


async def answers(port: int, path: str) -> bool:
    """Whether a GET gets 200."""
    try:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
        status = await reader.readline()
        writer.close()
    except OSError:
        return False
    return status.startswith(b"HTTP/1.1 200 ")


async def keep_up(wanted: Sequence[Service], greeting: str, children: list[Child]) -> None:
    """Start the services in order, greet, and stay until one of them ends; that one's Trouble cancels the rest."""
    async with asyncio.TaskGroup() as watchers:
        for service in wanted:
            children.append(await Child.start(service))
            watchers.create_task(children[-1].until_ended())
            await children[-1].until_ready()
        print(greeting, flush=True)


async def run(wanted: Sequence[Service], greeting: str) -> int:
    """Exit code: 0 after SIGINT or SIGTERM, 1 after trouble."""
    children: list[Child] = []
    work = asyncio.ensure_future(keep_up(wanted, greeting, children))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, work.cancel)
    try:
        await work
    except asyncio.CancelledError:
        return 0
    except ExceptionGroup as troubles:
        print("\n".join(str(trouble) for trouble in troubles.exceptions), file=sys.stderr, flush=True)
    finally:
        for child in reversed(children):
            await child.stop()
    return 1


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the gateway in front of example origins.")
    parser.add_argument("--config", type=Path, default=HERE / "config.json")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    sys.exit(asyncio.run(run(services(options.config, options.workers), TRY.format(host=HOST, port=PORT))))


if __name__ == "__main__":
    main()
