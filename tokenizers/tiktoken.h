// tiktoken.h: vocabularies of byte-level BPE as tiktoken has them: tokens in the order of their
// ranks, and no merges; two neighbours merge if they spell a token, the one of the lowest rank
// first. Read are
//
// - files with a line "TOKEN RANK" for each token, in base64: the tokenizer.model of Llama 3 and 4,
//   *.tiktoken of OpenAI and Qwen. Expression and special tokens are not in them: they are known
//   here for the files with these hashes;
// - tekken.json of Mistral, which has both.
//
// What is read is the same as what Hugging Face's converters write into a tokenizer.json: each way
// to put a token together from two others is a merge.
#ifndef TOKENIZERS_TIKTOKEN_H
#define TOKENIZERS_TIKTOKEN_H

#include "tokenizers/json_components.h"
#include "tokenizers/vocab_merges.h"
#include "util/sha256.h"

enum { TIKTOKEN_TOKEN_ = 512 }; // bytes of a token at most

// Special tokens that follow the others: `count` of them from number `first` on, or one.
typedef struct {
    const char *format; // with %d where there are several; NULL: ids that no token has
    int count, first;
} SpecialTokens_;

typedef struct {
    const char *name, *sha256, *expression;
    const char *begin, *end; // of a document
    bool nfc;                // text is normalized
    const SpecialTokens_ *special;
} TiktokenKind_;

#define CONTRACTIONS_ "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define REST_ "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define WORDS_(upper, lower, after)                                                                \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]" upper                             \
    "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]" lower after "|"

static const char GPT4_EXPRESSION_[] = CONTRACTIONS_
    "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" REST_;
static const char QWEN_EXPRESSION_[] =
    CONTRACTIONS_ "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" REST_;
static const char QWEN35_EXPRESSION_[] = CONTRACTIONS_
    "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" REST_;
static const char O200K_EXPRESSION_[] = WORDS_("*", "+", CONTRACTIONS_ "?")
    WORDS_("+", "*", CONTRACTIONS_ "?") "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" REST_;

static const SpecialTokens_ GPT2_SPECIAL_[] = {{END_OF_DOCUMENT_TEXT, 1, 0}, {0}};
static const SpecialTokens_ CL100K_SPECIAL_[] = {{NULL, 1, 0},
                                                 {"<|endoftext|>", 1, 0},
                                                 {"<|fim_prefix|>", 1, 0},
                                                 {"<|fim_middle|>", 1, 0},
                                                 {"<|fim_suffix|>", 1, 0},
                                                 {NULL, 15, 1},
                                                 {"<|endofprompt|>", 1, 0},
                                                 {0}};
static const SpecialTokens_ O200K_SPECIAL_[] = {
    {NULL, 1, 0}, {"<|endoftext|>", 1, 0}, {NULL, 18, 1}, {"<|endofprompt|>", 1, 0}, {0}};
static const SpecialTokens_ LLAMA3_SPECIAL_[] = {{"<|begin_of_text|>", 1, 0},
                                                 {"<|end_of_text|>", 1, 0},
                                                 {"<|reserved_special_token_%d|>", 2, 0},
                                                 {"<|finetune_right_pad_id|>", 1, 0},
                                                 {"<|step_id|>", 1, 0},
                                                 {"<|start_header_id|>", 1, 0},
                                                 {"<|end_header_id|>", 1, 0},
                                                 {"<|eom_id|>", 1, 0},
                                                 {"<|eot_id|>", 1, 0},
                                                 {"<|python_tag|>", 1, 0},
                                                 {"<|image|>", 1, 0},
                                                 {"<|reserved_special_token_%d|>", 244, 2},
                                                 {0}};
