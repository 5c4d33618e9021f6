/* tests/tensor/test_plan.c - the planner: random graphs give what they give without a plan, whatever the memory, the threads and
 * the run; buffers that live at one time lie apart; memory is what plan_bytes says; failures leave nothing behind.
 *
 * Three oracles. The reference kernels with memory of their own for every value (ref_run.c), for float arithmetic, to a
 * tolerance. A plan in which every value is a root, so that no memory is ever used twice: bit for bit. And a plain search over
 * all pairs of buffers. Scratch is filled with NaN before each run: a value read before it was written shows. */
#include "ref_run.h"
#include "tensor/cpu/kern.h"
#include "tensor/op.h"
#include <setjmp.h>
#include <stdlib.h>
#include <cmocka.h>

enum { N_GRAPHS = 200, MOST_VALUES = 96, MOST_LEAVES = 160, MOST_THREADS = 5 };

static pool *pools[MOST_THREADS]; /* of 1..5 threads */

static void must(err bad)
{
    if (bad.code) fail_msg("%s: %s", err_name(bad.code), bad.what);
}

/* ---- random graphs: drawn from the seed alone, so that one seed makes equal graphs again and again ---------------------------
 */
typedef struct {
    graph *g;
    rng r;
    struct {
        void *now, *first; /* leaves, and what they hold before a run: caches are written to */
        usize n;
    } leaf[MOST_LEAVES];
    int n_leaves;
    tensor *v[MOST_VALUES]; /* [n0, n1] F32, to draw sources from */
    int n;
} garden;

static int below(garden *a, int n) { return (int)(rng_u64(&a->r) % (u64)n); }

static void *leaf_bytes(garden *a, usize n)
{
    assert_true(a->n_leaves < MOST_LEAVES);
    void *now = mem_zero(n + 64), *first = mem_zero(n + 64);
    assert_true(now && first);
    a->leaf[a->n_leaves].now = now, a->leaf[a->n_leaves].first = first, a->leaf[a->n_leaves++].n = n;
    return first; /* filled by the caller, copied by reset */
}

static tensor *floats(garden *a, i64 n0, i64 n1)
{
    float *f = leaf_bytes(a, sizeof *f * (usize)(n0 * n1));
    for (i64 i = 0; i < n0 * n1; i++) f[i] = rng_normal(&a->r);
    return weight(a->g, F32, LAYOUT_ROWS, (shape){{n0, n1}}, a->leaf[a->n_leaves - 1].now, "floats");
}

static tensor *ints(garden *a, i64 n0, i64 n1, int from, int to)
{
    i32 *v = leaf_bytes(a, sizeof *v * (usize)(n0 * n1));
    for (i64 i = 0; i < n0 * n1; i++) v[i] = from + below(a, to - from);
    return weight(a->g, I32, LAYOUT_ROWS, (shape){{n0, n1}}, a->leaf[a->n_leaves - 1].now, "ints");
}

static tensor *codes(garden *a, dtype type, layout lay, i64 k, i64 n)
{
    float *f = mem_array(float, k *n);
    u8 *rows = mem_zero(dtype_row_bytes(type, k) * (usize)n);
    assert_true(f && rows);
    for (i64 i = 0; i < k * n; i++) f[i] = rng_normal(&a->r) * 0.2f;
    dtype_table[type].encode(f, rows, k * n);
    weight_pack(type, lay, k, n, rows, leaf_bytes(a, weight_bytes(type, lay, k, n)), 0, (n + 7) / 8);
    mem_free(f), mem_free(rows);
    return weight(a->g, type, lay, (shape){{k, n}}, a->leaf[a->n_leaves - 1].now, "codes");
}

static void reset(garden *a)
{
    for (int i = 0; i < a->n_leaves; i++) memcpy(a->leaf[i].now, a->leaf[i].first, a->leaf[i].n);
}

static void grow(garden *a, tensor *t)
{
    if (a->n < MOST_VALUES) a->v[a->n++] = t;
}

static tensor *some(garden *a) /* recent ones more often */
{
    int back = below(a, 3) ? below(a, i64_min(6, a->n)) : below(a, a->n);
    return a->v[a->n - 1 - back];
}

static tensor *some_like(garden *a, const tensor *t)
{
    for (int tries = 0; tries < 12; tries++) {
        tensor *u = some(a);
        if (tensor_same_shape(u, t)) return u;
    }
    return floats(a, t->n[0], t->n[1]);
}

