// An OpenID Connect server on loopback: oidc-provider with rotating refresh
// tokens. Presenting a used refresh token revokes its grant.
//
// usage: node server.mjs --port-file FILE
// Runs until its standard input is closed. ACCESS_TOKEN_TTL: seconds (60).
//
// The clients are "basic", "post" (client_secret_basic, client_secret_post) and
// "public" (none); their secrets are made at start. SIGN_IN_REDIRECT_URIS, URIs
// apart by blanks, adds "sign-in" (client_secret_basic, PKCE required), for which
// users sign in with a browser; CLIENTS_FILE adds those of registered_clients.mjs, and
// TLS_CERTIFICATE https on another port, see mutual_tls.mjs. Besides the endpoints of
// the discovery document there are
//   GET  /test/clients                          client_id, client_secret, token_endpoint_auth_method of each
//   GET  /test/tls_port                         the port of https
//   GET  /test/grants?client=&n=&prefix=        new grants, as token responses with their subject
//   GET  /test/stats                            counters
//   GET  /test/introspect?token=                whether an access token is valid
//   POST /test/control?broken=true|false        while broken, the token endpoint answers 500
//   POST /test/control?lose=N                   the next N answers of the token endpoint are lost when they are made
//   POST /test/control?jwks_broken=true|false   the same of the JWKS
//   POST /test/control?rotate_keys=true         another key signs from now on; the JWKS has only that
import './node_compat.mjs';
import { randomBytes, randomInt, generateKeyPairSync } from 'node:crypto';
import { renameSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { MapAdapter } from './map_adapter.mjs';
import { createTlsServer, mutualTls } from './mutual_tls.mjs';
import { metadataOf, readClients } from './registered_clients.mjs';
import { answerInteraction, isInteraction } from './sign_in_pages.mjs';

const { Provider } = await import('oidc-provider');

const accessTokenTtl = Number(process.env.ACCESS_TOKEN_TTL ?? 60);
const scope = 'openid offline_access';
const refreshTokenTtl = 24 * 3600;
const signInRedirectUris = (process.env.SIGN_IN_REDIRECT_URIS ?? '').split(' ').filter(Boolean);
const cookieKey = randomBytes(32).toString('hex');

const ownClients = [
  ['basic', 'client_secret_basic'],
  ['post', 'client_secret_post'],
  ['public', 'none'],
  ...(signInRedirectUris.length > 0 ? [['sign-in', 'client_secret_basic']] : []),
].map(([client_id, token_endpoint_auth_method]) => ({
  client_id,
  token_endpoint_auth_method,
  ...(token_endpoint_auth_method !== 'none' && { client_secret: randomBytes(24).toString('base64url') }),
}));
const clients = [...ownClients, ...readClients(process.env.CLIENTS_FILE)];
const keptRefreshTokens = new Set(clients.filter((client) => client.keeps_refresh_token).map((client) => client.client_id));

// All that it remembers is in the adapter, so another one can take its place.
function createProvider(issuer, kid) {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return new Provider(issuer, {
    adapter: MapAdapter,
    clientAuthMethods: [
      'client_secret_basic', 'client_secret_post', 'client_secret_jwt', 'private_key_jwt', 'none',
      ...(mutualTls.enabled ? ['tls_client_auth', 'self_signed_tls_client_auth'] : []),
    ],
    clients: clients.map((client) => metadataOf(client, client.client_id === 'sign-in' ? signInRedirectUris : [`${issuer}/callback`])),
    claims: { openid: ['sub'], profile: ['name'] },
    conformIdTokenClaims: false, // an id_token says the name, too
    cookies: { keys: [cookieKey] },
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      introspection: { enabled: true },
      mTLS: mutualTls,
      revocation: { enabled: true },
    },
    findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id, name: id }) }),
    interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
    // Without a kid the library computes one, with a function that Node 18 lacks.
    jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), alg: 'ES256', kid, use: 'sig' }] },
    pkce: { required: (ctx, client) => client.clientAuthMethod === 'none' || client.clientId === 'sign-in' },
    rotateRefreshToken: (ctx) => !keptRefreshTokens.has(ctx.oidc.client.clientId),
    ttl: {
      AccessToken: accessTokenTtl,
      ClientCredentials: accessTokenTtl,
      Grant: refreshTokenTtl,
      IdToken: accessTokenTtl,
      Interaction: 600,
      RefreshToken: refreshTokenTtl,
      Session: refreshTokenTtl,
    },
  });
}

function countEvents(provider, stats) {
  provider.on('grant.success', (ctx) => {
    if (ctx.oidc.params.grant_type === 'refresh_token') stats.refreshed += 1;
  });
  provider.on('grant.error', (ctx, error) => {
    stats.errors[error.error] = (stats.errors[error.error] ?? 0) + 1;
    if (ctx.oidc.entities.RefreshToken?.consumed) stats.reuse += 1;
  });
  provider.on('grant.revoked', () => { stats.grants_revoked += 1; });
  provider.on('refresh_token.consumed', () => { stats.refresh_tokens_consumed += 1; });
  provider.on('server_error', (ctx, error) => console.error(error));
}

