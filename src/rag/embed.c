/* rag/embed.c - EMBED: vectors for the chunks of a batch of documents.
 *
 * All chunks go to the engine together, which sorts them by length; in slices, so that a call can be cancelled and memory stays
 * small. A chunk is embedded with what stands above it. One that is longer than the embedder's window is averaged, cut, or given
 * a vector per window, as the caller chose. */
#include "rag/add.h"

enum { SLICE = 64, PREFIX_TOKENS = 8 /* "passage: " and the like */ };

typedef struct {
    item *m;
    usize chunk;
} target;
typedef struct { /* the texts to embed, one after another, and whose they are */
    buf all;
    usize *end;
    usize n, cap;
    target *to;
    usize n_to, cap_to;
} texts;

static str text_at(const texts *t, usize i)
{
    usize from = i ? t->end[i - 1] : 0;
    return (str){buf_view(&t->all).p + from, t->end[i] - from};
}

static err texts_add(texts *t, item *m)
{
    str s = {m->d.text, m->d.text_len};
    usize at = 0;
    u32 chars = 0;
    for (usize i = 0; i < m->n_chunks; i++) {
        usize from = at + utf8_offset((str){s.p + at, s.n - at}, m->chunk[i].start - chars);
        at = from + utf8_offset((str){s.p + from, s.n - from}, m->chunk[i].end - m->chunk[i].start);
        chars = m->chunk[i].end;
        if (m->context && m->context[i][0]) {
            buf_puts(&t->all, m->context[i]);
            buf_byte(&t->all, '\n');
        }
        buf_put(&t->all, s.p + from, at - from);
        TRY(buf_error(&t->all));
        target to = {m, i};
        if (!VEC_PUSH(t->end, t->n, t->cap, t->all.n) || !VEC_PUSH(t->to, t->n_to, t->cap_to, to))
            return err_new(ERR_NOMEM, "no memory for texts to embed");
    }
    return OK;
}

static err room_for_vectors(const adding *a, item *m)
{
    m->n_v = mem_array(u32, m->n_chunks);
    m->v = mem_array(float, m->n_chunks *(usize)a->dim);
    if (!m->n_v || !m->v) return err_new(ERR_NOMEM, "no memory for vectors");
    for (usize i = 0; i < m->n_chunks; i++) m->n_v[i] = 1;
    return OK;
}

/* ---- one vector per window ---------------------------------------------------------------------------------------------- */
static err windows_of(adding *a, item *m, str text, usize chunk, usize *n, usize *cap)
{
    float *v;
    usize n_v, size = sizeof *v * (usize)a->dim;
    TRY(engine_embed_windows(a->o->embedder, text, EMBED_PASSAGE, &v, &n_v));
    bool room = vec_grow((void **)&m->v, cap, *n + n_v, size);
    if (room) memcpy(m->v + *n * (usize)a->dim, v, n_v * size);
    mem_free(v);
    if (!room) return err_new(ERR_NOMEM, "no memory for vectors");
    *n += n_v;
    m->n_v[chunk] = (u32)n_v;
    return OK;
}

static err any_long(adding *a, const texts *t, bool *yes)
{
    *yes = false;
    for (usize i = 0; i < t->n && !*yes; i++) {
        i64 count;
        TRY(engine_count_tokens(a->o->embedder, text_at(t, i), &count));
        *yes = count + PREFIX_TOKENS > engine_window(a->o->embedder);
    }
    return OK;
}

/* m->windows: a chunk of it needs more than one window, so all of them were embedded here */
static err embed_windows(adding *a, item *m)
{
    texts t = {0};
    usize n = 0, cap = 0;
    bool needed = false;
    err bad = texts_add(&t, m);
    if (!bad.code) bad = any_long(a, &t, &needed);
    if (!bad.code && needed) mem_free(m->v), m->v = NULL;
    for (usize i = 0; i < t.n && needed && !bad.code; i++) {
        bad = add_cancelled(a);
        if (!bad.code) bad = windows_of(a, m, text_at(&t, i), i, &n, &cap);
    }
    m->windows = needed;
    buf_free(&t.all);
    mem_free(t.end);
    mem_free(t.to);
    return bad;
}

/* ---- batches ------------------------------------------------------------------------------------------------------------ */
static err embed_slice(adding *a, const texts *t, usize from, usize n)
{
    str text[SLICE];
    window_mode mode = a->o->window == WINDOW_FIRST ? WINDOW_FIRST : WINDOW_MEAN;
    usize dim = (usize)a->dim;
    float *v = mem_alloc(sizeof *v * dim * n);
    if (!v) return err_new(ERR_NOMEM, "no memory for vectors");
    for (usize i = 0; i < n; i++) text[i] = text_at(t, from + i);
    err bad = add_cancelled(a);
    if (!bad.code) bad = engine_embed(a->o->embedder, text, n, EMBED_PASSAGE, mode, v, NULL, NULL);
    for (usize i = 0; i < n && !bad.code; i++) {
        const target *to = &t->to[from + i];
        memcpy(to->m->v + to->chunk * dim, v + i * dim, sizeof *v * dim);
    }
    mem_free(v);
    return bad;
}

err embed_batch(adding *a)
{
    if (!a->dim) return OK;
    texts t = {0};
    err bad = OK;
    i64 bytes = 0;
    for (usize i = 0; i < a->n && !bad.code; i++) {
        item *m = &a->item[i];
        if (m->kind != ITEM_NEW || !m->n_chunks) continue;
        bytes += m->bytes;
        bad = room_for_vectors(a, m);
        if (!bad.code && a->o->best_window) bad = embed_windows(a, m);
        if (!bad.code && !m->windows) bad = texts_add(&t, m);
    }
    for (usize i = 0; i < t.n && !bad.code; i += SLICE) {
        bad = embed_slice(a, &t, i, t.n - i < SLICE ? t.n - i : SLICE);
        progress_step(&a->bar, a->done + bytes / (i64)t.n * (i64)i);
    }
    buf_free(&t.all);
    mem_free(t.end);
    mem_free(t.to);
    return bad;
}
