/* tune/data_chat.c - conversations through the model's own template, and which of the rendered bytes are learned.
 *
 * The template that serves the model renders with provenance (text.h), so no template has to mark what the assistant says and
 * none has to be patched. Learned are the spans of assistant messages and, between two spans of one message, the template's
 * bytes; behind them the tokens up to the first one that ends a turn. Where no such token follows, a control token that follows
 * at once is taken: models like GLM end a turn by opening the user's. In front of a tool call or of reasoning the template writes
 * an opening that the model has to write itself when served: whatever the generation prompt does not hold. */
#include "tune/data_inside.h"
#include <stdlib.h>

typedef struct {
    const char *bos, *eos; /* owned */
    chat_message *m;       /* [n] json owned by jansson */
    bool *learned;         /* [n] the assistant's, and not only context */
    usize n;
    char *tools, *extra; /* jansson's */
} talk;

static err no_memory(void) { return err_new(ERR_NOMEM, "out of memory for a conversation"); }

static const char *string_of(const json_t *o, const char *key) { return json_string_value(json_object_get(o, key)); }

static char *special_text(const tokenizer *t, i64 id)
{
    str s = id >= 0 ? token_piece(t, (i32)id) : S("");
    return mem_strndup(s.p, s.n);
}

static void talk_free(talk *t)
{
    for (usize i = 0; i < t->n && t->m; i++) free((void *)(uintptr_t)t->m[i].json);
    mem_free((void *)(uintptr_t)t->bos);
    mem_free((void *)(uintptr_t)t->eos);
    mem_free(t->m);
    mem_free(t->learned);
    free(t->tools);
    free(t->extra);
}

static bool is_assistant(const char *role) { return !strcmp(role, "assistant") || !strcmp(role, "model"); }

/* false: a problem was noted */
static bool talk_check(tune_data *d, u32 line, const json_t *messages)
{
    usize i, n = json_array_size(messages);
    json_t *m;
    if (!n) return data_refuse(d, "empty", line, "the conversation has no messages"), false;
    json_array_foreach(messages, i, m)
    {
        const char *role = string_of(m, "role");
        json_t *content = json_object_get(m, "content");
        bool calls = json_object_get(m, "tool_calls") || json_object_get(m, "reasoning_content");
        if (!json_is_object(m) || !role)
            return data_refuse(d, "malformed", line, "message %zu: expected an object with \"role\" and \"content\"", i + 1),
                   false;
        if (!(json_is_string(content) || json_is_array(content) || calls))
            return data_refuse(d, "malformed", line, "message %zu (%s): expected \"content\", a text", i + 1, role), false;
        if (is_assistant(role) && json_is_string(content) && !json_string_length(content) && !calls)
            return data_refuse(d, "empty", line, "message %zu: the assistant says nothing", i + 1), false;
        if (json_is_string(content) && !d->o.special)
            data_note_special(d, line, (str){json_string_value(content), json_string_length(content)});
    }
    return true;
}

static err talk_begin(tune_data *d, const json_t *messages, const json_t *tools, const json_t *extra, talk *t)
{
    const token_source *src = tokenizer_source(d->m->tok);
    usize i, n = json_array_size(messages);
    json_t *m;
    t->bos = special_text(d->m->tok, src->bos), t->eos = special_text(d->m->tok, src->eos);
    t->m = mem_array(chat_message, n), t->learned = mem_array(bool, n);
    if (!t->bos || !t->eos || !t->m || !t->learned) return no_memory();
    t->n = n;
    json_array_foreach(messages, i, m)
    {
        const json_t *weight = json_object_get(m, "weight");
        t->learned[i] = is_assistant(string_of(m, "role")) && !(json_is_number(weight) && json_number_value(weight) <= 0);
        t->m[i].role = string_of(m, "role");
        t->m[i].json = json_dumps(m, JSON_COMPACT);
        if (!t->m[i].json) return no_memory();
    }
    if (json_is_array(tools) && json_array_size(tools) && !(t->tools = json_dumps(tools, JSON_COMPACT))) return no_memory();
    if (json_is_object(extra) && !(t->extra = json_dumps(extra, JSON_COMPACT))) return no_memory();
    return OK;
}

static err talk_render(const tune_data *d, const talk *t, usize n, bool prompt, chat_output *out)
{
    chat_options o = {
        .bos = t->bos, .eos = t->eos, .add_generation_prompt = prompt, .tools_json = t->tools, .extra_json = t->extra};
    return chat_render(d->m->chat, t->m, n, &o, out);
}

/* the length of the prompt that a server would give before message `n`, if the whole text begins with it; else 0 */
static err prompt_length(const tune_data *d, const talk *t, usize n, str whole, usize *length)
{
    chat_output out = {0};
    err bad = talk_render(d, t, n, true, &out);
    *length = !bad.code && str_starts(whole, buf_view(&out.text)) ? out.text.n : 0;
    chat_output_free(&out);
    return bad.code == ERR_NOMEM ? bad : OK; /* a template may refuse half a conversation */
}

