/* tune/checkpoint.c - everything a run needs to go on as if it had never stopped, in one safetensors file written whole or not at all:
 * the trained matrices, both moments, the cursor, sums. Random choices are functions of (seed, step), so no generator is saved. The
 * configuration of the run stands inside as text; a run with another one is refused, because it would be another run. */
#include "tune/tune.h"
#include <jansson.h>

static err path_of(const char *folder, buf *out)
{
    buf_fmt(out, "%s/state.safetensors", folder);
    return buf_error(out);
}

static err list_tensors(safetensors_writer *w, const trained_set *set)
{
    static const char *const part[] = {"p", "m", "v"};
    for (int p = 0; p < 3; p++)
        for (usize i = 0; i < set->n; i++) {
            char name[96];
            snprintf(name, sizeof name, "%s.%zu.%s", part[p], i, set->t[i].name);
            TRY(safetensors_put_tensor(w, str_of(name), F32, 2, (i64[]){set->t[i].k, set->t[i].n}));
        }
    return OK;
}

static err put_tensors(safetensors_writer *w, const adamw *o)
{
    for (int p = 0; p < 3; p++)
        for (usize i = 0; i < o->set->n; i++) {
            const trained *t = &o->set->t[i];
            const float *x = p == 0 ? t->data : p == 1 ? o->m[i] : o->v[i];
            TRY(safetensors_put_data(w, x, sizeof *x * (usize)(t->k * t->n)));
        }
    return OK;
}

static json_t *state_json(const train_state *s, i64 optimizer_step)
{
    return json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:b,s:f,s:f,s:f,s:f,s:f}", "step", (json_int_t)s->step, "epoch", (json_int_t)s->epoch, "pack", (json_int_t)s->pack, "tokens", (json_int_t)s->tokens,
                     "targets", (json_int_t)s->targets, "worse", (json_int_t)s->worse, "optimizer_step", (json_int_t)optimizer_step, "done", s->done, "seconds", s->seconds, "loss_sum", s->loss_sum,
                     "loss_targets", s->loss_targets, "best", s->best, "train_loss", s->train_loss);
}

err checkpoint_save(const char *folder, const adamw *o, const train_state *s, str config)
{
    buf path = {0};
    safetensors_writer *w = NULL;
    json_t *j = state_json(s, o->step);
    char *text = j ? json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    err bad = text ? path_of(folder, &path) : err_new(ERR_NOMEM, "out of memory while saving");
    if (!bad.code) bad = safetensors_create(&w, buf_cstr(&path));
    if (!bad.code) bad = safetensors_put_note(w, "maru.config", config);
    if (!bad.code) bad = safetensors_put_note(w, "maru.state", str_of(text));
    if (!bad.code) bad = list_tensors(w, o->set);
    if (!bad.code) bad = put_tensors(w, o);
    if (!bad.code) bad = safetensors_commit(w);
    else safetensors_drop(w);
    free(text);
    json_decref(j);
    buf_free(&path);
    return bad;
}

/* ---- reading ---- */

static err state_read(str text, train_state *s, i64 *optimizer_step)
{
    json_int_t step, epoch, pack, tokens, targets, worse, moments;
    int done;
    json_error_t e;
    json_t *j = json_loadb(text.p, text.n, 0, &e);
    bool good = j && !json_unpack(j, "{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:b,s:F,s:F,s:F,s:F,s:F}", "step", &step, "epoch", &epoch, "pack", &pack, "tokens", &tokens, "targets", &targets, "worse", &worse,
                                  "optimizer_step", &moments, "done", &done, "seconds", &s->seconds, "loss_sum", &s->loss_sum, "loss_targets", &s->loss_targets, "best", &s->best, "train_loss", &s->train_loss);
    if (good) s->step = step, s->epoch = epoch, s->pack = pack, s->tokens = tokens, s->targets = targets, s->worse = worse, s->done = done, *optimizer_step = moments;
    json_decref(j);
    return good ? OK : err_new(ERR_FORMAT, "its state is not readable");
}

static err note(const model_file *f, const char *key, str *out)
{
    return file_meta(f, key) ? file_str(f, key, out) : err_new(ERR_FORMAT, "it has no %s: not a checkpoint", key);
}

/* names the first key of two flat JSON objects that differs */
static err other_run(str was, str is)
{
    json_error_t e;
    json_t *a = json_loadb(was.p, was.n, 0, &e), *b = json_loadb(is.p, is.n, 0, &e), *value;
    const char *key;
    err bad = err_new(ERR_INPUT, "it is of a run with another configuration");
    json_object_foreach(b, key, value)
    {
        json_t *old = json_object_get(a, key);
        if (json_equal(old, value)) continue;
        char *x = json_dumps(old, JSON_ENCODE_ANY), *y = json_dumps(value, JSON_ENCODE_ANY);
        bad = err_new(ERR_INPUT, "it is of a run with %s %s, this one has %s: resume with the same, or write elsewhere", key, x ? x : "absent", y ? y : "absent");
        free(x), free(y);
        break;
    }
    json_decref(a), json_decref(b);
    return bad;
}

static err tensor_read(const model_file *f, const char *part, usize i, const trained *t, float *into)
{
    char name[96];
    snprintf(name, sizeof name, "%s.%zu.%s", part, i, t->name);
    const file_tensor *x = file_tensor_find(f, str_of(name));
    if (!x || x->type != F32 || x->n[0] != t->k || x->n[1] != t->n || !x->data)
        return err_new(ERR_FORMAT, "%s is missing or not [%lld,%lld] f32", name, (long long)t->k, (long long)t->n);
    memcpy(into, x->data, x->bytes);
    return OK;
}

static err read_all(const model_file *f, adamw *o, train_state *s, str config)
{
    str was, state;
    TRY(note(f, "maru.config", &was));
    TRY(note(f, "maru.state", &state));
    if (!str_eq(was, config)) return other_run(was, config);
    TRY(state_read(state, s, &o->step));
    for (usize i = 0; i < o->set->n; i++) {
        TRY(tensor_read(f, "p", i, &o->set->t[i], o->set->t[i].data));
        TRY(tensor_read(f, "m", i, &o->set->t[i], o->m[i]));
        TRY(tensor_read(f, "v", i, &o->set->t[i], o->v[i]));
    }
    return OK;
}

err checkpoint_load(const char *folder, adamw *o, train_state *s, str config)
{
    buf path = {0};
    model_file *f = NULL;
    err bad = path_of(folder, &path);
    if (!bad.code) bad = safetensors_open(&f, buf_cstr(&path));
    if (!bad.code) bad = err_at(read_all(f, o, s, config), "%s", buf_cstr(&path));
    model_file_close(f);
    buf_free(&path);
    return bad;
}
