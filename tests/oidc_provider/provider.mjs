// A real OpenID provider for tests: users are who they type, refresh tokens rotate, tokens of client "hasty" end soon.
// Arguments: port, redirect URIs (one text, blanks between), post-logout redirect URI, where "hasty" is told of logouts.
// Says "ready" once it listens.

import Provider from "oidc-provider";

const [port, redirectUris, postLogoutUri, backchannelLogoutUri] = process.argv.slice(2);

const client = {
  client_secret: "a client secret with $pecial:characters+and spaces",
  redirect_uris: redirectUris.split(" "),
  post_logout_redirect_uris: [postLogoutUri],
  grant_types: ["authorization_code", "refresh_token"],
  response_types: ["code"],
};

const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [
    { ...client, client_id: "gateway" },
    {
      ...client,
      client_id: "hasty",
      token_endpoint_auth_method: "client_secret_post",
      backchannel_logout_uri: backchannelLogoutUri,
      backchannel_logout_session_required: true,
    },
  ],
  claims: { openid: ["sub"], profile: ["name", "groups"], email: ["email"] },
  conformIdTokenClaims: false,
  cookies: { keys: ["for tests only"] },
  features: {
    backchannelLogout: { enabled: true },
    devInteractions: { enabled: true },
    revocation: { enabled: true },
    rpInitiatedLogout: { enabled: true },
  },
  fetch: (url, { dispatcher: _, ...options }) => fetch(url, options), // else it asks nobody on this machine
  findAccount: (_, sub) => ({
    accountId: sub,
    claims: () => ({ sub, name: `User ${sub}`, groups: ["staff"], email: `${sub}@example.test` }),
  }),
  issueRefreshToken: () => true,
  rotateRefreshToken: true,
  pkce: { required: () => true },
  ttl: {
    AccessToken: (_ctx, _token, { clientId }) => (clientId === "hasty" ? 4 : 3600),
    AuthorizationCode: 60,
    Grant: 3600,
    IdToken: 600,
    Interaction: 600,
    RefreshToken: 3600,
    Session: 3600,
  },
});

provider.listen(Number(port), "127.0.0.1", () => console.log("ready"));
