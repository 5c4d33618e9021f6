/* rag/segment.h - the file under both indexes: sections of plain arrays, read in place from a memory map.
 *
 * Every 16 KiB of the file has a checksum, tested when a block is first touched, so that opening costs nothing however large the
 * file is, and yet no damaged byte is ever used. What is inside is still bounds-checked by the readers: a checksum is no proof
 * against a file made on purpose. The table of contents is at the end, since it is known only then. Little-endian, as all maru's
 * machines are. */
#ifndef MARU_RAG_SEGMENT_H
#define MARU_RAG_SEGMENT_H
#include "base/base.h"

enum { SEGMENT_SECTIONS = 16, SEGMENT_COUNTS = 12, SEGMENT_BLOCK = 16 << 10 };
typedef struct {
    u64 at, n; /* bytes of the file */
} section;
typedef struct {
    u64 magic, version, generation;
    u64 count[SEGMENT_COUNTS]; /* the index's own numbers */
    section part[SEGMENT_SECTIONS];
    u64 n_blocks, sums_hash; /* checksums [n_blocks] of u64 lie between the sections and this */
    u64 hash;                /* of all above */
} contents;

typedef struct {
    file_map map;
    contents has;
    const u64 *sums; /* [n_blocks] */
    u8 *tested;      /* [n_blocks] */
    char *path;
} segment;
/* FORMAT: damaged, cut short, or of another kind or version. NOTFOUND as usual. */
err segment_open(segment *, const char *path, const char magic[8], u64 version);
void segment_close(segment *); /* a zeroed one is fine */
/* whether [at,at+n) is inside the file and as it was written */
bool segment_good(segment *, u64 at, u64 n);
const void *segment_part(const segment *, int part);           /* 64-byte aligned; segment_good or segment_all first */
err segment_array(segment *, int part, u64 items, usize size); /* FORMAT unless the section has this many bytes */
err segment_damaged(const segment *, const char *what);

typedef struct segment_writer segment_writer;
err segment_create(segment_writer **, const char *path, const char magic[8]);
err segment_begin(segment_writer *, int part); /* what is put now belongs to it */
err segment_put(segment_writer *, const void *, usize);
err segment_commit(segment_writer *, u64 version, u64 generation, const u64 count[SEGMENT_COUNTS]); /* frees in either case */
void segment_drop(segment_writer *);
#endif