static const SpecialTokens_ LLAMA4_SPECIAL_[] = {
    {"<|begin_of_text|>", 1, 0},
    {"<|end_of_text|>", 1, 0},
    {"<|fim_prefix|>", 1, 0},
    {"<|fim_middle|>", 1, 0},
    {"<|fim_suffix|>", 1, 0},
    {"<|header_start|>", 1, 0},
    {"<|header_end|>", 1, 0},
    {"<|eom|>", 1, 0},
    {"<|eot|>", 1, 0},
    {"<|step|>", 1, 0},
    {"<|text_post_train_reserved_special_token_%d|>", 6, 0},
    {"<|python_start|>", 1, 0},
    {"<|python_end|>", 1, 0},
    {"<|finetune_right_pad|>", 1, 0},
    {"<|text_post_train_reserved_special_token_%d|>", 61, 8},
    {"<|image_start|>", 1, 0},
    {"<|image_end|>", 1, 0},
    {"<|vision_reserved_special_token_%d|>", 2, 0},
    {"<|tile_x_separator|>", 1, 0},
    {"<|tile_y_separator|>", 1, 0},
    {"<|vision_reserved_special_token_%d|>", 4, 2},
    {"<|image|>", 1, 0},
    {"<|vision_reserved_special_token_6|>", 1, 0},
    {"<|patch|>", 1, 0},
    {"<|vision_reserved_special_token_%d|>", 1041, 7},
    {"<|reasoning_reserved_special_token_%d|>", 8, 0},
    {"<|reasoning_thinking_start|>", 1, 0},
    {"<|reasoning_thinking_end|>", 1, 0},
    {"<|reserved_special_token_%d|>", 904, 0},
    {0}};
static const SpecialTokens_ QWEN_SPECIAL_[] = {{"<|endoftext|>", 1, 0},
                                               {"<|im_start|>", 1, 0},
                                               {"<|im_end|>", 1, 0},
                                               {"<|extra_%d|>", 205, 0},
                                               {0}};
static const SpecialTokens_ QWEN35_SPECIAL_[] = {{"<|endoftext|>", 1, 0},
                                                 {"<|im_start|>", 1, 0},
                                                 {"<|im_end|>", 1, 0},
                                                 {"<|object_ref_start|>", 1, 0},
                                                 {"<|object_ref_end|>", 1, 0},
                                                 {"<|box_start|>", 1, 0},
                                                 {"<|box_end|>", 1, 0},
                                                 {"<|quad_start|>", 1, 0},
                                                 {"<|quad_end|>", 1, 0},
                                                 {"<|vision_start|>", 1, 0},
                                                 {"<|vision_end|>", 1, 0},
                                                 {"<|vision_pad|>", 1, 0},
                                                 {"<|image_pad|>", 1, 0},
                                                 {"<|video_pad|>", 1, 0},
                                                 {"<tool_call>", 1, 0},
                                                 {"</tool_call>", 1, 0},
                                                 {"<|fim_prefix|>", 1, 0},
                                                 {"<|fim_middle|>", 1, 0},
                                                 {"<|fim_suffix|>", 1, 0},
                                                 {"<|fim_pad|>", 1, 0},
                                                 {"<|repo_name|>", 1, 0},
                                                 {"<|file_sep|>", 1, 0},
                                                 {"<tool_response>", 1, 0},
                                                 {"</tool_response>", 1, 0},
                                                 {"<think>", 1, 0},
                                                 {"</think>", 1, 0},
                                                 {"<|audio_start|>", 1, 0},
                                                 {"<|audio_end|>", 1, 0},
                                                 {"<tts_pad>", 1, 0},
                                                 {"<tts_text_bos>", 1, 0},
                                                 {"<tts_text_eod>", 1, 0},
                                                 {"<tts_text_bos_single>", 1, 0},
                                                 {"<|audio_pad|>", 1, 0},
                                                 {0}};

static const TiktokenKind_ TIKTOKEN_KINDS_[] = {
    {"r50k (GPT-2)", "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
     GPT2_EXPRESSION, NULL, END_OF_DOCUMENT_TEXT, false, GPT2_SPECIAL_},
    {"cl100k (GPT-4)", "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
     GPT4_EXPRESSION_, NULL, END_OF_DOCUMENT_TEXT, false, CL100K_SPECIAL_},
    {"o200k (GPT-4o)", "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
     O200K_EXPRESSION_, NULL, END_OF_DOCUMENT_TEXT, false, O200K_SPECIAL_},
    {"Llama 3", "82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55",
     GPT4_EXPRESSION_, "<|begin_of_text|>", "<|end_of_text|>", false, LLAMA3_SPECIAL_},
    {"Llama 4", "d0bdbaf59b0762c8c807617e2d8ea51420eb1b1de266df2495be755c8e0ed6ed",
     O200K_EXPRESSION_, "<|begin_of_text|>", "<|end_of_text|>", false, LLAMA4_SPECIAL_},
    {"Qwen", "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186", QWEN_EXPRESSION_,
     NULL, END_OF_DOCUMENT_TEXT, true, QWEN_SPECIAL_},
    {"Qwen 3.5", "8dde380a6405e935f5de16a99eb61c824f3f814dd1ed298784c72babb7a03cdd",
     QWEN35_EXPRESSION_, NULL, END_OF_DOCUMENT_TEXT, true, QWEN35_SPECIAL_},
};

