/* base/map.c - bytes -> u64.
 *
 * A dense list of entries in the order of their first insertion, and an open-addressed table (linear probing) of numbers
 * into it. So iteration has one order on every machine although the hash is seeded anew in each process, which keeps
 * somebody else's document from choosing keys that collide. Keys live in an arena; a rebuild after many deletions copies what is
 * left. A key given by map_each is good until the next put or delete. */
#include "base/inside.h"

typedef struct {
    u64 hash, value;
    const char *key; /* NULL: deleted */
    usize len;
} entry;
struct map {
    entry *entries;
    usize n, cap;  /* used entries, deleted ones included */
    usize live;    /* without them */
    u32 *slots;    /* entry number + 1; 0: free. A deleted entry keeps its slot until the next rebuild */
    usize n_slots; /* a power of two; at most half are used */
    arena *keys;
    u64 seed;
};
enum { SLOTS_MIN = 16 };

map *map_new(void)
{
    static _Atomic u64 process_seed;
    u64 seed = atomic_load(&process_seed);
    if (!seed) atomic_store(&process_seed, seed = random_u64() | 1);
    map *m = mem_zero(sizeof *m);
    if (!m) return NULL;
    m->seed = seed;
    m->keys = arena_new();
    if (m->keys) return m;
    mem_free(m);
    return NULL;
}

void map_free(map *m)
{
    if (!m) return;
    arena_free(m->keys);
    mem_free(m->entries);
    mem_free(m->slots);
    mem_free(m);
}

static entry *find(const map *m, str key, u64 hash)
{
    if (!m->n_slots) return NULL;
    for (usize i = hash & (m->n_slots - 1);; i = (i + 1) & (m->n_slots - 1)) {
        if (!m->slots[i]) return NULL;
        entry *e = &m->entries[m->slots[i] - 1];
        if (e->hash == hash && e->key && e->len == key.n && (!key.n || !memcmp(e->key, key.p, key.n))) return e;
    }
}

static void slot_put(u32 *slots, usize n_slots, u64 hash, usize number)
{
    usize i = hash & (n_slots - 1);
    while (slots[i]) i = (i + 1) & (n_slots - 1);
    slots[i] = (u32)number + 1;
}

/* Room for one more: new entries, slots and (when most keys are dead) key memory, all made before anything is changed. */
static bool rebuild(map *m)
{
    usize n_slots = SLOTS_MIN, at = 0;
    while (n_slots / 2 <= m->live + m->live / 2) n_slots *= 2;
    if (n_slots / 2 > UINT32_MAX) return false;
    bool move = m->n - m->live > m->live;
    entry *entries = mem_alloc(n_slots / 2 * sizeof *entries);
    u32 *slots = mem_zero(n_slots * sizeof *slots);
    arena *keys = move ? arena_new() : NULL;
    bool good = entries && slots && (keys || !move);
    for (usize i = 0; good && i < m->n; i++) {
        entry e = m->entries[i];
        if (!e.key) continue;
        if (move) e.key = arena_str(keys, e.key, e.len);
        good = e.key != NULL;
        entries[at] = e;
        slot_put(slots, n_slots, e.hash, at++);
    }
    if (!good) {
        mem_free(entries);
        mem_free(slots);
        arena_free(keys);
        return false;
    }
    mem_free(m->entries);
    mem_free(m->slots);
    if (move) {
        arena_free(m->keys);
        m->keys = keys;
    }
    m->entries = entries, m->slots = slots;
    m->n = at, m->cap = n_slots / 2, m->n_slots = n_slots;
    return true;
}

bool map_put(map *m, str key, u64 value)
{
    u64 hash = hash64(key.p, key.n, m->seed);
    entry *e = find(m, key, hash);
    if (e) {
        e->value = value;
        return true;
    }
    if (m->n == m->cap && !rebuild(m)) return false;
    const char *copy = arena_str(m->keys, key.p, key.n);
    if (!copy) return false;
    m->entries[m->n] = (entry){.hash = hash, .value = value, .key = copy, .len = key.n};
    slot_put(m->slots, m->n_slots, hash, m->n++);
    m->live++;
    return true;
}

bool map_get(const map *m, str key, u64 *value)
{
    if (!m) return false;
    entry *e = find(m, key, hash64(key.p, key.n, m->seed));
    if (e && value) *value = e->value;
    return e != NULL;
}

bool map_del(map *m, str key)
{
    if (!m) return false;
    entry *e = find(m, key, hash64(key.p, key.n, m->seed));
    if (!e) return false;
    e->key = NULL;
    m->live--;
    return true;
}

usize map_count(const map *m) { return m ? m->live : 0; }

bool map_each(const map *m, usize *it, str *key, u64 *value)
{
    if (!m) return false;
    while (*it < m->n) {
        const entry *e = &m->entries[(*it)++];
        if (!e->key) continue;
        if (key) *key = (str){e->key, e->len};
        if (value) *value = e->value;
        return true;
    }
    return false;
}
