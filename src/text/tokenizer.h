/* text/tokenizer.h - what the tokenizer's files share; nobody outside this folder includes it.
 *
 * A tokenizer is a vocabulary (lookup.c), a way to cut text into words (pretok.c for byte-level BPE, charsmap.c and spm.c for
 * SentencePiece) and a way to cut a word into pieces (bpe.c merges, unigram.c searches the best path). tokenizer.c puts them
 * together; stream.c goes back. */
#ifndef MARU_TEXT_TOKENIZER_H
#define MARU_TEXT_TOKENIZER_H
#include "text/text.h"

enum {
    PIECE_MAX = 4096, /* bytes of one token: twenty times the longest in use; keeps the work of a hostile vocabulary bounded */
    CACHED_BYTES = 40,
    CACHED_IDS = 18, /* the longest word that the cache keeps: a slot is two cache lines */
};

/* ---- lookup.c ---------------------------------------------------------------------------------------------------------
 * A symbol is a code point, or 0x110000 | byte for a byte that belongs to none, so that every byte string has its own path. */
static inline u32 symbol_next(str s, usize *at)
{
    u8 first = (u8)s.p[*at];
    if (first < 0x80) return ++*at, first;
    usize from = *at;
    u32 c = utf8_next(s, at);
    return c == 0xFFFD && *at == from + 1 ? 0x110000u | first : c;
}
typedef struct {
    u64 edge; /* (parent node << 21 | symbol) + 1; 0: free */
    u32 node;
    i32 id; /* of the token that ends here, or -1 */
} trie_slot;
typedef struct {
    trie_slot *slot; /* [mask + 1] open addressing */
    usize mask, n_nodes;
} trie;
bool trie_add(trie *, str, i32 id);                          /* the first id of a string stays; false when out of memory */
const trie_slot *trie_step(const trie *, u32 node, u32 sym); /* from node 0; NULL: no such path */
void trie_free(trie *);

typedef struct {
    char *bytes;  /* all pieces, one after the other */
    u32 *at;      /* [n + 1] */
    u8 *kind;     /* [n] token_kind */
    u8 *end;      /* [n] 1: ends generation */
    float *score; /* [n] or NULL */
    u64 *slot;    /* [mask + 1] open addressing: upper half of the hash << 32 | id + 1; 0: free */
    usize mask;
    i32 n;
} vocab;
err vocab_new(vocab *, const token_source *); /* on error vocab_free is still due */
void vocab_free(vocab *);
i32 vocab_find(const vocab *, str); /* id or -1 */
static inline str vocab_piece(const vocab *v, i32 id) { return (str){v->bytes + v->at[id], v->at[id + 1] - v->at[id]}; }
u64 bytes_hash(const char *, usize); /* for tables in memory only */

/* Words seen before, for all threads at once: a slot is overwritten when another word falls into it, and a reader that meets a
 * writer takes it for a miss. No lock, no wait; what it returns depends on the word alone. */
typedef struct word_cache word_cache;
word_cache *word_cache_new(void);
bool word_cache_get(const word_cache *, str word, u64 hash, i32 id[CACHED_IDS], usize *n);
void word_cache_put(word_cache *, str word, u64 hash, const i32 *id, usize n);

static inline i64 space_mark_find(str s, usize from) /* U+2581, SentencePiece's space */
{
    for (const char *p; from < s.n && (p = memchr(s.p + from, 0xE2, s.n - from)); from = (usize)(p - s.p) + 1)
        if ((usize)(p - s.p) + 2 < s.n && (u8)p[1] == 0x96 && (u8)p[2] == 0x81) return p - s.p;
    return -1;
}

/* ---- pretok.c --------------------------------------------------------------------------------------------------------- */
typedef struct pretok pretok;
err pretok_new(pretok **, const char *name); /* NULL: "default" */
void pretok_free(pretok *);
const char *pretok_name(const pretok *);
bool pretok_whole_words(const pretok *); /* a word that is itself a token is taken without looking at the merges */
bool pretok_bos(const pretok *);         /* the model wants BOS when its metadata is silent */
err pretok_split(const pretok *, str text, err (*word)(void *ctx, str), void *ctx); /* words cover the text in order */

