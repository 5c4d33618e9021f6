/* base/sys.h - the part of base's door that touches the machine: files, other programs, threads, CPU. Included by base.h only;
 * other folders include "base/base.h". */
#ifndef MARU_BASE_SYS_H
#define MARU_BASE_SYS_H

/* ---- files (file.c) ------------------------------------------------------------------------------------------------- */
typedef struct {
    const u8 *p;
    usize     n;
    int       fd;
} file_map;
err  file_map_open(file_map *, const char *path); /* read-only mmap; an empty file gives n = 0 */
void file_map_close(file_map *);
err  file_read(buf *out, const char *path, usize limit); /* appends the whole file; limit 0: none; FORMAT when larger */
err  file_replace(const char *path, const void *, usize); /* atomic: temporary in the same folder, fsync, rename, fsync of the folder */
typedef struct file_writer file_writer;     /* the same for large files, streamed; nothing of the name exists until commit */
err  file_writer_open(file_writer **, const char *path);
err  file_writer_put(file_writer *, const void *, usize);
err  file_writer_commit(file_writer *);     /* frees in either case */
void file_writer_drop(file_writer *);       /* abandons: the temporary is removed */
err  file_mkdirs(const char *path);         /* mode 0700 for what it makes */
bool file_exists(const char *path);
bool file_is_dir(const char *path);
err  file_size(const char *path, i64 *bytes);
err  file_walk(const char *path, err (*each)(void *ctx, const char *path), void *ctx); /* regular files below, sorted by name bytes, hidden ones and links to folders skipped; a file: itself. A folder below that cannot be read is the error at the end, after all others were walked */
err  file_lock(const char *path, bool wait, int *fd); /* exclusive advisory lock on a file made if absent; BUSY when held and !wait */
void file_unlock(int fd);
err  file_remove_tree(const char *path);    /* absent is fine */

/* ---- running another program (proc.c) -------------------------------------------------------------------------------- */
typedef struct {
    const char *const *argv;                /* NULL-terminated, argv[0] looked up in PATH */
    str                input;               /* for its standard input; empty: /dev/null */
    double             seconds;             /* killed after this long; 0: no limit */
    usize              max_output;          /* more is FORMAT; 0: 1 GiB */
    usize              max_memory;          /* RLIMIT_AS in bytes; 0: none */
    int                extra_fd;            /* kept open in the child as fd 3 when > 0 */
    bool               no_network;          /* seccomp: no sockets (inherited by what it runs) */
    bool               inherit_stderr;
} proc_spec;
err proc_run(const proc_spec *, buf *out, buf *errors, int *status); /* status: exit code, or 128 + signal; REMOTE when it cannot start or timed out */
/* Runs fn(ctx, out) in a forked child that has no network, no new files and bounded memory and time (seccomp, rlimits);
 * what it wrote to `out` comes back. A crash, a kill or a limit is an error of kind FORMAT that says which ("parser stopped: ...").
 * fn's own error comes back with code and message. The child may read only what was open or mapped before: no file can be
 * opened, no thread or process started, no code made (iconv_open and JIT compilation belong before it). */
err proc_confine(err (*fn)(void *ctx, buf *out), void *ctx, double seconds, usize max_memory, buf *out);

/* ---- threads (thread.c) ----------------------------------------------------------------------------------------------
 * A fixed pool with static partition. pool_run calls fn(ctx, thread, n_threads) once on every worker (the caller is
 * worker 0) and returns when all are done. Workers spin a little before they sleep. One caller at a time. */
typedef struct pool pool;
err  pool_new(pool **, int n_threads);      /* 0: one per usable core */
void pool_free(pool *);
int  pool_threads(const pool *);
void pool_run(pool *, void (*fn)(void *ctx, int thread, int n_threads), void *ctx);
void pool_barrier(pool *, int thread);      /* inside fn, reached by every worker */
static inline void part(i64 n, int thread, int n_threads, i64 *from, i64 *to) /* [from,to) of n for this thread */
{
    i64 each = n / n_threads, rest = n % n_threads;
    *from = each * thread + i64_min(thread, rest);
    *to = *from + each + (thread < rest);
}
int  cpu_count(void);                       /* cores this process may use */

/* bounded queue of pointers, many senders, many receivers */
typedef struct queue queue;
err  queue_new(queue **, int capacity);
void queue_free(queue *);
err  queue_push(queue *, void *, bool wait);/* BUSY when full and !wait; CANCELLED after close */
bool queue_pop(queue *, void **, double wait_seconds); /* < 0: for ever; false: nothing came, or closed and empty */
void queue_close(queue *);

/* ---- CPU (cpu.c) ----------------------------------------------------------------------------------------------------
 * Levels: what the kernels may use. MARU_CPU=reference|generic|avx2|avx512 lowers it; `reference` keeps the best level but
 * asks for float arithmetic throughout (no 8-bit activations, float KV cache). An unknown word is an INPUT error of cpu_init. */
typedef enum { CPU_GENERIC, CPU_AVX2 /* + FMA, F16C */, CPU_AVX512 /* F BW VL DQ + VNNI */, CPU_LEVEL_COUNT } cpu_level;
err         cpu_init(void);                 /* reads the machine and MARU_CPU; called on first use of the others too */
cpu_level   cpu_best(void);                 /* what the machine has, mask ignored */
cpu_level   cpu_now(void);
bool        cpu_reference(void);
void        cpu_force(cpu_level, bool reference); /* tests */
const char *cpu_name(cpu_level);
#endif
