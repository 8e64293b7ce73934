from typing import Final, final

from kairos._speedups.cells import Page
from kairos.config.model import CircuitBreaker

CLOSED: Final[int]
OPEN: Final[int]
HALF_OPEN: Final[int]
REFUSED: Final[int]
ADMITTED: Final[int]
TRIAL: Final[int]
SUCCESS: Final[int]
FAILURE: Final[int]
NO_VERDICT: Final[int]

@final
class Gate:
    def __init__(self, page: Page, shared: int, settings: CircuitBreaker) -> None: ...
    def admit(self, now_us: int) -> int: ...
    def settle(self, outcome: int, trial: bool, now_us: int) -> int: ...
    def blocked(self, now_us: int) -> bool: ...
    @property
    def state(self) -> int: ...
    @property
    def count(self) -> int: ...
