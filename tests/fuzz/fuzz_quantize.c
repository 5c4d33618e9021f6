/* tests/fuzz/fuzz_quantize.c - any bytes as importances and a model, quantised: an error, or a file that the reader takes.
 * Input: a type, flags (1 requantise, 2 wider search, 4 pure), u16 length of the importances, they, the model. */
#include "../model/file_touch.h"
#include "quant/quant.h"
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

static int quantise(const char *in, const char *out, const u8 *head, const imatrix *m)
{
    quant_opts o = {.mix = &quant_mixes[head[0] % quant_n_mixes], .importance = m, .requantise = head[1] & 1, .better = (head[1] & 6) == 2, .pure = head[1] & 4};
    quant_report r;
    int wrong = 0;
    err bad = quant_run(in, out, &o, &r);
    if (bad.code && (!bad.what || !*bad.what)) wrong = 1;
    if (!bad.code) {
        model_file *f;
        if (gguf_open(&f, out).code) wrong = 1;
        else touch_file(f);
        model_file_close(f);
    }
    if (bad.code && file_exists(out)) wrong = 1;
    quant_report_free(&r);
    unlink(out);
    return wrong;
}

int fuzz_one(const u8 *data, usize n);
int fuzz_one(const u8 *data, usize n)
{
    char in[64], out[64];
    imatrix *m = NULL;
    if (n < 4) return 0;
    usize len = (usize)data[2] | (usize)data[3] << 8;
    if (len > n - 4) len = n - 4;
    if (len) (void)imatrix_parse(&m, data + 4, len, "importances");
    int fd = memfd_create("model", 0), wrong = 0;
    if (fd < 0) return imatrix_free(m), 0;
    snprintf(in, sizeof in, "/proc/self/fd/%d", fd);
    snprintf(out, sizeof out, "%s/maru-fuzz-%d.gguf", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm", (int)getpid());
    if (write(fd, data + 4 + len, n - 4 - len) == (ssize_t)(n - 4 - len)) wrong = quantise(in, out, data, m);
    close(fd);
    imatrix_free(m);
    return wrong;
}
