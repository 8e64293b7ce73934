"""Diffs of long texts in blocks: they can be applied, and stay as small as those of short ones."""

import difflib
import random
import re

from kairos.config.linediff import unified

NAMES = ("before", "after")


def lines(*routes):
    """A document with these routes: a path and what it has."""
    said = ["version: 1\n", "routers:\n"]
    for path, *inner in routes:
        said += [f"  - external_path: {path}\n", *(f"    {line}\n" for line in inner)]
    return [*said, "jwt:\n", "  secret: x\n"]


def applied(old, diff):
    """What becomes of a text with a diff, whose every line of context has to fit."""
    made, at = [], 0
    for line in list(diff)[2:]:
        if hunk := re.match(r"@@ -(\d+)(?:,(\d+))? ", line):
            begin = int(hunk[1]) - (hunk[2] != "0")
            made += old[at:begin]
            at = begin
        elif line[0] in " -":
            assert old[at] == line[1:]
            made += [line[1:]] if line[0] == " " else []
            at += 1
        else:
            made.append(line[1:])
    return made + old[at:]


def test_nothing_is_told_of_texts_that_are_the_same():
    assert list(unified(lines(("/a", "x")), lines(("/a", "x")), NAMES)) == []
    assert list(unified([], [], NAMES)) == []


def test_a_short_text_is_compared_as_usual():
    old, new = lines(("/a", "x: 1"), ("/b", "x: 2")), lines(("/a", "x: 1"), ("/n", "x: 9"), ("/b", "x: 3"))
    for one, other in (old, new), (new, old), ([], new), (old, []):
        assert list(unified(one, other, NAMES)) == list(difflib.unified_diff(one, other, *NAMES))


def test_where_every_route_of_many_changes_each_is_compared_with_itself():
    inner = [f"same{number}: {number}" for number in range(5)]
    old = lines(*((f"/r{number}", "to: /old", *inner) for number in range(600)))
    new = lines(*((f"/r{number}", "to: /new", *inner) for number in range(600) if number != 300), ("/more", *inner))
    diff = list(unified(old, new, NAMES))
    assert applied(old, diff) == new
    assert sum(line == "+    to: /new\n" for line in diff) == 599
    assert sum(line.startswith("+") for line in diff) == 1 + 599 + 6  # the header, and a route that is new


def test_what_is_too_long_for_that_is_taken_out_and_put_in():
    old, new = ([f"key: {number}{word}\n" for number in range(2000)] for word in ("", "z"))
    assert applied(old, unified(old, new, NAMES)) == new
    old, new = ([f"  deep{number}: {word}\n" for number in range(2000)] for word in "xy")
    assert applied(old, unified(old, new, NAMES)) == new


def test_every_diff_can_be_applied():
    chance = random.Random(5)
    for _ in range(150):
        size = chance.choice((3, 40, 120))
        old = [(f"/{chance.randrange(size)}", *(f"k{chance.randrange(3)}" for _ in range(chance.randrange(9))))
               for _ in range(size)]  # fmt: skip
        new = [route if chance.random() < 0.7 else (*route, "more") for route in old if chance.random() < 0.9]
        chance.shuffle(new[: chance.randrange(size)])
        one, other = lines(*old), lines(*new, ("/end", "k"))
        assert applied(one, unified(one, other, NAMES)) == other
