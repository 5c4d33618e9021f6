/* rag/keyword.h - the shape of a keyword index on disk, shared by the builder and the reader. */
#ifndef MARU_RAG_KEYWORD_H
#define MARU_RAG_KEYWORD_H
#include "rag/rag.h"
#include "rag/segment.h"

#define KEYWORD_MAGIC "marukey1"
enum { TERMS_VERSION = 1, KEYWORD_FORMAT = 1, KEYWORD_VERSION = KEYWORD_FORMAT << 16 | TERMS_VERSION };
enum { KEYWORD_CHUNKS = 1 << 28 }; /* so that a gap fits 31 bits, and the postings of a term 4 GiB */
enum { KEYWORD_FIELDS = 3 };       /* 0 pairs and stems, 1 words, 2 first syllables */

/* Sections: the chunks' keys, documents and lengths; then, for each field, buckets, terms and postings. */
enum {
    PART_CHUNK /* i64[n] ascending */,
    PART_DOCUMENT /* i64[n] */,
    PART_LENGTH /* u32[KEYWORD_FIELDS][n] terms */,
    PART_FIELD
};
#define PART_BUCKET(field) (PART_FIELD + 3 * (field))
#define PART_TERM(field) (PART_FIELD + 3 * (field) + 1)
#define PART_POSTING(field) (PART_FIELD + 3 * (field) + 2)
enum {
    COUNT_CHUNKS,
    COUNT_TERMS /* [KEYWORD_FIELDS] */,
    COUNT_LENGTH = COUNT_TERMS + KEYWORD_FIELDS /* [KEYWORD_FIELDS] sums */
};

/* A field's terms lie in buckets by the first bits of their hash, sorted by the 32 bits below within a bucket. Two terms that
 * agree in all of these (36 bits in a tiny index, 52 in one of millions of terms) are one term to a search. */
typedef struct {
    u64 posting; /* byte offset of its first term's postings in the section */
    u64 term;    /* index of its first term */
} bucket;        /* [2^bits + 1] */
typedef struct {
    u32 tail, bytes; /* of its postings */
} bucket_term;       /* [terms] */
/* Postings of a term: varint count of chunks, then for each chunk varint (gap << 1 | more), and varint tf - 2 if `more`;
 * gap: chunks skipped since the one before. */

static inline int keyword_bits(u64 n_terms) /* about four terms a bucket */
{
    int bits = 4;
    while (bits < 24 && n_terms >> (bits + 3)) bits++;
    return bits;
}
static inline u32 keyword_tail(u64 hash, int bits) { return (u32)(hash << bits >> 32); }
#endif