static tensor *make_matmul(garden *a, tensor *x)
{
    static const dtype types[] = {Q8_0, Q4_0, Q4_1, Q5_0};
    const i64 k = x->n[0], n = 1 + below(a, 40);
    if (k % 256 == 0 && below(a, 2)) return matmul(a->g, x, codes(a, below(a, 2) ? Q4_K : Q6_K, LAYOUT_R8, k, n));
    if (k % 32 == 0 && below(a, 4)) return matmul(a->g, x, codes(a, types[below(a, 4)], LAYOUT_R8, k, n));
    if (below(a, 3) == 0) {
        float *f = leaf_bytes(a, sizeof *f * (usize)(k * n * 3));
        for (i64 i = 0; i < k * n * 3; i++) f[i] = rng_normal(&a->r) * 0.2f;
        tensor *w = weight(a->g, F32, LAYOUT_ROWS, (shape){{k, n, 3}}, a->leaf[a->n_leaves - 1].now, "adapters");
        return matmul_slot(a->g, x, w, ints(a, x->n[1], 1, -1, 3));
    }
    return matmul(a->g, x, codes(a, below(a, 2) ? F32 : F16, LAYOUT_ROWS, k, n));
}

static tensor *make_view(garden *a, tensor *x)
{
    const i64 n0 = x->n[0], n1 = x->n[1];
    switch (below(a, 4)) {
    case 0: return slice(a->g, x, 0, n0 / 3, n0 - n0 / 3);
    case 1: return slice(a->g, x, 1, n1 / 2, n1 - n1 / 2);
    case 2:
        return view(a->g, x, (shape){{n1, n0}}, (i64[4]){x->stride[1], x->stride[0], 4 * n0 * n1, 4 * n0 * n1},
                    0); /* transposed */
    default:
        return tensor_contiguous(x) && n1 % 2 == 0 ? reshape(a->g, x, (shape){{2 * n0, n1 / 2}})
                                                   : reshape(a->g, copy(a->g, x, F32), (shape){{n0 * n1}});
    }
}

static tensor *make_heads(garden *a, tensor *x) /* rope and attention over the rows of x */
{
    const i64 m = x->n[1], hd = 8, heads = x->n[0] / hd;
    graph *g = a->g;
    if (x->n[0] % hd || !heads) return norm(g, x, NULL, NULL, NORM_RMS, 0.1f);
    x = tensor_contiguous(x) ? x : copy(g, x, F32);
    tensor *pos = ints(a, m, 1, 0, 50), *q = reshape(g, x, (shape){{hd, heads, m}}), *span = ints(a, 3, m, 0, (int)m + 1);
    const rope_arg turn = {.dims = below(a, 2) ? 8 : 4, .neox = below(a, 2), .theta = 10000, .scale = 1};
    tensor *k = rope(g, slice(g, q, 1, 0, 1), pos, NULL, turn);
    q = rope(g, q, pos, NULL, turn);
    tensor *y = attend(g, q, k, slice(g, q, 1, heads - 1, 1), span, NULL,
                       (attend_arg){.scale = 0.3f, .softcap = below(a, 2) ? 5 : 0, .window = below(a, 3)});
    return reshape(g, y, (shape){{x->n[0], m}});
}

static tensor *make_cache(garden *a, tensor *x) /* rows written into a leaf, or into a value of the graph */
{
    const i64 d = x->n[0], slots = 1 + below(a, 9);
    tensor *cache = below(a, 2) ? floats(a, d, slots) : scale(a->g, floats(a, d, slots), 0.5f);
    if (below(a, 2)) grow(a, act(a->g, cache, ACT_TANH)); /* read before */
    if (below(a, 2) && d % 32 == 0) grow(a, matmul(a->g, cache, codes(a, Q8_0, LAYOUT_R8, d, 5)));
    tensor *full = kv_put(a->g, cache, x, ints(a, x->n[1], 1, -1, (int)slots));
    if (below(a, 2) && d % 32 == 0) grow(a, matmul(a->g, cache, codes(a, Q8_0, LAYOUT_R8, d, 5)));
    if (below(a, 2)) grow(a, act(a->g, slice(a->g, full, 1, 0, 1), ACT_TANH));
    return scale(a->g, full, 1.5f);
}

static tensor *make_one(garden *a)
{
    graph *g = a->g;
    tensor *x = some(a);
    const i64 n0 = x->n[0], n1 = x->n[1];
    switch (below(a, 20)) {
    case 0: return add(g, x, some_like(a, x));
    case 1: return add(g, x, floats(a, n0, 1));
    case 2: return act(g, mul(g, x, some_like(a, x)), ACT_TANH);
    case 3: return mul(g, x, floats(a, below(a, 2) ? n0 : 1, 1));
    case 4: return scale(g, x, -0.7f);
    case 5: return act(g, x, (act_kind)below(a, 6));
    case 6: return act(g, glu(g, x, some_like(a, x), (act_kind)below(a, 6)), ACT_TANH);
    case 7: return norm(g, x, floats(a, n0, 1), below(a, 2) ? floats(a, n0, 1) : NULL, (norm_kind)below(a, 2), 0.1f);
    case 8: return softmax(g, x);
    case 9: return concat(g, x, some_like(a, x), below(a, 2));
    case 10: return n1 > 1 ? sum_to(g, scale(g, x, 0.1f), (shape){{n0}}) : repeat(g, x, (shape){{n0, 5}});
    case 11: return embed(g, x, ints(a, 1 + below(a, 20), 1, -1, (int)n1));
    case 12: return pool_rows(g, x, ints(a, 2, 1 + below(a, 4), 0, (int)n1 + 1), (pool_kind)below(a, 3));
    case 13: return make_heads(a, x);
    case 14: return make_cache(a, x);
    case 15:
    case 16: return make_view(a, x);
    default: return make_matmul(a, x);
    }
}

