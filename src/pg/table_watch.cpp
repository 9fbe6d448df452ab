#include "pg/table_watch.h"

extern "C" {
#include "access/transam.h"
}

namespace token_refresh {

namespace {

constexpr int kCaches[] = {NAMESPACEOID, TYPEOID, OPEROID, PROCOID, AUTHOID};
constexpr int kMostObjects = 200;

}  // namespace

struct Watched {
  bool all[lengthof(kCaches)];
  int count;
  struct {
    int cache;
    uint32 hash;
  } objects[kMostObjects];
};

Watched* NewWatched() { return static_cast<Watched*>(palloc0(sizeof(Watched))); }

void WatchAll(Watched* watched, int cache) {
  for (size_t i = 0; i < lengthof(kCaches); i++)
    if (kCaches[i] == cache) watched->all[i] = true;
}

void Watch(Watched* watched, int cache, Oid object) {
  if (object < FirstNormalObjectId) return;
  if (watched->count == kMostObjects) return WatchAll(watched, cache);
  watched->objects[watched->count++] = {cache, GetSysCacheHashValue1(cache, ObjectIdGetDatum(object))};
}

void WatchType(Watched* watched, Oid type) {
  if (type < FirstNormalObjectId) return;
  HeapTuple tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
  if (!HeapTupleIsValid(tuple)) return;
  const Form_pg_type form = reinterpret_cast<Form_pg_type>(GETSTRUCT(tuple));
  Watch(watched, TYPEOID, type);
  Watch(watched, NAMESPACEOID, form->typnamespace);
  const Oid element = form->typelem, base = form->typbasetype;
  ReleaseSysCache(tuple);
  WatchType(watched, element);
  WatchType(watched, base);
}

void CallWhenNamesChange(SyscacheCallbackFunction changed) {
  for (const int cache : kCaches) CacheRegisterSyscacheCallback(cache, changed, 0);
}

bool IsWatched(const Watched& watched, int cache, uint32 hash) {
  for (size_t i = 0; i < lengthof(kCaches); i++)
    if (kCaches[i] == cache && watched.all[i]) return true;
  for (int i = 0; i < watched.count; i++)
    if (watched.objects[i].cache == cache && (hash == 0 || hash == watched.objects[i].hash)) return true;
  return false;
}

}  // namespace token_refresh
