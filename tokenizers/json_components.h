// json_components.h: the components of a tokenizer.json around its model: normalizer,
// pre-tokenizer, decoder, post-processor. Whatever would give other ids than Hugging Face
// `tokenizers` is rejected.
#ifndef TOKENIZERS_JSON_COMPONENTS_H
#define TOKENIZERS_JSON_COMPONENTS_H

#include "tokenizers/model.h"
#include "util/json.h"

enum { SEQUENCE_DEPTH_ = 4 }; // of Sequences within Sequences

static inline bool json_absent(const Json *node) {
    return !node || node->kind == JSON_NULL;
}

static inline bool json_is_bool(const Json *node, bool value) {
    return node && node->kind == JSON_BOOL && node->boolean == value;
}

static inline bool json_has_type(const Json *node, const char *type) {
    const char *found = json_string(json_get(node, "type"));
    return found && !strcmp(found, type);
}

// The members of a component of type Sequence, which are under `key`; NULL if it is not one.
static inline const Json *json_sequence_(const Json *node, const char *key) {
    const Json *list = json_get(node, key);
    return json_has_type(node, "Sequence") && list && list->kind == JSON_ARRAY ? list : NULL;
}

typedef struct {
    const Json *steps[MAX_STEPS];
    size_t count;
} StepList_;

// Lists the steps of a component in which Sequences, with their steps under `key`, may lie within
// Sequences; `depth` is 0 outside. False if they are too many.
static inline bool json_steps_(StepList_ *list, const Json *node, const char *key, int depth) {
    const Json *sequence = depth < SEQUENCE_DEPTH_ ? json_sequence_(node, key) : NULL;
    if (sequence) {
        for (const Json *child = sequence->child; child; child = child->next) {
            if (!json_steps_(list, child, key, depth + 1)) {
                return false;
            }
        }
        return true;
    }
    if (list->count == MAX_STEPS) {
        return false;
    }
    list->steps[list->count++] = node;
    return true;
}

// Copies a short text of a component into a step.
static inline bool step_text_(char out[STEP_TEXT], size_t *length, const Json *node,
                              const char *what, const FileErrors *f) {
    if (!json_string(node) || node->length >= STEP_TEXT) {
        return reject(f, "%s must be a string of less than %d bytes", what, STEP_TEXT);
    }
    memcpy(out, node->text, node->length + 1);
    *length = node->length;
    return true;
}

// An expression that matches only itself.
static inline bool is_literal_(const char *expression) {
    return *expression && !strpbrk(expression, "\\^$.|?*+()[]{}");
}

// Oniguruma's ^ matches at every line; this, only where the text begins.
#define START_OF_TEXT_ "(?<!\\n)^"

// Replace {"pattern": {"String": s} or {"Regex": r}, "content": s}: the texts, and the expression
// if it is not a literal.
static inline bool replace_read_(const Json *node, char pattern[STEP_TEXT], size_t *pattern_length,
                                 char content[STEP_TEXT], size_t *content_length,
                                 const char **expression, const FileErrors *f) {
    const Json *literal = json_get(json_get(node, "pattern"), "String");
    const Json *regex = json_get(json_get(node, "pattern"), "Regex");
    *expression = regex && json_string(regex) && !is_literal_(regex->text) ? regex->text : NULL;
    return step_text_(content, content_length, json_get(node, "content"), "the content of Replace",
                      f) &&
           step_text_(pattern, pattern_length, literal ? literal : regex, "the pattern of Replace",
                      f) &&
           (*pattern_length > 0 || reject(f, "the pattern of Replace must not be empty"));
}

// ------------------------------------------------------------------------------------------------
// Normalizer

static inline bool normalizer_read_replace_(NormalizeStep *step, const Json *node,
                                            const FileErrors *f) {
    const char *expression;
    if (!replace_read_(node, step->pattern, &step->pattern_length, step->content,
                       &step->content_length, &expression, f)) {
        return false;
    }
    if (!expression) {
        step->operation = NORMALIZE_REPLACE;
    } else if (!strcmp(expression, START_OF_TEXT_)) {
        step->operation = NORMALIZE_PREPEND;
        step->pattern_length = 0;
    } else if (!strcmp(expression, " {2,}")) {
        step->operation = NORMALIZE_SPACES;
    }
    return true;
}

