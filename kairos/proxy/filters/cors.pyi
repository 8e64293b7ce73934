from collections.abc import Sequence

from kairos.config.policies.cors import Cors
from kairos.proxy.exchange import Filter
from kairos.proxy.site import Site

class CorsFilter(Filter):
    def __init__(self, spec: Cors, methods: Sequence[str]) -> None: ...

def build(site: Site) -> Filter | None: ...