static void garden_make(garden *a, u64 seed)
{
    static const i64 widths[] = {32, 64, 48, 33, 7, 256};
    *a = (garden){.g = graph_new()};
    assert_non_null(a->g);
    rng_seed(&a->r, seed);
    for (int i = 0; i < 3; i++) grow(a, floats(a, widths[below(a, COUNT_OF(widths))], 1 + below(a, 18)));
    const int n = 5 + below(a, 50);
    for (int i = 0; i < n; i++) {
        tensor *t = make_one(a);
        must(graph_error(a->g));
        if (tensor_count(t) > 20000) t = sum_to(a->g, t, (shape){{t->n[0]}});
        if (t->n[0] > 512) t = slice(a->g, t, 0, 0, 256);
        if (below(a, 25) == 0) keep(t);
        grow(a, t);
    }
    reset(a);
}

static int garden_roots(garden *a, tensor *roots[MOST_VALUES]) /* contiguous, so that they can be read */
{
    int n = 0;
    for (int i = 0; i < 3; i++) {
        tensor *t = a->v[a->n - 1 - (int)i64_min(i * 4, a->n - 1)];
        roots[n++] = tensor_contiguous(t) && t->op != OP_LEAF ? t : copy(a->g, t, F32);
    }
    must(graph_error(a->g));
    return n;
}

static void garden_free(garden *a, bool graph_too)
{
    for (int i = 0; i < a->n_leaves; i++) mem_free(a->leaf[i].now), mem_free(a->leaf[i].first);
    if (graph_too) graph_free(a->g);
}

/* ---- a planned garden ---------------------------------------------------------------------------------------------------------
 */
typedef struct {
    garden a;
    tensor *roots[MOST_VALUES];
    int n_roots;
    backend *be;
    workspace *ws;
    plan *p;
    bool ws_borrowed;
} bed;

static void bed_make(bed *b, u64 seed, int n_threads, workspace *ws)
{
    *b = (bed){.ws = ws, .ws_borrowed = ws != NULL};
    garden_make(&b->a, seed);
    b->n_roots = garden_roots(&b->a, b->roots);
    if (!ws) must(backend_cpu(&b->be, pools[n_threads - 1]));
    if (!ws) must(workspace_new(&b->ws, b->be));
    must(plan_new(&b->p, b->a.g, b->ws, b->roots, b->n_roots));
}

static void bed_free(bed *b)
{
    plan_free(b->p);
    if (!b->ws_borrowed) workspace_free(b->ws), backend_close(b->be);
    garden_free(&b->a, false);
}

static void bed_run(bed *b)
{
    reset(&b->a);
    memset(b->ws->mem, 0xff, b->ws->n);
    must(plan_run(b->p));
}

static usize bytes_of(const tensor *t) { return dtype_row_bytes(t->type, t->n[0]) * (usize)tensor_rows(t); }

static void *bed_result(bed *b, usize *n) /* all roots, one after another */
{
    usize at = 0;
    *n = 0;
    for (int i = 0; i < b->n_roots; i++) *n += bytes_of(b->roots[i]);
    u8 *out = mem_zero(*n);
    assert_non_null(out);
    for (int i = 0; i < b->n_roots; at += bytes_of(b->roots[i++])) must(tensor_get(b->p, b->roots[i], out + at));
    return out;
}

static void *run_once(bed *b, usize *n)
{
    bed_run(b);
    return bed_result(b, n);
}

/* ---- values -------------------------------------------------------------------------------------------------------------------
 */
static double rms_of(const tensor *t)
{
    double sum = 0;
    for (i64 i = 0; i < tensor_count(t); i++) sum += ref_at(t, i) * ref_at(t, i);
    return sqrt(sum / (double)tensor_count(t));
}