// ------------------------------------------------------------------------------------------------
// Tokens

// Decodes base64 with padding into `out` (3 bytes for each 4). Returns the length, SIZE_MAX if it
// is none.
static inline size_t base64_decode_(const char *text, size_t length, char *out) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t n = 0, padding = 0;
    uint32_t bits = 0;
    if (length == 0 || length % 4) {
        return SIZE_MAX;
    }
    for (size_t i = 0; i < length; i++) {
        const char *digit = text[i] ? strchr(digits, text[i]) : NULL;
        const bool pads = text[i] == '=' && i + 2 >= length;
        if ((!digit && !pads) || (digit && padding)) {
            return SIZE_MAX;
        }
        padding += pads;
        bits = bits << 6 | (uint32_t)(digit ? digit - digits : 0);
        if (i % 4 == 3) {
            out[n++] = (char)(bits >> 16);
            out[n++] = (char)(bits >> 8);
            out[n++] = (char)bits;
        }
    }
    return n - padding;
}

static inline bool tiktoken_add_(Tokenizer *t, FileText base64, size_t rank, const FileErrors *f) {
    char bytes[TIKTOKEN_TOKEN_ + 3];
    const size_t n = base64.length > TIKTOKEN_TOKEN_ / 3 * 4
                         ? SIZE_MAX
                         : base64_decode_(base64.text, base64.length, bytes);
    if (n == SIZE_MAX || n == 0) {
        return reject(f, "token %zu must be 1 to %d bytes in base64", rank, TIKTOKEN_TOKEN_);
    }
    return (t->vocabulary.count < TOKENIZER_MAX_VOCAB / 2 ||
            reject(f, "more than %d tokens", TOKENIZER_MAX_VOCAB / 2)) &&
           vocabulary_add(&t->vocabulary, bytes, n, false, f->error);
}

static inline bool special_add_(Tokenizer *t, const char *name, const FileErrors *f) {
    AddedToken added = {.text = (char *)name,
                        .length = strlen(name),
                        .id = (int32_t)t->vocabulary.count,
                        .special = true};
    return byte_token_read(t, file_text(name), f->error) && tokenizer_add_added(t, added, f->error);
}

static inline bool tiktoken_add_special_(Tokenizer *t, const SpecialTokens_ *special,
                                         const FileErrors *f) {
    for (; special->count; special++) {
        for (int i = 0; i < special->count; i++) {
            char name[80];
            // No text becomes these: they hold no pre-token.
            snprintf(name, sizeof name, special->format ? special->format : "<|no token %d|>",
                     special->first + i);
            if (!(special->format
                      ? special_add_(t, name, f)
                      : vocabulary_add(&t->vocabulary, name, strlen(name), true, f->error))) {
                return false;
            }
        }
    }
    return true;
}

// ------------------------------------------------------------------------------------------------
// Merges

static inline int tiktoken_compare_(const void *first, const void *second) {
    const Merge *a = first, *b = second;
    return a->left != b->left ? order_u64((uint64_t)a->left, (uint64_t)b->left)
                              : order_u64((uint64_t)a->right, (uint64_t)b->right);
}

// Adds all ways to put a token together.
static inline bool tiktoken_add_merges_(Tokenizer *t, const Spellings *s, size_t id, size_t first,
                                        size_t end, const FileErrors *f) {
    const Token *token = &t->vocabulary.tokens[id];
    const char *text = t->vocabulary.bytes + token->offset;
    Merge merges[TIKTOKEN_TOKEN_];
    size_t count = 0;
    for (size_t k = 1; k < token->length; k++) {
        const Merge merge = {spellings_find(s, (FileText){text, k}),
                             spellings_find(s, (FileText){text + k, token->length - k}),
                             (int32_t)id};
        if (merge.left >= (int32_t)first && merge.left < (int32_t)end &&
            merge.right >= (int32_t)first && merge.right < (int32_t)end) {
            merges[count++] = merge;
        }
    }
    qsort(merges, count, sizeof *merges, tiktoken_compare_);
    for (size_t k = 0; k < count; k++) {
        if (t->merges.count == TOKENIZER_MAX_MERGES) {
            return reject(f, "more than %d merges", TOKENIZER_MAX_MERGES);
        }
        if (!merges_add(&t->merges, merges[k], f->error)) {
            return false;
        }
    }
    return true;
}

