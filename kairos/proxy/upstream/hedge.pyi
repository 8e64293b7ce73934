from typing import final

from kairos.config.model import Hedge
from kairos.proxy.exchange import Plan

@final
class Hedger:
    def __init__(self, spec: Hedge, plan: Plan) -> None: ...
    @property
    def delay(self) -> float: ...
