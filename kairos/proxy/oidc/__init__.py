"""Login at OpenID providers: the authorization code flow with PKCE, and sessions in encrypted cookies.

    sealing     text only this gateway can read and make
    cookies     values in cookies, cut where they are too long for one
    session     what a session holds, and when it is over
    tokens      what an ID token must be
    flow        requests to the provider and what comes back, as pure functions
    provider    a provider as one worker has it: metadata, keys, sessions seen
    handlers    callback and logout
    login       the method `oidc` of authentication

What is asked of a provider goes through the control process (kairos/control/oidc.py), once for all workers.
"""
