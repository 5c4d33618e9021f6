/* base/base.h - what the C library should have had: errors as values, counted memory, strings, files, threads, CPU
 * features, logging, progress, hashing. Knows nothing of models or documents.
 *
 * Ownership words used in every header of maru:
 *   owned     the caller releases it with the function named;
 *   borrowed  valid as long as the thing it came from;
 *   arena     dies with the arena it was taken from.
 * Every function is safe to call from any thread unless its comment says otherwise; one object is used by one thread at a time. */
#ifndef MARU_BASE_H
#define MARU_BASE_H
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef uint8_t  u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t   i8;
typedef int16_t  i16;
typedef int32_t  i32;
typedef int64_t  i64;
typedef size_t   usize;

#define COUNT_OF(a) (sizeof(a) / sizeof((a)[0]))
#define PRINTF(f, a) __attribute__((format(printf, f, a)))
static inline i64 i64_min(i64 a, i64 b) { return a < b ? a : b; }
static inline i64 i64_max(i64 a, i64 b) { return a > b ? a : b; }

/* ---- errors (err.c) -------------------------------------------------------------------------------------------------
 * One table: name, HTTP status, exit code. An err is two words, returned by value; `what` is this thread's last message
 * (valid until the thread makes its next error; copy it to keep it). A message says what was found, what was expected, where. */
#define ERR_TABLE(X)                                                                                              \
    X(INPUT, 400, 2)        /* the caller's arguments or request */                                                \
    X(FORMAT, 422, 3)       /* a file or message is not what it claims to be */                                    \
    X(IO, 500, 4)           /* the operating system said no */                                                     \
    X(NOMEM, 503, 5)        /* memory or another planned limit */                                                  \
    X(BUSY, 429, 6)         /* locked or queue full: try again */                                                  \
    X(UNSUPPORTED, 501, 7)  /* well-formed, but this build cannot do it */                                         \
    X(CANCELLED, 499, 8)    /* stopped on request */                                                               \
    X(REMOTE, 502, 9)       /* another program or machine failed */                                                \
    X(BUG, 500, 10)         /* our own mistake: file and line in the message */                                    \
    X(NOTFOUND, 404, 11)    /* no such model, collection, document */
typedef enum {
    ERR_OK = 0,
#define X(name, http, exit) ERR_##name,
    ERR_TABLE(X)
#undef X
    ERR_CODE_COUNT
} err_code;
typedef struct {
    int         code; /* err_code; 0 is success */
    const char *what; /* NULL on success */
} err;
#define OK ((err){0, NULL})
err         err_new(err_code, const char *fmt, ...) PRINTF(2, 3);
err         err_at(err, const char *fmt, ...) PRINTF(2, 3); /* same code, "context: message" */
err         err_os(const char *fmt, ...) PRINTF(1, 2);      /* IO (NOMEM for ENOMEM, NOTFOUND for ENOENT) with strerror(errno) appended */
const char *err_name(int code);                             /* "FORMAT" */
int         err_http(int code);
int         err_exit(int code);
#define TRY(e)                                                                                                     \
    do {                                                                                                           \
        err try_ = (e);                                                                                            \
        if (try_.code) return try_;                                                                                \
    } while (0)
#define TRY_TO(label, e) /* for functions with a cleanup label and a local `err bad` */                            \
    do {                                                                                                           \
        bad = (e);                                                                                                 \
        if (bad.code) goto label;                                                                                  \
    } while (0)
