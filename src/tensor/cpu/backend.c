/* tensor/cpu/backend.c - the CPU backend: binds each node of a plan to a step (a kernel over a static part of its rows), and
 * runs the steps with barriers between. What a step computes for a row never depends on the other rows or on the number of
 * threads. Ops and types without a fast kernel (F64 graphs, most gradients) run by their reference kernel on one thread.
 *
 * A barrier costs about half a microsecond, and fifty times that while others use the machine; a decoder that reads one token
 * has some 20 nodes a layer, most of them a row of a few thousand values. So steps too small to share are thread 0's, one after
 * another without barriers, and matmuls of the same rows, which cannot disturb each other, have none between them either. */
#include "tensor/cpu/cpu.h"
#include <stdlib.h>
#include <time.h>

static bool cpu_can(backend *be, const tensor *t)
{
    (void)be;
    return op_table[t->op].ref != NULL;
}

static err cpu_alloc(backend *be, usize n, void **out)
{
    (void)be;
    *out = mem_zero(n);
    return *out ? OK : err_new(ERR_NOMEM, "out of memory: %zu bytes for a plan", n);
}

static void cpu_release(backend *be, void *p)
{
    (void)be;
    mem_free(p);
}

static err cpu_copy(backend *be, void *dst, const void *src, usize n)
{
    (void)be;
    memcpy(dst, src, n);
    return OK;
}

static void run_reference(const step *s, const cpu_run *r)
{
    (void)r;
    op_table[s->t->op].ref(s->t);
}

static bool step_add(cpu_plan *cp, step s) { return VEC_PUSH(cp->steps, cp->n, cp->cap, s); }

static usize round_64(usize n) { return (n + 63) / 64 * 64; }

/* None inside a run of steps that are all thread 0's, or all parts of matmuls of the same rows; mixed ones would let a thread
 * pass results that are not there yet. The last step needs none: the run ends there. A profile wants the whole time of each. */
static void place_barriers(const cpu_backend *c, cpu_plan *cp)
{
    for (usize i = 0; i < cp->n; i++) {
        const step *s = &cp->steps[i], *next = s + 1;
        bool last = i + 1 == cp->n;
        bool same_kind = !last && s->alone == next->alone && (s->alone || (s->reads && s->reads == next->reads));
        cp->steps[i].barrier = !(last || same_kind) || c->profile;
    }
}

static err cpu_bind(backend *be, plan *p)
{
    cpu_backend *c = (cpu_backend *)be;
    cpu_plan *cp = mem_zero(sizeof *cp);
    if (!cp) return err_new(ERR_NOMEM, "out of memory for a plan's steps");
    p->state = cp;
    int threads = pool_threads(c->pool);
    for (int i = 0; i < p->n_order; i++) {
        tensor *t = p->order[i];
        step_pair s = {.before.t = t, .main.t = t};
        if (!step_choose(c, cp, t, &s)) s = (step_pair){.main = {.run = run_reference, .t = t, .alone = true}};
        if ((s.before.run && !step_add(cp, s.before)) || !step_add(cp, s.main))
            return err_new(ERR_NOMEM, "out of memory for a plan's steps");
        if (s.per_thread > cp->per_thread) cp->per_thread = round_64(s.per_thread);
        if (s.shared > cp->shared) cp->shared = round_64(s.shared);
        if (t->op == OP_KV_PUT) cp->quantised = NULL; /* it may have written into what was quantised */
    }
    place_barriers(c, cp);
    p->extra = cp->shared + round_64(cp->angles * sizeof(float)) + cp->per_thread * (usize)threads;
    return OK;
}

static void cpu_unbind(backend *be, plan *p)
{
    (void)be;
    cpu_plan *cp = p->state;
    if (!cp) return;
    mem_free(cp->steps);
    mem_free(cp);
    p->state = NULL;
}

typedef struct {
    cpu_backend *c;
    plan *p;
} run_ctx;

