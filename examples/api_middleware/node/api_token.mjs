// Express middleware: lets in who presents a good API token, says on the request whose it is, and hands out the
// successor of a token that expires soon.
//
//   app.get('/orders', requireApiToken(pool), handler);
//   app.post('/orders', requireApiToken(pool, { scope: 'api:write' }), handler);

// The form of RFC 6750; what else may be wrong with a token the database says.
const BEARER = /^Bearer +([\w.~+/-]+=*)$/i;

// validate: the function that is asked, a name of the developer's own. prepare: false behind a transaction-pooling
// proxy that does not know prepared statements (pgbouncer before 1.21).
export function requireApiToken(pool, options = {}) {
  const { scope = 'api:read', validate = 'token_refresh.validate_and_refresh_api_token', prepare = true } = options;
  const query = {
    name: prepare ? validate : undefined,
    text: `SELECT is_valid, user_hk, tenant_hk, scope, expires_at, new_token, was_refreshed, refresh_reason, message
           FROM ${validate}($1, $2)`,
  };

  return async function apiToken(req, res, next) {
    const token = BEARER.exec(req.get('Authorization') ?? '')?.[1];
    if (!token) return refuse(res, 'Bearer', 'a token is required: Authorization: Bearer TOKEN');

    let answer;
    try {
      answer = (await pool.query({ ...query, values: [token, scope] })).rows[0];
    } catch (error) {
      // Nothing of the error but its code: it may quote what it was about.
      console.error(`api token: the database cannot be asked (${error.code ?? error.name})`);
      return res.status(503).set('Retry-After', '1').json({ error: 'temporarily_unavailable' });
    }
    if (!answer.is_valid) return refuse(res, 'Bearer error="invalid_token"', answer.message);

    req.user_hk = answer.user_hk;
    req.tenant_hk = answer.tenant_hk;
    req.scope = answer.scope;
    if (answer.was_refreshed) {
      res.set({
        'X-New-Token': answer.new_token,
        'X-Token-Expires': answer.expires_at.toISOString(),
        'X-Refresh-Reason': answer.refresh_reason,
      });
      forbidCaching(res);
      console.info(`api token: refreshed (${answer.refresh_reason})`);
    }
    return next();
  };
}

// Whatever the handler says about caching, by setting headers or as arguments of writeHead.
function forbidCaching(res) {
  const { writeHead } = res;
  res.writeHead = function (...head) {
    res.set('Cache-Control', 'no-store');
    return writeHead.apply(res, head.map(withoutCaching));
  };
}

const aboutCaching = (name) => /^cache-control$/i.test(name);

// Headers may be an object, a list of pairs, and a list in which names and values alternate.
function withoutCaching(argument) {
  if (typeof argument !== 'object' || argument === null) return argument;
  if (!Array.isArray(argument)) return Object.fromEntries(Object.entries(argument).filter(([name]) => !aboutCaching(name)));
  if (Array.isArray(argument[0])) return argument.filter(([name]) => !aboutCaching(name));
  return argument.filter((_, at) => !aboutCaching(argument[at - (at % 2)]));
}

function refuse(res, challenge, message) {
  return res.status(401).set('WWW-Authenticate', challenge).json({ error: 'invalid_token', message });
}
