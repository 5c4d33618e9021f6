/* rag/split.c - SPLIT: a document's canonical text into chunks that are ranges of it.
 *
 * First pieces, then packing. A piece is a block, or, where a block is over the budget, one of its lines (tables, lists, code,
 * rows), else a sentence, else as many words as fit; so nothing is cut finer than it must be. Pieces are then packed: a heading
 * never ends a chunk, a section begins one (only tiny sections share), and what needs n chunks is cut into n of about equal size.
 * The budget counts estimated tokens: splitting needs no model, and a chunk keeps its place when the model changes.
 * A word is never cut. Where one alone is over the budget it is cut behind punctuation or between ideographs, which are words of
 * their own; if it has neither it stays whole and over the budget. No overlap: what stands above a chunk (split_context) is
 * searched with it instead. */
#include "rag/store.h"
#include "text/text.h"

/* ---- estimated tokens --------------------------------------------------------------------------------------------------------
 */
/* In sixteenths of a token, added up over runs of one kind of character, so that the cost of a text is the sum over its words.
 * The figures are the 99th percentile of a quantile regression on chunks of Korean and English prose, law, Markdown and code with
 * the vocabulary of multilingual-e5; on average they are a fifth too high. Byte-level vocabularies made for English take three
 * times as many tokens for Korean, so this is no estimate for those. */
enum { UNIT = 16, GLUE = 10, SPECIAL = 4 /* tokens: what models add around a text, and the spread of short texts */ };
typedef enum { RUN_NONE, RUN_SPACE, RUN_LATIN, RUN_HANGUL, RUN_DIGIT, RUN_HAN, RUN_MARK, RUN_OTHER } run_kind;
typedef struct {
    i64 sum, n; /* n: characters of the run so far */
    run_kind was;
    u32 before;
} meter;

static u32 next_char(str s, usize *at) { return (u8)s.p[*at] < 0x80 ? (u8)s.p[(*at)++] : utf8_next(s, at); }

static run_kind kind_of(u32 c)
{
    if (c < 0x80) {
        if ((c | 32) - 'a' < 26) return RUN_LATIN;
        if (c - '0' < 10) return RUN_DIGIT;
        return c == ' ' || c - '\t' < 5 ? RUN_SPACE : RUN_MARK;
    }
    if (c >= 0xAC00 && c <= 0xD7A3) return RUN_HANGUL;
    if (text_is_hangul(c)) return RUN_HANGUL;
    if (text_is_han(c) || (c >= 0x3040 && c <= 0x30FF)) return RUN_HAN;
    if (text_is_space(c)) return RUN_SPACE;
    if (c < 0x250 && text_is_letter(c)) return RUN_LATIN;
    return text_is_letter(c) || text_is_digit(c) ? RUN_OTHER : RUN_MARK;
}

static void meter_add(meter *m, u32 c)
{
    run_kind k = kind_of(c);
    bool first = k != m->was, apart = m->was == RUN_SPACE || m->was == RUN_NONE;
    m->n = first ? 1 : m->n + 1;
    switch (k) {
    case RUN_LATIN: m->sum += first ? (apart ? 18 : 28) : (m->n > 4 ? 4 : 0) + (c >= 'A' && c <= 'Z' ? 10 : 0); break;
    case RUN_HANGUL: m->sum += first ? 16 : 14; break;
    case RUN_DIGIT: m->sum += first ? (apart ? 15 : 24) : 6; break;
    case RUN_MARK: m->sum += first ? (apart ? 29 : 7) : c == m->before ? 3 : 11; break;
    case RUN_HAN:
    case RUN_OTHER: m->sum += 20; break;
    default: break;
    }
    m->was = k;
    m->before = c;
}

static i64 cost_of(str s)
{
    meter m = {0};
    for (usize at = 0; at < s.n;) meter_add(&m, next_char(s, &at));
    return m.sum;
}

i64 split_estimate(str text) { return SPECIAL + (cost_of(text) + UNIT - 1) / UNIT; }

/* ---- pieces ------------------------------------------------------------------------------------------------------------- */
typedef struct {
    u32 start, end; /* characters */
    i64 cost;
    u8 kind;
    bool first; /* of its block */
} piece;
typedef struct {
    str s;
    i64 budget;
    piece *p;
    usize n, cap;
    bool no_memory;
} pieces;
typedef struct { /* a part of the text, both ways */
    usize from, to;
    u32 start, end;
} span;

