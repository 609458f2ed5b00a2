// tokenizer.h: text to ids and back, with tokenizers of four families:
//
// - byte-level BPE (tokenizer.json, vocab.json with merges.txt, files of ranks, tekken.json):
//   text is cut into pre-tokens by regular expressions (tokenizers/splitter.h); inside a
//   pre-token, bytes are merged by priority (tokenizers/bpe.h);
// - BPE over characters (tokenizer.json of Llama 2's kind): the same with characters instead of
//   bytes (tokenizers/merge_bpe.h);
// - Unigram (tokenizer.json of llm-jp's, Llama's or Metaspace kind, and .model): the pieces whose
//   scores add up highest, with byte fallback (tokenizers/unigram.h);
// - BPE and characters of SentencePiece (.model): neighbours that spell a piece merge, highest
//   score first (tokenizers/piece_bpe.h).
//
// The ids are those of the library that owns the file: Hugging Face `tokenizers` for
// tokenizer.json, sentencepiece for .model. They differ in how they sum scores, in normalization
// and in what control pieces match: see tokenizer_save.
//
//     Tokenizer t;                  Encoder encoder;   // one per thread
//     tokenizer_load(&t, dir, &e);  encoder_init(&encoder, &t, &e);
//     tokenizer_save(&t, dir, &e);  encoder_encode(&encoder, text, n, &ids, &e);
//     tokenizer_free(&t);           encoder_free(&encoder);
//
// A text larger than memory is encoded in chunks: tokenizer_safe_cut (tokenizers/cut.h) says where
// to cut, encoder_encode_chunk (tokenizers/encode.h) encodes them. decoder_init, decoder_add and
// decoder_end (tokenizers/decode.h) turn ids into text one by one. What a Tokenizer consists of is
// in tokenizers/model.h; tokenizers/train.h makes new ones.
#ifndef TOKENIZER_H
#define TOKENIZER_H

#include "tokenizers/cut.h"
#include "tokenizers/decode.h"
#include "tokenizers/encode.h"
#include "tokenizers/folder.h"
#include "tokenizers/sentencepiece_json.h"
#include "tokenizers/sentencepiece_model.h"
#include "tokenizers/tiktoken.h"
#include "tokenizers/tokenizer_config.h"
#include "tokenizers/tokenizer_json.h"
#include "tokenizers/vocab_merges.h"
#include "util/files.h"

// ------------------------------------------------------------------------------------------------
// Encode

// Appends the ids of a complete text.
static inline bool encoder_encode(Encoder *encoder, const char *text, size_t length,
                                  TokenBuffer *out, Error *e) {
    return encoder_encode_chunk(encoder, text, length, TEXT_COMPLETE, out, e);
}

// The same with an encoder made for this one text.
static inline bool tokenizer_encode(const Tokenizer *t, const char *text, size_t length,
                                    TokenBuffer *out, Error *e) {
    Encoder encoder;
    bool ok = encoder_init(&encoder, t, e) && encoder_encode(&encoder, text, length, out, e);
    encoder_free(&encoder);
    return ok;
}

// ------------------------------------------------------------------------------------------------
// Load

static const size_t TOKENIZER_MAX_FILE_ = (size_t)1 << 28; // bytes of a tokenizer.json or .model

// What is being loaded, all of which ends with the call.
typedef struct Loading_ {
    JsonDocument document, config;
    Spellings spellings;
    char directory[PATH_LIMIT], path[PATH_LIMIT];             // of the files; the one that is read
    bool (*load)(Tokenizer *t, struct Loading_ *l, Error *e); // reads it
    FileText end; // of a document; text NULL: not known yet
} Loading_;

// tokenizer_config.json, if there is one.
static inline bool config_read_(Loading_ *l, Error *e) {
    char path[PATH_LIMIT];
    return path_format(path, e, "%s/tokenizer_config.json", l->directory) &&
           (access(path, F_OK) || json_parse_file(&l->config, path, TOKENIZER_MAX_FILE_, e)) &&
           tokenizer_config_token(l->config.root, l->directory, "eos_token", &l->end, e);
}

// The only *.model file of a directory, in l->path; *count is how many there are.
static inline bool find_model_(Loading_ *l, size_t *count, Error *e) {
    struct dirent **names = NULL;
    int n = list_folder(l->directory, &names);
    bool ok = n >= 0 || fail(e, "%s: cannot be read: %s", l->directory, strerror(errno));
    *count = 0;
    for (int i = 0; ok && i < n; i++) {
        const char *name = names[i]->d_name;
        size_t length = strlen(name);
        if (length > 6 && !strcmp(name + length - 6, ".model") && ++*count == 1) {
            ok = path_format(l->path, e, "%s/%s", l->directory, name);
        }
    }
    free_names(names, n);
    return ok;
}

// Lets tokenizer_save write the files instead of a copy of the one that was read.
static inline void forget_source_(Tokenizer *t) {
    free(t->source);
    t->source = NULL;
}

