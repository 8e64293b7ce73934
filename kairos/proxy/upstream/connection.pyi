import ssl

from kairos._speedups.cells import Page
from kairos.config.model import Keepalive
from kairos.config.origin import Origin as Address
from kairos.proxy.exchange import Runtime, Upstream

class Origin:
    @property
    def address(self) -> Address: ...
    @property
    def tls(self) -> ssl.SSLContext | None: ...
    @property
    def server_name(self) -> str | None: ...
    @property
    def runtime(self) -> Runtime: ...
    @property
    def authority(self) -> bytes: ...
    @property
    def idle_connections(self) -> int: ...
    def __init__(
        self,
        runtime: Runtime,
        address: Address,
        tls: ssl.SSLContext | None,
        server_name: str | None,
        keepalive: Keepalive,
        page: Page,
        row: int,
    ) -> None: ...
    def configure(self, keepalive: Keepalive) -> None: ...
    def retire(self) -> None: ...
    def protocol(self) -> UpstreamConnection: ...

class UpstreamConnection(Upstream):
    @property
    def origin(self) -> Origin: ...
