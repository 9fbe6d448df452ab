// What oidc-provider expects of newer releases of Node, for the Node 18 and 20
// of the distributions. To be imported before it.
import { webcrypto } from 'node:crypto';

globalThis.crypto ??= webcrypto;
URL.parse ??= (url, base) => {
  try {
    return new URL(url, base);
  } catch {
    return null;
  }
};
