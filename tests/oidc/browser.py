"""A browser as far as logins need one: cookies by origin, redirects one by one or to their end, forms."""

from __future__ import annotations

import html
import http.client
import re
from dataclasses import dataclass, field
from urllib.parse import urlencode, urljoin, urlsplit

NAVIGATION = {"Accept": "text/html", "Sec-Fetch-Mode": "navigate"}


@dataclass
class Page:
    """What a request brought."""

    url: str
    status: int
    headers: list[tuple[str, str]]
    body: str

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    @property
    def location(self) -> str:
        """Where it redirects to, whole."""
        location = self.header("location")
        assert location is not None, (self.status, self.body)
        return urljoin(self.url, location)

    @property
    def set_cookies(self) -> list[str]:
        return [value for key, value in self.headers if key.lower() == "set-cookie"]


@dataclass
class TestBrowser:
    """One user's browser. What it sent last stands in `page`."""

    __test__ = False
    jars: dict[str, dict[str, str]] = field(default_factory=dict)

    def request(
        self, url: str, method: str = "GET", headers: dict[str, str] | None = None, form: dict[str, str] | None = None
    ) -> Page:
        """One request, with the cookies of its origin; no redirect is followed."""
        parts = urlsplit(url)
        jar = self.jars.setdefault(parts.netloc, {})
        sent = dict(NAVIGATION if headers is None else headers)
        if jar:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in jar.items())
        body = urlencode(form) if form is not None else None
        if body is not None:
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        connection = http.client.HTTPConnection(parts.netloc, timeout=25)
        try:
            connection.request(method, (parts.path or "/") + ("?" + parts.query if parts.query else ""), body, sent)
            answer = connection.getresponse()
            page = Page(url, answer.status, answer.getheaders(), answer.read().decode(errors="replace"))
        finally:
            connection.close()
        for line in page.set_cookies:
            self._keep(jar, line)
        return page

    @staticmethod
    def _keep(jar: dict[str, str], line: str) -> None:
        name, _, value = line.partition(";")[0].partition("=")
        if re.search(r"(?i)max-age=0\b|expires=thu, 01 jan 1970", line):
            jar.pop(name, None)
        else:
            jar[name] = value

    def follow(self, page: Page, stop: str | None = None) -> Page:
        """Redirects to their end, or up to one that leads to an address that begins with `stop`."""
        for _ in range(20):
            if page.status not in (301, 302, 303, 307) or (stop is not None and page.location.startswith(stop)):
                return page
            page = self.request(page.location)
        raise AssertionError("a redirect loop")

    def submit(self, page: Page, **values: str) -> Page:
        """The form on a page, filled in."""
        action = re.search(r'<form[^>]*action="([^"]+)"', page.body)
        assert action is not None, page
        hidden = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page.body))
        return self.request(urljoin(page.url, html.unescape(action[1])), "POST", dict(NAVIGATION), {**hidden, **values})
