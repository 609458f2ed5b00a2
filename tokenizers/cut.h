// cut.h: where a text may be cut so that its chunks, encoded one by one, give the same ids as the
// complete text.
#ifndef TOKENIZERS_CUT_H
#define TOKENIZERS_CUT_H

#include "tokenizers/model.h"

// ------------------------------------------------------------------------------------------------
// Byte-level BPE

// Safe is a place where the splitter may cut (splitter_may_cut) and normalization too, except
// beside an added token. Added tokens are found from left to right, so where none touches the
// cut, the same ones are found on both sides; where some absorb white space, none lies beside
// the cut.
static inline size_t cut_pretokens_(const Tokenizer *t, const char *text, size_t length) {
    for (size_t end = length; end > 0;) {
        size_t start = character_before(text, end), n, after = end;
        const int class = class_at(t->classes, text + start, text + end, &n);
        const bool broken = start + n != end; // not UTF-8
        end = start;
        if (after == length || broken ||
            !splitter_may_cut(&t->pre_tokenizer.splitter, text + start, text + after,
                              text + length)) {
            continue;
        }
        const int class_after = class_at(t->classes, text + after, text + length, &n);
        if (!(t->added.strips && (class == CLASS_SPACE || class_after == CLASS_SPACE)) &&
            normalizer_may_cut(&t->normalizer, t->classes, text + start, text + after,
                               text + length) &&
            !added_tokens_touch(&t->added, 0, text, length, after) &&
            !added_tokens_touch(&t->added, 1, text, length, after)) {
            return after;
        }
    }
    return 0;
}

// ------------------------------------------------------------------------------------------------
// Pieces

// True if no step of the tokenizer.json's normalization looks at this character, makes it, or takes
// it away.
static inline bool is_inert_(const Tokenizer *t, const char *text, size_t n) {
    const Metaspace *m = &t->pre_tokenizer.metaspace;
    size_t length;
    if (class_at(t->classes, text, text + n, &length) == CLASS_SPACE) {
        return false;
    }
    for (size_t i = 0; i < t->normalizer.count; i++) {
        const NormalizeStep *step = &t->normalizer.steps[i];
        if (memmem(step->pattern, step->pattern_length, text, length) ||
            memmem(step->content, step->content_length, text, length)) {
            return false;
        }
    }
    return !memmem(m->replacement, m->length, text, length);
}

// Normalizes text as a tokenizer.json says, with the replacements of Metaspace.
static inline bool normalize_chunk_(const Tokenizer *t, const char *text, size_t n, TextBuffer *out,
                                    TextBuffer *other, Error *e) {
    const Metaspace *m = &t->pre_tokenizer.metaspace;
    if (!normalizer_apply(&t->normalizer, t->classes, text, n, TEXT_NOT_FIRST | TEXT_NOT_LAST, out,
                          other, e)) {
        return false;
    }
    if (m->length == 0) {
        return true;
    }
    TextBuffer from = *out;
    other->length = 0;
    if (!text_append_replaced(other, from.data, from.length, " ", 1, m->replacement, m->length,
                              e)) {
        return false;
    }
    *out = *other, *other = from;
    return true;
}

// Normalizes text[begin .. n) as a tokenizer.json says and lists the places between two inert
// characters. No step changes an inert character or takes two neighbours apart, so the k-th of the
// text is the k-th of what it becomes. `restart`: an added token lies before the place.
static inline bool normalize_tail_(const Tokenizer *t, const char *text, size_t n, size_t begin,
                                   TextBuffer *out, TextBuffer *other, CutPlaces *cuts, Error *e) {
    if (!normalize_chunk_(t, text + begin, n - begin, out, other, e)) {
        return false;
    }
    size_t raw = begin, at = 0;
    bool after_inert = false, restart = true;
    while (raw < n) {
        size_t length = lead_byte_length(text + raw, n - raw);
        restart |= added_tokens_match(&t->added, 0, text + raw, n - raw) != NULL;
        if (!is_inert_(t, text + raw, n - raw)) {
            after_inert = false;
            raw += length;
            continue;
        }

        // The same character in the normalized text.
        while (at < out->length && !is_inert_(t, out->data + at, out->length - at)) {
            at += lead_byte_length(out->data + at, out->length - at);
        }
        if (at >= out->length) { // cannot be, by the above
            return true;
        }
        if (after_inert) {
            if (!cut_places_add(cuts, (CutPlace){raw, at, restart}, e)) {
                return false;
            }
            restart = false;
        }
        after_inert = true;
        raw += length;
        at += length;
    }
    return true;
}