// When all tokens are there, of which those with ids first .. end - 1 merge: files the spellings of
// all, makes the merges, and the expression the one to split by.
static inline bool tiktoken_finish_(Tokenizer *t, Spellings *s, size_t first, size_t end,
                                    const char *expression, const FileErrors *f) {
    const Vocabulary *v = &t->vocabulary;
    uint64_t work = 0;
    if (!spellings_reserve(s, v->count, 0, f)) {
        return false;
    }
    for (size_t id = 0; id < v->count; id++) {
        const FileText text = {v->bytes + v->tokens[id].offset, v->tokens[id].length};
        if (spellings_find(s, text) >= 0) {
            return reject(f, "token %zu is there twice", id);
        }
        if (!spellings_add(s, text, id, f->error)) {
            return false;
        }
        work += id < end ? (uint64_t)text.length * text.length : 0;
    }
    if (work > (uint64_t)1 << 32) {
        return reject(f, "its tokens are too long");
    }
    for (size_t id = first; id < end; id++) {
        if (!tiktoken_add_merges_(t, s, id, first, end, f)) {
            return false;
        }
    }

    PreTokenizer *p = &t->pre_tokenizer;
    p->is_gpt2 = false;
    p->expression = strdup(expression);
    t->merges.ignore_merges = true; // a pre-token that is a token becomes it
    return (p->expression || reject(f, "no memory for a pattern")) &&
           splitter_add(&p->splitter, expression, strlen(expression), SPLIT_ISOLATED, false, f) &&
           tokenizer_index(t, f);
}

// ------------------------------------------------------------------------------------------------
// Lines of tokens

// Whether a file may be one: its first line is base64, a space and 0.
static inline bool is_tiktoken(const char *text, size_t length) {
    const char *space = memchr(text, ' ', length < 1000 ? length : 1000);
    return space && space > text && isgraph((unsigned char)*text) && text + length - space >= 3 &&
           space[1] == '0' && (space[2] == '\n' || space[2] == '\r');
}

static inline bool tiktoken_read_lines_(Tokenizer *t, FileText file, const FileErrors *f) {
    size_t rank = 0;
    for (const char *at = file.text, *end = at + file.length; at < end; rank++) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        const char *stop = newline ? newline : end, *space = memchr(at, ' ', (size_t)(stop - at));
        char number[24];
        const size_t digits = (size_t)snprintf(number, sizeof number, "%zu", rank);
        if (!space || (size_t)(stop - space) < 1 + digits || memcmp(space + 1, number, digits) ||
            (size_t)(stop - space) - 1 - digits > (size_t)(stop[-1] == '\r')) {
            return reject(f, "line %zu must be a token in base64, a space and %zu", rank + 1, rank);
        }
        if (!tiktoken_add_(t, (FileText){at, (size_t)(space - at)}, rank, f)) {
            return false;
        }
        at = stop + (newline != NULL);
    }
    return true;
}

// Reads a file of ranks, which must be a known one. *end is its end-of-document token.
static inline bool tiktoken_read(Tokenizer *t, Spellings *s, FileText file, FileText *end,
                                 const FileErrors *f) {
    const TiktokenKind_ *kind = NULL;
    char hash[SHA256_HEX];
    Sha256 sha;
    sha256_begin(&sha);
    sha256_add(&sha, file.text, file.length);
    sha256_end(&sha, hash);
    for (size_t i = 0; i < sizeof TIKTOKEN_KINDS_ / sizeof *TIKTOKEN_KINDS_; i++) {
        kind = strcmp(TIKTOKEN_KINDS_[i].sha256, hash) ? kind : &TIKTOKEN_KINDS_[i];
    }
    if (!kind) {
        return reject(f, "has the ranks of tokens, but neither the pattern to split by nor the "
                         "special tokens, and it is none of the files for which these are known "
                         "(GPT-2, GPT-4, GPT-4o, Llama 3 and 4, Qwen): use its tokenizer.json");
    }
    if (!tiktoken_read_lines_(t, file, f)) {
        return false;
    }
    const size_t count = t->vocabulary.count;
    if (kind->nfc) {
        t->normalizer.steps[t->normalizer.count++] =
            (NormalizeStep){.operation = NORMALIZE_FORM, .form = FORM_NFC};
        t->normalizer.has_forms = true;
    }
    if ((kind->nfc && !normal_forms_init(&t->normalizer.forms, f->error)) ||
        !tiktoken_add_special_(t, kind->special, f) ||
        !tiktoken_finish_(t, s, 0, count, kind->expression, f)) {
        return false;
    }
    t->begin = kind->begin ? spellings_find(s, file_text(kind->begin)) : -1;
    *end = file_text(kind->end);
    return true;
}

