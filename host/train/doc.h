/* SPDX-License-Identifier: Apache-2.0
 * Documents: what lies in the files of a source, and the token ids they become. */
#pragma once
#include "host/base/file.h"
#include "host/model/chat/chat.h"
#include "host/model/tokenizer/tokenizer.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- Reading ---- */

typedef enum {
    DOC_NONE,
    DOC_TEXT,      /* a whole file */
    DOC_JSON_TEXT, /* a line {"text": "..."} */
    DOC_CHAT,      /* a line {"messages": [...]}, with whatever else the template takes */
    DOC_ROW        /* a line {"input_ids": [...]} */
} doc_kind;

typedef struct {
    doc_kind kind;
    const char *s; /* bytes of the file, valid until doc_release */
    size_t n;
    const char *path; /* as long as the reader */
    int64_t line;     /* from 1; 0: the whole file */
    size_t at;        /* a piece of a long text: bytes before it, */
    bool more;        /* and whether another follows */
} doc;

typedef struct {
    arena names;
    const char *path, **file;
    size_t n_file, next;
    file_map *map; /* open files, the last being read */
    size_t n_map, cap_map;
    const char *at;
    int64_t line;
    doc_kind jsonl, first; /* of its lines, and of its first document; DOC_NONE before it */
    int64_t bytes, read;   /* of all files; of the documents so far */
} doc_reader;

/* `path`: a file of text, a .jsonl (.ndjson, .json), or a folder whose files .txt and .jsonl are
 * read in the order of their names. Files of text and lines of text mix; other kinds do not. */
weft_status doc_open(const char *path, doc_reader *r);
void doc_close(doc_reader *r);
/* The next document; kind DOC_NONE at the end. Empty lines are no documents. Lines of one source
 * are of one kind. */
weft_status doc_next(doc_reader *r, doc *d);
void doc_release(doc_reader *r); /* closes the files that are read */

/* ---- Tokens ---- */

typedef struct {
    const tokenizer *tok;      /* NULL: rows only */
    const chat_template *chat; /* NULL: no conversations */
    int32_t vocab;             /* every id is below it; 0: not checked */
    bool sft, append_eos;
} doc_encoder;

typedef struct {
    tok_ids ids, labels; /* labels: as many, or none: as the ids */
    weft_status status;
    char *message; /* of a failure; mem_alloc'ed */
} doc_tokens;

/* Fills in `out`, which is zeroed. Any number of threads at once. */
void doc_encode(const doc_encoder *e, const doc *d, doc_tokens *out);
void doc_tokens_fini(doc_tokens *t);
/* The text of a DOC_TEXT or DOC_JSON_TEXT, UTF-8 checked; in the file or the arena. */
weft_status doc_text(const doc *d, arena *a, const char **s, size_t *n);
/* The row of a line {"input_ids": ...}. */
weft_status doc_row(const doc *d, doc_tokens *out);
/* A conversation as its template writes it; under `sft` with labels on the assistant's spans. */
weft_status doc_conversation(const doc_encoder *e, const doc *d, doc_tokens *out);

/* Where a text may be cut at or behind `from` without changing its ids: at the start of a line,
 * which the tokenizer is seen to start a word with; n: nowhere. */
size_t doc_cut(const tokenizer *t, const char *s, size_t n, size_t from);
/* A line that starts with a letter behind one that ends in no white space; n: none. */
size_t doc_line_cut(const char *s, size_t n, size_t from);

/* Documents in order, long texts in pieces, encoded by `threads` threads (0: every core), a batch
 * at a time. */
/* `take` gets every document's tokens in order and may refuse; skip (may be NULL) says which
 * documents are passed over unread. `number` counts the reader's documents from 0. */
typedef weft_status doc_take_fn(void *ctx, int64_t number, const doc *d, const doc_tokens *t);
typedef bool doc_skip_fn(void *ctx, int64_t number, const doc *d);
weft_status doc_run(doc_reader *r, const doc_encoder *e, int threads, doc_skip_fn *skip,
                    doc_take_fn *take, void *ctx);
