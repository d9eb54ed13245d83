/* SPDX-License-Identifier: Apache-2.0
 * Writing one safetensors file: the header, then each tensor as it lies in memory. Everything goes
 * to a file beside the target, which takes its name only when it is whole and on disk. */
#include "host/base/buf.h"
#include "host/base/err.h"
#include "host/model/safetensors.h"
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *type_name(const st_tensor *t) {
    static const char *const names[WEFT_DTYPES] = {
        [WEFT_F32] = "F32", [WEFT_F16] = "F16", [WEFT_BF16] = "BF16", [WEFT_E4M3] = "F8_E4M3",
        [WEFT_I8] = "I8",   [WEFT_I32] = "I32", [WEFT_I64] = "I64",
    };
    const char *name = t->dtype >= 0 && t->dtype < WEFT_DTYPES ? names[t->dtype] : NULL;
    return name ? name : t->dtype_name;
}

static void header_entry(buf *b, const st_tensor *t, uint64_t at) {
    buf_json_string(b, t->name, strlen(t->name));
    buf_printf(b, ":{\"dtype\":\"%s\",\"shape\":[", type_name(t));
    for (int i = 0; i < t->ndim; i++)
        buf_printf(b, "%s%" PRId64, i ? "," : "", t->shape[i]);
    buf_printf(b, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", at, at + t->bytes);
}

/* Length and header, filled up with spaces so that the data is 8-byte aligned. */
static void header_text(buf *b, const st_tensor *tensor, int n) {
    uint64_t at = 0;
    buf_add(b, "\0\0\0\0\0\0\0\0", 8);
    buf_puts(b, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = 0; i < n; i++) {
        buf_putc(b, ',');
        header_entry(b, &tensor[i], at);
        at += tensor[i].bytes;
    }
    buf_putc(b, '}');
    while (b->len % 8)
        buf_putc(b, ' ');
    for (int i = 0; i < 8 && !b->failed; i++)
        b->data[i] = (char)((uint64_t)(b->len - 8) >> (8 * i));
}

/* What a file is made of. */
typedef struct {
    buf header;
    const st_tensor *tensor;
    int n;
    st_produce *produce;
    void *ctx;
} content;

static weft_status write_body(int fd, const char *path, const content *c) {
    WEFT_TRY(file_write_fd(fd, path, c->header.data, c->header.len));
    for (int i = 0; i < c->n; i++) {
        const void *data = c->tensor[i].data;
        if (c->produce)
            WEFT_TRY(c->produce(c->ctx, i, &data));
        WEFT_TRY(file_write_fd(fd, path, data, c->tensor[i].bytes));
    }
    return WEFT_OK;
}

static weft_status write_and_close(int fd, const char *path, bool sync, const content *c) {
    weft_status s = write_body(fd, path, c);
    if (s == WEFT_OK && sync && fsync(fd) != 0)
        s = weft_fail(WEFT_IO, "%s: cannot write to disk: %m", path);
    if (close(fd) != 0 && s == WEFT_OK)
        s = weft_fail(WEFT_IO, "%s: cannot write: %m", path);
    return s;
}

static weft_status write_file(const char *path, const content *c) {
    struct stat st;
    bool there = stat(path, &st) == 0;
    if (there && S_ISDIR(st.st_mode))
        return weft_fail(WEFT_IO, "%s: is a folder; give a file name", path);
    bool device = there && !S_ISREG(st.st_mode);
    arena a = {0};
    const char *to = device ? path : arena_printf(&a, "%s.tmp-%ld", path, (long)getpid());
    int flags = device ? 0 : O_CREAT | O_EXCL;
    int fd = open(to, O_WRONLY | O_CLOEXEC | O_NOCTTY | flags, there ? st.st_mode & 0777 : 0666);
    weft_status s = WEFT_OK;
    if (fd < 0)
        s = weft_fail(WEFT_IO, "%s: cannot create: %m", path);
    else
        s = write_and_close(fd, path, !device, c);
    if (s == WEFT_OK && !device && rename(to, path) != 0)
        s = weft_fail(WEFT_IO, "%s: cannot rename into place: %m", path);
    if (s != WEFT_OK && fd >= 0 && !device)
        unlink(to);
    arena_fini(&a);
    return s;
}

weft_status safetensors_write_from(const char *path, const st_tensor *tensor, int n,
                                   st_produce *produce, void *ctx) {
    content c = {.tensor = tensor, .n = n, .produce = produce, .ctx = ctx};
    buf_init(&c.header, 100000008);
    header_text(&c.header, tensor, n);
    weft_status s = c.header.failed
                        ? weft_fail(WEFT_USAGE, "%s: too many tensors for a header", path)
                        : write_file(path, &c);
    buf_fini(&c.header);
    return s;
}

weft_status safetensors_write(const char *path, const st_tensor *tensor, int n) {
    return safetensors_write_from(path, tensor, n, NULL, NULL);
}
