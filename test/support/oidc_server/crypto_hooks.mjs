// Gives oidc-provider a node:crypto with hash(), see node_compat.mjs.
export function resolve(specifier, context, next) {
  if (specifier === 'node:crypto' && context.parentURL?.includes('/node_modules/oidc-provider/')) {
    return { url: new URL('./crypto_with_hash.mjs', import.meta.url).href, shortCircuit: true };
  }
  return next(specifier, context);
}