// What a user's consent leaves behind, without a browser.
async function mintGrant(provider, clientId, accountId) {
  const client = await provider.Client.find(clientId);
  const grant = new provider.Grant({ accountId, clientId });
  grant.addOIDCScope(scope);
  const issued = { accountId, client, grantId: await grant.save(), gty: 'authorization_code', scope };
  return {
    subject: accountId,
    access_token: await new provider.AccessToken(issued).save(),
    refresh_token: await new provider.RefreshToken(issued).save(),
    token_type: 'Bearer',
    expires_in: accessTokenTtl,
    scope,
  };
}

// The answer to a request for /test/..., or undefined.
async function answerTest(state, request, url) {
  const { provider } = state;
  const query = url.searchParams;
  switch (`${request.method} ${url.pathname}`) {
    case 'GET /test/clients':
      return clients;
    case 'GET /test/tls_port':
      return { port: state.tlsPort };
    case 'GET /test/stats':
      return state.stats;
    case 'GET /test/grants': {
      const grants = [];
      for (let i = 1; i <= Number(query.get('n') ?? 1); i += 1) {
        grants.push(await mintGrant(provider, query.get('client'), `${query.get('prefix') ?? 'subject'}${i}`));
      }
      return grants;
    }
    case 'GET /test/introspect':
      return { active: Boolean(await provider.AccessToken.find(query.get('token'))) };
    case 'POST /test/control':
      if (query.has('broken')) state.broken = query.get('broken') === 'true';
      if (query.has('lose')) state.lose = Number(query.get('lose'));
      if (query.has('jwks_broken')) state.jwksBroken = query.get('jwks_broken') === 'true';
      if (query.get('rotate_keys') === 'true') renewKey(state);
      return { broken: state.broken, jwks_broken: state.jwksBroken, kid: state.kid };
    default:
      return undefined;
  }
}

function answerJson(response, status, value) {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(value));
}

// A provider with a new signing key takes the place of the one before.
function renewKey(state) {
  state.keys += 1;
  state.kid = `test-${state.keys}`;
  state.provider = createProvider(state.issuer, state.kid);
  state.answerOidc = state.provider.callback();
  countEvents(state.provider, state.stats);
}

// Notes a request in the statistics. Returns whether its endpoint is broken.
function meet(state, path, response) {
  if (path === '/token') state.stats.requests += 1;
  if (path === '/jwks') state.stats.jwks += 1;
  if (path === '/token/revocation') {
    response.on('finish', () => { if (response.statusCode === 200) state.stats.revocations += 1; });
  }
  return (path === '/token' && state.broken) || (path === '/jwks' && state.jwksBroken);
}

// What has been done stays done, but nobody is told.
function loseAnswer(request, response) {
  response.end = () => request.socket.destroy();
}

function serve(servers, issuer, tlsPort) {
  const state = {
    issuer,
    tlsPort,
    keys: 0,
    broken: false,
    lose: 0,
    jwksBroken: false,
    stats: {
      requests: 0, refreshed: 0, reuse: 0, grants_revoked: 0, refresh_tokens_consumed: 0, revocations: 0, jwks: 0, tls_errors: 0,
      errors: {},
    },
  };
  renewKey(state);
  const answer = (request, response) => {
    const url = new URL(request.url, issuer);
    if (url.pathname.startsWith('/test/')) {
      answerTest(state, request, url).then(
        (value) => answerJson(response, value === undefined ? 404 : 200, value ?? {}),
        (error) => answerJson(response, 500, { error: error.message }),
      );
    } else if (meet(state, url.pathname, response)) {
      request.resume();
      answerJson(response, 500, { error: 'server_error' });
    } else if (isInteraction(url.pathname)) {
      answerInteraction(state.provider, request, response).catch((error) => answerJson(response, 400, { error: error.message }));
    } else {
      if (url.pathname === '/token' && state.lose > 0) {
        state.lose -= 1;
        loseAnswer(request, response);
      }
      state.answerOidc(request, response);
    }
  };
  for (const server of servers) {
    server.on('request', answer);
    server.on('tlsClientError', () => { state.stats.tls_errors += 1; });
  }
}

// Below the ephemeral range, where no outgoing connection takes the port.
function listen(server) {
  return new Promise((resolve, reject) => {
    const attempt = () => server.listen(randomInt(20000, 32000), '127.0.0.1');
    server.on('error', (error) => (error.code === 'EADDRINUSE' ? attempt() : reject(error)));
    server.on('listening', () => resolve(server.address().port));
    attempt();
  });
}

const [flag, portFile] = process.argv.slice(2);
if (flag !== '--port-file' || !portFile) {
  console.error('usage: node server.mjs --port-file FILE');
  process.exit(2);
}
const server = createServer({ keepAliveTimeout: 60_000 });
const port = await listen(server);
const tlsServer = createTlsServer({ keepAliveTimeout: 60_000 });
const tlsPort = tlsServer && (await listen(tlsServer));
serve(tlsServer ? [server, tlsServer] : [server], `http://127.0.0.1:${port}`, tlsPort);
writeFileSync(`${portFile}.new`, `${port}\n`);
renameSync(`${portFile}.new`, portFile);
process.stdin.resume().on('end', () => process.exit(0));
