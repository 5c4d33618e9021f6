/* tensor/recompute.c - memory for time: activations that the backward pass needs are computed again instead of kept (Chen et al.
 * 2016). A rewrite of the graph between graph_grad and plan_new: for each segment between two boundaries, the forward nodes that
 * its gradients read are copied, the copies stand right before the first gradient that reads one, and the gradients read them.
 * The originals then die in the forward pass by the planner's ordinary rules; nothing else knows of it.
 *
 * Copies have the bits of their originals: kernels depend on sources and args alone, masks are counter-based. What is not copied
 * is read where it is: leaves, boundaries, kept values, other segments; also whatever is written in place, and its readers, since
 * at the time of the copy something else may stand there. No op is known by name: one with work and a base writes in place. */
#include "tensor/internal.h"

typedef struct {
    graph *g;
    i64 n, n_forward; /* nodes; those before the first gradient */
    i32 *segment;     /* [n] of a forward node that may be copied, else -1 */
    i64 *first;       /* [segments] the first gradient that reads one of its nodes, or n */
    bool *wanted;     /* [n] to be copied */
    tensor **owner;   /* [n] of an aux: the node that writes it */
    tensor **copy;    /* [n] */
} rewrite;

static tensor *storage(tensor *t)
{
    while (t->base) t = t->base;
    return t;
}
static bool writes_in_place(const tensor *t) { return t->base && op_table[t->op].ref != op_no_kernel; }

static bool boundaries_good(graph *g, tensor *const *boundaries, int n, int keep_last)
{
    if (!g->n_forward)
        graph_fail(g, "graph_recompute: comes once, after graph_grad");
    else if (n < 0 || keep_last < 0)
        graph_fail(g, "graph_recompute: %d boundaries of which %d are kept; expected 0 or more", n, keep_last);
    for (int i = 0; i < n && !g->bad.code; i++) {
        const tensor *b = boundaries[i];
        if (!b || b->id < 0 || (usize)b->id >= g->n_forward || g->nodes[b->id] != b || (i && b->id <= boundaries[i - 1]->id))
            graph_fail(g, "graph_recompute: boundary %d of %d is no forward node behind the one before it", i, n);
    }
    return !g->bad.code;
}

static bool rewrite_begin(rewrite *r, graph *g, int n_segments)
{
    *r = (rewrite){.g = g, .n = (i64)g->n, .n_forward = (i64)g->n_forward};
    r->segment = arena_take(g->a, sizeof *r->segment * g->n);
    r->first = arena_take(g->a, sizeof *r->first * (usize)n_segments);
    r->wanted = arena_take(g->a, g->n);
    r->owner = arena_take(g->a, sizeof *r->owner * g->n);
    r->copy = arena_take(g->a, sizeof *r->copy * g->n);
    return r->segment && r->first && r->wanted && r->owner && r->copy;
}

/* segment[], for nodes that may be copied */
static bool find_segments(rewrite *r, tensor *const *boundaries, int n_segments)
{
    graph *g = r->g;
    bool *written = arena_take(g->a, g->n);
    if (!written) return false;
    for (i64 i = 0; i < r->n; i++) {
        tensor *t = g->nodes[i];
        r->segment[i] = -1;
        if (writes_in_place(t)) written[storage(t)->id] = true;
        if (t->aux) r->owner[t->aux->id] = t;
    }
    i32 s = 0;
    for (i64 i = 0; i < r->n_forward && s < n_segments; i++) {
        const tensor *t = g->nodes[i];
        bool stays = !t->src[0] || t == boundaries[s] || t->flags & (T_KEEP | T_INPUT) || writes_in_place(t);
        for (int k = 0; k < 6; k++) stays = stays || (t->src[k] && written[storage(t->src[k])->id]);
        if (!stays) r->segment[i] = s;
        if (t == boundaries[s]) s++;
    }
    return true;
}

/* the forward node that has to be copied so that a gradient may read its source from a copy, or NULL */
static const tensor *maker_of(const rewrite *r, const tensor *source)
{
    const tensor *t = r->owner[source->id] ? r->owner[source->id] : source;
    return r->segment[t->id] >= 0 ? t : NULL;
}

