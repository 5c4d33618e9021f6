/* text/text.h - characters and tokens: normalisation, tokenizers made from a model's metadata, a streaming decoder that
 * never emits half a character, chat templates with provenance. Knows no tensor and no model file: the metadata comes
 * through `token_source`. All offsets are bytes unless a name says `chars`. Tokenizers are immutable after creation and may
 * be used by many threads at once. */
#ifndef MARU_TEXT_H
#define MARU_TEXT_H
#include "base/base.h"

/* ---- Unicode (unicode.c; utf8proc) ----------------------------------------------------------------------------------- */
err  text_nfc(buf *out, str in);            /* canonical composition; malformed bytes become U+FFFD */
err  text_nfkc(buf *out, str in);
err  text_lower(buf *out, str in);          /* simple case folding for search, character by character */
bool text_is_hangul(u32 c);                 /* syllables and jamo */
bool text_is_han(u32 c);
bool text_is_letter(u32 c);                 /* L* and M* */
bool text_is_digit(u32 c);                  /* N* */
bool text_is_space(u32 c);                  /* White_Space */
/* The end (byte offset) of the sentence that starts at `from`: after . ! ? 。 and closing quotes/brackets when white space
 * or the end follows, or at a blank line or a line end that ends a block; not after "1.", "제3조.", "e.g.", a decimal
 * point or an initial. Korean endings (다. 요. 음. 함.) need no special case. White space at `from` is
 * skipped, white space behind the sentence is not part of it. Returns s.n for the last one. */
usize text_sentence_end(str s, usize from);

/* ---- tokenizers (tokenizer.c, bpe.c, spm.c, unigram.c, wordpiece.c, pretok.c) ------------------------------------------------------ */
typedef enum { TOKEN_NORMAL = 1, TOKEN_UNKNOWN = 2, TOKEN_CONTROL = 3, TOKEN_USER = 4, TOKEN_UNUSED = 5, TOKEN_BYTE = 6 } token_kind; /* GGUF's values */
typedef struct {
    const char *model;                      /* tokenizer.ggml.model: "gpt2" byte-level BPE, "llama" SentencePiece BPE, "t5" Unigram, "bert" WordPiece */
    const char *pre;                        /* tokenizer.ggml.pre ("qwen2", "smollm", ...); NULL: default. Unknown: UNSUPPORTED, named */
    i64         n_tokens, n_merges;
    const str  *tokens;                     /* [n_tokens] borrowed during tokenizer_new only */
    const float *scores;                    /* [n_tokens] or NULL */
    const i32  *kinds;                      /* [n_tokens] token_kind, or NULL: all normal */
    const str  *merges;                     /* [n_merges] "left right" */
    str         charsmap;                   /* precompiled_charsmap of SentencePiece (XLM-R), or empty */
    i64         bos, eos, eot, unk, sep, pad, cls, mask; /* ids or -1; eot: end of turn */
    int         add_bos, add_eos, add_space_prefix, remove_extra_whitespaces; /* 1, 0 or -1: not given, the model kind's default */
    bool        cased, accents, han_in_words; /* of WordPiece: no lower case; marks are kept; Han characters are no words of their own */
} token_source;
typedef struct tokenizer tokenizer;
err  tokenizer_new(tokenizer **, const token_source *); /* hostile metadata gives FORMAT errors, never a crash */
void tokenizer_free(tokenizer *);
enum { TOKENIZE_BOS = 1 /* add what the model wants around a text: BOS, EOS, CLS/SEP */, TOKENIZE_SPECIAL = 2 /* control and user tokens written in the text are parsed */ };
typedef struct {
    i32  *id;
    usize n, cap;
} ids; /* growable list of token ids; owned: ids_free */
void ids_free(ids *);
bool ids_push(ids *, i32);
bool ids_append(ids *, const i32 *, usize n);
err  tokenize(const tokenizer *, str text, int flags, ids *out); /* appended; UTF-8 in, malformed bytes are encoded by byte tokens or <unk> */
i64  tokenizer_size(const tokenizer *);
str  token_piece(const tokenizer *, i32 id);         /* as stored: "Ġthe", "▁the", "<0xEC>" */
token_kind token_kind_of(const tokenizer *, i32 id);
bool token_is_end(const tokenizer *, i32 id);        /* ends generation: eos, eot, and the well-known end-of-turn names */
i64  token_find(const tokenizer *, str piece);       /* id or -1 */
void token_bytes(const tokenizer *, i32 id, buf *out, bool special); /* the bytes that this token stands for; control tokens are empty unless `special` */
const token_source *tokenizer_source(const tokenizer *); /* ids of special tokens and flags as in force; arrays NULL */
/* Pre-tokenizers as patterns, applied one after the other, with \s for white space (Unicode's White_Space). */
enum { PRE_STAGES = 6 };
int  tokenizer_pre_patterns(const char *name, buf out[PRE_STAGES], bool *whole_words); /* appended; how many, -1: no such name; NULL: "default" */
bool tokenizer_pre_find(const str *pattern, usize n, bool whole_words, char name[32]); /* of exactly these; false: none */
err  detokenize(const tokenizer *, const i32 *id, usize n, bool special, buf *out); /* leading space of SentencePiece removed as the model does */

