"""Every table of the control process's database: one schema, for SQLite and PostgreSQL alike.

Times are Unix seconds (float). What is changed here is brought to existing databases by a file in migrations/versions;
a test compares the two. Timestamps are those of the node that writes.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_Id = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself only in INTEGER PRIMARY KEY

revisions = Table(
    "revisions",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("parent", BigInteger, nullable=True),  # the revision that was changed; null for the first
    Column("time", Float, nullable=False),
    Column("author", String(200), nullable=False),
    Column("origin", String(40), nullable=False),  # api, cli, file, signal, start, rollback, node
    Column("message", Text, nullable=False),
    Column("node", String(200), primary_key=True),  # whose it is: each gateway has numbers of its own
    Column("format", String(10), nullable=False),
    Column("name", Text, nullable=False),  # of the file
    Column("text", LargeBinary, nullable=False),  # as it was read, `${…}` and all
    Column("sha256", String(64), nullable=False),
    Column("diff", Text, nullable=False),  # JSON: what changed since the parent, secrets masked
    Column("version", String(40), nullable=False),  # of the program
)

users = Table(
    "users",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("display_name", String(200), nullable=False, default=""),
    Column("email", String(320), nullable=False, default=""),
    Column("password_hash", Text, nullable=True),  # argon2id; null: logs in elsewhere only
    Column("must_change", Boolean, nullable=False, default=False),
    Column("disabled", Boolean, nullable=False, default=False),
    Column("issuer", Text, nullable=True),  # of single sign-on, with `subject`
    Column("subject", Text, nullable=True),
    Column("created_at", Float, nullable=False),
    Column("password_changed_at", Float, nullable=False),
    Column("last_login_at", Float, nullable=True),
)
Index("uq_users_issuer_subject", users.c.issuer, users.c.subject, unique=True)

roles = Table(
    "roles",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("description", Text, nullable=False, default=""),
    Column("permissions", Text, nullable=False),  # JSON list
    Column("built_in", Boolean, nullable=False, default=False),
)

user_roles = Table(
    "user_roles",
    metadata,
    Column("user_id", _Id, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("role", String(100), ForeignKey("roles.name"), primary_key=True),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id_hash", String(64), primary_key=True),  # SHA-256 of the cookie's value
    Column("user_id", _Id, ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("csrf", String(64), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("seen_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("address", String(64), nullable=False),
    Column("agent", String(400), nullable=False),
    Column("id_token", Text, nullable=True),  # of single sign-on, for logging out there
    Column("sid", String(255), nullable=True, index=True),  # which session it is there
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("user_id", _Id, ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("name", String(200), nullable=False),
    Column("secret_hash", String(64), nullable=False, unique=True),  # SHA-256: 256 random bits need no slow hash
    Column("scopes", Text, nullable=False),  # JSON list of permissions; never more than its user has
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=True),
    Column("used_at", Float, nullable=True),
    Column("used_from", String(64), nullable=True),
)

guesses = Table(
    "guesses",
    metadata,
    Column("key", String(64), primary_key=True),  # SHA-256 of what attempts are counted of
    Column("kind", String(10), nullable=False),  # address, account, device
    Column("user_id", _Id, ForeignKey("users.id", ondelete="CASCADE"), nullable=True, index=True),
    Column("wrong", Float, nullable=False),
    Column("until", Float, nullable=False),
    Column("seen", Float, nullable=False, index=True),
)
"""Wrong passwords, and browsers that gave the right one: kairos/control/access/lockout.py."""

audit = Table(
    "audit",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("time", Float, nullable=False, index=True),
    Column("node", String(200), nullable=False),
    Column("actor", String(200), nullable=False, index=True),
    Column("method", String(20), nullable=False),  # local, session, token, sso, none
    Column("address", String(64), nullable=False),
    Column("action", String(100), nullable=False, index=True),  # login, config.change, backend.change, ...
    Column("target", Text, nullable=False),
    Column("outcome", String(20), nullable=False),  # done, refused, failed
    Column("detail", Text, nullable=False),  # JSON, secrets masked
    Column("request_id", String(64), nullable=False),
    Column("previous", String(64), nullable=False),  # `hash` of the entry before
    Column("hash", String(64), nullable=False),
)

shared_revisions = Table(
    "shared_revisions",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("time", Float, nullable=False),
    Column("author", String(200), nullable=False),
    Column("message", Text, nullable=False),
    Column("node", String(200), nullable=False),  # that wrote it
    Column("document", Text, nullable=False),  # JSON: the part that goes to every node, `${…}` and all
)

nodes = Table(
    "nodes",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("started_at", Float, nullable=False),
    Column("seen_at", Float, nullable=False),
    Column("version", String(40), nullable=False),
    Column("revision", BigInteger, nullable=False),  # of the shared ones, that it serves with
    Column("problems", Text, nullable=False),  # JSON list: why it does not serve with the newest
    Column("status", Text, nullable=False),  # JSON: workers, backends, traffic
    Column("url", Text, nullable=False),  # of its admin API; empty where it has none
)

settings = Table(
    "settings",
    metadata,
    Column("key", String(100), primary_key=True),
    Column("value", Text, nullable=False),  # JSON
)
"""What the control process has to remember beside all that: keys of its own, marks of work done."""

metric_frames = Table(
    "metric_frames",
    metadata,
    Column("resolution", Integer, primary_key=True, autoincrement=False),  # seconds
    Column("at", BigInteger, primary_key=True, autoincrement=False),  # where the window begins, to the second
    Column("node", String(200), primary_key=True),
    Column("part", BigInteger, primary_key=True, autoincrement=False),  # one run of a control process that wrote it
    Column("data", LargeBinary, nullable=False),  # all series: kairos/control/history/frame.py
)

metric_series = Table(
    "metric_series",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),  # made from the key
    Column("key", Text, nullable=False),  # JSON list: scope and labels
    Column("seen_at", BigInteger, nullable=False, index=True),  # to the day
)
