/* rag/load_jsonl.c - JSON Lines: one document per line, {"id", "title"?, "text"}; further strings, numbers and booleans go to
 * `meta`, anything else is read over.
 *
 * The JSON reader is ours because the text must be traced: each character of "text" keeps the bytes of the file that it came
 * from, escapes included, so a citation from a JSONL file can be found in that file. It makes no tree, walks the line once and
 * keeps no state but nesting bits. Strict (RFC 8259), except that half a surrogate pair becomes U+FFFD, because Python and
 * JavaScript write such things. A bad line is skipped and named at the end. */
#include "rag/load_canon.h"

enum { DEPTH_MAX = 64, NAMED_MAX = 5 /* bad lines that the message spells out */, LABEL_MAX = 1000 };

typedef struct {
    str s;         /* decoded file */
    usize at, end; /* here; end of this line */
    u32 origin;    /* offset of `at` in the original */
    const char *encoding;
    usize line, line_at;
    const char *wrong; /* what is wrong here, or NULL */
    bool no_memory;
} reader;

typedef struct {
    buf id, title, meta, scratch;
    canon *text;
    bool has_id, has_title, has_text;
} fields;

/* ---- characters ----------------------------------------------------------------------------------------------------------- */
static bool fail(reader *r, const char *wrong)
{
    if (!r->wrong) r->wrong = wrong;
    return false;
}

static int peek(const reader *r) { return r->at < r->end ? (u8)r->s.p[r->at] : -1; }

static u32 take(reader *r)
{
    u32 c = utf8_next((str){r->s.p, r->end}, &r->at);
    r->origin += load_width(r->encoding, c);
    return c;
}

static void spaces(reader *r)
{
    for (int c = peek(r); c == ' ' || c == '\t' || c == '\r'; c = peek(r)) take(r);
}

static bool expect(reader *r, int c, const char *wrong)
{
    if (peek(r) != c) return fail(r, wrong);
    take(r);
    return true;
}

static bool hex4(reader *r, u32 *out)
{
    *out = 0;
    for (int i = 0; i < 4; i++) {
        int c = peek(r);
        u32 digit;
        if (c >= '0' && c <= '9')
            digit = (u32)c - '0';
        else if ((c | 32) >= 'a' && (c | 32) <= 'f')
            digit = (u32)(c | 32) - 'a' + 10;
        else
            return fail(r, "four hexadecimal digits must follow \\u");
        *out = *out << 4 | digit;
        take(r);
    }
    return true;
}

/* After the backslash. A high surrogate takes the low one that follows; halves give U+FFFD. */
static bool escape(reader *r, u32 *out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    int c = peek(r);
    const char *known = c > 0 ? strchr(from, c) : NULL;
    if (known) {
        take(r);
        *out = (u8)to[known - from];
        return true;
    }
    if (c != 'u') return fail(r, "unknown escape after a backslash");
    take(r);
    if (!hex4(r, out)) return false;
    if (*out < 0xD800 || *out > 0xDFFF) return true;
    u32 high = *out, low;
    *out = 0xFFFD;
    if (high > 0xDBFF || r->end - r->at < 6 || r->s.p[r->at] != '\\' || r->s.p[r->at + 1] != 'u') return true;
    reader ahead = *r;
    take(&ahead), take(&ahead);
    if (!hex4(&ahead, &low)) return true; /* the next round finds the fault */
    if (low < 0xDC00 || low > 0xDFFF) return true;
    *r = ahead;
    *out = 0x10000 + ((high - 0xD800) << 10 | (low - 0xDC00));
    return true;
}

