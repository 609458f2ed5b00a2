// stage_load.h: what the ranks of a pipeline stage compute and send in a step, from what the code
// that allocates a run counted of it.
#ifndef PLAN_STAGE_LOAD_H
#define PLAN_STAGE_LOAD_H

#include "kernels_ref.h" // defines: CLASSIFIER_ROWS, ShardSoftmax
#include "model/memory_ledger.h"
#include "model/shard.h"
#include "mpi_utils.h" // defines: World, MESSAGE_ELEMENTS
#include "plan/step_time.h"
#include "run/options.h"

// The run that is asked about.
typedef struct {
    ModelConfig config;
    Options options;
    size_t tp, pp, dp, per_node, threads; // the grid, ranks per node, threads per rank
    size_t B, T, global_batch; // sequences in a micro-batch, tokens in one, sequences in a step
} PlannedRun;

// What the allocation of a run comes to on the largest rank of a stage.
typedef struct {
    ModelShard shard;
    MemoryLedger memory; // by kind; the plan frees it
    size_t parameters;   // of the shard
    size_t owned;        // of these, what the rank updates
    size_t bucket_count; // of gradients
    bool zero, recompute;
    size_t peers, nodes; // data-parallel ranks that share memory on a node, and such groups
    size_t tree_block;   // micro-batches per leaf of the reproducible tree; 0: no tree
} StageCount;

// Counts a stage by running the code that allocates it with a planned ledger.
typedef bool (*CountStage)(const PlannedRun *run, size_t stage, StageCount *count, Error *e);

// Micro-batches of a data-parallel rank.
static inline size_t planned_micro_batches(const PlannedRun *run) {
    return run->global_batch / run->B / run->dp;
}

// The world that the largest rank of a stage sees: the last tensor-parallel rank, which has the
// most of the vocabulary, of the first data-parallel rank. Arrays that only rank 0 has count with
// the first stage. There are no communicators in it.
static inline World planned_world(const PlannedRun *run, size_t stage) {
    World w = {.rank = stage > 0,
               .size = (int)(run->tp * run->pp * run->dp),
               .node_size = (int)run->per_node,
               .node_comm = MPI_COMM_NULL,
               .grid = grid_alone()};
    Grid *g = &w.grid;
    g->tp = (int)run->tp, g->pp = (int)run->pp, g->dp = (int)run->dp;
    g->tp_rank = g->tp - 1, g->stage = (int)stage;
    return w;
}

// `calls` per step, each of `bytes`, of which `sent` bytes leave the rank in `seconds`.
static inline Traffic traffic_of_(double calls, double bytes, double sent, double seconds) {
    return (Traffic){calls, calls * bytes, calls * sent, calls * seconds};
}

// `calls` per step of a reduce-scatter or an all-gather over an array of `bytes` (ways 1), or of an
// all-reduce, which is both (ways 2).
static inline Traffic collective_(double calls, double ways, Link link, size_t ranks,
                                  double bytes) {
    return traffic_of_(calls, bytes, ways * gather_sent(ranks, bytes),
                       ways * gather_seconds(link, ranks, bytes));
}

// Reductions of gradients between nodes, over an array of `bytes`. In BF16 an exchange of chunks, a
// message to every other node, takes the place of the reduce-scatter.
static inline Traffic reduction_(const PlannedRun *run, double calls, double ways, Link link,
                                 size_t nodes, double bytes) {
    Traffic t = collective_(calls, ways, link, nodes, bytes);
    if (run->options.reduce_dtype == REDUCE_BF16) {
        t.seconds += calls * link.latency * ((double)(nodes - 1) - collective_steps(nodes));
    }
    return t;
}

// Arithmetic: matrix products take 2 operations per weight and row, attention counts half the
// tokens on average; backward is twice that, and recomputation once more all but the block's last
// product. AdamW reads four arrays and writes three; gradients are zeroed and their norm is taken;
// a leaf of the reproducible tree is copied and added.
static inline void load_compute_(const PlannedRun *run, const StageCount *count, const Machine *m,
                                 StageLoad *l) {
    const ModelShard *s = &count->shard;
    const ModelConfig *c = &run->config;
    double R = (double)(run->B * run->T), C = (double)c->channels, L = (double)s->layers;
    double heads = (double)shard_attention_width(c, s), F = (double)s->mlp_channels;
    double widths = (double)(shard_qkv_width(c, s) + shard_mlp_width(c, s)) + heads + F;
    double attention = 2 * R * (double)run->T * heads, products = 2 * R * C * widths;
    double classifier = s->last_stage ? 2 * R * C * (double)s->vocab.count : 0;
    double recomputed = count->recompute ? L * (products - 2 * R * C * F + attention) : 0;
    double rate = machine_flops(m, (Precision)run->options.precision) / (double)run->per_node;

    l->forward_flops = L * (products + attention);
    l->backward_flops = 2 * l->forward_flops + 3 * classifier + recomputed;
    l->forward_compute = l->forward_flops / rate;
    l->backward_compute = l->backward_flops / rate;

    double leaves =
        count->tree_block > 0 ? (double)(planned_micro_batches(run) / count->tree_block) : 0;
    double bytes = 32 * (double)count->owned + (4 + 24 * leaves) * (double)count->parameters;
    l->update = bytes / (m->memory_bandwidth.value / (double)run->per_node);
}