static double cpu_s(void) /* of this thread: others may use the machine */
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void run_all(void *ctx, int thread, int n_threads)
{
    run_ctx *x = ctx;
    cpu_plan *cp = x->p->state;
    u8 *extra = (u8 *)x->p->ws->mem + x->p->extra_at, *angles = extra + cp->shared,
       *own = angles + round_64(cp->angles * sizeof(float));
    cpu_run r = {.k = x->c->k,
                 .thread = thread,
                 .n_threads = n_threads,
                 .shared = extra,
                 .angles = (float *)(void *)angles,
                 .pool = x->c->pool,
                 .own = own + cp->per_thread * (usize)thread};
    cpu_run whole = r;
    whole.n_threads = 1;
    for (step *s = cp->steps, *end = s + cp->n; s < end; s++) {
        const bool profile = x->c->profile && thread == 0;
        double start = profile ? clock_s() : 0, cpu_start = profile ? cpu_s() : 0;
        if (!s->alone)
            s->run(s, &r);
        else if (thread == 0)
            s->run(s, &whole);
        if (s->barrier) pool_barrier(x->c->pool, thread);
        if (profile) {
            s->seconds += cpu_s() - cpu_start;
            x->c->seconds[s->t->op] += clock_s() - start;
            x->c->calls[s->t->op]++;
        }
    }
}

static err cpu_run_plan(backend *be, plan *p)
{
    run_ctx x = {(cpu_backend *)be, p};
    pool_run(x.c->pool, run_all, &x);
    return OK;
}

static void cpu_close(backend *be) { mem_free(be); }

err backend_cpu(backend **out, pool *threads)
{
    *out = NULL;
    cpu_backend *c = mem_zero(sizeof *c);
    if (!c) return err_new(ERR_NOMEM, "out of memory for a backend");
    c->be = (backend){"cpu", cpu_can, cpu_alloc, cpu_release, cpu_copy, cpu_copy, cpu_bind, cpu_run_plan, cpu_unbind, cpu_close};
    c->pool = threads;
    c->k = kern_get(cpu_now());
    c->reference = cpu_reference();
    c->profile = getenv("MARU_PROFILE") != NULL;
    *out = &c->be;
    return OK;
}

void backend_close(backend *be)
{
    if (be) be->close(be);
}

int plan_profile(plan *p, op_time *out, int max)
{
    cpu_backend *c = (cpu_backend *)p->be;
    int n = 0;
    for (int i = 0; i < OP_COUNT; i++)
        if (c->calls[i] && n < max) out[n++] = (op_time){op_table[i].name, c->calls[i], c->seconds[i]};
    for (int i = 1; i < n; i++)
        for (int j = i; j > 0 && out[j].seconds > out[j - 1].seconds; j--) {
            op_time swap = out[j];
            out[j] = out[j - 1];
            out[j - 1] = swap;
        }
    return n;
}

const kern *kern_get(cpu_level level)
{
    static kern table[CPU_LEVEL_COUNT];
    static _Atomic int ready[CPU_LEVEL_COUNT]; /* 0 empty, 1 being filled, 2 ready */
    if (level > cpu_best()) level = cpu_best();
    kern *k = &table[level];
    int none = 0;
    if (atomic_compare_exchange_strong(&ready[level], &none, 1)) {
        k->level = level;
        kern_body_rows_generic(k), kern_body_attend_generic(k), kern_body_gemm_generic(k), kern_q_generic(k),
            kern_body_decode_generic(k), kern_body_loss_generic(k), kern_body_encode_generic(k), kern_limits_generic(k),
            kern_body_values_generic(k);
        if (level >= CPU_AVX2)
            kern_body_rows_avx2(k), kern_body_attend_avx2(k), kern_body_gemm_avx2(k), kern_q_avx2(k), kern_body_decode_avx2(k),
                kern_body_loss_avx2(k), kern_body_encode_avx2(k), kern_limits_avx2(k), kern_body_values_avx2(k);
        if (level >= CPU_AVX512)
            kern_body_rows_avx512(k), kern_body_attend_avx512(k), kern_body_gemm_avx512(k), kern_q_avx512(k),
                kern_body_decode_avx512(k), kern_body_loss_avx512(k), kern_body_encode_avx512(k), kern_limits_avx512(k),
                kern_body_values_avx512(k);
        atomic_store(&ready[level], 2);
    }
    while (atomic_load(&ready[level]) != 2) {} /* somebody is filling it: a few dozen stores */
    return k;
}