static bool spoken(const talk *t, const chat_span *s)
{
    return s->message >= 0 && (usize)s->message < t->n && t->learned[s->message] &&
           (s->field == CHAT_CONTENT || s->field == CHAT_OTHER);
}

/* w->byte[] from the spans; w->text is rendered */
static err mark_bytes(const tune_data *d, const talk *t, data_draft *w)
{
    usize n = w->text.text.n, since = 0; /* since: the template's bytes directly in front of this span begin there */
    i32 before = -1;                     /* the message whose span ended there, if it is learned */
    if (!vec_grow((void **)&w->byte, &w->cap_byte, n + 1, 1)) return no_memory();
    memset(w->byte, 0, n + 1);
    for (usize i = 0; i < w->text.n_span; i++) {
        const chat_span *s = &w->text.span[i];
        if (s->field == CHAT_TEMPLATE) continue;
        bool learned = spoken(t, s);
        usize from = s->start;
        if (learned && before == s->message) {
            from = since;
        } else if (learned && s->field == CHAT_OTHER) {
            usize prompt;
            TRY(prompt_length(d, t, (usize)s->message, buf_view(&w->text.text), &prompt));
            if (prompt && prompt >= since && prompt <= s->start) from = prompt;
        }
        if (learned) memset(w->byte + from, 1, s->end - from);
        before = learned ? s->message : -1;
        since = s->end;
    }
    return OK;
}