// Whether the token that ends with this character, the last before a cut, must be a known one.
// Otherwise unknown characters on both sides would become one.
static inline bool ends_known_(const Vocabulary *v, const PieceModel *m, const char *text,
                               size_t at, size_t length) {
    size_t n;
    if (m->sentencepiece && m->byte_fallback) {
        return true;
    }
    int32_t id = vocabulary_find(v, text + at - length, length);
    const char *unknown = vocabulary_text(v, m->unknown, &n);
    return id >= 0 && id != m->unknown && v->tokens[id].kind != PIECE_UNUSED &&
           !(n <= at && !memcmp(text + at - n, unknown, n));
}

// Keeps the places that no piece lies across in any segmentation.
static inline void keep_places_between_pieces_(const Tokenizer *t, const TextBuffer *text,
                                               CutPlaces *cuts) {
    size_t reach = 0, kept = 0, next = 0, length = 0;
    size_t from = cuts->count ? cuts->places[0].normalized : 0; // no piece from before it is seen
    for (size_t at = from; next < cuts->count && at < text->length; at += length) {
        CutPlace *place = &cuts->places[next];
        if (at == place->normalized) {
            from = place->restart ? at : from;
            if (reach <= at && at - from > t->vocabulary.longest &&
                ends_known_(&t->vocabulary, &t->pieces, text->data, at, length)) {
                cuts->places[kept++] = *place;
            }
            next++;
        }

        const char *here = text->data + at;
        const AddedToken *a = added_tokens_match(&t->added, 1, here, text->length - at);
        bool open;
        size_t longest = trie_longest(&t->pieces.trie, here, text->length - at, &open);
        from = a ? at + a->length : from;
        reach = open ? SIZE_MAX : at + longest > reach ? at + longest : reach;
        length = lead_byte_length(here, text->length - at);
    }
    cuts->count = kept;
}

// Where the last `window` bytes of the text may be normalized by themselves.
static inline size_t window_begin_(const Tokenizer *t, const char *text, size_t length,
                                   size_t window) {
    size_t begin = length > window ? length - window : 0;
    while (begin > 0 && ((unsigned char)text[begin] & 0xC0) == 0x80) {
        begin--;
    }
    while (begin > 0 && !t->pieces.sentencepiece) { // between two inert characters
        size_t before = character_before(text, begin);
        if (is_inert_(t, text + before, length - before) &&
            is_inert_(t, text + begin, length - begin)) {
            break;
        }
        begin = before;
    }
    return begin;
}

// Safe is a place where normalization may be cut and that no piece lies across, whichever way the
// text before and after it is segmented, far enough after an added token. All ways through the
// lattice meet there, and no merge crosses it. (A sum of scores continues after the cut:
// UnigramScratch.score.)
static inline size_t cut_pieces_(const Tokenizer *t, const char *text, size_t length) {
    TextBuffer normalized = {0}, other = {0};
    CutPlaces cuts = {0};
    Error e;
    size_t cut = 0;
    // How a piece of kind PIECE_UNUSED is cut in two depends on the complete text.
    bool ok = !(t->pieces.has_unused && t->model == MODEL_PIECE_BPE) && !t->normalizer.has_forms;
    for (size_t window = 4096; ok && cut == 0; window *= 8) {
        size_t begin = window_begin_(t, text, length, window);
        cuts.count = 0;
        ok = t->pieces.sentencepiece
                 ? normalize_sentencepiece(&t->sentencepiece_normalizer, &t->pieces.user_symbols,
                                           text, length, TEXT_NOT_FIRST | TEXT_NOT_LAST,
                                           &normalized, &cuts, begin, &e)
                 : normalize_tail_(t, text, length, begin, &normalized, &other, &cuts, &e);
        if (!ok) {
            break;
        }

        keep_places_between_pieces_(t, &normalized, &cuts);
        while (cut == 0 && cuts.count) {
            CutPlace place = cuts.places[--cuts.count];
            if (!added_tokens_touch(&t->added, 0, text, length, place.raw) &&
                !added_tokens_touch(&t->added, 1, normalized.data, normalized.length,
                                    place.normalized)) {
                cut = place.raw;
            }
        }
        ok = begin > 0;
    }
    free(normalized.data);
    free(other.data);
    free(cuts.places);
    return cut;
}

// The largest position found such that text[0 .. cut) and text[cut ..), the latter with anything
// appended, give the same ids encoded apart (encoder_encode_chunk, one encoder) as together; 0 if
// there is none. `text` ends with a complete character; it may itself continue another.
static inline size_t tokenizer_safe_cut(const Tokenizer *t, const char *text, size_t length) {
    return t->model == MODEL_BYTE_BPE ? cut_pretokens_(t, text, length)
                                      : cut_pieces_(t, text, length);
}

#endif
