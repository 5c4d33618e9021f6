/* model/adapter_gguf.c - GGUF adapters (general.type "adapter"): pairs named after the weight they stand beside, rows in GGUF's
 * own order, one alpha for all: the factor of a pair is alpha / rank. What another scale or rsLoRA means is folded into B when
 * one is written, because readers of this format know nothing else. */
#include "model/adapter_inside.h"
#include <math.h>

static err text_is(const model_file *file, const char *path, const char *key, const char *want)
{
    str s;
    TRY(err_at(file_str(file, key, &s), "%s", path));
    if (str_eq(s, str_of(want))) return OK;
    return err_new(ERR_UNSUPPORTED, "%s: %s is \"%.*s\", expected \"%s\"", path, key, (int)(s.n < 40 ? s.n : 40), s.p, want);
}

static err read_pair(adapter_file *f, const model_file *file, const char *path, const file_tensor *a, double alpha,
                     const model *m)
{
    char name[64], other[80];
    i64 k, n, base = (i64)a->name.n - (i64)strlen(".lora_a");
    low_rank *p;
    if (base <= 0 || base >= 48) return err_new(ERR_FORMAT, "%s: a tensor name of %zu bytes", path, a->name.n);
    snprintf(name, sizeof name, "%.*s", (int)base, a->name.p);
    snprintf(other, sizeof other, "%s.lora_b", name);
    if (!adapter_pairs_with(m, name, &k, &n))
        return err_new(ERR_FORMAT, "%s: '%s' binds to no matrix of %s (architecture %s)", path, name,
                       m->path ? m->path : "the model", m->arch->name);
    const file_tensor *b = file_tensor_find(file, str_of(other));
    if (!b) return err_new(ERR_FORMAT, "%s: '%s' has an A and no B", path, name);
    i64 rank = a->n[1];
    if (a->n_dims != 2 || b->n_dims != 2 || a->n[0] != k || b->n[1] != n || b->n[0] != rank || rank < 1)
        return err_new(ERR_FORMAT, "%s: '%s': A is [%lld,%lld], B is [%lld,%lld], expected [%lld,r] and [r,%lld]", path, name,
                       (long long)a->n[0], (long long)a->n[1], (long long)b->n[0], (long long)b->n[1], (long long)k,
                       (long long)n);
    TRY(adapter_add_pair(f, name, k, n, rank, alpha ? (float)(alpha / (double)rank) : 1.0f,
                         &p)); /* alpha 0 is the word of this format for a factor of one */
    TRY(adapter_read_tensor(a, path, p->a));
    return adapter_read_tensor(b, path, p->b);
}

static err read_all(adapter_file *f, const model_file *file, const char *path, const model *m)
{
    double alpha;
    str s;
    TRY(text_is(file, path, "general.type", "adapter"));
    TRY(text_is(file, path, "adapter.type", "lora"));
    TRY(err_at(file_str(file, "general.architecture", &s), "%s", path));
    if (!str_eq(s, str_of(m->arch->name)))
        return err_new(ERR_UNSUPPORTED, "%s: made for architecture \"%.*s\", %s is %s", path, (int)(s.n < 40 ? s.n : 40), s.p,
                       m->path ? m->path : "the model", m->arch->name);
    if (file_meta(file, "adapter.alora.invocation_tokens"))
        return err_new(
            ERR_UNSUPPORTED,
            "%s: adapter.alora.invocation_tokens: it is active only after certain tokens, which this build does not compute",
            path);
    TRY(err_at(file_f64(file, "adapter.lora.alpha", &alpha), "%s", path));
    if (!isfinite(alpha)) return err_new(ERR_FORMAT, "%s: adapter.lora.alpha is not a finite number", path);
    if (file_meta(file, "general.base_model.0.name") && !file_str(file, "general.base_model.0.name", &s).code)
        TRY(adapter_keep_text(f, &f->base_name, s.p, s.n));
    for (usize i = 0; i < file_n_tensors(file); i++) {
        const file_tensor *t = file_tensor_at(file, i);
        if (str_ends(t->name, S(".lora_a"))) {
            TRY(read_pair(f, file, path, t, alpha, m));
        } else if (!str_ends(t->name, S(".lora_b"))) {
            return err_new(ERR_UNSUPPORTED, "%s: tensor '%.*s' is no half of a low-rank pair", path,
                           (int)(t->name.n < 80 ? t->name.n : 80), t->name.p);
        }
    }
    if (file_n_tensors(file) != 2 * f->n_pairs)
        return err_new(ERR_FORMAT, "%s: %zu tensors, but %zu pairs: a B has no A", path, file_n_tensors(file), f->n_pairs);
    return f->n_pairs ? OK : err_new(ERR_FORMAT, "%s: no low-rank pair", path);
}

