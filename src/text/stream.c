/* text/stream.c - from tokens back to text: the bytes of a token, of a list, and of a stream that never shows half a character.
 *
 * A byte-level token or a byte token may end inside a character. The stream holds such bytes back (at most three) until the
 * next token completes them; when it cannot, U+FFFD stands for each. detokenize gives the bytes as they are, so that it is the
 * exact inverse of tokenize even for text that is not UTF-8. SentencePiece's space in front of a text is taken away once, at
 * the beginning; who decodes the continuation of a text sets `started` after stream_decoder_init. */
#include "text/tokenizer.h"

static void put_spaced(str piece, buf *out) /* U+2581 is a space */
{
    for (usize at = 0; at < piece.n;) {
        i64 mark = space_mark_find(piece, at);
        usize n = mark < 0 ? piece.n - at : (usize)mark - at;
        buf_put(out, piece.p + at, n);
        if (mark >= 0) buf_byte(out, ' ');
        at += n + (mark < 0 ? 0 : 3);
    }
}

void token_bytes(const tokenizer *t, i32 id, buf *out, bool special)
{
    str piece = token_piece(t, id);
    switch (token_kind_of(t, id)) {
    case TOKEN_NORMAL:
        if (t->kind == TOKENIZER_BPE)
            bpe_piece_bytes(t, piece, out);
        else
            put_spaced(piece, out);
        break;
    case TOKEN_USER:
        if (t->kind == TOKENIZER_BPE)
            buf_str(out, piece);
        else
            put_spaced(piece, out);
        break;
    case TOKEN_BYTE: {
        static const char digits[] = "0123456789ABCDEF0123456789abcdef";
        const char *high = strchr(digits, piece.p[3]), *low = strchr(digits, piece.p[4]); /* checked by tokenizer_new */
        buf_byte(out, (int)((high - digits) % 16 * 16 + (low - digits) % 16));
        break;
    }
    default:
        if (special) buf_str(out, piece);
    }
}

/* one token's bytes; the space that tokenize put in front of the text is dropped from the first one that shows anything */
static void put_token(const tokenizer *t, i32 id, bool special, bool *started, buf *out)
{
    usize from = out->n;
    token_bytes(t, id, out, special);
    if (out->bad || out->n == from) return;
    if (!*started && t->source.add_space_prefix && token_kind_of(t, id) == TOKEN_NORMAL && out->p[from] == ' ') {
        memmove(out->p + from, out->p + from + 1, out->n - from - 1);
        out->p[--out->n] = 0;
    }
    *started = true;
}

err detokenize(const tokenizer *t, const i32 *id, usize n, bool special, buf *out)
{
    bool started = false;
    for (usize i = 0; i < n; i++) {
        if (id[i] < 0 || id[i] >= t->v.n)
            return err_new(ERR_INPUT, "detokenize: token %zu is %d, but there are %d tokens", i, id[i], t->v.n);
        put_token(t, id[i], special, &started, out);
    }
    return buf_error(out);
}

void stream_decoder_init(stream_decoder *d, const tokenizer *t, bool special)
{
    *d = (stream_decoder){.t = t, .special = special};
}

/* out[from..] becomes valid UTF-8 */
static void replace_malformed(buf *out, usize from)
{
    str s = {out->p + from, out->n - from};
    if (out->bad || utf8_valid(s)) return;
    buf clean = {0};
    for (usize at = 0; at < s.n;) buf_utf8(&clean, utf8_next(s, &at));
    out->n = from;
    buf_str(out, buf_view(&clean));
    bool lost = clean.bad;
    buf_free(&clean);
    if (lost) {
        buf_free(out);
        out->bad = true;
    }
}

void stream_decoder_put(stream_decoder *d, i32 id, buf *out)
{
    usize from = out->n;
    buf_put(out, d->held, (usize)d->n_held);
    put_token(d->t, id, d->special, &d->started, out);
    if (out->bad || out->n == from) return;
    usize whole = utf8_complete((str){out->p + from, out->n - from}), rest = out->n - from - whole;
    d->n_held = rest <= sizeof d->held ? (int)rest : 0;
    memcpy(d->held, out->p + from + whole, (usize)d->n_held);
    out->n -= (usize)d->n_held;
    out->p[out->n] = 0;
    replace_malformed(out, from);
}

void stream_decoder_end(stream_decoder *d, buf *out)
{
    usize from = out->n;
    buf_put(out, d->held, (usize)d->n_held);
    d->n_held = 0;
    replace_malformed(out, from);
}
