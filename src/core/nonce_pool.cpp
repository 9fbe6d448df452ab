#include "core/nonce_pool.h"

#include <openssl/rand.h>
#include <pthread.h>

#include <cstring>

#include "core/openssl_handles.h"

namespace token_refresh {
namespace {

// One call of RAND_bytes costs about as much for a whole pool as for one nonce.
constexpr size_t kPoolBytes = 4096 / kNonceBytes * kNonceBytes;

char pool[kPoolBytes];
size_t pool_used = kPoolBytes;

void ForgetPool() { pool_used = kPoolBytes; }

// A forked child inherits the pool and would give out the same nonces as its
// parent. The handler costs nothing per nonce; comparing getpid() each time would
// cost a system call, a tenth of a whole seal, and not see a process id that was
// used again.
Status ForgetPoolInChildren() {
  static bool registered = false;
  if (!registered && pthread_atfork(nullptr, nullptr, ForgetPool) != 0) {
    return Error{ErrorCode::kInternal, "cannot register the fork handler of the nonce pool: out of memory", {}};
  }
  registered = true;
  return Ok();
}

Status FillPool() {
  if (Status watched = ForgetPoolInChildren(); !watched) return watched;
  if (RAND_bytes(OpensslBytes(pool), kPoolBytes) != 1) return OpensslError("draw random bytes");
  pool_used = 0;
  return Ok();
}

}  // namespace

Status DrawNonce(char* out) {
  if (pool_used == kPoolBytes) {
    if (Status filled = FillPool(); !filled) return filled;
  }
  std::memcpy(out, pool + pool_used, kNonceBytes);
  pool_used += kNonceBytes;
  return Ok();
}

}  // namespace token_refresh