// ------------------------------------------------------------------------------------------------
// tekken.json

static inline bool is_tekken(const Json *root) {
    const Json *config = json_get(root, "config");
    return json_string(json_get(config, "pattern")) && json_get(root, "vocab") &&
           json_get(config, "default_vocab_size");
}

// The special tokens: those that the file names, or the first of Mistral's, and fillers up to
// `count`.
static inline bool tekken_add_special_(Tokenizer *t, const Json *list, size_t count,
                                       const FileErrors *f) {
    static const char *const usual[] = {"<unk>",
                                        "<s>",
                                        "</s>",
                                        "[INST]",
                                        "[/INST]",
                                        "[AVAILABLE_TOOLS]",
                                        "[/AVAILABLE_TOOLS]",
                                        "[TOOL_RESULTS]",
                                        "[/TOOL_RESULTS]",
                                        "[TOOL_CALLS]",
                                        "[IMG]",
                                        "<pad>",
                                        "[IMG_BREAK]",
                                        "[IMG_END]",
                                        "[PREFIX]",
                                        "[MIDDLE]",
                                        "[SUFFIX]",
                                        "[SYSTEM_PROMPT]",
                                        "[/SYSTEM_PROMPT]",
                                        "[TOOL_CONTENT]"};
    const Json *entry = json_absent(list) ? NULL : list->child;
    for (size_t i = 0; i < count; i++) {
        char filler[40];
        snprintf(filler, sizeof filler, "<SPECIAL_%zu>", i);
        const char *name = filler;
        if (entry) {
            uint64_t rank;
            name = json_string(json_get(entry, "token_str"));
            if (!name || !*name || !json_uint(json_get(entry, "rank"), &rank) || rank != i) {
                return reject(f, "special token %zu must have token_str and rank %zu", i, i);
            }
            entry = entry->next;
        } else if (json_absent(list) && i < sizeof usual / sizeof *usual) {
            name = usual[i];
        }
        if (!special_add_(t, name, f)) {
            return false;
        }
    }
    return !entry || reject(f, "it has more special tokens than config.default_num_special_tokens");
}

// Reads a parsed tekken.json. *end is its end-of-document token.
static inline bool tekken_read(Tokenizer *t, Spellings *s, const Json *root, FileText *end,
                               const FileErrors *f) {
    const Json *config = json_get(root, "config"), *vocab = json_get(root, "vocab");
    const Json *list = json_get(root, "special_tokens");
    uint64_t size, special;
    if (vocab->kind != JSON_ARRAY || (!json_absent(list) && list->kind != JSON_ARRAY) ||
        !json_uint(json_get(config, "default_vocab_size"), &size) ||
        !json_uint(json_get(config, "default_num_special_tokens"), &special) || special >= size ||
        size - special > vocab->length || special > 1 << 16) {
        return reject(f, "not a tekken.json: config.default_vocab_size must count "
                         "config.default_num_special_tokens and tokens of vocab");
    }
    if (!tekken_add_special_(t, list, (size_t)special, f)) {
        return false;
    }
    size_t rank = 0;
    for (const Json *entry = vocab->child; entry && rank < size - special;
         entry = entry->next, rank++) {
        const Json *bytes = json_get(entry, "token_bytes");
        uint64_t number;
        if (!json_string(bytes) || !json_uint(json_get(entry, "rank"), &number) || number != rank) {
            return reject(f, "token %zu must have token_bytes and rank %zu", rank, rank);
        }
        if (!tiktoken_add_(t, json_file_text(bytes), rank, f)) {
            return false;
        }
    }
    if (!tiktoken_finish_(t, s, (size_t)special, (size_t)size,
                          json_string(json_get(config, "pattern")), f)) {
        return false;
    }
    t->begin = spellings_find(s, file_text("<s>"));
    t->pad = spellings_find(s, file_text("<pad>"));
    *end = file_text("</s>");
    return true;
}

#endif
