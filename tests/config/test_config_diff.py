"""Differences between configurations, for programs and for people; and configurations made of two."""

import msgspec
from config_samples import SECRET, file, route

from kairos.config.compose import NODE, compose, node_part, shared_part
from kairos.config.diff import differences, text_diff
from kairos.config.model import Config


def told(before, after):
    """`op path before after` of each difference."""
    found = [msgspec.to_builtins(difference) for difference in differences(before, after)]
    return [(item["op"], item["path"], item.get("before"), item.get("after")) for item in found]


OLD = file(route(external_path="/a"), route(external_path="/b"), jwt={"secret": SECRET, "issuer": "me"}, version=1)


def test_nothing_differs_from_itself():
    assert told(OLD, OLD) == []
    assert text_diff(OLD, OLD) == ""


def test_values_are_added_removed_and_replaced():
    new = file(*OLD["routers"], jwt={"secret": SECRET, "audience": "you"}, version=2)
    assert told(OLD, new) == [
        ("remove", "/jwt/issuer", "me", None),
        ("add", "/jwt/audience", None, "you"),
        ("replace", "/version", 1, 2),
    ]


def test_routes_are_told_apart_by_what_they_serve():
    moved = file(route(external_path="/new"), *OLD["routers"][::-1], jwt=OLD["jwt"], version=1)
    assert told(OLD, moved) == [("add", "/routers/0", None, route(external_path="/new"))]
    changed = file(OLD["routers"][1], route(external_path="/a", methods=["PUT"]), jwt=OLD["jwt"], version=1)
    assert told(OLD, changed) == [("replace", "/routers/1/methods", ["GET"], ["PUT"])]
    assert differences(OLD, changed)[0].route == "PUT /a"
    assert told(OLD, file(OLD["routers"][1], jwt=OLD["jwt"], version=1)) == [
        ("remove", "/routers/0", OLD["routers"][0], None)
    ]


def test_backends_are_told_apart_by_their_addresses():
    one, other = {"host": "http://a", "port": 1}, {"host": "http://b", "port": 1}
    before, after = file(route(backends=[one, other])), file(route(backends=[one, {**other, "weight": 2}]))
    assert told(before, after) == [("add", "/routers/0/backends/1/weight", None, 2)]
    assert told(before, file(route(backends=[other]))) == [("remove", "/routers/0/backends/0", one, None)]


def test_where_order_counts_another_order_is_a_difference():
    first, second = {"name": "X-A", "value": "1"}, {"name": "X-B", "value": "2"}
    before, after = ({"request_transformation": {"headers": order}} for order in ([first, second], [second, first]))
    assert told(before, after) == [("replace", "/request_transformation/headers", [first, second], [second, first])]


def test_pointers_are_escaped():
    assert told({"groups": {"a/b~c": {}}}, {"groups": {}}) == [("remove", "/groups/a~1b~0c", {}, None)]


def test_secrets_differ_without_being_shown():
    new = {**OLD, "jwt": {"secret": "another of more than thirty-two bytes", "issuer": "me"}}
    assert told(OLD, new) == [("replace", "/jwt/secret", "***", "***")]
    text = text_diff(OLD, new)
    assert SECRET not in text
    assert "another" not in text
    assert '+  secret: "*** (changed)"' in text
    assert told(OLD, {**OLD, "jwt": {"secret": "${JWT}", "issuer": "me"}}) == [
        ("replace", "/jwt/secret", "***", "${JWT}")
    ]


def test_text_leaves_out_what_was_only_moved():
    new = {"version": 1, "routers": [*OLD["routers"][::-1], route(external_path="/new")], "jwt": OLD["jwt"]}
    lines = text_diff(OLD, new, ("old", "new"), context=0).splitlines()
    assert lines[:2] == ["--- old", "+++ new"]
    assert [line for line in lines if line.startswith("-")] == ["--- old"]
    assert "+  - external_path: /new" in lines


# ---- several nodes


def test_a_node_keeps_what_is_its_own_and_takes_the_rest():
    local = {"server": {"port": 1}, "log": {"level": "debug"}, "jwt": {"secret": "mine"}, "routers": []}
    shared = {"server": {"port": 2}, "access_log": {"format": "off"}, "routers": [route()], "version": 7}
    made = compose(local, shared)
    assert made == {"server": {"port": 1}, "log": {"level": "debug"}, "routers": [route()], "version": 7}


def test_the_parts_make_the_whole():
    whole = {"server": {"port": 1}, "cache_storage": {"memory_bytes": 1}, "routers": [route()]}
    assert shared_part(whole) == {"routers": [route()]}
    assert compose(node_part(whole), shared_part(whole)) == whole
    assert compose({}, whole) == {"routers": [route()]}


def test_what_is_the_nodes_own_is_in_the_model():
    assert set(Config.__struct_fields__) >= NODE
