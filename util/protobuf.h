// protobuf.h: the wire format of protocol buffers (protobuf.dev/programming-guides/encoding), as
// SentencePiece models and TensorBoard event files use it. The reader trusts nothing; the writer
// appends to a JsonWriter as a plain byte buffer.
#ifndef UTIL_PROTOBUF_H
#define UTIL_PROTOBUF_H

#include "util/json.h"

// ------------------------------------------------------------------------------------------------
// Reader

typedef struct {
    const unsigned char *at, *end;
    uint32_t field;
    int wire;        // type of the field just read: 0 number, 1 eight bytes, 2 bytes, 5 four bytes
    uint64_t number; // of types 0, 1 and 5
    const char *bytes; // of type 2, `length` of them
    size_t length;
    bool damaged;
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

// Reads the next field; false at the end, or if the message is damaged.
static inline bool protobuf_next(ProtobufReader *w) {
    if (w->at == w->end || w->damaged) {
        return false;
    }
    uint64_t tag = protobuf_varint_(w);
    w->field = (uint32_t)(tag >> 3);
    w->wire = (int)(tag & 7);
    size_t size = w->wire == 1 ? 8 : w->wire == 5 ? 4 : 0;
    w->damaged |= tag >> 3 == 0 || tag >> 3 > 0x1FFFFFFF || (w->wire > 2 && w->wire != 5);
    if (w->wire == 0 && !w->damaged) {
        w->number = protobuf_varint_(w);
    } else if (w->wire == 2 && !w->damaged) {
        uint64_t length = protobuf_varint_(w);
        w->damaged |= length > (uint64_t)(w->end - w->at);
        if (!w->damaged) {
            w->bytes = (const char *)w->at;
            w->length = (size_t)length;
            w->at += length;
        }
    } else if (!w->damaged) {
        w->damaged = (size_t)(w->end - w->at) < size;
        w->number = 0;
        for (size_t i = 0; i < size && !w->damaged; i++) {
            w->number |= (uint64_t)*w->at++ << 8 * i;
        }
    }
    return !w->damaged;
}

// A reader of the `length` bytes of a message.
static inline ProtobufReader protobuf_reader(const char *bytes, size_t length) {
    return (ProtobufReader){.at = (const unsigned char *)bytes,
                            .end = (const unsigned char *)bytes + length};
}

// ------------------------------------------------------------------------------------------------
// Writer

static inline void protobuf_put_varint(JsonWriter *w, uint64_t value) {
    for (; value >= 0x80; value >>= 7) {
        json_append(w, &(char){(char)(value | 0x80)}, 1);
    }
    json_append(w, &(char){(char)value}, 1);
}

static inline void protobuf_put_number(JsonWriter *w, unsigned field, int64_t value) {
    protobuf_put_varint(w, field << 3);
    protobuf_put_varint(w, (uint64_t)value);
}

static inline void protobuf_put_float(JsonWriter *w, unsigned field, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    protobuf_put_varint(w, field << 3 | 5);
    for (int shift = 0; shift < 32; shift += 8) {
        json_append(w, &(char){(char)(bits >> shift)}, 1);
    }
}

// Field `field` of type double.
static inline void protobuf_put_double(JsonWriter *w, unsigned field, double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    protobuf_put_varint(w, field << 3 | 1);
    for (int shift = 0; shift < 64; shift += 8) {
        json_append(w, &(char){(char)(bits >> shift)}, 1);
    }
}

static inline void protobuf_put_bytes(JsonWriter *w, unsigned field, const char *bytes,
                                      size_t length) {
    protobuf_put_varint(w, field << 3 | 2);
    protobuf_put_varint(w, length);
    json_append(w, bytes, length);
}

// Puts the message and empties it.
static inline void protobuf_put_message(JsonWriter *w, unsigned field, JsonWriter *message) {
    protobuf_put_bytes(w, field, message->length ? message->data : "", message->length);
    w->failed |= message->failed;
    message->length = 0;
}

#endif
