// usage: PORT=8080 node server.mjs        the database: PGHOST, PGUSER, PGDATABASE, ... as for psql
//
// A small API behind API tokens. VALIDATE_FUNCTION: another function with the same columns. PREPARE=0: behind pgbouncer.
import express from 'express';
import pg from 'pg';
import { requireApiToken } from './api_token.mjs';

const pool = new pg.Pool({ max: 10, connectionTimeoutMillis: 2000, query_timeout: 10000 });
// A connection that breaks while nobody uses it would else end the process.
pool.on('error', (error) => console.error(`an idle connection was lost (${error.code ?? error.name})`));

const hex = (bytes) => bytes?.toString('hex') ?? null;

const options = { validate: process.env.VALIDATE_FUNCTION || undefined, prepare: process.env.PREPARE !== '0' };
const app = express();
app.disable('x-powered-by');

app.get('/orders', requireApiToken(pool, options), (req, res) => {
  res.set('Cache-Control', 'max-age=60').json({ user: hex(req.user_hk), tenant: hex(req.tenant_hk), scope: req.scope });
});

app.post('/orders', requireApiToken(pool, { ...options, scope: 'api:write' }), (req, res) => {
  res.status(201).json({ user: hex(req.user_hk) });
});

const server = app.listen(Number(process.env.PORT || 8080), '127.0.0.1', () => {
  console.log(`listening on port ${server.address().port}`);
});
