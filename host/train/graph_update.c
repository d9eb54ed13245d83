/* SPDX-License-Identifier: Apache-2.0
 * The plans behind a batch's gradients: folds, norms, the optimizer. */
#include "host/train/graph_build.h"

int graph_square_leaves(const param *p) {
    return shard_leaves(p->cols ? p->cols : p->rows);
}

/* Every rank has room for the squares of the whole model, in the order of its parameters. */
int64_t graph_squares_of(const param *p) {
    return p->trained ? param_whole(p).shape[0] * graph_square_leaves(p) : 0;
}

/* Rows [begin, end) bytes of buffer `level`. */
static weft_tensor region_grad(graph_builder *u, int chunk, int level) {
    const params *p = u->g->params;
    int64_t begin = p->region[chunk].begin, bytes = p->region[chunk].end - begin;
    int64_t shape[2] = {bytes / 4 / PARAMS_ROW, PARAMS_ROW};
    return plan_fixed(&u->b, WEFT_SPACE_GRAD, "gradients", level * p->grad_bytes + begin,
                      weft_tensor_make(WEFT_F32, 2, shape));
}

weft_status graph_build_fold(graph *g, int chunk, int level, weft_plan **out) {
    graph_builder u;
    graph_begin(&u, g, chunk, 0);
    if (g->params->region[chunk].end > g->params->region[chunk].begin)
        PUSH(&u, accumulate, "fold", .x = region_grad(&u, chunk, level),
             .y = region_grad(&u, chunk, level - 1));
    return graph_end(&u, out);
}

/* A trained parameter's gradient as [rows, cols]. */
static weft_tensor whole_grad(graph_builder *u, const param *p) {
    return plan_fixed(&u->b, WEFT_SPACE_GRAD, p->name, p->off, param_layout(p));
}

/* This rank's rows of a parameter in a block of state. */
static weft_tensor state_place(graph_builder *u, const char *what, int64_t off, const param *p,
                               graph_rows rows) {
    weft_tensor t = param_layout(p);
    t.shape[0] = rows.end - rows.begin;
    return plan_fixed(&u->b, WEFT_SPACE_STATE, what, off + p->kept, t);
}

/* Of the rows and columns whose gradient counts here; the others' places stay 0. */
static void push_squares(graph_builder *u, const param *p, int64_t at) {
    graph *g = u->g;
    int64_t leaves = graph_square_leaves(p), cols = param_whole(p).shape[1];
    int64_t mine = leaves * p->window.cols / cols, first = leaves * p->window.col / cols;
    bool part = g->params->share_grads;
    graph_rows here = part ? graph_rows_of(u->g, p, g->params->rank)
                           : (graph_rows){0, p->window.rows};
    if (!p->counted || here.begin == here.end)
        return;
    weft_tensor x = part ? graph_own_grad(u, p, false) : whole_grad(u, p);
    weft_tensor y = weft_tensor_make(WEFT_F32, 2, (int64_t[]){x.shape[0], mine});
    y.stride[0] = leaves;
    at += (p->window.row + here.begin) * leaves + first;
    y = plan_fixed(&u->b, WEFT_SPACE_OUT, "squares", g->train.squares.off + at * 4, y);
    PUSH(u, sum_squares, "norm", .x = x, .y = y, .leaves = (int32_t)mine);
}

static weft_tensor embed_grad(graph_builder *u, const param *embed, bool input) {
    return u->g->params->share_grads ? graph_own_grad(u, embed, input)
                                     : graph_grad(u, embed, input);
}

/* A tied embedding's two gradients become one: where head and input are on different ranks, those
 * two hand each other what they have and keep the sum. */
static void join_lookups(graph_builder *u) {
    const graph *g = u->g;
    const param *embed = params_find(g->params, PARAM_WEIGHT, WEIGHT_EMBED, -1);
    graph_rows own = graph_rows_of(g, embed, g->params->rank);
    int last = g->mesh->size.pp - 1, at = g->mesh->place.pp;
    if (g->params->lookups < 0 || own.begin == own.end)
        return;
    weft_tensor grad = embed_grad(u, embed, false), lookups = embed_grad(u, embed, true);
    if (last > 0 && at == 0) {
        PUSH(u, send, "embed'", .x = lookups, .peer = last, .group = WEFT_GROUP_PP);
        PUSH(u, recv, "embed'", .y = grad, .peer = last, .group = WEFT_GROUP_PP);
        return;
    }
    if (last > 0)
        PUSH(u, recv, "embed'", .y = lookups, .peer = 0, .group = WEFT_GROUP_PP);
    PUSH(u, accumulate, "embed'", .x = lookups, .y = grad);
    if (last > 0)
        PUSH(u, send, "embed'", .x = grad, .peer = 0, .group = WEFT_GROUP_PP);
}