static bool as_reference(u64 seed)
{
    garden a;
    bed b;
    ref_memory m;
    tensor *roots[MOST_VALUES];
    bool good = true;
    garden_make(&a, seed);
    int n = garden_roots(&a, roots);
    must(ref_bind(&m, a.g));
    ref_run(&m, (i32)a.g->n - 1);
    bed_make(&b, seed, 2, NULL);
    bed_run(&b);
    for (int r = 0; r < n && good; r++) {
        tensor like = *b.roots[r];
        like.data = mem_zero(bytes_of(&like));
        assert_non_null(like.data);
        must(tensor_get(b.p, b.roots[r], like.data));
        const double rms = rms_of(roots[r]);
        for (i64 i = 0; i < tensor_count(&like) && good; i++) {
            double x = ref_at(&like, i), y = ref_at(roots[r], i);
            good = x == y || fabs(x - y) <= 2e-3 * (fabs(y) + rms);
            if (!good)
                print_error("graph %d, root %d[%lld]: %.9g, expected %.9g (rms %.3g)\n", (int)seed, r, (long long)i, x, y, rms);
        }
        mem_free(like.data);
    }
    bed_free(&b);
    ref_free(&m);
    garden_free(&a, true);
    return good;
}

static void plans_equal_reference(void **state)
{
    (void)state;
    bool good = true;
    for (int level = CPU_GENERIC; level <= (int)cpu_best(); level += CPU_LEVEL_COUNT - 1)
        for (u64 seed = 1; seed <= N_GRAPHS; seed++) {
            cpu_force((cpu_level)level, true); /* float activations */
            good = as_reference(seed) && good;
        }
    cpu_force(cpu_best(), false);
    assert_true(good);
}

/* the same graph with every value a root: nothing is ever overwritten */
static void *run_all_kept(u64 seed, usize *n)
{
    bed b = {0};
    garden_make(&b.a, seed);
    b.n_roots = garden_roots(&b.a, b.roots);
    must(backend_cpu(&b.be, pools[0]));
    must(workspace_new(&b.ws, b.be));
    for (usize i = 0; i < b.a.g->n; i++) keep(b.a.g->nodes[i]);
    must(plan_new(&b.p, b.a.g, b.ws, b.roots, b.n_roots));
    void *out = run_once(&b, n);
    bed_free(&b);
    return out;
}

static void threads_runs_and_memory_change_no_bit(void **state)
{
    (void)state;
    bool good = true;
    for (u64 seed = 1; seed <= N_GRAPHS; seed++) {
        usize n, n_now;
        void *want = run_all_kept(seed, &n);
        for (int n_threads = 1; n_threads <= MOST_THREADS; n_threads++) {
            bed b;
            bed_make(&b, seed, n_threads, NULL);
            for (int run = 0; run < 2; run++) {
                void *now = run_once(&b, &n_now);
                assert_int_equal(n_now, n);
                if (memcmp(now, want, n)) {
                    print_error("graph %d: run %d with %d threads gives other bits\n", (int)seed, run, n_threads);
                    good = false;
                }
                mem_free(now);
            }
            bed_free(&b);
        }
        mem_free(want);
    }
    assert_true(good);
}

/* every matmul in 8 bits, computed again from the rows it reads: sharing them between steps never uses stale ones */
static bool matmuls_hold(u64 seed)
{
    bed b;
    bool good = true;
    const kern *k = kern_get(cpu_now());
    bed_make(&b, seed, 1, NULL);
    plan_free(b.p);
    garden_free(&b.a, false);
    garden_make(&b.a, seed);
    bool written[4096] = {0};
    graph *g = b.a.g;
    assert_true(g->n < COUNT_OF(written));
    for (usize i = 0; i < g->n; i++) {
        keep(g->nodes[i]);
        if (g->nodes[i]->op == OP_KV_PUT) written[g->nodes[i]->base->id] = true;
    }
    must(plan_new(&b.p, g, b.ws, &b.a.v[b.a.n - 1], 1));
    bed_run(&b);
    for (int i = 0; i < b.p->n_order; i++) {
        const tensor *t = b.p->order[i], *x = t->src[0], *w = t->src[1];
        if (t->op != OP_MATMUL || w->lay != LAYOUT_R8 || x->stride[0] != 4 || written[x->base ? x->base->id : x->id]) continue;
        usize group = weight_bytes(w->type, w->lay, w->n[0], 8);
        void *xq = mem_alloc(xq_bytes(w->n[0]));
        assert_non_null(xq);
        for (i64 c = 0; c < t->n[1] && good; c++) {
            float y[8];
            k->quant((const float *)(const void *)((const u8 *)x->data + c * x->stride[1]), w->n[0], xq);
            for (i64 r = 0; r < t->n[0]; r++) {
                if (r % 8 == 0)
                    k->qdot[w->type]((const u8 *)w->data + (usize)(r / 8) * group, w->n[0], xq, xq_bytes(w->n[0]), 1, y, 8);
                good = good && !memcmp(&y[r % 8], (const float *)t->data + c * t->n[0] + r, sizeof *y);
            }
        }
        mem_free(xq);
    }
    if (!good) print_error("graph %d: a matmul is not that of its rows\n", (int)seed);
    bed_free(&b);
    return good;
}

static void shared_rows_are_never_stale(void **state)
{
    (void)state;
    bool good = true;
    for (u64 seed = 1; seed <= N_GRAPHS; seed++) good = matmuls_hold(seed) && good;
    assert_true(good);
}

