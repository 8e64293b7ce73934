"""Sockets of clients: accepted, read, written to and ended as a transport of the loop would, all behind one epoll."""

from __future__ import annotations

import asyncio
import resource
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from kairos.proxy.sockets import Sockets
from kairos.proxy.wire import Wire

MB = 1 << 20


class Recorder(Wire):
    """Notes what it is told."""

    def __init__(self, told: list[Any]) -> None:
        self.told = told
        self.data = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.told.append(self)

    def data_received(self, data: bytes) -> None:
        if data == b"raise":
            raise ValueError("of a wire")
        self.data += data

    def eof_received(self) -> None:
        self.data += b"<end>"

    def connection_lost(self, error: Exception | None) -> None:
        self.data += b"<lost>"

    def pause_writing(self) -> None:
        self.data += b"<pause>"

    def resume_writing(self) -> None:
        self.data += b"<resume>"


class Trace:
    """A listener whose connections are Recorders."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.reports: list[Any] = []
        loop.set_exception_handler(lambda _, context: self.reports.append(context["exception"]))
        self.sockets = Sockets(loop)
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.wires: list[Recorder] = []
        self.clients: list[socket.socket] = []
        self.listener = self.sockets.listen(self.sock, 64, self.recorder)

    def recorder(self) -> Recorder:
        return Recorder(self.wires)

    def connect(self) -> socket.socket:
        made = socket.create_connection(self.sock.getsockname())
        made.setblocking(False)
        self.clients.append(made)
        return made

    async def pair(self) -> tuple[socket.socket, Recorder]:
        """A client and its wire."""
        known = len(self.wires)
        client = self.connect()
        await until(lambda: len(self.wires) > known)
        return client, self.wires[-1]

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.listener.close()
        self.sock.close()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(25):
        while not condition():
            await asyncio.sleep(0.001)


def traced(work: Callable[[Trace], Awaitable[None]]) -> Callable[[], None]:
    """Run a trace in a loop of its own; every connection that its clients leave has ended by itself."""

    async def run() -> None:
        trace = Trace()
        await work(trace)
        trace.close()
        await until(lambda: all(wire.data.endswith(b"<lost>") for wire in trace.wires))
        trace.sockets.close()

    def test() -> None:
        uvloop.run(run())

    test.__doc__ = work.__doc__
    return test


@traced
async def test_bytes_both_ways_and_an_end(trace: Trace) -> None:
    client, wire = await trace.pair()
    client.send(b"hello")
    await until(lambda: wire.data == b"hello")
    wire.transport.write(b"answer")
    await until(lambda: readable(client))
    assert client.recv(99) == b"answer"
    client.shutdown(socket.SHUT_WR)
    await until(lambda: wire.data == b"hello<end><lost>")
    assert (client.recv(1), wire.transport.fileno()) == (b"", -1)


def readable(client: socket.socket) -> bool:
    try:
        client.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    return True


@traced
async def test_who_is_not_read_from_waits(trace: Trace) -> None:
    client, wire = await trace.pair()
    wire.transport.pause_reading()
    client.send(b"a")
    other, second = await trace.pair()
    other.send(b"b")
    await until(lambda: second.data == b"b")
    assert wire.data == b""
    wire.transport.resume_reading()
    await until(lambda: wire.data == b"a")


@traced
async def test_a_reset_is_found_when_the_connection_is_read_from_again(trace: Trace) -> None:
    """Registered for nothing, epoll would tell of it again and again."""
    client, wire = await trace.pair()
    wire.transport.pause_reading()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    await asyncio.sleep(0.01)
    assert wire.data == b""
    wire.transport.resume_reading()
    await until(lambda: wire.data == b"<lost>")


@traced
async def test_what_is_queued_goes_out_in_order_before_the_close(trace: Trace) -> None:
    client, wire = await trace.pair()
    sent = b"".join(bytes([number]) * MB for number in range(8))
    for at in range(0, 8 * MB, MB):
        wire.transport.write(memoryview(sent)[at : at + MB])
    wire.transport.close()
    wire.transport.write(b"too late")
    assert wire.data == b"<pause>"
    assert wire.transport.get_write_buffer_size() == 8 * MB
    assert await read_all(client) == sent
    await until(lambda: wire.data == b"<pause><resume><lost>")


async def read_all(client: socket.socket) -> bytes:
    """Up to the end of the stream."""
    pieces = []
    while True:
        await until(lambda: readable(client))
        pieces.append(client.recv(1 << 20))
        if not pieces[-1]:
            return b"".join(pieces)


@traced
async def test_an_end_of_ours_leaves_the_other_direction_open(trace: Trace) -> None:
    client, wire = await trace.pair()
    wire.transport.write(b"x" * MB)
    wire.transport.write_eof()
    assert await read_all(client) == b"x" * MB
    client.send(b"still here")
    await until(lambda: wire.data.endswith(b"still here"))


@traced
async def test_an_abort_drops_what_is_queued_and_is_told_once(trace: Trace) -> None:
    client, wire = await trace.pair()
    wire.transport.write(b"x" * 64 * MB)
    wire.transport.abort()
    wire.transport.abort()
    wire.transport.close()
    assert wire.data == b"<pause>"  # never from within a call
    await until(lambda: wire.data == b"<pause><lost>")
    assert len(await read_all(client)) < 64 * MB


@traced
async def test_a_client_that_leaves_while_we_write(trace: Trace) -> None:
    client, wire = await trace.pair()
    wire.transport.write(b"x" * 64 * MB)
    client.close()
    await until(lambda: wire.data.endswith(b"<lost>"))


@traced
async def test_a_wire_that_raises_loses_its_connection_only(trace: Trace) -> None:
    client, wire = await trace.pair()
    _, second = await trace.pair()
    client.send(b"raise")
    await until(lambda: wire.data == b"<lost>")
    assert [str(report) for report in trace.reports] == ["of a wire"]
    assert second.data == b""


@traced
async def test_a_crowd_is_accepted_whole(trace: Trace) -> None:
    for _ in range(60):
        trace.connect()
    await until(lambda: len(trace.wires) == 60)


@traced
async def test_a_factory_that_raises_is_reported_and_the_next_is_served(trace: Trace) -> None:
    def fails() -> Recorder:
        raise ValueError("of a factory")

    with socket.create_server(("127.0.0.1", 0)) as sock:
        listener = trace.sockets.listen(sock, 8, fails)
        with socket.create_connection(sock.getsockname()) as client:
            client.setblocking(False)
            assert await read_all(client) == b""
        listener.close()
    assert [str(report) for report in trace.reports] == ["of a factory"]
    await trace.pair()


@traced
async def test_without_descriptors_clients_wait(trace: Trace) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    trace.connect()
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        await asyncio.sleep(0.02)
        assert trace.wires == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    await until(lambda: len(trace.wires) == 1)


@traced
async def test_a_connection_accepted_elsewhere(trace: Trace) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as sock:
        client = socket.create_connection(sock.getsockname()[:2])
        trace.clients.append(client)
        accepted, _ = sock.accept()
    accepted.setblocking(False)
    trace.sockets.adopt(accepted, trace.recorder)
    (wire,) = trace.wires
    assert wire.transport.get_extra_info("sockname") == ("::1", sock_port(client))
    client.send(b"x")
    await until(lambda: wire.data == b"x")


def sock_port(client: socket.socket) -> int:
    return int(client.getpeername()[1])


@traced
async def test_a_closed_listener_leaves_its_socket_to_others(trace: Trace) -> None:
    trace.listener.close()
    trace.listener.close()
    trace.connect()
    await asyncio.sleep(0.01)
    assert trace.wires == []
    trace.listener = trace.sockets.listen(trace.sock, 64, trace.recorder)
    await until(lambda: len(trace.wires) == 1)


@traced
async def test_connections_are_not_delayed(trace: Trace) -> None:
    """Those from before the listener was ours, and those after."""
    trace.listener.close()
    trace.connect()
    trace.listener = trace.sockets.listen(trace.sock, 8, trace.recorder)
    trace.connect()
    await until(lambda: len(trace.wires) == 2)
    for wire in trace.wires:
        sock = socket.socket(fileno=wire.transport.fileno())
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        sock.detach()