static str span_text(const pieces *ps, span a) { return (str){ps->s.p + a.from, a.to - a.from}; }

/* With what it adds to a chunk when no white space is before it: a run that was cut costs a little more as two. */
static i64 glue(const pieces *ps, span a)
{
    if (!a.from) return 0;
    usize last = a.from - 1;
    while (last && ((u8)ps->s.p[last] & 0xC0) == 0x80) last--;
    return text_is_space(utf8_next(ps->s, &last)) ? 0 : GLUE;
}
static i64 span_cost(const pieces *ps, span a) { return glue(ps, a) + cost_of(span_text(ps, a)); }

/* the part of `a` up to byte `to`, and `a` behind it; white space around is dropped */
static span span_take(const pieces *ps, span *a, usize to)
{
    span part = {a->from, to, a->start, a->start};
    part.end += (u32)utf8_count((str){ps->s.p + a->from, to - a->from});
    a->from = to, a->start = part.end;
    return part;
}

static span span_trim(const pieces *ps, span a)
{
    for (usize next = a.from; a.from < a.to; a.from = next, a.start++)
        if (!text_is_space(utf8_next(ps->s, &next))) break;
    while (a.to > a.from) {
        usize last = a.to - 1, next;
        while (last > a.from && ((u8)ps->s.p[last] & 0xC0) == 0x80) last--;
        next = last;
        if (!text_is_space(utf8_next(ps->s, &next))) break;
        a.to = last, a.end--;
    }
    return a;
}

static void push(pieces *ps, span a, i64 cost, int kind, bool first)
{
    a = span_trim(ps, a);
    if (a.from == a.to) return;
    piece p = {a.start, a.end, cost, (u8)kind, first};
    if (!VEC_PUSH(ps->p, ps->n, ps->cap, p)) ps->no_memory = true;
}

/* may a word that is too long be cut between these two? */
static bool cuttable(u32 a, u32 b)
{
    run_kind k = kind_of(a), next = kind_of(b);
    return (k == RUN_MARK && next != RUN_MARK) || k == RUN_HAN || next == RUN_HAN;
}

/* Fills up to the limit with whole words; a word over the limit by itself is cut where that is allowed. */
static usize words_end(str s, i64 limit)
{
    usize best = 0, cut = 0; /* behind the last whole word, and the last allowed place inside of one, that fit */
    meter m = {0};
    for (usize at = 0; at < s.n;) {
        usize here = at;
        u32 before = m.before, c = next_char(s, &at);
        run_kind was = m.was;
        meter_add(&m, c);
        if (m.was == RUN_SPACE && was != RUN_SPACE && here)
            best = here, cut = 0;
        else if (m.was != RUN_SPACE && here && cuttable(before, c))
            cut = here;
        if (m.sum <= limit) continue;
        if (best || cut) return best ? best : cut;
        for (; at < s.n; at = here) { /* too long and in one piece: to its end, or the first place that allows it */
            here = at;
            u32 d = utf8_next(s, &here);
            if (kind_of(d) == RUN_SPACE || cuttable(c, d)) return at;
            c = d;
        }
    }
    return s.n;
}

static void cut_words(pieces *ps, span a, i64 limit, int kind, bool first)
{
    for (a = span_trim(ps, a); a.from < a.to; a = span_trim(ps, a), first = false) {
        span part = span_take(ps, &a, a.from + words_end(span_text(ps, a), limit - glue(ps, a)));
        push(ps, part, span_cost(ps, part), kind, first);
    }
}

static void cut_sentences(pieces *ps, span a, i64 limit, int kind, bool first)
{
    usize stop = a.to;
    for (; a.from < stop && !ps->no_memory; first = false) {
        usize end = text_sentence_end((str){ps->s.p, stop}, a.from);
        span part = span_take(ps, &a, end > a.from ? end : stop);
        i64 cost = span_cost(ps, part);
        if (cost <= limit)
            push(ps, part, cost, kind, first);
        else
            cut_words(ps, part, limit, kind, first);
    }
}