/* A string goes to `plain`, or traced to `text`, or nowhere. */
static bool string(reader *r, buf *plain, canon *text)
{
    if (!expect(r, '"', "a string was expected")) return false;
    for (;;) {
        int c = peek(r);
        u32 from = r->origin, code_point;
        if (c < 0) return fail(r, "the line ends inside a string");
        if (c < 0x20) return fail(r, "a control character inside a string must be escaped");
        code_point = take(r);
        if (c == '"') {
            r->no_memory |= plain && plain->bad;
            return !r->no_memory;
        }
        if (c == '\\' && !escape(r, &code_point)) return false;
        if (text) canon_byte(text, code_point, from, r->origin);
        if (plain) buf_utf8(plain, code_point);
    }
}

static usize digits(reader *r)
{
    usize n = 0;
    for (int c = peek(r); c >= '0' && c <= '9'; c = peek(r), n++) take(r);
    return n;
}

static bool number(reader *r)
{
    if (peek(r) == '-') take(r);
    bool zero = peek(r) == '0';
    usize n = digits(r);
    if (!n || (zero && n > 1)) return fail(r, "a value was expected");
    if (peek(r) == '.') {
        take(r);
        if (!digits(r)) return fail(r, "digits must follow the decimal point");
    }
    if (peek(r) == 'e' || peek(r) == 'E') {
        take(r);
        if (peek(r) == '+' || peek(r) == '-') take(r);
        if (!digits(r)) return fail(r, "digits must follow the exponent");
    }
    return true;
}

static bool word(reader *r, const char *w)
{
    for (; *w; w++)
        if (!expect(r, *w, "a value was expected")) return false;
    return true;
}

typedef enum { VALUE_STRING, VALUE_NUMBER, VALUE_BOOLEAN, VALUE_OTHER } value_kind;

/* Anything that is no object or array */
static bool scalar(reader *r, value_kind *kind)
{
    int c = peek(r);
    *kind = c == '"' ? VALUE_STRING : c == 't' || c == 'f' ? VALUE_BOOLEAN : c == 'n' ? VALUE_OTHER : VALUE_NUMBER;
    if (c == '"') return string(r, NULL, NULL);
    if (c == 't') return word(r, "true");
    if (c == 'f') return word(r, "false");
    if (c == 'n') return word(r, "null");
    return number(r);
}

static bool key(reader *r)
{
    spaces(r);
    if (!string(r, NULL, NULL)) return false;
    spaces(r);
    return expect(r, ':', "':' was expected after a field's name");
}

/* Behind a value: closes what is full. True with `done` when the outermost is closed, else at the next value. */
static bool next_in_nest(reader *r, u64 *objects, int *depth, bool *done)
{
    *done = false;
    while (*depth) {
        bool object = *objects & 1;
        spaces(r);
        if (peek(r) == ',') {
            take(r);
            return object ? key(r) : true;
        }
        if (!expect(r, object ? '}' : ']', "',' or a closing bracket was expected")) return false;
        *objects >>= 1;
        --*depth;
    }
    *done = true;
    return true;
}

/* An object or array that is only read over: one bit of `objects` for each open bracket. */
static bool nest(reader *r)
{
    u64 objects = 0;
    int depth = 0;
    for (bool done = false; !done;) {
        spaces(r);
        int c = peek(r);
        value_kind kind;
        if (c != '{' && c != '[') {
            if (!scalar(r, &kind)) return false;
        } else {
            if (depth == DEPTH_MAX) return fail(r, "more than 64 brackets deep");
            take(r);
            objects = objects << 1 | (c == '{');
            depth++;
            spaces(r);
            if (peek(r) != (c == '{' ? '}' : ']')) {
                if (c == '{' && !key(r)) return false;
                continue;
            }
            take(r);
            objects >>= 1;
            depth--;
        }
        if (!next_in_nest(r, &objects, &depth, &done)) return false;
    }
    return true;
}

/* ---- one document -----------------------------------------------------------------------------------------------------------
 */
