/* tests/fuzz/fuzz_safetensors.c - any bytes as a safetensors file: an error or a file of which every value can be read. */
#include "../model/file_touch.h"

int fuzz_one(const u8 *data, usize n);
int fuzz_one(const u8 *data, usize n)
{
    model_file *f;
    if (!safetensors_parse(&f, data, n, "input").code) touch_file(f);
    model_file_close(f);
    return 0;
}
