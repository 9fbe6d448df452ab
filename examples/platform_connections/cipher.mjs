// How the service keeps a token: AES-256-GCM, stored as iv:tag:ciphertext in hexadecimal. The key, 64 hexadecimal
// digits, comes from the environment.
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import { createInterface } from 'node:readline';

const IV_BYTES = 16;
const TAG_BYTES = 16;

function encryptionKey() {
  const hex = process.env.ENCRYPTION_KEY ?? '';
  if (!/^[0-9a-f]{64}$/i.test(hex)) throw new Error('ENCRYPTION_KEY must be 64 hexadecimal digits');
  return Buffer.from(hex, 'hex');
}

export function encryptToken(token) {
  const iv = randomBytes(IV_BYTES);
  const cipher = createCipheriv('aes-256-gcm', encryptionKey(), iv);
  const ciphertext = Buffer.concat([cipher.update(token, 'utf8'), cipher.final()]);
  return [iv, cipher.getAuthTag(), ciphertext].map((part) => part.toString('hex')).join(':');
}

export function decryptToken(stored) {
  const [iv, tag, ciphertext] = stored.split(':').map((part) => Buffer.from(part, 'hex'));
  const decipher = createDecipheriv('aes-256-gcm', encryptionKey(), iv, { authTagLength: TAG_BYTES });
  decipher.setAuthTag(tag);
  return Buffer.concat([decipher.update(ciphertext), decipher.final()]).toString('utf8');
}

// Writes convert(line) for every line of the standard input. What is wrong with a line is not for others to read.
export async function convertLines(convert) {
  let number = 0;
  for await (const line of createInterface({ input: process.stdin })) {
    number += 1;
    try {
      process.stdout.write(`${convert(line)}\n`);
    } catch {
      process.stderr.write(`line ${number} cannot be converted with this ENCRYPTION_KEY\n`);
      process.exitCode = 1;
    }
  }
}
