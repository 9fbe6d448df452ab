// The key ring of this process: read from token_refresh.key_file or key_command on first
// use, again after a reload of the configuration, and when a key is wanted that it does not hold: others
// may have sealed with a key that is new. For anyone in src/pg, from C++ code (inside RunCpp): it does
// not call PostgreSQL.
#pragma once

#include "core/key_ring.h"
#include "core/result.h"

namespace token_refresh {

// The ring stays valid until the next call of LoadKeyRing.
// When the source cannot be read any more, the ring that was read before is kept, the log says so, and the
// source is tried again a second later, a command a minute later.
// Errors: kKeyMissing, saying how to make a key or naming the line, when nothing is configured or the source
// does not give a key ring; kUnavailable when an interrupt came while key_command ran. None tells where the file is.
Result<const KeyRing*> LoadKeyRing();

// The next LoadKeyRing reads the source again.
void ForgetKeyRing();

}  // namespace token_refresh