static inline bool normalizer_read_strip_(NormalizeStep *step, const Json *node,
                                          const FileErrors *f) {
    const Json *left = json_get(node, "strip_left"), *right = json_get(node, "strip_right");
    *step = (NormalizeStep){NORMALIZE_STRIP, .left = json_is_bool(left, true),
                            .right = json_is_bool(right, true)};
    return (left && right && left->kind == JSON_BOOL && right->kind == JSON_BOOL) ||
           reject(f, "Strip must have strip_left and strip_right, true or false");
}

// Reads a step; its operation stays NORMALIZE_UNSUPPORTED if it is not supported.
static inline bool normalizer_read_step_(NormalizeStep *step, const Json *node,
                                         const FileErrors *f) {
    if (json_has_type(node, "Prepend")) {
        step->operation = NORMALIZE_PREPEND;
        return step_text_(step->content, &step->content_length, json_get(node, "prepend"),
                          "the text of Prepend", f);
    }
    if (json_has_type(node, "Strip")) {
        return normalizer_read_strip_(step, node, f);
    }
    return !json_has_type(node, "Replace") || normalizer_read_replace_(step, node, f);
}

static inline bool normalizer_read(Normalizer *normalizer, const Json *node, const FileErrors *f) {
    StepList_ list = {0};
    if (!json_steps_(&list, node, "normalizers", 0)) {
        return reject(f, "its normalizer has more than %d steps", MAX_STEPS);
    }
    for (size_t i = 0; i < list.count; i++) {
        NormalizeStep *step = &normalizer->steps[normalizer->count++];
        if (!normalizer_read_step_(step, list.steps[i], f)) {
            return false;
        }
        if (step->operation == NORMALIZE_UNSUPPORTED) {
            const char *type = json_string(json_get(list.steps[i], "type"));
            const char *regex = json_string(json_get(json_get(list.steps[i], "pattern"), "Regex"));
            return reject(f,
                          "unsupported normalizer %.40s%s%.60s: supported are Sequence, "
                          "Prepend, Strip and "
                          "Replace (of a literal, of \" {2,}\", of \"(?<!\\n)^\")",
                          type ? type : "without a type", regex ? " with " : "",
                          regex ? regex : "");
        }
    }
    return true;
}

// ------------------------------------------------------------------------------------------------
// Pre-tokenizer

static inline bool metaspace_read_(Metaspace *m, const Json *node, const FileErrors *f) {
    static const char *const schemes[PREPEND_SCHEMES] = {"never", "first", "always"};
    const Json *replacement = json_get(node, "replacement");
    if (!json_string(replacement) || replacement->length == 0 ||
        utf8_decode(replacement->text, replacement->length, NULL) != replacement->length) {
        return reject(f, "Metaspace must have a replacement of one character");
    }
    const char *name = json_absent(json_get(node, "prepend_scheme"))
                           ? "always"
                           : json_string(json_get(node, "prepend_scheme"));
    int scheme = PREPEND_NEVER;
    while (name && scheme < PREPEND_SCHEMES && strcmp(name, schemes[scheme])) {
        scheme++;
    }
    if (!name || scheme == PREPEND_SCHEMES ||
        (json_is_bool(json_get(node, "add_prefix_space"), false) && scheme != PREPEND_NEVER)) {
        return reject(
            f, "the prepend_scheme of Metaspace must be always, first or never, and never where "
               "add_prefix_space is false");
    }

    memcpy(m->replacement, replacement->text, replacement->length);
    m->length = replacement->length;
    m->prepend = (PrependScheme)scheme;
    m->split = !json_is_bool(json_get(node, "split"), false);
    return true;
}

// The pre-tokenizer of a Unigram model: none, or Metaspace.
static inline bool metaspace_pre_tokenizer_read(PreTokenizer *p, const Json *node,
                                                const FileErrors *f) {
    const Json *list = json_sequence_(node, "pretokenizers");
    node = list && list->length == 1 ? list->child : node;
    if (json_absent(node)) {
        return true;
    }
    if (!json_has_type(node, "Metaspace")) {
        return reject(f, "unsupported pre_tokenizer: a Unigram model must have Metaspace or null");
    }
    return metaspace_read_(&p->metaspace, node, f);
}

