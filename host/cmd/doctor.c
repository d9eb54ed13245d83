/* SPDX-License-Identifier: Apache-2.0
 * `weft doctor`: what this machine offers: processor, memory, what is measured of both, and which
 * libraries could be opened. Nothing here is a requirement. */
#include "host/cmd/doctor.h"
#include "host/base/err.h"
#include "host/base/file.h"
#include "host/base/mem.h"
#include "host/base/thread.h"
#include "host/cmd/cmd.h"
#include "host/cmd/roofline.h"
#include "host/run/ceiling.h"
#include "host/run/device.h"
#include "host/run/registry.h"
#include <dlfcn.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define MEASURE_SECONDS 0.3

typedef struct {
    bool json;
    const char *job;
} doctor_args;

static const arg_spec specs[] = {
    {"json", "", NULL, ARG_FLAG, NULL, 0, 0, NULL, "print one JSON object",
     offsetof(doctor_args, json)},
    {"job", "", NULL, ARG_STRING, "ID", 0, 0, NULL,
     "where the ranks of a job on this host are, and whom they wait for; any: of the first there "
     "is",
     offsetof(doctor_args, job)},
};

typedef struct {
    char cpu[128], hugepages[64], driver[160];
    int cores;
    long page;
    int64_t memory, available, lockable; /* bytes; lockable -1: no limit */
    bool nccl, mpi, gpu;                 /* gpu: one is used */
    device_gpu gpu_info;
    char gpu_why[512];                           /* not */
    double read_gb_s, fma_gflop_s, bf16_gflop_s; /* bf16: 0 if there are no such instructions */
    int rows;
} machine;

/* ---- What the system says ---- */

/* A file of /proc or /sys whole (these have no size); "" if it cannot be read. */
static void slurp(const char *path, char *text, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t have = 0;
    for (ssize_t got = 1; fd >= 0 && got > 0 && have<size - 1; have += got> 0 ? (size_t)got : 0)
        got = read(fd, text + have, size - 1 - have);
    text[have] = 0;
    if (fd >= 0)
        close(fd);
}

/* What stands behind "key :" in such a file, up to the line's end. */
static void value_of(const char *text, const char *key, char *out, size_t size) {
    const char *at = strstr(text, key);
    out[0] = 0;
    if (!at)
        return;
    at += strlen(key);
    at += strspn(at, " \t:");
    size_t n = strcspn(at, "\n");
    n = n < size ? n : size - 1;
    memcpy(out, at, n);
    out[n] = 0;
}

static int64_t kib_of(const char *text, const char *key) {
    char number[64];
    value_of(text, key, number, sizeof number);
    return strtoll(number, NULL, 10) * 1024;
}

/* "always [madvise] never" -> "madvise". */
static void chosen(const char *text, char *out, size_t size) {
    const char *open_at = strchr(text, '[');
    size_t n = open_at ? strcspn(open_at + 1, "]\n") : 0;
    n = n < size ? n : size - 1;
    if (n > 0)
        memcpy(out, open_at + 1, n);
    out[n] = 0;
}

static bool opens(const char *const *names) {
    for (; *names; names++) {
        void *h = dlopen(*names, RTLD_LAZY | RTLD_LOCAL);
        if (h) {
            dlclose(h);
            return true;
        }
    }
    return false;
}

static int count_rows(void) {
    int n = 0;
    (void)registry_load(); /* a bad WEFT_KERNEL_LIB stops whoever asks for a row */
    for (int t = 0; registry_tables[t]; t++)
        for (const weft_kernel *k = registry_tables[t]; k->name; k++)
            n++;
    return n;
}

static void look(machine *m) {
    static char text[1 << 16];
    struct rlimit lock;
    *m = (machine){.cores = thread_cores(), .page = sysconf(_SC_PAGESIZE), .rows = count_rows()};
    slurp("/proc/cpuinfo", text, sizeof text);
    value_of(text, "model name", m->cpu, sizeof m->cpu);
    if (!m->cpu[0])
        memcpy(m->cpu, "unknown", sizeof "unknown");
    slurp("/proc/meminfo", text, sizeof text);
    m->memory = kib_of(text, "MemTotal");
    m->available = kib_of(text, "MemAvailable");
    slurp("/sys/kernel/mm/transparent_hugepage/enabled", text, sizeof text);
    chosen(text, m->hugepages, sizeof m->hugepages);
    slurp("/proc/driver/nvidia/version", text, sizeof text);
    value_of(text, "NVRM version", m->driver, sizeof m->driver);
    m->lockable = -1;
    if (getrlimit(RLIMIT_MEMLOCK, &lock) == 0 && lock.rlim_cur != RLIM_INFINITY)
        m->lockable = (int64_t)lock.rlim_cur;
    m->gpu = device_cuda_find(&m->gpu_info) == WEFT_OK;
    if (!m->gpu)
        snprintf(m->gpu_why, sizeof m->gpu_why, "%s", err_message());
    m->nccl = opens((const char *const[]){"libnccl.so.2", NULL});
    m->mpi = opens((const char *const[]){"libmpi.so.40", "libmpi.so.12", "libmpi.so", NULL});
}

/* ---- Output ---- */

static void print_gpu(const machine *m, buf *b) {
    const device_gpu *g = &m->gpu_info;
    char total[CMD_SIZE_TEXT], free_now[CMD_SIZE_TEXT];
    if (m->gpu)
        buf_printf(b, "GPU         %s, sm_%d, %d multiprocessors, %s, %s free; driver CUDA %d.%d\n",
                   g->name, g->sm, g->multiprocessors, cmd_size(total, (double)g->bytes),
                   cmd_size(free_now, (double)g->free_bytes), g->driver / 1000,
                   g->driver % 1000 / 10);
    else
        buf_printf(b, "GPU         not used: %s\n", m->gpu_why);
    if (m->driver[0])
        buf_printf(b, "driver      %s\n", m->driver);
}

