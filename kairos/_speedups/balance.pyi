from collections.abc import Iterable
from typing import Final

from kairos._speedups.cells import Page
from kairos.config.model import Strategy

NONE_LEFT: Final[int]
ALL_FULL: Final[int]

class Balancer:
    count: int
    def __len__(self) -> int: ...
    def choose(self, key: int = 0, now_us: int = 0, tried: int = 0) -> int: ...
    def observe(self, backend: int, us: int, ok: bool, now_us: int) -> None: ...

def cycle_weights(weights: list[int]) -> list[int]: ...
def make(
    strategy: Strategy,
    page: Page,
    *,
    cursor: int,
    workers: int,
    stride: int,
    backends: Iterable[tuple[int, int, int, str, int]],
    seed: int,
    slow_us: int,
    panic_percent: float,
    breakers: bool,
) -> Balancer: ...
