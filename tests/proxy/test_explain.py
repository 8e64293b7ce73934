"""What is told of a request before it is sent is what the data plane then does."""

import pytest

from kairos.config.explain import STAGES, Explainer, Question
from kairos.proxy.filters import TABLE
from tests.support.inprocess import checked, serving
from tests.support.net import echo, origin

KEY = {"id": "k", "key_hash": "sha256:" + "0" * 64}


def route(path, **keys):
    return {
        "external_path": path,
        "internal_path": path,
        "methods": ["GET"],
        "backends": [{"host": "http://up.example"}],
        **keys,
    }


def explained(document, path, method="GET", **keys):
    return Explainer(checked(document)).explain(Question(path, method, **keys))


def reasons(explanation):
    return {candidate.index: candidate.reason for candidate in explanation.candidates}


MANY = {
    "routers": [
        route("/users/{id}"),
        route("/users/me"),
        route("/users/{id}", methods=["PUT"]),
        route("/users/v{id}"),
        route("/{all:path}"),
        route("/hosted/{x}", hosts=["a.example"], internal_path="/h?q={x}"),
        route("/hosted/{x}", hosts=["*.example"]),
        route("/slash", trailing_slash="redirect"),
    ],
}


def test_the_filters_run_in_the_order_that_is_told():
    def name(build):
        return f"{build.__module__.removeprefix('kairos.proxy.filters.').removeprefix('authn.')}.{build.__name__}"

    order = [name(build).replace("authn.build", "__init__.build") for build in TABLE]
    assert order == [row.built_by for row in STAGES]


@pytest.mark.parametrize(
    ("path", "index", "told"),
    [
        (
            "/users/me",
            1,
            {0: "/users/me goes first: the literal 'me' before a parameter", 2: "does not take GET, only PUT"},
        ),
        ("/users/v7", 3, {0: "/users/v{id} goes first: a part with 1 literal characters before a parameter"}),
        ("/users/7", 0, {4: "/users/{id} goes first: the literal 'users' before the rest of the path"}),
        ("/else/where", 4, {}),
    ],
    ids=["literal", "mixed", "parameter", "rest"],
)
def test_why_a_route_is_taken_and_others_are_not(path, index, told):
    found = explained(MANY, path)
    assert (found.outcome, found.index) == ("forwarded", index)
    assert found.candidates[0].chosen
    assert told.items() <= reasons(found).items()


def test_hosts_decide_before_paths():
    found = explained(MANY, "/hosted/1", host="a.example:80")
    assert (found.index, found.host, found.upstream_path) == (5, "a.example", "/h?q=1")
    assert reasons(found)[6] == "/hosted/{x} is for this very host, which goes before hosts that end so"
    assert explained(MANY, "/hosted/1?a=b", headers={"HOST": "A.example"}).upstream_path == "/h?q=1&a=b"
    other = explained(MANY, "/hosted/1", host="b.example")
    assert (other.index, reasons(other)[5]) == (6, "serves only a.example")


def test_no_route():
    only = {"routers": MANY["routers"][:4] + MANY["routers"][5:]}
    assert explained(only, "/users/7", "DELETE").why.endswith("Allow: GET, HEAD, PUT, OPTIONS")
    found = explained(only, "/users/")
    assert (found.outcome, found.status) == ("not_found", 404)
    assert explained(only, "/hosted/1").why == "routes have this path, but none of them for this host"
    assert reasons(explained(only, "/USERS/me")) == {1: "differs in upper and lower case, which count"}
    assert reasons(explained(only, "/users/me/"))[1] == "would take /users/me: trailing_slash is 'strict'"
    assert (explained(only, "/slash/").outcome, explained(only, "/slash/").status) == ("redirected", 308)
    assert explained(only, "/users/7", "OPTIONS").outcome == "options"
    assert (explained(only, "/a/%zz").outcome, explained(only, "/a/%zz").status) == ("refused", 400)
    assert explained(only, "/ready").outcome == "builtin"


