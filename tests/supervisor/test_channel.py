"""The channel's framing: whatever way the bytes are cut, the same messages come out; nonsense is refused."""

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos.channel import (
    MAX_FRAME,
    Abort,
    Ack,
    ChannelError,
    Commit,
    Decoder,
    Drain,
    Drained,
    Nack,
    Prepare,
    Ready,
    ReopenLogs,
    Stop,
    encode,
)
from kairos.config.model import Backend, Config, Route
from kairos.scoreboard import Assignment

ROUTE = Route(
    external_path="/a/{id}", internal_path="/b/{id}", methods=["GET"], backends=[Backend("http://127.0.0.1", 9000)]
)
PREPARE = Prepare(7, Config(routers=[ROUTE]), Assignment(pairs={("none", "none"): 0, ("/a", "http://b:1"): 1}))
MESSAGES = [
    PREPARE, Commit(7), Abort(8), Drain(2.5), Stop(), ReopenLogs(), Ready(4711), Ack(7), Nack(8, ["ä: no"]), Drained(),
]  # fmt: skip


def test_messages_arrive_as_they_were_sent():
    decoder = Decoder()
    assert [decoder.receive(encode(message)) for message in MESSAGES] == [[message] for message in MESSAGES]


def test_many_messages_in_one_read():
    assert Decoder().receive(b"".join(map(encode, MESSAGES))) == MESSAGES


def test_byte_by_byte():
    decoder = Decoder()
    stream = b"".join(map(encode, MESSAGES))
    assert [message for byte in stream for message in decoder.receive(bytes([byte]))] == MESSAGES


@given(st.lists(st.integers(0, 600)))
def test_cut_anywhere(cuts):
    decoder, stream = Decoder(), b"".join(map(encode, MESSAGES))
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[start:end] for start, end in itertools.pairwise(edges)]
    assert [message for piece in pieces for message in decoder.receive(piece)] == MESSAGES


def test_a_frame_larger_than_any_configuration_is_refused_before_it_is_read():
    with pytest.raises(ChannelError, match="claims"):
        Decoder().receive((MAX_FRAME + 1).to_bytes(4, "big"))


@given(st.binary(max_size=200))
def test_garbage_is_messages_or_a_channel_error(body):
    decoder = Decoder()
    with contextlib.suppress(ChannelError):
        decoder.receive(len(body).to_bytes(4, "big") + body)


def test_an_unknown_message_is_refused():
    stream = encode(Commit(7)).replace(b"Commit", b"Comnit")
    with pytest.raises(ChannelError, match="no message"):
        Decoder().receive(stream)
