"""What is said of a whole configuration: errors, warnings, hints, each with its place."""

import pytest
from config_samples import SECRET, file, problems_of, route, said

from kairos.config.policies.jwt import SECRET_COMMAND

JWT = {"jwt": {"secret": SECRET}}
UP = {"host": "https://up.example"}


def backend(host, **keys):
    return route(backends=[{"host": host, **keys}])


def test_nothing_is_said_of_a_good_file():
    good = file(route(), route(external_path="/c/{id}"), rate_limit=None, **JWT)
    assert said(good) == said(good, "warning") == []
    assert [text[:15] for text in said(good, "hint")] == [": no rate_limit"]


# ---- errors: a file and the beginning of its one error

ERRORS = [
    (
        file(cors={"allowed_origins": ["*"], "allow_credentials": True}),
        "cors.allowed_origins: browsers refuse '*' together with allow_credentials",
    ),
    ({"routers": []}, "routers: No routers configured"),
    (file(route(auth_required=True)), "routers[0].auth_required: JWT configuration is required when routes have auth_"),
    (file(jwt={"secret": ""}), "jwt.secret: JWT secret cannot be empty"),
    (file(jwt={"secret": "please-change-this-secret"}), "jwt.secret: JWT secret must be changed from default value"),
    (file(jwt={"secret": "s" * 31}), "jwt.secret: JWT secret should be at least 32 characters for security"),
    (file(route(external_path="a")), "routers[0].external_path: External path must start with '/'"),
    (file(route(internal_path="b")), "routers[0].internal_path: Internal path must start with '/'"),
    (file(route(external_path="/api/../x")), "routers[0].external_path: Path traversal detected in route: /api/../x"),
    (
        file(route(internal_path="/x/%2E./y")),
        "routers[0].internal_path: Path traversal detected in route: /a -> /x/%2E",
    ),
    (file(route(external_path="/a?b")), "routers[0].external_path: holds a character"),
    (file(route(internal_path="/a\r\nX: y")), "routers[0].internal_path: holds a character"),
    (file(route(internal_path="/a#b")), "routers[0].internal_path: holds a character"),
    (file(route(methods=[])), "routers[0].methods: At least one HTTP method must be specified"),
    (file(route(backends=[])), "routers[0]: At least one backend must be specified"),
    (file(route(backends=...)), "routers[0]: At least one backend must be specified"),
    (file(backend("up")), "routers[0].backends[0].host: Backend host must start with http://, https://, ws://, or wss"),
    (file(backend("ftp://up")), "routers[0].backends[0].host: Backend host must start with"),
    (file(backend("http://u:p@up")), "routers[0].backends[0].host: credentials"),
    (file(backend("http://up/x")), "routers[0].backends[0].host: 'http://up/x' has a path"),
    (file(backend("http://up?x")), "routers[0].backends[0].host: 'http://up?x' has a query"),
    (file(backend("http://up:81", port=82)), "routers[0].backends[0].host: 'http://up:81' names port 81, but port"),
    (file(backend("http://up:0")), "routers[0].backends[0].host: the port in"),
    (file(backend("https://h", health_check_path="x")), "routers[0].backends[0].health_check_path: must be a path"),
    (file(route(backends=[{"host": "http://h"}], protocol="dns", methods=["POST"])), "routers[0].backends[0].host: a"),
    (
        file(route(backends=[{"host": "http://h"}], protocol="ftp")),
        "routers[0].backends[0].host: a backend of protocol",
    ),
    (
        file(route(retry={"initial_backoff_ms": 9, "max_backoff_ms": 8})),
        "routers[0].retry.initial_backoff_ms: initial_b",
    ),
    (file(route(hosts=["a.example", "http://b"])), "routers[0].hosts[1]: "),
    (file(route(hosts=["a.example:80"])), "routers[0].hosts[0]: "),
    (file(route(hosts=["*"])), "routers[0].hosts[0]: "),
    (file(trusted_proxies=["10.0.0.0/33"]), "trusted_proxies[0]: '10.0.0.0/33' is no network"),
    (
        file(trusted_proxies=["10.0.0.1/8"]),
        "trusted_proxies[0]: '10.0.0.1/8' has bits set after the prefix: write 10.0.",
    ),
    (file(metrics={"allow": ["::1", "x"]}), "metrics.allow[1]: 'x' is no network"),
    (file(metrics={"path": "metrics"}), "metrics.path: must be a literal path"),
    (file(tls={"ca_file": "/none/ca.pem"}), "tls.ca_file: cannot read /none/ca.pem: No such file or directory"),
    (file(tls={"cert_file": "/"}), "tls.cert_file: cannot read /: Is a directory"),
    (file(route(tls={"ca_file": "/none"})), "routers[0].tls.ca_file: cannot read /none"),
    (file(tls={"key_file": __file__}), "tls.key_file: is of no use without cert_file"),
    (file(tls={"server_name": "a b"}), "tls.server_name: 'a b' is no host name"),
    (file(server={"host": "http://x"}), "server.host: 'http://x' is no address"),
    (file(server={"unix": "/none/such/socket"}), "server.unix: the folder /none/such does not exist"),
    (file(server={"unix": "/" + "x" * 107}), "server.unix: must be a path of at most"),
    (file(headers={"via": "a\r\nb"}), "headers.via: must be"),
    (file(access_log={"file": ""}), "access_log.file: must be"),
    (file(log={"file": "logs/"}), "log.file: must be a path"),
    (file(log={"levels": {"helth": "info"}}), "log.levels.helth: no component has this name: did you mean 'health'?"),
    (file(log={"file": "a", "max_bytes": 4096}, access_log={"file": "a"}), "log.file: is access_log.file too"),
    (
        file(route(ai_policy={"enabled": True, "strategy": "latency_prediction", "fallback_backend_index": 1})),
        "routers[0].ai_policy.fallback_backend_index: there are only 1 backends",
    ),
]