ALL = {
    "cors": {"allowed_origins": ["https://a.example"]},
    "groups": {"g": {"rate_limit": {"strategy": "PerUser"}, "csrf": {}}},
    "jwt": {"secret": "0123456789abcdef0123456789abcdef"},
    "routers": [
        route(
            "/all/{id}",
            group="g",
            https_only={},
            access={"allow": ["10.0.0.0/8"], "deny": ["10.1.0.0/16"], "ban": {}},
            api_keys={"keys": [KEY]},
            auth={"methods": ["api_key", "jwt"]},
            compression={},
            cache={},
            split={"variants": [{"name": "a", "weight": 3}, {"name": "b", "weight": 1, "backends": [{"host": "http://b"}]}]},
            request_transformation={"headers": [{"action": "set", "name": "Authorization", "value": "secret"}]},
            load_balancing_strategy="weighted",
            backends=[{"host": "http://one", "weight": 3, "max_requests": 9}, {"host": "http://two:81"}],
        ),
        route("/shut", maintenance={}),
        route("/fixed", respond={"body": "x"}),
        route("/ftp", protocol="ftp", backends=[{"host": "ftp://f"}]),
    ],
}  # fmt: skip


def test_filters_are_told_in_their_order_with_what_is_set():
    found = explained(ALL, "/all/7?x=1", scheme="https", client_ip="10.2.0.1")
    assert (found.outcome, found.params, found.upstream_path) == ("forwarded", {"id": "7"}, "/all/7?x=1")
    assert [stage.name for stage in found.filters] == [
        "https_only", "access", "ban", "security_headers", "compression", "cors", "auth", "csrf", "rate_limit", "split",
        "request_transformation", "cache",
    ]  # fmt: skip
    by_name = {stage.name: stage for stage in found.filters}
    assert {name: by_name[name].set_by for name in ("cors", "csrf", "cache")} == {
        "cors": "all",
        "csrf": "group",
        "cache": "route",
    }
    assert by_name["request_transformation"].settings["headers"][0]["value"] == "***"
    assert by_name["rate_limit"].settings == [{"strategy": "PerUser"}]


def test_backends_are_told_with_their_shares():
    found = explained(ALL, "/all/7", scheme="https", client_ip="10.2.0.1")
    assert found.strategy == "weighted"
    assert [(item.backend, item.variant, item.share, item.max_requests) for item in found.backends] == [
        ("http://one:80", "a", 0.5625, 9),
        ("http://two:81", "a", 0.1875, None),
        ("http://b:80", "b", 0.25, None),
    ]


@pytest.mark.parametrize(
    ("path", "keys", "outcome", "why"),
    [
        ("/all/1", {}, "refused", "https_only refuses it: it did not come over HTTPS"),
        (
            "/all/1",
            {"scheme": "https", "client_ip": "10.1.2.3"},
            "refused",
            "access refuses it: 10.1.2.3 is in a network of deny",
        ),
        (
            "/all/1",
            {"scheme": "https", "client_ip": "::1"},
            "refused",
            "access refuses it: ::1 is in no network of allow",
        ),
        ("/shut", {}, "answered", "it is closed"),
        ("/fixed", {}, "answered", "it is answered here"),
    ],
    ids=["scheme", "denied", "unlisted", "closed", "fixed"],
)
def test_where_a_request_ends_before_a_backend(path, keys, outcome, why):
    found = explained(ALL, path, **keys)
    assert found.outcome == outcome
    assert found.why.endswith(why)


ASKED = [
    ("GET", "/users/me"), ("HEAD", "/users/9"), ("PUT", "/users/a%20b?x=y&z"), ("GET", "/users/v1"),
    ("GET", "/x/../users/me"),
    ("GET", "/other//b"), ("POST", "/users/1"), ("OPTIONS", "/users/1"), ("GET", "/slash/"), ("GET", "/a/%zz"),
    ("GET", "/hosted/a%26b?c"), ("GET", "/live"),
]  # fmt: skip


def test_the_data_plane_does_what_was_told():
    with origin(echo) as server:
        document = {"routers": [{**found, "backends": [{"host": server.url}]} for found in MANY["routers"]]}
        explainer = Explainer(checked(document))
        with serving(document) as gateway:
            for method, path in ASKED:
                told = explainer.explain(Question(path, method, "a.example"))
                with gateway.connect() as peer:
                    peer.send(f"{method} {path} HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n".encode())
                    head, body = (peer.receive_head(), b"") if method == "HEAD" else peer.receive_response()
                status = int(head.split()[1])
                assert status == (told.status or 200), (method, path, told)
                if told.outcome == "forwarded" and method != "HEAD":
                    assert body.split()[1].decode() == told.upstream_path