static inline bool load_json_(Tokenizer *t, Loading_ *l, Error *e) {
    const FileErrors f = {l->path, e};
    FileText end = {0};
    t->source = read_file(l->path, TOKENIZER_MAX_FILE_, &t->source_length, e);
    if (!t->source || !json_parse(&l->document, t->source, t->source_length, l->path, e)) {
        return false;
    }
    if (is_tekken(l->document.root)) {
        bool ok = tekken_read(t, &l->spellings, l->document.root, &end, &f);
        forget_source_(t);
        l->end = l->end.text ? l->end : end;
        return ok;
    }
    if (!tokenizer_json_read(t, &l->spellings, l->document.root, &f)) {
        return false;
    }
    // tokenizer_save can write all of GPT-2's kind.
    if (t->model == MODEL_BYTE_BPE && t->pre_tokenizer.is_gpt2) {
        forget_source_(t);
    }
    return true;
}

static inline bool load_pair_(Tokenizer *t, Loading_ *l, Error *e) {
    char merges_path[PATH_LIMIT], *merges = NULL;
    size_t length;
    l->end = l->end.text ? l->end : file_text(END_OF_DOCUMENT_TEXT);
    t->pre_tokenizer.prefix_space =
        json_is_bool(json_get(l->config.root, "add_prefix_space"), true);
    bool ok = path_format(merges_path, e, "%s/merges.txt", l->directory) &&
              json_parse_file(&l->document, l->path, TOKENIZER_MAX_FILE_, e) &&
              (merges = read_file(merges_path, TOKENIZER_MAX_FILE_, &length, e)) &&
              vocab_merges_read(t, &l->spellings, l->document.root, (FileText){merges, length},
                                l->end, &(FileErrors){l->path, e}, &(FileErrors){merges_path, e});
    free(merges);
    return ok;
}

static inline bool load_model_(Tokenizer *t, Loading_ *l, Error *e) {
    const FileErrors f = {l->path, e};
    FileText end = {0};
    t->source = read_file(l->path, TOKENIZER_MAX_FILE_, &t->source_length, e);
    if (!t->source) {
        return false;
    }
    const FileText file = {t->source, t->source_length};
    const bool ranks = is_tiktoken(file.text, file.length);
    bool ok = ranks ? tiktoken_read(t, &l->spellings, file, &end, &f)
                    : sentencepiece_read(t, &l->spellings, &end, &f);
    if (ranks) {
        forget_source_(t);
    }
    l->end = l->end.text ? l->end : end;
    return ok;
}

// Chooses the file to read in a directory: tokenizer.model, else tokenizer.json, else
// tekken.json, else vocab.json with merges.txt, else the one *.model.
static inline bool choose_in_directory_(Loading_ *l, Error *e) {
    static const struct {
        const char *name;
        bool (*load)(Tokenizer *t, Loading_ *l, Error *e);
    } files[] = {{"tokenizer.model", load_model_},
                 {"tokenizer.json", load_json_},
                 {"tekken.json", load_json_},
                 {"vocab.json", load_pair_}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        if (!path_format(l->path, e, "%s/%s", l->directory, files[i].name)) {
            return false;
        }
        l->load = files[i].load;
        if (!access(l->path, F_OK)) {
            return true;
        }
    }

    size_t models;
    l->load = load_model_;
    return find_model_(l, &models, e) &&
           (models == 1 || fail(e,
                                "%s: no tokenizer: has neither tokenizer.model, tokenizer.json nor "
                                "vocab.json with merges.txt, and %s",
                                l->directory, models ? "more than one *.model" : "no *.model"));
}

// Chooses the file to read, l->path, and where those beside it are, l->directory.
static inline bool choose_file_(Loading_ *l, const char *path, Error *e) {
    struct stat status;
    if (!path_format(l->directory, e, "%s", path)) {
        return false;
    }
    if (stat(path, &status) || S_ISDIR(status.st_mode)) {
        return choose_in_directory_(l, e);
    }

    char *slash = strrchr(l->directory, '/');
    strcpy(slash ? slash : l->directory, slash ? "" : ".");
    size_t n = strlen(path);
    l->load = n >= 5 && !strcmp(path + n - 5, ".json") ? load_json_ : load_model_;
    return path_format(l->path, e, "%s", path);
}

// The ids of the roles: of end_of_document from eos_token, else the model's end piece, else
// END_OF_DOCUMENT_TEXT.
static inline bool load_roles_(Tokenizer *t, const Loading_ *l, const char *path, Error *e) {
    const struct {
        const char *role;
        int32_t *id;
    } roles[] = {
        {"bos_token", &t->begin}, {"unk_token", &t->pieces.unknown}, {"pad_token", &t->pad}};
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        FileText text;
        if (!tokenizer_config_token(l->config.root, l->directory, roles[i].role, &text, e)) {
            return false;
        }
        if (text.text && *roles[i].id < 0) {
            *roles[i].id = spellings_find(&l->spellings, text);
        }
    }

    t->end_of_document =
        spellings_find(&l->spellings, l->end.text ? l->end : file_text(END_OF_DOCUMENT_TEXT));
    return t->end_of_document >= 0 ||
           fail(e,
                "%s: the end-of-document token (eos_token of tokenizer_config.json, else %s) is "
                "not in the vocabulary",
                path, t->pieces.sentencepiece ? "the model's eos_piece" : END_OF_DOCUMENT_TEXT);
}

