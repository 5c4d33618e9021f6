/* maru.h - the C API: run a language model, make vectors of texts, keep documents and ask them, on this machine. C99 and C++.
 *
 * Objects are opaque; a `x_close` accepts NULL. Whatever is called "owned" is the caller's and goes back by the function named;
 * everything else that is pointed to stays the library's, for as long as what it came from. Strings are UTF-8; positions in
 * documents are Unicode code points, half-open, and pages and lines count from 1. A structure of options may be NULL or all
 * zeros: every field's zero is its default.
 *
 * Errors: a function that can fail returns MARU_OK or a code, and writes code and message into *error, which may be NULL. What
 * it would have given is NULL or zero then. The library never exits and never asserts on what it is given.
 *
 * Threads: an engine may be used by many at once (they share its batches). A session or a collection is used by one thread at a
 * time, but its _cancel may be called by any. Callbacks run on the thread of the caller that passed them. */
#ifndef MARU_H
#define MARU_H
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

#define MARU_VERSION "0.1.0"
const char *maru_version(void); /* of the library that runs; compare with MARU_VERSION */

enum {
    MARU_OK,
    MARU_INPUT,       /* the caller's arguments or request */
    MARU_FORMAT,      /* a file is not what it claims to be */
    MARU_IO,          /* the operating system said no */
    MARU_NOMEM,       /* memory or another planned limit */
    MARU_BUSY,        /* locked or queue full: try again */
    MARU_UNSUPPORTED, /* well-formed, but this build cannot do it */
    MARU_CANCELLED,   /* stopped on request */
    MARU_REMOTE,      /* another program failed */
    MARU_BUG,         /* a mistake of the library */
    MARU_NOTFOUND     /* no such model, collection, document */
};
typedef struct maru_error {
    int  code;
    char message[508]; /* what was found, what was expected, where; "" on success */
} maru_error;
const char *maru_error_name(int code); /* "FORMAT" */

void maru_free(void *);             /* of what is "owned: maru_free"; NULL is fine */
void maru_set_home(const char *dir);/* where installed models and collections live; before all else. Default: $MARU_HOME, $XDG_DATA_HOME/maru */
void maru_set_log(int level);       /* to standard error: 0 nothing, 1 warnings (the default), 2 and 3 more */

/* ---- engines: one model in memory ---------------------------------------------------------------------------------- */
typedef struct maru_engine maru_engine;
typedef struct maru_engine_options {
    int     threads;   /* one per core */
    int64_t kv_tokens; /* positions of all sequences together: 8192, or the model's context if that is less */
    int     max_seqs;  /* sequences in one batch: 16 */
} maru_engine_options;
typedef struct maru_model_info {
    const char *path, *architecture;
    int64_t     parameters, context, vocabulary;
    int64_t     dim;      /* of the vectors of an embedding model; 0: a language model */
    int         has_chat; /* it has a template for conversations */
} maru_model_info;
/* model: a GGUF file, or the name of an installed model. Nothing is ever fetched. */
int  maru_engine_open(maru_engine **, const char *model, const maru_engine_options *, maru_error *);
/* After it only sessions may be closed; a generation that runs on another thread ends with MARU_CANCELLED. Collections that
 * use the engine have to be closed before. */
void maru_engine_close(maru_engine *);
void maru_engine_info(const maru_engine *, maru_model_info *);

/* ---- tokens and conversations ------------------------------------------------------------------------------------------ */
enum { MARU_AROUND = 1 /* what the model wants around a text: BOS, EOS */, MARU_CONTROL = 2 /* control tokens written in the text count as such */ };
int maru_tokenize(const maru_engine *, const char *text, size_t bytes, int flags, int32_t **ids /* owned: maru_free */, size_t *n, maru_error *);
int maru_detokenize(const maru_engine *, const int32_t *ids, size_t n, int flags /* MARU_CONTROL: shown */, char **text /* owned: maru_free */, maru_error *);
typedef struct maru_message {
    const char *role, *content; /* "system", "user", "assistant" */
} maru_message;
/* A conversation in the model's own template, up to where the assistant speaks: as text, to look at, and as tokens, to generate
 * from. Control tokens that stand in a message's content are plain text in the tokens: a message cannot forge another. */
int maru_chat_text(const maru_engine *, const maru_message *, size_t n, char **text /* owned: maru_free */, maru_error *);
int maru_chat_tokens(const maru_engine *, const maru_message *, size_t n, int32_t **ids /* owned: maru_free */, size_t *n_ids, maru_error *);

/* ---- generating ---------------------------------------------------------------------------------------------------------- */
typedef struct maru_session maru_session;
/* Sessions with the same owner share what the model has already read. A session remembers the last request: one that begins
 * with the same tokens goes on from there. */
int  maru_session_open(maru_session **, maru_engine *, uint64_t owner, maru_error *);
void maru_session_close(maru_session *);
void maru_session_cancel(maru_session *); /* the generation that runs now, if one does */