/* ---- memory -------------------------------------------------------------------------------------------------------------------
 */
typedef struct {
    const u8 *from, *to;
    int first, last; /* positions in the order, inclusive */
    const tensor *t;
} piece;

static const tensor *storage_of(const tensor *t) { return t->base ? storage_of(t->base) : t; }

static bool owned_outside(const garden *a, const tensor *t)
{
    for (int i = 0; i < a->n_leaves; i++)
        if (t->data == a->leaf[i].now) return true;
    return false;
}

static int pieces_of(const bed *b, piece *out)
{
    const plan *p = b->p;
    int n = 0;
    for (usize i = 0; i < p->g->n; i++) {
        const tensor *t = p->g->nodes[i];
        if (t->base || owned_outside(&b->a, t)) continue;
        piece one = {t->data, (const u8 *)t->data + bytes_of(t), -1, -1, t};
        for (int o = 0; o < p->n_order; o++) {
            const tensor *at = p->order[o];
            bool touches = storage_of(at) == t || at->aux == t;
            for (int s = 0; s < 6; s++) touches = touches || (at->src[s] && storage_of(at->src[s]) == t);
            if (!touches) continue;
            if (one.first < 0) one.first = o;
            one.last = o;
        }
        if (one.first < 0) continue; /* not needed */
        if (t->flags & (T_KEEP | T_INPUT)) one.first = 0, one.last = p->n_order;
        out[n++] = one;
    }
    if (p->extra)
        out[n++] = (piece){(u8 *)b->ws->mem + p->extra_at, (u8 *)b->ws->mem + p->extra_at + p->extra, 0, p->n_order, NULL};
    return n;
}

static bool lie_apart(const bed *b, u64 seed)
{
    static piece all[4096];
    const u8 *scratch = b->ws->mem, *fixed = b->p->fixed_mem;
    assert_true(b->p->g->n < COUNT_OF(all));
    int n = pieces_of(b, all);
    for (int i = 0; i < n; i++) {
        bool kept = all[i].t && all[i].t->flags & (T_KEEP | T_INPUT);
        const u8 *from = kept ? fixed : scratch, *to = from + (kept ? b->p->fixed : b->p->scratch);
        if (all[i].from < from || all[i].to > to || (uintptr_t)all[i].from % 64) {
            print_error("graph %d: node %d lies outside, or at no multiple of 64\n", (int)seed, all[i].t ? all[i].t->id : -1);
            return false;
        }
        for (int j = 0; j < i; j++)
            if (all[i].from < all[j].to && all[j].from < all[i].to && all[i].first <= all[j].last &&
                all[j].first <= all[i].last) {
                print_error("graph %d: nodes %d and %d live at one time and overlap\n", (int)seed, all[j].t ? all[j].t->id : -1,
                            all[i].t ? all[i].t->id : -1);
                return false;
            }
    }
    return true;
}

static void live_buffers_lie_apart(void **state)
{
    (void)state;
    bool good = true;
    usize planned = 0, plain = 0;
    for (u64 seed = 1; seed <= N_GRAPHS; seed++) {
        bed b;
        bed_make(&b, seed, 3, NULL);
        good = lie_apart(&b, seed) && good;
        planned += b.p->extra_at;
        for (int i = 0; i < b.p->n_order; i++)
            if (!b.p->order[i]->base && !(b.p->order[i]->flags & T_KEEP)) plain += bytes_of(b.p->order[i]);
        bed_free(&b);
    }
    assert_true(good);
    assert_true(planned < plain); /* and memory is used again */
}

/* what a plan takes from its device, counted */
static err (*real_alloc)(backend *, usize, void **);
static usize taken;
static err counting_alloc(backend *be, usize n, void **out)
{
    taken += n;
    return real_alloc(be, n, out);
}

static void bytes_are_known_before(void **state)
{
    (void)state;
    backend *be;
    must(backend_cpu(&be, pools[1]));
    real_alloc = be->alloc;
    be->alloc = counting_alloc;
    for (u64 seed = 1; seed <= 40; seed++) {
        bed b;
        workspace *ws;
        must(workspace_new(&ws, be));
        taken = 0;
        bed_make(&b, seed, 0, ws);
        assert_int_equal(plan_bytes(b.p), taken);
        assert_int_equal(workspace_bytes(ws), plan_bytes(b.p) - b.p->fixed);
        usize before = mem_now();
        bed_run(&b);
        assert_int_equal(mem_now(), before);
        assert_int_equal(plan_bytes(b.p), taken);
        bed_free(&b);
        workspace_free(ws);
    }
    backend_close(be);
}