@pytest.mark.parametrize(("document", "begins"), ERRORS, ids=[text for _, text in ERRORS])
def test_errors(document, begins):
    (text,) = said(document)
    assert text.startswith(begins)


def test_ranges_are_those_of_kairos_rs():
    assert said(file(route(retry={"max_retries": 20, "backoff_multiplier": 0.5}))) == [
        "routers[0].retry.max_retries: must be between 0 and 10",
        "routers[0].retry.backoff_multiplier: must be between 1 and 100",
    ]


# ---- secrets


def test_a_weak_secret_names_the_command_that_makes_a_good_one():
    assert SECRET_COMMAND in said(file(jwt={"secret": "short"}))[0]


@pytest.mark.parametrize("secret", ["short", "please-change-this-secret"])
def test_insecure_dev_turns_a_weak_secret_into_a_warning(secret):
    document = file(jwt={"secret": secret})
    assert said(document, insecure_dev=True) == []
    assert said(document, "warning", insecure_dev=True)[0].startswith("jwt.secret: JWT secret")


def test_an_empty_secret_is_refused_even_then():
    assert said(file(jwt={"secret": ""}), insecure_dev=True) != []


def test_thirty_two_bytes_are_counted_as_bytes():
    assert said(file(jwt={"secret": "é" * 16})) == []


# ---- patterns

GOOD_PATTERNS = [
    "/",
    "/a//b",
    "/{a}",
    "/f/{a}.{b}",
    "/{a}-{b}/{c}",
    "/{größe}",
    "/s/{rest:path}",
    "/x..y",
    "/a b",
    "/é",
]
BAD_PATTERNS = [
    "/{",
    "/{a",
    "/a}",
    "/{}",
    "/{a b}",
    "/{a-b}",
    "/{a:b}",
    "/{a}{b}",
    "/{a}/{a}",
    "/{r:path}/x",
    "/x{r:path}",
]


@pytest.mark.parametrize("path", GOOD_PATTERNS)
def test_good_patterns(path):
    assert said(file(route(external_path=path))) == []


@pytest.mark.parametrize("path", BAD_PATTERNS)
def test_bad_patterns(path):
    (text,) = said(file(route(external_path=path, internal_path="/")))
    assert text.startswith("routers[0].external_path: Invalid path pattern: ")


def test_placeholders_that_nothing_captures_stay_and_are_warned_of():
    texts = said(file(route(external_path="/{a}", internal_path="/{a}/{b}?x={c}")), "warning")
    assert [text.partition(" is not captured")[0] for text in texts] == [
        "routers[0].internal_path: {b}",
        "routers[0].internal_path: {c}",
    ]


# ---- duplicates: two routes, and whether they clash

PAIRS = [
    ({}, {}, True),
    ({}, {"methods": ["POST"]}, False),
    ({"methods": ["GET", "POST"]}, {"methods": ["POST", "PUT"]}, True),
    ({}, {"external_path": "/A"}, False),
    ({}, {"external_path": "/a/"}, False),
    ({}, {"external_path": "/%61"}, True),
    ({"external_path": "/{x}"}, {"external_path": "/{y}"}, True),
    ({"external_path": "/{x}.{y}"}, {"external_path": "/{a}.{b}"}, True),
    ({"external_path": "/{x}.a"}, {"external_path": "/{x}.b"}, False),
    ({"external_path": "/{x}"}, {"external_path": "/{x:path}"}, False),
    ({"hosts": ["a.example"]}, {"hosts": ["b.example"]}, False),
    ({"hosts": ["a.example", "b.example"]}, {"hosts": ["B.example"]}, True),
    ({"hosts": ["*.example"]}, {"hosts": ["a.example"]}, False),
    ({"hosts": ["a.example"]}, {}, False),
]


@pytest.mark.parametrize(("one", "other", "clash"), PAIRS)
def test_duplicates(one, other, clash):
    texts = said(file(route(**one), route(**other)))
    assert [text.partition(":")[0] for text in texts] == (["routers[1].external_path"] if clash else [])
    assert all("Duplicate route path detected: " in text for text in texts)


# ---- warnings and hints: a file, a severity, a phrase

