from collections.abc import Callable

from kairos.proxy.edits import Edits
from kairos.proxy.exchange import Exchange, Filter
from kairos.proxy.site import Site

class Choice:
    def __init__(
        self,
        name: str,
        token: str,
        holds: Callable[[Exchange], bool] | None,
        below: int,
        edits: Edits | None,
        more: Callable[[Exchange], None] | None,
    ) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def token(self) -> str: ...

class Splitter(Filter):
    def __init__(self, site: Site) -> None: ...

class StickySplitter(Splitter): ...

def build(site: Site) -> Filter | None: ...
