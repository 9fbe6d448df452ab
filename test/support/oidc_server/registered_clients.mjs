// Clients that a test registers: a JSON file with a list of client metadata (RFC 7591 section 2), besides which a
// client may have
//   key_file               PEM file of a public key or a certificate, which become its jwks
//   keeps_refresh_token    true: its refresh tokens are not rotated
import { X509Certificate, createPublicKey } from 'node:crypto';
import { readFileSync } from 'node:fs';

export function readClients(file) {
  if (!file) return [];
  return JSON.parse(readFileSync(file, 'utf8')).map(({ key_file: keyFile, ...client }) => ({
    ...client,
    ...(keyFile && { jwks: { keys: [jwkOf(readFileSync(keyFile, 'utf8'), client.client_id)] } }),
  }));
}

// Without a kid the library computes one, with a function that Node 18 lacks.
function jwkOf(pem, kid) {
  if (!pem.includes('BEGIN CERTIFICATE')) return { ...createPublicKey(pem).export({ format: 'jwk' }), kid };
  const certificate = new X509Certificate(pem);
  return { ...certificate.publicKey.export({ format: 'jwk' }), kid, x5c: [certificate.raw.toString('base64')] };
}

// What the library is to know of a client.
export function metadataOf(client, redirectUris) {
  const { keeps_refresh_token: _, ...metadata } = client;
  const withoutUser = client.grant_types?.join() === 'client_credentials';
  return {
    grant_types: ['authorization_code', 'refresh_token'],
    redirect_uris: withoutUser ? [] : redirectUris,
    response_types: withoutUser ? [] : ['code'],
    id_token_signed_response_alg: 'ES256',
    ...metadata,
  };
}
