/* Chat templates: '%d items' % n and '{:>8}'.format(text), as Python does both.
 *
 * A blank that fills up to a width belongs to the value that it fills up, every other byte to where it comes from. Numbers go
 * through snprintf; widths are limited to 1000 and precisions to 300, so that fixed buffers do.
 *
 * Not here: the locale's own separators ('n' is written as 'd' or 'g', as in the C locale). */
#include "text/chat.h"
#include <math.h>
#include <stdlib.h>

enum { MAX_WIDTH = 1000, MAX_PRECISION = 300, NUMBER_ROOM = 1400 };

static void put_fill(chat_build *b, chat_eval *ev, i64 n, str fill, chat_origin from)
{
    for (; n > 0 && chat_step(ev, 1); n--) chat_put(b, ev, fill, from);
}

static int small_number(str s, usize *at)
{
    int n = 0;
    while (*at < s.n && s.p[*at] >= '0' && s.p[*at] <= '9') n = (int)i64_min(n * 10 + s.p[(*at)++] - '0', 10000);
    return n;
}

static void too_wide(chat_eval *ev, int width, int precision)
{
    if (width > MAX_WIDTH || precision > MAX_PRECISION)
        chat_fail(ev, "a width of at most %d and a precision of at most %d are possible", MAX_WIDTH, MAX_PRECISION);
}