// Reads a tokenizer from a directory or a file:
//
//   *.model                    SentencePiece: Unigram, BPE or characters; ids as the
//                              sentencepiece library gives them, sums of scores in single
//                              precision (release 0.2.3)
//   tokenizer.json             BPE over bytes or characters, or Unigram; ids as Hugging Face
//                              `tokenizers` gives them, sums of scores in double precision
//   vocab.json and merges.txt  byte-level BPE
//   *.model, *.tiktoken        ranks of tokens of a known vocabulary (tokenizers/tiktoken.h), ids
//                              as tiktoken gives them with all special tokens allowed
//   tekken.json                of Mistral
//
// A directory may hold several of them: tokenizer.model comes first. The end-of-document token is
// eos_token of tokenizer_config.json beside it, else the model's eos_piece, else <|endoftext|>. The
// files are not trusted: what cannot be used, or would give other ids than the owning library, is
// rejected with one line.
static inline bool tokenizer_load(Tokenizer *t, const char *path, Error *e) {
    Loading_ l = {0};
    tokenizer_init(t);
    bool ok = choose_file_(&l, path, e) && config_read_(&l, e) && l.load(t, &l, e) &&
              load_roles_(t, &l, path, e);
    json_free(&l.document);
    json_free(&l.config);
    spellings_free(&l.spellings);
    if (!ok) {
        tokenizer_free(t);
    }
    return ok;
}

// ------------------------------------------------------------------------------------------------
// Save

typedef struct {
    const char *name;
    void (*write)(JsonWriter *, const Tokenizer *); // NULL: always as it was loaded
} SavedFile_;

// The first is written as it was loaded, if it was.
static const SavedFile_ SAVED_GPT2_[] = {{"tokenizer.json", tokenizer_json_write},
                                         {"tokenizer_config.json", tokenizer_config_write_gpt2},
                                         {"vocab.json", vocab_json_write},
                                         {"merges.txt", merges_txt_write},
                                         {0}};
static const SavedFile_ SAVED_BYTE_BPE_[] = {{"tokenizer.json", tokenizer_json_write},
                                             {"tokenizer_config.json", tokenizer_config_write_fast},
                                             {0}};
static const SavedFile_ SAVED_JSON_[] = {
    {"tokenizer.json", NULL}, {"tokenizer_config.json", tokenizer_config_write_fast}, {0}};
static const SavedFile_ SAVED_MODEL_[] = {{"tokenizer.model", sentencepiece_write},
                                          {"tokenizer.json", sentencepiece_json_write},
                                          {"tokenizer_config.json", tokenizer_config_write_fast},
                                          {0}};

static inline const SavedFile_ *saved_files_(const Tokenizer *t) {
    if (t->pieces.sentencepiece) {
        return SAVED_MODEL_;
    }
    if (t->source) {
        return SAVED_JSON_;
    }
    return t->merges.ignore_merges || !t->pre_tokenizer.is_gpt2 ? SAVED_BYTE_BPE_ : SAVED_GPT2_;
}

// Writes the tokenizer into an existing directory, which tokenizer_load and
// AutoTokenizer.from_pretrained open as it is:
//
//   byte-level BPE  tokenizer.json, tokenizer_config.json and, if it is just GPT-2's kind,
//                   vocab.json and merges.txt
//   tokenizer.json  byte for byte as it was loaded if it is of another kind, and
//                   tokenizer_config.json
//   .model          tokenizer.model, byte for byte as it was loaded (or generated for a Unigram
//                   that training made), a tokenizer.json made from it, and tokenizer_config.json
//
// "ids_follow" in tokenizer_config.json says which file the ids follow. With a .model it is
// tokenizer.model: `tokenizers`, which reads the tokenizer.json, sums scores in double precision,
// matches byte and control pieces that occur in the text, and normalizes by grapheme clusters, so
// that some texts get other ids from it.
static inline bool tokenizer_save(const Tokenizer *t, const char *directory, Error *e) {
    const SavedFile_ *const first = saved_files_(t);
    bool ok = true;
    for (const SavedFile_ *file = first; file->name && ok; file++) {
        char path[PATH_LIMIT];
        JsonWriter w = {.indent = 2};
        if (file == first && t->source) {
            json_append(&w, t->source, t->source_length);
        } else {
            file->write(&w, t);
        }
        ok = path_format(path, e, "%s/%s", directory, file->name) &&
             (!w.failed || fail(e, "%s: out of memory to write it", path)) &&
             write_file(path, w.data, w.length, e);
        free(w.data);
    }
    return ok;
}

#endif
