// What oidc-provider expects of newer releases of Node, for the Node 18 and 20
// of the distributions. To be imported before it, and it by import().
import * as crypto from 'node:crypto';
import { register } from 'node:module';

// It imports hash() by name, which cannot be added to a module of Node's own.
if (!crypto.hash) register('./crypto_hooks.mjs', import.meta.url);

globalThis.crypto ??= crypto.webcrypto;
URL.parse ??= (url, base) => {
  try {
    return new URL(url, base);
  } catch {
    return null;
  }
};