/* the representation, with everything beyond ASCII escaped */
static chat_value ascii_of(chat_eval *ev, chat_value v)
{
    chat_build b = {0}, out = {0};
    chat_put_repr(&b, ev, v, 0);
    chat_value r = chat_built(&b, ev, v.from, false);
    str s = chat_bytes(r);
    for (usize at = 0, from = 0; at < s.n && chat_step(ev, 1); from = at) {
        char text[16];
        u32 c = utf8_next(s, &at);
        snprintf(text, sizeof text, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", c);
        if (c < 0x80)
            chat_put_part(&out, ev, r.s, from, at);
        else
            chat_put(&out, ev, str_of(text), chat_string_from(r.s, from));
    }
    return chat_built(&out, ev, v.from, false);
}

static chat_value converted(chat_eval *ev, chat_value v, char how) /* 's', 'r', 'a' */
{
    chat_build b = {0};
    if (how == 'a') return ascii_of(ev, v);
    if (how == 's')
        chat_put_value(&b, ev, v);
    else
        chat_put_repr(&b, ev, v, 0);
    return chat_built(&b, ev, v.from, false);
}

/* the character of a number, or a text of one character */
static chat_value character(chat_eval *ev, chat_value v)
{
    i64 c;
    if (v.kind == V_STRING && chat_length(ev, v) == 1) return v;
    if (!chat_integer(v, &c) || c < 0 || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) {
        chat_need_defined(ev, v);
        return chat_fail(ev, "a character or its number expected, %s found", chat_kind_name(v));
    }
    char *p = chat_take(ev, 4);
    return p ? chat_string_new(ev, (str){p, utf8_put(p, (u32)c)}, v.from) : v;
}

/* ---- % ---- */
typedef struct {
    char flags[8], conversion;
    int width, precision; /* -1: none */
    chat_value v;
} directive;

static void put_number(chat_build *b, chat_eval *ev, const directive *d)
{
    char format[32], text[NUMBER_ROOM];
    i64 i = 0;
    double f = 0;
    bool floating = strchr("eEfFgG", d->conversion), number = chat_number(d->v, &f);
    int n = 0;
    if (!number) {
        chat_need_defined(ev, d->v);
        chat_fail(ev, "%%%c needs a number, %s found", d->conversion, chat_kind_name(d->v));
        return;
    }
    if (!floating && !chat_integer(d->v, &i)) {
        if (!(fabs(f) < 9e18))
            chat_fail(ev, "the number does not fit 64 bits");
        else
            i = (i64)f;
    }
    char conversion = d->conversion == 'i' || d->conversion == 'u' ? 'd' : d->conversion;
    if (!floating && conversion != 'd' && i < 0) chat_fail(ev, "%%%c of a negative number", conversion);
    snprintf(format, sizeof format, "%%%s*.*%s%c", d->flags, floating ? "" : "ll", conversion);
    if (!ev->bad.code)
        n = floating ? snprintf(text, sizeof text, format, d->width, d->precision, f)
                     : snprintf(text, sizeof text, format, d->width, d->precision, (long long)i);
    chat_put(b, ev, (str){text, (usize)i64_min(n, sizeof text - 1)}, d->v.from);
}

static void put_directive(chat_build *b, chat_eval *ev, const directive *d)
{
    if (!strchr("srac", d->conversion)) {
        put_number(b, ev, d);
        return;
    }
    chat_value s = d->conversion == 'c' ? character(ev, d->v) : converted(ev, d->v, d->conversion);
    if (s.kind == V_STRING && d->precision >= 0) s = chat_string_part(ev, s, 0, utf8_offset(chat_bytes(s), (usize)d->precision));
    i64 pad = d->width - chat_length(ev, s);
    if (!strchr(d->flags, '-')) put_fill(b, ev, pad, S(" "), s.from);
    chat_put_value(b, ev, s);
    if (strchr(d->flags, '-')) put_fill(b, ev, pad, S(" "), s.from);
}

/* the mapping that %(name)s looks into: a single mapping as argument, or the keywords of |format */
static chat_value named(chat_eval *ev, const chat_args *a, str key)
{
    if (!chat_step(ev, a->n_kw / 8 + 1)) return chat_none();
    for (u32 i = 0; i < a->n_kw; i++)
        if (str_eq(a->kw[i].name, key)) return a->kw[i].value;
    chat_value *found = a->n == 1 && a->arg[0].kind == V_DICT ? chat_dict_get(a->arg[0].dict, key, chat_text_hash(key)) : NULL;
    return found ? *found : chat_fail(ev, "no value for %%(%.*s)", (int)i64_min((i64)key.n, 80), key.p);
}

static chat_value next_value(chat_eval *ev, const chat_args *a, u32 *used)
{
    return *used < a->n ? a->arg[(*used)++] : chat_fail(ev, "more %% directives than values");
}

/* digits, or * for the next value */
static int number_or_star(chat_eval *ev, str s, usize *at, const chat_args *a, u32 *used)
{
    i64 n = 0;
    if (*at >= s.n || s.p[*at] != '*') return small_number(s, at);
    ++*at;
    chat_value v = next_value(ev, a, used);
    if (!chat_integer(v, &n)) chat_fail(ev, "* needs an integer, %s found", chat_kind_name(v));
    return (int)i64_max(i64_min(n, 10000), -10000);
}

chat_value chat_format(chat_eval *ev, chat_value format, const chat_args *a, bool unused)
{
    str s = chat_bytes(format);
    chat_build b = {0};
    u32 used = 0;
    if (!chat_step(ev, s.n / 8)) return format;
    for (usize at = 0, from = 0; at <= s.n && chat_step(ev, 0);) {
        if (at < s.n && s.p[at] != '%' && ++at) continue;
        chat_put_part(&b, ev, format.s, from, at);
        if (at++ >= s.n) break;
        directive d = {.precision = -1, .v = {.kind = V_MISSING}};
        if (at < s.n && s.p[at] == '(') {
            i64 end = str_find(s, S(")"), at);
            if (end < 0) return chat_fail(ev, "%%( without )");
            d.v = named(ev, a, (str){s.p + at + 1, (usize)end - at - 1});
            at = (usize)end + 1;
        }
        usize n_flag = 0;
        for (; at < s.n && strchr("-+ #0", s.p[at]) && s.p[at]; at++)
            if (n_flag < 5 && !strchr(d.flags, s.p[at])) d.flags[n_flag++] = s.p[at];
        d.width = number_or_star(ev, s, &at, a, &used);
        if (d.width < 0) {
            d.width = -d.width;
            if (!strchr(d.flags, '-')) d.flags[n_flag] = '-';
        }
        if (at < s.n && s.p[at] == '.') {
            at++;
            d.precision = (int)i64_max(number_or_star(ev, s, &at, a, &used), 0);
        }
        too_wide(ev, d.width, d.precision);
        if (ev->bad.code) return format;
        if (at < s.n && strchr("hlL", s.p[at]) && s.p[at]) at++;
        d.conversion = at < s.n ? s.p[at++] : 0;
        from = at;
        if (d.conversion == '%') {
            chat_put_part(&b, ev, format.s, at - 1, at);
            continue;
        }
        if (!d.conversion || !strchr("srdiufFeEgGxXoca", d.conversion))
            return chat_fail(ev, "this %% directive is not supported");
        if (d.v.kind == V_MISSING) d.v = next_value(ev, a, &used);
        if (ev->bad.code) return format;
        put_directive(&b, ev, &d);
    }
    if (used < a->n && !a->n_kw && !unused) return chat_fail(ev, "more values than %% directives");
    return chat_built(&b, ev, format.from, false);
}

/* ---- what stands behind the colon of {:...} ---- */
typedef struct {
    str fill;
    char align, sign, type, group; /* 0: none */
    bool alternate, zero;
    int width, precision; /* -1: none */
} spec;

static bool read_spec(chat_eval *ev, str s, spec *p)
{
    usize at = 0, next = 0;
    *p = (spec){.fill = {" ", 1}, .precision = -1};
    if (s.n) utf8_next(s, &next);
    if (next && next < s.n && strchr("<>=^", s.p[next])) {
        p->fill = (str){s.p, next};
        p->align = s.p[next];
        at = next + 1;
    } else if (s.n && s.p[0] && strchr("<>=^", s.p[0])) {
        p->align = s.p[0];
        at = 1;
    }
    if (at < s.n && s.p[at] && strchr("+- ", s.p[at])) p->sign = s.p[at++];
    if (at < s.n && s.p[at] == '#') p->alternate = true, at++;
    if (at < s.n && s.p[at] == '0') {
        p->zero = true;
        if (!p->align) p->fill = S("0");
        at++;
    }
    p->width = small_number(s, &at);
    if (at < s.n && (s.p[at] == ',' || s.p[at] == '_')) p->group = s.p[at++];
    if (at < s.n && s.p[at] == '.') {
        usize digits = ++at;
        p->precision = small_number(s, &at);
        if (at == digits) chat_fail(ev, "a format without a precision behind '.'");
    }
    if (at < s.n) p->type = s.p[at++];
    if (at < s.n) chat_fail(ev, "the format '%.*s' cannot be read", (int)i64_min((i64)s.n, 60), s.p);
    too_wide(ev, p->width, p->precision);
    return !ev->bad.code;
}

/* `body` in p->width characters; `head` bytes of it (sign, 0x) stay in front of the filling of '=' */
static void put_aligned(chat_build *b, chat_eval *ev, const spec *p, chat_value body, usize head, char align)
{
    i64 pad = p->width - chat_length(ev, body);
    i64 left = align == '>' ? pad : align == '^' ? pad / 2 : 0;
    if (ev->bad.code || body.kind != V_STRING) return;
    if (align == '=') {
        chat_put_part(b, ev, body.s, 0, head);
        put_fill(b, ev, pad, p->fill, body.from);
        chat_put_part(b, ev, body.s, head, body.s->n);
        return;
    }
    put_fill(b, ev, left, p->fill, body.from);
    chat_put_value(b, ev, body);
    put_fill(b, ev, pad - left, p->fill, body.from);
}

static void put_text(chat_build *b, chat_eval *ev, const spec *p, chat_value v)
{
    if ((p->type && p->type != 's') || p->sign || p->group || p->alternate || p->align == '=') {
        chat_fail(ev, "this format is not one of a string");
        return;
    }
    if (p->precision >= 0) v = chat_string_part(ev, v, 0, utf8_offset(chat_bytes(v), (usize)p->precision));
    put_aligned(b, ev, p, v, 0, p->align ? p->align : '<');
}

/* digits of an integer in front of `end`; gives where they begin */
static char *write_digits(u64 n, int base, bool upper, char *end)
{
    do *--end = (upper ? "0123456789ABCDEF" : "0123456789abcdef")[n % (u64)base];
    while (n /= (u64)base);
    return end;
}

/* sign, prefix and digits, the whole ones in groups, as wide as a leading zero of the format asks for */
static void put_digits(chat_build *b, chat_eval *ev, const spec *p, const char *head, str digits, int size, chat_origin from)
{
    char text[2 * NUMBER_ROOM];
    usize whole = 0, n = 0, n_head = strlen(head);
    while (whole < digits.n && ((digits.p[whole] >= '0' && digits.p[whole] <= '9') || size == 4)) whole++;
    bool filled = p->zero && !p->align;
    i64 zeros = 0;
    for (usize want = (usize)p->width; filled; zeros++) {
        usize n_int = whole + (usize)zeros, commas = p->group && n_int ? (n_int - 1) / (usize)size : 0;
        if (n_head + n_int + commas + digits.n - whole >= want) break;
    }
    memcpy(text, head, n_head);
    n = n_head;
    for (usize i = 0, n_int = whole + (usize)zeros; i < n_int; i++) {
        text[n++] = i < (usize)zeros ? '0' : digits.p[i - (usize)zeros];
        if (p->group && i + 1 < n_int && (n_int - 1 - i) % (usize)size == 0) text[n++] = p->group;
    }
    memcpy(text + n, digits.p + whole, digits.n - whole);
    n += digits.n - whole;
    char *copy = chat_take(ev, n + 1);
    if (!copy) return;
    memcpy(copy, text, n);
    put_aligned(b, ev, p, chat_string_new(ev, (str){copy, n}, from), n_head, p->align ? p->align : '>');
}

static void put_integer(chat_build *b, chat_eval *ev, const spec *p, chat_value v)
{
    i64 i = 0;
    chat_integer(v, &i);
    if (p->type == 'c') {
        spec q = *p;
        q.type = 's';
        if (p->precision >= 0) chat_fail(ev, "a character has no precision");
        put_text(b, ev, &q, character(ev, v));
        return;
    }
    int base = p->type == 'b' ? 2 : p->type == 'o' ? 8 : (p->type | 0x20) == 'x' ? 16 : 10;
    if ((p->type && !strchr("dnboxX", p->type)) || p->precision >= 0 || (p->group == ',' && base != 10)) {
        chat_fail(ev, "this format is not one of an integer");
        return;
    }
    char text[80], head[8], sign = i < 0 ? '-' : p->sign == '+' || p->sign == ' ' ? p->sign : 0;
    char *from = write_digits(i < 0 ? 0 - (u64)i : (u64)i, base, p->type == 'X', text + sizeof text);
    bool prefix = p->alternate && base != 10;
    snprintf(head, sizeof head, "%.*s%s%.*s", sign != 0, &sign, prefix ? "0" : "", prefix, &p->type);
    put_digits(b, ev, p, head, (str){from, (usize)(text + sizeof text - from)}, base == 10 ? 3 : 4, v.from);
}

/* |f| without a type: the shortest that reads back, or with a precision like %g that always shows itself a fraction */
static void float_plain(double f, int precision, char out[NUMBER_ROOM])
{
    char *e;
    if (precision < 0) {
        chat_float_text(f, out);
        return;
    }
    if (!precision) precision = 1;
    snprintf(out, NUMBER_ROOM, "%.*e", precision - 1, f);
    if ((e = strchr(out, 'e')) && atoi(e + 1) == precision - 1) {
        char tail[16];
        snprintf(tail, sizeof tail, "%s", e);
        while (strchr(out, '.') && (e[-1] == '0' || e[-1] == '.') && *--e != '.') continue;
        memcpy(e, tail, strlen(tail) + 1);
        return;
    }
    usize n = (usize)snprintf(out, NUMBER_ROOM, "%.*g", precision, f);
    if (strspn(out, "0123456789") == n) memcpy(out + n, ".0", 3);
}

static void put_float(chat_build *b, chat_eval *ev, const spec *p, chat_value v)
{
    double f = 0;
    char text[NUMBER_ROOM], format[8], head[2] = "";
    chat_number(v, &f);
    if (p->type && !strchr("eEfFgGn%", p->type)) {
        chat_fail(ev, "this format is not one of a number");
        return;
    }
    if (signbit(f) && !isnan(f))
        head[0] = '-';
    else if (p->sign == '+' || p->sign == ' ')
        head[0] = p->sign;
    f = fabs(f);
    if (!p->type) {
        float_plain(f, p->precision, text);
    } else {
        snprintf(format, sizeof format, "%%%s.*%c", p->alternate ? "#" : "",
                 p->type == '%'   ? 'f'
                 : p->type == 'n' ? 'g'
                                  : p->type);
        usize n =
            (usize)snprintf(text, sizeof text - 1, format, p->precision < 0 ? 6 : p->precision, p->type == '%' ? f * 100 : f);
        if (p->type == '%') memcpy(text + n, "%", 2);
    }
    put_digits(b, ev, p, head, str_of(text), 3, v.from);
}

static void put_formatted(chat_build *b, chat_eval *ev, chat_value v, str format)
{
    spec p;
    if (!format.n) {
        chat_put_value(b, ev, v);
        return;
    }
    if (!read_spec(ev, format, &p)) return;
    bool floating = p.type && strchr("eEfFgG%", p.type);
    if (v.kind == V_STRING)
        put_text(b, ev, &p, v);
    else if (v.kind == V_FLOAT || (floating && (v.kind == V_INT || v.kind == V_BOOL)))
        put_float(b, ev, &p, v);
    else if (v.kind == V_INT || v.kind == V_BOOL)
        put_integer(b, ev, &p, v);
    else
        chat_fail(ev, "%s cannot be formatted with '%.*s'", chat_kind_name(v), (int)i64_min((i64)format.n, 60), format.p);
}

/* ---- str.format ---- */
typedef struct {
    chat_eval *ev;
    const chat_args *a;
    u32 next;      /* of the values without a number */
    bool numbered; /* {0} was seen */
    bool counted;  /* {} was seen */
    bool markup;
} fields;

static chat_value field_first(fields *f, str name)
{
    chat_eval *ev = f->ev;
    i64 i = -1;
    if (!chat_step(ev, f->a->n_kw / 8 + 1)) return chat_none();
    bool number = name.n && name.n < 19 && strspn(name.p, "0123456789") >= name.n && str_i64(name, &i);
    f->numbered |= number;
    f->counted |= !name.n;
    if (f->numbered && f->counted) return chat_fail(ev, "{} and {0} in one format");
    if (!name.n) i = f->next++;
    if (i >= 0 && i < f->a->n) return f->a->arg[i];
    for (u32 k = 0; k < f->a->n_kw && i < 0; k++)
        if (str_eq(f->a->kw[k].name, name)) return f->a->kw[k].value;
    return chat_fail(ev, "no value for {%.*s}", (int)i64_min((i64)name.n, 80), name.p);
}

/* the value of a field: "", "0", "name", then .member and [item] */
static chat_value field_value(fields *f, str s)
{
    chat_eval *ev = f->ev;
    usize n = 0;
    i64 i;
    while (n < s.n && s.p[n] != '.' && s.p[n] != '[') n++;
    chat_value v = field_first(f, (str){s.p, n});
    while (n < s.n && chat_step(ev, 1)) {
        bool item = s.p[n++] == '[';
        usize from = n;
        while (n < s.n && (item ? s.p[n] != ']' : s.p[n] != '.' && s.p[n] != '[')) n++;
        str part = {s.p + from, n - from};
        if (!part.n || (item && n >= s.n)) return chat_fail(ev, "an empty attribute in the format");
        n += item;
        if (item && str_i64(part, &i))
            v = chat_at(ev, v, chat_int(i), SYM_NONE);
        else if (item)
            v = chat_at(ev, v, chat_string_new(ev, part, CHAT_LITERAL), SYM_NONE);
        else
            v = chat_member(ev, v, part, chat_text_hash(part), SYM_NONE);
    }
    return v;
}

static void put_fields(chat_build *b, fields *f, chat_value format, int depth);

/* {name!r:format}; `at`: behind the first brace; gives the place behind the last one, or 0 */
static usize put_field(chat_build *b, fields *f, chat_value format, usize at, int depth)
{
    chat_eval *ev = f->ev;
    str s = chat_bytes(format);
    usize end = at, open = 1, name;
    bool item = false;
    for (; end < s.n; end++) {
        if (s.p[end] == '{') open++;
        if (s.p[end] == '}' && !--open) break;
    }
    for (name = at; name < end && (item || (s.p[name] != '!' && s.p[name] != ':')); name++)
        item = s.p[name] == '[' || (item && s.p[name] != ']');
    char how = name + 1 < end && s.p[name] == '!' ? s.p[name + 1] : 0;
    usize colon = how ? name + 2 : name;
    if (end >= s.n || (how && !strchr("sra", how)) || (colon < end && s.p[colon] != ':')) {
        chat_fail(ev, "a field of the format cannot be read");
        return 0;
    }
    chat_value v = field_value(f, (str){s.p + at, name - at});
    if (how) v = converted(ev, v, how);
    chat_build inner = {0}, text = {0};
    if (colon < end) put_fields(&inner, f, chat_string_part(ev, format, colon + 1, end), depth + 1);
    chat_value behind = chat_built(&inner, ev, CHAT_LITERAL, false);
    if (ev->bad.code) return 0;
    put_formatted(f->markup ? &text : b, ev, v, chat_bytes(behind));
    if (f->markup)
        chat_put_value(b, ev, v.kind == V_STRING && v.s->markup ? v : chat_escape(ev, chat_built(&text, ev, v.from, false)));
    return end + 1;
}

static void put_fields(chat_build *b, fields *f, chat_value format, int depth)
{
    chat_eval *ev = f->ev;
    str s = chat_bytes(format);
    if (depth > 1 && memchr(s.p, '{', s.n)) {
        chat_fail(ev, "fields inside fields inside fields of a format");
        return;
    }
    for (usize at = 0; at < s.n && chat_step(ev, 1);) {
        usize from = at;
        while (at < s.n && s.p[at] != '{' && s.p[at] != '}') at++;
        chat_put_part(b, ev, format.s, from, at);
        if (at >= s.n) break;
        if (at + 1 < s.n && s.p[at + 1] == s.p[at]) {
            chat_put_part(b, ev, format.s, at, at + 1);
            at += 2;
        } else if (s.p[at] == '}') {
            chat_fail(ev, "a single '}' in the format");
        } else {
            at = put_field(b, f, format, at + 1, depth);
        }
    }
}

chat_value chat_format_fields(chat_eval *ev, chat_value format, const chat_args *a)
{
    chat_build b = {0};
    fields f = {.ev = ev, .a = a, .markup = format.s->markup};
    put_fields(&b, &f, format, 0);
    return chat_built(&b, ev, format.from, format.s->markup);
}
