// usage: APP_URL=http://localhost:8080 node server.mjs      the database: PGHOST, PGUSER, PGDATABASE, ... as for psql
//
// A web application whose users sign in with an OpenID provider. PostgreSQL does the sign-in, keeps the tokens and knows
// the sessions; what is left to do here is to redirect the browser and to keep two cookies.
import express from 'express';
import * as pages from './pages.mjs';
import { openDatabase } from './sign_in.mjs';

const { origin, protocol, port } = new URL(process.env.APP_URL || 'http://localhost:8080');
const database = openDatabase(process.env.PROVIDER || 'openid', `${origin}/callback`);

// Lax: the provider's redirect brings the cookies along, a form on another site does not.
const secure = protocol === 'https:';
const cookieOptions = { httpOnly: true, sameSite: 'lax', secure };
const signInCookie = cookieName('sign-in');
const sessionCookie = cookieName('session');

// With the prefix a browser takes a cookie from this very host alone, and over https.
function cookieName(name) {
  return secure ? `__Host-${name}` : name;
}

// No value that is set here needs decoding.
function cookie(req, name) {
  const pairs = (req.get('Cookie') ?? '').split(/; */);
  return pairs.find((pair) => pair.startsWith(`${name}=`))?.slice(name.length + 1);
}

const app = express();
app.disable('x-powered-by');
app.set('trust proxy', 'loopback');

app.use((req, res, next) => {
  res.set({
    'Cache-Control': 'no-store',
    'Content-Security-Policy': pages.contentSecurityPolicy,
    'Referrer-Policy': 'same-origin',
    'X-Content-Type-Options': 'nosniff',
  });
  // Browsers say where a form was sent from.
  if (req.method === 'POST' && req.get('Origin') !== origin) return res.status(403).send(pages.message('This form was not sent from here.'));
  return next();
});

async function signedIn(req, res, next) {
  const jwt = cookie(req, sessionCookie);
  req.claims = jwt && (await database.validate(jwt));
  if (req.claims) return next();
  return res.status(401).clearCookie(sessionCookie, cookieOptions).send(pages.message('Please sign in.'));
}

app.get('/', (req, res) => res.send(pages.home()));

// The state in the cookie binds what comes back to this browser.
app.get('/sign-in', async (req, res) => {
  const { authorization_url, state } = await database.begin();
  res.cookie(signInCookie, state, { ...cookieOptions, maxAge: 600_000 }).redirect(authorization_url);
});

app.get('/callback', async (req, res) => {
  const { state, code, iss, error } = req.query;
  const refuse = (text) => res.status(400).send(pages.message(text));
  const expected = cookie(req, signInCookie);
  res.clearCookie(signInCookie, cookieOptions);
  if (!expected || state !== expected) return refuse('This sign-in was not begun in this browser, or has been used.');
  if (error === 'access_denied') return refuse('You have not signed in.');
  if (typeof code !== 'string') return refuse('The provider could not sign you in.');

  const session = await database.complete(state, code, iss, { ip: req.ip, user_agent: req.get('User-Agent')?.slice(0, 500) });
  if (!session) return refuse('The sign-in was refused.');
  return res.cookie(sessionCookie, session.jwt_token, { ...cookieOptions, expires: session.expires_at }).redirect(303, '/account');
});

app.get('/account', signedIn, async (req, res) => {
  res.send(pages.account(req.claims, await database.tokenStatus(req.claims.sub)));
});

app.post('/sign-out', signedIn, async (req, res) => {
  await database.revokeSession(req.claims.jti);
  res.clearCookie(sessionCookie, cookieOptions).redirect(303, '/');
});

app.post('/sign-out-everywhere', signedIn, async (req, res) => {
  await database.revokeAllSessions(req.claims.sub);
  res.clearCookie(sessionCookie, cookieOptions).redirect(303, '/');
});

// The provider is told to forget its tokens, then they are gone here. The session goes on.
app.post('/disconnect', signedIn, async (req, res) => {
  await database.disconnect(req.claims.sub);
  res.redirect(303, '/account');
});

app.use((error, req, res, next) => {
  // Nothing of the error but its code: it may quote what it was about.
  console.error(`${req.method} ${req.path} failed (${error.code ?? error.name})`);
  res.status(503).set('Retry-After', '1').send(pages.message('This does not work at the moment.'));
});

const server = app.listen(Number(process.env.PORT || port || 8080), '127.0.0.1', () => {
  console.log(`listening on port ${server.address().port}`);
});