static void cut_lines(pieces *ps, span a, i64 limit, int kind)
{
    usize stop = a.to;
    bool first = true;
    for (; a.from < stop && !ps->no_memory; first = false) {
        const char *end = memchr(ps->s.p + a.from, '\n', stop - a.from);
        span part = span_take(ps, &a, end ? (usize)(end - ps->s.p) + 1 : stop);
        i64 cost = span_cost(ps, part);
        if (cost <= limit)
            push(ps, part, cost, kind, first);
        else
            cut_sentences(ps, part, limit, kind, first);
    }
}

static err cut_blocks(pieces *ps, const loaded *d)
{
    i64 above = 0; /* of the headings right before this block */
    usize at = 0;
    u32 n = 0;
    for (usize i = 0; i < d->n_blocks && !ps->no_memory; i++) {
        const block *b = &d->blocks[i];
        span a = {.start = b->start, .end = b->end};
        a.from = at + utf8_offset((str){ps->s.p + at, ps->s.n - at}, b->start - n);
        a.to = a.from + utf8_offset((str){ps->s.p + a.from, ps->s.n - a.from}, b->end - b->start);
        at = a.to, n = b->end;
        i64 cost = span_cost(ps, a), limit = ps->budget - i64_min(above, ps->budget / 2);
        bool lines = b->kind == BLOCK_LIST || b->kind == BLOCK_TABLE || b->kind == BLOCK_CODE;
        if (cost <= limit)
            push(ps, a, cost, b->kind, true);
        else if (lines)
            cut_lines(ps, a, limit, b->kind);
        else
            cut_sentences(ps, a, limit, b->kind == BLOCK_HEADING ? BLOCK_TEXT : b->kind, true);
        above = b->kind == BLOCK_HEADING && cost <= limit ? above + cost : 0;
    }
    return ps->no_memory ? err_new(ERR_NOMEM, "no memory for splitting a document") : OK;
}

/* ---- packing ------------------------------------------------------------------------------------------------------------ */
enum { JOIN_SHARE = 8 /* sections share a chunk only while together they are under this part of the budget */ };
typedef struct {
    const pieces *ps;
    usize from, to; /* pieces of the chunk that is being filled */
    i64 cost;
    range *r;
    usize n, cap;
    bool no_memory;
} packer;

static bool is_heading(const pieces *ps, usize i) { return ps->p[i].kind == BLOCK_HEADING; }

static void flush(packer *k, usize to)
{
    if (to > k->from) {
        range r = {k->ps->p[k->from].start, k->ps->p[to - 1].end};
        if (!VEC_PUSH(k->r, k->n, k->cap, r)) k->no_memory = true;
    }
    for (usize i = k->from; i < to; i++) k->cost -= k->ps->p[i].cost;
    k->from = to;
}

/* without the headings at its end, which go on */
static void flush_body(packer *k)
{
    usize to = k->to;
    while (to > k->from && is_heading(k->ps, to - 1)) to--;
    flush(k, to);
}

static i64 section_cost(const pieces *ps, usize i, usize *end)
{
    i64 cost = 0;
    bool body = false;
    for (; i < ps->n && !(body && is_heading(ps, i)); i++) {
        body |= !is_heading(ps, i);
        cost += ps->p[i].cost;
    }
    *end = i;
    return cost;
}

static void pack(packer *k)
{
    const pieces *ps = k->ps;
    i64 budget = ps->budget, target = budget;
    for (usize i = 0, end = 0; i < ps->n && !k->no_memory; i++) {
        if (i == end) { /* a section begins */
            i64 cost = section_cost(ps, i, &end);
            if (k->cost && k->cost + cost > budget / JOIN_SHARE) flush_body(k);
            i64 parts = (cost + budget - 1) / budget;
            target = parts > 1 ? (cost + parts - 1) / parts : budget;
        }
        const piece *p = &ps->p[i];
        bool over = k->cost + p->cost > budget, enough = k->cost + p->cost / 2 >= target;
        if (over || enough) flush_body(k);
        if (k->cost && k->cost + p->cost > budget) flush(k, k->to); /* headings alone that leave no room */
        k->to = i + 1;
        k->cost += p->cost;
    }
    flush(k, k->to);
}