err adapter_read_gguf(adapter_file **out, const char *path, const model *m)
{
    model_file *file;
    *out = NULL;
    TRY(gguf_open(&file, path));
    err bad = adapter_new(out, ADAPTER_LORA);
    if (!bad.code) bad = read_all(*out, file, path, m);
    model_file_close(file);
    if (bad.code) adapter_free(*out), *out = NULL;
    return bad;
}

/* ---- writing ------------------------------------------------------------------------------------------------------------ */
static err write_tensors(gguf_writer *w, const adapter_file *f)
{
    for (usize i = 0; i < f->n_pairs; i++) {
        const low_rank *p = &f->pair[i];
        char name[64];
        snprintf(name, sizeof name, "%s.lora_a", p->name);
        TRY(gguf_put_tensor(w, str_of(name), F32, 2, (i64[]){p->k, p->rank}));
        snprintf(name, sizeof name, "%s.lora_b", p->name);
        TRY(gguf_put_tensor(w, str_of(name), F32, 2, (i64[]){p->rank, p->n}));
    }
    double alpha = (double)f->pair[0].scale * (double)f->pair[0].rank;
    for (usize i = 0; i < f->n_pairs; i++) {
        const low_rank *p = &f->pair[i];
        double ratio = (double)p->scale * (double)p->rank / alpha;
        usize n = (usize)(p->rank * p->n);
        TRY(gguf_put_data(w, p->a, sizeof *p->a * (usize)(p->k * p->rank)));
        float *b = mem_array(float, n);
        if (!b) return err_new(ERR_NOMEM, "out of memory for an adapter");
        for (usize j = 0; j < n; j++) b[j] = fabs(ratio - 1) < 1e-7 ? p->b[j] : (float)(p->b[j] * ratio);
        err bad = gguf_put_data(w, b, sizeof *b * n);
        mem_free(b);
        TRY(bad);
    }
    return OK;
}

static err write_all(gguf_writer *w, const adapter_file *f, const model *m)
{
    TRY(gguf_put_str(w, "general.type", S("adapter")));
    TRY(gguf_put_str(w, "general.architecture", str_of(m->arch->name)));
    if (f->base_name) TRY(gguf_put_str(w, "general.base_model.0.name", str_of(f->base_name)));
    TRY(gguf_put_str(w, "adapter.type", S("lora")));
    TRY(gguf_put_f32(w, "adapter.lora.alpha", f->pair[0].scale * (float)f->pair[0].rank));
    return write_tensors(w, f);
}

err adapter_save_gguf(const adapter_file *f, const char *path, const model *m)
{
    gguf_writer *w;
    if (f->kind != ADAPTER_LORA || !f->n_pairs || f->n_whole || f->n_prompt || f->n_prefix)
        return err_new(ERR_UNSUPPORTED,
                       "%s: a GGUF adapter holds low-rank pairs only; this one has other tensors: save it as a folder", path);
    for (usize i = 0; i < f->n_pairs; i++)
        if (f->pair[i].scale == 0)
            return err_new(ERR_UNSUPPORTED, "%s: the pair of %s has a factor of 0, which a GGUF adapter cannot say", path,
                           f->pair[i].name);
    TRY(gguf_create(&w, path));
    err bad = write_all(w, f, m);
    if (bad.code) {
        gguf_drop(w);
        return bad;
    }
    return gguf_commit(w);
}
