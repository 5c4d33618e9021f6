/* tensor/plan.c - from a graph to a replayable plan: which nodes are needed, how long each value lives, where it lies. Liveness
 * is by storage (views and in-place results belong to their base). First-fit over the gaps in order of creation: within a few
 * percent of the peak for transformer graphs, and simple enough that `plan_bytes` is the allocation itself. */
#include "tensor/internal.h"

#define ALIGN(n) (((usize)(n) + 63) & ~(usize)63)

typedef struct {
    usize at, n;  /* bytes */
    i32 from, to; /* order positions, inclusive */
} life;

static tensor *storage(tensor *t)
{
    while (t->base) t = t->base;
    return t;
}
static usize storage_bytes(const tensor *t) { return ALIGN(dtype_row_bytes(t->type, t->n[0]) * (usize)tensor_rows(t)); }
/* memory of somebody else; after the first binding also inputs and kept leaves, whose memory never moves */
static bool has_owner(const tensor *t) { return t->op == OP_LEAF && t->data && !(t->flags & T_AUX); }
static bool is_fixed(const tensor *t) { return (t->flags & (T_INPUT | T_KEEP)) && !has_owner(t); }

/* can be read after a run: kept values, inputs, and what has an owner */
static bool is_lasting(const tensor *t)
{
    while (t->base) t = t->base;
    return t->flags & (T_INPUT | T_KEEP) || has_owner(t);
}

static err check_roots(const graph *g, tensor *const *roots, int n_roots)
{
    for (int i = 0; i < n_roots; i++)
        if (!roots[i] || roots[i]->id < 0 || (usize)roots[i]->id >= g->n || g->nodes[roots[i]->id] != roots[i])
            return err_new(ERR_INPUT, "root %d of %d of a plan is no node of its graph", i, n_roots);
    return OK;
}

static void need_sources(const tensor *t, bool *need, bool *used)
{
    for (int s = 0; s < 6; s++)
        if (t->src[s]) need[t->src[s]->id] = used[storage(t->src[s])->id] = true;
    if (t->base) need[t->base->id] = true;
}

/* Reverse reachability; ids grow from sources to results, so creation order is a topological order. Needed are the roots,
 * gradients and whatever is kept; and two that nothing may name as a source. An op whose aux is needed: it writes the aux. And a
 * KV_PUT: it writes into a storage that something later reads under another name (`used`), or that outlives the run. */
static err order_nodes(plan *p, tensor *const *roots, int n_roots)
{
    graph *g = p->g;
    bool *need = arena_take(g->a, g->n), *used = arena_take(g->a, g->n);
    p->order = arena_take(g->a, sizeof *p->order * (g->n + 1));
    if (!need || !used || !p->order) return err_new(ERR_NOMEM, "out of memory while planning");
    for (int i = 0; i < n_roots; i++) { keep(roots[i]); }
    for (usize i = 0; i < g->n; i++) {
        tensor *t = g->nodes[i];
        if (t->grad && t->flags & T_PARAM) keep(t->grad);
    }
    for (usize i = 0; i < g->n; i++) {
        tensor *t = g->nodes[i];
        need[i] = t->flags & T_KEEP;
        if (need[i]) keep(storage(t));
    }
    for (i64 i = (i64)g->n - 1; i >= 0; i--) {
        tensor *t = g->nodes[i];
        if (t->aux && need[t->aux->id]) need[i] = true;
        if (t->op == OP_KV_PUT && (used[storage(t)->id] || is_lasting(t))) need[i] = true;
        if (!need[i]) continue;
        if (t->op == OP_LEAF && !t->data && !(t->flags & (T_INPUT | T_KEEP | T_AUX))) p->missing = t;
        need_sources(t, need, used);
    }
    for (usize i = 0; i < g->n; i++) {
        tensor *t = g->nodes[i];
        if (need[i] && t->op != OP_LEAF && t->op != OP_VIEW) p->order[p->n_order++] = t;
    }
    return OK;
}

static void live(life *l, i32 at)
{
    if (l->from < 0) l->from = at;
    if (at > l->to) l->to = at;
}

static void find_lives(plan *p, life *l)
{
    for (int i = 0; i < p->n_order; i++) {
        tensor *t = p->order[i];
        live(&l[storage(t)->id], i);
        if (t->aux) live(&l[t->aux->id], i);
        for (int s = 0; s < 6; s++)
            if (t->src[s]) live(&l[storage(t->src[s])->id], i);
    }
}

/* first fit: `placed` is kept sorted by offset; returns the end of the highest piece */
static usize place_all(plan *p, life *l, life **placed)
{
    usize top = 0;
    int n = 0;
    for (int i = 0; i < p->n_order; i++)
        for (int which = 0; which < 2; which++) {
            tensor *t = which ? p->order[i]->aux : storage(p->order[i]);
            if (!t || l[t->id].from != i || l[t->id].n || is_fixed(t) || (t->op == OP_LEAF && !(t->flags & T_AUX))) continue;
            life *me = &l[t->id];
            me->n = storage_bytes(t);
            int keep_n = 0;
            for (int k = 0; k < n; k++)
                if (placed[k]->to >= i) placed[keep_n++] = placed[k];
            n = keep_n;
            usize at = 0;
            int k = 0;
            for (; k < n && placed[k]->at < at + me->n; k++)
                at = placed[k]->at + placed[k]->n > at ? placed[k]->at + placed[k]->n : at;
            me->at = at;
            int into = 0;
            while (into < n && placed[into]->at <= at) into++;
            memmove(placed + into + 1, placed + into, sizeof *placed * (usize)(n - into));
            placed[into] = me;
            n++;
            if (at + me->n > top) top = at + me->n;
        }
    return top;
}

