/* SPDX-License-Identifier: Apache-2.0
 * Text to token ids and back: byte-level BPE, SentencePiece BPE and unigram, as tokenizer.json,
 * tokenizer.model (SentencePiece, or tiktoken ranks), NAME.tiktoken and vocab.json + merges.txt
 * describe them. A tokenizer never changes after it is opened: any number of threads may encode
 * and decode with it at once. */
#pragma once
#include "host/base/buf.h"
#include "weft/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct tokenizer tokenizer;

/* Ids that grow. Valid when zeroed; free with tok_ids_fini. */
typedef struct {
    int32_t *v;
    size_t n, cap;
} tok_ids;

void tok_ids_add(tok_ids *ids, int32_t id);
void tok_ids_fini(tok_ids *ids);

/* path: a model folder, tokenizer.json, tokenizer.model, NAME.tiktoken (the published split pattern
 * of that encoding), or a folder with vocab.json (or encoder.json) and merges.txt (or vocab.bpe).
 * In a folder tokenizer.json wins, then tokenizer.model, spiece.model, then vocab.json.
 * tokenizer_config.json beside it says whether BOS and EOS are added and names special tokens.
 * WEFT_BAD_FILE names file and key; WEFT_UNSUPPORTED names the component that is not known. */
weft_status tokenizer_open(const char *path, tokenizer **out);
bool tokenizer_exists(const char *folder); /* whether it has files of one */

/* The same for one file in memory, which may be freed afterwards; `name` is for messages and, in
 * the form NAME.tiktoken, for the pattern. TOK_FILE_AUTO looks at the first bytes. */
typedef enum { TOK_FILE_AUTO, TOK_FILE_JSON, TOK_FILE_SENTENCEPIECE, TOK_FILE_TIKTOKEN } tok_file;
weft_status tokenizer_open_memory(const char *name, tok_file kind, const char *data, size_t n,
                                  tokenizer **out);
void tokenizer_close(tokenizer *t); /* NULL is fine */

int tokenizer_vocab_size(const tokenizer *t); /* highest id + 1, added tokens included */
int tokenizer_bos(const tokenizer *t);        /* -1: none */
int tokenizer_eos(const tokenizer *t);
int tokenizer_unk(const tokenizer *t);
int tokenizer_merges(const tokenizer *t);       /* number of merge rules (0 for unigram) */
int tokenizer_added(const tokenizer *t);        /* number of added tokens */
const char *tokenizer_kind(const tokenizer *t); /* "byte-level BPE", "SentencePiece BPE", ... */
bool tokenizer_is_special(const tokenizer *t, int32_t id);
/* Does tokenizer_encode(TOK_SPECIAL) put BOS in front of a text? */
bool tokenizer_adds_bos(const tokenizer *t);

/* Bytes of a token as the vocabulary spells them for text: byte-level tokens as bytes,
 * SentencePiece pieces with U+2581, byte pieces as their byte. NULL if there is no such id. */
const char *tokenizer_piece(const tokenizer *t, int32_t id, size_t *n);
/* Id of a token by its spelling in the file (an added token, or a vocabulary entry); -1: none. */
int32_t tokenizer_find(const tokenizer *t, const char *s, size_t n);

typedef enum {
    TOK_SPECIAL = 1, /* add what the post-processor or configuration adds (BOS, EOS) */
    TOK_PLAIN = 2    /* text that spells a special token is ordinary text (a user's words) */
} tok_flags;

/* Appends the ids of a text. Without TOK_PLAIN, text that spells an added token is that token where
 * the file's own library does so (tokenizer.json: always; tiktoken ranks: with TOK_SPECIAL only;
 * SentencePiece: user-defined pieces only). Invalid UTF-8 is WEFT_BAD_FILE. */
weft_status tokenizer_encode(const tokenizer *t, const char *text, size_t n, unsigned flags,
                             tok_ids *out);
/* Appends the text of ids, always valid UTF-8: bytes that are not become U+FFFD as the file's own
 * library does it. An id outside the vocabulary is WEFT_USAGE. */
weft_status tokenizer_decode(const tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                             buf *out);

/* Decoding one id at a time. What all pushes and the flush append is byte for byte what
 * tokenizer_decode gives for the same ids, and every push ends at a whole character. */
typedef struct tok_stream {
    const tokenizer *t;
    struct tok_stage *stage; /* one a decoder step: what it holds back */
    bool skip_special;
} tok_stream;

void tok_stream_init(tok_stream *s, const tokenizer *t, bool skip_special);
weft_status tok_stream_push(tok_stream *s, int32_t id, buf *out);
weft_status tok_stream_flush(tok_stream *s, buf *out); /* what is left; then ready again */
void tok_stream_fini(tok_stream *s);
