"""A real nginx, for tests of what servers by others make of us."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

_CONFIG = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log info;
events {{}}
http {{
    access_log {folder}/access.log; client_body_temp_path {folder}/t; proxy_temp_path {folder}/t;
    fastcgi_temp_path {folder}/t; uwsgi_temp_path {folder}/t; scgi_temp_path {folder}/t;
    server {{ {server} }}
}}
"""


@contextlib.contextmanager
def nginx(folder: Path, server: str) -> Iterator[None]:
    """One with this server block, its files in the folder, for the length of a with block."""
    (folder / "nginx.conf").write_text(_CONFIG.format(folder=folder, server=server))
    with subprocess.Popen(["nginx", "-c", str(folder / "nginx.conf")], stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 25
            while not (folder / "pid").exists():
                assert time.monotonic() < deadline, (folder / "error.log").read_text()
                time.sleep(0.01)
            yield
        finally:
            process.terminate()
