// step_time.h: time of a training step on a machine. Messages in an alpha-beta model (Hockney 1994;
// collectives: Thakur, Rabenseifner, Gropp 2005), the pipeline as 1F1B (Narayanan et al. 2019).
#ifndef PLAN_STEP_TIME_H
#define PLAN_STEP_TIME_H

#include <math.h>

#include "plan/machine.h"

// ------------------------------------------------------------------------------------------------
// Messages

// The connection between the ranks of a group.
typedef struct {
    double latency, bandwidth; // s, B/s
} Link;

// Of `ranks` ranks that are `stride` apart, where consecutive ranks fill nodes of `per_node`;
// `links`: links between nodes that the message keeps busy at once. A group that spans nodes is as
// fast as its slowest hop; the groups of a node share its injection bandwidth.
static inline Link link_of(const Machine *m, size_t per_node, size_t ranks, size_t stride,
                           double links) {
    size_t inside = stride < per_node ? per_node / stride : 1; // of the group on one node
    if (ranks <= inside && per_node % (ranks * stride) == 0) {
        return (Link){m->node_latency.value, m->node_bandwidth.value};
    }
    double groups = (double)per_node / (double)inside;
    return (Link){m->latency.value, fmin(links * m->bandwidth.value, m->injection.value / groups)};
}

static inline double collective_steps(size_t ranks) {
    return ceil(log2((double)ranks));
}

// Bytes that each of `ranks` ranks sends in an all-gather of an array of `bytes` in all; a
// reduce-scatter sends as much.
static inline double gather_sent(size_t ranks, double bytes) {
    return bytes * (double)(ranks - 1) / (double)ranks;
}

static inline double gather_seconds(Link link, size_t ranks, double bytes) {
    if (ranks < 2) {
        return 0;
    }
    return collective_steps(ranks) * link.latency + gather_sent(ranks, bytes) / link.bandwidth;
}

// Reduce-scatter, then all-gather.
static inline double all_reduce_seconds(Link link, size_t ranks, double bytes) {
    return 2 * gather_seconds(link, ranks, bytes);
}

static inline double message_seconds(Link link, double bytes) {
    return link.latency + bytes / link.bandwidth;
}

typedef enum {
    TP_ALL_REDUCE,
    TP_ALL_GATHER,
    KV_ALL_REDUCE,
    QK_NORM_ALL_REDUCE,
    PP_SEND,
    DP_SHARED_MEMORY,
    DP_ALL_REDUCE,
    DP_REDUCE_SCATTER,
    DP_ALL_GATHER,
    TIED_ALL_REDUCE,
    TRAFFIC_KINDS
} TrafficKind;

// key: in plan --json.
static const struct {
    const char *key, *description;
} traffic_kinds[TRAFFIC_KINDS] = {
    {"tp: sums of the stream", "TP all-reduce, residual stream"},
    {"tp: softmax sums", "TP all-gather, softmax"},
    {"tp: shared KV heads", "TP all-reduce, shared KV heads"},
    {"tp: QK-norm gradients", "TP all-reduce, QK-norm"},
    {"pp: stream, gradient", "PP send, activations"},
    {"dp: inside the node", "DP reduction, shared memory"},
    {"dp: sum of gradients", "DP all-reduce, gradients"},
    {"dp: gradients scattered", "DP reduce-scatter, gradients"},
    {"dp: weights gathered", "DP all-gather, parameters"},
    {"pp: tied embedding", "all-reduce, tied embedding"},
};

// Messages of one kind that a rank takes part in, in a step.
typedef struct {
    double calls, bytes; // of MPI, and bytes of the arrays given to it
    double sent;         // bytes that leave the rank
    double seconds;      // without any overlap
} Traffic;

// ------------------------------------------------------------------------------------------------
// The step

// What one rank of a stage does. Seconds of a micro-batch: arithmetic, collectives of the
// tensor-parallel ranks, waiting for what other stages send.
typedef struct {
    double forward_flops, backward_flops;     // of a micro-batch; backward with recomputation
    double forward_compute, backward_compute; // s
    double forward_tp, backward_tp;           // s
    double forward_pp, backward_pp;           // s
    double update;                            // s: AdamW, norm, zeroing
    Traffic traffic[TRAFFIC_KINDS];           // of a step
} StageLoad;

typedef struct {
    double seconds;         // of a step: the sum of what follows
    double compute, tp, pp; // of the critical stage
    double bubble;          // it waits for other stages
    double gradients;       // reduction after backward: what is not overlapped
    double update, gather;  // gather: of parameters, what is not overlapped with the next forward
    size_t critical_stage;  // with the most to do per micro-batch
} StepTime;

// Seconds of a micro-batch on a stage, forward and backward.
static inline double stage_slot_(const StageLoad *s) {
    return s->forward_compute + s->forward_tp + s->forward_pp + s->backward_compute +
           s->backward_tp + s->backward_pp;
}

// One step of `count` micro-batches over n stages. 1F1B: the first micro-batch passes through all
// stages and back, and the critical stage does the others one after another. Stage s ends before
// the first one by what the stages before it take for their backward; in that time its gradients
// travel unhindered, before that only the share `overlap` of them, during the last backward.
static inline StepTime step_time(const StageLoad *stages, size_t n, size_t count, double overlap) {
    StepTime t = {0};
    double through = 0, end = 0, before = 0;
    for (size_t s = 0; s < n; s++) {
        through += stage_slot_(&stages[s]);
        if (stage_slot_(&stages[s]) > stage_slot_(&stages[t.critical_stage])) {
            t.critical_stage = s;
        }
    }

    const StageLoad *c = &stages[t.critical_stage];
    double micro_batches = (double)count;
    double pipeline = through + (micro_batches - 1) * stage_slot_(c);
    t.compute = micro_batches * (c->forward_compute + c->backward_compute);
    t.tp = micro_batches * (c->forward_tp + c->backward_tp);
    t.pp = micro_batches * (c->forward_pp + c->backward_pp);
    t.bubble = pipeline - micro_batches * stage_slot_(c);

    // the stage that ends last, with its gradients, update and gathering of parameters
    for (size_t s = 0; s < n; s++) {
        const StageLoad *l = &stages[s];
        double backward = l->backward_compute + l->backward_tp + l->backward_pp;
        double reduction = l->traffic[DP_SHARED_MEMORY].seconds +
                           l->traffic[DP_ALL_REDUCE].seconds +
                           l->traffic[DP_REDUCE_SCATTER].seconds;
        double gather = l->traffic[DP_ALL_GATHER].seconds;
        double gradients = pipeline - before + l->traffic[TIED_ALL_REDUCE].seconds + reduction -
                           overlap * fmin(reduction, backward);
        double parameters = gather - overlap * fmin(gather, l->forward_compute);
        if (gradients + l->update + parameters > end) {
            end = gradients + l->update + parameters;
            t.gradients = gradients - pipeline;
            t.update = l->update;
            t.gather = parameters;
        }
        before += backward;
    }
    t.seconds = end;
    return t;
}

#endif
