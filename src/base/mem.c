/* base/mem.c - counted memory with failure on request, and the arena.
 *
 * Each block has a header with the C library's pointer and the asked-for size, so that the counters are exact. Alignment is
 * made here rather than by aligned_alloc, because calloc gives large zeroed blocks for nothing and realloc can grow a large
 * block without copying it. Under a sanitizer the slack behind a block is poisoned, so that overflows are still seen to the byte.
 * It is not an allocator: speed and fragmentation are the C library's. */
#include "base/inside.h"
#include <stdlib.h>

#if defined(__SANITIZE_ADDRESS__)
#define ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ASAN 1
#endif
#endif
#ifdef ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

enum { ALIGN = 64, ROOM = 64 /* header, and what brings the C library's 16-byte alignment to 64 */ };
typedef struct {
    void *raw;
    usize size;
} header;

static atomic_size_t now, peak, cap;
static atomic_llong made; /* allocations so far */
static atomic_llong fail_from, fail_n;
static atomic_bool fail_done;

static header *head_of(void *p) { return (header *)((char *)p - sizeof(header)); }

static void *place(void *raw) { return (void *)(((uintptr_t)raw + sizeof(header) + ALIGN - 1) & ~(uintptr_t)(ALIGN - 1)); }

/* Counts `more` bytes, or refuses: too large, over the cap, or the failure that a test asked for. */
static bool admit(usize size, usize more)
{
    i64 mine = atomic_fetch_add_explicit(&made, 1, memory_order_relaxed) + 1;
    i64 n = atomic_load_explicit(&fail_n, memory_order_relaxed);
    if (n && mine - atomic_load_explicit(&fail_from, memory_order_relaxed) == n) {
        atomic_store(&fail_done, true);
        return false;
    }
    if (size > PTRDIFF_MAX - ROOM) return false;
    usize total = atomic_fetch_add_explicit(&now, more, memory_order_relaxed) + more;
    usize limit = atomic_load_explicit(&cap, memory_order_relaxed);
    if (limit && more && total > limit) {
        atomic_fetch_sub_explicit(&now, more, memory_order_relaxed);
        return false;
    }
    usize was = atomic_load_explicit(&peak, memory_order_relaxed);
    while (total > was &&
           !atomic_compare_exchange_weak_explicit(&peak, &was, total, memory_order_relaxed, memory_order_relaxed)) {}
    return true;
}

static void *dress(void *raw, usize size)
{
    void *p = place(raw);
    *head_of(p) = (header){raw, size};
    ASAN_POISON_MEMORY_REGION((char *)p + size, (usize)((char *)raw + size + ROOM - ((char *)p + size)));
    return p;
}

static void *take(usize size, bool zero)
{
    if (!admit(size, size)) return NULL;
    void *raw = zero ? calloc(1, size + ROOM) : malloc(size + ROOM);
    if (!raw) {
        atomic_fetch_sub_explicit(&now, size, memory_order_relaxed);
        return NULL;
    }
    return dress(raw, size);
}

void *mem_alloc(usize size) { return take(size, false); }
void *mem_zero(usize size) { return take(size, true); }

void *mem_alloc_n(usize size, usize n)
{
    usize total;
    return __builtin_mul_overflow(size, n, &total) ? NULL : take(total, true);
}

void *mem_resize(void *p, usize size)
{
    if (!p) return mem_alloc(size);
    usize old = head_of(p)->size, more = size > old ? size - old : 0;
    if (!admit(size, more)) return NULL;
    char *raw = head_of(p)->raw;
    usize at = (usize)((char *)p - raw);
    ASAN_UNPOISON_MEMORY_REGION(raw, old + ROOM);
    char *fresh = realloc(raw, size + ROOM);
    if (!fresh) {
        dress(raw, old);
        atomic_fetch_sub_explicit(&now, more, memory_order_relaxed);
        return NULL;
    }
    if (size < old) atomic_fetch_sub_explicit(&now, old - size, memory_order_relaxed);
    char *to = place(fresh);
    if (to != fresh + at) memmove(to, fresh + at, size < old ? size : old);
    return dress(fresh, size);
}

void mem_free(void *p)
{
    if (!p) return;
    header h = *head_of(p);
    atomic_fetch_sub_explicit(&now, h.size, memory_order_relaxed);
    ASAN_UNPOISON_MEMORY_REGION(h.raw, h.size + ROOM);
    free(h.raw);
}

usize mem_now(void) { return atomic_load(&now); }
usize mem_peak(void) { return atomic_load(&peak); }
void mem_peak_reset(void) { atomic_store(&peak, atomic_load(&now)); }
void mem_cap(usize bytes) { atomic_store(&cap, bytes); }

void mem_fail_at(i64 n)
{
    atomic_store(&fail_n, 0);
    atomic_store(&fail_done, false);
    atomic_store(&fail_from, atomic_load(&made));
    atomic_store(&fail_n, n > 0 ? n : 0);
}

i64 mem_fail_count(void) { return atomic_load(&made) - atomic_load(&fail_from); }
bool mem_fail_hit(void) { return atomic_load(&fail_done); }

char *mem_strndup(const char *s, usize n)
{
    char *p = n < SIZE_MAX ? mem_alloc(n + 1) : NULL;
    if (!p) return NULL;
    if (n) memcpy(p, s, n);
    p[n] = 0;
    return p;
}

char *mem_strdup(const char *s) { return s ? mem_strndup(s, strlen(s)) : NULL; }

/* ---- arena ---------------------------------------------------------------------------------------------------------- */
typedef struct block {
    struct block *next;
    usize size, used; /* of bytes[] */
    _Alignas(16) char bytes[];
} block;
struct arena {
    block *first; /* the one being filled */
    usize next_size, used;
};
enum { BLOCK_MIN = 16 << 10, BLOCK_MAX = 1 << 20 };

arena *arena_new(void)
{
    arena *a = mem_zero(sizeof *a);
    if (a) a->next_size = BLOCK_MIN;
    return a;
}

void arena_free(arena *a)
{
    if (!a) return;
    for (block *b = a->first, *next; b; b = next) {
        next = b->next;
        mem_free(b);
    }
    mem_free(a);
}

void *arena_take(arena *a, usize n)
{
    if (n > PTRDIFF_MAX - 64) return NULL;
    usize whole = (n + 15) & ~(usize)15;
    block *b = a->first;
    if (!b || b->size - b->used < whole) {
        /* a large piece gets a block of its own behind the current one, whose rest stays in use */
        bool own = b && whole > a->next_size / 4;
        usize size = own || whole > a->next_size ? whole : a->next_size;
        block *fresh = mem_zero(sizeof(block) + size);
        if (!fresh) return NULL;
        fresh->size = size;
        if (own) {
            fresh->next = b->next;
            b->next = fresh;
        } else {
            fresh->next = b;
            a->first = fresh;
            if (a->next_size < BLOCK_MAX) a->next_size *= 2;
        }
        b = fresh;
    }
    void *p = b->bytes + b->used;
    b->used += whole;
    a->used += whole;
    return p;
}

char *arena_str(arena *a, const char *s, usize len)
{
    char *p = len < SIZE_MAX ? arena_take(a, len + 1) : NULL;
    if (p && len) memcpy(p, s, len);
    return p;
}

char *arena_fmt(arena *a, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    char *p = n < 0 ? NULL : arena_take(a, (usize)n + 1);
    if (p) vsnprintf(p, (usize)n + 1, fmt, again);
    va_end(again);
    va_end(ap);
    return p;
}

usize arena_used(const arena *a) { return a ? a->used : 0; }
