/* api/api.c - the public C API over the doors: errors become a code and a copied message, str and err stay inside, results become
 * plain structures whose strings belong to what the floors below gave. No work is done here that a floor does not do; what a caller
 * may not know (NULL, a cast, a forgotten field) is checked here. */
#include "api/api.h"
#include <limits.h>

_Static_assert(MARU_INPUT == (int)ERR_INPUT && MARU_FORMAT == (int)ERR_FORMAT && MARU_IO == (int)ERR_IO && MARU_NOMEM == (int)ERR_NOMEM && MARU_BUSY == (int)ERR_BUSY, "codes");
_Static_assert(MARU_UNSUPPORTED == (int)ERR_UNSUPPORTED && MARU_CANCELLED == (int)ERR_CANCELLED && MARU_REMOTE == (int)ERR_REMOTE && MARU_BUG == (int)ERR_BUG && MARU_NOTFOUND == (int)ERR_NOTFOUND, "codes");

/* ---- errors ---- */

int api_give(maru_error *out, err e)
{
    if (!out) return e.code;
    *out = (maru_error){.code = e.code};
    if (!e.code) return MARU_OK;
    usize n = strlen(e.what), most = sizeof out->message - 1;
    if (n > most) n = utf8_complete((str){e.what, most});
    memcpy(out->message, e.what, n);
    return e.code;
}

const char *maru_version(void) { return MARU_VERSION; }
const char *maru_error_name(int code) { return err_name(code); }
void        maru_free(void *p) { mem_free(p); }
void        maru_set_home(const char *dir) { home_set(dir); }
void        maru_set_log(int level) { log_set(level <= 0 ? LOG_QUIET : level == 1 ? LOG_WARN : level == 2 ? LOG_INFO : LOG_DEBUG); }

/* ---- engines ---- */

static err engine_make(maru_engine *e, const char *name, const maru_engine_options *o)
{
    char       *path = NULL;
    engine_opts eo = {0};
    if (o) {
        if (o->threads < 0 || o->kv_tokens < 0 || o->max_seqs < 0) return err_new(ERR_INPUT, "an option of the engine is negative");
        eo = (engine_opts){.threads = o->threads, .kv_tokens = o->kv_tokens, .max_seqs = o->max_seqs};
    }
    TRY(cpu_init());
    e->name = mem_strdup(name);
    if (!e->name) return err_new(ERR_NOMEM, "out of memory for an engine");
    TRY(model_resolve(&path, name));
    err bad = engine_open(&e->e, path, &eo);
    mem_free(path);
    return bad;
}

int maru_engine_open(maru_engine **out, const char *name, const maru_engine_options *o, maru_error *error)
{
    NEED(out);
    *out = NULL;
    NEED(name);
    maru_engine *e = mem_zero(sizeof *e);
    err          bad = e ? engine_make(e, name, o) : err_new(ERR_NOMEM, "out of memory for an engine");
    if (bad.code) maru_engine_close(e);
    else *out = e;
    return api_give(error, bad);
}

void maru_engine_close(maru_engine *e)
{
    if (!e) return;
    engine_close(e->e);
    mem_free(e->name);
    mem_free(e);
}

void maru_engine_info(const maru_engine *e, maru_model_info *out)
{
    if (out) *out = (maru_model_info){0};
    if (!e || !out) return;
    const model *m = engine_model(e->e);
    *out = (maru_model_info){.path = m->path, .architecture = m->arch->name, .parameters = m->parameters, .context = m->h.n_ctx, .vocabulary = m->h.n_vocab,
                             .dim = m->arch->encoder ? m->h.width : 0, .has_chat = m->chat != NULL};
}

/* ---- tokens ---- */

static int flags_of(int flags) { return (flags & MARU_AROUND ? TOKENIZE_BOS : 0) | (flags & MARU_CONTROL ? TOKENIZE_SPECIAL : 0); }

static int give_ids(ids *t, int32_t **out, size_t *n, err bad, maru_error *error)
{
    if (bad.code) ids_free(t);
    *out = t->id;
    *n = t->n;
    return api_give(error, bad);
}

int maru_tokenize(const maru_engine *e, const char *text, size_t bytes, int flags, int32_t **out, size_t *n, maru_error *error)
{
    ids t = {0};
    NEED(out);
    NEED(n);
    *out = NULL, *n = 0;
    NEED(e);
    if (bytes) NEED(text);
    return give_ids(&t, out, n, tokenize(engine_model(e->e)->tok, (str){text ? text : "", bytes}, flags_of(flags), &t), error);
}

