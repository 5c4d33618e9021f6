/* base/misc.c - clock, log, progress, hashing, random numbers, and where state lives.
 *
 * Small things that every room needs and none should write again. Log lines leave in one write each, with control characters
 * replaced, because parts of them come from other people's files. Random numbers here are for experiments that must repeat;
 * keys and tokens come from libsodium. */
#include "base/inside.h"
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <pwd.h>
#include <sodium.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

double clock_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- log ------------------------------------------------------------------------------------------------------------ */
static atomic_int log_at = LOG_WARN;
void log_set(log_level l) { atomic_store(&log_at, l); }
log_level log_get(void) { return (log_level)atomic_load(&log_at); }

static void put_error(const char *p, usize n)
{
    while (n) {
        ssize_t k = write(STDERR_FILENO, p, n);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return;
        p += k, n -= (usize)k;
    }
}

void log_line(log_level l, const char *fmt, ...)
{
    if (l == LOG_QUIET || l > log_get()) return;
    char line[4096] = "maru: ";
    usize n = strlen(line), room = sizeof line - n - 1;
    va_list ap;
    va_start(ap, fmt);
    int k = vsnprintf(line + n, room, fmt, ap);
    va_end(ap);
    if (k < 0) return;
    n = (usize)k < room ? n + (usize)k : utf8_complete((str){line, n + room - 1});
    for (usize i = 0; i < n; i++)
        if ((u8)line[i] < ' ' || line[i] == 0x7F)
            line[i] = ' ';
        else if ((u8)line[i] == 0xC2 && i + 1 < n && (u8)line[i + 1] < 0xA0) /* U+0080 to U+009F: controls too */
            line[i] = line[i + 1] = ' ';
    line[n++] = '\n';
    put_error(line, n);
}

bool lang_korean(void)
{
    static const char *const names[] = {"LC_ALL", "LC_MESSAGES", "LANG"};
    for (usize i = 0; i < COUNT_OF(names); i++) {
        const char *v = getenv(names[i]);
        if (v && v[0]) return v[0] == 'k' && v[1] == 'o' && (!v[2] || v[2] == '_' || v[2] == '.' || v[2] == '@' || v[2] == '-');
    }
    return false;
}

/* ---- progress ------------------------------------------------------------------------------------------------------- */
void progress_start(progress *p, const char *what, i64 total)
{
    *p = (progress){.what = what, .total = total, .start = clock_s()};
    p->on = log_get() != LOG_QUIET && isatty(STDERR_FILENO);
}

void progress_step(progress *p, i64 done)
{
    if (!p->on) return;
    double t = clock_s();
    if (t - p->start < 1 || t - p->last < 0.1) return;
    p->last = t;
    p->shown = done;
    struct winsize w = {0};
    int columns = ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col ? w.ws_col : 80;
    char line[512], bar[25];
    int seconds = (int)(t - p->start), n;
    if (p->total > 0) {
        double part_done = fmin(fmax((double)done / (double)p->total, 0), 1);
        for (int i = 0; i < 24; i++) bar[i] = i < (int)(part_done * 24) ? '#' : '.';
        bar[24] = 0;
        i64 left = part_done > 0 ? (i64)(seconds / part_done - seconds) : 0;
        n = columns < 72
                ? snprintf(line, sizeof line, "\r%.200s %3.0f%%\033[K", p->what, part_done * 100)
                : snprintf(line, sizeof line, "\r%.200s [%s] %3.0f%% %d:%02d, %d:%02d %s\033[K", p->what, bar, part_done * 100,
                           seconds / 60, seconds % 60, (int)(left / 60), (int)(left % 60), L("남음", "left"));
    } else
        n = snprintf(line, sizeof line, "\r%.200s %lld, %d:%02d\033[K", p->what, (long long)done, seconds / 60, seconds % 60);
    if (n > 0) put_error(line, (usize)n < sizeof line ? (usize)n : sizeof line - 1);
}

void progress_end(progress *p)
{
    if (p->on && p->last > 0) put_error("\r\033[K", 4);
    p->on = false;
}

/* ---- hashes --------------------------------------------------------------------------------------------------------- */
struct sha256_stream {
    crypto_hash_sha256_state state;
};

sha256 sha256_of(const void *p, usize n)
{
    sha256 h;
    crypto_hash_sha256(h.b, n ? p : (const void *)"", n);
    return h;
}

sha256_stream *sha256_begin(void)
{
    sha256_stream *s = mem_alloc(sizeof *s);
    if (s) crypto_hash_sha256_init(&s->state);
    return s;
}

void sha256_feed(sha256_stream *s, const void *p, usize n)
{
    if (s && n) crypto_hash_sha256_update(&s->state, p, n);
}

sha256 sha256_end(sha256_stream *s)
{
    sha256 h = {{0}};
    if (s) crypto_hash_sha256_final(&s->state, h.b);
    mem_free(s);
    return h;
}