static bool field_id(reader *r, fields *f)
{
    if (f->has_id) return fail(r, "\"id\" is given twice");
    f->has_id = true;
    usize from = r->at;
    if (peek(r) == '"') {
        if (!string(r, &f->id, NULL)) return false;
        for (usize i = 0; i < f->id.n; i++)
            if ((u8)f->id.p[i] < 0x20 || f->id.p[i] == 0x7F) return fail(r, "\"id\" has a control character");
        return f->id.n ? true : fail(r, "\"id\" is empty");
    }
    if (peek(r) != '-' && (peek(r) < '0' || peek(r) > '9')) return fail(r, "\"id\" must be a string or a number");
    if (!number(r)) return false;
    buf_put(&f->id, r->s.p + from, r->at - from);
    return true;
}

static void put_string(buf *out, str s)
{
    buf_byte(out, '"');
    for (usize i = 0; i < s.n; i++) {
        u8 c = (u8)s.p[i];
        if (c == '"' || c == '\\')
            buf_fmt(out, "\\%c", c);
        else if (c < 0x20 && c) /* NUL is dropped: readers of JSON in C refuse it */
            buf_fmt(out, "\\u%04x", c);
        else if (c)
            buf_byte(out, c);
    }
    buf_byte(out, '"');
}

/* Written anew, not copied: half surrogates are gone, and a number that fits neither 64 bits nor a double becomes a string, so
 * that every reader of JSON takes `meta`. */
static bool field_meta(reader *r, fields *f, str name)
{
    usize from = r->at;
    value_kind kind;
    if (peek(r) == '{' || peek(r) == '[') return nest(r);
    buf_reset(&f->scratch);
    if (peek(r) == '"') {
        kind = VALUE_STRING;
        if (!string(r, &f->scratch, NULL)) return false;
    } else if (!scalar(r, &kind))
        return false;
    if (kind == VALUE_OTHER) return true;
    str raw = {r->s.p + from, r->at - from};
    i64 whole;
    double real;
    bool point = memchr(raw.p, '.', raw.n) || memchr(raw.p, 'e', raw.n) || memchr(raw.p, 'E', raw.n);
    buf_byte(&f->meta, f->meta.n ? ',' : '{');
    put_string(&f->meta, name);
    buf_byte(&f->meta, ':');
    if (kind == VALUE_STRING)
        put_string(&f->meta, buf_view(&f->scratch));
    else if (kind == VALUE_BOOLEAN || (point ? str_f64(raw, &real) : str_i64(raw, &whole)))
        buf_str(&f->meta, raw);
    else
        put_string(&f->meta, raw);
    return true;
}

static bool field(reader *r, fields *f, buf *name)
{
    spaces(r);
    buf_reset(name);
    if (!string(r, name, NULL)) return false;
    str is = buf_view(name);
    spaces(r);
    if (!expect(r, ':', "':' was expected after a field's name")) return false;
    spaces(r);
    if (str_eq(is, S("id"))) return field_id(r, f);
    if (str_eq(is, S("text"))) {
        if (f->has_text) return fail(r, "\"text\" is given twice");
        f->has_text = true;
        return peek(r) == '"' ? string(r, NULL, f->text) : fail(r, "\"text\" must be a string");
    }
    if (str_eq(is, S("title")) && peek(r) == '"') {
        if (f->has_title) return fail(r, "\"title\" is given twice");
        f->has_title = true;
        return string(r, &f->title, NULL);
    }
    return field_meta(r, f, is);
}

static bool object(reader *r, fields *f, buf *name)
{
    spaces(r);
    if (!expect(r, '{', "a line must be an object: '{' was expected")) return false;
    spaces(r);
    if (peek(r) == '}')
        take(r);
    else
        for (bool more = true; more;) {
            if (!field(r, f, name)) return false;
            spaces(r);
            more = peek(r) == ',';
            if (!more && peek(r) != '}') return fail(r, "',' or '}' was expected");
            take(r);
        }
    spaces(r);
    if (r->at < r->end) return fail(r, "the line goes on after the object");
    if (!f->has_id) return fail(r, "there is no \"id\"");
    return f->has_text ? true : fail(r, "there is no \"text\"");
}

