"""Keys of TLS session tickets: when a new one is made, and by whom."""

import msgspec
import pytest

from kairos._speedups.tls import rotate_ticket_key, ticket_key_made_at
from kairos.config.model import Config
from kairos.control.tickets import TicketKeys
from kairos.scoreboard import Capacity, Scoreboard


@pytest.fixture
def board():
    return Scoreboard(Capacity(workers=1, routes=2, pairs=2, upstreams=2))


def config(**tickets):
    return msgspec.convert({"server": {"tls": {"tickets": tickets}}, "routers": []}, Config)


def test_a_page_begins_with_a_key(board):
    assert ticket_key_made_at(board.page, board.ticket_ring) > 0


def test_a_key_that_is_old_enough_is_followed_by_another(board):
    keys = TicketKeys(board)
    keys.apply(config(rotate=600))
    made = ticket_key_made_at(board.page, board.ticket_ring)
    keys.rotate(made + 599)
    assert ticket_key_made_at(board.page, board.ticket_ring) == made
    keys.rotate(made + 600)
    assert ticket_key_made_at(board.page, board.ticket_ring) == made + 600


def test_who_comes_back_goes_on_by_the_age_of_the_key(board):
    made = ticket_key_made_at(board.page, board.ticket_ring)
    keys = TicketKeys(board)
    keys.apply(config(rotate=600))
    keys.rotate(made + 10)
    assert ticket_key_made_at(board.page, board.ticket_ring) == made


def test_a_clock_that_was_set_back_is_no_reason_to_wait(board):
    keys = TicketKeys(board)
    keys.apply(config(rotate=600))
    made = ticket_key_made_at(board.page, board.ticket_ring)
    keys.rotate(made - 1000)
    assert ticket_key_made_at(board.page, board.ticket_ring) == made - 1000


@pytest.mark.parametrize("spec", [config(enabled=False), msgspec.convert({"routers": []}, Config)])
def test_nobody_needs_keys_without_tickets(board, spec):
    keys = TicketKeys(board)
    keys.apply(spec)
    made = ticket_key_made_at(board.page, board.ticket_ring)
    keys.rotate(made + 1_000_000)
    assert ticket_key_made_at(board.page, board.ticket_ring) == made


def test_a_key_takes_its_bytes(board):
    with pytest.raises(ValueError, match="80 bytes"):
        rotate_ticket_key(board.page, board.ticket_ring, b"short", 1)
