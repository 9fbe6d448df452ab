// usage: ENCRYPTION_KEY=... node decrypt.mjs < ciphertexts > tokens        one a line
import { convertLines, decryptToken } from './cipher.mjs';

await convertLines(decryptToken);