weft_status graph_build_finish(graph *g, weft_plan **out) {
    graph_builder u;
    int64_t at = 0;
    graph_begin(&u, g, 0, 0);
    join_lookups(&u);
    for (int i = 0; i < g->params->n; i++) {
        const param *p = &g->params->param[i];
        if (p->trained && p->here)
            push_squares(&u, p, at);
        at += graph_squares_of(p);
    }
    return graph_end(&u, out);
}

/* Rows of the fp32 numbers an optimizer changes: of the window, or, where only these are here, the
 * rank's own. */
static weft_tensor master_of(graph_builder *u, const param *p, graph_rows rows) {
    weft_tensor flat = param_layout(p);
    bool own = param_shares_master(u->g->params, p);
    flat.shape[0] = own ? rows.end - rows.begin : flat.shape[0];
    flat.data = p->p.data;
    flat = plan_weight(&u->b, "p", flat);
    return own ? flat : tensor_slice(flat, 0, rows.begin, rows.end);
}

/* The same of the model's own copy; absent where that is no other. */
static weft_tensor copy_of(graph_builder *u, const param *p, graph_rows rows) {
    weft_tensor flat = param_layout(p);
    bool own = param_shares_weight(u->g->params, p);
    if (u->g->dtype == WEFT_F32)
        return (weft_tensor){0};
    flat.shape[0] = own ? rows.end - rows.begin : flat.shape[0];
    flat.dtype = (uint8_t)u->g->dtype;
    flat.data = p->w.data;
    flat = plan_weight(&u->b, "w", flat);
    return own ? flat : tensor_slice(flat, 0, rows.begin, rows.end);
}

static void push_update(graph_builder *u, const param *p, int index, graph_rows rows) {
    graph *g = u->g;
    weft_tensor grad = g->params->share_grads
                           ? graph_own_grad(u, p, false)
                           : tensor_slice(whole_grad(u, p), 0, rows.begin, rows.end);
    weft_tensor master = master_of(u, p, rows);
    weft_tensor hyper = graph_fixed(u, &g->train.hyper), copy = copy_of(u, p, rows);
    weft_tensor m = state_place(u, "m", g->m, p, rows);
    bool stochastic = g->o->stochastic_rounding && copy.dtype == WEFT_BF16;
    if (g->o->optim == OPTIM_ADAMW)
        PUSH(u, adamw, "adamw", .g = grad, .hyper = hyper, .p = master, .m = m,
             .v = state_place(u, "v", g->v, p, rows), .w = copy, .decay = p->decay ? 1.0f : 0.0f,
             .stochastic = stochastic, .stream = index);
    else
        PUSH(u, sgd, "sgd", .g = grad, .hyper = hyper, .p = master, .m = m, .w = copy,
             .decay = p->decay ? 1.0f : 0.0f, .stochastic = stochastic, .stream = index);
    if (g->ema >= 0)
        PUSH(u, ema, "ema", .p = master, .hyper = hyper,
             .e = state_place(u, "ema", g->ema, p, rows));
}

/* What each rank has made of its rows, to all. */
static void push_share(graph_builder *u, const param *p) {
    bool stays = param_shares_weight(u->g->params, p);
    for (int r = 0; !stays && r < u->g->params->ranks; r++) {
        graph_rows rows = graph_rows_of(u->g, p, r);
        if (rows.begin == rows.end)
            continue;
        weft_tensor copy = copy_of(u, p, rows);
        PUSH(u, broadcast, "share", .x = weft_has(&copy) ? copy : master_of(u, p, rows), .peer = r,
             .group = WEFT_GROUP_DP);
    }
}

weft_status graph_build_update(graph *g, weft_plan **out) {
    graph_builder u;
    graph_begin(&u, g, 0, 0);
    for (int i = 0; i < g->params->n; i++) {
        const param *p = &g->params->param[i];
        graph_rows rows = graph_rows_of(g, p, g->params->rank);
        if (!p->trained || !p->here)
            continue;
        if (rows.begin < rows.end)
            push_update(&u, p, i, rows);
        if (g->params->ranks > 1)
            push_share(&u, p);
    }
    return graph_end(&u, out);
}

/* The model's copies from the fp32 ones: at the start, and when a checkpoint was read. Where those
 * are here in part, trainer_write makes both. */
weft_status graph_build_refresh(graph *g, weft_plan **out) {
    graph_builder u;
    graph_begin(&u, g, 0, 0);
    for (int i = 0; i < g->params->n; i++) {
        const param *p = &g->params->param[i];
        graph_rows all = {0, p->window.rows};
        if (p->here && (p->trained || g->o->lora_rank == 0) && !param_shares_master(g->params, p))
            PUSH(&u, cast, "cast", .x = master_of(&u, p, all), .y = copy_of(&u, p, all));
    }
    return graph_end(&u, out);
}
