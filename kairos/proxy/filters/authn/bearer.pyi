from collections.abc import Iterable

from kairos._speedups.cells import Page
from kairos._speedups.tokens import TokenCache
from kairos.proxy.filters.authenticate import Authenticator
from kairos.proxy.filters.authn.carried import Place
from kairos.proxy.filters.authn.dpop import Proofs
from kairos.proxy.filters.authn.verify import Verifier

MISSING: str
MALFORMED: str
NO_BEARER: str
CHALLENGE: bytes

class Bearer(Authenticator):
    def __init__(
        self,
        verifier: Verifier,
        cache: TokenCache | None,
        places: Iterable[Place] | None,
        page: Page,
        proofs: Proofs | None = None,
    ) -> None: ...
    @property
    def cache(self) -> TokenCache | None: ...
    def forget(self) -> None: ...