/* ---- one call of tokenize ---------------------------------------------------------------------------------------------- */
typedef struct {
    i32 prev, next; /* -1: none */
    u32 at, n;      /* bytes of the word; n 0: merged away */
    i32 id;         /* -1: not in the vocabulary */
} symbol;
typedef struct {
    u64 order; /* priority << 32 | left symbol: the smallest is merged first */
    u32 right, n;
    i32 id;
} merge;
typedef struct {
    double score;
    u32 from;
    i32 id;
} lattice;
typedef struct {
    const tokenizer *t;
    ids *out;
    symbol *sym;
    merge *heap;
    lattice *best;
    usize n_sym, cap_sym, n_heap, cap_heap, cap_best;
    buf text;       /* normalised text of a fragment */
    usize fragment; /* where this fragment's ids begin */
    const chat_output *marked; /* NULL, or the rendered template whose text this is: control tokens only in its own bytes */
    usize at_span;             /* the span that was looked at last */
    byte_span *where;          /* the place of each id since from_id, if wanted */
    usize n_where, cap_where;
    bool wants_where;
} encoder;
err encode_text(encoder *, str text, bool parse_control); /* tokenizer.c */
bool chat_own_bytes(encoder *, usize from, usize end);    /* chat_ids.c: are they the template's? */
err chat_place(encoder *, str text, usize from_id, usize from, usize end); /* chat_ids.c: where the ids of text[from,end) stand */
void encoder_free(encoder *);
err encode_word(void *e, str word);       /* tokenizer.c; through the cache */
err encode_unknown(encoder *, str bytes); /* tokenizer.c; byte tokens, or one <unk> for a run of them */

typedef enum { TOKENIZER_BPE, TOKENIZER_SPM, TOKENIZER_UNIGRAM, TOKENIZER_WORDPIECE } tokenizer_kind;
typedef struct {
    u32 left, right, rank;
    i32 id; /* -1: free */
} pair;
typedef struct {
    const u8 *array; /* [n_units] little-endian u32: double-array trie */
    usize n_units;
    const char *text; /* [text_len] NUL-terminated replacements */
    usize text_len;
    u8 *blob; /* owned copy that both point into */
} charsmap;
struct tokenizer {
    tokenizer_kind kind;
    token_source source; /* in force; arrays NULL */
    vocab v;
    word_cache *seen;
    i32 byte_id[256]; /* -1: none */
    bool all_bytes;   /* every byte has a token */
    trie special[2];  /* matched whole: [0] user tokens, [1] control, unknown and user tokens */
    bool special_first[2][256];
    /* byte-level BPE */
    pretok *pre;
    pair *pairs; /* [pair_mask + 1] */
    usize pair_mask;
    u32 char_of[256]; /* byte -> the character that stands for it in pieces */
    i16 byte_of[512]; /* and back; -1 */
    /* SentencePiece */
    bool glue[256]; /* last byte of a character that some piece holds in front of U+2581: no word boundary there */
    trie pieces;
    double unknown_score;
    charsmap map;
};

err bpe_new(tokenizer *, const token_source *);
u32 bpe_byte_char(u32 byte); /* the character that stands for it in pieces */
err bpe_encode(encoder *, str text);
err bpe_word(encoder *, str word);
void bpe_piece_bytes(const tokenizer *, str piece, buf *out);
err merge_symbols(encoder *, str word); /* e->sym [n_sym] linked in order, merged and written; both kinds of BPE */

void spm_new(tokenizer *);
err spm_encode(encoder *, str text, bool prefix);
err spm_word(encoder *, str word);
err spm_words(encoder *, str text); /* escaped text, cut where no piece reaches across */

err unigram_new(tokenizer *);
err unigram_encode(encoder *, str text);
err unigram_word(encoder *, str word);

err wordpiece_new(tokenizer *);
err wordpiece_encode(encoder *, str text);
err wordpiece_word(encoder *, str word);

/* ---- charsmap.c --------------------------------------------------------------------------------------------------------- */
err charsmap_new(charsmap *, str blob);
void charsmap_free(charsmap *);
str charsmap_next(const charsmap *, str text, usize *at); /* what the text at *at becomes; advances */
err spm_normalise(encoder *, str text, bool prefix);      /* into e->text, spaces as U+2581 */
#endif
