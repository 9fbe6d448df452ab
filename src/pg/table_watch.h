// What the names in the description of a token table depend on besides the table itself: schemas, types,
// operators, functions, the owner. A description in which one of them has changed is made anew.
#pragma once

#include "pg/postgres_api.h"

namespace token_refresh {

struct Watched;

// Palloc'd in the current context.
Watched* NewWatched();

// cache: NAMESPACEOID, OPEROID, PROCOID or AUTHOID. What PostgreSQL itself has made does not change.
void Watch(Watched* watched, int cache, Oid object);
// A type, with all that its name is made of.
void WatchType(Watched* watched, Oid type);
// A function that is missed may be any that is made.
void WatchAll(Watched* watched, int cache);

// Registers changed for all of these caches, once a process.
void CallWhenNamesChange(SyscacheCallbackFunction changed);
// What changed was called with. Does not raise.
bool IsWatched(const Watched& watched, int cache, uint32 hash);

}  // namespace token_refresh