// The rule of a Split with one of the known expressions.
static inline bool split_read_(SplitRule *rule, const Json *node) {
    const char *expression = json_string(json_get(json_get(node, "pattern"), "Regex"));
    const char *behavior = json_string(json_get(node, "behavior"));
    bool invert = json_is_bool(json_get(node, "invert"), true);
    if (!expression || !behavior || strcmp(behavior, invert ? "Removed" : "Isolated")) {
        return false; // the expressions match everywhere, so the other way round is the same
    }
    return split_rule_find(expression, rule);
}

// The pre-tokenizer of a byte-level BPE: ByteLevel, alone or after a Split or Digits.
static inline bool byte_level_pre_tokenizer_read(PreTokenizer *p, const Json *node,
                                                 const FileErrors *f) {
    const Json *list = json_sequence_(node, "pretokenizers"), *before = NULL;
    if (list && list->length == 1) {
        node = list->child;
    } else if (list && list->length == 2) {
        before = list->child;
        node = before->next;
    }

    const Json *prefix = json_get(node, "add_prefix_space"), *regex = json_get(node, "use_regex");
    bool ok = json_has_type(node, "ByteLevel") && prefix && prefix->kind == JSON_BOOL &&
              (!regex || regex->kind == JSON_BOOL);
    bool splits = ok && !json_is_bool(regex, false);
    p->prefix_space = ok && prefix->boolean;
    if (before && json_has_type(before, "Digits") &&
        json_is_bool(json_get(before, "individual_digits"), true)) {
        p->split = SPLIT_GPT2_DIGITS;
        ok = ok && splits && !p->prefix_space;
    } else if (before) {
        ok = ok && json_has_type(before, "Split") && !splits && !p->prefix_space &&
             split_read_(&p->split, before);
    } else {
        ok = ok && splits;
    }
    return ok ||
           reject(f, "unsupported pre_tokenizer: must be ByteLevel with use_regex true, or "
                     "Digits with individual_digits before it, or a Split by the expression of "
                     "GPT-2, GPT-4 or Qwen 2 before it and use_regex false");
}

// ------------------------------------------------------------------------------------------------
// Decoder

static inline bool decoder_read_metaspace_(DecodeStep *step, const Json *node,
                                           const FileErrors *f) {
    Metaspace m = {0};
    if (!metaspace_read_(&m, node, f)) {
        return false;
    }
    *step = (DecodeStep){DECODE_METASPACE, .pattern_length = m.length,
                         .keeps_first = m.prepend == PREPEND_NEVER};
    memcpy(step->pattern, m.replacement, m.length);
    return true;
}

static inline bool decoder_read_strip_(DecodeStep *step, const Json *node, const FileErrors *f) {
    uint64_t start = 0, stop = 0;
    if (!step_text_(step->pattern, &step->pattern_length, json_get(node, "content"),
                    "the content of Strip", f)) {
        return false;
    }
    if (json_uint(json_get(node, "start"), &start) && json_uint(json_get(node, "stop"), &stop) &&
        step->pattern_length &&
        utf8_decode(step->pattern, step->pattern_length, NULL) == step->pattern_length &&
        (!step->fused || stop == 0)) {
        step->operation = DECODE_STRIP;
        step->start = (size_t)start, step->stop = (size_t)stop;
    }
    return true;
}

static inline bool decoder_read_replace_(DecodeStep *step, const Json *node, const FileErrors *f) {
    const char *expression;
    if (!replace_read_(node, step->pattern, &step->pattern_length, step->content,
                       &step->content_length, &expression, f)) {
        return false;
    }
    if (expression && !strcmp(expression, START_OF_TEXT_ " ") && step->content_length == 0) {
        *step = (DecodeStep){DECODE_STRIP, .pattern = " ", .pattern_length = 1, .start = 1,
                             .fused = step->fused};
    } else if (!expression && !step->fused) {
        step->operation = DECODE_REPLACE;
    }
    return true;
}

