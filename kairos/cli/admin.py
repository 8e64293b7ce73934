"""Asks a running gateway over the admin socket of its state folder."""

from __future__ import annotations

import http.client
import json
import os
import socket
from typing import Any

from kairos.storage.state import ADMIN_SOCKET

PATIENCE = 150.0  # seconds for an answer: longer than the gateway gives itself for the longest command


class UnreachableError(Exception):
    """Nobody answers; the text says what to do."""


class RefusedError(Exception):
    """The gateway did not do it."""

    def __init__(self, status: int, detail: str, problems: list[str]) -> None:
        super().__init__(detail)
        self.status = status
        self.problems = problems


class Admin:
    """The gateway that holds a state folder."""

    def __init__(self, folder: str) -> None:
        self._path = os.path.join(folder, ADMIN_SOCKET)

    def get(self, path: str) -> Any:
        """What the gateway answers. Raises UnreachableError, RefusedError."""
        return self._ask("GET", path, None)

    def post(self, path: str, **members: Any) -> Any:
        """Have something done. Raises UnreachableError, RefusedError."""
        return self._ask("POST", path, json.dumps(members) if members else None)

    def patch(self, path: str, **members: Any) -> Any:
        """Have these members changed. Raises UnreachableError, RefusedError."""
        return self._ask("PATCH", path, json.dumps(members))

    def delete(self, path: str) -> Any:
        """Have something taken back. Raises UnreachableError, RefusedError."""
        return self._ask("DELETE", path, None)

    def _ask(self, method: str, path: str, body: str | None) -> Any:
        connection = _Connection(self._path)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            response = connection.getresponse()
            answer = json.loads(response.read())
        except OSError as error:
            raise UnreachableError(self._explained(error)) from error
        except (http.client.HTTPException, ValueError) as error:
            raise UnreachableError(f"{self._path}: not the answer of a gateway: {error}") from error
        finally:
            connection.close()
        if response.status >= 400:
            raise RefusedError(response.status, answer["detail"], answer.get("problems", []))
        return answer

    def _explained(self, error: OSError) -> str:
        other = "name the state folder of another with --state-dir or KAIROS_STATE_DIR"
        match error:
            case FileNotFoundError():
                return f"no gateway runs here: there is no {self._path}; {other}"
            case ConnectionRefusedError():
                return f"no gateway runs here any more: nobody listens on {self._path}; {other}"
            case PermissionError():
                return f"only the user that runs the gateway may manage it: no access to {self._path}"
            case TimeoutError():
                return f"no answer on {self._path} within {PATIENCE:g} s; the gateway's log may say why"
        return f"{self._path}: {error}"


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self._path)
