/* cli/cmd_chat.c - maru chat: a conversation in the model's own template, with line editing on a terminal. */
#include "cli/cli.h"
#include <editline/readline.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct {
    cli          *c;
    engine       *e;
    session      *s;
    run_opts      o;
    chat_message *m; usize n, cap;          /* contents owned */
    const char   *system;
} talk;

static err say(talk *t, const char *role, const char *content)
{
    char *copy = mem_strdup(content);
    if (!copy || !VEC_PUSH(t->m, t->n, t->cap, ((chat_message){role, copy, NULL}))) return err_new(ERR_NOMEM, "out of memory");
    return OK;
}

static void forget(talk *t)
{
    for (usize i = 0; i < t->n; i++) mem_free((void *)(uintptr_t)t->m[i].content);
    t->n = 0;
}

static err begin(talk *t)
{
    forget(t);
    return t->system ? say(t, "system", t->system) : OK;
}

static err render(talk *t, ids *out)
{
    const model *m = engine_model(t->e);
    if (!m->chat) return err_new(ERR_UNSUPPORTED, "%s has no chat template%s%s: use maru run", m->path, m->chat_error ? " that could be read: " : "", m->chat_error ? m->chat_error : "");
    const token_source *src = tokenizer_source(m->tok);
    str                 bos = src->bos >= 0 ? token_piece(m->tok, (i32)src->bos) : S(""), eos = src->eos >= 0 ? token_piece(m->tok, (i32)src->eos) : S("");
    char               *b = mem_strndup(bos.p, bos.n), *e = mem_strndup(eos.p, eos.n);
    chat_options        o = {.bos = b ? b : "", .eos = e ? e : "", .add_generation_prompt = true};
    chat_output         text = {0};
    err                 bad = chat_render(m->chat, t->m, t->n, &o, &text);
    if (!bad.code) bad = chat_ids(m->tok, &text, out, NULL);
    chat_output_free(&text);
    mem_free(b);
    mem_free(e);
    return bad;
}

static err turn(talk *t, const char *words)
{
    ids tok = {0};
    buf text = {0};
    err bad = say(t, "user", words);
    if (!bad.code) bad = render(t, &tok);
    if (!bad.code) bad = run_tokens(t->c, t->e, t->s, &tok, &t->o, &text);
    if (!bad.code && !t->c->json) printf("\n");
    if (!bad.code) bad = say(t, "assistant", buf_cstr(&text));
    ids_free(&tok);
    buf_free(&text);
    return bad;
}

static const char *const help_text[] = {"/help    this\n/new     forget the conversation\n/system TEXT    a new conversation with this system message\n/quit    leave (or Ctrl-D)",
                                        "/help    도움말\n/new     대화를 새로 시작합니다\n/system TEXT    시스템 글을 바꾸고 새로 시작합니다\n/quit    끝냅니다 (또는 Ctrl-D)"};

static err command_line(talk *t, const char *line, bool *quit)
{
    if (!strcmp(line, "/quit") || !strcmp(line, "/exit")) *quit = true;
    else if (!strcmp(line, "/new")) return begin(t);
    else if (!strncmp(line, "/system ", 8)) {
        static char kept[8192];
        snprintf(kept, sizeof kept, "%s", line + 8);
        t->system = kept;
        return begin(t);
    } else printf("%s\n", L(help_text[1], help_text[0]));
    return OK;
}

static err converse(talk *t)
{
    bool quit = false;
    while (!quit && (isatty(0) || !atomic_load(&cli_cancel))) {
        atomic_store(&cli_cancel, false); /* at a terminal Ctrl-C stops an answer, and the conversation goes on */
        char *line = isatty(0) ? readline("> ") : NULL;
        buf   b = {0};
        if (isatty(0)) {
            if (line) buf_puts(&b, line), add_history(line);
        } else {
            int ch;
            while ((ch = getchar()) != EOF && ch != '\n') buf_byte(&b, ch);
            quit = ch == EOF && !b.n;
        }
        if (isatty(0) && !line) quit = true;
        err bad = OK;
        str words = str_trim(buf_view(&b));
        if (!quit && words.n) bad = words.p[0] == '/' ? command_line(t, buf_cstr(&b), &quit) : turn(t, buf_cstr(&b));
        free(line); /* readline's memory */
        buf_free(&b);
        if (bad.code) return bad;
    }
    return OK;
}

err cmd_chat(cli *c, int argc, char **argv)
{
    talk        t = {.c = c, .o = run_defaults()};
    const char *once = NULL;
    option      opt[] = {RUN_OPTIONS(t.o), {"--system", "TEXT", "the system message", OPT_STR, &t.system}, {"--once", "TEXT", "one turn, then leave", OPT_STR, &once}};
    t.o.tokens = 512;
    PARSE(c, opt, 1, 1);
    if (c->json && !once) return err_new(ERR_INPUT, "--json needs --once TEXT");
    TRY(run_check(&t.o));
    err bad = cli_engine_with(c, &t.e, c->arg.v[0], t.o.ctx, &t.o.adapters);
    if (!bad.code) bad = session_open(&t.s, t.e, 0);
    if (!bad.code) bad = begin(&t);
    if (!bad.code) bad = once ? turn(&t, once) : converse(&t);
    session_close(t.s);
    engine_close(t.e);
    forget(&t);
    mem_free(t.m);
    mem_free(t.o.stop.v);
    mem_free(t.o.adapters.v);
    return bad;
}
