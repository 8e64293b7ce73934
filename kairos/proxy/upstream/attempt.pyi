from structlog.typing import FilteringBoundLogger

log: FilteringBoundLogger
