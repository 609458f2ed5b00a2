// console.h: what train prints for people, on rank 0: the effective configuration before step 0, a
// line every --log-every steps, and on a terminal one status line that follows every step.
#ifndef RUN_CONSOLE_H
#define RUN_CONSOLE_H

#include "model/flops.h"
#include "model/tensors.h" // defines: INIT_STD
#include "run/log_writer.h"
#include "util/status_line.h"

// Steps between printed lines: --log-every, or so many that a run prints at most 500 lines: 1, 2,
// 5, 10, 20, 50 ...
static inline size_t console_log_every_(const Options *o) {
    enum { MOST_LINES = 500 };
    static const size_t factors[] = {1, 2, 5};
    size_t every = o->log_every;
    for (size_t decade = 1; every == 0; decade *= 10) {
        for (size_t i = 0; i < 3 && every == 0; i++) {
            every = o->steps / (factors[i] * decade) <= MOST_LINES ? factors[i] * decade : 0;
        }
    }
    return every;
}

// ------------------------------------------------------------------------------------------------
// Configuration

static inline void print_setting_(const char *name) {
    printf("  %-14s", name);
}

static inline void print_data_settings_(const RunRecord *r) {
    double samples = (double)r->global_batch * (double)r->options->steps;
    for (size_t i = 0; i < r->data->count; i++) {
        const Dataset *d = &r->data->items[i];
        double share = mixture_share(r->data, i);
        print_setting_(i == 0 ? "data" : "");
        printf("%s: %llu tokens, %llu samples, share %.3f %%, %.2f epochs\n", r->data->paths[i],
               (unsigned long long)d->tokens, (unsigned long long)d->samples, 100 * share,
               share * samples / (double)d->samples);
    }
    for (size_t i = 0; i < r->val->count; i++) {
        print_setting_(i == 0 ? "validation" : "");
        printf("%s: %llu tokens\n", r->val->paths[i], (unsigned long long)r->val->items[i].tokens);
    }
    if (r->val->count == 0) {
        print_setting_("validation");
        printf("none\n");
    }
}

static inline void print_grid_settings_(const RunRecord *r) {
    const Options *o = r->options;
    const Grid *g = &r->world->grid;
    char choice[32];
    size_t micro_batches = r->global_batch / (size_t)g->dp / o->micro_batch;

    print_setting_("ranks");
    printf("%d = %d tensor-parallel x %d pipeline stage%s x %d data-parallel, %d thread%s each\n",
           r->world->size, g->tp, g->pp, g->pp == 1 ? "" : "s", g->dp, omp_get_max_threads(),
           omp_get_max_threads() == 1 ? "" : "s");
    print_setting_("step");
    printf("%zu sequences of %zu tokens = %d data-parallel rank%s x %zu micro-batch%s of %zu\n",
           r->global_batch, r->seq_len, g->dp, g->dp == 1 ? "" : "s", micro_batches,
           micro_batches == 1 ? "" : "es", o->micro_batch);
    print_setting_("parallelism");
    printf("ZeRO %d, recompute %s", o->zero ? 1 : 0, option_choice_name(o, "recompute", choice));
    if (o->recompute_stages > 0) {
        printf(" on %zu stages", o->recompute_stages);
    }
    printf(", overlap %s%s\n", o->overlap && !o->reproducible ? "on" : "off",
           o->reproducible                  ? ", reproducible reduction"
           : o->reduce_dtype == REDUCE_BF16 ? ", BF16 between nodes"
                                            : "");
}

// One line of what every model has, and one of what differs from GPT-2.
static inline void print_model_settings_(const RunRecord *r) {
    const ModelConfig *c = r->config;
    print_setting_("model");
    printf("%s, %zu layers, %zu channels, %zu heads, %zu positions, vocabulary size %zu, %zu "
           "parameters\n",
           is_family(c, FAMILY_GPT2) ? "GPT-2" : c->family->class_name, c->layers, c->channels,
           c->heads, c->seq_len, c->vocab_size, r->parameters);
    if (c->family->block == BLOCK_GPT2) {
        return;
    }

    print_setting_("");
    printf("%zu KV heads, head dim %zu, MLP %zu, rope theta %g", c->kv_heads, c->head_dim,
           c->mlp_channels, c->rope.theta);
    if (c->rope.factor != 1) {
        printf(" with factor %g over %zu positions", c->rope.factor, c->rope.original_positions);
    }
    printf(", RMSNorm eps %g, %s head%s%s\n", c->norm_eps, c->tied ? "tied" : "untied",
           c->qk_norm ? ", QK-norm" : "", c->qkv_bias ? ", biases of q, k, v" : "");
}

