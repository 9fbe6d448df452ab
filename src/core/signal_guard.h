// Blocks signals in the calling thread for a scope. Around calls into libcurl:
// its resolver starts threads, a thread inherits the mask of its creator, and no
// signal meant for the server process may ever be handled in such a thread.
#pragma once

#include <pthread.h>
#include <signal.h>

namespace token_refresh {

class SignalGuard {
 public:
  SignalGuard() {
    sigset_t blocked;
    sigfillset(&blocked);
    // Raised by the thread's own fault; to block them would only hide where it happened.
    for (int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP}) sigdelset(&blocked, fault);
    pthread_sigmask(SIG_BLOCK, &blocked, &previous_);
  }
  ~SignalGuard() { pthread_sigmask(SIG_SETMASK, &previous_, nullptr); }
  SignalGuard(const SignalGuard&) = delete;
  SignalGuard& operator=(const SignalGuard&) = delete;

 private:
  sigset_t previous_;
};

}  // namespace token_refresh