void sha256_hex(sha256 h, char out[65])
{
    for (int i = 0; i < 32; i++) {
        out[2 * i] = "0123456789abcdef"[h.b[i] >> 4];
        out[2 * i + 1] = "0123456789abcdef"[h.b[i] & 15];
    }
    out[64] = 0;
}

static u64 stir(u64 x) /* the finaliser of splitmix64: every input bit reaches every output bit */
{
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

static u64 load_le(const u8 *p, usize n)
{
    u64 w = 0;
    if (n == 8) {
        memcpy(&w, p, 8);
        return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? w : __builtin_bswap64(w);
    }
    for (usize i = 0; i < n; i++) w |= (u64)p[i] << (8 * i);
    return w;
}

/* Eight bytes a step; each step is a bijection of the state, so that no input makes the seed forgotten. */
u64 hash64(const void *data, usize n, u64 seed)
{
    const u8 *p = data;
    u64 h = seed ^ (u64)n * 0x9E3779B97F4A7C15u;
    for (; n >= 8; p += 8, n -= 8) {
        h = (h ^ load_le(p, 8)) * 0xD6E8FEB86659FD93u;
        h ^= h >> 32;
    }
    if (n) {
        h = (h ^ load_le(p, n)) * 0xD6E8FEB86659FD93u;
        h ^= h >> 32;
    }
    return stir(h + 0x9E3779B97F4A7C15u);
}

/* ---- random numbers ------------------------------------------------------------------------------------------------- */
u64 random_u64(void)
{
    u64 v;
    if (getrandom(&v, sizeof v, GRND_NONBLOCK) == sizeof v) return v;
    static atomic_ullong turn;
    return stir((u64)(clock_s() * 1e9) ^ (u64)getpid() << 32 ^ atomic_fetch_add(&turn, 1));
}

void rng_seed(rng *r, u64 seed)
{
    for (int i = 0; i < 4; i++) r->s[i] = stir(seed += 0x9E3779B97F4A7C15u);
}

static u64 rotl(u64 x, int k) { return x << k | x >> (64 - k); }

u64 rng_u64(rng *r)
{
    u64 *s = r->s, out = rotl(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return out;
}

double rng_unit(rng *r) { return (double)(rng_u64(r) >> 11) * 0x1p-53; }

float rng_normal(rng *r) /* Box and Muller 1958; the second number is given up, so that the state is all there is */
{
    double u = 1 - rng_unit(r), v = rng_unit(r); /* u in (0,1] */
    return (float)(sqrt(-2 * log(u)) * cos(2 * M_PI * v));
}

/* ---- home ----------------------------------------------------------------------------------------------------------- */
static pthread_mutex_t home_lock = PTHREAD_MUTEX_INITIALIZER;
static char home_dir[PATH_MAX]; /* empty: not set */
static bool home_too_long;

void home_set(const char *path)
{
    pthread_mutex_lock(&home_lock);
    home_too_long = path && strlen(path) >= sizeof home_dir;
    snprintf(home_dir, sizeof home_dir, "%s", path && !home_too_long ? path : "");
    pthread_mutex_unlock(&home_lock);
}

static err home_base(buf *b)
{
    pthread_mutex_lock(&home_lock);
    bool too_long = home_too_long;
    buf_puts(b, home_dir);
    pthread_mutex_unlock(&home_lock);
    if (too_long) return err_new(ERR_INPUT, "the path given as home has more than %d bytes", PATH_MAX - 1);
    if (b->n) return buf_error(b);
    const char *v = getenv("MARU_HOME");
    if (v && v[0]) {
        buf_puts(b, v);
        return buf_error(b);
    }
    v = getenv("XDG_DATA_HOME");
    if (v && v[0] == '/') { /* the specification: a relative one is ignored */
        buf_fmt(b, "%s/maru", v);
        return buf_error(b);
    }
    v = getenv("HOME");
    struct passwd pw, *found = NULL;
    char room[4096];
    if ((!v || !v[0]) && getpwuid_r(getuid(), &pw, room, sizeof room, &found) == 0 && found) v = pw.pw_dir;
    if (!v || !v[0]) return err_new(ERR_INPUT, "no home folder: set MARU_HOME or HOME, or give --home");
    buf_fmt(b, "%s/.local/share/maru", v);
    return buf_error(b);
}

err home_path(char **out, const char *fmt, ...)
{
    *out = NULL;
    buf b = {0};
    char rest[PATH_MAX];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(rest, sizeof rest, fmt, ap);
    va_end(ap);
    err bad =
        n < 0 || (usize)n >= sizeof rest ? err_new(ERR_INPUT, "a path has more than %d bytes", PATH_MAX - 1) : home_base(&b);
    if (!bad.code && rest[0]) buf_fmt(&b, "/%s", rest);
    if (!bad.code) bad = buf_error(&b);
    if (!bad.code) {
        *out = buf_take(&b);
        if (!*out) bad = err_new(ERR_NOMEM, "out of memory");
    }
    buf_free(&b);
    return bad;
}