static err take_text(buf *b, char **out)
{
    buf_puts(b, "");
    err bad = buf_error(b);
    *out = bad.code ? NULL : b->n ? buf_take(b) : mem_strdup("");
    return bad.code || *out ? bad : err_new(ERR_NOMEM, "out of memory for a text");
}

int maru_detokenize(const maru_engine *e, const int32_t *list, size_t n, int flags, char **out, maru_error *error)
{
    buf b = {0};
    NEED(out);
    *out = NULL;
    NEED(e);
    if (n) NEED(list);
    err bad = OK;
    for (usize i = 0; i < n && !bad.code; i++)
        if (list[i] < 0 || list[i] >= engine_model(e->e)->h.n_vocab) bad = err_new(ERR_INPUT, "token id %d at %zu: the model has %lld tokens", list[i], i, (long long)engine_model(e->e)->h.n_vocab);
    if (!bad.code) bad = detokenize(engine_model(e->e)->tok, list, n, flags & MARU_CONTROL, &b);
    if (!bad.code) bad = take_text(&b, out);
    buf_free(&b);
    return api_give(error, bad);
}

/* ---- conversations ---- */

static err render(const model *m, const maru_message *list, usize n, chat_output *out)
{
    if (!m->chat) return err_new(ERR_UNSUPPORTED, "%s has no chat template%s%s", m->path, m->chat_error ? " that could be read: " : "", m->chat_error ? m->chat_error : "");
    const token_source *src = tokenizer_source(m->tok);
    str                 bos = token_piece(m->tok, (i32)src->bos), eos = token_piece(m->tok, (i32)src->eos);
    arena              *a = arena_new();
    chat_message       *said = a ? arena_take(a, sizeof *said * (n + 1)) : NULL;
    chat_options        o = {.add_generation_prompt = true};
    err                 bad = OK;
    if (said) o.bos = arena_str(a, bos.p, bos.n), o.eos = arena_str(a, eos.p, eos.n);
    if (!said || !o.bos || !o.eos) bad = err_new(ERR_NOMEM, "out of memory for a conversation");
    for (usize i = 0; i < n && !bad.code; i++) {
        if (!list[i].role) bad = err_new(ERR_INPUT, "message %zu has no role", i);
        else said[i] = (chat_message){.role = list[i].role, .content = list[i].content ? list[i].content : ""};
    }
    if (!bad.code) bad = chat_render(m->chat, said, n, &o, out);
    arena_free(a);
    return bad;
}

int maru_chat_text(const maru_engine *e, const maru_message *list, size_t n, char **out, maru_error *error)
{
    chat_output text = {0};
    NEED(out);
    *out = NULL;
    NEED(e);
    if (n) NEED(list);
    err bad = render(engine_model(e->e), list, n, &text);
    if (!bad.code) bad = take_text(&text.text, out);
    chat_output_free(&text);
    return api_give(error, bad);
}

int maru_chat_tokens(const maru_engine *e, const maru_message *list, size_t n, int32_t **out, size_t *n_out, maru_error *error)
{
    chat_output text = {0};
    ids         t = {0};
    NEED(out);
    NEED(n_out);
    *out = NULL, *n_out = 0;
    NEED(e);
    if (n) NEED(list);
    err bad = render(engine_model(e->e), list, n, &text);
    if (!bad.code) bad = chat_ids(engine_model(e->e)->tok, &text, &t, NULL);
    chat_output_free(&text);
    return give_ids(&t, out, n_out, bad, error);
}

/* ---- generating ---- */

int maru_session_open(maru_session **out, maru_engine *e, uint64_t owner, maru_error *error)
{
    NEED(out);
    *out = NULL;
    NEED(e);
    maru_session *s = mem_zero(sizeof *s);
    err           bad = s ? session_open(&s->s, e->e, owner) : err_new(ERR_NOMEM, "out of memory for a session");
    if (bad.code) {
        mem_free(s);
        return api_give(error, bad);
    }
    s->e = e;
    *out = s;
    return api_give(error, OK);
}

void maru_session_close(maru_session *s)
{
    if (!s) return;
    session_close(s->s);
    mem_free(s);
}

void maru_session_cancel(maru_session *s)
{
    if (s) atomic_store(&s->cancel, true);
}

typedef struct { const maru_request *q; buf text, piece; } generating;

