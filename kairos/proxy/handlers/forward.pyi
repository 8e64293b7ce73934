from kairos.proxy.exchange import Exchange, Handler

class Forward(Handler):
    def handle(self, x: Exchange) -> None: ...
