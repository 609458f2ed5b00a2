// folder.h: the files of a tokenizer folder, as tokenizer_save writes it.
#ifndef TOKENIZERS_FOLDER_H
#define TOKENIZERS_FOLDER_H

#include "util/files.h"

// The files that a checkpoint copies from the folder of its tokenizer: all that tokenizer_save may
// write, and those that published models have besides.
static const char *const TOKENIZER_FILES[] = {
    "tokenizer.model",   "tokenizer.json",      "tokenizer_config.json",
    "vocab.json",        "merges.txt",          "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", NULL};

// Path of the file that determines the ids: tokenizer.model if the folder has one, else
// tokenizer.json. Its hash identifies the tokenizer in manifests and logs.
static inline bool tokenizer_main_file(char path[PATH_LIMIT], const char *directory, Error *e) {
    return path_format(path, e, "%s/tokenizer.model", directory) &&
           (!access(path, F_OK) || path_format(path, e, "%s/tokenizer.json", directory));
}

#endif
