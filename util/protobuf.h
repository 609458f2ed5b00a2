// protobuf.h: the wire format of protocol buffers (protobuf.dev/programming-guides/encoding), for
// SentencePiece models and TensorBoard event files. The reader accepts untrusted input; the writer
// appends to a TextBuffer.
#ifndef UTIL_PROTOBUF_H
#define UTIL_PROTOBUF_H

#include "util/bytes.h"
#include "util/text.h"

// ------------------------------------------------------------------------------------------------
// Reader

typedef struct {
    const unsigned char *at, *end; // what is left of the message

    // The current field.
    uint32_t field;    // its number
    int wire;          // its wire type: 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes
    uint64_t number;   // value of types 0, 1 and 5
    const char *bytes; // value of type 2
    size_t length;     // of bytes

    bool damaged; // the message is malformed
} ProtobufReader;

static inline uint64_t protobuf_varint_(ProtobufReader *w) {
    uint64_t value = 0;
    for (int shift = 0; shift < 70; shift += 7) {
        if (w->at == w->end) {
            break;
        }
        unsigned char byte = *w->at++;
        value |= shift < 64 ? (uint64_t)(byte & 0x7F) << shift : 0;
        if (byte < 0x80) {
            return value;
        }
    }
    w->damaged = true;
    return 0;
}

// Reads the next field; false at the end of the message, or if it is malformed.
static inline bool protobuf_next(ProtobufReader *w) {
    if (w->at == w->end || w->damaged) {
        return false;
    }

    uint64_t tag = protobuf_varint_(w);
    w->field = (uint32_t)(tag >> 3);
    w->wire = (int)(tag & 7);
    w->damaged |= tag >> 3 == 0 || tag >> 3 > 0x1FFFFFFF || (w->wire > 2 && w->wire != 5);
    if (w->damaged) {
        return false;
    }

    if (w->wire == 0) {
        w->number = protobuf_varint_(w);
    } else if (w->wire == 2) {
        uint64_t length = protobuf_varint_(w);
        w->damaged |= length > (uint64_t)(w->end - w->at);
        if (!w->damaged) {
            w->bytes = (const char *)w->at;
            w->length = (size_t)length;
            w->at += length;
        }
    } else {
        const int size = w->wire == 1 ? 8 : 4;
        w->damaged = w->end - w->at < size;
        if (!w->damaged) {
            w->number = load_le(w->at, size);
            w->at += size;
        }
    }
    return !w->damaged;
}

// A reader of a message of `length` bytes.
static inline ProtobufReader protobuf_reader(const char *bytes, size_t length) {
    return (ProtobufReader){.at = (const unsigned char *)bytes,
                            .end = (const unsigned char *)bytes + length};
}

// ------------------------------------------------------------------------------------------------
// Writer

// Appends a varint without a tag.
static inline void protobuf_put_varint(TextBuffer *w, uint64_t value) {
    for (; value >= 0x80; value >>= 7) {
        text_put(w, &(char){(char)(value | 0x80)}, 1);
    }
    text_put(w, &(char){(char)value}, 1);
}

// Appends field `field` of an integer, enum or bool type.
static inline void protobuf_put_number(TextBuffer *w, unsigned field, int64_t value) {
    protobuf_put_varint(w, field << 3);
    protobuf_put_varint(w, (uint64_t)value);
}

static inline void protobuf_put_fixed_(TextBuffer *w, uint64_t bits, int bytes) {
    char raw[8];
    store_le(raw, bits, bytes);
    text_put(w, raw, (size_t)bytes);
}

// Appends field `field` of type float.
static inline void protobuf_put_float(TextBuffer *w, unsigned field, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    protobuf_put_varint(w, field << 3 | 5);
    protobuf_put_fixed_(w, bits, 4);
}

// Appends field `field` of type double.
static inline void protobuf_put_double(TextBuffer *w, unsigned field, double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    protobuf_put_varint(w, field << 3 | 1);
    protobuf_put_fixed_(w, bits, 8);
}

// Appends field `field` of type bytes or string.
static inline void protobuf_put_bytes(TextBuffer *w, unsigned field, const char *bytes,
                                      size_t length) {
    protobuf_put_varint(w, field << 3 | 2);
    protobuf_put_varint(w, length);
    text_put(w, bytes, length);
}

// Appends field `field`, which is a message, and empties the message.
static inline void protobuf_put_message(TextBuffer *w, unsigned field, TextBuffer *message) {
    protobuf_put_bytes(w, field, message->length ? message->data : "", message->length);
    w->failed |= message->failed;
    message->length = 0;
}

#endif
