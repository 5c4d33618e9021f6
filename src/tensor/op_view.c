/* tensor/op_view.c - VIEW, COPY, PLACE, and the builders reshape, view, slice, copy.
 *
 * VIEW   names bytes of another tensor by shape, strides and offset; nothing is computed. The view of a view is a view of the
 *        first one's source, so src[0] of a VIEW never is a VIEW and is always contiguous.
 * COPY   y[i] = x[i], converted to any float type, contiguous; also the way to read a quantised weight as floats.
 * PLACE  y[N] = 0, then y[offset + sum_a i_a stride_a] += x[i]: the gradient of VIEW. It adds, so windows may overlap (a stride
 *        of 0, a sliding window). Its arg holds strides and offset in elements and N: enough for 2^31 elements of offset.
 * Here too: op_no_kernel, the row entry of ops without work, and op_mismatch, the message of every check. */
#include "tensor/op.h"

/* ---- VIEW ---- */

void view_check(graph *g, tensor *y) /* the whole of the source; view() narrows it */
{
    (void)g;
    const tensor *x = y->src[0];
    tensor *storage = x->base ? x->base : y->src[0];
    tensor_set(y, x->type, x->n);
    y->lay = x->lay;
    y->base = storage;
    y->offset = x->base ? x->offset : 0;
}

tensor *view(graph *g, tensor *t, shape s, const i64 stride[4], usize offset)
{
    if (!t || g->bad.code) return graph_fail(g, "VIEW: no source");
    usize whole_at = 0;
    if (t->op == OP_VIEW) { /* offsets of views count from the storage, as their source's own does */
        tensor *x = t->src[0];
        whole_at = t->offset - (x->base ? x->offset : 0);
        t = x;
    }
    const dtype_info *d = &dtype_table[t->type];
    char show[96];
    i64 last = 0;
    offset += whole_at;
    for (int a = 0; a < 4; a++) {
        i64 n = s.n[a] ? s.n[a] : 1;
        s.n[a] = n;
        bool whole_blocks = n > 0 && stride[a] >= 0 && stride[a] % d->bytes == 0 && (a || n % d->block == 0);
        if (!whole_blocks || (n > 1 && stride[a] > ((i64)1 << 48) / n))
            return graph_fail(g, "VIEW of %s: axis %d has %lld values %lld bytes apart, elements take %d bytes",
                              tensor_show(t, show), a, (long long)n, (long long)stride[a], d->bytes);
        last += ((a ? n : n / d->block) - 1) * stride[a];
    }
    usize size = t->lay == LAYOUT_ROWS ? dtype_row_bytes(t->type, t->n[0]) * (usize)tensor_rows(t)
                                       : weight_bytes(t->type, t->lay, t->n[0], t->n[1]) * (usize)(t->n[2] * t->n[3]);
    if (offset % (usize)d->bytes || offset > size || (usize)last + (usize)d->bytes > size - offset)
        return graph_fail(g, "VIEW of %s: reaches byte %lld, the tensor has %lld", tensor_show(t, show),
                          (long long)(offset + (usize)last + (usize)d->bytes), (long long)size);
    if (t->lay != LAYOUT_ROWS && memcmp(s.n, t->n, sizeof s.n))
        return graph_fail(g, "VIEW of %s: its rows are interleaved and cannot be cut", tensor_show(t, show));
    tensor *y = node(g, OP_VIEW, (op_arg){{0}}, 1, &t);
    if (y->op != OP_VIEW) return y;
    memcpy(y->n, s.n, sizeof y->n);
    memcpy(y->stride, stride, sizeof y->stride);
    y->offset += offset;
    if (d->block > 1 && !tensor_contiguous(y))
        return graph_fail(g, "VIEW of %s: quantised rows must stay whole and adjacent", tensor_show(t, show));
    return y;
}

tensor *reshape(graph *g, tensor *t, shape s)
{
    if (!t || g->bad.code) return graph_fail(g, "reshape: no source");
    char show[96];
    shape old = {{0}};
    i64 count = 1;
    for (int a = 0; a < 4; a++) {
        if (!s.n[a]) s.n[a] = 1;
        count = s.n[a] < 0 || count > ((i64)1 << 48) / s.n[a] ? -1 : count * s.n[a];
        if (count < 0) break;
    }
    memcpy(old.n, t->n, sizeof old.n);
    if (count != tensor_count(t))
        return graph_fail(g, "reshape: %s to [%lld,%lld,%lld,%lld], a different number of values", tensor_show(t, show),
                          (long long)s.n[0], (long long)s.n[1], (long long)s.n[2], (long long)s.n[3]);
    if (!tensor_contiguous(t)) return graph_fail(g, "reshape: %s is not contiguous, copy it first", tensor_show(t, show));
    if (s.n[0] % dtype_table[t->type].block)
        return graph_fail(g, "reshape: %s to rows of %lld, not whole blocks", tensor_show(t, show), (long long)s.n[0]);
    tensor like;
    tensor_set(&like, t->type, s.n);
    return view(g, t, s, like.stride, 0);
}

tensor *slice(graph *g, tensor *t, int axis, i64 from, i64 n)
{
    if (!t || g->bad.code) return graph_fail(g, "slice: no source");
    char show[96];
    const i64 block = dtype_table[t->type].block;
    if (axis < 0 || axis > 3 || from < 0 || n < 1 || n > t->n[axis] || from > t->n[axis] - n)
        return graph_fail(g, "slice: [%lld,%lld) of axis %d of %s", (long long)from, (long long)(from + n), axis,
                          tensor_show(t, show));
    if (axis == 0 && (from % block || n % block))
        return graph_fail(g, "slice: [%lld,%lld) of a row of %s, not whole blocks", (long long)from, (long long)(from + n),
                          tensor_show(t, show));
    shape s;
    memcpy(s.n, t->n, sizeof s.n);
    s.n[axis] = n;
    return view(g, t, s, t->stride, (usize)((axis ? from : from / block) * t->stride[axis]));
}

