/* rag/answer.h - inside of answering: what units.c, claims.c, cite.c, extract.c, augment.c, answer.c and calibrate.c share.
 *
 * A unit is the smallest thing that can be cited: a sentence, a list item, a row of a table. Every part of answering works on
 * the same units: the prompt shows them, extraction quotes them, alignment cites them. A claim is what must not be wrong in an
 * answer: a figure with its unit of measure, a name, a code. */
#ifndef MARU_RAG_ANSWER_H
#define MARU_RAG_ANSWER_H
#include "rag/rag.h"
#include "text/text.h"

/* ---- claims (claims.c) ------------------------------------------------------------------------------------------------------- */
typedef enum { CLAIM_FIGURE, CLAIM_NAME } claim_kind;
typedef struct {
    u64 hash;                               /* of the value, or of the folded name */
    u16 measure;                            /* of a figure: 0 none or unknown */
    u8  kind;
    bool code;                              /* a name with digits, or all capitals */
} claim;
typedef struct { claim *c; usize n, cap; } claims;
/* source: a text that claims are looked for in: all its words are names, Korean numerals are figures too */
err  claims_of(str text, bool source, claims *out);
bool claims_hold(const claims *source, const claim *);
void claims_free(claims *);

/* ---- units (units.c) ----------------------------------------------------------------------------------------------------------- */
typedef struct { u64 *h; usize n; } term_set; /* sorted, each once, field 0; arena */
typedef struct {
    int      passage;                       /* of hits */
    u32      start, end;                    /* canonical code points of its document */
    str      text;                          /* canonical[start,end); arena */
    u8       kind;                          /* block_kind */
    bool     joined;                        /* goes on where the unit before ends: only white space between them */
    i32      header;                        /* the unit with the column names of this row, or -1 */
    bool     names;                         /* some unit's header */
    i32      lead;                          /* of a row: the sentence that leads to its table, or -1 */
    i32      key;                           /* of a row: the row of another table that says what its first cell stands for, or -1 */
    str      above;                         /* title and headings over it, a line each; arena */
    term_set own, around;                   /* its terms; those of what is above it, of its header and of its key */
    claims   facts;
    float    cover, cosine, score;          /* by units_score */
    float    likely, agree; bool weighed;   /* by units_likely; agree of the best few */
} unit;
typedef struct {
    arena *mem;
    unit  *u; usize n, cap;
} units;
/* Units of the first `most` passages in their order; headers that lie outside a passage are units of it too (passage -1). */
err  units_of(collection *, const hits *, usize most, units *out);
void units_free(units *);
bool has_digit(str);
err  term_set_of(arena *, str text, bool query, term_set *out);
bool term_set_has(const term_set *, u64 hash);

/* ---- scores of units for a question (extract.c) -------------------------------------------------------------------------------- */
typedef struct {
    float passage, sentence;                /* idf coverage of the question by the best passage and by the best unit with its headings */
    float share;                            /* BM25 over idf mass of the best passage */
    float cosine, rise;                     /* best unit's cosine; best passage's above the mean. 0 without an embedder */
    bool  dense;
} signals;
bool question_korean(str question);
err  question_plain(str question, buf *out); /* without words that any question has: what is searched for and compared */
bool question_asks_figure(str question);
/* cover, cosine (with an embedder) and score of every unit; the signals for answerability */
err  units_score(keyword_index *, engine *embedder, const char *question, const hits *, units *, signals *);
float answerable_of(const signals *);       /* logistic, [0,1] */
err  extract_answer(collection *, const units *, const hits *, int sentences, answer *);

/* ---- what a model says without writing (likely.c) -------------------------------------------------------------------------------- */
typedef struct {
    float rise;                             /* of the best unit: mean over the question's tokens of ln p(token | unit) - ln p(token | its title) */
    float agree;                            /* ln p(yes) - ln p(no) that the best by words and vectors alone states what is asked */
    bool  known;                            /* false: the model could not be asked */
} judgement;
/* Of the `most` best units `likely` is ln p(question | unit) per token; their scores change, so that the order of units is by it. */
err units_likely(engine *, session *, const char *question, const atomic_bool *cancel, units *, usize most, judgement *);

/* *odds: ln p(yes) - ln p(no) that the best unit, or what the answer cites, says that `text` is the answer; the higher of both */
err units_confirm(engine *, session *, const char *question, const atomic_bool *cancel, const units *, const answer *, str text, float *odds);

/* ---- alignment (cite.c) --------------------------------------------------------------------------------------------------------- */
typedef struct {
    collection    *c;
    keyword_index *k;
    const hits    *passages;
    const units   *u;
    const char    *question;                /* or NULL: its words count as given */
} citer;
err  cite_align(const citer *, str sentence, answer_sentence *out, float *support /* share of the sentence, with what it repeats of the question, that the spans carry */);
err  cite_range(collection *, const hits *, int passage, u32 start, u32 end, citation *out);
void answer_sentence_clear(answer_sentence *);

/* ---- the prompt (augment.c) ------------------------------------------------------------------------------------------------------ */
err  augment_prompt(const model *, const char *question, const hits *, const units *, int passages, i64 max_tokens, ids *out);

/* a conversation as tokens, up to where the assistant begins; in plain words for a model without a template that takes it */
err augment_turns(const model *, const chat_message *, usize n, bool korean, ids *out);
/* what stands above a unit, its lead, and its column names where its line has them not, a line each */
void unit_context(const units *, const unit *, buf *out);

/* ---- rows for a model (rows.c) --------------------------------------------------------------------------------------------------- */
void put_line(str, bool row, buf *out);                /* white space made single; of a row, tabs and line ends " | " */
void unit_line(const units *, const unit *, buf *out); /* "name: cell | name: cell"; else the text, its white space made single */
bool unit_has_names(const units *, const unit *);      /* the line tells its columns' names */
bool unit_is_key(const units *, const unit *row, const unit *of); /* of: a row without figures, of another table, whose first column and cell are row's */

/* ---- thresholds (answer.c) ------------------------------------------------------------------------------------------------------- */
#define META_THRESHOLD "threshold"
#define META_THRESHOLD_AFTER "threshold_after"
typedef struct {
    judgement best;                         /* of the best unit */
    float least, mean;                      /* token log-probabilities */
    float verified, support;                /* share of sentences, mean support of the cited spans */
    float confirm; bool confirmed;          /* ln p(yes) - ln p(no) that what is cited or the best unit gives the written answer; confirmed: it was asked */
} evidence;
float answerable_with(float before, const evidence *); /* [0,1] */
typedef struct { const char *document; u32 start, end; bool all; } hidden; /* a place, or a whole document, that is taken for absent */
err answer_ask(collection *, const char *question, const ask_opts *, const hidden * /* or NULL */, answer *);
#endif