static usize token_at(const data_draft *w, usize byte) /* the first that begins there or behind */
{
    usize low = 0, high = w->n_where;
    while (low < high) {
        usize mid = (low + high) / 2;
        if (w->where[mid].start < byte)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* learns the tokens from the end of what was said through the one that ends the turn; the token behind it, or 0: none does */
static usize mark_end(const tune_data *d, data_draft *w, usize from, usize to)
{
    usize first = token_at(w, from);
    for (usize i = first; i < w->n_where && w->where[i].end <= to && w->where[i].start < to; i++) {
        if (!token_is_end(d->m->tok, w->id.id[i])) continue;
        memset(w->learn + first, 1, i + 1 - first);
        return i + 1;
    }
    return 0;
}

/* What a template makes of a message behind the end of its turn (the name of the called tool, as the head of the tool's answer)
 * is not the assistant's any more. */
static void mark_ends(const tune_data *d, const talk *t, data_draft *w)
{
    const chat_output *c = &w->text;
    i32 over = -1; /* the message whose turn has ended */
    for (usize i = 0; i < c->n_span; i++) {
        const chat_span *s = &c->span[i];
        if (s->field == CHAT_TEMPLATE) continue;
        if (!spoken(t, s) || s->message != over) over = -1;
        if (!spoken(t, s)) continue;
        usize k = i + 1, first = token_at(w, s->end);
        while (k < c->n_span && c->span[k].field == CHAT_TEMPLATE) k++;
        usize to = k < c->n_span ? c->span[k].start : c->text.n;
        bool goes_on = k < c->n_span && c->span[k].message == s->message && spoken(t, &c->span[k]);
        usize after = over >= 0 ? first : mark_end(d, w, s->end, to);
        if (after) {
            over = s->message;
            while (goes_on && after < w->n_where && w->where[after].start < c->span[k].end) w->learn[after++] = 0;
        } else if (!goes_on && first < w->n_where && w->where[first].end <= to &&
                   token_kind_of(d->m->tok, w->id.id[first]) == TOKEN_CONTROL) {
            w->learn[first] = 1;
        }
    }
}

/* asked as a server asks, would the model see what it was taught behind? */
static err note_prompt(tune_data *d, u32 line, const talk *t, str whole)
{
    usize last = t->n, length;
    while (last && !t->learned[last - 1]) last--;
    if (!last) return OK;
    TRY(prompt_length(d, t, last - 1, whole, &length));
    if (!length)
        data_note(
            d, "prompt-differs", line,
            "the text in front of the last answer is not the template's generation prompt: when served the model sees another");
    return OK;
}

err data_chat(tune_data *d, u32 line, json_t *messages, json_t *tools, json_t *extra)
{
    const model *m = d->m;
    data_draft *w = &d->reader->draft;
    talk t = {0};
    err bad = OK;
    if (!m->chat)
        return err_new(ERR_UNSUPPORTED, "%s has no chat template%s%s: conversations cannot be written for it",
                       m->path ? m->path : "the model", m->chat_error ? " that could be read: " : "",
                       m->chat_error ? m->chat_error : "");
    if (!talk_check(d, line, messages)) return OK;
    draft_begin(w);
    TRY_TO(done, talk_begin(d, messages, tools, extra, &t));
    chat_output_free(&w->text);
    bad = talk_render(d, &t, t.n, false, &w->text);
    if (bad.code == ERR_INPUT || bad.code == ERR_FORMAT) {
        data_refuse(d, "template", line, "the model's template refuses this conversation: %s", bad.what);
        bad = OK;
        goto done;
    }
    if (!bad.code) bad = mark_bytes(d, &t, w);
    if (!bad.code) bad = draft_ids(d, w);
    if (bad.code) goto done;
    mark_ends(d, &t, w);
    if (d->reader->rows_seen < LOOKED_AT) TRY_TO(done, note_prompt(d, line, &t, buf_view(&w->text.text)));
    data_row r = {.line = line, .label = -1, .ends = true};
    bad = data_add(d, &r, w->id.id, w->learn, w->id.n);
done:
    talk_free(&t);
    return bad;
}

/* ---- other spellings of a conversation ---- */
static json_t *message_new(const char *role, str content)
{
    return json_pack("{s:s,s:s%}", "role", role, "content", content.n ? content.p : "", content.n);
}

/* {"name","arguments"} as a message that calls; NULL: it is none */
static json_t *call_of(const json_t *value)
{
    json_t *call = json_loadb(json_string_value(value), json_string_length(value), 0, NULL);
    json_t *list = json_is_array(call) ? json_incref(call) : json_pack("[O]", call), *calls = json_array(), *one;
    usize i;
    bool good = json_is_object(call) || json_is_array(call);
    if (good) json_array_foreach(list, i, one)
        {
            json_t *f = json_is_object(json_object_get(one, "function")) ? json_object_get(one, "function") : one;
            good &= string_of(f, "name") != NULL;
            json_array_append_new(calls, json_pack("{s:s,s:O}", "type", "function", "function", f));
        }
    json_t *m = good ? json_pack("{s:s,s:s,s:O}", "role", "assistant", "content", "", "tool_calls", calls) : NULL;
    json_decref(call);
    json_decref(list);
    json_decref(calls);
    return m;
}

static json_t *turn_of(const json_t *o)
{
    static const char *const names[][2] = {
        {"human", "user"},        {"user", "user"},        {"gpt", "assistant"},         {"assistant", "assistant"},
        {"chatgpt", "assistant"}, {"model", "assistant"},  {"bot", "assistant"},         {"system", "system"},
        {"tool", "tool"},         {"observation", "tool"}, {"function_response", "tool"}};
    const char *from = string_of(o, "from");
    json_t *value = json_object_get(o, "value");
    if (!from || !json_is_string(value)) return NULL;
    if (!strcmp(from, "function_call")) return call_of(value);
    for (usize i = 0; i < COUNT_OF(names); i++)
        if (!strcmp(from, names[i][0]))
            return message_new(names[i][1], (str){json_string_value(value), json_string_length(value)});
    return NULL;
}

/* tools as a list, or as a text that holds one; each in the wrapping that templates expect. NULL: none */
static json_t *tools_of(const json_t *given)
{
    json_t *list = json_is_string(given) ? json_loadb(json_string_value(given), json_string_length(given), 0, NULL)
                                         : json_incref((json_t *)(uintptr_t)given),
           *out = json_array(), *one;
    usize i;
    json_array_foreach(list, i, one) json_array_append_new(
        out, json_object_get(one, "function") ? json_incref(one) : json_pack("{s:s,s:O}", "type", "function", "function", one));
    json_decref(list);
    return out;
}

err data_conversation(tune_data *d, u32 line, json_t *row)
{
    json_t *given = json_object_get(row, "conversations"), *list = json_array(), *tools = tools_of(json_object_get(row, "tools")),
           *one;
    const char *system = string_of(row, "system");
    usize i;
    err bad = list && tools ? OK : no_memory();
    if (!bad.code && system && *system) json_array_append_new(list, message_new("system", str_of(system)));
    json_array_foreach(given, i, one)
    {
        json_t *m = string_of(one, "role") ? json_incref(one) : turn_of(one);
        if (m) {
            json_array_append_new(list, m);
            continue;
        }
        data_refuse(d, "malformed", line,
                    "turn %zu: expected {\"from\",\"value\"}, from one of human, gpt, system, observation, function_call (with "
                    "{\"name\",\"arguments\"})",
                    i + 1);
        goto done;
    }
    if (!bad.code) bad = data_chat(d, line, list, tools, NULL);
done:
    json_decref(list);
    json_decref(tools);
    return bad;
}

/* Through the template where the model has one; else in plain paragraphs. */
err data_instruction(tune_data *d, u32 line, str system, str instruction, str input, str output)
{
    buf prompt = {0};
    buf_str(&prompt, instruction);
    if (str_trim(input).n) {
        if (prompt.n) buf_puts(&prompt, "\n\n");
        buf_str(&prompt, input);
    }
    err bad = buf_error(&prompt);
    if (bad.code) return bad;
    if (!str_trim(buf_view(&prompt)).n || !str_trim(output).n) {
        data_refuse(d, "empty", line, "the %s is empty", str_trim(output).n ? "instruction" : "output");
    } else if (d->m->chat) {
        json_t *list = json_array();
        if (str_trim(system).n) json_array_append_new(list, message_new("system", system));
        json_array_append_new(list, message_new("user", buf_view(&prompt)));
        json_array_append_new(list, message_new("assistant", output));
        bad = list ? data_chat(d, line, list, NULL, NULL) : no_memory();
        json_decref(list);
    } else {
        buf_puts(&prompt, "\n\n");
        bad = buf_error(&prompt);
        if (!bad.code) bad = data_pair(d, line, buf_view(&prompt), output);
    }
    buf_free(&prompt);
    return bad;
}
