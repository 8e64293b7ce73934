"""What logins at OpenID providers have to be, whoever is the client: the gateway's routes or its admin API. Pure."""
