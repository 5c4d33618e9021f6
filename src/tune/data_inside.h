/* tune/data_inside.h - what data*.c share; nobody outside includes it.
 *
 * data.c keeps samples and problems; data_rows.c and data_table.c cut files into rows; data_chat.c and data_form.c make
 * samples of rows; data_pack.c makes batches of samples. */
#ifndef MARU_TUNE_DATA_INSIDE_H
#define MARU_TUNE_DATA_INSIDE_H
#include "tune/data.h"
#include <jansson.h>

enum {
    PROBLEMS_KEPT = 1000,
    ROW_MAX = 1 << 30 /* bytes of one row or document */,
    LOOKED_AT = 64 /* rows of a file whose prompts are compared */
};

/* ---- problems (data.c), of the file that is being read ---- */
void data_refuse(tune_data *, const char *kind, u32 line, const char *fmt, ...) PRINTF(4, 5);
void data_note(tune_data *, const char *kind, u32 line, const char *fmt, ...)
    PRINTF(4, 5);                                        /* the first of its kind in a file is kept, the others counted */
void data_note_special(tune_data *, u32 line, str said); /* if control tokens are written in what the user said */

/* ---- one sample (data.c) ---- */
typedef struct {
    chat_output text; /* what is tokenized; its TEMPLATE spans may give control tokens */
    u8 *byte;         /* [text.text.n] 1: this byte is learned */
    usize cap_byte;
    ids id;
    byte_span *where; /* [n_where] of the first ids */
    usize n_where;
    u8 *learn; /* [id.n] */
    usize cap_learn;
} data_draft; /* used again for every row: memory stays */
struct tune_reader {
    data_draft draft, other;
    map *notes;              /* "file kind" -> problem */
    bool control_first[256]; /* bytes with which a control token begins */
    usize control_most;      /* bytes of the longest one */
    usize rows_seen;         /* of this file */
    bool known;              /* this file's format is */
    u32 known_line;          /* by which row */
    err bad;                 /* out of memory while noting a problem */
};
void draft_begin(data_draft *);
void draft_free(data_draft *);
err draft_put(data_draft *, str bytes, bool own, bool learned); /* own: the bytes are not the user's and may be control tokens */
err draft_ids(const tune_data *, data_draft *);                 /* tokenizes; a token is learned when one of its bytes is */
err draft_push(data_draft *, i32 id, bool learned);             /* one more token behind them */
typedef struct {
    u32 line;
    i32 label; /* -1: none */
    bool ends; /* the last target has to end a turn */
    bool text; /* a window of a text: never too long */
} data_row;
err data_add(tune_data *, const data_row *, const i32 *id, const u8 *learn, usize n); /* checks, cuts, appends */

/* ---- files ---- */
err data_rows(tune_data *, str bytes, const char *path); /* data_rows.c: recognises the format, takes every row */
err data_table(tune_data *, str bytes, char separator);  /* data_table.c */
char data_table_separator(const tune_data *, str bytes, const char *path); /* data_table.c; 0: no table */
bool data_format(tune_data *, u32 line, tune_format); /* data.c; false: the row is of another format than the file */

/* ---- rows to samples ---- */
err data_chat(tune_data *, u32 line, json_t *messages, json_t *tools, json_t *extra); /* data_chat.c; role, content ... */
err data_conversation(tune_data *, u32 line, json_t *row);
err data_instruction(tune_data *, u32 line, str system, str instruction, str input, str output);
err data_pair(tune_data *, u32 line, str prompt, str completion); /* data_form.c */
err data_text(tune_data *, u32 line, str document);
err data_label(tune_data *, u32 line, str text, str label);

/* ---- the form of label rows (data_form.c) ---- */
struct tune_form {
    buf before, after; /* of {text} */
    map *index;        /* name -> label */
    arena *a;          /* names and words */
    bool given;        /* labels come from the options: others are refused */
};
err form_new(tune_data *);    /* INPUT: a template without {text}, labels that cannot be read */
err form_finish(tune_data *); /* labels of the data are sorted; what is in force is written down */
void form_free(struct tune_form *);
#endif