// Messages between the tensor-parallel ranks of a stage.
static inline void load_tp_(const PlannedRun *run, const StageCount *count, const Machine *m,
                            StageLoad *l) {
    const ModelShard *s = &count->shard;
    if (run->tp == 1) {
        return;
    }

    double R = (double)(run->B * run->T), L = (double)s->layers;
    double M = (double)planned_micro_batches(run);
    double stream = R * (double)run->config.channels * sizeof(float);
    Link link = link_of(m, run->per_node, run->tp, 1, m->links.value);

    double forward = 2 * L + s->first_stage;
    double backward = (2 + count->recompute) * L + s->last_stage;
    double reduce = all_reduce_seconds(link, run->tp, stream);
    l->traffic[TP_ALL_REDUCE] = collective_(M * (forward + backward), 2, link, run->tp, stream);

    // gradients of k and v, where ranks share a KV head, and of the weights of QK-norm
    double head = (double)run->config.head_dim * sizeof(float), extra = 0;
    if (s->kv_copies > 1) {
        double shared = R * 2 * (double)s->kv_heads * head;
        l->traffic[KV_ALL_REDUCE] = collective_(M * L, 2, link, s->kv_copies, shared);
        extra += L * all_reduce_seconds(link, s->kv_copies, shared);
    }
    if (run->config.qk_norm) {
        l->traffic[QK_NORM_ALL_REDUCE] = collective_(M * L, 2, link, run->tp, 2 * head);
        extra += L * all_reduce_seconds(link, run->tp, 2 * head);
    }

    double gathers = s->last_stage ? ceil(R / CLASSIFIER_ROWS) : 0;
    double rows = gathers > 0 ? R / gathers : 0;
    double records = (double)run->tp * rows * sizeof(ShardSoftmax);
    double gather = gather_seconds(link, run->tp, records);
    l->traffic[TP_ALL_GATHER] = collective_(M * gathers, 1, link, run->tp, records);

    l->forward_tp = forward * reduce;
    l->backward_tp = backward * reduce + extra + gathers * gather;
}

// Messages between the stages of a pipeline.
static inline void load_pp_(const PlannedRun *run, const StageCount *count, const Machine *m,
                            StageLoad *l) {
    const ModelShard *s = &count->shard;
    if (run->pp == 1) {
        return;
    }

    double R = (double)(run->B * run->T), M = (double)planned_micro_batches(run);
    double stream = R * (double)run->config.channels * sizeof(float);
    double message = message_seconds(link_of(m, run->per_node, run->pp, run->tp, 1), stream);
    double sends = !s->first_stage + !s->last_stage;
    l->traffic[PP_SEND] = traffic_of_(M * sends, stream, stream, message);
    l->forward_pp = s->first_stage ? 0 : message;
    l->backward_pp = s->last_stage ? 0 : message;

    if (run->config.tied && (s->first_stage || s->last_stage)) {
        double embedding = (double)(s->vocab.count * run->config.channels) * sizeof(float);
        Link link = link_of(m, run->per_node, 2, run->tp * (run->pp - 1), m->links.value);
        double calls = ceil(embedding / sizeof(float) / MESSAGE_ELEMENTS);
        l->traffic[TIED_ALL_REDUCE] = collective_(calls, 2, link, 2, embedding / calls);
    }
}

// Reduction of gradients and gathering of parameters among the data-parallel ranks: within a node
// by loads and stores, a shard each, then these shards between nodes.
static inline void load_dp_(const PlannedRun *run, const StageCount *count, const Machine *m,
                            StageLoad *l) {
    if (run->dp == 1) {
        return;
    }

    size_t stride = run->tp * run->pp, n = count->parameters;
    size_t peers = count->peers, nodes = count->nodes;
    double bytes = (double)n * sizeof(float);
    if (count->tree_block > 0) { // recursive doubling, one round after another
        double rounds = ceil(log2((double)run->dp));
        double calls = (double)divide_up(n, MESSAGE_ELEMENTS);
        Link link = link_of(m, run->per_node, run->dp, stride, 1);
        l->traffic[DP_ALL_REDUCE] = traffic_of_(rounds * calls, bytes / calls, bytes / calls,
                                                message_seconds(link, bytes / calls));
    }

    double buckets = (double)count->bucket_count;
    double bucket = bytes / buckets;
    double message = bucket / (double)peers; // a shard, as it travels between nodes
    if (run->options.reduce_dtype == REDUCE_BF16) {
        message /= 2;
    }
    Link inside = {m->node_latency.value, m->node_bandwidth.value};
    Link across =
        link_of(m, run->per_node, nodes, peers > 1 ? run->per_node : stride, m->links.value);

    double ways = count->zero ? 1 : 2; // reduce-scatter alone, or all-gather too
    if (count->tree_block == 0 && peers > 1) {
        l->traffic[DP_SHARED_MEMORY] = collective_(buckets, ways, inside, peers, bucket);
    }
    if (count->tree_block == 0 && nodes > 1) {
        l->traffic[count->zero ? DP_REDUCE_SCATTER : DP_ALL_REDUCE] =
            reduction_(run, buckets, ways, across, nodes, message);
    }
    if (count->zero) {
        const Traffic copies = collective_(buckets, 1, inside, peers, bucket);
        Traffic *gather = &l->traffic[DP_ALL_GATHER];
        *gather = collective_(buckets, 1, across, nodes, message);
        gather->sent += copies.sent;
        gather->seconds += copies.seconds;
    }
}

// m: NULL without a machine; then messages are counted, and the times mean nothing.
static inline StageLoad stage_load(const PlannedRun *run, const StageCount *count,
                                   const Machine *m) {
    static const Machine nowhere = {.peak_flops.value = 1,
                                    .efficiency.value = 1,
                                    .fp16_peak_flops.value = 1,
                                    .fp16_efficiency.value = 1,
                                    .memory_bandwidth.value = 1};
    StageLoad l = {0};
    m = m ? m : &nowhere;
    load_compute_(run, count, m, &l);
    load_tp_(run, count, m, &l);
    load_pp_(run, count, m, &l);
    load_dp_(run, count, m, &l);
    return l;
}

#endif