static i64 find_wanted(rewrite *r, int n_segments) /* returns how many nodes will be added */
{
    graph *g = r->g;
    i64 n = 0;
    for (int s = 0; s < n_segments; s++) r->first[s] = r->n;
    for (i64 i = r->n_forward; i < r->n; i++)
        for (int k = 0; k < 6; k++) {
            const tensor *source = g->nodes[i]->src[k], *t = source ? maker_of(r, source) : NULL;
            if (!t) continue;
            r->wanted[t->id] = true;
            i64 *first = &r->first[r->segment[t->id]];
            *first = i64_min(*first, i);
        }
    for (i64 i = r->n_forward - 1; i >= 0; i--) {
        const tensor *t = g->nodes[i];
        if (!r->wanted[i]) continue;
        n += t->aux ? 2 : 1;
        for (int k = 0; k < 6; k++)
            if (t->src[k] && r->segment[t->src[k]->id] == r->segment[i]) r->wanted[t->src[k]->id] = true;
    }
    return n;
}

static tensor *read_copies(const rewrite *r, tensor *t, i32 segment) /* of one segment, or of all: -1 */
{
    for (int k = 0; k < 7; k++) {
        tensor **at = k < 6 ? &t->src[k] : &t->base;
        if (*at && r->copy[(*at)->id] && (segment < 0 || r->segment[(*at)->id] == segment)) *at = r->copy[(*at)->id];
    }
    return t;
}

static tensor *copy_of(rewrite *r, tensor *t)
{
    tensor *c = arena_take(r->g->a, sizeof *c);
    if (!c) return NULL;
    *c = *t;
    c->flags &= ~(u32)(T_KEEP | T_PARAM | T_INPUT);
    c->grad = NULL;
    r->copy[t->id] = c;
    return c;
}

static bool copy_segment(rewrite *r, i32 segment, tensor **nodes, i64 *at)
{
    for (i64 i = 0; i < r->n_forward; i++) {
        tensor *t = r->g->nodes[i], *c, *aux;
        if (!r->wanted[i] || r->segment[i] != segment) continue;
        if (t->aux) { /* the original no longer writes it */
            if (!(aux = copy_of(r, t->aux))) return false;
            nodes[(*at)++] = aux;
            t->aux = NULL;
        } else {
            aux = NULL;
        }
        if (!(c = copy_of(r, t))) return false;
        c->aux = aux;
        nodes[(*at)++] = read_copies(r, c, segment);
    }
    return true;
}

static bool insert_copies(rewrite *r, int n_segments, i64 n_added)
{
    graph *g = r->g;
    tensor **nodes = mem_array(tensor *, r->n + n_added);
    i64 at = 0;
    if (!nodes) return false;
    for (i64 i = 0; i < r->n; i++) {
        for (i32 s = 0; i >= r->n_forward && s < n_segments; s++)
            if (r->first[s] == i && !copy_segment(r, s, nodes, &at)) {
                mem_free(nodes);
                return false;
            }
        nodes[at++] = i < r->n_forward ? g->nodes[i] : read_copies(r, g->nodes[i], -1);
    }
    mem_free(g->nodes);
    g->nodes = nodes;
    g->n = g->cap = (usize)at;
    for (i64 i = 0; i < at; i++) nodes[i]->id = (i32)i; /* ids are the order of running: still from sources to results */
    return true;
}

void graph_recompute(graph *g, tensor *const *boundaries, int n, int keep_last)
{
    if (g->bad.code || !boundaries_good(g, boundaries, n, keep_last)) return;
    const int n_segments = n - keep_last;
    rewrite r;
    if (n_segments > 0 && !(rewrite_begin(&r, g, n_segments) && find_segments(&r, boundaries, n_segments) &&
                            insert_copies(&r, n_segments, find_wanted(&r, n_segments))))
        graph_bad(g, ERR_NOMEM, "out of memory in graph_recompute");
    g->n_forward = 0;
}