static void many_plans_share_a_workspace(void **state)
{
    (void)state;
    enum { N = 8 };
    for (u64 seed = 1; seed <= 40; seed += N) {
        backend *be;
        workspace *ws;
        bed b[N];
        void *want[N];
        usize n[N], n_now, size = 0;
        int grown = 0;
        must(backend_cpu(&be, pools[1]));
        must(workspace_new(&ws, be));
        for (int i = 0; i < N; i++) {
            bed_make(&b[i], seed + (u64)i, 0, ws);
            grown += workspace_bytes(ws) > size;
            size = workspace_bytes(ws);
            want[i] = run_once(&b[i], &n[i]);
            for (int j = 0; j < i; j++) { /* kept values outlive the plans after, and growth */
                void *now = bed_result(&b[j], &n_now);
                assert_memory_equal(now, want[j], n[j]);
                mem_free(now);
            }
            for (int j = i; j >= 0; j -= 2) {
                void *now = run_once(&b[j], &n_now);
                assert_memory_equal(now, want[j], n[j]);
                mem_free(now);
                assert_true(lie_apart(&b[j], seed + (u64)j));
            }
        }
        assert_true(grown > 1);
        for (int i = 0; i < N; i++) bed_free(&b[i]), mem_free(want[i]);
        workspace_free(ws);
        backend_close(be);
    }
}

/* ---- failures -----------------------------------------------------------------------------------------------------------------
 */
static graph *small_graph(const float *data, tensor **root)
{
    graph *g = graph_new();
    if (!g) return NULL;
    tensor *x = input(g, F32, (shape){{32, 4}}, "x"), *w = param(g, (shape){{32, 32}}, (float *)(uintptr_t)data, "w");
    for (int i = 0; i < 90; i++) x = act(g, i % 3 ? matmul(g, x, w) : add(g, x, x), ACT_TANH);
    *root = sum_to(g, x, (shape){{1}});
    graph_grad(g, *root);
    return g;
}

static err plan_once(workspace *ws, const float *data)
{
    tensor *root = NULL;
    plan *p;
    graph *g = small_graph(data, &root);
    if (!g) return err_new(ERR_NOMEM, "no graph");
    err bad = plan_new(&p, g, ws, &root, 1);
    if (bad.code) {
        assert_null(p);
        return bad;
    }
    plan_free(p);
    return OK;
}

static void failed_allocations_leave_nothing(void **state)
{
    (void)state;
    float data[32 * 32] = {0};
    backend *be;
    must(backend_cpu(&be, pools[1]));
    const usize before = mem_now();
    int n = 1;
    for (bool again = true; again; n++) {
        workspace *ws;
        must(workspace_new(&ws, be));
        mem_fail_at(n);
        err bad = plan_once(ws, data);
        again = mem_fail_count() >= n;
        mem_fail_at(0);
        assert_int_equal(bad.code, again ? ERR_NOMEM : ERR_OK);
        must(plan_once(ws, data)); /* the workspace is still good */
        workspace_free(ws);
        assert_int_equal(mem_now(), before);
    }
    assert_true(n > 10);
    backend_close(be);
}

/* every builder, upon nodes of a graph that failed */
static void builders_are_sticky(void **state)
{
    (void)state;
    graph *g = graph_new();
    assert_non_null(g);
    tensor *x = input(g, F32, (shape){{8, 2}}, "x"), *i = input(g, I32, (shape){{2}}, "i");
    tensor *d = graph_fail(g, "the %s thing", "first");
    const usize n = g->n;
    tensor *src[] = {d, x};
    for (int s = 0; s < 2; s++) {
        tensor *t = src[s];
        tensor *all[] = {input(g, F32, (shape){{-4}}, "in"),
                         input(g, F32, (shape){{4}}, NULL),
                         weight(g, (dtype)99, LAYOUT_ROWS, (shape){{4}}, NULL, "w"),
                         param(g, (shape){{4}}, NULL, NULL),
                         named(t, "no. %d", 7),
                         keep(t),
                         reshape(g, t, (shape){{3, 3, 3, 3}}),
                         view(g, t, (shape){{9}}, (i64[4]){4, 4, 4, 4}, 0),
                         slice(g, t, 7, -1, 99),
                         copy(g, t, F16),
                         embed(g, t, i),
                         matmul(g, t, t),
                         matmul_slot(g, t, t, i),
                         add(g, t, i),
                         mul(g, NULL, t),
                         scale(g, t, 2),
                         sum_to(g, t, (shape){{-1}}),
                         repeat(g, t, (shape){{3}}),
                         concat(g, t, t, 9),
                         norm(g, t, NULL, t, (norm_kind)9, -1),
                         rope(g, t, i, NULL, (rope_arg){0}),
                         kv_put(g, t, t, i),
                         attend(g, t, t, t, i, NULL, (attend_arg){0}),
                         act(g, t, (act_kind)77),
                         glu(g, t, NULL, ACT_RELU),
                         softmax(g, t),
                         xent(g, t, i),
                         pool_rows(g, t, i, (pool_kind)9),
                         graph_fail(g, "a later thing"),
                         reshape(g, NULL, (shape){{1}})};
        for (usize k = 0; k < COUNT_OF(all); k++) assert_non_null(all[k]);
        graph_grad(g, t);
    }
    graph_grad(g, NULL);
    assert_int_equal(g->n, n);
    assert_string_equal(graph_error(g).what, "the first thing");
    backend *be;
    workspace *ws;
    plan *p = (plan *)&p;
    must(backend_cpu(&be, pools[0]));
    must(workspace_new(&ws, be));
    err bad = plan_new(&p, g, ws, &d, 1);
    assert_int_equal(bad.code, ERR_INPUT);
    assert_string_equal(bad.what, "the first thing");
    assert_null(p);
    plan_free(p);
    workspace_free(ws);
    backend_close(be);
}

