/* eval/nll.c - mean negative log likelihood of a text. The text is cut into windows of `ctx` tokens that do not overlap; each is
 * read from its start (with the BOS that the model wants), and every token but the first of a window is scored. */
#include "eval/eval.h"
#include <math.h>

static err window_nll(session *s, const i32 *id, usize n, double *sum, i64 *tokens)
{
    float *score = mem_array(float, n);
    if (!score) return err_new(ERR_NOMEM, "out of memory for %zu scores", n);
    gen_request q = {.ids = id, .n = n, .score = score, .sample = {.top_p = 1, .repeat_penalty = 1}};
    err         bad = session_generate(s, &q, NULL);
    for (usize i = 1; i < n && !bad.code; i++) {
        if (!isfinite(score[i])) bad = err_new(ERR_BUG, "the log probability of token %zu is not a number", i);
        *sum -= (double)score[i];
        ++*tokens;
    }
    mem_free(score);
    return bad;
}

static err all_windows(engine *e, const ids *t, i64 ctx, likelihood *out, progress *p)
{
    session *s;
    double   sum = 0;
    i32      first = t->id[0];
    const token_source *src = tokenizer_source(engine_model(e)->tok);
    bool     bos = src->add_bos == 1 && src->bos == first;
    i32     *window = mem_array(i32, ctx);
    if (!window) return err_new(ERR_NOMEM, "out of memory for a window of %lld tokens", (long long)ctx);
    err bad = session_open(&s, e, 0);
    for (usize from = bos ? 1 : 0; from < t->n && !bad.code;) {
        usize n = 0;
        if (bos) window[n++] = first;
        while (n < (usize)ctx && from < t->n) window[n++] = t->id[from++];
        if (n >= 2) bad = window_nll(s, window, n, &sum, &out->tokens);
        if (p) progress_step(p, (i64)from);
    }
    session_close(s);
    mem_free(window);
    if (bad.code) return bad;
    if (!out->tokens) return err_new(ERR_INPUT, "a text of %zu tokens: at least two are needed to predict one", t->n);
    out->nll = sum / (double)out->tokens;
    out->ppl = exp(out->nll);
    return OK;
}

err eval_nll(engine *e, str text, i64 ctx, likelihood *out, progress *p)
{
    ids t = {0};
    *out = (likelihood){0};
    if (ctx < 2) return err_new(ERR_INPUT, "--ctx %lld: expected at least 2 tokens", (long long)ctx);
    TRY(tokenize(engine_model(e)->tok, text, TOKENIZE_BOS, &t));
    if (p) progress_start(p, "nll", (i64)t.n);
    err bad = t.n ? all_windows(e, &t, ctx, out, p) : err_new(ERR_INPUT, "an empty text has no likelihood");
    if (p) progress_end(p);
    ids_free(&t);
    return bad;
}
