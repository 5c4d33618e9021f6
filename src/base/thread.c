/* base/thread.c - the compute pool and the bounded queue.
 *
 * Work is divided beforehand (part), never stolen, so that sums are made in the same order whatever the number of threads
 * that happen to be fast. Between pieces of work threads wait for each other hundreds of times for each token, so waiting begins
 * with a spin of some microseconds. But a machine is shared: then it sleeps in the kernel, which wakes a sleeper before those who
 * have had their time (sched_yield does the opposite: each call may cost a whole time slice); with more threads than cores it
 * sleeps at once. The queue is for requests, not for arithmetic: a mutex serves. */
#include "base/base.h"
#include <errno.h>
#include <linux/futex.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* ---- cores ---------------------------------------------------------------------------------------------------------- */
static int count_affinity(void)
{
    for (usize n = 1024; n <= 1 << 20; n *= 4) { /* the fixed cpu_set_t is too small for large machines */
        cpu_set_t *set = CPU_ALLOC(n);
        if (!set) break;
        int count = sched_getaffinity(0, CPU_ALLOC_SIZE(n), set) == 0 ? CPU_COUNT_S(CPU_ALLOC_SIZE(n), set) : 0;
        CPU_FREE(set);
        if (count > 0) return count;
        if (errno != EINVAL) break;
    }
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int)online : 1;
}

static double read_quota(const char *path) /* "max 100000" or "200000 100000" */
{
    char line[64], limit[32];
    double period, cores = INFINITY;
    FILE *f = fopen(path, "re");
    if (!f) return INFINITY;
    if (fgets(line, sizeof line, f) && sscanf(line, "%31s %lf", limit, &period) == 2 && limit[0] != 'm' && period > 0)
        cores = atof(limit) / period;
    fclose(f);
    return cores > 0 ? cores : INFINITY;
}

/* A container may show every core and grant the time of two: the control groups from ours to the root say so. */
static double count_quota(void)
{
    char line[512], path[600];
    double cores = read_quota("/sys/fs/cgroup/cpu.max");
    FILE *f = fopen("/proc/self/cgroup", "re");
    if (!f) return cores;
    while (fgets(line, sizeof line, f)) {
        if (strncmp(line, "0::/", 4) != 0) continue;
        line[strcspn(line, "\n")] = 0;
        for (char *at = line + 3; at[1]; *strrchr(at, '/') = 0) {
            snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", at);
            cores = fmin(cores, read_quota(path));
            if (strrchr(at, '/') == at) break;
        }
    }
    fclose(f);
    return cores;
}

static int n_cores;
static void count_cores(void)
{
    n_cores = count_affinity();
    double quota = count_quota();
    if (quota < n_cores) n_cores = quota < 1 ? 1 : (int)ceil(quota);
}

int cpu_count(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, count_cores);
    return n_cores;
}

/* ---- waiting -------------------------------------------------------------------------------------------------------- */
typedef struct {
    _Alignas(64) atomic_uint word; /* what is waited for changes */
    _Alignas(64) atomic_int sleepers;
} gate;
enum { SPIN_PAUSES = 1500 }; /* about 25 us: past the usual difference between threads that both run */

static inline void cpu_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield" ::: "memory");
#endif
}