static err on_token(void *ctx, const gen_token *t)
{
    generating *g = ctx;
    buf_str(&g->text, t->text);
    if (g->q->token) {
        buf_reset(&g->piece);
        buf_str(&g->piece, t->text);
        TRY(buf_error(&g->piece));
        maru_token m = {.id = t->id, .logprob = t->logprob, .text = buf_cstr(&g->piece), .bytes = t->text.n};
        if (g->q->token(g->q->context, &m)) return err_new(ERR_CANCELLED, "stopped by the caller");
    }
    return buf_error(&g->text);
}

static err request_of(const maru_request *q, const ids *prompt, generating *g, gen_request *out)
{
    if (!(q->temperature >= 0) || !(q->top_p >= 0 && q->top_p <= 1) || !(q->min_p >= 0 && q->min_p <= 1) || q->top_k < 0 || !(q->repeat_penalty >= 0))
        return err_new(ERR_INPUT, "sampling: expected temperature >= 0, top_k >= 0, top_p and min_p in [0,1], repeat_penalty >= 0");
    if (q->max_tokens < 0) return err_new(ERR_INPUT, "max_tokens is %lld, expected 0 (128) or more", (long long)q->max_tokens);
    if (q->n_stop > INT_MAX || (q->n_stop && !q->stop)) return err_new(ERR_INPUT, "%zu stop strings, but no list of them", q->n_stop);
    *out = (gen_request){.ids = prompt->id, .n = prompt->n, .max_tokens = q->max_tokens ? q->max_tokens : 128, .stop = q->stop, .n_stop = (int)q->n_stop, .ignore_end = q->ignore_end, .token = on_token, .ctx = g,
                         .sample = {.temp = q->temperature, .top_k = q->top_k, .top_p = q->top_p > 0 ? q->top_p : 1, .min_p = q->min_p, .repeat_penalty = q->repeat_penalty > 0 ? q->repeat_penalty : 1, .seed = q->seed}};
    return OK;
}

static err generate(maru_session *s, const maru_request *q, maru_result *out)
{
    generating  g = {.q = q};
    ids         made = {0}, given = {.id = (i32 *)(uintptr_t)q->ids, .n = q->n_ids};
    gen_request r;
    gen_result  res = {0};
    err         bad = OK;
    if (!q->ids) bad = tokenize(engine_model(s->e->e)->tok, str_of(q->text), TOKENIZE_BOS | TOKENIZE_SPECIAL, &made);
    if (!bad.code) bad = request_of(q, q->ids ? &given : &made, &g, &r);
    if (!bad.code) {
        r.cancel = &s->cancel;
        bad = session_generate(s->s, &r, &res);
        if (bad.code == ERR_CANCELLED && res.finish == FINISH_CANCELLED && !strcmp(bad.what, "stopped by the caller")) bad = OK;
    }
    if (!bad.code && out) {
        *out = (maru_result){.finish = (int)res.finish, .prompt_tokens = res.prompt_tokens, .cached_tokens = res.cached_tokens, .tokens = res.tokens, .prefill_seconds = res.prefill_s, .decode_seconds = res.decode_s};
        bad = take_text(&g.text, &out->text);
    }
    buf_free(&g.text);
    buf_free(&g.piece);
    ids_free(&made);
    return bad;
}

int maru_generate(maru_session *s, const maru_request *q, maru_result *out, maru_error *error)
{
    if (out) *out = (maru_result){0};
    NEED(s);
    NEED(q);
    atomic_store(&s->cancel, false);
    return api_give(error, generate(s, q, out));
}

/* ---- vectors ---- */

int maru_embed(maru_engine *e, const char *const *texts, size_t n, int role, float *out, maru_error *error)
{
    NEED(e);
    if (!n) return api_give(error, OK);
    NEED(texts);
    NEED(out);
    if (role < MARU_PLAIN || role > MARU_PASSAGE) return api_give(error, err_new(ERR_INPUT, "role %d, expected MARU_PLAIN, MARU_QUERY or MARU_PASSAGE", role));
    str *list = mem_array(str, n);
    err  bad = list ? OK : err_new(ERR_NOMEM, "out of memory for %zu texts", n);
    for (usize i = 0; i < n && !bad.code; i++) list[i] = str_of(texts[i]);
    if (!bad.code) bad = engine_embed(e->e, list, n, role == MARU_QUERY ? EMBED_QUERY : role == MARU_PASSAGE ? EMBED_PASSAGE : EMBED_PLAIN, WINDOW_MEAN, out, NULL, NULL);
    mem_free(list);
    return api_give(error, bad);
}
