// A peer for the refresher: what an application would do by itself. Reads due rows of
// bench_node_credential, opens the refresh token (AES-256-GCM), posts it, seals the answer and
// updates the row.
//
//   node node_refresher.mjs SOCKET_DIRECTORY DATABASE TOKEN_ENDPOINT serial|batched
//
// serial: one row after the other. batched: 64 requests in flight, and one UPDATE for all the
// answers that came in while the last one ran. Prints "rows seconds".
import crypto from 'node:crypto';
import http from 'node:http';
import pg from 'pg';

const [host, database, endpoint, mode] = process.argv.slice(2);
const IN_FLIGHT = 64;
const key = crypto.createHash('sha256').update('bench').digest();
const url = new URL(endpoint);
const agent = new http.Agent({ keepAlive: true, maxSockets: IN_FLIGHT });
const authorization = 'Basic ' + Buffer.from('bench:not-a-secret').toString('base64');

function seal(text) {
  const nonce = crypto.randomBytes(12);
  const cipher = crypto.createCipheriv('aes-256-gcm', key, nonce);
  return Buffer.concat([nonce, cipher.update(text, 'utf8'), cipher.final(), cipher.getAuthTag()]);
}

function open(sealed) {
  const decipher = crypto.createDecipheriv('aes-256-gcm', key, sealed.subarray(0, 12));
  decipher.setAuthTag(sealed.subarray(sealed.length - 16));
  return decipher.update(sealed.subarray(12, sealed.length - 16), undefined, 'utf8') + decipher.final('utf8');
}

function post(form) {
  return new Promise((resolve, reject) => {
    const request = http.request(
      {
        agent, host: url.hostname, port: url.port, path: url.pathname, method: 'POST',
        headers: {
          'Content-Type': 'application/x-www-form-urlencoded', 'Content-Length': form.length,
          Accept: 'application/json', Authorization: authorization,
        },
      },
      (response) => {
        let body = '';
        response.setEncoding('utf8');
        response.on('data', (chunk) => { body += chunk; });
        response.on('end', () => (response.statusCode === 200 ? resolve(JSON.parse(body)) : reject(new Error(body))));
      });
    request.on('error', reject);
    request.end(form);
  });
}

async function refresh(row) {
  const form = new URLSearchParams({ grant_type: 'refresh_token', refresh_token: open(row.refresh_token) }).toString();
  const answer = await post(form);
  return {
    id: row.id, access: seal(answer.access_token), refresh: seal(answer.refresh_token),
    expires_at: new Date(Date.now() + answer.expires_in * 1000),
  };
}

async function serial(client, rows) {
  for (const row of rows) {
    const fresh = await refresh(row);
    await client.query({
      name: 'save',
      text: `UPDATE bench_node_credential
             SET access_token = $2, refresh_token = $3, expires_at = $4, updated_at = now() WHERE id = $1`,
      values: [fresh.id, fresh.access, fresh.refresh, fresh.expires_at],
    });
  }
}

async function batched(client, rows) {
  let next = 0;
  let saved = 0;
  let answered = [];
  let wake = () => {};
  const worker = async () => {
    while (next < rows.length) {
      const fresh = await refresh(rows[next++]);
      answered.push(fresh);
      wake();
    }
  };
  const save = async () => {
    while (saved < rows.length) {
      if (answered.length === 0) await new Promise((resolve) => { wake = resolve; });
      const batch = answered;
      answered = [];
      if (batch.length === 0) continue;
      await client.query({
        name: 'save_batch',
        text: `UPDATE bench_node_credential c
               SET access_token = k.access, refresh_token = k.refresh, expires_at = k.expires_at, updated_at = now()
               FROM unnest($1::bigint[], $2::bytea[], $3::bytea[], $4::timestamptz[]) AS k(id, access, refresh, expires_at)
               WHERE c.id = k.id`,
        values: [batch.map((b) => b.id), batch.map((b) => b.access), batch.map((b) => b.refresh),
          batch.map((b) => b.expires_at)],
      });
      saved += batch.length;
    }
  };
  await Promise.all([save(), ...Array.from({ length: IN_FLIGHT }, worker)]);
}

async function prepare(client) {
  const { rows } = await client.query('SELECT id, plain FROM bench_node_credential WHERE plain IS NOT NULL');
  if (rows.length === 0) return;
  const sealed = rows.map((row) => seal(row.plain));
  await client.query(
    `UPDATE bench_node_credential c SET refresh_token = k.refresh, plain = NULL
     FROM unnest($1::bigint[], $2::bytea[]) AS k(id, refresh) WHERE c.id = k.id`, [rows.map((row) => row.id), sealed]);
}

const client = new pg.Client({ host, database, user: 'postgres' });
await client.connect();
await prepare(client);
const started = process.hrtime.bigint();
const limit = mode === 'serial' ? 2000 : 1000000;
const { rows } = await client.query(
  'SELECT id, refresh_token FROM bench_node_credential WHERE expires_at < now() ORDER BY expires_at LIMIT $1', [limit]);
await (mode === 'serial' ? serial : batched)(client, rows);
console.log(rows.length, Number(process.hrtime.bigint() - started) / 1e9);
await client.end();
agent.destroy();
