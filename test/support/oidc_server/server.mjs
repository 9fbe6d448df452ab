// An OpenID Connect server on loopback: oidc-provider with rotating refresh
// tokens. Presenting a used refresh token revokes its grant.
//
// usage: node server.mjs --port-file FILE
// Runs until its standard input is closed. ACCESS_TOKEN_TTL: seconds (60).
//
// The clients are "basic", "post" (client_secret_basic, client_secret_post) and
// "public" (none); their secrets are made at start. Besides the endpoints of
// the discovery document there are
//   GET  /test/clients                          client_id, client_secret, token_endpoint_auth_method of each
//   GET  /test/grants?client=&n=&prefix=        new grants, as token responses with their subject
//   GET  /test/stats                            counters
//   GET  /test/introspect?token=                whether an access token is valid
//   POST /test/control?broken=true|false        while broken, the token endpoint answers 500
import './node_compat.mjs';
import { randomBytes, randomInt, generateKeyPairSync } from 'node:crypto';
import { renameSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { Provider } from 'oidc-provider';
import { MapAdapter } from './map_adapter.mjs';

const accessTokenTtl = Number(process.env.ACCESS_TOKEN_TTL ?? 60);
const scope = 'openid offline_access';
const refreshTokenTtl = 24 * 3600;

const clients = [
  ['basic', 'client_secret_basic'],
  ['post', 'client_secret_post'],
  ['public', 'none'],
].map(([client_id, token_endpoint_auth_method]) => ({
  client_id,
  token_endpoint_auth_method,
  ...(token_endpoint_auth_method !== 'none' && { client_secret: randomBytes(24).toString('base64url') }),
}));

function createProvider(issuer) {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return new Provider(issuer, {
    adapter: MapAdapter,
    clients: clients.map((client) => ({
      ...client,
      grant_types: ['authorization_code', 'refresh_token'],
      redirect_uris: [`${issuer}/callback`],
      id_token_signed_response_alg: 'ES256',
    })),
    cookies: { keys: [randomBytes(32).toString('hex')] },
    features: { devInteractions: { enabled: false }, introspection: { enabled: true }, revocation: { enabled: true } },
    findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    // Without a kid the library computes one, with a function that Node 18 lacks.
    jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), alg: 'ES256', kid: 'test', use: 'sig' }] },
    rotateRefreshToken: true,
    ttl: {
      AccessToken: accessTokenTtl,
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
async function answerTest(provider, state, request, url) {
  const query = url.searchParams;
  switch (`${request.method} ${url.pathname}`) {
    case 'GET /test/clients':
      return clients;
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
      state.broken = query.get('broken') === 'true';
      return { broken: state.broken };
    default:
      return undefined;
  }
}

function answerJson(response, status, value) {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(value));
}

function serve(server, provider) {
  const state = {
    broken: false,
    stats: { requests: 0, refreshed: 0, reuse: 0, grants_revoked: 0, refresh_tokens_consumed: 0, errors: {} },
  };
  countEvents(provider, state.stats);
  const answerOidc = provider.callback();
  server.on('request', (request, response) => {
    const url = new URL(request.url, provider.issuer);
    if (url.pathname.startsWith('/test/')) {
      answerTest(provider, state, request, url).then(
        (value) => answerJson(response, value === undefined ? 404 : 200, value ?? {}),
        (error) => answerJson(response, 500, { error: error.message }),
      );
      return;
    }
    if (url.pathname === '/token') {
      state.stats.requests += 1;
      if (state.broken) {
        request.resume();
        answerJson(response, 500, { error: 'server_error' });
        return;
      }
    }
    answerOidc(request, response);
  });
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
serve(server, createProvider(`http://127.0.0.1:${port}`));
writeFileSync(`${portFile}.new`, `${port}\n`);
renameSync(`${portFile}.new`, portFile);
process.stdin.resume().on('end', () => process.exit(0));