// Reads a step that follows others; its operation stays DECODE_UNSUPPORTED if it is not supported.
static inline bool decoder_read_step_(DecodeStep *step, const Json *node, bool after_bytes,
                                      const FileErrors *f) {
    if (json_has_type(node, "Fuse")) {
        step->operation = DECODE_FUSE;
    } else if (json_has_type(node, "ByteFallback") && !after_bytes && !step->fused) {
        step->operation = DECODE_BYTES;
    } else if (json_has_type(node, "Metaspace") && !step->fused) {
        return decoder_read_metaspace_(step, node, f);
    } else if (json_has_type(node, "Strip")) {
        return decoder_read_strip_(step, node, f);
    } else if (json_has_type(node, "Replace")) {
        return decoder_read_replace_(step, node, f);
    }
    return true;
}

static inline bool decoder_read(DecodeRules *rules, const Json *node, const FileErrors *f) {
    StepList_ list = {0};
    bool fused = false, bytes = false;
    if (!json_steps_(&list, node, "decoders", 0)) {
        return reject(f, "its decoder has more than %d steps", MAX_STEPS);
    }
    for (size_t i = 0; i < list.count; i++) {
        DecodeStep *step = &rules->steps[rules->count++];
        step->fused = fused;
        if (!decoder_read_step_(step, list.steps[i], bytes, f)) {
            return false;
        }
        if (step->operation == DECODE_UNSUPPORTED) {
            const char *type = json_string(json_get(list.steps[i], "type"));
            return reject(
                f,
                "unsupported decoder step %zu, %.40s: supported is a Sequence of "
                "ByteFallback, Metaspace, Strip, Replace (of a literal, of "
                "\"(?<!\\n)^ \") and Fuse, where after Fuse only the beginning is stripped",
                rules->count, type ? type : "without a type");
        }
        fused |= step->operation == DECODE_FUSE;
        bytes |= step->operation == DECODE_BYTES;
    }
    return true;
}

// ------------------------------------------------------------------------------------------------
// Post-processor

// A post-processor only adds special tokens, which no text here gets, or moves offsets.
static inline bool post_processor_is_known(const Json *post) {
    static const char *const known[] = {"ByteLevel", "TemplateProcessing", "RobertaProcessing",
                                        "BertProcessing", "Sequence"};
    bool found = json_absent(post);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        found |= json_has_type(post, known[i]);
    }
    return found;
}

// ------------------------------------------------------------------------------------------------
// Writers

// Begins a component of this type, which json_close ends.
static inline void json_open_component(JsonWriter *w, const char *key, const char *type) {
    json_open(w, key, '{');
    json_put_string(w, "type", type);
}

// A component that is its type alone.
static inline void json_put_component(JsonWriter *w, const char *type) {
    json_open_component(w, NULL, type);
    json_close(w, '}');
}

static inline void json_put_byte_level(JsonWriter *w, const char *key, bool prefix_space) {
    json_open_component(w, key, "ByteLevel");
    json_put_bool(w, "add_prefix_space", prefix_space);
    json_put_bool(w, "trim_offsets", true);
    json_put_bool(w, "use_regex", true);
    json_close(w, '}');
}

// `kind` of the pattern is "String" or "Regex".
static inline void json_put_replace(JsonWriter *w, const char *kind, const char *pattern,
                                    const char *content) {
    json_open_component(w, NULL, "Replace");
    json_open(w, "pattern", '{');
    json_put_string(w, kind, pattern);
    json_close(w, '}');
    json_put_string(w, "content", content);
    json_close(w, '}');
}

// Begins a tokenizer.json, up to the entries of "added_tokens".
static inline void json_open_tokenizer(JsonWriter *w) {
    json_open(w, NULL, '{');
    json_put_string(w, "version", "1.0");
    json_put_null(w, "truncation");
    json_put_null(w, "padding");
    json_open(w, "added_tokens", '[');
}

// The fields of an added token but for its id.
static inline void json_put_added_fields(JsonWriter *w, const AddedToken *a) {
    json_put_text(w, "content", a->text, a->length);
    json_put_bool(w, "single_word", a->single_word);
    json_put_bool(w, "lstrip", a->left_strip);
    json_put_bool(w, "rstrip", a->right_strip);
    json_put_bool(w, "normalized", a->normalized);
    json_put_bool(w, "special", a->special);
}

// An entry of "added_tokens".
static inline void json_put_added(JsonWriter *w, const AddedToken *a) {
    json_open(w, NULL, '{');
    json_put_uint(w, "id", (uint64_t)a->id);
    json_put_added_fields(w, a);
    json_close(w, '}');
}

#endif