DYNAMIC = [route(external_path=f"/{n}/{{id}}") for n in range(60)]
REMARKS = [
    (file(backend("http://up.example")), "warning", "routers[0].backends[0].host: Insecure HTTP backend detected"),
    (file(backend("http://localhost")), "warning", "HTTP backend to localhost detected"),
    (file(backend("http://127.0.0.1:8080")), "warning", "HTTP backend to localhost detected"),
    (file(backend("http://up.example")), "warning", "routers: All routes use HTTP"),
    (
        file(route(methods=["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD"])),
        "warning", "routers[0].methods: a route allows many HTTP methods",
    ),
    (file(route(external_path="/{a}/{b}/{c}/{d}")), "warning", "routers[0].external_path: a route has many parameters"),
    (file(*DYNAMIC), "hint", "High number of dynamic routes (60)"),
    (file(route(external_path="/{a}")), "hint", "no static routes"),
    (file(), "hint", "no rate_limit"),
    (file(route(protocol="websocket", methods=["POST"])), "warning", "a websocket route without GET"),
    (file(route(protocol="ftp", backends=[{"host": "h", "port": 2121}])), "hint", "another port than 21 or 22"),
    (file(route(protocol="ftp", backends=[{"host": "h"}])), "warning", "protocol: protocol ftp is not in effect"),
    (file(route(protocol="dns", backends=[{"host": "9.9.9.9", "port": 54}])), "warning", "another port than 53"),
    (file(route(protocol="dns", backends=[{"host": "9.9.9.9"}])), "warning", "a dns route usually takes POST"),
    (file(route(protocol="dns", backends=[{"host": "9.9.9.9"}])), "warning", "protocol: protocol dns is not in effect"),
    (file(route(external_path="/health")), "warning", "/health is answered by the gateway itself"),
    (file(route(external_path="/m"), metrics={"path": "/m"}), "warning", "/m is answered by the gateway itself"),
    (file(tls={"verify": False}), "warning", "tls.verify: any certificate is accepted"),
    (file(route(tls={"verify": False})), "warning", "routers[0].tls.verify: any certificate is accepted"),
    (file(trusted_proxies=["0.0.0.0/0"]), "warning", "trusted_proxies[0]: trusts every client"),
    (file(cors={}), "warning", "cors: no origin is allowed"),
    (file(ai={"provider": "openai", "model": "m"}), "warning", "ai: ai is not in effect in this version"),
    *[
        (file(route(**{name: value})), "warning", f"routers[0].{name}: {name} is not in effect in this version")
        for name, value in {
            "ai_policy": {"enabled": True, "strategy": "anomaly_detection"},
        }.items()
    ],
    (file(route(ai_policy={"enabled": True, "strategy": "content_analysis"})), "warning", "needs the section ai"),
]  # fmt: skip


@pytest.mark.parametrize(("document", "severity", "phrase"), REMARKS, ids=[f"{s}-{p}" for _, s, p in REMARKS])
def test_remarks(document, severity, phrase):
    assert said(document) == []
    assert any(phrase in text for text in said(document, severity))


def test_jwt_is_in_effect():
    assert not any("jwt" in problem.path for problem in problems_of(file(route(auth_required=True), **JWT)))


def test_mixed_backends_are_not_all_http():
    texts = said(file(backend("http://h"), route(external_path="/c")), "warning")
    assert not any("All routes use HTTP" in text for text in texts)


def test_disabled_endpoints_shadow_nothing():
    routes = [route(external_path="/health"), route(external_path="/metrics")]
    assert said(file(*routes, health={"enabled": False}, metrics={"enabled": False}), "warning") == []


def test_a_remark_on_many_routes_is_told_once():
    routes = [route(external_path=f"/{n}", backends=[{"host": f"http://h{n}"}]) for n in range(9)]
    (text,) = [text for text in said(file(*routes), "warning") if "Insecure" in text]
    assert text.startswith("routers[0].backends[0].host: ")
    assert text.endswith("(and 8 more like it)")


OVERLAPS = [
    ("/api/{kind}/{id}", "/api/users/{id}", "/api/users/{id}"),
    ("/{a}/x", "/b/{c}", "/b/{c}"),
    ("/b/{c}", "/{a}/x", None),
    ("/{a}.json", "/{a}.xml", None),
    ("/{a}/x", "/{a}/y", None),
]


@pytest.mark.parametrize(("one", "other", "winner"), OVERLAPS)
def test_overlaps_are_told_where_kairos_rs_took_the_other_route(one, other, winner):
    texts = said(file(route(external_path=one), route(external_path=other)), "warning")
    assert [f"between '{winner}'" in text for text in texts] == ([True] if winner else [])


def test_every_error_of_a_file_is_told_at_once():
    document = file(
        route(external_path="a", internal_path="b", methods=[], backends=[{"host": "x"}, {"host": "http://h/y"}]),
        route(external_path="/{"),
        jwt={"secret": "s"},
        trusted_proxies=["x"],
    )
    assert {text.partition(": ")[0] for text in said(document)} == {
        "jwt.secret", "trusted_proxies[0]", "routers[0].external_path", "routers[0].internal_path",
        "routers[0].methods", "routers[0].backends[0].host", "routers[0].backends[1].host", "routers[1].external_path",
    }  # fmt: skip