#define CHECK(x) /* our own invariants; stays on in release */                                                     \
    do {                                                                                                           \
        if (!(x)) return err_new(ERR_BUG, "%s:%d: %s", __FILE__, __LINE__, #x);                                    \
    } while (0)

/* ---- memory (mem.c) -------------------------------------------------------------------------------------------------
 * Counted: mem_now/mem_peak are exact. NULL only when memory is out (or a test injected it): callers return ERR_NOMEM.
 * Raw malloc/free do not appear outside base/mem.c, except for memory that libraries hand over. */
void *mem_alloc(usize);                     /* uninitialised, 64-byte aligned; size 0 gives a valid pointer */
void *mem_zero(usize);
void *mem_resize(void *, usize);            /* as realloc; NULL input allocates */
void  mem_free(void *);                     /* NULL is fine */
usize mem_now(void);
usize mem_peak(void);
void  mem_peak_reset(void);                 /* the peak begins anew with what is in use now: for who measures a part of a run */
void  mem_fail_at(i64 n);                   /* tests: the n-th allocation from now fails (1 = next); 0 switches it off */
i64   mem_fail_count(void);                 /* allocations since mem_fail_at */
char *mem_strdup(const char *);             /* owned: mem_free */
char *mem_strndup(const char *, usize);
#define mem_array(T, n) ((T *)mem_alloc_n(sizeof(T), (usize)(n)))
void *mem_alloc_n(usize size, usize n);     /* zeroed; NULL on overflow too */

typedef struct arena arena;                 /* grows by blocks, freed at once; one thread */
arena *arena_new(void);
void   arena_free(arena *);
void  *arena_take(arena *, usize);          /* zeroed, 16-byte aligned; NULL when out of memory */
char  *arena_str(arena *, const char *, usize len); /* copy, NUL-terminated */
char  *arena_fmt(arena *, const char *fmt, ...) PRINTF(2, 3);
usize  arena_used(const arena *);

/* ---- slices, buffers, numbers, UTF-8 (str.c) ------------------------------------------------------------------------ */
typedef struct {
    const char *p;
    usize       n;
} str; /* borrowed bytes, not NUL-terminated */
#define S(lit) ((str){lit, sizeof(lit) - 1})
str  str_of(const char *);                  /* NULL gives an empty one */
bool str_eq(str, str);
bool str_starts(str, str);
bool str_ends(str, str);
str  str_trim(str);                         /* ASCII white space */
i64  str_find(str hay, str needle, usize from); /* byte offset or -1 */
bool str_i64(str, i64 *);                   /* whole slice, decimal, optional sign; false if not a number or out of range */
bool str_f64(str, double *);                /* whole slice, no locale */

/* A growing buffer. Sticky: after a failed allocation it stays empty and `bad`, further calls do nothing; test once with
 * buf_error. Always NUL-terminated when n > 0 or after buf_cstr. */
typedef struct {
    char *p;
    usize n, cap;
    bool  bad;
} buf;
void  buf_put(buf *, const void *, usize);
void  buf_str(buf *, str);
void  buf_puts(buf *, const char *);
void  buf_byte(buf *, int);
void  buf_utf8(buf *, u32 code_point);
void  buf_fmt(buf *, const char *fmt, ...) PRINTF(2, 3);
bool  buf_reserve(buf *, usize more);
const char *buf_cstr(buf *);                /* "" when empty */
str   buf_view(const buf *);
char *buf_take(buf *);                      /* owned (mem_free), NUL-terminated; the buffer is empty afterwards; NULL if bad */
void  buf_reset(buf *);                     /* keep memory, forget contents and badness */
void  buf_free(buf *);
err   buf_error(const buf *);

u32   utf8_next(str, usize *at);            /* decodes at *at and advances; malformed: U+FFFD, advances by 1 (never past n) */
usize utf8_put(char out[4], u32 code_point);
bool  utf8_valid(str);                      /* strict: no overlong forms, no surrogates, <= U+10FFFF */
usize utf8_count(str);                      /* code points (malformed bytes count 1 each) */
usize utf8_offset(str, usize code_points);  /* byte offset of the n-th code point; s.n when past the end */
usize utf8_complete(str);                   /* length of the longest prefix that does not end inside a character */

/* vec: `T *x = NULL; usize n, cap` grown by one; returns false when out of memory */
#define VEC_PUSH(ptr, n, cap, value)                                                                               \
    (vec_grow((void **)&(ptr), &(cap), (n) + 1, sizeof *(ptr)) ? ((ptr)[(n)++] = (value), true) : false)
bool vec_grow(void **ptr, usize *cap, usize need, usize item); /* amortised doubling, items zeroed */

/* map: bytes -> u64, open addressing, keys copied. Iterate with map_each(m, &it, &key, &value) from it = 0, in the order of
 * insertion; a key it gives is good until the next put or delete. */
typedef struct map map;
map  *map_new(void);
void  map_free(map *);
bool  map_put(map *, str key, u64 value);   /* replaces; false when out of memory */
bool  map_get(const map *, str key, u64 *value);
bool  map_del(map *, str key);
usize map_count(const map *);
bool  map_each(const map *, usize *it, str *key, u64 *value);

#include "base/sys.h" /* files, running programs, confinement, threads, CPU levels */

/* ---- clock, log, progress, hash, random (misc.c) --------------------------------------------------------------------- */
double clock_s(void);                       /* monotonic seconds */
typedef enum { LOG_QUIET, LOG_WARN, LOG_INFO, LOG_DEBUG } log_level;
void log_set(log_level);
log_level log_get(void);
void log_line(log_level, const char *fmt, ...) PRINTF(2, 3); /* standard error, one line, "maru: " in front */
bool lang_korean(void);                     /* messages in Korean: LC_ALL, LC_MESSAGES, LANG begin with ko */
#define L(ko, en) (lang_korean() ? (ko) : (en))
typedef struct {
    const char *what;
    i64         total, shown;
    double      start, last;
    bool        on;
} progress;                                  /* a bar on a terminal's standard error for work over a second; else nothing */
void progress_start(progress *, const char *what, i64 total); /* total 0: unknown */
void progress_step(progress *, i64 done);
void progress_end(progress *);

typedef struct {
    u8 b[32];
} sha256;
sha256 sha256_of(const void *, usize);
typedef struct sha256_stream sha256_stream; /* incremental */
sha256_stream *sha256_begin(void);
void   sha256_feed(sha256_stream *, const void *, usize);
sha256 sha256_end(sha256_stream *);         /* frees */
void   sha256_hex(sha256, char out[65]);
u64    hash64(const void *, usize, u64 seed); /* not cryptographic; stable across machines */

typedef struct {
    u64 s[4];
} rng; /* xoshiro256**, seeded by splitmix64: Blackman & Vigna 2018 */
void   rng_seed(rng *, u64);
u64    rng_u64(rng *);
double rng_unit(rng *);                     /* [0,1) with 53 bits */
float  rng_normal(rng *);

/* Where state lives: --home DIR, else MARU_HOME, else $XDG_DATA_HOME/maru, else ~/.local/share/maru. */
void        home_set(const char *);
err         home_path(char **out, const char *fmt, ...) PRINTF(2, 3); /* owned; a path below it, folders not made */
#endif