/* Returns when the word is no longer `seen`. */
static void gate_wait(gate *g, unsigned seen, bool spin)
{
    if (spin) {
        for (int i = 0; i < SPIN_PAUSES; i++) {
            if (atomic_load_explicit(&g->word, memory_order_acquire) != seen) return;
            cpu_pause();
        }
    }
    /* announced before looking, and the waker looks after changing the word: one of the two sees the other */
    atomic_fetch_add(&g->sleepers, 1);
    while (atomic_load(&g->word) == seen) syscall(SYS_futex, &g->word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
    atomic_fetch_sub(&g->sleepers, 1);
}

static void gate_open(gate *g)
{
    atomic_fetch_add(&g->word, 1);
    if (atomic_load(&g->sleepers)) syscall(SYS_futex, &g->word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

/* ---- pool ----------------------------------------------------------------------------------------------------------- */
typedef struct {
    pool *owner;
    pthread_t id;
    int number;
} worker;
struct pool {
    gate go, done, turn;             /* a run begins; all workers finished it; the barrier was passed */
    _Alignas(64) atomic_int busy;    /* workers that have not finished the run */
    _Alignas(64) atomic_int waiting; /* threads that have not reached the barrier */
    void (*fn)(void *, int, int);
    void *ctx;
    worker *workers; /* [n_threads], the caller's own entry is unused */
    int n_threads;
    bool spin, stop;
};

static void *worker_main(void *arg)
{
    worker *me = arg;
    pool *p = me->owner;
    for (unsigned seen = 0;; seen++) {
        gate_wait(&p->go, seen, p->spin);
        if (p->stop) return NULL;
        p->fn(p->ctx, me->number, p->n_threads);
        if (atomic_fetch_sub(&p->busy, 1) == 1) gate_open(&p->done);
    }
}

err pool_new(pool **out, int n_threads)
{
    *out = NULL;
    if (n_threads < 0 || n_threads > 4096)
        return err_new(ERR_INPUT, "%d threads asked for; 0 (all cores) to 4096 are possible", n_threads);
    int wanted = n_threads ? n_threads : cpu_count();
    pool *p = mem_zero(sizeof *p);
    if (!p) return err_new(ERR_NOMEM, "out of memory");
    p->n_threads = 1;
    p->spin = wanted <= cpu_count();
    p->workers = mem_array(worker, wanted);
    if (!p->workers) {
        pool_free(p);
        return err_new(ERR_NOMEM, "out of memory");
    }
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the main thread's */
    int failed = 0;
    while (p->n_threads < wanted && !failed) {
        worker *w = &p->workers[p->n_threads];
        *w = (worker){.owner = p, .number = p->n_threads};
        failed = pthread_create(&w->id, NULL, worker_main, w);
        if (!failed) p->n_threads++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) {
        errno = failed;
        err bad = err_os("cannot start thread %d of %d", p->n_threads + 1, wanted);
        pool_free(p);
        return bad;
    }
    atomic_store(&p->waiting, wanted);
    *out = p;
    return OK;
}

void pool_free(pool *p)
{
    if (!p) return;
    p->stop = true;
    gate_open(&p->go);
    for (int i = 1; i < p->n_threads; i++) pthread_join(p->workers[i].id, NULL);
    mem_free(p->workers);
    mem_free(p);
}

int pool_threads(const pool *p) { return p->n_threads; }

void pool_run(pool *p, void (*fn)(void *ctx, int thread, int n_threads), void *ctx)
{
    if (p->n_threads == 1) {
        fn(ctx, 0, 1);
        return;
    }
    p->fn = fn, p->ctx = ctx;
    unsigned seen = atomic_load(&p->done.word);
    atomic_store(&p->busy, p->n_threads - 1);
    gate_open(&p->go);
    fn(ctx, 0, p->n_threads);
    gate_wait(&p->done, seen, p->spin);
}

void pool_barrier(pool *p, int thread)
{
    (void)thread;
    if (p->n_threads == 1) return;
    unsigned seen = atomic_load(&p->turn.word); /* the sense: it changes once everybody is here */
    if (atomic_fetch_sub(&p->waiting, 1) == 1) {
        atomic_store(&p->waiting, p->n_threads);
        gate_open(&p->turn);
    } else
        gate_wait(&p->turn, seen, p->spin);
}

/* ---- queue ---------------------------------------------------------------------------------------------------------- */
struct queue {
    pthread_mutex_t lock;
    pthread_cond_t more, room;
    void **items; /* [capacity], a ring */
    int capacity, n, first;
    bool closed;
};

err queue_new(queue **out, int capacity)
{
    *out = NULL;
    if (capacity < 1) return err_new(ERR_INPUT, "a queue needs room for at least one; %d was asked for", capacity);
    queue *q = mem_zero(sizeof *q);
    if (!q) return err_new(ERR_NOMEM, "out of memory");
    q->items = mem_array(void *, capacity);
    if (!q->items) {
        mem_free(q);
        return err_new(ERR_NOMEM, "out of memory for a queue of %d", capacity);
    }
    q->capacity = capacity;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->more, &attr);
    pthread_cond_init(&q->room, &attr);
    pthread_condattr_destroy(&attr);
    *out = q;
    return OK;
}

void queue_free(queue *q)
{
    if (!q) return;
    pthread_mutex_destroy(&q->lock);
    pthread_cond_destroy(&q->more);
    pthread_cond_destroy(&q->room);
    mem_free(q->items);
    mem_free(q);
}

err queue_push(queue *q, void *item, bool wait)
{
    pthread_mutex_lock(&q->lock);
    while (wait && !q->closed && q->n == q->capacity) pthread_cond_wait(&q->room, &q->lock);
    bool closed = q->closed, full = q->n == q->capacity;
    if (!closed && !full) {
        q->items[(q->first + q->n) % q->capacity] = item;
        q->n++;
        pthread_cond_signal(&q->more);
    }
    pthread_mutex_unlock(&q->lock);
    if (closed) return err_new(ERR_CANCELLED, "the queue is closed");
    return full ? err_new(ERR_BUSY, "the queue is full (%d waiting)", q->capacity) : OK;
}

bool queue_pop(queue *q, void **item, double wait_seconds)
{
    struct timespec until;
    *item = NULL;
    if (wait_seconds > 0) {
        double whole = floor(fmin(wait_seconds, 1e9));
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += (time_t)whole;
        until.tv_nsec += (long)((fmin(wait_seconds, 1e9) - whole) * 1e9);
        if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&q->lock);
    while (!q->n && !q->closed && wait_seconds != 0) {
        if (wait_seconds < 0)
            pthread_cond_wait(&q->more, &q->lock);
        else if (pthread_cond_timedwait(&q->more, &q->lock, &until) == ETIMEDOUT)
            break;
    }
    bool got = q->n > 0;
    if (got) {
        *item = q->items[q->first];
        q->first = (q->first + 1) % q->capacity;
        q->n--;
        pthread_cond_signal(&q->room);
    }
    pthread_mutex_unlock(&q->lock);
    return got;
}

void queue_close(queue *q)
{
    pthread_mutex_lock(&q->lock);
    q->closed = true;
    pthread_cond_broadcast(&q->more);
    pthread_cond_broadcast(&q->room);
    pthread_mutex_unlock(&q->lock);
}