static err whole(const pieces *ps, range **chunks, usize *n)
{
    span a = span_trim(ps, (span){0, ps->s.n, 0, (u32)utf8_count(ps->s)});
    *n = a.from < a.to;
    *chunks = mem_array(range, 1);
    if (!*chunks) return err_new(ERR_NOMEM, "no memory for splitting a document");
    **chunks = (range){a.start, a.end};
    return OK;
}

err split_document(const loaded *d, i64 max_tokens, range **chunks, usize *n)
{
    pieces ps = {.s = {d->text, d->text_len}, .budget = i64_max(max_tokens - SPECIAL, 1) * UNIT};
    *chunks = NULL, *n = 0;
    if (max_tokens <= 0) return whole(&ps, chunks, n);
    err bad = cut_blocks(&ps, d);
    packer k = {.ps = &ps};
    if (!bad.code) pack(&k);
    if (k.no_memory) bad = err_new(ERR_NOMEM, "no memory for splitting a document");
    mem_free(ps.p);
    if (bad.code)
        mem_free(k.r);
    else
        *chunks = k.r, *n = k.n;
    return bad;
}

/* ---- what stands above a chunk ------------------------------------------------------------------------------------------ */
enum { CONTEXT_TOKENS = 64 };

void split_above_init(split_above *a, const loaded *d) { *a = (split_above){.d = d}; }

/* the first line, without Markdown's marks */
static str label(str s)
{
    const char *end = memchr(s.p, '\n', s.n);
    if (end) s.n = (usize)(end - s.p);
    s = str_trim(s);
    if (!str_starts(s, S("#"))) return s;
    while (s.n && s.p[0] == '#') s.p++, s.n--;
    usize n = s.n;
    while (n && s.p[n - 1] == '#') n--;
    if (n && s.p[n - 1] == ' ') s.n = n;
    return str_trim(s);
}

/* steps over the next block */
static str above_block(split_above *a, const block *b)
{
    str s = {a->d->text, a->d->text_len};
    usize from = a->at + utf8_offset((str){s.p + a->at, s.n - a->at}, b->start - a->chars);
    a->at = from + utf8_offset((str){s.p + from, s.n - from}, b->end - b->start);
    a->chars = b->end;
    return (str){s.p + from, a->at - from};
}

static void above_step(split_above *a)
{
    const block *b = &a->d->blocks[a->next++];
    str text = above_block(a, b);
    a->in = b;
    if (b->kind == BLOCK_TABLE) a->table = label(text);
    if (b->kind == BLOCK_ROW && b->level == 1) a->names = label(text);
    if (b->kind != BLOCK_HEADING || b->level >= SPLIT_LEVELS) return;
    for (int level = b->level; level < SPLIT_LEVELS; level++) a->heading[level] = (str){0};
    a->heading[b->level] = label(text);
}

static void context_line(buf *out, str line, i64 *left)
{
    i64 cost = cost_of(line) / UNIT + 1;
    if (!line.n || cost > *left) return;
    *left -= cost;
    if (out->n) buf_byte(out, '\n');
    buf_str(out, line);
}

err split_context(split_above *a, range r, buf *out)
{
    i64 left = CONTEXT_TOKENS;
    int levels = SPLIT_LEVELS;
    str first = {0};
    while (a->next < a->d->n_blocks && a->d->blocks[a->next].start < r.start) above_step(a);
    const block *here = a->next < a->d->n_blocks && a->d->blocks[a->next].start == r.start ? &a->d->blocks[a->next] : NULL;
    if (here && here->kind == BLOCK_HEADING) { /* it starts with a heading itself: those above that one */
        split_above ahead = *a;
        levels = here->level;
        first = label(above_block(&ahead, here));
    }
    for (int i = levels - 1; i >= 0; i--)
        if (a->heading[i].n) first = a->heading[i];
    str title = str_of(a->d->title);
    if (!str_eq(title, first)) context_line(out, title, &left);
    for (int i = 0; i < levels && i < SPLIT_LEVELS; i++) context_line(out, a->heading[i], &left);
    const block *in = here ? here : a->in;
    if (!here && in && in->kind == BLOCK_TABLE) context_line(out, a->table, &left);
    if (in && in->kind == BLOCK_ROW && in->level != 1) context_line(out, a->names, &left);
    return buf_error(out);
}
