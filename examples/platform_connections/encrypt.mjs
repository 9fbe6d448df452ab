// usage: ENCRYPTION_KEY=... node encrypt.mjs < tokens > ciphertexts        one a line
import { convertLines, encryptToken } from './cipher.mjs';

await convertLines(encryptToken);
