/* cli/cmd_run.c - maru run: continues a text, shows the table of next tokens, measures itself. */
#include "cli/cli.h"
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

run_opts run_defaults(void) { return (run_opts){.tokens = 128, .top_p = 1, .penalty = 1}; }

typedef struct {
    cli     *c;
    engine  *e;
    buf     *text;
    json_t  *ids, *steps;
    int      n_top;
    bool     stream;
    i64      step;
} run_ctx;

static json_t *token_text(engine *e, i32 id)
{
    buf b = {0};
    token_bytes(engine_model(e)->tok, id, &b, true);
    json_t *j = json_str(buf_view(&b));
    buf_free(&b);
    return j;
}

static void show_row(engine *e, const top_token *t, double most)
{
    buf b = {0}, line = {0};
    token_bytes(engine_model(e)->tok, t->id, &b, true);
    for (usize at = 0; at < b.n;) { /* what would break the table is shown by name */
        usize from = at;
        u32   ch = utf8_next(buf_view(&b), &at);
        if (ch == 0xFFFD && at == from + 1) buf_fmt(&line, "\\x%02X", (unsigned)(u8)b.p[from]); /* part of a character */
        else if (ch == '\n') buf_puts(&line, "\\n");
        else if (ch == '\t') buf_puts(&line, "\\t");
        else buf_utf8(&line, ch);
    }
    int bar = (int)lround(t->p / most * 24);
    printf("  %6.2f %%  %-24.*s  \"%s\"\n", t->p * 100, bar, "########################", buf_cstr(&line));
    buf_free(&b);
    buf_free(&line);
}

static err on_token(void *ctx, const gen_token *t)
{
    run_ctx *r = ctx;
    buf_str(r->text, t->text);
    json_push(r->ids, json_integer(t->id));
    if (r->c->json && r->n_top) {
        json_t *top = json_array();
        for (int i = 0; i < t->n_top; i++)
            json_push(top, json_pack("{s:i,s:o,s:o,s:o}", "id", t->top[i].id, "text", token_text(r->e, t->top[i].id), "p", json_f((double)t->top[i].p), "logprob", json_f((double)t->top[i].logprob)));
        json_push(r->steps, json_pack("{s:i,s:o,s:o,s:o}", "id", t->id, "text", token_text(r->e, t->id), "logprob", json_f((double)t->logprob), "top", top));
    } else if (r->c->json) {
        json_push(r->steps, json_pack("{s:i,s:o,s:o}", "id", t->id, "text", token_text(r->e, t->id), "logprob", json_f((double)t->logprob)));
    } else if (r->n_top) {
        if (r->step++) printf("\n");
        for (int i = 0; i < t->n_top; i++) show_row(r->e, &t->top[i], (double)t->top[0].p);
    } else if (r->stream) {
        cli_print(t->text);
        fflush(stdout);
    }
    return buf_error(r->text);
}

static void put_result(cli *c, const ids *prompt, run_ctx *r, const gen_result *res)
{
    static const char *names[] = {"stop", "length", "cancelled"};
    json_t            *p = json_array();
    for (usize i = 0; i < prompt->n; i++) json_push(p, json_integer(prompt->id[i]));
    json_set(c->out, "prompt_ids", p);
    json_set(c->out, "ids", json_incref(r->ids));
    json_set(c->out, "text", json_str(buf_view(r->text)));
    json_set(c->out, "finish", json_string(names[res->finish]));
    json_set(c->out, "steps", json_incref(r->steps));
    json_set(c->out, "timings", json_pack("{s:I,s:f,s:I,s:f,s:I}", "prefill_tokens", (json_int_t)(res->prompt_tokens - res->cached_tokens), "prefill_s", res->prefill_s,
                                          "decode_tokens", (json_int_t)res->tokens, "decode_s", res->decode_s, "cached_tokens", (json_int_t)res->cached_tokens));
}