/* found, expected, where: of graphs that cannot be, and of plans asked for what they do not have */
static void messages(void **state)
{
    (void)state;
    static float data[64];
    struct {
        const char *say;
        shape s;
        dtype type;
        layout lay;
    } refused[] = {{"big [1099511627776,1099511627776] f32: more than 2^46", {{(i64)1 << 40, (i64)1 << 40}}, F32, LAYOUT_ROWS},
                   {"more than 2^46", {{1, INT64_MAX, INT64_MAX, INT64_MAX}}, F32, LAYOUT_ROWS},
                   {"more than 2^46", {{(i64)1 << 62, 4}}, Q8_0, LAYOUT_R8},
                   {"big: rows of 1 values, q8_0 needs a multiple of 32", {{0, 4}}, Q8_0, LAYOUT_R8},
                   {"big: rows of 33 values, q4_0 needs", {{33, 4}}, Q4_0, LAYOUT_ROWS},
                   {"big: extent 1 is -3", {{32, -3}}, F32, LAYOUT_ROWS},
                   {"big: f32 has no layout 1", {{32, 3}}, F32, LAYOUT_R8},
                   {"big: unknown type 99", {{32, 3}}, (dtype)99, LAYOUT_ROWS}};
    for (usize i = 0; i < COUNT_OF(refused); i++) {
        graph *g = graph_new();
        assert_non_null(g);
        weight(g, refused[i].type, refused[i].lay, refused[i].s, data, "big");
        err bad = graph_error(g);
        assert_int_equal(bad.code, ERR_INPUT);
        if (!strstr(bad.what, refused[i].say)) fail_msg("'%s' does not say '%s'", bad.what, refused[i].say);
        graph_free(g);
    }
    graph *g = graph_new();
    tensor *wide = input(g, F32, (shape){{1, 1 << 30}}, "wide");
    matmul(g, wide, input(g, F32, (shape){{1, 1 << 30}}, "w"));
    assert_non_null(strstr(graph_error(g).what, "MATMUL: the result would be"));
    graph_free(g);
    g = graph_new();
    repeat(g, input(g, F32, (shape){{1}}, "one"), (shape){{INT32_MAX, INT32_MAX, INT32_MAX, INT32_MAX}});
    assert_non_null(strstr(graph_error(g).what, "REPEAT: the result would be REPEAT [2147483647,"));
    graph_free(g);
}

static void plans_refuse(void **state)
{
    (void)state;
    backend *be;
    workspace *ws;
    plan *p;
    float out[16];
    graph *other = graph_new(), *g;
    must(backend_cpu(&be, pools[0]));
    must(workspace_new(&ws, be));
    tensor *roots[3] = {0}, *foreign = input(other, F32, (shape){{4}}, "foreign");
    for (int i = 0; i < 2; i++) {
        g = graph_new();
        roots[0] = input(g, F32, (shape){{4}}, "x");
        roots[1] = i ? foreign : NULL;
        err bad = plan_new(&p, g, ws, roots, 2);
        assert_int_equal(bad.code, ERR_INPUT);
        assert_string_equal(bad.what, "root 1 of 2 of a plan is no node of its graph");
    }
    g = graph_new();
    tensor *x = input(g, F32, (shape){{4}}, "x"), *w = weight(g, F32, LAYOUT_ROWS, (shape){{4}}, NULL, "blk.7.norm");
    tensor *mid = add(g, x, w), *end = scale(g, mid, 2), *kept = keep(scale(g, x, 3)), *turned = NULL;
    turned = view(g, kept, (shape){{2, 2}}, (i64[4]){8, 4, 16, 16}, 0);
    must(plan_new(&p, g, ws, &end, 1)); /* memory can be asked for before weights are there */
    assert_int_equal(plan_run(p).code, ERR_INPUT);
    assert_string_equal(plan_run(p).what, "blk.7.norm has no memory: a weight without data can be planned, not run");
    assert_int_equal(tensor_get(p, mid, out).code, ERR_BUG);    /* not kept */
    assert_int_equal(tensor_get(p, turned, out).code, ERR_BUG); /* not contiguous */
    assert_int_equal(tensor_put(p, w, out).code, ERR_BUG);      /* no input */
    assert_null(tensor_peek(p, mid));
    assert_null(tensor_peek(p, turned));
    assert_non_null(tensor_peek(p, kept));
    plan_free(p);
    graph_free(other);
    workspace_free(ws);
    backend_close(be);
}

