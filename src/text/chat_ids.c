/* text/chat_ids.c - a rendered template as token ids that know their bytes.
 *
 * Models were trained on the whole text of a conversation, so it is tokenized as one text and not span by span; only what may
 * become a control token depends on where the bytes come from. The places are found by walking along the text with the bytes of
 * each token, fragment by fragment between control tokens. Where a token's bytes are not those of the text (an unknown character,
 * a normalising vocabulary), the walk goes on at the next token that fits, and the tokens between share the bytes between: a
 * place may then be too wide, but never crosses a control token. */
#include "text/tokenizer.h"

enum { LOOK_AHEAD = 4096 /* bytes in which a lost walk looks for the next token */ };

/* Some templates write "<|" + role + "|>": a role may stand inside a token, but neither begin nor end it. */
bool chat_own_bytes(encoder *e, usize from, usize end)
{
    const chat_output *c = e->marked;
    usize i = e->at_span;
    while (i < c->n_span && c->span[i].end <= from) i++;
    e->at_span = i; /* asked for in ascending order */
    for (; i < c->n_span && c->span[i].start < end; i++) {
        bool inside = c->span[i].start > from && c->span[i].end < end;
        if (c->span[i].field != CHAT_TEMPLATE && !(c->span[i].field == CHAT_ROLE && inside)) return false;
    }
    return true;
}

static err put_place(encoder *e, usize start, usize end)
{
    byte_span s = {(u32)start, (u32)end};
    return VEC_PUSH(e->where, e->n_where, e->cap_where, s) ? OK : err_new(ERR_NOMEM, "tokenizer: no memory for places");
}

/* how much of the text at `at` a token covers; -1: it is not what stands there */
static i64 covers(const tokenizer *t, str text, usize at, usize end, str token)
{
    str rest = {text.p + at, end - at};
    if (str_starts(rest, token)) return (i64)token.n;
    if (t->kind != TOKENIZER_BPE && token.n && token.p[0] == ' ' && str_starts(rest, (str){token.p + 1, token.n - 1}))
        return (i64)token.n - 1; /* the space that stands in front of every text */
    return -1;
}

err chat_place(encoder *e, str text, usize from_id, usize from, usize end)
{
    if (!e->wants_where || from_id == e->out->n) return OK;
    if (e->out->n - from_id == 1) return put_place(e, from, end);
    buf token = {0};
    usize at = from, lost = e->n_where; /* places from here on have no end yet */
    err bad = OK;
    for (usize i = from_id; i < e->out->n && !bad.code; i++) {
        buf_reset(&token);
        token_bytes(e->t, e->out->id[i], &token, true);
        str b = buf_view(&token);
        bool known = token_kind_of(e->t, e->out->id[i]) != TOKEN_UNKNOWN && b.n;
        i64 n = known ? covers(e->t, text, at, end, b) : -1;
        usize window = (usize)i64_min((i64)end, (i64)at + LOOK_AHEAD);
        i64 found = n >= 0 ? (i64)at : known ? str_find((str){text.p, window}, b, at) : -1;
        if (found >= 0) {
            for (usize k = lost; k < e->n_where; k++) e->where[k].end = k + 1 < e->n_where ? e->where[k].start : (u32)found;
            at = (usize)found + (n >= 0 ? (usize)n : b.n);
            bad = put_place(e, (usize)found, at);
            lost = e->n_where;
        } else {
            bad = put_place(e, at, at);
        }
    }
    for (usize k = lost; k < e->n_where; k++) e->where[k].end = k + 1 < e->n_where ? e->where[k].start : (u32)end;
    if (!bad.code) bad = buf_error(&token);
    buf_free(&token);
    return bad;
}

err chat_ids(const tokenizer *t, const chat_output *c, ids *out, byte_span **where)
{
    encoder e = {.t = t, .out = out, .marked = c, .wants_where = where != NULL};
    usize from = out->n;
    err bad = OK;
    bool bos = t->source.add_bos == 1 && t->source.bos >= 0;
    if (where) *where = NULL;
    if (c->text.n > UINT32_MAX) return err_new(ERR_UNSUPPORTED, "tokenizer: a conversation of %zu bytes", c->text.n);
    if (bos && !ids_push(out, (i32)t->source.bos)) return err_new(ERR_NOMEM, "tokenizer: no memory for the tokens");
    if (bos && where) bad = put_place(&e, 0, 0);
    if (!bad.code) bad = encode_text(&e, buf_view(&c->text), true);
    if (!bad.code && bos && out->n - from > 1 && out->id[from + 1] == t->source.bos) { /* the template's own stays */
        memmove(out->id + from, out->id + from + 1, (out->n - from - 1) * sizeof *out->id);
        out->n--;
        if (where) memmove(e.where, e.where + 1, --e.n_where * sizeof *e.where);
    }
    if (bad.code) out->n = from;
    if (!bad.code && where) *where = e.where, e.where = NULL;
    encoder_free(&e);
    return bad;
}
