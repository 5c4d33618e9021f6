/* tune/data_rows.c - a file into rows: JSON lines, one JSON array, plain text; tables are data_table.c's.
 *
 * A malformed row is a problem with its line and the next row is read, so that one run shows all of them. An array is cut into
 * its elements by brackets before a parser sees it, because only so each has a line. */
#include "tune/data_inside.h"
#include <stdlib.h>

static const char *ending(const char *path)
{
    const char *slash = strrchr(path, '/'), *dot = strrchr(slash ? slash : path, '.');
    return dot ? dot : "";
}

static str field(const json_t *row, const char *key)
{
    const json_t *v = json_object_get(row, key);
    return json_is_string(v) ? (str){json_string_value(v), json_string_length(v)} : (str){NULL, 0};
}

/* ---- one object ---- */
static void refuse_keys(tune_data *d, u32 line, json_t *row)
{
    buf b = {0};
    const char *key;
    json_t *value;
    json_object_foreach(row, key, value) if (b.n < 200) buf_fmt(&b, "%s%s", b.n ? ", " : "", key);
    if (json_object_get(row, "chosen") || json_object_get(row, "rejected"))
        data_refuse(d, "unknown-format", line,
                    "preference pairs (chosen, rejected) are not what tune learns from: expected one answer a row");
    else
        data_refuse(d, "unknown-format", line,
                    "found the fields %s; expected text, prompt+completion, messages, instruction+output, conversations or "
                    "text+label (texts)",
                    buf_cstr(&b));
    buf_free(&b);
}

/* {"prompt": [messages], "completion": [messages]}: one conversation whose first part is context only */
static err take_split(tune_data *d, u32 line, json_t *row)
{
    json_t *list = json_array(), *one;
    usize i;
    json_array_foreach(json_object_get(row, "prompt"), i, one)
    {
        json_t *m = json_is_object(one) ? json_copy(one) : json_null();
        if (json_is_object(m)) json_object_set_new(m, "weight", json_integer(0));
        json_array_append_new(list, m);
    }
    json_array_foreach(json_object_get(row, "completion"), i, one) json_array_append(list, one);
    err bad = data_chat(d, line, list, json_object_get(row, "tools"), json_object_get(row, "chat_template_kwargs"));
    json_decref(list);
    return bad;
}

static bool format_of(json_t *row, tune_format *out)
{
    const json_t *prompt = json_object_get(row, "prompt"), *completion = json_object_get(row, "completion");
    bool text = json_is_string(json_object_get(row, "text"));
    if (json_object_get(row, "chosen") || json_object_get(row, "rejected")) return false;
    if (json_is_array(json_object_get(row, "messages")))
        *out = TUNE_MESSAGES;
    else if (json_is_array(json_object_get(row, "conversations")))
        *out = TUNE_CONVERSATIONS;
    else if ((json_is_string(prompt) && json_is_string(completion)) || (json_is_array(prompt) && json_is_array(completion)))
        *out = TUNE_PROMPT;
    else if (json_is_string(json_object_get(row, "output")) &&
             (json_is_string(json_object_get(row, "instruction")) || json_is_string(json_object_get(row, "input"))))
        *out = TUNE_INSTRUCTION;
    else if (text && json_object_get(row, "label"))
        *out = TUNE_LABEL;
    else if (text)
        *out = TUNE_TEXT;
    else
        return false;
    return true;
}

static err take_label(tune_data *d, u32 line, json_t *row)
{
    const json_t *label = json_object_get(row, "label");
    str name = field(row, "label");
    char number[64];
    if (json_is_integer(label)) {
        snprintf(number, sizeof number, "%lld", (long long)json_integer_value(label));
        name = str_of(number);
    } else if (json_is_boolean(label)) {
        name = str_of(json_is_true(label) ? "true" : "false");
    } else if (!json_is_string(label)) {
        data_refuse(d, "malformed", line, "\"label\": expected a text or a whole number");
        return OK;
    }
    return data_label(d, line, field(row, "text"), name);
}

static err take_object(tune_data *d, u32 line, json_t *row)
{
    tune_format format;
    if (!json_is_object(row)) {
        data_refuse(d, "malformed", line, "expected a JSON object");
        return OK;
    }
    if (!format_of(row, &format)) {
        refuse_keys(d, line, row);
        return OK;
    }
    if (!data_format(d, line, format)) return OK;
    d->file[d->n_files - 1].n_rows++;
    switch (format) {
    case TUNE_MESSAGES:
        return data_chat(d, line, json_object_get(row, "messages"), json_object_get(row, "tools"),
                         json_object_get(row, "chat_template_kwargs"));
    case TUNE_CONVERSATIONS: return data_conversation(d, line, row);
    case TUNE_PROMPT:
        if (json_is_array(json_object_get(row, "prompt"))) return take_split(d, line, row);
        return data_pair(d, line, field(row, "prompt"), field(row, "completion"));
    case TUNE_INSTRUCTION:
        return data_instruction(d, line, field(row, "system"), field(row, "instruction"), field(row, "input"),
                                field(row, "output"));
    case TUNE_LABEL: return take_label(d, line, row);
    default: return data_text(d, line, field(row, "text"));
    }
}

