// Sign-in and sessions: each is one statement.
import pg from 'pg';

export function openDatabase(provider, redirectUri) {
  // A sign-in waits for the provider: longer than token_refresh.request_timeout.
  const pool = new pg.Pool({ max: 10, connectionTimeoutMillis: 2000, query_timeout: 20000 });
  // A connection that breaks while nobody uses it would else end the process.
  pool.on('error', (error) => console.error(`an idle connection was lost (${error.code ?? error.name})`));
  const one = async (text, values) => (await pool.query(text, values)).rows[0];

  return {
    // {authorization_url, state}: where to send the browser, and what it has to bring back.
    begin: () => one('SELECT authorization_url, state FROM token_refresh.begin_authorization($1, redirect_uri => $2)', [provider, redirectUri]),

    // {jwt_token, expires_at}, or undefined if the sign-in is refused. The JWT says the name, too.
    async complete(state, code, iss, device) {
      try {
        return await one(
          `SELECT s.jwt_token, s.expires_at
           FROM token_refresh.complete_authorization($1, $2, expected_provider => $3, iss => $4) c,
                LATERAL token_refresh.create_session(c.provider, NULL, c.claims, $5, jsonb_build_object('name', c.claims -> 'name')) s`,
          [state, code, provider, iss, device],
        );
      } catch (error) {
        // 22021: what the browser brought back is no text. FATAL would be that the database does not let this application in.
        if (!['28000', '22021'].includes(error.code) || error.severity !== 'ERROR') throw error;
        console.warn(`a sign-in was refused: ${JSON.stringify(error.message)}`);
        return undefined;
      }
    },

    // The claims of a JWT that is good and whose session lives, or null.
    validate: async (jwt) => (await one('SELECT token_refresh.validate_jwt($1) AS claims', [jwt])).claims,

    // {status, expires_at}: of a valid access token, which stays in the database.
    tokenStatus: (user) => one('SELECT status, expires_at FROM token_refresh.get_token($1, $2)', [provider, user]),

    revokeSession: (jwtId) => one('SELECT token_refresh.revoke_session($1)', [jwtId]),
    revokeAllSessions: (user) => one('SELECT token_refresh.revoke_all_sessions($1)', [user]),
    disconnect: (user) => one('SELECT token_refresh.disconnect($1, $2)', [provider, user]),
  };
}
