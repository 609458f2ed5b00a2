// train.h: makes a tokenizer from text: byte-level BPE, or a Unigram language model with byte
// fallback in the files of SentencePiece and of Hugging Face `tokenizers`.
//
//     TokenizerTrainer trainer;
//     trainer_init(&trainer, &e);                       // or trainer_init_unigram
//     trainer_add(&trainer, text, n, &e);
//     trainer_finish(&trainer, 32000, &tokenizer, &e);  // or trainer_finish_unigram
//     trainer_free(&trainer);
#ifndef TOKENIZERS_TRAIN_H
#define TOKENIZERS_TRAIN_H

#include "tokenizers/train_bpe.h"
#include "tokenizers/train_unigram.h"

#endif