static err options_check(const run_opts *o, int *n_top)
{
    i64 k = o->probs ? 10 : 0;
    if (o->probs && *o->probs && (!str_i64(str_of(o->probs), &k) || k < 1 || k > 1000)) return err_new(ERR_INPUT, "--probs=%s: expected 1 to 1000", o->probs);
    if (o->tokens < 0) return err_new(ERR_INPUT, "-n %lld: expected 0 or more tokens", (long long)o->tokens);
    if (o->temp < 0 || o->top_p < 0 || o->top_p > 1 || o->min_p < 0 || o->min_p > 1 || o->top_k < 0 || o->penalty <= 0)
        return err_new(ERR_INPUT, "sampling: expected --temp >= 0, --top-k >= 0, --top-p and --min-p in [0,1], --repeat-penalty > 0");
    *n_top = (int)k;
    return OK;
}

err run_check(const run_opts *o)
{
    int n_top;
    return options_check(o, &n_top);
}

err run_tokens(cli *c, engine *e, session *s, const ids *prompt, run_opts *o, buf *text)
{
    int n_top = 0;
    TRY(options_check(o, &n_top));
    run_ctx     r = {.c = c, .e = e, .text = text, .ids = json_array(), .steps = json_array(), .n_top = n_top, .stream = !c->json};
    gen_result  res = {0};
    gen_request q = {.ids = prompt->id, .n = prompt->n, .max_tokens = o->tokens, .stop = o->stop.v, .n_stop = (int)o->stop.n, .n_top = n_top,
                     .ignore_end = o->ignore_end, .token = on_token, .ctx = &r, .cancel = &cli_cancel,
                     .sample = {.temp = (float)o->temp, .top_k = (int)o->top_k, .top_p = (float)o->top_p, .min_p = (float)o->min_p, .repeat_penalty = (float)o->penalty, .seed = (u64)c->seed}};
    err bad = session_generate(s, &q, &res);
    if (!bad.code) put_result(c, prompt, &r, &res);
    json_decref(r.ids);
    json_decref(r.steps);
    if (!bad.code && !c->json && isatty(2) && !c->quiet)
        fprintf(stderr, "\n[%lld tokens read in %.2f s, %lld written in %.2f s: %.1f/s]", (long long)(res.prompt_tokens - res.cached_tokens), res.prefill_s, (long long)res.tokens, res.decode_s,
                res.decode_s > 0 && res.tokens > 1 ? (double)(res.tokens - 1) / res.decode_s : 0.0);
    return bad;
}

static err run_prompt(cli *c, run_opts *o, const char *name, str prompt)
{
    engine  *e = NULL;
    session *s = NULL;
    ids      tok = {0};
    buf      text = {0};
    err      bad = cli_engine_with(c, &e, name, o->ctx, &o->adapters);
    if (!bad.code) bad = tokenize(engine_model(e)->tok, prompt, TOKENIZE_BOS | TOKENIZE_SPECIAL, &tok);
    if (!bad.code) bad = session_open(&s, e, 0);
    if (!bad.code && !c->json && !o->probs) cli_print(prompt);
    if (!bad.code) bad = run_tokens(c, e, s, &tok, o, &text);
    if (!bad.code && !c->json && !o->probs) printf("\n");
    session_close(s);
    engine_close(e);
    ids_free(&tok);
    buf_free(&text);
    return bad;
}

err cmd_run(cli *c, int argc, char **argv)
{
    run_opts    o = run_defaults();
    const char *from = NULL;
    option      opt[] = {RUN_OPTIONS(o), {"-p --prompt", "TEXT", "the prompt; - reads standard input", OPT_STR, &from}};
    buf         b = {0};
    err         bad = OK;
    TRY(cli_parse(c, argc, argv, opt, COUNT_OF(opt), 1, 2));
    if (c->arg.n == 2 && from) return err_new(ERR_INPUT, "the prompt was given twice: as a word and with -p");
    if (c->arg.n == 1 && !from) return err_new(ERR_INPUT, "a prompt is missing: maru run MODEL PROMPT, or -p - for standard input");
    TRY(run_check(&o));
    const char *prompt = from ? from : c->arg.v[1];
    if (strcmp(prompt, "-")) buf_puts(&b, prompt);
    else bad = cli_file("-", &b);
    if (!bad.code) bad = run_prompt(c, &o, c->arg.v[0], buf_view(&b));
    mem_free(o.stop.v);
    mem_free(o.adapters.v);
    buf_free(&b);
    return bad;
}