static err finish(fields *f, loaded *d)
{
    TRY(canon_end(f->text, d));
    TRY(load_label(buf_view(&f->title), LABEL_MAX, &d->title));
    if (f->meta.n) buf_byte(&f->meta, '}');
    d->id = buf_take(&f->id);
    if (f->meta.n) d->meta = buf_take(&f->meta);
    TRY(buf_error(&f->meta));
    if (!d->id) return err_new(ERR_NOMEM, "no memory for a document's id");
    TRY(load_paragraphs(d));
    return load_check(d);
}

/* The line at r, which ends up behind it whatever happens. `d` is filled when there is neither error nor r->wrong. */
static err one_line(reader *r, loaded *d)
{
    fields f = {0};
    buf name = {0};
    err bad = canon_new(&f.text, SOURCE_BYTES, r->encoding);
    bool good = !bad.code && object(r, &f, &name);
    const buf *const all[] = {&name, &f.id, &f.title, &f.meta, &f.scratch}; /* out of memory looks like a missing field */
    for (usize i = 0; i < COUNT_OF(all) && !bad.code; i++) bad = buf_error(all[i]);
    if (!bad.code && r->no_memory) bad = err_new(ERR_NOMEM, "no memory for line %zu", r->line);
    if (!bad.code && good) {
        bad = finish(&f, d);
        if (bad.code == ERR_FORMAT) r->wrong = bad.what, bad = OK;
    }
    if (bad.code || r->wrong) loaded_free(d);
    canon_free(f.text);
    buf_free(&name);
    buf_free(&f.id);
    buf_free(&f.title);
    buf_free(&f.meta);
    buf_free(&f.scratch);
    return bad;
}

/* ---- the file ----------------------------------------------------------------------------------------------------------------
 */
static bool start_line(reader *r)
{
    if (r->at >= r->s.n) return false;
    const char *p = r->s.p + r->at, *end = memchr(p, '\n', r->s.n - r->at);
    r->end = end ? (usize)(end - r->s.p) : r->s.n;
    r->line++;
    r->line_at = r->at;
    r->wrong = NULL;
    return true;
}

static void skip_line(reader *r)
{
    while (r->at < r->end) take(r);
    if (r->at < r->s.n) { /* the '\n' itself */
        r->at++;
        r->origin += load_width(r->encoding, '\n');
    }
}

static err sum_up(const char *name, usize n_bad, usize n_lines, buf *reasons)
{
    if (!n_bad) return OK;
    TRY(buf_error(reasons));
    return err_new(ERR_FORMAT, "%s: %zu of %zu lines not read: %s%s", name, n_bad, n_lines, buf_cstr(reasons),
                   n_bad > NAMED_MAX ? "; ..." : "");
}

err load_jsonl(const char *name, str bytes, err (*each)(void *ctx, loaded *), void *ctx)
{
    decoded d;
    err bad = load_decode_text(bytes, &d);
    if (bad.code) return err_at(bad, "%s", name);
    reader r = {.s = buf_view(&d.utf8), .origin = d.mark, .encoding = d.encoding};
    buf reasons = {0};
    usize n_bad = 0, n_lines = 0;
    for (; start_line(&r); skip_line(&r)) {
        if (line_blank((str){r.s.p + r.at, r.end - r.at})) continue;
        loaded doc = {0};
        n_lines++;
        TRY_TO(end, one_line(&r, &doc));
        if (!r.wrong) {
            TRY_TO(end, each(ctx, &doc));
            continue;
        }
        if (n_bad++ < NAMED_MAX)
            buf_fmt(&reasons, "%sline %zu, column %zu: %s", n_bad > 1 ? "; " : "", r.line,
                    utf8_count((str){r.s.p + r.line_at, r.at - r.line_at}) + 1, r.wrong);
    }
    bad = sum_up(name, n_bad, n_lines, &reasons);
end:
    buf_free(&d.utf8);
    buf_free(&reasons);
    return bad;
}