typedef struct maru_token {
    int32_t     id;
    float       logprob; /* natural logarithm, before temperature and cuts */
    const char *text;    /* whole characters completed by this token, NUL-terminated; may be empty */
    size_t      bytes;
} maru_token;
typedef struct maru_request {
    const int32_t     *ids;  /* the prompt as tokens, or */
    size_t             n_ids;
    const char        *text; /* as text, if there are no ids: tokenized with MARU_AROUND | MARU_CONTROL */
    int64_t            max_tokens;     /* 128 */
    float              temperature;    /* 0: the likeliest token always */
    int                top_k;          /* 0: off */
    float              top_p, min_p;   /* 0: off */
    float              repeat_penalty; /* 0: off */
    uint64_t           seed;
    const char *const *stop;           /* it ends before these strings, which never appear */
    size_t             n_stop;
    int                ignore_end;     /* the model's end token does not end it */
    int              (*token)(void *context, const maru_token *); /* as they come; not 0: stop here. NULL is fine */
    void              *context;
} maru_request;
enum { MARU_STOP /* end token or stop string */, MARU_LENGTH, MARU_STOPPED /* by maru_session_cancel or the callback */ };
typedef struct maru_result {
    char   *text; /* owned: maru_free */
    int     finish;
    int64_t prompt_tokens, cached_tokens, tokens;
    double  prefill_seconds, decode_seconds;
} maru_result;
/* Blocks until done. MARU_INPUT when prompt and max_tokens exceed the context: nothing is cut silently. result may be NULL. */
int maru_generate(maru_session *, const maru_request *, maru_result *result, maru_error *);

/* ---- vectors: engines of embedding models ------------------------------------------------------------------------------------ */
enum { MARU_PLAIN, MARU_QUERY, MARU_PASSAGE }; /* adds what the model wants in front */
/* Unit vectors, one after the other: out has n * dim floats. Longer texts than the model's window: the mean of their windows. */
int maru_embed(maru_engine *, const char *const *texts, size_t n, int role, float *out, maru_error *);

/* ---- collections: documents on disk, searched and asked ------------------------------------------------------------------------ */
typedef struct maru_collection maru_collection;
/* write: made if absent, and MARU_BUSY while another process writes. embedder: NULL for keywords only; borrowed until the
 * collection is closed. A collection's first documents fix its embedder. */
int  maru_collection_open(maru_collection **, const char *name, int write, maru_engine *embedder, maru_error *);
void maru_collection_close(maru_collection *);
void maru_collection_cancel(maru_collection *); /* the add or ask that runs now, if one does */

typedef struct maru_added {
    int64_t added, updated, unchanged, removed, chunks, failed;
    char   *failures; /* owned: maru_free; a line "path: reason" for each that failed; NULL: none */
} maru_added;
/* Files and folders. Whole documents or nothing of them, also after a crash; the same call completes the work. */
int maru_collection_add(maru_collection *, const char *const *paths, size_t n, maru_added *, maru_error *);
int maru_collection_remove(maru_collection *, const char *const *ids, size_t n, int64_t *removed, maru_error *); /* NOTFOUND: nothing was removed */

typedef struct maru_hit {
    const char *document, *title, *text; /* title may be NULL; text is the document's [start,end) */
    uint32_t    start, end, page, line;  /* page 0: the format has none */
    float       score, coverage;         /* coverage: share of the question's terms that the passage has, by weight */
} maru_hit;
typedef struct maru_hits {
    const maru_hit *hit; /* best first */
    size_t          n;
} maru_hits;
int  maru_collection_search(maru_collection *, const char *query, int k /* 0: 10 */, maru_hits **, maru_error *); /* owned: maru_hits_free */
void maru_hits_free(maru_hits *);

typedef struct maru_citation {
    const char *document, *quote; /* quote is the document's [start,end) */
    uint32_t    start, end, page, line;
} maru_citation;
typedef struct maru_sentence {
    const char          *text;
    int                  verified; /* every figure and name of it stands in what it cites */
    const maru_citation *citation;
    size_t               n_citations;
} maru_sentence;
typedef struct maru_answer {
    const char          *text;
    int                  refused;   /* the documents do not answer: reason says by which sign, and text is for the user */
    const char          *reason;    /* or NULL */
    int                  generated; /* by the model; else sentences of the documents */
    float                answerable, threshold; /* how far the documents answer, and below what it refuses, both in [0,1] */
    const maru_sentence *sentence;
    size_t               n_sentences;
    maru_hits            passages;  /* what it was made from */
} maru_answer;
typedef struct maru_ask_options {
    int64_t max_tokens; /* of the answer: 160 */
    int     passages;   /* put before the model: 4 */
    double  threshold;  /* of refusing; 0: the collection's own */
    int     always_answer;
    int   (*text)(void *context, const char *text, size_t bytes); /* as it is written; not 0: stop. NULL is fine */
    void   *context;
} maru_ask_options;
/* model: writes the answer; NULL: the best sentences are quoted. */
int  maru_collection_ask(maru_collection *, const char *question, maru_engine *model, const maru_ask_options *, maru_answer **, maru_error *); /* owned: maru_answer_free */
void maru_answer_free(maru_answer *);

#ifdef __cplusplus
}
#endif
#endif
