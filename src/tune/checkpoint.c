/* tune/checkpoint.c - everything a run needs to go on as if it had never stopped, in one safetensors file written whole or not at all:
 * the trained matrices, both moments, those of the best evaluation, the cursor, sums. Random choices are functions of (seed, step), so no
 * generator is saved. The configuration of the run stands inside as text; a run with another one is refused, because it would be another
 * run. A hash over all of it tells a damaged file from a good one: a flipped bit in a moment would otherwise go unnoticed. */
#include "tune/inside.h"
#include <jansson.h>

static err path_of(const char *folder, buf *out)
{
    buf_fmt(out, "%s/state.safetensors", folder);
    return buf_error(out);
}

/* parts: the values, both moments, and the values at the best evaluation if there are any */
enum { PARTS = 4 };
typedef struct { const adamw *o; const float *best; } whole;

static const float *values(const whole *w, int part, usize i)
{
    if (part < 3) return part == 0 ? w->o->set->t[i].data : part == 1 ? w->o->m[i] : w->o->v[i];
    const float *at = w->best;
    for (usize k = 0; at && k < i; k++) at += w->o->set->t[k].k * w->o->set->t[k].n;
    return at;
}

static void name_of(char name[96], int part, usize i, const trained *t) { snprintf(name, 96, "%c.%zu.%s", "pmvb"[part], i, t->name); }

static err list_tensors(safetensors_writer *w, const whole *x)
{
    for (int p = 0; p < PARTS; p++)
        for (usize i = 0; i < x->o->set->n; i++) {
            const trained *t = &x->o->set->t[i];
            char name[96];
            name_of(name, p, i, t);
            if (values(x, p, i)) TRY(safetensors_put_tensor(w, str_of(name), F32, 2, (i64[]){t->k, t->n}));
        }
    return OK;
}

static err put_tensors(safetensors_writer *w, const whole *x)
{
    for (int p = 0; p < PARTS; p++)
        for (usize i = 0; i < x->o->set->n; i++) {
            const float *v = values(x, p, i);
            if (v) TRY(safetensors_put_data(w, v, sizeof *v * (usize)(x->o->set->t[i].k * x->o->set->t[i].n)));
        }
    return OK;
}

static void hash_all(const whole *x, str config, str state, char hex[24])
{
    u64 h = hash64(state.p, state.n, hash64(config.p, config.n, 0));
    for (int p = 0; p < PARTS; p++)
        for (usize i = 0; i < x->o->set->n; i++) {
            const float *v = values(x, p, i);
            if (v) h = hash64(v, sizeof *v * (usize)(x->o->set->t[i].k * x->o->set->t[i].n), h);
        }
    snprintf(hex, 24, "%016llx", (unsigned long long)h);
}

static json_t *state_json(const train_state *s, i64 optimizer_step)
{
    return json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:b,s:f,s:f,s:f,s:f,s:f}", "step", (json_int_t)s->step, "epoch", (json_int_t)s->epoch, "pack", (json_int_t)s->pack, "tokens", (json_int_t)s->tokens,
                     "targets", (json_int_t)s->targets, "worse", (json_int_t)s->worse, "optimizer_step", (json_int_t)optimizer_step, "done", s->done, "seconds", s->seconds, "loss_sum", s->loss_sum,
                     "loss_targets", s->loss_targets, "best", s->best, "train_loss", s->train_loss);
}

err checkpoint_save(const char *folder, const adamw *o, const train_state *s, const float *best, str config)
{
    buf path = {0};
    char hex[24] = "";
    whole x = {o, best};
    safetensors_writer *w = NULL;
    json_t *j = state_json(s, o->step);
    char *text = j ? json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    err bad = text ? path_of(folder, &path) : err_new(ERR_NOMEM, "out of memory while saving");
    if (!bad.code) bad = safetensors_create(&w, buf_cstr(&path));
    if (!bad.code) hash_all(&x, config, str_of(text), hex);
    if (!bad.code) bad = safetensors_put_note(w, "maru.config", config);
    if (!bad.code) bad = safetensors_put_note(w, "maru.state", str_of(text));
    if (!bad.code) bad = safetensors_put_note(w, "maru.hash", str_of(hex));
    if (!bad.code) bad = list_tensors(w, &x);
    if (!bad.code) bad = put_tensors(w, &x);
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

static err tensor_read(const model_file *f, int part, usize i, const trained *t, float *into)
{
    char name[96];
    name_of(name, part, i, t);
    const file_tensor *x = file_tensor_find(f, str_of(name));
    if (!x || x->type != F32 || x->n[0] != t->k || x->n[1] != t->n || x->n[2] * x->n[3] != 1 || !x->data)
        return err_new(ERR_FORMAT, "%s is missing or not [%lld,%lld] f32", name, (long long)t->k, (long long)t->n);
    memcpy(into, x->data, x->bytes);
    return OK;
}

static err read_all(const model_file *f, adamw *o, train_state *s, float *best, str config)
{
    str was, state, hash;
    char hex[24];
    TRY(note(f, "maru.config", &was));
    TRY(note(f, "maru.state", &state));
    TRY(note(f, "maru.hash", &hash));
    if (!str_eq(was, config)) return other_run(was, config);
    TRY(state_read(state, s, &o->step));
    bool judged = best && s->best < NO_BEST;
    for (int p = 0; p < (judged ? PARTS : PARTS - 1); p++)
        for (usize i = 0; i < o->set->n; i++) TRY(tensor_read(f, p, i, &o->set->t[i], (float *)(uintptr_t)values(&(whole){o, best}, p, i)));
    hash_all(&(whole){o, judged ? best : NULL}, was, state, hex);
    if (str_eq(hash, str_of(hex))) return OK;
    return err_new(ERR_FORMAT, "its hash is %s, but it says %.*s: the file is damaged; --force begins anew", hex, (int)i64_min((i64)hash.n, 16), hash.p);
}

err checkpoint_load(const char *folder, adamw *o, train_state *s, float *best, str config)
{
    buf path = {0};
    model_file *f = NULL;
    err bad = path_of(folder, &path);
    if (!bad.code) bad = safetensors_open(&f, buf_cstr(&path));
    if (!bad.code) bad = err_at(read_all(f, o, s, best, config), "%s", buf_cstr(&path));
    model_file_close(f);
    buf_free(&path);
    return bad;
}
