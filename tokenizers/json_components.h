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
} StepList;

// Lists the steps of a component in which Sequences, with their steps under `key`, may lie within
// Sequences; `depth` is 0 outside. False if they are too many.
static inline bool json_steps(StepList *list, const Json *node, const char *key, int depth) {
    const Json *sequence = depth < SEQUENCE_DEPTH_ ? json_sequence_(node, key) : NULL;
    if (sequence) {
        for (const Json *child = sequence->child; child; child = child->next) {
            if (!json_steps(list, child, key, depth + 1)) {
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
    static const char *const form_names[FORMS] = {"NFC", "NFD", "NFKC", "NFKD"};
    if (json_has_type(node, "Prepend")) {
        step->operation = NORMALIZE_PREPEND;
        return step_text_(step->content, &step->content_length, json_get(node, "prepend"),
                          "the text of Prepend", f);
    }
    if (json_has_type(node, "Strip")) {
        return normalizer_read_strip_(step, node, f);
    }
    for (int form = 0; form < FORMS; form++) {
        if (json_has_type(node, form_names[form])) {
            *step = (NormalizeStep){NORMALIZE_FORM, .form = (NormalForm)form};
            return true;
        }
    }
    if (json_has_type(node, "Lowercase")) {
        step->operation = NORMALIZE_LOWERCASE;
        return true;
    }
    return !json_has_type(node, "Replace") || normalizer_read_replace_(step, node, f);
}

static inline bool normalizer_read(Normalizer *normalizer, const Json *node, const FileErrors *f) {
    StepList list = {0};
    if (!json_steps(&list, node, "normalizers", 0)) {
        return reject(f, "its normalizer has more than %d steps", MAX_STEPS);
    }
    for (size_t i = 0; i < list.count; i++) {
        NormalizeStep *step = &normalizer->steps[normalizer->count++];
        if (!normalizer_read_step_(step, list.steps[i], f)) {
            return false;
        }
        const bool forms =
            step->operation == NORMALIZE_FORM || step->operation == NORMALIZE_LOWERCASE;
        if (forms && !normalizer->has_forms) {
            normalizer->has_forms = true;
            if (!normal_forms_init(&normalizer->forms, f->error)) {
                return false;
            }
        }
        if (step->operation == NORMALIZE_UNSUPPORTED) {
            const char *type = json_string(json_get(list.steps[i], "type"));
            const char *regex = json_string(json_get(json_get(list.steps[i], "pattern"), "Regex"));
            return reject(f,
                          "unsupported normalizer %.40s%s%.60s: supported are Sequence, "
                          "NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Strip and "
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

// The pre-tokenizer of a model over pieces: none, or Metaspace.
static inline bool metaspace_pre_tokenizer_read(PreTokenizer *p, const Json *node,
                                                const FileErrors *f) {
    const Json *list = json_sequence_(node, "pretokenizers");
    node = list && list->length == 1 ? list->child : node;
    if (json_absent(node)) {
        return true;
    }
    if (!json_has_type(node, "Metaspace")) {
        return reject(f, "unsupported pre_tokenizer: a model over pieces must have Metaspace or "
                         "null, a byte-level BPE ByteLevel");
    }
    return metaspace_read_(&p->metaspace, node, f);
}

// The behavior of a step, `otherwise` if it names none; false if it is SPLIT_BEHAVIORS or not
// known.
static inline bool split_behavior_(const Json *node, SplitBehavior otherwise, SplitBehavior *out) {
    static const char *const names[SPLIT_BEHAVIORS] = {"Isolated", "Removed", "MergedWithPrevious",
                                                       "MergedWithNext", "Contiguous"};
    const char *name = json_string(json_get(node, "behavior"));
    int k = name ? 0 : (int)otherwise;
    while (name && k < SPLIT_BEHAVIORS && strcmp(name, names[k])) {
        k++;
    }
    *out = (SplitBehavior)k;
    return k < SPLIT_BEHAVIORS;
}

// An expression that matches just this text; the caller frees it. NULL if there is no memory.
static inline char *quoted_expression_(const Json *literal) {
    char *out = malloc(2 * literal->length + 1);
    size_t n = 0;
    for (size_t i = 0; out && i < literal->length; i++) {
        if (ispunct((unsigned char)literal->text[i])) {
            out[n++] = '\\';
        }
        out[n++] = literal->text[i];
    }
    if (out) {
        out[n] = 0;
    }
    return out;
}

// Split {"pattern": {"Regex": r} or {"String": s}, "behavior": b, "invert": bool}.
static inline bool split_read_(Splitter *s, const Json *node, const FileErrors *f) {
    const Json *regex = json_get(json_get(node, "pattern"), "Regex");
    const Json *literal = json_get(json_get(node, "pattern"), "String");
    const bool invert = json_is_bool(json_get(node, "invert"), true);
    SplitBehavior behavior;
    if (!split_behavior_(node, SPLIT_BEHAVIORS, &behavior)) {
        return reject(f, "the behavior of Split must be Isolated, Removed, MergedWithPrevious, "
                         "MergedWithNext or Contiguous");
    }
    if (json_string(regex)) {
        return splitter_add(s, regex->text, regex->length, behavior, invert, f);
    }
    if (!json_string(literal) || literal->length == 0) {
        return reject(f, "the pattern of Split must be a Regex or a String that is not empty");
    }
    char *quoted = quoted_expression_(literal);
    bool ok = quoted ? splitter_add(s, quoted, strlen(quoted), behavior, invert, f)
                     : reject(f, "no memory for a pattern");
    free(quoted);
    return ok;
}

// Adds a step that is not ByteLevel or Metaspace.
static inline bool split_step_read_(Splitter *s, const Json *node, const FileErrors *f) {
    static const char digits[] = "\\p{Tokenizers_Digits}",
                      punctuation[] = "\\p{Tokenizers_Punctuation}", space[] = "\\s";
    const Json *single = json_get(node, "individual_digits");
    SplitBehavior behavior;
    if (json_has_type(node, "Split")) {
        return split_read_(s, node, f);
    }
    if (json_has_type(node, "Digits") && (!single || single->kind == JSON_BOOL)) {
        behavior = json_is_bool(single, true) ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS;
        return splitter_add(s, digits, strlen(digits), behavior, false, f);
    }
    if (json_has_type(node, "Punctuation") && split_behavior_(node, SPLIT_ISOLATED, &behavior)) {
        return splitter_add(s, punctuation, strlen(punctuation), behavior, false, f);
    }
    if (json_has_type(node, "WhitespaceSplit")) {
        return splitter_add(s, space, strlen(space), SPLIT_REMOVED, false, f);
    }
    const char *type = json_string(json_get(node, "type"));
    return reject(f,
                  "unsupported pre_tokenizer %.40s: a byte-level BPE may have Split, Digits, "
                  "Punctuation and WhitespaceSplit before ByteLevel",
                  type ? type : "without a type");
}

// The pre-tokenizer of a byte-level BPE: ByteLevel, alone or after other steps.
static inline bool byte_level_pre_tokenizer_read(PreTokenizer *p, const Json *node,
                                                 const FileErrors *f) {
    StepList list = {0};
    if (json_absent(node) || !json_steps(&list, node, "pretokenizers", 0) || list.count == 0 ||
        !json_has_type(list.steps[list.count - 1], "ByteLevel")) {
        return reject(f,
                      "unsupported pre_tokenizer: must be ByteLevel, or a Sequence of at most %d "
                      "steps that ends with ByteLevel",
                      MAX_STEPS);
    }
    for (size_t i = 0; i + 1 < list.count; i++) {
        if (!split_step_read_(&p->splitter, list.steps[i], f)) {
            return false;
        }
    }

    const Json *last = list.steps[list.count - 1];
    const Json *prefix = json_get(last, "add_prefix_space"), *regex = json_get(last, "use_regex");
    if (!prefix || prefix->kind != JSON_BOOL || (regex && regex->kind != JSON_BOOL)) {
        return reject(f, "ByteLevel must have add_prefix_space and use_regex, true or false");
    }
    if (prefix->boolean && list.count > 1) {
        return reject(f, "unsupported pre_tokenizer: add_prefix_space of ByteLevel must be false "
                         "after other steps");
    }
    const bool splits = !json_is_bool(regex, false);
    p->prefix_space = prefix->boolean;
    p->is_gpt2 = splits && list.count == 1;
    return !splits || splitter_add_gpt2(&p->splitter, f);
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
    StepList list = {0};
    bool fused = false, bytes = false;
    if (!json_steps(&list, node, "decoders", 0)) {
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

static inline void json_put_byte_level(JsonWriter *w, const char *key, bool prefix_space,
                                       bool splits) {
    json_open_component(w, key, "ByteLevel");
    json_put_bool(w, "add_prefix_space", prefix_space);
    json_put_bool(w, "trim_offsets", true);
    json_put_bool(w, "use_regex", splits);
    json_close(w, '}');
}

// The pre-tokenizer that splits by an expression.
static inline void json_put_split(JsonWriter *w, const char *expression) {
    json_open_component(w, "pre_tokenizer", "Sequence");
    json_open(w, "pretokenizers", '[');
    json_open_component(w, NULL, "Split");
    json_open(w, "pattern", '{');
    json_put_string(w, "Regex", expression);
    json_close(w, '}');
    json_put_string(w, "behavior", "Isolated");
    json_put_bool(w, "invert", false);
    json_close(w, '}');
    json_put_byte_level(w, NULL, false, false);
    json_close(w, ']');
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
