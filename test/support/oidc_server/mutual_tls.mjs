// https that asks for a client certificate but does without one, and how oidc-provider comes by it (RFC 8705).
// TLS_CERTIFICATE, TLS_KEY and TLS_CA, for clients: PEM files. Without TLS_CERTIFICATE there is no https.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';

const environment = process.env;

export function createTlsServer(options) {
  if (!environment.TLS_CERTIFICATE) return undefined;
  return createServer({
    ...options,
    cert: readFileSync(environment.TLS_CERTIFICATE),
    key: readFileSync(environment.TLS_KEY),
    ca: readFileSync(environment.TLS_CA),
    requestCert: true,
    rejectUnauthorized: false,
  });
}

// The feature mTLS of oidc-provider. Of a subject the distinguished name is compared (RFC 4514), nothing else.
export const mutualTls = {
  enabled: Boolean(environment.TLS_CERTIFICATE),
  certificateBoundAccessTokens: true,
  selfSignedTlsClientAuth: true,
  tlsClientAuth: true,
  getCertificate: (ctx) => ctx.socket.getPeerX509Certificate?.(),
  certificateAuthorized: (ctx) => ctx.socket.authorized === true,
  certificateSubjectMatches: (ctx, property, expected) => property === 'tls_client_auth_subject_dn'
    && ctx.socket.getPeerX509Certificate().subject.split('\n').reverse().join(',') === expected,
};