static void print_text(const machine *m, buf *b) {
    char total[CMD_SIZE_TEXT], free_now[CMD_SIZE_TEXT], lock[CMD_SIZE_TEXT];
    buf_printf(b, "weft        %s, %d kernel rows\n", weft_version(), m->rows);
    buf_printf(b, "processor   %s\n", m->cpu);
    buf_printf(b, "cores       %d usable, level %s\n", m->cores,
               device_cpu_level_name(device_cpu_level()));
    buf_printf(b, "memory      %s, %s available; pages of %ld, huge pages: %s\n",
               cmd_size(total, (double)m->memory), cmd_size(free_now, (double)m->available),
               m->page, m->hugepages[0] ? m->hugepages : "unknown");
    buf_printf(b, "--mlock     %s\n",
               m->lockable < 0 ? "no limit" : cmd_size(lock, (double)m->lockable));
    buf_printf(b, "reads       %.1f GB/s measured, %d thread%s\n", m->read_gb_s, m->cores,
               m->cores == 1 ? "" : "s");
    buf_printf(b, "arithmetic  fp32 %.1f GFLOP/s", m->fma_gflop_s);
    if (m->bf16_gflop_s > 0)
        buf_printf(b, ", bf16 %.1f GFLOP/s", m->bf16_gflop_s);
    buf_puts(b, " measured\n");
    print_gpu(m, b);
    buf_printf(b, "NCCL        %s\n", m->nccl ? "found" : "not found");
    buf_printf(b, "MPI         %s\n", m->mpi ? "found" : "not found");
}

static void print_gpu_json(const machine *m, buf *b) {
    const device_gpu *g = &m->gpu_info;
    buf_puts(b, m->gpu ? "{\"name\":" : "{\"not_used\":");
    const char *text = m->gpu ? g->name : m->gpu_why;
    buf_json_string(b, text, strlen(text));
    if (m->gpu)
        buf_printf(b,
                   ",\"sm\":%d,\"multiprocessors\":%d,\"memory_bytes\":%" PRIu64
                   ",\"free_bytes\":%" PRIu64 ",\"driver\":%d,\"runtime\":%d",
                   g->sm, g->multiprocessors, g->bytes, g->free_bytes, g->driver, g->runtime);
    buf_putc(b, '}');
}

static void print_json(const machine *m, buf *b) {
    buf_puts(b, "{\"version\":");
    buf_json_string(b, weft_version(), strlen(weft_version()));
    buf_puts(b, ",\"cpu\":");
    buf_json_string(b, m->cpu, strlen(m->cpu));
    buf_printf(b, ",\"cores\":%d,\"cpu_level\":\"%s\",\"memory_bytes\":%" PRId64, m->cores,
               device_cpu_level_name(device_cpu_level()), m->memory);
    buf_printf(b,
               ",\"available_bytes\":%" PRId64 ",\"page_bytes\":%ld,\"hugepages\":", m->available,
               m->page);
    buf_json_string(b, m->hugepages, strlen(m->hugepages));
    buf_printf(b, ",\"mlock_bytes\":%" PRId64 ",\"read_gb_s\":%.3f,\"fma_gflop_s\":%.3f",
               m->lockable, m->read_gb_s, m->fma_gflop_s);
    buf_puts(b, ",\"bf16_gflop_s\":");
    buf_json_double(b, m->bf16_gflop_s);
    buf_printf(b, ",\"kernel_rows\":%d,\"gpu\":", m->rows);
    print_gpu_json(m, b);
    buf_printf(b, ",\"nccl\":%s,\"mpi\":%s}\n", m->nccl ? "true" : "false",
               m->mpi ? "true" : "false");
}

/* ---- The command ---- */

/* Over more than any cache holds. */
static weft_status measure(machine *m) {
    weft_stream *s = NULL;
    int level = device_cpu_level();
    int threads = m->cores < WEFT_MAX_THREADS ? m->cores : WEFT_MAX_THREADS;
    WEFT_TRY(thread_pool_open(threads, &s));
    m->read_gb_s = ceiling_read(s, level, (int64_t)1 << 28, MEASURE_SECONDS) * 1e-9;
    m->fma_gflop_s = ceiling_fma(s, level, MEASURE_SECONDS) * 1e-9;
    m->bf16_gflop_s = ceiling_bf16(s, level, MEASURE_SECONDS) * 1e-9;
    thread_pool_close(s);
    return WEFT_OK;
}

static weft_status work(const doctor_args *a) {
    machine m;
    buf out;
    look(&m);
    WEFT_TRY(measure(&m));
    buf_init(&out, 1 << 16);
    (a->json ? print_json : print_text)(&m, &out);
    weft_status s = cmd_flush(&out);
    buf_fini(&out);
    return s;
}

static int run(int argc, char **argv) {
    doctor_args a = {.json = false};
    int n;
    weft_status s = args_parse(specs, CMD_COUNT(specs), argc, argv, &a, NULL, 0, &n);
    if (s == WEFT_OK)
        s = a.job ? doctor_job(a.job) : work(&a);
    return cmd_fail(s);
}

const cmd_row cmd_doctor = {
    .name = "doctor",
    .usage = "[--json] [--job ID]",
    .summary = "what this machine offers, measured",
    .specs = specs,
    .nspec = CMD_COUNT(specs),
    .run = run,
};