/* ---- what the order must contain ----------------------------------------------------------------------------------------------
 */
static void kept_values_are_computed(void **state)
{
    (void)state;
    backend *be;
    workspace *ws;
    plan *p;
    float in[4] = {1, 2, 3, 4}, out[4];
    graph *g = graph_new();
    must(backend_cpu(&be, pools[0]));
    must(workspace_new(&ws, be));
    tensor *x = input(g, F32, (shape){{4}}, "x"), *aside = keep(scale(g, x, 2)), *root = scale(g, x, 5),
           *unused = scale(g, aside, 3);
    must(plan_new(&p, g, ws, &root, 1));
    must(tensor_put(p, x, in));
    must(plan_run(p));
    must(tensor_get(p, aside, out));
    for (int i = 0; i < 4; i++) assert_true(out[i] == 2 * in[i]);
    assert_int_equal(p->n_order, 2);
    assert_int_equal(tensor_get(p, unused, out).code, ERR_BUG);
    plan_free(p);
    workspace_free(ws);
    backend_close(be);
}

/* The gradient of attention needs the statistics that attention leaves beside its result, even where nobody needs the result. */
static void gradients_without_the_loss(void **state)
{
    (void)state;
    enum { HD = 4, M = 5, N = HD * M };
    float q[N], k[N], v[N], w[HD * 3], want[N], found[N];
    i32 span[3 * M];
    rng r;
    rng_seed(&r, 5);
    for (int i = 0; i < N; i++) q[i] = rng_normal(&r), k[i] = rng_normal(&r), v[i] = rng_normal(&r);
    for (int i = 0; i < HD * 3; i++) w[i] = rng_normal(&r);
    for (int i = 0; i < M; i++) span[3 * i] = 0, span[3 * i + 1] = 0, span[3 * i + 2] = i + 1;
    for (int planned = 0; planned < 2; planned++) {
        graph *g = graph_new();
        const shape heads = {{HD, 1, M}};
        tensor *tq = param(g, heads, q, "q"), *tk = param(g, heads, k, "k"), *tv = weight(g, F32, LAYOUT_ROWS, heads, v, "v");
        tensor *a =
            attend(g, tq, tk, tv, weight(g, I32, LAYOUT_ROWS, (shape){{3, M}}, span, "span"), NULL, (attend_arg){.scale = 0.5f});
        tensor *y = matmul(g, reshape(g, a, (shape){{HD, M}}), weight(g, F32, LAYOUT_ROWS, (shape){{HD, 3}}, w, "w"));
        graph_grad(g, sum_to(g, y, (shape){{1}}));
        must(graph_error(g));
        if (!planned) {
            ref_memory m;
            must(ref_bind(&m, g));
            ref_run(&m, (i32)g->n - 1);
            for (int i = 0; i < N; i++) want[i] = (float)ref_at(tk->grad, i);
            ref_free(&m);
            graph_free(g);
            continue;
        }
        backend *be;
        workspace *ws;
        plan *p;
        must(backend_cpu(&be, pools[1]));
        must(workspace_new(&ws, be));
        must(plan_new(&p, g, ws, &tq->grad, 1));
        memset(ws->mem, 0xff, ws->n);
        must(plan_run(p));
        must(tensor_get(p, tk->grad, found));
        for (int i = 0; i < N; i++)
            if (!(fabsf(found[i] - want[i]) < 1e-4f)) fail_msg("dk[%d] is %g, expected %g", i, (double)found[i], (double)want[i]);
        plan_free(p);
        workspace_free(ws);
        backend_close(be);
    }
}

int main(void)
{
    for (int i = 0; i < MOST_THREADS; i++)
        if (pool_new(&pools[i], i + 1).code) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plans_equal_reference),
        cmocka_unit_test(threads_runs_and_memory_change_no_bit),
        cmocka_unit_test(shared_rows_are_never_stale),
        cmocka_unit_test(live_buffers_lie_apart),
        cmocka_unit_test(bytes_are_known_before),
        cmocka_unit_test(many_plans_share_a_workspace),
        cmocka_unit_test(failed_allocations_leave_nothing),
        cmocka_unit_test(builders_are_sticky),
        cmocka_unit_test(messages),
        cmocka_unit_test(plans_refuse),
        cmocka_unit_test(kept_values_are_computed),
        cmocka_unit_test(gradients_without_the_loss),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    for (int i = 0; i < MOST_THREADS; i++) pool_free(pools[i]);
    return failed;
}
