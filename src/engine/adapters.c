/* engine/adapters.c - what an engine's adapters become: pairs in slots beside the weights, whole tensors over the weights, given
 * vectors and cached keys and values in front of every sequence.
 *
 * What stands in front takes positions like tokens do, with ids below zero that no token has, so pages, prefixes and limits need
 * not know of it. A prefix is never computed: its keys and values are copied into the pages of a sequence before the first token.
 */
#include "engine/inside.h"

static err no_memory(void) { return err_new(ERR_NOMEM, "out of memory for adapters"); }

static err check_whole(const engine *e, const adapter_file *f, const char *path)
{
    bool only_classes = f->n_whole > 0 && !f->n_pairs && !f->n_prompt && !f->n_prefix;
    for (usize i = 0; i < f->n_whole; i++) only_classes &= str_starts(str_of(f->whole[i].name), S("score."));
    if (only_classes)
        return err_new(ERR_INPUT, "%s is a classifier: it tells classes (maru eval classify), it does not write", path);
    if (f->n_whole && e->n_mixes > 1)
        return err_new(ERR_UNSUPPORTED,
                       "%s has whole tensors in place of the model's: an engine that uses it can have no other mix of adapters",
                       path);
    if (e->m->arch->encoder && (f->n_prompt || f->n_prefix))
        return err_new(ERR_UNSUPPORTED, "%s stands in front of texts, %s is an embedding model", path, e->m->path);
    return OK;
}

static err load(engine *e, const engine_opts *o)
{
    int at = 0;
    e->adapters = mem_array(adapter_file *, o->n_adapters);
    e->uses = mem_array(adapter_use, o->n_adapters);
    if (!e->adapters || !e->uses) return no_memory();
    for (int i = 0; i < o->n_adapters; i++) {
        if (o->adapters[i].mix < 0 || o->adapters[i].mix >= MAX_MIXES)
            return err_new(ERR_INPUT, "adapter %s in mix %d, expected 0 to %d", o->adapters[i].path, o->adapters[i].mix,
                           MAX_MIXES - 1);
        if (o->adapters[i].mix >= e->n_mixes) e->n_mixes = o->adapters[i].mix + 1;
    }
    for (int i = 0; i < o->n_adapters; i++) {
        TRY(adapter_load(&e->adapters[i], o->adapters[i].path, e->m));
        e->n_adapters++;
        TRY(check_whole(e, e->adapters[i], o->adapters[i].path));
    }
    for (int m = 0; m < e->n_mixes; m++) { /* the uses of a mix side by side */
        e->mixes[m] = (adapter_mix){e->uses + at, 0};
        for (int i = 0; i < o->n_adapters; i++)
            if (o->adapters[i].mix == m) e->uses[at++] = (adapter_use){e->adapters[i], o->adapters[i].scale}, e->mixes[m].n++;
        TRY(adapter_mix_check(&e->mixes[m]));
    }
    return OK;
}

static err gather_front(engine *e)
{
    i64 width = e->m->h.width, at = 0;
    for (int m = 0; m < e->n_mixes; m++) {
        e->front[m].soft_from = e->n_soft;
        for (int u = 0; u < e->mixes[m].n; u++) {
            e->front[m].n_prefix += e->mixes[m].use[u].file->n_prefix;
            e->front[m].n_prompt += e->mixes[m].use[u].file->n_prompt;
        }
        e->n_soft += e->front[m].n_prompt;
    }
    if (!e->n_soft) return OK;
    e->soft = mem_array(float, width * e->n_soft);
    if (!e->soft) return no_memory();
    for (int m = 0; m < e->n_mixes; m++)
        for (int u = 0; u < e->mixes[m].n; u++) {
            const adapter_file *f = e->mixes[m].use[u].file;
            if (f->n_prompt) memcpy(e->soft + width * at, f->prompt, sizeof *e->soft * (usize)(width * f->n_prompt));
            at += f->n_prompt;
        }
    return OK;
}

err adapters_open(engine *e, const engine_opts *o)
{
    if (!o->n_adapters) return OK;
    TRY(load(e, o));
    for (int i = 0; i < e->n_adapters; i++) TRY(adapter_overlay(e->m, e->adapters[i]));
    TRY(adapter_set_new(&e->pairs, e->m, e->mixes, e->n_mixes));
    if (!e->pairs->n) adapter_set_free(e->pairs), e->pairs = NULL;
    return gather_front(e);
}

void adapters_close(engine *e)
{
    adapter_set_free(e->pairs);
    for (int i = 0; i < e->n_adapters; i++) adapter_free(e->adapters[i]);
    mem_free(e->adapters);
    mem_free(e->uses);
    mem_free(e->soft);
}

const adapter_file *engine_adapter_at(const engine *e, int i) { return i >= 0 && i < e->n_adapters ? e->adapters[i] : NULL; }

i64 front_of(const engine *e, int mix) { return mix < 0 ? 0 : e->front[mix].n_prefix + e->front[mix].n_prompt; }

err session_use(session *s, int mix)
{
    if (mix < -1 || mix >= s->e->n_mixes)
        return err_new(ERR_INPUT, "mix %d of adapters, expected -1 to %d", mix, s->e->n_mixes - 1);
    if (atomic_load(&s->busy)) return err_new(ERR_BUSY, "this session is generating");
    s->mix = mix;
    return OK;
}

/* position p of the mix's prefix into a slot of the cache, every layer */
static void put_position(engine *e, const adapter_mix *mix, i64 p, i64 slot)
{
    i64 kv = e->m->h.n_kv_head * e->m->h.head_dim;
    usize row = dtype_row_bytes(e->kv->type, kv);
    int u = 0;
    while (p >= mix->use[u].file->n_prefix) p -= mix->use[u++].file->n_prefix;
    const adapter_file *f = mix->use[u].file;
    for (i64 l = 0; l < e->m->h.n_layer; l++) {
        dtype_table[e->kv->type].encode(f->k[l] + p * kv, (u8 *)e->kv->k[l] + row * (usize)slot, kv);
        dtype_table[e->kv->type].encode(f->v[l] + p * kv, (u8 *)e->kv->v[l] + row * (usize)slot, kv);
    }
}

void prefix_put(engine *e, job *j)
{
    int mix = j->s->mix;
    i64 n = mix < 0 ? 0 : e->front[mix].n_prefix;
    for (; (i64)j->fed < n; j->fed++) {
        i64 slot = (i64)j->s->seq.page[j->fed / KV_PAGE] * KV_PAGE + (i64)(j->fed % KV_PAGE);
        i32 id = -1 - (i32)j->fed;
        put_position(e, &e->mixes[mix], (i64)j->fed, slot);
        sequence_append(&e->pg, &j->s->seq, &id, 1);
    }
}