/* ---- learning a vocabulary (train.c): byte-level BPE. Ids: the special tokens, the 256 bytes, then what the merges make. ---- */
typedef struct {
    arena *own;
    str   *token, *merge;                   /* [n_tokens], [n_merges] "left right" */
    i64    n_tokens, n_merges;              /* fewer than asked for when no pair occurs twice */
} trained_vocab;
err  bpe_train(str text, const char *pre, const str *special, usize n_special, i64 size, trained_vocab *);
void trained_vocab_free(trained_vocab *);

/* A streaming decoder: bytes of an unfinished character are held back until it is complete; what can never become one is
 * given out as U+FFFD. For every split of a valid text the concatenation of the outputs is the text. */
typedef struct {
    const tokenizer *t;
    u8   held[8];
    int  n_held;
    bool special, started; /* started: set it after init to go on with a text, whose next space is no prefix */
} stream_decoder;
void stream_decoder_init(stream_decoder *, const tokenizer *, bool special);
void stream_decoder_put(stream_decoder *, i32 id, buf *out);   /* appends complete characters */
void stream_decoder_end(stream_decoder *, buf *out);           /* flushes what is held */

/* ---- chat templates (chat.c, chat_value.c, chat_eval.c) --------------------------------------------------------------- */
/* Jinja as transformers renders chat templates: every statement and expression, macros, loops (recursive too), break and
 * continue, generation, all tests, the filters and methods of texts, lists and mappings (which ones are missing: chat_more.c,
 * docs/QUALITY.md), tojson, raise_exception, strftime_now, namespace. Messages lose keys that are null; a message's reasoning is
 * there as `thinking` and `reasoning_content`. Fuel-limited in steps and output; errors name line and construct. Every output
 * byte carries where it came from. */
typedef struct {
    const char *role, *content;             /* borrowed; content may be NULL */
    const char *json;                       /* whole message as a JSON object instead (tool calls, parts), or NULL */
} chat_message;
typedef struct {
    i32 message;                            /* index into the messages, or -1: the template's own text */
    u32 start, end;                         /* byte range of the output */
    u8  field;                              /* CHAT_TEMPLATE, CHAT_ROLE, CHAT_CONTENT, CHAT_OTHER (tool calls, reasoning ...) */
} chat_span;
enum { CHAT_TEMPLATE, CHAT_ROLE, CHAT_CONTENT, CHAT_OTHER };
typedef struct {
    buf        text;
    chat_span *span;                        /* [n_span] ordered, covering text exactly; owned by chat_output_free */
    usize      n_span, cap_span;
} chat_output;
typedef struct {
    const char *bos, *eos;                  /* texts of the special tokens; NULL: the variable is not defined */
    bool        add_generation_prompt;
    const char *tools_json, *extra_json;    /* array; object of further variables; or NULL */
    i64         fuel;                       /* evaluation steps; 0: 10 million */
} chat_options;
typedef struct chat_template chat_template;
err  chat_template_new(chat_template **, str source);           /* FORMAT with line and construct */
void chat_template_free(chat_template *);
/* One template may render on many threads at once. INPUT: raise_exception of the template (its message), or JSON that is none;
 * FORMAT: "template: line N: ...", "out of fuel" included; in both cases *out is empty. options may be NULL. A message with
 * json takes role and content from there. strftime_now obeys SOURCE_DATE_EPOCH (UTC). Needs less than 1 MiB of stack. */
err  chat_render(const chat_template *, const chat_message *, usize n, const chat_options *, chat_output *out);
void chat_output_free(chat_output *);

/* A rendered conversation as token ids, appended; BOS in front if the model wants it and the template gave none. It is read as one
 * text, but control tokens are made only of the template's own bytes (with a role inside, at most): what a message says can never
 * pass for one. */
typedef struct {
    u32 start, end;                         /* bytes of the output; empty: a BOS that was added, or a space that only tokens know */
} byte_span;
err chat_ids(const tokenizer *, const chat_output *, ids *out, byte_span **where); /* where: NULL, or owned (mem_free), one for each id appended, in order, disjoint */
#endif