static err lay_out(plan *p)
{
    graph *g = p->g;
    life *l = arena_take(g->a, sizeof *l * g->n);
    life **placed = arena_take(g->a, sizeof *placed * (g->n + 1));
    if (!l || !placed) return err_new(ERR_NOMEM, "out of memory while planning");
    for (usize i = 0; i < g->n; i++) l[i].from = l[i].to = -1;
    find_lives(p, l);
    p->extra_at = place_all(p, l, placed);
    p->scratch = p->extra_at + ALIGN(p->extra);
    if (!p->scratch) p->scratch = 64; /* nothing is no address */
    for (usize i = 0; i < g->n; i++) {
        tensor *t = g->nodes[i];
        if (t->base || has_owner(t)) continue;
        if (is_fixed(t)) {
            t->offset = p->fixed;
            p->fixed += storage_bytes(t);
        } else {
            t->offset = l[i].at;
        }
    }
    if (!p->fixed) p->fixed = 64;
    return OK;
}

static void bind_pointers(plan *p)
{
    graph *g = p->g;
    for (usize i = 0; i < g->n; i++) {
        tensor *t = g->nodes[i];
        if (t->base)
            t->data = (u8 *)t->base->data + t->offset;
        else if (is_fixed(t))
            t->data = (u8 *)p->fixed_mem + t->offset;
        else if (t->op != OP_LEAF || t->flags & T_AUX)
            t->data = (u8 *)p->ws->mem + t->offset;
    }
    p->bound_at = p->ws->generation;
}

static err workspace_grow(workspace *ws, usize n)
{
    if (n <= ws->n) return OK;
    void *mem = NULL;
    TRY(ws->be->alloc(ws->be, n, &mem));
    ws->be->release(ws->be, ws->mem);
    ws->mem = mem;
    ws->n = n;
    ws->generation++;
    return OK;
}

static err plan_make(plan *p, tensor *const *roots, int n_roots)
{
    TRY(graph_error(p->g));
    TRY(check_roots(p->g, roots, n_roots));
    matmul_pairs(p->g, roots, n_roots);
    TRY(graph_error(p->g));
    TRY(order_nodes(p, roots, n_roots));
    for (int i = 0; i < p->n_order; i++)
        if (!p->be->can(p->be, p->order[i])) {
            char show[96];
            return err_new(ERR_UNSUPPORTED, "%s: no %s kernel for %s", op_table[p->order[i]->op].name, p->be->name,
                           tensor_show(p->order[i], show));
        }
    TRY(p->be->bind(p->be, p));
    TRY(lay_out(p));
    TRY(p->be->alloc(p->be, p->fixed, &p->fixed_mem));
    TRY(workspace_grow(p->ws, p->scratch));
    bind_pointers(p);
    return OK;
}

err plan_new(plan **out, graph *g, workspace *ws, tensor *const *roots, int n_roots)
{
    *out = NULL;
    plan *p = mem_zero(sizeof *p);
    if (!p) {
        graph_free(g);
        return err_new(ERR_NOMEM, "out of memory for a plan");
    }
    p->g = g;
    p->ws = ws;
    p->be = ws->be;
    err bad = plan_make(p, roots, n_roots);
    if (bad.code)
        plan_free(p);
    else
        *out = p;
    return bad;
}

void plan_free(plan *p)
{
    if (!p) return;
    p->be->unbind(p->be, p);
    p->be->release(p->be, p->fixed_mem);
    graph_free(p->g);
    mem_free(p);
}

usize plan_bytes(const plan *p) { return p->scratch + p->fixed; }

err plan_run(plan *p)
{
    if (p->missing)
        return err_new(ERR_INPUT, "%s has no memory: a weight without data can be planned, not run", p->missing->name);
    if (p->bound_at != p->ws->generation) bind_pointers(p);
    return p->be->run(p->be, p);
}

err tensor_put(plan *p, tensor *t, const void *src)
{
    CHECK(t->flags & T_INPUT && t->data);
    return p->be->put(p->be, t->data, src, dtype_row_bytes(t->type, t->n[0]) * (usize)tensor_rows(t));
}

err tensor_get(plan *p, const tensor *t, void *dst)
{
    CHECK(tensor_contiguous(t) && t->lay == LAYOUT_ROWS && t->data);
    CHECK(is_lasting(t)); /* anything else may have been overwritten: make it a root, or keep it */
    return p->be->get(p->be, dst, t->data, dtype_row_bytes(t->type, t->n[0]) * (usize)tensor_rows(t));
}

err workspace_new(workspace **out, backend *be)
{
    *out = mem_zero(sizeof **out);
    if (!*out) return err_new(ERR_NOMEM, "out of memory for a workspace");
    (*out)->be = be;
    (*out)->generation = 1;
    return OK;
}

void workspace_free(workspace *ws)
{
    if (!ws) return;
    ws->be->release(ws->be, ws->mem);
    mem_free(ws);
}

const void *tensor_peek(plan *p, const tensor *t)
{
    bool plain = t->data && tensor_contiguous(t) && t->lay == LAYOUT_ROWS && is_lasting(t);
    return plain && !strcmp(p->be->name, "cpu") ? t->data : NULL;
}

usize workspace_bytes(const workspace *ws) { return ws->n; }