// The effective configuration in one aligned block.
static inline void console_print_configuration(const RunRecord *r) {
    const Options *o = r->options;
    char choice[32];

    printf("configuration:\n");
    print_model_settings_(r);
    if (o->init || o->resume_from) {
        print_setting_("weights");
        printf("%s %s\n", o->init ? "initialized from" : "with optimizer state, from",
               o->init ? o->init : o->resume_from);
    }
    print_data_settings_(r);
    print_grid_settings_(r);
    print_setting_("optimizer");
    printf("AdamW, beta1 %g, beta2 %g, eps %g, weight decay %g, clip %g", o->beta1, o->beta2,
           o->eps, o->weight_decay, o->clip);
    if (o->z_loss > 0) {
        printf(", z-loss %g", o->z_loss);
    }
    printf("\n");
    print_setting_("learning rate");
    printf("%g to %g, %s, %zu warm-up steps, %zu steps", o->lr, o->min_lr,
           option_choice_name(o, "schedule", choice), o->warmup_steps, o->steps);
    if (o->decay_steps > 0) {
        printf(", the last %zu of decay", o->decay_steps);
    }
    printf("\n");
    print_setting_("evals, saves");
    printf("eval every %zu steps, checkpoint every %zu, keep %zu\n", o->eval_every, o->save_every,
           o->keep);
    print_setting_("random");
    printf("seed %zu, shuffle %d, init std %g\n", o->seed, o->shuffle,
           o->init_std > 0 ? o->init_std : INIT_STD);
    print_setting_("kernels");
    printf("%s (%s), %s products, measured peak %.1f GFLOP/s\n", r->kernels, instruction_set(),
           option_choice_name(o, "precision", choice), 1e-9 * r->peak_flops);
    print_setting_("output");
    printf("%s\n", o->out);
}

// ------------------------------------------------------------------------------------------------
// Steps

// After each step: a line that stays every so many steps, at the first step and at the last, and
// for skipped steps; the status line in between.
static inline void console_print_step(const RunRecord *r, const StepResult *s,
                                      double seconds_left) {
    const size_t steps = r->options->steps;
    double tokens = (double)r->global_batch * (double)r->seq_len;
    double flops = tokens * flops_per_token(r->config, r->seq_len);
    long left = (long)(seconds_left + 0.5);
    char text[256];

    snprintf(text, sizeof text,
             "step %zu/%zu | loss %.4f | norm %.3f | lr %.2e | %.0f tokens/s | MFU %.1f %% | "
             "left %ld:%02ld:%02ld%s",
             s->step, steps, s->loss, s->grad_norm, s->lr, tokens / s->seconds,
             100 * flops / s->seconds / r->peak_flops, left / 3600, left / 60 % 60, left % 60,
             s->skipped ? " | SKIPPED: not finite" : "");

    bool stays = s->step % console_log_every_(r->options) == 0 || s->step == r->from_step + 1 ||
                 s->step == steps || s->skipped;
    if (stays) {
        status_line_clear();
        printf("%s\n", text);
    } else {
        status_line_show("%s", text);
    }
}

// losses: (val->count), by source.
static inline void console_print_eval(size_t step, const Mixture *val, double loss,
                                      const double *losses) {
    status_line_clear();
    for (size_t i = 0; i < val->count && val->count > 1; i++) {
        printf("step %zu | %s: validation loss %.4f\n", step, val->paths[i], losses[i]);
    }
    printf("step %zu | validation loss %.4f | perplexity %.2f\n", step, loss, exp(loss));
}

// What eval prints. With more than one source a line for each first; then all of them, losses
// weighted by their shares.
static inline void console_print_eval_result(const Mixture *data, size_t T, const double *losses,
                                             double loss) {
    uint64_t tokens = 0;
    for (size_t i = 0; i < data->count; i++) {
        uint64_t own = data->items[i].samples * T;
        tokens += own;
        if (data->count > 1) {
            printf("%s: loss %.6f, perplexity %.4f, tokens %llu, share %.3f %%\n", data->paths[i],
                   losses[i], exp(losses[i]), (unsigned long long)own,
                   100 * mixture_share(data, i));
        }
    }
    printf("loss %.6f\nperplexity %.4f\ntokens %llu of ", loss, exp(loss),
           (unsigned long long)tokens);
    data->count > 1 ? printf("%zu sources\n", data->count) : printf("%s\n", data->items[0].path);
}

#endif
