// node:crypto of Node 18 with hash(), which came with Node 20.12.
import * as crypto from 'node:crypto';

export * from 'node:crypto';
export default crypto.default;
export const hash = (algorithm, data, encoding = 'hex') => crypto.createHash(algorithm).update(data).digest(encoding);
