/* Chat templates: the door. A template is parsed once and may render for many threads; a rendering has an arena of its own,
 * makes values of the messages (with where every byte comes from), walks the tree and copies text and runs out.
 *
 * The variables are those of transformers' apply_chat_template: messages (without the keys that are null, the reasoning under the
 * names that templates read), tools and documents (none if not given), add_generation_prompt, bos_token, eos_token, and what
 * `extra_json` adds or replaces. */
#include "text/chat.h"

/* ---- making ---- */
/* Line ends become \n, one at the end goes: Jinja's reading of a source. */
static str normalised(arena *a, str source)
{
    char *text = arena_take(a, source.n + 1);
    usize n = 0;
    for (usize i = 0; text && i < source.n; i++) {
        bool cr = source.p[i] == '\r';
        if (cr && i + 1 < source.n && source.p[i + 1] == '\n') continue;
        text[n++] = cr ? '\n' : source.p[i];
    }
    if (n && text[n - 1] == '\n') n--;
    return (str){text, n};
}

err chat_template_new(chat_template **out, str source)
{
    chat_tokens tokens = {0};
    err bad = OK;
    *out = NULL;
    if (source.n > CHAT_MAX_SOURCE)
        return err_new(ERR_FORMAT, "template: %zu bytes found, at most %d expected", source.n, CHAT_MAX_SOURCE);
    arena *a = arena_new();
    chat_template *t = a ? arena_take(a, sizeof *t) : NULL;
    str text = t ? normalised(a, source) : (str){NULL, 0};
    if (!text.p) {
        bad = err_new(ERR_NOMEM, "template: out of memory");
        goto end;
    }
    t->a = a;
    TRY_TO(end, chat_lex(a, text, &tokens));
    TRY_TO(end, chat_parse(t, &tokens));
    *out = t;
end:
    mem_free(tokens.at);
    if (!*out) arena_free(a);
    return bad;
}

void chat_template_free(chat_template *t)
{
    if (t) arena_free(t->a);
}

/* ---- rendering ---- */
/* sets a variable if the template mentions it */
static void set_variable(chat_eval *ev, str name, chat_value v)
{
    u64 hash = chat_text_hash(name);
    for (u32 i = SYM_FIRST; i < ev->t->n_symbol; i++)
        if (ev->t->symbol[i].hash == hash && str_eq(ev->t->symbol[i].text, name)) ev->root[i] = v;
}

static void set_globals(chat_eval *ev)
{
    for (u32 i = SYM_FIRST; i < ev->t->n_symbol && !ev->bad.code; i++) {
        const chat_builtin *row = chat_global_find(ev->t->symbol[i].text);
        chat_callable *fn = row ? chat_take(ev, sizeof *fn) : NULL;
        if (!fn) continue;
        *fn = (chat_callable){row, chat_none(), "function"};
        ev->root[i] = (chat_value){.kind = V_CALLABLE, .from = CHAT_LITERAL, .fn = fn};
    }
}

static void set_options(chat_eval *ev, const chat_options *o)
{
    chat_value tools = chat_none();
    if (o->tools_json) tools = chat_from_json(ev, str_of(o->tools_json), CHAT_LITERAL, "tools");
    if (tools.kind != V_LIST && tools.kind != V_NONE) chat_fail_as(ev, ERR_INPUT, "tools: a JSON array expected");
    set_variable(ev, S("tools"), tools);
    set_variable(ev, S("documents"), chat_none());
    set_variable(ev, S("add_generation_prompt"), chat_bool(o->add_generation_prompt));
    if (o->bos) set_variable(ev, S("bos_token"), chat_string_lit(ev, o->bos));
    if (o->eos) set_variable(ev, S("eos_token"), chat_string_lit(ev, o->eos));
    if (!o->extra_json || ev->bad.code) return;
    chat_value extra = chat_from_json(ev, str_of(o->extra_json), CHAT_LITERAL, "the variables");
    if (extra.kind != V_DICT) chat_fail_as(ev, ERR_INPUT, "the variables: a JSON object expected");
    if (ev->bad.code) return;
    for (u32 i = 0; i < extra.dict->n; i++) set_variable(ev, chat_bytes(extra.dict->pair[i].key), extra.dict->pair[i].value);
}

static void set_messages(chat_eval *ev, const chat_message *m, usize n)
{
    chat_list *l = chat_list_new(ev, n, LIST_PLAIN);
    if (n > INT32_MAX) chat_fail_as(ev, ERR_INPUT, "too many messages");
    for (usize i = 0; i < n && !ev->bad.code; i++)
        chat_list_push(ev, l,
                       chat_message_json(ev, m[i].json ? str_of(m[i].json) : (str){NULL, 0}, (i32)i, m[i].role, m[i].content));
    set_variable(ev, S("messages"), chat_list_value(l, CHAT_LITERAL));
}

static err hand_over(const chat_build *b, chat_output *out)
{
    buf_put(&out->text, b->p ? b->p : "", b->n);
    TRY(buf_error(&out->text));
    u32 start = 0;
    for (usize i = 0; i < b->n_run; i++) {
        chat_span s = {b->run[i].from.message, start, b->run[i].end, b->run[i].from.field};
        if (!VEC_PUSH(out->span, out->n_span, out->cap_span, s)) return err_new(ERR_NOMEM, "template: out of memory");
        start = b->run[i].end;
    }
    return OK;
}

err chat_render(const chat_template *t, const chat_message *m, usize n, const chat_options *options, chat_output *out)
{
    static const chat_options none;
    const chat_options *o = options ? options : &none;
    chat_build text = {0};
    err bad = OK;
    *out = (chat_output){0};
    chat_eval ev = {.t = t, .a = arena_new(), .fuel = o->fuel > 0 ? o->fuel : CHAT_FUEL, .out = &text};
    if (!ev.a) return err_new(ERR_NOMEM, "template: out of memory");
    ev.root = chat_take(&ev, t->n_symbol * sizeof *ev.root); /* zeroed: V_MISSING */
    if (ev.root) {
        set_globals(&ev);
        set_messages(&ev, m, n);
        set_options(&ev, o);
        ev.line = 1;
        chat_execute(&ev, t->body);
    }
    bad = ev.bad;
    if (!bad.code) bad = hand_over(&text, out);
    if (bad.code) chat_output_free(out);
    arena_free(ev.a);
    return bad;
}

void chat_output_free(chat_output *out)
{
    if (!out) return;
    buf_free(&out->text);
    mem_free(out->span);
    *out = (chat_output){0};
}