static err take_json(tune_data *d, u32 line, str s)
{
    json_error_t e;
    json_t *row = json_loadb(s.p, s.n, JSON_REJECT_DUPLICATES, &e);
    if (!row) {
        if (json_error_code(&e) == json_error_out_of_memory) return err_new(ERR_NOMEM, "out of memory for a row");
        data_refuse(d, "malformed", line + (e.line > 1 ? (u32)e.line - 1 : 0), "no JSON: %s (column %d)", e.text, e.column);
        return OK;
    }
    err bad = take_object(d, line, row);
    json_decref(row);
    if (!bad.code) bad = d->reader->bad;
    d->reader->rows_seen++;
    return bad;
}

/* ---- files of objects ---- */
static err json_lines(tune_data *d, str s)
{
    u32 line = 1;
    progress p;
    err bad = OK;
    progress_start(&p, "data", (i64)s.n);
    for (usize at = 0; at < s.n && !bad.code; line++) {
        i64 nl = str_find(s, S("\n"), at);
        usize end = nl < 0 ? s.n : (usize)nl;
        str row = str_trim((str){s.p + at, end - at});
        if (row.n > ROW_MAX)
            data_refuse(d, "malformed", line, "a line of %zu bytes", row.n);
        else if (row.n)
            bad = take_json(d, line, row);
        at = end + 1;
        progress_step(&p, (i64)at);
    }
    progress_end(&p);
    return bad;
}

/* the end of the JSON value that begins at `at`, by brackets and quotes */
static usize value_end(str s, usize at)
{
    usize depth = 0;
    for (bool quoted = false; at < s.n; at++) {
        char c = s.p[at];
        if (quoted) {
            if (c == '\\')
                at++;
            else if (c == '"')
                quoted = false;
        } else if (c == '"') {
            quoted = true;
        } else if (c == '{' || c == '[') {
            depth++;
        } else if (c == '}' || c == ']') {
            if (!depth) return at; /* the array around it ends */
            if (!--depth) return at + 1;
        } else if (c == ',' && !depth) {
            return at;
        }
    }
    return s.n;
}

static void skip_space(str s, usize *at, u32 *line)
{
    for (; *at < s.n && strchr(" \t\r\n", s.p[*at]) && s.p[*at]; ++*at) *line += s.p[*at] == '\n';
}

static err json_values(tune_data *d, str s)
{
    u32 line = 1;
    usize at = 0;
    bool array = false, closed = false;
    skip_space(s, &at, &line);
    if (at < s.n && s.p[at] == '[') array = true, at++;
    for (;;) {
        skip_space(s, &at, &line);
        if (at >= s.n || (array && s.p[at] == ']')) break;
        usize end = value_end(s, at);
        if (end > s.n) end = s.n;
        if (end == at) end++; /* a comma or bracket too many: reported as no JSON */
        TRY(take_json(d, line, (str){s.p + at, end - at}));
        for (; at < end; at++) line += s.p[at] == '\n';
        skip_space(s, &at, &line);
        if (at < s.n && s.p[at] == ',') at++;
    }
    closed = at < s.n;
    if (array && !closed) data_refuse(d, "malformed", line, "the array does not end: expected ]");
    if (closed) {
        at++;
        skip_space(s, &at, &line);
        if (at < s.n) data_refuse(d, "malformed", line, "text behind the array's end");
    }
    return OK;
}

/* ---- plain text ---- */
static err plain_text(tune_data *d, str s)
{
    static const str mark = {"<|endoftext|>", 13};
    u32 line = 1;
    bool any = false;
    data_format(d, 1, TUNE_TEXT);
    for (usize at = 0; at < s.n;) {
        i64 found = str_find(s, mark, at);
        usize end = found < 0 ? s.n : (usize)found;
        str document = str_trim((str){s.p + at, end - at});
        if (document.n) {
            for (const char *p = s.p + at; p < document.p; p++) line += *p == '\n';
            if (!utf8_valid(document))
                data_refuse(d, "malformed", line, "the text is not UTF-8");
            else
                TRY(data_text(d, line, document));
            d->file[d->n_files - 1].n_rows++;
            any = true;
            for (const char *p = document.p; p < s.p + end; p++) line += *p == '\n';
        } else {
            for (const char *p = s.p + at; p < s.p + end; p++) line += *p == '\n';
        }
        at = end + mark.n;
    }
    if (!any) data_refuse(d, "empty", 0, "no text between the <|endoftext|> marks");
    return OK;
}

/* ---- which ---- */
static str first_line(str s)
{
    s = str_trim(s);
    i64 nl = str_find(s, S("\n"), 0);
    return str_trim((str){s.p, nl < 0 ? s.n : (usize)nl});
}

err data_rows(tune_data *d, str s, const char *path)
{
    const char *dot = ending(path);
    str first = first_line(s);
    bool named = !strcmp(dot, ".jsonl") || !strcmp(dot, ".ndjson"), json = named || !strcmp(dot, ".json");
    bool table = !strcmp(dot, ".tsv") || !strcmp(dot, ".csv");
    if (!table && first.p[0] == '[' && !named) {
        bool whole = false; /* a text may begin with a bracket too */
        json_t *v = json ? NULL : json_loadb(s.p, s.n, 0, NULL);
        whole = json || json_is_array(v);
        json_decref(v);
        if (whole) return json_values(d, s);
    }
    if (!table && (json || first.p[0] == '{')) {
        json_t *v = json_loadb(first.p, first.n, 0, NULL);
        bool object = json_is_object(v);
        json_decref(v);
        if (object || named) return json_lines(d, s);
        if (json) return json_values(d, s);
    }
    char separator = data_table_separator(d, s, path);
    return separator ? data_table(d, s, separator) : plain_text(d, s);
}
