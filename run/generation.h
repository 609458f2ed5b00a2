// generation.h: the text side of `generate`: the prompt as tokens, the window of them that the
// model sees, and the decoded text. The model itself is a callback.
#ifndef RUN_GENERATION_H
#define RUN_GENERATION_H

#include "model/config.h"
#include "run/options.h"
#include "tokenizer.h"

// Draws the token after ids (count), as the i-th of the text; the first `cached` of them were seen
// by the call before. -1 if the logits are not finite.
typedef int32_t NextToken(void *context, const int32_t *ids, size_t cached, size_t count,
                          uint64_t i);

typedef struct {
    const Options *options;
    const ModelConfig *config;
    bool prints; // on rank 0
    Tokenizer tokenizer;
    bool has_tokenizer;
    Decoder decoder;
    TokenBuffer ids; // prompt, then what was generated
} Generation;

// Prints the text that the decoder has ready.
static inline void generation_print_(Generation *g) {
    if (g->prints) {
        fwrite(g->decoder.text.data, 1, g->decoder.text.length, stdout);
        fflush(stdout);
    }
    g->decoder.text.length = 0;
}

// Encodes the prompt; an empty one begins a document. The decoder is told the ids, so that what
// follows is decoded as their continuation.
static inline bool generation_encode_prompt_(Generation *g, Error *e) {
    const char *prompt = g->options->prompt;
    size_t length = strlen(prompt), consumed;
    uint64_t replaced = 0;
    char *text = malloc(3 * length + 1);
    if (!text) {
        return fail(e, "no memory for the prompt");
    }
    length = utf8_sanitize(text, prompt, length, true, &consumed, &replaced);
    bool ok = tokenizer_encode(&g->tokenizer, text, length, &g->ids, e);
    free(text);
    if (ok && g->ids.count == 0) {
        ok = token_buffer_append(&g->ids, g->tokenizer.end_of_document, e);
    }

    decoder_init(&g->decoder, &g->tokenizer, false);
    for (size_t i = 0; i < g->ids.count && ok; i++) {
        int32_t id = g->ids.ids[i];
        if (id < 0 || (size_t)id >= g->config->vocab_size) {
            return fail(e, "%s: its tokenizer gives id %d, outside the model's vocabulary of %zu",
                        g->options->checkpoint, (int)id, g->config->vocab_size);
        }
        ok = decoder_add(&g->decoder, id, e);
    }
    g->decoder.text.length = 0;
    return ok;
}

// Loads the tokenizer of --checkpoint and encodes the prompt. generation_free releases it, after a
// failure too.
static inline bool generation_create(Generation *g, const Options *o, const ModelConfig *config,
                                     bool prints, Error *e) {
    *g = (Generation){.options = o, .config = config, .prints = prints};
    g->has_tokenizer = tokenizer_load(&g->tokenizer, o->checkpoint, e);
    return g->has_tokenizer && generation_encode_prompt_(g, e);
}

static inline void generation_free(Generation *g) {
    if (g->has_tokenizer) {
        decoder_free(&g->decoder);
        tokenizer_free(&g->tokenizer);
    }
    free(g->ids.ids);
}

// Whether a token ends the text: one that the model's configuration names, or the tokenizer's end
// of a document.
static inline bool generation_ends_(const Generation *g, int32_t token) {
    bool ends = token == g->tokenizer.end_of_document;
    for (size_t i = 0; i < g->config->end_count; i++) {
        ends |= token == g->config->ends[i];
    }
    return ends;
}

// Generates and prints up to --tokens tokens. When the context of T tokens is full, its older half
// is dropped and the newer half, which now stands at other positions, is computed once.
static inline bool generation_run(Generation *g, size_t T, NextToken *next, void *context,
                                  Error *e) {
    size_t cached = 0, start = g->ids.count > T ? g->ids.count - (T + 1) / 2 : 0;

    for (uint64_t i = 0; i < g->options->tokens; i++) {
        size_t count = g->ids.count - start;
        if (count > T) {
            start = g->ids.count - (T + 1) / 2;
            count = g->ids.count - start;
            cached = 0;
        }

        int32_t token = next(context, g->ids.ids + start, cached, count, i);
        cached = count;
        if (token < 0) {
            return fail(e, "%s: its logits are not finite; the weights are damaged",
                        g->options->checkpoint);
        }
        if (generation_ends_(g, token)) {
            break;
        }
        if (!token_buffer_append(&g->ids, token, e) || !decoder_add(&g->decoder, token, e)) {
            return false;
        }
        generation_print_(g);
    }

    if (!decoder_end(&g->decoder, e)) {
        return false;
    }
    generation_print_(g);
    if (g->prints) {
        printf("\n");
    }
    return true;
}

#endif