static bool view_is_reshape(const tensor *y)
{
    const tensor *x = y->src[0];
    return tensor_count(y) == tensor_count(x) && tensor_contiguous(y) && y->offset == (x->base ? x->offset : 0);
}

void view_grad(graph *g, tensor *y, tensor *dy, tensor **dx)
{
    const tensor *x = y->src[0];
    const i64 bytes = dtype_table[x->type].bytes;
    if (view_is_reshape(y)) {
        dx[0] = reshape(g, op_contiguous(g, dy), op_shape(x));
        return;
    }
    op_arg arg = {.i = {0}};
    i64 at = (i64)(y->offset - (x->base ? x->offset : 0)) / bytes, count = tensor_count(x);
    bool fits = at <= INT32_MAX;
    for (int a = 0; a < 4; a++) {
        fits = fits && y->stride[a] / bytes <= INT32_MAX;
        arg.i[a] = (i32)(y->stride[a] / bytes);
    }
    if (!fits) {
        char show[96];
        graph_fail(g, "VIEW of %s: strides beyond 2^31 elements have no gradient", tensor_show(x, show));
        return;
    }
    arg.i[4] = (i32)at;
    arg.i[5] = (i32)(count & INT32_MAX);
    arg.i[6] = (i32)(count >> 31);
    dx[0] = reshape(g, op_call(g, OP_PLACE, arg, dy, NULL, NULL), op_shape(x));
}

/* ---- COPY ---- */

void copy_check(graph *g, tensor *y)
{
    const tensor *x = y->src[0];
    dtype to = (dtype)y->arg.i[0];
    OP_EXPECT((unsigned)to < DTYPE_COUNT && (dtype_is_float(to) || (to == I32 && x->type == I32)), "x",
              "a float type to convert to (I32 only from I32; quantising is for files)");
    tensor_set(y, to, x->n);
}

void copy_grad(graph *g, tensor *y, tensor *dy, tensor **dx)
{
    dtype type = op_type(y->src[0], dy);
    dx[0] = dy->type == type ? dy : copy(g, dy, type);
}

void copy_ref(const tensor *y)
{
    const tensor *x = y->src[0];
    if (op_is_float(x) || x->type == I32) {
        EACH(y) ref_set(y, i0, i1, i2, i3, ref_get(x, i0, i1, i2, i3));
        return;
    }
    double *row = mem_array(double, y->n[0]); /* [n0] */
    if (!row) {
        ref_nan(y);
        return;
    }
    EACH_ROW(y)
    {
        ref_weight_row(x, i1, i2 + y->n[2] * i3, row);
        for (i64 i0 = 0; i0 < y->n[0]; i0++) ref_set(y, i0, i1, i2, i3, row[i0]);
    }
    mem_free(row);
}

tensor *copy(graph *g, tensor *t, dtype to) { return op_call(g, OP_COPY, (op_arg){.i = {(i32)to}}, t, NULL, NULL); }

/* ---- PLACE ---- */

void place_check(graph *g, tensor *y)
{
    const tensor *x = y->src[0];
    const i32 *arg = y->arg.i;
    i64 count = (i64)arg[5] | (i64)arg[6] << 31, last = arg[4];
    bool positive = last >= 0 && arg[5] >= 0 && arg[6] >= 0;
    for (int a = 0; a < 4; a++) {
        positive = positive && arg[a] >= 0;
        last += (x->n[a] - 1) * arg[a];
    }
    OP_EXPECT(op_is_real(x) && positive && last < count, "x", "f32 or f64 and a window inside the result");
    tensor_set(y, x->type, (i64[4]){count, 1, 1, 1});
}

void place_grad(graph *g, tensor *y, tensor *dy, tensor **dx)
{
    tensor *whole = op_contiguous(g, dy);
    i64 bytes = dtype_table[whole->type].bytes, stride[4];
    for (int a = 0; a < 4; a++) stride[a] = y->arg.i[a] * bytes;
    dx[0] = op_contiguous(g, view(g, whole, op_shape(y->src[0]), stride, (usize)(y->arg.i[4] * bytes)));
}

void place_ref(const tensor *y)
{
    const tensor *x = y->src[0];
    const i32 *arg = y->arg.i;
    for (i64 i = 0; i < y->n[0]; i++) ref_set(y, i, 0, 0, 0, 0);
    EACH(x)
    {
        i64 at = arg[4] + i0 * arg[0] + i1 * arg[1] + i2 * arg[2] + i3 * arg[3];
        ref_set(y, at, 0, 0, 0, ref_get(y, at, 0, 0, 0) + ref_get(x, i0, i1, i2, i3));
    }
}

void op_no_kernel(const tensor *y) { (void)y; }

void op_mismatch(graph *g, const tensor *y, const char *roles, const char *expected)
{
    char text[200] = "", show[96];
    usize at = 0;
    for (int i = 0; i < 6; i++) {
        const int n = (int)strcspn(roles, " ");
        const tensor *t = y->src[i];
        if (t && at < sizeof text) {
            const char *dims = strrchr(tensor_show(t, show), '[');
            at += (usize)snprintf(text + at, sizeof text - at, at ? ", %.*s is %s" : "%.*s is %s",
                                  t->name[0] ? (int)sizeof t->name : n, t->name[0] ? t->name : roles, dims ? dims : show);
        }
        roles += n + (roles[n] == ' ');
    }
    graph_fail(g, "%s: %s; expected %s", op_table[y->op].name, text, expected);
}
